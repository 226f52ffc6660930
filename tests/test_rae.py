"""RAE and DiT^DH: encoders by name, decoders and their training, the flow and its guidance, distances, bad input."""

import copy
import json
from pathlib import Path

import lightning as L
import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from test_pictures import encoded
from torch import nn
from torch.nn import functional as F

import zoo
from zoo import cli, hub
from zoo.data import sharding
from zoo.data.images import ImageData
from zoo.data.latents import ImageLatentData, LatentData, measure, write
from zoo.data.readers import SAMPLES
from zoo.data.synthetic import RandomImages
from zoo.families.rae import encoder as encoders
from zoo.families.rae.dit import DiTDH
from zoo.families.rae.lit import LitDiT, LitRAE
from zoo.families.rae.model import RAE
from zoo.hub import foreign
from zoo.report import distances
from zoo.train import adversarial

NARROW = {"dim": 32, "depth": 1, "heads": 2, "hidden": 64}
FLOW = {"latent_channels": 12, "grid": 4, "num_classes": 10, "dim": (32, 48), "depth": (2, 2), "heads": (2, 3)}
QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


def narrow(**args) -> RAE:
    torch.manual_seed(0)
    return zoo.create("rae_mae_vit_tiny", **NARROW | args)


def images(count: int = 4) -> torch.Tensor:
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def flow(**args) -> DiTDH:
    """A small transformer whose every number is a sine."""
    model = DiTDH(**FLOW | args).double().eval()
    named = dict(model.named_parameters()) | {"t_embedder.W": model.t_embedder.W}
    with torch.no_grad():
        for i, (_, p) in enumerate(sorted(named.items())):
            p.copy_(0.3 * torch.sin(0.7 * torch.arange(p.numel(), dtype=torch.double) + i).reshape(p.shape))
    return model


def noise(count: int = 2) -> torch.Tensor:
    return torch.sin(torch.arange(count * 12 * 16, dtype=torch.double)).reshape(count, 12, 4, 4)


# The autoencoder


@pytest.mark.parametrize(
    ("arch", "count"),
    [("ditdh_s", 196_455_764), ("ditdh_xl", 838_675_796)],
)
def test_transformers_hold_as_many_numbers_as_the_released(arch, count):
    with torch.device("meta"):
        model = zoo.create(arch)
    assert sum(t.numel() for t in model.state_dict().values()) == count


def test_every_token_of_an_encoder_has_mean_0_and_variance_1():
    z = narrow().encode(images())
    assert z.shape == (4, 192, 8, 8)
    torch.testing.assert_close(z.mean(1), torch.zeros(4, 8, 8), rtol=0, atol=1e-5)
    torch.testing.assert_close(z.var(1, correction=0), torch.ones(4, 8, 8), rtol=0, atol=1e-3)


def test_the_last_norms_scale_and_shift_do_not_count():
    encoder = encoders.load("mae_vit_tiny.tiny_imagenet")
    before = encoder(images())
    nn.init.normal_(encoder.vit.norm.weight)
    nn.init.normal_(encoder.vit.norm.bias)
    torch.testing.assert_close(encoder(images()), before)


def test_layers_are_normalised_and_summed():
    one, three = (encoders.load("mae_vit_tiny.tiny_imagenet", layers=k)(images()) for k in (1, 3))
    maps = encoders.load("mae_vit_tiny.tiny_imagenet").vit.forward_intermediates(images(), 3)
    torch.testing.assert_close(three, sum(encoders.normalised(m, 1e-6) for m in maps))
    torch.testing.assert_close(one, encoders.normalised(maps[-1], 1e-6))


def test_an_encoder_sees_images_of_its_own_size():
    grey = (0.5,) * 3
    encoder = encoders.FrozenEncoder(encoders.create_timm("timm:vit_tiny_patch16_224", 32), 32, grey, grey)
    assert encoder(images()).shape == (4, 192, 2, 2)
    tokens = encoder.vit.forward_features((torch.nn.functional.interpolate(images(), 32, mode="bicubic") - 0.5) / 0.5)
    encoder.vit.norm = nn.LayerNorm(192, 1e-6, elementwise_affine=False)
    torch.testing.assert_close(encoder(images()).flatten(2).mT, tokens[:, 1:], rtol=0, atol=1e-4)


