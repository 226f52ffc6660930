"""What all LightningModules share: keywords that are declared once, and a training for whatever gives back a loss."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jsonargparse
import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import zoo
from zoo import hub, registry
from zoo.data.synthetic import RandomImages
from zoo.nn.protocols import PIXELS, Input
from zoo.nn.signatures import keywords
from zoo.train import fit, parse
from zoo.train.autoencode import LitAutoencoder
from zoo.train.callbacks import LAST

SHARED = {"arch", "weights", "arch_args", "lr", "base_lr", "weight_decay", "betas", "warmup_epochs", "min_lr"}
SHARED |= {"grad_checkpointing", "compile"}
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
TINY_VQ = {"image_size": 16, "width": 16, "res_blocks": 1, "res_width": 8, "codebook_size": 16, "code_dim": 8}
TINY_GAN = {"image_size": 32, "width": 32, "mults": [1, 2], "attention": [], "res_blocks": 1, "z_channels": 8}
TINY_GAN |= {"codebook_size": 16, "code_dim": 4}
TINY_DCAE = {"image_size": 16, "widths": [16, 32, 32], "encoder_attention": [2], "decoder_attention": [2]}
TINY_MAE = {"image_size": 16, "patch_size": 4, "dim": 32, "depth": 2, "heads": 2}
TINY_MAE |= {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}
TINY_RAE = {"image_size": 64, "encoder": "mae_vit_tiny.tiny_imagenet", "encoder_size": 64, "latent_channels": 192}
TINY_RAE |= {"grid": 8, "dim": 32, "depth": 1, "heads": 2, "hidden": 64}

# Of each public class, what makes a small one; all else are defaults.
SMALL = {
    "LitAutoencoder": {"arch": "vqvae_conv_small", "arch_args": TINY_VQ},
    "LitClassifier": {"arch": "bilinear_d64"},
    "LitFinetune": {"arch": "mae_vit_tiny_classifier"},
    "LitMAE": {"arch": "mae_vit_tiny", "arch_args": TINY_MAE},
    "LitVQ": {"arch": "vqvae_conv_small", "arch_args": TINY_VQ},
    "LitVQGAN": {"arch": "vqgan_f16", "arch_args": TINY_GAN, "perceptual_weight": 0.0},
    "LitPrior": {"arch": "vqprior_tiny", "tokenizer": "vqvae_conv_small.mnist"},
    "LitDCAE": {"arch": "dcae_tiny_f4c4", "arch_args": TINY_DCAE, "perceptual_weight": 0.0},
    "LitRAE": {"arch": "rae_mae_vit_tiny", "arch_args": TINY_RAE, "perceptual_weight": 0.0, "disc_weight": 0.0},
    "LitDiT": {"arch": "ditdh_tiny", "autoencoder": "dcae_tiny_f8c4.tiny_imagenet"},
}
CLASSES = sorted(name for name in zoo.__all__ if name.startswith("Lit"))


def trainer(**args) -> L.Trainer:
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    return L.Trainer(**{"accelerator": "cpu", **dict.fromkeys(quiet, False), **args})


@pytest.mark.parametrize("name", CLASSES)
def test_the_parser_and_python_take_the_same_keywords_with_the_same_defaults(name):
    kind = getattr(zoo, name)
    parser = jsonargparse.ArgumentParser()
    parser.add_class_arguments(kind, "init")
    parsed = vars(parser.get_defaults().init)
    defaults = {key: None if p.default is p.empty else p.default for key, p in keywords(kind).items()}
    assert parsed == defaults
    assert defaults.keys() >= SHARED


@pytest.mark.parametrize("name", CLASSES)
def test_all_keywords_are_hyperparameters_and_another_one_is_refused(name):
    kind = getattr(zoo, name)
    lit = kind(**SMALL[name])
    assert dict(lit.hparams) == {key: p.default for key, p in keywords(kind).items()} | SMALL[name]
    with pytest.raises(ValueError, match=rf"^{name} takes no weight_dekay, did you mean weight_decay"):
        kind(**SMALL[name], weight_dekay=0.1)
    with pytest.raises(ValueError, match=rf"^{name} takes no betas=0.9; expected tuple\[float, float\]$"):
        kind(**SMALL[name], betas=0.9)


ALONE = {
    "LitAutoencoder": ("vqvae_conv_small", 1e-3),
    "LitClassifier": ("bilinear_d64", 1e-3),
    "LitFinetune": ("mae_vit_tiny_classifier", 1e-3 * 0.75**13),  # of its first layer
    "LitMAE": ("mae_vit_tiny", 1.5e-4 * 2 / 256),
    "LitVQ": ("vqvae_conv_small", 2e-4),
    "LitVQGAN": ("vqgan_f4", 1.152e-3 * 2 / 256),
    "LitPrior": ("vqprior_tiny", 1e-4),
    "LitDCAE": ("dcae_tiny_f8c4", 6.4e-5),
    "LitRAE": ("rae_mae_vit_tiny", 2e-4),
    "LitDiT": ("ditdh_tiny", 2e-4),
}


@pytest.mark.parametrize("name", CLASSES)
def test_a_training_needs_its_arch_alone_and_no_network(name, monkeypatch, tmp_path):
    def offline(*args):
        raise OSError("no network")

    monkeypatch.setattr("socket.socket.connect", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # nor a VGG-16 that somebody else has fetched
    arch, lr = ALONE[name]
    lit = getattr(zoo, name)(arch, **({"arch_args": TINY_GAN} if name == "LitVQGAN" else {}))
    before = {key: tensor.clone() for key, tensor in lit.model.state_dict().items()}
    samples = TensorDataset(torch.rand(2, *lit.model.takes.shape), torch.tensor([0, 1]))
    run = trainer(max_steps=1)
    run.fit(lit, DataLoader(samples, 2))
    assert run.optimizers[0].param_groups[0]["initial_lr"] == pytest.approx(lr)
    assert any(not torch.equal(tensor, before[key]) for key, tensor in lit.model.state_dict().items())


# Two classes of a stranger: the first adds a keyword, the second a mixin's and another default.
MODULE = """
from typing import Any

