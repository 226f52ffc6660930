"""VQ-VAE, QLAE and the baselines: what codes promise, what trains, what is measured, bad input."""

import lightning as L
import pytest
import torch

import zoo
from zoo.data.factors import FactorData
from zoo.data.synthetic import RandomImages
from zoo.families.vq.lit import LitVQ, LitVQGAN
from zoo.families.vq.model import VQVAE
from zoo.families.vq.qlae import LatentAutoencoder, kl_divergence
from zoo.families.vq.usage import CodebookUsage
from zoo.metrics.infomec import infomec
from zoo.train import optim
from zoo.train.adversarial import adaptive_weight

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
    out = model(torch.rand(2, *model.takes.shape))
    assert out.recon.shape == (2, *model.takes.shape)
    assert out.indices.shape[1:] == tuple(s // 2**downsamplings for s in model.takes.shape[1:])


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
    assert model.encode(images).shape == (3, 5)
    assert model.encode(images).is_floating_point() == (model.quantizer is None)
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
        run = trainer(max_epochs=1, limit_val_batches=0)
        run.fit(lit, data)
        (found,) = run.test(lit, data, verbose=False)
        assert {"test/infom", "test/infoe", "test/infoc"} <= found.keys()
        assert all(v == v for v in found.values())


def test_latents_are_scored_in_full_precision():
    data = FactorData(image_size=32, num_images=64, num_test=64, batch_size=32)
    lit = LitVQ("ae_conv", arch_args={"image_size": 32}, lr=1e-3)
    (found,) = trainer(precision="bf16-mixed").test(lit, data, verbose=False)
    batches = [data.on_after_batch_transfer(b, 0) for b in data.test_dataloader()]
    latents, factors = (torch.cat(parts) for parts in zip(*((lit.model.eval().encode(x), y) for x, y in batches)))
    scores = infomec(latents, factors, discrete=False)
    assert abs(found["test/infom"] - scores.infom) < 1e-4
    assert abs(found["test/infoc"] - scores.infoc) < 1e-4


def test_known_factors_say_nothing_of_a_map_of_codes():
    data = FactorData(image_size=16, num_images=64, num_test=64, batch_size=32)
    (found,) = trainer().test(LitVQ("vqvae_conv_small", arch_args=TINY, lr=1e-3), data, verbose=False)
    assert "test/infom" not in found


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


# Against a discriminator

GAN = {"image_size": 32, "width": 32, "mults": (1, 2), "attention": (), "res_blocks": 1, "z_channels": 8}
GAN |= {"codebook_size": 16, "code_dim": 4}


def gan(**args) -> LitVQGAN:
    L.seed_everything(0, verbose=False)
    settings = {"lr": 1e-3, "perceptual_weight": 0.0, "disc_start": 0, "disc_warmup": 0}
    return LitVQGAN("vqgan_f16", arch_args=GAN, **settings | args)


def images(count: int = 32, batch_size: int = 8) -> RandomImages:
    return RandomImages((3, 32, 32), count, batch_size)


def test_the_discriminator_waits_and_learns_before_it_counts():
    lit = gan(disc_start=3, disc_warmup=1)
    seen = []

    class Watch(L.Callback):
        def on_train_batch_start(self, *_):
            self.before = [p.clone() for p in lit.discriminator.parameters()]

        def on_train_batch_end(self, trainer, *_):
            moved = any(not torch.equal(a, b) for a, b in zip(self.before, lit.discriminator.parameters()))
            seen.append((moved, "train/generator" in trainer.callback_metrics))

    trainer(max_epochs=1, limit_val_batches=0, callbacks=[Watch()]).fit(lit, images())
    assert [m for m, _ in seen] == [False, False, True, True]
    assert lit.steps == 4
    assert seen[-1][1]
    assert not seen[2][1]


def test_neither_gradient_reaches_the_other_network():
    lit = gan()
    reached = []

    class Watch(L.Callback):
        def on_after_backward(self, trainer, module):
            reached.append(
                [
                    any(p.grad is not None and p.grad.any() for p in m.parameters())
                    for m in (lit.model, lit.discriminator)
                ]
            )

    trainer(max_steps=2, limit_val_batches=0, callbacks=[Watch()]).fit(lit, images(8))
    assert reached == [[True, False], [True, True]]


def test_accumulated_batches_are_the_large_batch():
    found = []

    class Watch(L.Callback):
        def on_before_optimizer_step(self, trainer, module, optimizer):
            found[-1].append([p.grad.clone() for group in optimizer.param_groups for p in group["params"]])

    for batch_size, accumulate in ((16, 1), (4, 4)):
        lit = gan(accumulate=accumulate, adaptive=False)
        for module in lit.discriminator.modules():  # the statistics of a batch are those of that batch
            if isinstance(module, torch.nn.BatchNorm2d):
                module.forward = lambda x, norm=module: x * norm.weight[:, None, None] + norm.bias[:, None, None]
        found.append([])
        trainer(max_epochs=1, limit_val_batches=0, callbacks=[Watch()]).fit(lit, images(16, batch_size))
        assert lit.steps == 1
    assert len(found[0]) == len(found[1]) == 2
    for large, small in zip(*found):
        for a, b in zip(large, small):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5 * a.abs().max().item() + 1e-8)


def test_the_adaptive_weight_balances_gradients_at_the_last_layer():
    last = torch.nn.Parameter(torch.randn(5))
    x = torch.randn(5)
    weight = adaptive_weight(3 * (last * x).sum(), (last * x).sum(), last)
    assert torch.allclose(weight, torch.tensor(3.0), rtol=1e-3)
    assert not weight.requires_grad
    assert adaptive_weight(1e6 * (last * x).sum(), 0 * (last * x).sum(), last, 10.0) == 10


def test_a_run_goes_on_with_its_count_of_steps(tmp_path):
    lit = gan(disc_start=5)
    run = L.Trainer(
        max_epochs=1, limit_val_batches=0, logger=False, default_root_dir=tmp_path, enable_progress_bar=False
    )
    run.fit(lit, images())
    run.save_checkpoint(tmp_path / "x.ckpt")
    again = gan(disc_start=5)
    more = trainer(max_epochs=2, limit_val_batches=0)
    more.fit(again, images(), ckpt_path=tmp_path / "x.ckpt")
    assert again.steps == 8
    exported = zoo.load(str(zoo.export(tmp_path / "x.ckpt", tmp_path / "out")))
    assert all(torch.equal(v, lit.model.state_dict()[k]) for k, v in exported.state_dict().items())


def test_a_missing_vgg_is_explained(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", lambda *a, **k: (_ for _ in ()).throw(OSError("no network")))
    with pytest.raises(ValueError, match=r"VGG-16, which cannot be had: no network.*perceptual_weight to 0"):
        gan(perceptual_weight=1.0)


def test_a_model_of_factors_is_measured_on_scenes_unless_told():
    from zoo.report import figures as report

    assert report.sample(zoo.load("qlae_conv.rendered")) == "rendered"