def test_the_encoder_is_in_no_state_dict_and_no_copy():
    model = narrow()
    model.encode(images())
    assert all(
        k.startswith("decoder.") or k in ("latent_mean", "latent_std", "mean", "std") for k in model.state_dict()
    )
    assert copy.deepcopy(model).encoder is model.encoder
    assert not any(p.requires_grad for p in model.encoder.parameters())


@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_noise_is_of_each_sample_and_of_training_alone(kind):
    model = narrow(noise=0.5, noise_kind=kind)
    z = torch.zeros(4096, 192, 8, 8)[:, :, :1, :1]
    sigma = (model.add_noise(z) - z).flatten(1).std(1)
    expected = 0.25 if kind == "uniform" else 0.5 * (2 / torch.pi) ** 0.5
    assert sigma.mean().item() == pytest.approx(expected, rel=0.05)
    assert sigma.std() > 0.1
    model.eval()
    assert torch.equal(model(images()).recon, model(images()).recon)
    assert not torch.equal(model.train()(images()).recon, model(images()).recon)


def test_statistics_are_exact_and_normalise(tmp_path):
    model, data = narrow(), ImageData(str(SAMPLES / "sprites"), 64, 3, limit=200)
    assert not model.measured
    measure(model, data, 50)
    z = torch.cat([model.encode(data.on_after_batch_transfer(b, 0)[0]) for b in data.in_order("train", 64)])
    torch.testing.assert_close(model.latent_mean, z.double().mean(0).float())
    torch.testing.assert_close(model.latent_std, z.double().std(0, correction=0).float())
    torch.testing.assert_close(model.denormalise(model.normalise(z)), z, rtol=0, atol=1e-5)
    assert zoo.load(str(zoo.save(model, tmp_path))).measured


def test_a_decoder_learns_and_what_it_leaves_is_its_average(tmp_path):
    lit = LitRAE("rae_mae_vit_tiny", arch_args=NARROW, lr=3e-3, perceptual_weight=0, disc_weight=0, ema=0.9)
    before = lit.model.decoder(torch.zeros(1, 192, 8, 8)).detach()
    data = ImageData(str(SAMPLES / "sprites"), 64, 3, batch_size=20, limit=400)
    trainer = L.Trainer(max_epochs=1, limit_val_batches=2, num_sanity_val_steps=0, accelerator="cpu", **QUIET)
    (untrained,) = trainer.validate(lit, data, verbose=False)
    trainer.fit(lit, data)
    (trained,) = trainer.validate(lit, data, verbose=False)
    assert trained["val/loss"] < 0.8 * untrained["val/loss"]
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    loaded = zoo.load(str(tmp_path / "a.ckpt"))
    assert torch.equal(loaded.decoder.head.weight, lit.average.module.decoder.head.weight)
    assert not torch.equal(loaded.decoder.head.weight, lit.model.decoder.head.weight)
    assert not torch.equal(loaded.decoder(torch.zeros(1, 192, 8, 8)), before)
    assert loaded.measured
    assert len(loaded.zoo_config["args"]["encoder_hash"]) == 16
    assert not [k for k in lit.state_dict() if "encoder" in k]


def adversarial_steps(batch_size: int, accumulate: int, steps: int = 2, precision="64-true", **args) -> LitRAE:
    torch.manual_seed(0)
    lit = LitRAE(
        "rae_mae_vit_tiny",
        arch_args=args.pop("arch_args", NARROW | {"noise": 0.0}),
        lr=1e-3,
        warmup_epochs=0,
        perceptual_weight=0,
        disc_start=0,
        disc_warmup=0,
        disc_backbone="mae_vit_tiny.tiny_imagenet",
        accumulate=accumulate,
        **({"disc_weight": 0.75} | args),
    )
    data = RandomImages((3, 64, 64), num_images=8 * steps, batch_size=batch_size, seed=0)
    trainer = L.Trainer(max_epochs=1, limit_val_batches=0, accelerator="cpu", precision=precision, **QUIET)
    trainer.fit(lit, data)
    return lit