import torch

from zoo.train.autoencode import LitAutoencoder
from zoo.train.common import Training


class LitAux(LitAutoencoder):
    def __init__(self, arch: str, aux_weight: float = 0.03, **common: Any):
        super().__init__(arch, **common)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx) + self.hparams.aux_weight * self.model.encoder[0].weight.norm()


class Noisy(Training):
    def __init__(self, arch: str, *, noise: float = 0.5, **common: Any):
        super().__init__(arch, **common)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x = batch[0]
        return super().training_step([(x + self.hparams.noise * torch.rand_like(x)).clamp(0, 1)], batch_idx)


class LitNoisyAux(Noisy, LitAux):
    def __init__(self, arch: str, *, ema: float = 0.9, **common: Any):
        super().__init__(arch, ema=ema, **common)
"""


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe of LitNoisyAux; its module can be imported."""
    (tmp_path / "stranger.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    recipe = registry.families()["vq"].recipes / "smoke.yaml"
    text = recipe.read_text().replace("zoo.LitVQ", "stranger.LitNoisyAux").replace("num_images: 640", "num_images: 128")
    (tmp_path / "recipe.yaml").write_text(text)
    return tmp_path / "recipe.yaml"


def test_a_class_of_two_levels_and_a_mixin_is_fitted_resumed_and_exported(stranger, tmp_path):
    given = ["--model.weight_decay", "0.1", "--model.aux_weight", "0.2", "--model.noise", "0.25", *QUIET]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    constant = ["--trainer.max_epochs", "2"]
    assert fit.fit([str(stranger), "--run", str(whole), *given, *constant]) == 0
    assert fit.fit([str(stranger), "--run", str(parts), *given, "--trainer.max_epochs", "1"]) == 0
    assert fit.fit(["--resume", str(parts), *constant]) == 0
    checkpoints = [torch.load(run / LAST, weights_only=True) for run in (whole, parts)]
    saved = checkpoints[0]["hyper_parameters"]
    assert saved | {"weight_decay": 0.1, "aux_weight": 0.2, "noise": 0.25, "ema": 0.9, "min_lr": None} == saved
    assert saved.keys() == {*SHARED, "aux_weight", "noise", "ema"}
    for key, tensor in checkpoints[0]["state_dict"].items():
        assert torch.equal(tensor, checkpoints[1]["state_dict"][key])

    exported = zoo.load(str(zoo.export(parts, tmp_path / "out")))
    averages = {k: v for k, v in checkpoints[1]["state_dict"].items() if k.startswith("average.module.")}
    assert averages
    assert all(torch.equal(exported.state_dict()[k.removeprefix("average.module.")], v) for k, v in averages.items())

    from stranger import LitNoisyAux

    again = LitNoisyAux.load_from_checkpoint(parts / LAST, weights_only=True)
    assert dict(again.hparams) == saved
    metrics = json.loads((whole / "metrics.json").read_text())["metrics"]
    assert {"train/loss", "val/loss", "val/mse", "val/psnr", "test/psnr"} <= metrics.keys()


def test_a_class_of_two_levels_refuses_a_typo_in_either_way(stranger):
    with pytest.raises(ValueError, match="aux_wait"):
        parse.resolve(stranger, ["--model.aux_wait", "0.1"])
    from stranger import LitNoisyAux

    with pytest.raises(ValueError, match="LitNoisyAux takes no aux_wait, did you mean aux_weight"):
        LitNoisyAux("vqvae_conv_small", aux_wait=0.1)
    with pytest.raises(ValueError, match="LitNoisyAux takes no aux_weight='much'; expected float"):
        LitNoisyAux("vqvae_conv_small", aux_weight="much")


# Models that bring no LightningModule of their own.


class SparseOutput(NamedTuple):
    loss: Tensor  # (), mean (x̂ - x)²
    recon: Tensor  # (B, …), as the samples
    losses: dict[str, Tensor]
    stats: dict[str, Tensor]


class KSparse(nn.Module):
    """Keeps the k largest of L latents (Makhzani and Frey 2013), of samples of any kind."""

    def __init__(self, takes: Input, latents: int = 32, k: int = 8):
        super().__init__()
        self.kind, self.takes, self.k = takes.kind, takes, k
        self.zoo_config = {"arch": "ksparse", "args": {}}
        size = torch.Size(takes.shape).numel()
        self.encoder, self.decoder = nn.Linear(size, latents), nn.Linear(latents, size)

    def encode(self, x: Tensor) -> Tensor:
        z = self.encoder(x.flatten(1))  # (B, L)
        kept = z.topk(self.k).indices  # (B, k)
        return torch.zeros_like(z).scatter(1, kept, z.gather(1, kept))  # (B, L)

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(z).unflatten(1, self.takes.shape)  # (B, …)

    def reconstruct(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))  # (B, …)

    def forward(self, x: Tensor) -> SparseOutput:
        z = self.encode(x)  # (B, L)
        recon = self.decode(z)  # (B, …)
        loss = (recon - x).square().mean()
        return SparseOutput(loss, recon, {"error": loss}, {"active": (z != 0).float().mean()})


