"""DC-AE: in and out, the exact rewrites, the three phases and their options, tiles, cached latents, bad input."""

import lightning as L
import pytest
import torch
from torch import nn

import zoo
from zoo import hub
from zoo.data.images import ImageData
from zoo.data.latents import LatentData, write
from zoo.data.synthetic import RandomImages
from zoo.families.dcae import lit as dcae_lit
from zoo.families.dcae.blocks import EPS, CPURMSNorm, attend_linearly, haar
from zoo.families.dcae.lit import LitDCAE
from zoo.families.dcae.model import DCAE, mask_channels
from zoo.nn.tiles import tiled

TINY = {"image_size": 32, "latent_channels": 8, "widths": [16, 32, 64], "encoder_depths": [0, 1, 1]}
TINY |= {"decoder_depths": [0, 1, 1], "encoder_attention": [2], "decoder_attention": [2], "batchnorm_stages": 2}


def model(**args) -> DCAE:
    torch.manual_seed(0)
    made = zoo.create("dcae_tiny_f4c4", **TINY | args)
    for p in made.parameters():
        p.data += 0.05 * torch.randn_like(p)
    for name, b in made.named_buffers():
        if "running" in name:
            b.uniform_(0.5, 2)
    return made


def images(count: int = 2, size: int | tuple[int, int] = 32) -> torch.Tensor:
    height, width = (size, size) if isinstance(size, int) else size
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))


# What goes in and comes out


@pytest.mark.parametrize("size", [(32, 32), (4, 4), (20, 44)])
def test_any_multiple_of_the_ratio_goes_through(size):
    m, x = model().eval(), images(2, size)
    z = m.encode(x)
    assert z.shape == (2, 8, size[0] // 4, size[1] // 4)
    assert m.decode(z).shape == x.shape
    assert torch.equal(m.reconstruct(x), m(x).recon.clamp(0, 1))
    assert torch.equal(m.forward_features(x), z)


def test_published_sizes():
    """Parameters and running statistics, as many as the published files state."""
    counts = {
        "dcae_f32c32": 323_369_260,
        "dcae_f64c128": 676_908_940,
        "dcae_f128c512": 1_120_695_052,
        "dcae_f32c32_sana": 312_250_275,
    }
    for arch, count in counts.items():
        with torch.device("meta"):
            state = zoo.create(arch).state_dict()
        floats = [v.numel() for k, v in state.items() if v.is_floating_point() and not k.startswith("latent_")]
        assert sum(floats) == count


def test_normalised_latents_come_back():
    m = model(latent_scale=0.5)
    z = torch.randn(2, 8, 4, 4)
    torch.testing.assert_close(m.normalise(z), 0.5 * z)
    torch.testing.assert_close(m.denormalise(m.normalise(z)), z)


# Exact rewrites


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_norm_is_torchs(dtype):
    torch.manual_seed(0)
    x, w, b, dy = torch.randn(3, 5, 16).to(dtype), torch.randn(16), torch.randn(16), torch.randn(3, 5, 16).to(dtype)

    def output_and_gradients(norm, kind):
        inputs = [t.to(kind if t is x or dtype == torch.float64 else torch.float32) for t in (x, w, b)]
        inputs = [t.detach().requires_grad_() for t in inputs]
        y = norm(*inputs)
        return y, *torch.autograd.grad(y, inputs, dy.to(y.dtype))

    exact = [t.double().detach().requires_grad_() for t in (x, w, b)]
    y = torch.nn.functional.rms_norm(exact[0], (16,), exact[1], EPS) + exact[2]
    right = (y, *torch.autograd.grad(y, exact, dy.double()))
    for ours, true in zip(output_and_gradients(CPURMSNorm.apply, dtype), right):
        error = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype]
        assert (ours - true).norm() < error * true.norm()