def test_accumulated_batches_equal_a_large_one(monkeypatch):
    # What is drawn, spectral norms' iterations and λ are of a batch: without them, both are the same mathematics.
    monkeypatch.setattr(adversarial, "differentiable_augment", lambda x: x)
    monkeypatch.setattr(adversarial, "adaptive_weight", lambda *args: torch.tensor(0.5))
    monkeypatch.setattr(adversarial, "_spectral", plain := lambda a, b, k: nn.Conv1d(a, b, k, padding=k // 2))
    monkeypatch.setattr(nn.utils.parametrizations, "spectral_norm", lambda conv: conv)
    assert plain(2, 2, 1)
    whole, parts = adversarial_steps(8, 1, steps=1), adversarial_steps(4, 2, steps=1)
    for a, b in zip(whole.model.parameters(), parts.model.parameters()):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)
    for a, b in zip(whole.discriminator.parameters(), parts.discriminator.parameters()):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)
    assert whole.steps == parts.steps == 1


def test_neither_gradient_reaches_the_other_network(monkeypatch):
    seen = []
    backward = LitRAE.manual_backward

    def spy(self, loss):
        ours = [p.grad.clone() for p in self.model.parameters() if p.grad is not None]
        theirs = [p.grad.clone() for p in self.discriminator.parameters() if p.grad is not None]
        backward(self, loss)
        now = [p.grad for p in self.model.parameters() if p.grad is not None]
        then = [p.grad for p in self.discriminator.parameters() if p.grad is not None]
        same = len(ours) == len(now) and all(map(torch.equal, ours, now))
        seen.append((same, len(theirs) == len(then) and all(map(torch.equal, theirs, then))))

    monkeypatch.setattr(LitRAE, "manual_backward", spy)
    lit = adversarial_steps(8, 1, steps=1)
    assert seen == [(False, True), (True, False)]  # the model's step leaves the discriminator alone, and the reverse
    assert all(p.grad is None for p in lit.backbone().parameters())
    assert not [k for k in lit.state_dict() if k.startswith("backbone")]


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed"])
def test_the_discriminator_learns_from_what_the_decoder_makes_after_its_step_without_noise(precision, monkeypatch):
    """As train_stage1.py does; L1 is of pixels in [0, 1]."""
    seen, decoders, first = [], [], []
    step, l1 = LitRAE._step, F.l1_loss

    def stepped(self, number, network, clip):
        step(self, number, network, clip)
        decoders.append({k: v.clone() for k, v in self.model.state_dict().items()})

    monkeypatch.setattr(LitRAE, "_step", stepped)
    monkeypatch.setattr(F, "l1_loss", lambda a, b: first.append((a.detach(), b, l1(a, b))) or first[-1][2])
    monkeypatch.setattr(adversarial, "differentiable_augment", lambda x: seen.append(x.detach()) or x)
    lit = adversarial_steps(8, 1, 1, precision, arch_args=NARROW | {"noise": 0.8}, disc_weight=1e-3)
    ((recon, x, loss),) = first
    assert 0 <= x.min() < x.max() <= 1
    torch.testing.assert_close(loss, (recon - x).abs().mean())
    for_model, real, fake = seen
    torch.testing.assert_close(for_model, 2 * recon - 1)
    assert lit.model.load_state_dict(decoders[0])
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
        made = (2 * lit.model.decode_unclamped(lit.model.encode(x)) - 1).clamp(-1, 1)
    rounding = 1e-6 if precision == "64-true" else 2**-9
    assert (fake - made).abs().max() <= 1 / 255 + rounding  # as a file would hold it
    assert (fake - for_model).abs().max() > 0.01
    assert (real - (2 * x - 1)).abs().max() <= 1 / 255 + 1e-6


def test_the_encoder_runs_once_a_step(monkeypatch):
    calls = []
    encode = RAE.encode
    monkeypatch.setattr(RAE, "encode", lambda self, x: calls.append(len(x)) or encode(self, x))
    adversarial_steps(8, 1, steps=2)
    assert calls == [8, 8]


@pytest.mark.parametrize(("time", "unshifted"), [("logit_normal", 0.5), ("uniform", 0.4995)])
def test_times_of_training_end_before_pure_noise(time, unshifted, monkeypatch):
    """Logit-normal times are cut off at 0.999 and not scaled by it (transport.py, `truncated_logitnormal_sample`)."""
    model = zoo.create("ditdh_tiny", dim=[32, 48], depth=[1, 1], heads=[2, 3], shift=1.0, time=time)
    monkeypatch.setattr(torch, "randn", lambda *args, **kwargs: torch.zeros(*args))
    monkeypatch.setattr(torch, "rand", lambda *args, **kwargs: torch.full(args, 0.5))
    assert model.draw(torch.empty(3, *model.takes.shape))[0].tolist() == pytest.approx([unshifted] * 3)
    monkeypatch.setattr(torch, "randn", lambda *args, **kwargs: torch.full(args, 99.0))
    monkeypatch.setattr(torch, "rand", lambda *args, **kwargs: torch.ones(args))
    assert model.draw(torch.empty(3, *model.takes.shape))[0].tolist() == pytest.approx([0.999] * 3)