class LossOnly(KSparse):
    def forward(self, x: Tensor) -> NamedTuple:
        return NamedTuple("Output", [("loss", Tensor)])(super().forward(x).loss)


INPUTS = {
    "image": Input("image", (1, 4, 4), PIXELS),
    "clip": Input("clip", (3, 1, 4, 4), PIXELS),
    "latent": Input("latent", (2, 4, 4)),
    "activation": Input("activation", (16,)),
}


class Board:
    """Keeps the pictures that a logger is given."""

    def __init__(self):
        self.pictures: dict[str, Tensor] = {}

    def add_image(self, name: str, picture: Tensor, step: int) -> None:
        self.pictures[name] = picture


class BoardLogger(CSVLogger):
    """A logger with TensorBoard's kind of experiment."""

    def __init__(self, board: Board):
        super().__init__("unused")
        self.board = board

    @property
    def experiment(self) -> Board:
        return self.board

    def log_hyperparams(self, *args: object, **how: object) -> None: ...

    def log_metrics(self, *args: object, **how: object) -> None: ...

    def save(self) -> None: ...

    def finalize(self, status: str) -> None: ...


def trained(kind: type[nn.Module], takes: Input, **args) -> tuple[LitAutoencoder, L.Trainer, Board]:
    """A model trained by LitAutoencoder itself for 20 epochs on 64 samples."""

    class LitOfAModel(LitAutoencoder):
        def make_model(self) -> nn.Module:
            return kind(takes)

    L.seed_everything(0, verbose=False)
    lit, board = LitOfAModel("ksparse", **{"lr": 1e-2} | args), Board()
    samples = TensorDataset(torch.rand(64, *takes.shape), torch.zeros(64, dtype=torch.int64))
    run = trainer(max_epochs=20, logger=[BoardLogger(board)], log_every_n_steps=1)
    run.fit(lit, DataLoader(samples, 16, shuffle=True), DataLoader(samples, 16))
    return lit, run, board