def test_attention_is_the_quadratic_one():
    q, k, v = torch.randn(3, 2, 4, 10, 32, dtype=torch.float64).unbind(0)
    scores = q.relu() @ k.relu().mT
    torch.testing.assert_close(attend_linearly(q, k, v), scores / scores.sum(-1, keepdim=True) @ v)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("count", [16, 32, 33])
def test_attention_sums_in_float32(dtype, count):
    q, k, v = (100 * torch.rand(3, 1, 2, count, 32)).to(dtype).unbind(0)  # sums of squares are beyond float16
    y = attend_linearly(q, k, v)
    assert y.dtype == dtype
    exact = attend_linearly(q.double(), k.double(), v.double())
    assert (y - exact).abs().max() < 0.01 * exact.abs().max()


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"shortcut": "isotropic"},
        {"shortcut": "none"},
        {"strided": True, "interpolate": True, "scales": [5], "batchnorm_stages": 0},
        {"interpolate": True, "shortcut": "isotropic", "encoder_depths": [1, 1, 1], "decoder_depths": [1, 1, 1]},
        {"stem": "haar", "low_rank": True, "latent_shortcut": False},
    ],
)
def test_the_fused_copy_is_the_same_function_and_the_original_stays(args):
    m = model(**args).double().eval()
    before, x = {k: v.clone() for k, v in m.state_dict().items()}, images().double()
    fast = m.fused(torch.float64)
    torch.testing.assert_close(fast.encode(x), m.encode(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(fast(x).recon, m(x).recon, rtol=0, atol=1e-12)
    assert not any(isinstance(p, nn.BatchNorm2d) for p in fast.modules())
    assert all(torch.equal(v, before[k]) for k, v in m.state_dict().items())
    with pytest.raises(ValueError, match="does not know its arch"):
        zoo.save(fast, "nowhere")


def test_the_fused_copy_takes_bfloat16_where_it_is_fast(monkeypatch):
    m = model().eval()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    assert m.fused().latent_mean.dtype == torch.bfloat16
    assert (m.fused().reconstruct(images()) - m.reconstruct(images())).abs().max() < 0.1
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert m.fused().latent_mean.dtype == torch.float32


def test_checkpointing_gives_the_same_gradients():
    def gradients(on: bool) -> list[torch.Tensor]:
        m = model(batchnorm_stages=0)
        m.grad_checkpointing = on
        m(images()).loss.backward()
        return [p.grad for p in m.parameters()]

    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(gradients(False), gradients(True)))


# Options


def test_shortcuts_alone_carry_the_picture():
    """With all convolutions zero, what is left are means of pixels: a picture of the right brightness, or nothing."""
    for shortcut, carries in (("grouped", True), ("isotropic", True), ("none", False)):
        m = model(shortcut=shortcut, encoder_depths=[1, 1, 1], decoder_depths=[1, 1, 1], batchnorm_stages=0)
        for name, p in m.named_parameters():
            if not name.startswith("encoder.stem"):
                p.data.zero_()
        assert bool(m.encode(images()).abs().sum() > 0) == carries


def test_isotropic_shortcuts_treat_rows_as_columns():
    """Transposing the image transposes the latents, once the channels of each pair have changed places."""
    down = model(shortcut="isotropic", encoder_depths=[1, 1, 1]).encoder.stages[0].down
    down.conv.weight.data.zero_()
    down.conv.bias.data.zero_()
    x = torch.randn(1, 1, 8, 6).expand(-1, 16, -1, -1)  # all channels alike
    y, turned = down(x), down(x.mT)
    swapped = y.unflatten(1, (-1, 2, 2)).flip(2).flatten(1, 3)  # (channel, its pair, row or column)
    torch.testing.assert_close(turned.mT, swapped)
    grouped = model(encoder_depths=[1, 1, 1]).encoder.stages[0].down
    grouped.conv.weight.data.zero_()
    grouped.conv.bias.data.zero_()
    assert not torch.allclose(grouped(x.mT).mT, grouped(x).unflatten(1, (-1, 2, 2)).flip(2).flatten(1, 3))


def test_haar_loses_nothing():
    x = torch.randn(2, 3, 8, 6, dtype=torch.float64)
    y = haar(x)
    torch.testing.assert_close(y.square().sum(), x.square().sum())
    torch.testing.assert_close(y[:, ::4], 2 * nn.functional.avg_pool2d(x, 2))
    flat = haar(torch.ones(1, 1, 4, 4))
    assert not flat[:, 1:].any()


def test_masked_channels():
    z = torch.randn(2, 8, 3, 3)
    kept = mask_channels(z, 3)
    assert torch.equal(kept[:, :3], z[:, :3])
    assert not kept[:, 3:].any()
    m = model().eval()
    assert torch.equal(m.reconstruct(images(), keep=8), m.reconstruct(images()))
    assert not torch.equal(m.reconstruct(images(), keep=2), m.reconstruct(images()))
    with pytest.raises(ValueError, match="keep=9, allowed 1 to 8"):
        m.reconstruct(images(), keep=9)


# The three phases


def trainer(**args) -> L.Trainer:
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    return L.Trainer(
        accelerator="cpu", **dict.fromkeys(quiet, False) | {"limit_val_batches": 0, "max_epochs": 1} | args
    )


def data(count: int = 16, batch_size: int = 4) -> RandomImages:
    return RandomImages((3, 32, 32), count, batch_size)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> str:
    return str(zoo.save(model().eval(), tmp_path_factory.mktemp("dcae") / "phase1"))


def phase(number: int, weights: str | None = None, **args) -> LitDCAE:
    L.seed_everything(0, verbose=False)
    settings = {"lr": 1e-3, "perceptual_weight": 0.0, "weight_decay": 0.0}
    return LitDCAE(
        "dcae_tiny_f4c4", weights=weights, arch_args=None if weights else TINY, phase=number, **settings | args
    )


def moved(lit: LitDCAE, **args) -> set[str]:
    """Names of tensors that training changes."""
    before = {k: v.clone() for k, v in lit.model.state_dict().items()}
    trainer(**args).fit(lit, data())
    return {k for k, v in lit.model.state_dict().items() if not torch.equal(v, before[k])}


def test_each_phase_trains_its_part_and_nothing_else(trained):
    all_names = set(model().state_dict()) - {"latent_mean", "latent_std"}
    assert moved(phase(1)) == all_names
    middle = {f"{place}.{kind}" for place in ("encoder.head", "decoder.stem") for kind in ("weight", "bias")}
    assert moved(phase(2, trained)) == middle
    head = {f"decoder.{place}.{kind}" for place in ("norm", "head.conv") for kind in ("weight", "bias")}
    assert moved(phase(3, trained)) == head
    assert moved(phase(2, trained, trainable=["encoder.head.bias"])) == {"encoder.head.bias"}


def test_phase_3_leaves_every_latent_bit_for_bit(trained):
    lit, x = phase(3, trained), images()
    before, picture = lit.model.eval().encode(x), lit.model.reconstruct(x)
    trainer().fit(lit, data())
    assert torch.equal(lit.model.eval().encode(x), before)
    assert not torch.equal(lit.model.reconstruct(x), picture)


def test_frozen_parts_make_no_graph(trained):
    lit = phase(3, trained)
    assert not lit.model.encode(images()).requires_grad
    assert lit.model(images()).recon.requires_grad
    lit.train()
    assert not any(m.training for m in lit.model.modules() if isinstance(m, nn.BatchNorm2d))
    assert all(m.training for m in phase(1).train().model.modules() if isinstance(m, nn.BatchNorm2d))


def test_neither_gradient_reaches_the_other_network(trained):
    lit, reached = phase(3, trained), []

    class Watch(L.Callback):
        def on_after_backward(self, trainer, module):
            parts = (lit.model, lit.discriminator)
            reached.append([any(p.grad is not None and p.grad.any() for p in m.parameters()) for m in parts])

    trainer(max_steps=2, callbacks=[Watch()]).fit(lit, data(4))
    assert reached == [[True, False], [True, True]]


def test_the_discriminator_learns_before_it_counts(trained):
    lit, counted = phase(3, trained, disc_warmup=2), []

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer, *_):
            counted.append("train/generator" in trainer.callback_metrics)

    trainer(callbacks=[Watch()]).fit(lit, data())
    assert counted == [False, False, True, True]
    assert lit.steps == 4


