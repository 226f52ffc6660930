"""VQ-VAE, QLAE and the baselines: what codes promise, what trains, what is measured, bad input."""

import lightning as L
import pytest
import torch

import zoo
from zoo import optim
from zoo.data.factors import FactorData
from zoo.data.synthetic import RandomImages
from zoo.vq.lit import LitVQ
from zoo.vq.model import VQVAE, LatentAutoencoder, kl_divergence
from zoo.vq.usage import CodebookUsage

TINY = {"image_size": 16, "width": 16, "res_blocks": 1, "res_width": 8, "codebook_size": 32, "code_dim": 6}
QUANTIZERS = (
    ("vq", {}),
    ("vq", {"metric": "cosine", "gradient": "rotation"}),
    ("fsq", {"levels": [5, 5]}),
    ("lfq", {}),
    ("bsq", {}),
)


@pytest.mark.parametrize(("quantizer", "args"), QUANTIZERS)
def test_codes_are_the_whole_picture(quantizer, args):
    model = VQVAE(**TINY, quantizer=quantizer, quantizer_args=args).eval()
    images = torch.rand(3, 3, 16, 16)
    codes = model.encode(images)
    assert codes.shape == (3, 4, 4)
    assert codes.dtype == torch.int64
    assert torch.equal(model(images).indices, codes)
    assert torch.equal(model(images).recon.clamp(0, 1), model.decode(codes))
    assert torch.equal(model.reconstruct(images), model.decode(codes))
    assert model.forward_features(images).shape == (3, model.quantizer.code_dim, 4, 4)