@pytest.mark.parametrize("kind", INPUTS)
def test_a_plain_model_is_trained_and_measured(kind):
    takes = INPUTS[kind]
    lit, run, board = trained(KSparse, takes)
    figures = run.callback_metrics
    assert {"train/loss", "train/error", "train/active", "val/loss", "val/mse"} <= figures.keys()
    assert figures["train/active"] == 8 / 32
    assert figures["val/loss"] < 0.1
    assert ("val/psnr" in figures) == (kind in ("image", "clip"))
    assert ("val/reconstruction" in board.pictures) == (kind in ("image", "clip"))
    x = torch.rand(5, *takes.shape)
    assert torch.equal(lit(x), lit.model.reconstruct(x))
    if kind == "clip":  # two rows of three frames, 2 px between them
        assert board.pictures["val/reconstruction"].shape == (3, 2 * (4 + 2) + 2, 3 * (4 + 2) + 2)


def test_psnr_is_of_clamped_pixels_and_the_mean_over_samples():
    lit, _, _ = trained(KSparse, INPUTS["image"])
    x = torch.rand(6, 1, 4, 4)
    out = SparseOutput(torch.tensor(0.0), x + torch.linspace(-2, 2, 6)[:, None, None, None], {}, {})
    mse = (out.recon.clamp(0, 1) - x).square().flatten(1).mean(1)
    figures = lit.measure(x, out)
    torch.testing.assert_close(figures["psnr"], (-10 * mse.log10()).mean())
    torch.testing.assert_close(figures["mse"], mse.mean())


def test_a_model_without_a_reconstruction_is_measured_by_its_loss():
    _, run, board = trained(LossOnly, INPUTS["image"])
    assert {k for k in run.callback_metrics if k.startswith("val/")} == {"val/loss"}
    assert not board.pictures