def test_accumulated_batches_equal_a_large_one(trained, monkeypatch):
    """Adversary and all, as long as the adaptive weight and the discriminator's batch norms are out of the way."""
    monkeypatch.setattr(dcae_lit.adversarial, "adaptive_weight", lambda *_: torch.tensor(0.3))
    found = []
    for batch_size, accumulate in ((16, 1), (4, 4)):
        lit = phase(3, trained, accumulate=accumulate)
        for m in lit.discriminator.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.forward = nn.Identity().forward
        lit.configure_optimizers = lambda lit=lit: [
            torch.optim.SGD([p for p in m.parameters() if p.requires_grad], 0.1) for m in (lit.model, lit.discriminator)
        ]
        trainer().fit(lit, data(16, batch_size))
        found.append([p.detach() for p in lit.parameters()])
        assert lit.steps == 1
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*found))


def test_validation_measures_the_latents():
    lit, source = phase(1), data()
    trainer(limit_val_batches=None, num_sanity_val_steps=0).fit(lit, source)
    z = torch.cat([lit.model.eval().encode(source.on_after_batch_transfer(b, 0)[0]) for b in source.val_dataloader()])
    torch.testing.assert_close(lit.model.latent_mean, z.mean((0, 2, 3)), rtol=0, atol=1e-4)
    torch.testing.assert_close(lit.model.latent_std, z.std((0, 2, 3), unbiased=False), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("option", ["mask_channels", "nuclear_weight"])
def test_what_an_option_asks_for_gets_better(option):
    """Thirty steps with it, and thirty without: what it is for comes out ahead."""
    x = images(8)

    def after(on: bool) -> float:
        L.seed_everything(0, verbose=False)
        value = {"mask_channels": [1], "nuclear_weight": 0.1}[option]
        args = TINY | ({"low_rank": True} if option == "nuclear_weight" else {})
        lit = LitDCAE(
            "dcae_tiny_f4c4", arch_args=args, lr=3e-3, perceptual_weight=0.0, **({option: value} if on else {})
        )
        trainer(max_steps=30, max_epochs=-1).fit(lit, data(64, 8))
        m = lit.model.eval()
        if option == "mask_channels":
            return (m.reconstruct(x, keep=1) - x).abs().mean().item()
        return torch.linalg.matrix_norm(m.low_rank.weight[:, :, 0, 0], "nuc").item()

    assert after(True) < 0.97 * after(False)


def test_pixels_and_latents_are_halved_by_one_operator(monkeypatch):
    """Where latents are the pixels themselves, images of halved latents are halved images."""
    lit, x = phase(1, equivariance_weight=3.0), images(4)
    run = trainer(max_steps=1)
    run.fit(lit, data())
    found = {k.removeprefix("train/"): v.item() for k, v in run.callback_metrics.items()}
    assert found["equivariance"] > 0
    assert found["loss"] == pytest.approx(found["reconstruction"] + 3 * found["equivariance"])
    monkeypatch.setattr(lit.model, "decode_unclamped", lambda z: z)
    assert lit._equivariance(x, x) == 0


def test_the_newest_run_stands_for_its_recipe(tmp_path):
    lit = phase(1)
    for stamp, lr in (("20260101-000000", 1e-5), ("20260102-000000", 1e-3)):
        run = trainer(max_steps=1)
        run.fit(phase(1, lr=lr), data())
        run.save_checkpoint(tmp_path / "dcae-phase1" / stamp / "checkpoints" / "last.ckpt")
    newest = zoo.load(str(tmp_path / "dcae-phase1" / "20260102-000000"))
    found = phase(2, str(tmp_path / "dcae-phase1")).model.state_dict()
    assert all(torch.equal(v, found[k]) for k, v in newest.state_dict().items())
    assert not torch.equal(found["encoder.head.weight"], lit.model.encoder.head.weight)


# Tiles


def test_tiles_are_exact_for_what_looks_no_further():
    def blurred(x):
        return nn.functional.avg_pool2d(nn.functional.pad(x, (1, 1, 1, 1), "replicate"), 3, 1)

    x = torch.rand(2, 3, 37, 50, dtype=torch.float64)
    for tile, overlap, batch_size in ((16, 4, 1), (20, 6, 3), (64, 8, 1)):
        torch.testing.assert_close(tiled(blurred, x, tile, overlap, batch_size=batch_size), blurred(x))
    assert (tiled(blurred, x, 16, 1) - blurred(x)).abs().max() > 1e-3  # too little to see
    exact = tiled(lambda x: 2 * x, x, 7, 3, batch_size=4)
    torch.testing.assert_close(exact, 2 * x)


def test_ratios_and_thin_images():
    up = tiled(lambda z: z.repeat_interleave(4, 2).repeat_interleave(4, 3), torch.rand(1, 2, 1, 9), 4, 1, (4, 1))
    assert up.shape == (1, 2, 4, 36)
    z = torch.rand(1, 2, 9, 7)
    torch.testing.assert_close(
        tiled(lambda z: z.repeat_interleave(4, 2).repeat_interleave(4, 3), z, 1, 0, (4, 1), 5),
        z.repeat_interleave(4, 2).repeat_interleave(4, 3),
    )
    down = tiled(lambda x: nn.functional.avg_pool2d(x, 4), torch.rand(1, 3, 32, 48), 16, 8, (1, 4))
    assert down.shape == (1, 3, 8, 12)
    with pytest.raises(ValueError, match="overlap=4"):
        tiled(lambda z: z, z, 4, 4)


def test_tiled_decoding_is_close_and_sees_tiles_only():
    m = zoo.create("dcae_tiny_f4c4", encoder_attention=[], decoder_attention=[], decoder_depths=[0, 1, 1]).eval()
    z, sizes = m.encode(images(1, (256, 128))), []
    whole, decode = m.decode(z), m.decode
    m.decode = lambda z: sizes.append(tuple(z.shape)) or decode(z)
    near = m.decode_tiled(z, tile=16, overlap=8, batch_size=3)
    assert max(s[2] for s in sizes) == 16
    assert {s[0] for s in sizes} <= {3, 1}
    assert (near - whole).abs().max() < 0.05
    torch.testing.assert_close(m.decode_tiled(z, tile=32, overlap=24), whole, rtol=0, atol=1e-5)  # it looks 6 far


# Cached latents


@pytest.fixture(scope="module")
def cached(tmp_path_factory, sprites):
    folder = tmp_path_factory.mktemp("latents")
    m = zoo.create("dcae_tiny_f8c4", latent_scale=0.5)
    checkpoint = zoo.save(m, folder / "model")
    return m.eval(), str(checkpoint), str(write(m, ImageData(sprites, 64, 3), folder / "latents", flip=True))


def test_cached_latents_are_the_encoders(cached, sprites):
    m, checkpoint, folder = cached
    latents = LatentData(folder, batch_size=32, encoder=checkpoint)
    latents.setup()
    source = ImageData(sprites, 64, 3)
    source.setup()
    assert latents.input_shape == (4, 8, 8)
    assert latents.classes == source.classes
    z, y = latents.on_after_batch_transfer(next(iter(latents.test_dataloader())), 0)
    x, labels = source.on_after_batch_transfer(next(iter(source.in_order("test", 32))), 0)
    with torch.no_grad():
        torch.testing.assert_close(z, m.normalise(m.encode(x)), rtol=2e-3, atol=2e-3)
        train = latents.splits["train"][0].array
        first = source.on_after_batch_transfer(next(iter(source.in_order("train", 2))), 0)[0]
        mirrored = torch.from_numpy(train[len(train) // 2 : len(train) // 2 + 2].numpy()).float()
        torch.testing.assert_close(mirrored, m.encode(first.flip(-1)), rtol=2e-3, atol=2e-3)
    assert torch.equal(y, labels)
    assert len(train) == 2 * len(source.splits["train"][1])
    batches = [z for z, *_ in latents.train_dataloader()]
    assert len(batches) == len(train) // 32


def test_another_encoder_is_refused(cached, tmp_path):
    _, _, folder = cached
    other = zoo.save(zoo.create("dcae_tiny_f8c4"), tmp_path / "other")
    with pytest.raises(ValueError, match="are not those of"):
        LatentData(folder, encoder=str(other))
    with pytest.raises(FileNotFoundError, match="zoo latents"):
        LatentData(str(tmp_path))
    with pytest.raises(ValueError, match="no continuous latents"):
        write(zoo.load("bilinear_d256.mnist"), ImageData(), tmp_path / "x")


# Bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: model().encode(images(1, (30, 33))), "30×33 px, no multiples of 4.* resize to 32×32"),
        (lambda: model().eval().encode(2 * images()), "expected \\[0, 1\\]"),
        (lambda: model().decode(torch.rand(1, 4, 8, 8)), "expected \\(B, 8, h, w\\); another variant"),
        (lambda: model().decode(torch.rand(8, 8, 8)), "latents are \\(8, 8, 8\\)"),
        (lambda: model(shortcut="some"), "allowed grouped, isotropic, none"),
        (lambda: model(stem="haar", encoder_depths=[1, 1, 1]), "the first stage has no blocks"),
        (lambda: model(latent_channels=7), "do not divide the last width"),
        (lambda: model(widths=[16, 24, 64]), "widths 16 and 24"),
        (lambda: model(widths=[16, 24, 48]), "multiple of 32"),
        (lambda: model(encoder_attention=[3]), "allowed 0 to 2"),
        (lambda: model(decoder_depths=[0, 1]), "one of each for each stage"),
        (lambda: model(encoder_depths=[0, 0, 1]), "only the first stage"),
        (lambda: phase(3), "phase 3 refines a trained autoencoder: give the weights of phase 2"),
        (lambda: phase(4), "allowed 1, 2, 3"),
        (lambda: phase(1, trainable=["head"]), "matches no parameter; parts are decoder.head"),
        (lambda: phase(1, accumulate=2), "accumulate_grad_batches"),
        (lambda: phase(1, nuclear_weight=1.0), "low_rank: true"),
        (lambda: phase(1, mask_channels=[9]), "allowed 1 to 8"),
        (lambda: model().encode_tiled(images(), tile=30), "no multiples of 4"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_float16_overflow_is_refused():
    m = model().half().eval()
    with pytest.raises(ValueError, match="use bfloat16 or float32"):
        m.decode(torch.full((1, 8, 8, 8), 6e4))
    assert m.decode(m.encode(images())).isfinite().all()


def test_a_checkpoint_of_another_variant_is_refused(tmp_path):
    folder = zoo.save(zoo.create("dcae_tiny_f8c4"), tmp_path / "f8")
    with pytest.raises(ValueError, match="holds dcae_tiny_f8c4, not dcae_tiny_f16c16"):
        zoo.create("dcae_tiny_f16c16", str(folder))
    with pytest.raises(ValueError, match="does not fit"):
        hub.load(str(folder), latent_channels=8)