def test_augmentation_lets_gradients_through_and_moves_images():
    x = (2 * images() - 1).requires_grad_()
    y = adversarial.differentiable_augment(x)
    y.sum().backward()
    assert y.shape == x.shape
    assert (x.grad != 0).float().mean() > 0.7
    torch.manual_seed(0)
    assert not torch.equal(adversarial.differentiable_augment(x), y)


# Cached tokens


@pytest.fixture(scope="module")
def cached(tmp_path_factory, sprites) -> tuple[str, str]:
    """A checkpoint with statistics, and a folder of latents that it wrote, mirrored ones among them."""
    folder = tmp_path_factory.mktemp("rae")
    model, data = narrow(), ImageData(sprites, 64, 3)
    measure(model, data)
    return str(zoo.save(model, folder / "model")), str(write(model, data, folder / "latents", flip=True))


def test_cached_tokens_come_with_their_images(cached):
    checkpoint, folder = cached
    model = zoo.load(checkpoint)
    data = ImageLatentData(folder, batch_size=32, encoder=checkpoint)
    data.setup()
    seen = 0
    for batch in data.train_dataloader():
        (x, z), y = data.on_after_batch_transfer(batch, 0)
        torch.testing.assert_close(model.encode(x), z, rtol=0, atol=5e-3)  # float16 on disk
        seen += len(y)
        if seen > 200:
            break
    (x, z), y = data.on_after_batch_transfer(next(iter(data.test_dataloader())), 0)
    assert torch.equal(y, labels_of(folder)[: len(y)])


def labels_of(folder: str) -> torch.Tensor:
    data = LatentData(folder)
    data.setup()
    return data.splits["test"][1]


def test_training_on_cached_tokens_is_training_on_images(cached):
    checkpoint, folder = cached
    lit = LitRAE.from_weights(checkpoint, lr=1e-3, perceptual_weight=0, disc_weight=0, warmup_epochs=0)
    trainer = L.Trainer(max_steps=3, limit_val_batches=1, num_sanity_val_steps=0, accelerator="cpu", **QUIET)
    trainer.fit(lit, ImageLatentData(folder, batch_size=32))
    assert lit.steps == 3


def test_validate_prints_what_a_batch_of_images_and_latents_holds(cached, tmp_path, capsys):
    checkpoint, folder = cached
    (tmp_path / "mine.yaml").write_text(
        f"""
model:
  class_path: zoo.LitRAE
  init_args: {{arch: rae_mae_vit_tiny, weights: {checkpoint}, lr: 1.0e-3, perceptual_weight: 0, disc_weight: 0}}
data:
  class_path: zoo.ImageLatentData
  init_args: {{folder: {folder}, batch_size: 8}}
trainer: {{max_epochs: 1}}
"""
    )
    assert cli.main(["validate", str(tmp_path / "mine.yaml"), "--trainer.enable_model_summary", "false"]) == 0
    out = capsys.readouterr().out
    assert "images      (8, 3, 64, 64) torch.float32 in [0" in out
    assert "others      (8, 192, 8, 8) torch.float32 in [" in out
    assert "labels      (8,) torch.int64 in [" in out
    assert "8 images an optimiser step" in out


def test_cached_tokens_of_a_table_come_with_its_images_whichever_column_held_the_labels(tmp_path):
    png = encoded(np.zeros((64, 64, 3), np.uint8))
    for split in ("train", "test"):
        table = pa.table({"image": [{"bytes": png}] * 6, "coarse": [0, 1] * 3, "label": [0, 1, 2] * 2})
        parquet.write_table(table, tmp_path / f"{split}-00000-of-00001.parquet")
    model, data = narrow(), ImageData(str(tmp_path), 64, 3, label_column="coarse")
    measure(model, data)
    both = ImageLatentData(str(write(model, data, tmp_path / "latents")), batch_size=6)
    both.setup()
    _, y = both.on_after_batch_transfer(next(iter(both.test_dataloader())), 0)
    assert y.tolist() == [0, 1] * 3