def test_a_model_notes_how_much_of_a_picture_it_was_shown(tmp_path):
    data = zoo.ImageData("samples/mnist", 28, limit=64, batch_size=32, crop_pct=0.875, num_workers=0)
    lit = zoo.LitClassifier("bilinear_d64", lr=1e-3)
    trainer = L.Trainer(max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.fit(lit, data)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    model = zoo.load(str(zoo.export(tmp_path / "a.ckpt", tmp_path / "folder")))
    data.setup("test")
    x, _ = data.on_after_batch_transfer(next(iter(data.test_dataloader())), 0)
    assert torch.equal(model.preprocess(data.encoded("test")[:32]), x)
    again = zoo.LitClassifier("bilinear_d64", weights=str(tmp_path / "folder"), lr=1e-3)
    L.Trainer(max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False).fit(
        again, zoo.ImageData("samples/mnist", limit=64, batch_size=32, num_workers=0)
    )
    assert "crop_pct" not in again.model.zoo_config


def test_an_average_is_what_is_measured():
    lit, _, _ = trained(KSparse, INPUTS["activation"], ema=0.9)
    assert lit.average.n_averaged == 80
    assert lit.averaged is lit.average.module
    assert not torch.equal(lit.averaged.encoder.weight, lit.model.encoder.weight)
    with pytest.raises(ValueError, match=r"ema=1\.5, allowed 0 to below 1"):
        trained(KSparse, INPUTS["activation"], ema=1.5)


def test_logits_are_for_another_class():
    with pytest.raises(ValueError, match=r"bilinear_d64 gives logits and no loss; train it with zoo\.LitClassifier"):
        LitAutoencoder("bilinear_d64")


# Keywords that a class has for being shared.


@pytest.mark.parametrize(
    ("name", "shape"),
    [("LitMAE", (3, 16, 16)), ("LitVQ", (3, 16, 16)), ("LitDCAE", (3, 16, 16)), ("LitVQGAN", (3, 32, 32))],
)
def test_any_autoencoder_keeps_an_average(name, shape):
    L.seed_everything(0, verbose=False)
    lit = getattr(zoo, name)(**SMALL[name] | {"lr": 1e-3, "warmup_epochs": 0.0, "ema": 0.5})
    weights: list[dict[str, Tensor]] = []

    class Watch(L.Callback):
        def on_train_batch_end(self, *args: object) -> None:
            weights.append({n: p.detach().clone() for n, p in lit.model.named_parameters()})

    run = trainer(max_epochs=1, callbacks=[Watch()], num_sanity_val_steps=0)
    run.fit(lit, RandomImages(shape, 24, 8))
    first, second, third = weights
    for key, value in lit.average.module.named_parameters():
        expected = 0.25 * first[key] + 0.25 * second[key] + 0.5 * third[key]
        torch.testing.assert_close(value, expected)
    assert run.callback_metrics["val/loss"] > 0


@pytest.mark.parametrize("waits", [True, False])
def test_vqgan_warms_up_and_decays_both_networks(waits: bool):
    L.seed_everything(0, verbose=False)
    start = 10**6 if waits else 0
    lit = zoo.LitVQGAN(
        **SMALL["LitVQGAN"], lr=1.0, weight_decay=0.1, warmup_epochs=1, min_lr=0.1, accumulate=2, disc_start=start
    )
    rates: list[list[float]] = []

    class Watch(L.Callback):
        def on_train_batch_start(self, run: L.Trainer, *args: object) -> None:
            rates.append([group["lr"] for o in run.optimizers for group in o.param_groups])

    run = trainer(max_epochs=2, limit_val_batches=0, callbacks=[Watch()])
    run.fit(lit, RandomImages((3, 32, 32), 32, 4))
    assert [step[0] for step in rates[:8:2]] == [0.25, 0.5, 0.75, 1.0]
    assert rates[0][0] == rates[1][0]  # one optimiser step in two batches
    assert 0.1 < rates[-1][0] < 0.4
    assert all(
        step[2:] == ([0.25, 0.25] if waits else step[:2]) for step in rates
    )  # while it waits, it does not warm up
    assert [g["weight_decay"] for o in run.optimizers for g in o.param_groups] == [0.1, 0.0, 0.1, 0.0]


def test_recomputing_is_for_models_with_blocks():
    lit = zoo.LitVQ("vqgan_f16", arch_args=TINY_GAN, grad_checkpointing=True)
    assert lit.model.encoder.grad_checkpointing
    with pytest.raises(ValueError, match="vqvae_conv_small has no blocks to make again; leave grad_checkpointing out"):
        zoo.LitVQ("vqvae_conv_small", grad_checkpointing=True)


@pytest.mark.parametrize("make", [lambda: zoo.LitAutoencoder, lambda: zoo.LitVQ])
def test_from_weights_goes_on_where_the_checkpoint_stands(make: Callable[[], type]):
    lit = make().from_weights("vqvae_conv_small.mnist", lr=1e-4)
    state = hub.load("vqvae_conv_small.mnist").state_dict()
    assert all(torch.equal(v, state[k]) for k, v in lit.model.state_dict().items())
    assert lit.hparams.weights == "mnist"