@pytest.mark.parametrize("size", [(16, 1), (16, 3), ((16, 24), 2)])
def test_other_depths_and_shapes(size):
    image_size, downsamplings = size
    model = VQVAE(**TINY | {"image_size": image_size, "downsamplings": downsamplings})
    out = model(torch.rand(2, *model.input_shape))
    assert out.recon.shape == (2, *model.input_shape)
    assert out.indices.shape[1:] == tuple(s // 2**downsamplings for s in model.input_shape[1:])


def test_the_loss_is_the_papers():
    model = VQVAE(**TINY, variance=0.05)
    images = torch.rand(4, 3, 16, 16)
    out = model(images)
    assert torch.allclose(out.losses["reconstruction"], (out.recon - images).square().mean() / 0.05)
    assert torch.allclose(out.loss, sum(out.losses.values()))


@pytest.mark.parametrize("bottleneck", ["qlae", "none", "vae", "vq"])
def test_latents_are_the_whole_picture(bottleneck):
    model = LatentAutoencoder(32, latents=5, bottleneck=bottleneck).eval()
    images = torch.rand(3, 3, 32, 32)
    latents = model.forward_features(images)
    assert latents.shape == (3, 5 * 64 if bottleneck == "vq" else 5)
    assert torch.equal(model.reconstruct(images), model.decode(latents))
    assert torch.equal(model(images).recon, model.decode(latents))
    if model.quantizer is None:
        with pytest.raises(ValueError, match="has no codes"):
            model.encode(images)
    else:
        assert model.encode(images).shape == (3, 5)
        assert torch.allclose(model.decode(model.encode(images)), model.decode(latents), atol=1e-6)


def test_the_divergence_is_torchs():
    mean, log_variance = torch.randn(7, 4), torch.randn(7, 4)
    normal = torch.distributions.Normal(mean, (log_variance / 2).exp())
    expected = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(1).mean()
    assert torch.allclose(kl_divergence(mean, log_variance), expected, rtol=1e-5)


def test_qlaes_decay_spares_values_and_biases_and_takes_norms():
    lit = LitVQ("qlae_conv", arch_args={"image_size": 32}, lr=1e-3, weight_decay=0.1)
    names = {id(p): n for n, p in lit.model.named_parameters()}
    decayed, kept = ({names[id(p)] for p in g["params"]} for g in optim.decay_groups(lit.model, 0.1))
    assert "constant" in decayed
    assert "encoder.1.weight" in decayed
    assert "encoder.1.bias" in kept
    assert "quantizer.values" in kept
    assert all(n.endswith(("bias", "values")) for n in kept)


def trainer(**args) -> L.Trainer:
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    return L.Trainer(accelerator="cpu", **dict.fromkeys(quiet, False), **args)


@pytest.mark.parametrize(("quantizer", "args"), QUANTIZERS[:3])
def test_training_learns_and_measures_the_codebook(quantizer, args):
    L.seed_everything(0, verbose=False)
    data = RandomImages((3, 16, 16), 512, 64)
    lit = LitVQ("vqvae_conv_small", arch_args=TINY | {"quantizer": quantizer, "quantizer_args": args}, lr=3e-3)
    run = trainer(max_epochs=4)
    (before,) = run.test(lit, data, verbose=False)
    run.fit(lit, data)
    (after,) = run.test(lit, data, verbose=False)
    assert after["test/error"] < 0.75 * before["test/error"]
    assert 0 < after["test/usage"] <= 1
    assert 1 <= after["test/perplexity"] <= lit.model.quantizer.codebook_size


def test_accumulated_batches_update_the_codebook_once():
    data = RandomImages((3, 16, 16), 256, 32)
    lit = LitVQ("vqvae_conv_small", arch_args=TINY, lr=1e-3)
    trainer(max_epochs=1, accumulate_grad_batches=4, limit_val_batches=0).fit(lit, data)
    assert lit.model.quantizer.steps == 2


def test_known_factors_are_scored():
    data = FactorData(image_size=32, num_images=64, num_test=64, batch_size=32)
    for arch in ("qlae_conv", "vae_conv"):
        lit = LitVQ(arch, arch_args={"image_size": 32}, lr=1e-3, weight_decay=0.1, clip=1.0)
        run = trainer(max_epochs=1)
        run.fit(lit, data)
        (found,) = run.test(lit, data, verbose=False)
        assert {"test/infom", "test/infoe", "test/infoc"} <= found.keys()
        assert all(v == v for v in found.values())


def test_usage_over_an_epoch_does_not_depend_on_the_batch_size():
    indices = torch.randint(20, (600, 3), generator=torch.Generator().manual_seed(0))
    indices[::7] = -1
    figures = []
    for size in (7, 600):
        usage = CodebookUsage(32, num_codebooks=3)
        for part in indices.split(size):
            usage.update(part)
        figures.append(usage.compute())
    assert figures[0] == figures[1]
    assert figures[0]["usage"] == 20 / 32
    assert figures[0]["dead"] == 12
    assert 19 < figures[0]["perplexity"] < 20
    with pytest.raises(ValueError, match="indices span 32 to 32"):
        CodebookUsage(32).update(torch.tensor([32]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: zoo.create("vqvae_conv_small", image_size=30), "image_size=30 does not halve 2 times"),
        (lambda: zoo.create("vqvae_conv_small", quantizer="gumbel"), "quantizer='gumbel', allowed vq, fsq, lfq, bsq"),
        (lambda: zoo.create("qlae_conv", bottleneck="qale"), "bottleneck='qale', allowed qlae"),
        (lambda: zoo.create("qlae_conv", image_size=20), "a multiple of 16"),
        (lambda: VQVAE(**TINY)(torch.rand(2, 3, 20, 20)), "20×20 px, this model takes 16×16"),
        (lambda: VQVAE(**TINY).eval()(torch.full((2, 3, 16, 16), 2.0)), r"expected \[0, 1\]"),
        (lambda: VQVAE(**TINY).decode(torch.full((1, 4, 4), 32)), "span 32 to 32, allowed 0 to 31"),
    ],
)
def test_bad_input_is_refused_with_its_message(make, message):
    with pytest.raises(ValueError, match=message):
        make()