def test_images_that_are_read_as_a_stream_are_refused(cached, sprites, tmp_path):
    list(sharding.write(sprites, tmp_path))
    with pytest.raises(ValueError, match="is a stream, whose images have no numbers"):
        ImageLatentData(cached[1], f"shards:{tmp_path}").setup()


def test_latents_of_another_encoder_are_refused(cached, tmp_path):
    checkpoint, folder = cached
    other = zoo.load(checkpoint)
    nn.init.normal_(other.decoder.head.weight)
    zoo.save(other, tmp_path / "other")
    with pytest.raises(ValueError, match="whose tensors are not those of"):
        LatentData(folder, encoder=str(tmp_path / "other"))
    lit = LitDiT("ditdh_tiny", str(tmp_path / "other"), num_classes=0, arch_args={"depth": [1, 1]}, lr=1e-3)
    with pytest.raises(ValueError, match="write them again with `zoo latents`"):
        L.Trainer(max_steps=1, accelerator="cpu", **QUIET).fit(lit, LatentData(folder))


def test_a_folder_without_statistics_is_refused(cached, tmp_path):
    config = json.loads(Path(cached[1], "config.json").read_text())
    del config["mean"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="no statistics"):
        LatentData(str(tmp_path))
    with pytest.raises(ValueError, match="--measure"):
        write(narrow(), ImageData(str(SAMPLES / "sprites"), 64, 3), tmp_path / "latents")


# The flow


def test_velocities_are_the_authors():
    # What their code (bytetriper/RAE, a4d18c4) prints for the same numbers in float64.
    wanted = [-2.37709680018, -2.34876484587, -2.42326319547, -2.51260387958]
    wanted += [-0.564273888352, -0.554470261239, -0.543068310542, -0.548439227014]
    found = flow().velocity(noise(), torch.tensor([0.2, 0.9], dtype=torch.double), torch.tensor([3, -1])).flatten()
    torch.testing.assert_close(
        torch.cat([found[:4], found[-4:]]), torch.tensor(wanted, dtype=torch.double), rtol=0, atol=1e-9
    )


def test_norms_of_queries_and_keys_bound_the_scores():
    model = flow(qk_norm=True)
    attention = model.blocks[0].attn
    for norm in (attention.q_norm, attention.k_norm):
        nn.init.ones_(norm.weight)
    with torch.no_grad():
        attention.qkv.weight[:64] *= 100  # queries and keys: their size is gone after the norms
        large = model.velocity(noise(), torch.tensor([0.2, 0.9], dtype=torch.double))
        attention.qkv.weight[:64] /= 50
        attention.qkv.bias[:64] /= 50
        torch.testing.assert_close(
            model.velocity(noise(), torch.tensor([0.2, 0.9], dtype=torch.double)), large, rtol=0, atol=1e-3
        )


def test_the_shift_follows_the_values_of_a_latent():
    with torch.device("meta"):
        assert zoo.create("ditdh_s").shift == pytest.approx(6.928, abs=1e-3)
        assert zoo.create("ditdh_s", grid=32).shift == pytest.approx(13.856, abs=1e-3)
    model = flow(shift=3.0)
    assert model.shifted(torch.tensor([0.0, 0.5, 1.0])).tolist() == [0, 0.75, 1]


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2)])
def test_solvers_have_their_order(solver, order, monkeypatch):
    # z' = z has e^(-1) times the noise at the end.
    model = flow(shift=1.0)
    monkeypatch.setattr(model, "velocity", lambda z, t, labels: z)
    draw = lambda steps: model.sample_latents(  # noqa: E731
        torch.tensor([0]), steps=steps, solver=solver, generator=torch.Generator().manual_seed(0)
    )
    start = torch.randn(1, 12, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    coarse, fine = ((draw(n) - start * torch.e**-1).abs().max() for n in (20, 40))
    assert (coarse / fine).log2().item() == pytest.approx(order, abs=0.1)


def test_guidance_is_linear_between_two_velocities():
    model, guide = flow(), flow()
    for parameter in guide.parameters():
        parameter.data.mul_(0.9)
    start = torch.randn(2, 12, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    labels, t = torch.tensor([1, 2]), torch.ones(2, dtype=torch.double)
    draw = lambda **how: model.sample_latents(  # noqa: E731
        labels, steps=1, generator=torch.Generator().manual_seed(0), **how
    )
    with torch.no_grad():
        v, of_any = model.velocity(start, t, labels), model.velocity(start, t)
        torch.testing.assert_close(draw(), start - v)
        torch.testing.assert_close(draw(guidance=2.0), start - (of_any + 2 * (v - of_any)))
        weak = guide.velocity(start, t, labels)
        torch.testing.assert_close(draw(guidance=1.4, guide=guide), start - (weak + 1.4 * (v - weak)))
        torch.testing.assert_close(draw(guidance=2.0, interval=(0.0, 0.5)), draw())


def test_a_new_transformer_is_zero_and_learns(cached):
    checkpoint, folder = cached
    torch.manual_seed(0)
    small = {"dim": [96, 192], "depth": [1, 1], "heads": [2, 4]}
    lit = LitDiT("ditdh_tiny", checkpoint, num_classes=0, arch_args=small, lr=2e-3, ema=0.9)
    data = LatentData(folder, batch_size=24, eval_batch_size=36)
    data.setup()
    z, _ = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert not lit.model(z).velocity.any()
    trainer = L.Trainer(max_steps=40, limit_val_batches=2, num_sanity_val_steps=0, accelerator="cpu", **QUIET)
    (before,) = trainer.validate(lit, data, verbose=False)
    trainer.fit(lit, data)
    (after,) = trainer.validate(lit, data, verbose=False)
    assert after["val/loss"] < 0.8 * before["val/loss"]


def test_a_loss_that_is_not_finite_stops_and_says_where(cached):
    checkpoint, folder = cached
    lit = LitDiT("ditdh_tiny", checkpoint, num_classes=0, arch_args={"depth": [1, 1]}, lr=1e-3)
    lit.model.final_layer.linear.bias.data.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"the loss is nan at step 0, batch 0 of epoch 0, images \[\d+, "):
        L.Trainer(max_steps=1, accelerator="cpu", **QUIET).fit(lit, LatentData(folder))


def test_gradient_checkpointing_gives_the_same_gradients():
    labels = torch.tensor([1, 2])
    t = torch.tensor([0.2, 0.9], dtype=torch.double)
    kept, made, z = flow(), flow(), narrow().encode(images(2))
    made.grad_checkpointing = True
    decoders = narrow(depth=2), narrow(depth=2)
    decoders[1].grad_checkpointing = True
    for pair, pass_ in (
        ((kept, made), lambda m: m.velocity(noise(), t, labels)),
        (decoders, lambda m: m.decode_unclamped(z)),
    ):
        for model in pair:
            pass_(model).square().sum().backward()
        for a, b in zip(*(m.parameters() for m in pair)):
            torch.testing.assert_close(a.grad, b.grad)


def test_released_files_load_as_they_are_named():
    model = zoo.create("ditdh_s", grid=4, depth=[1, 1])
    state = {f"module.{k}": v for k, v in model.state_dict().items() if k != "pos_embed"}
    state |= {"module.pos_embed": model.pos_embed, "module.enc_feat_rope.freqs_cos": torch.zeros(16, 64)}
    wrapped = {"ema": state, "model": {k: torch.zeros_like(v) for k, v in state.items()}}
    loaded = foreign.convert(wrapped, "ditdh_s", depth=[1, 1])
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in model.state_dict().items())
    assert len(loaded.blocks) == 2
    del state["module.s_projector.weight"]
    with pytest.raises(ValueError, match=r"1 missing \(s_projector.weight first\)"):
        foreign.convert({"ema": state}, "ditdh_s", depth=[1, 1])


def test_samples_are_drawn_by_the_command(cached, tmp_path):
    model = zoo.create("ditdh_tiny", dim=[64, 192], depth=[1, 1], heads=[2, 4], autoencoder=cached[0], num_classes=3)
    model.zoo_config["classes"] = ["cat, house cat", "dog", "owl"]
    zoo.save(model, tmp_path / "m")
    out = tmp_path / "grid.png"
    argv = ["sample", str(tmp_path / "m"), "--each", "2", "--steps", "2", "-o", str(out)]
    assert cli.main([*argv, "--classes", "cat,2,any", "--guidance", "2", "--guide", str(tmp_path / "m")]) == 0
    assert out.stat().st_size > 1000
    before = out.read_bytes()
    assert cli.main(argv) == 2
    assert out.read_bytes() == before
    assert cli.main([*argv, "--force", "--device", "cpu", "--precision", "bf16"]) == 0
    assert out.read_bytes() != before
    assert cli.main([*argv, "--force", "--device", "cuda:99"]) == 2


def test_distances_grow_with_blur_and_noise(sprites):
    data = ImageData(sprites, 64, 3)
    data.setup()
    x, _ = data.on_after_batch_transfer(next(iter(data.in_order("train", 60))), 0)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    blurred = [torch.nn.functional.avg_pool2d(x, 2 * k + 1, 1, k) for k in (1, 2)]
    noisy = [(x + s * noise).clamp(0, 1) for s in (0.1, 0.3)]
    same, *found = (
        distances.distances(x.split(30), y.split(30), "mae_vit_tiny.tiny_imagenet", 5) for y in (x, *blurred, *noisy)
    )
    assert set(same) == {"frechet_mae_vit_tiny.tiny_imagenet", "kernel_mae_vit_tiny.tiny_imagenet"}
    for key in same:
        for a_little, much in (found[:2], found[2:]):
            assert same[key] < a_little[key] < much[key]


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            lambda: narrow(encoder_hash="0123").encode(images()),
            "is not the encoder that these weights were trained with",
        ),
        (
            lambda: narrow(latent_channels=96).encode(images()),
            r"gives tokens \(192, 8, 8\) of 64 px, this decoder takes",
        ),
        (lambda: narrow().decode(torch.zeros(1, 192, 16, 16)), "another encoder made them"),
        (lambda: narrow(encoder="bilinear_d256.mnist").encode(images()), "has no patch tokens"),
        (lambda: narrow(encoder="timm:no_such_vit").encode(images()), "timm has no model 'no_such_vit'"),
        (lambda: narrow(layers=13).encode(images()), "layers=13, allowed 1 to 12"),
        (lambda: narrow(grid=7), "no multiple of grid=7"),
        (lambda: narrow(noise_kind="pink"), "allowed uniform, normal"),
        (lambda: hub.load_strictly(narrow(), narrow(image_size=128).state_dict(), "f"), r"misshapen \(decoder.head"),
        (lambda: flow().sample_latents(torch.tensor([10])), "labels span 10 to 10, allowed -1 to 9"),
        (lambda: flow().sample_latents(torch.tensor([0]), steps=0), "steps=0"),
        (lambda: flow().sample_latents(torch.tensor([0]), solver="rk"), "allowed euler, heun"),
        (lambda: flow().sample_latents(torch.tensor([0]), interval=(0.5, 0.5)), "is empty"),
        (lambda: flow()(torch.zeros(1, 4, 8, 8)), r"expected \(B, 12, 4, 4\)"),
        (lambda: flow(heads=(3, 3)), "rotary positions"),
        (lambda: flow(time="cosine"), "allowed logit_normal, uniform"),
        (lambda: flow(autoencoder="mae_vit_tiny.cifar10").autoencoder, "no continuous latents"),
        (lambda: flow(autoencoder="dcae_tiny_f8c4.tiny_imagenet").autoencoder, r"has latents \(4, 8, 8\)"),
        (lambda: distances.distances([images()], [images()], "mae_vit_tiny.tiny_imagenet"), "50 of each"),
        (lambda: foreign.convert({"a": torch.zeros(1)}, "rae_vit_xl"), "no known RAE"),
    ],
)
def test_bad_input_is_refused_with_its_message(act, message):
    with pytest.raises(ValueError, match=message):
        act()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["mae_vit_tiny.cifar10"], "draws nothing; these archs do: ditdh_tiny"),
        (["vqprior_tiny.mnist", "--steps", "5"], "takes no --steps"),
        (["vqprior_tiny.mnist", "--classes", "10"], "no class '10'; give 0 to 9, any"),
        (["vqprior_tiny.mnist", "--each", "0"], "at least 1"),
    ],
)
def test_the_command_says_what_is_wrong(argv, message, capsys, tmp_path):
    assert cli.main(["sample", *argv, "-o", str(tmp_path / "a.png")]) == 2
    assert message in capsys.readouterr().err
