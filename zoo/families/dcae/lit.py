"""LitDCAE: the three phases of DC-AE's training (Chen et al. 2024, §3.3 and appendix A), one module."""

import fnmatch
import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo import hub
from zoo.families.dcae.model import DCAEOutput, mask_channels
from zoo.metrics.moments import Moments
from zoo.nn.checks import check_least, check_types
from zoo.train import adversarial, optim
from zoo.train.common import Adversarial

# What each phase trains: everything; what lies next to the latents; what makes the pixels.
TRAINABLE = {
    1: ("*",),
    2: ("encoder.head.*", "low_rank.*", "decoder.stem.*"),
    3: ("decoder.norm.*", "decoder.head.*"),
}


class LitDCAE(Adversarial):
    """One of the three published phases; each starts from the weights of the one before.

    | phase | images | trains | loss | AdamW as published |
    |---|---|---|---|---|
    | 1 | small | everything | L1 + LPIPS | lr 6.4e-5, betas (0.9, 0.999), decay 0.1 |
    | 2 | large | encoder's head, decoder's stem | L1 + LPIPS | lr 1.6e-5, betas (0.9, 0.999), decay 0.001 |
    | 3 | small | decoder's head | L1 + LPIPS + PatchGAN | lr 5.4e-5, betas (0.5, 0.9) |

    Frozen parts run without gradients, their batch norms as in eval mode; phase 3 leaves every latent bit for bit as it
    was. There the discriminator learns by the hinge loss and counts with the adaptive weight λ of Esser et al. (2021);
    gradients of either never reach the other, and both optimisers step once in `accumulate` batches.

    A batch is (images (B, C, H, W) in [0, 1], labels), the labels are not used. Losses are of pixels in [-1, 1].
    After each validation the model's `latent_mean` and `latent_std` are those of the validation images.

    Args:
        arch: `zoo ls 'dcae*'` lists them.
        weights: a tag of that arch to go on from, a checkpoint folder, a run or `hf://org/name`; None starts at random.
        arch_args: keywords of the arch.
        phase: 1, 2 or 3.
        trainable: shell patterns of what is trained instead of the phase's, by parameter names.
        lr: peak learning rate; or leave it out for
        base_lr: peak learning rate per 256 images of an optimiser step.
        weight_decay: decoupled; on what has two axes or more.
        betas: of AdamW.
        warmup_epochs: length of the linear warm-up (phases 1 and 2).
        min_lr: where the cosine ends; None keeps the step size (phases 1 and 2).
        perceptual_weight: of LPIPS; 0 needs no VGG and leaves L1.
        disc_weight: of the adversarial term, times λ (phase 3).
        disc_warmup: optimiser steps in which the discriminator learns and does not count yet (phase 3).
        accumulate: batches of an optimiser step (phase 3; before, it is Trainer's `accumulate_grad_batches`).
        mask_channels: each step keeps so many first channels of the latents, one of these (DC-AE 1.5, §3.2).
        equivariance_weight: of `L1(decode(z / 2), x / 2)`, halved in size (Skorokhodov et al. 2025, §3.3).
        nuclear_weight: of the nuclear norm of the matrix on the latents, `arch_args: {low_rank: true}` (LoRAE).
        grad_checkpointing: keep no activations inside blocks.
        compile: let torch compile the model.

    Raises:
        ValueError: a phase after the first without weights, patterns that match nothing, an option of another phase.
    """

    def __init__(
        self,
        arch: str,
        weights: str | None = None,
        arch_args: dict[str, Any] | None = None,
        phase: int = 1,
        trainable: Sequence[str] | None = None,
        lr: float | None = None,
        base_lr: float | None = None,
        weight_decay: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.999),
        warmup_epochs: float = 0.0,
        min_lr: float | None = None,
        perceptual_weight: float = 1.0,
        disc_weight: float = 0.5,
        disc_warmup: int = 0,
        accumulate: int = 1,
        mask_channels: Sequence[int] | None = None,
        equivariance_weight: float = 0.0,
        nuclear_weight: float = 0.0,
        grad_checkpointing: bool = False,
        compile: bool = False,
    ):
        check_types(LitDCAE, locals())
        check_least(1, accumulate=accumulate)
        super().__init__()
        self.save_hyperparameters()
        if phase not in TRAINABLE:
            raise ValueError(f"phase={phase}, allowed 1, 2, 3")
        if phase > 1 and weights is None:
            raise ValueError(
                f"phase {phase} refines a trained autoencoder: give the weights of phase {phase - 1}, a name, a "
                "checkpoint folder or a run"
            )
        if phase < 3 and accumulate != 1:
            raise ValueError(f"accumulate={accumulate} is phase 3's; give --trainer.accumulate_grad_batches")
        self.model = hub.create(arch, weights, **dict(arch_args or {})).to(memory_format=torch.channels_last)
        if nuclear_weight and self.model.low_rank is None:
            raise ValueError("nuclear_weight needs the matrix on the latents: arch_args: {low_rank: true}")
        for keep in mask_channels or ():
            if not 1 <= keep <= self.model.latent_channels:
                raise ValueError(f"mask_channels holds {keep}, allowed 1 to {self.model.latent_channels}")
        _train_only(self.model, trainable or TRAINABLE[phase])
        self.model.grad_checkpointing = grad_checkpointing
        self.perceptual = adversarial.Perceptual() if perceptual_weight else None
        self.discriminator = adversarial.PatchDiscriminator(self.model.takes.shape[0]) if phase == 3 else None
        self.automatic_optimization = phase < 3
        self.moments = Moments((self.model.latent_channels, 1, 1))
        if compile:
            self.model.compile()

    def train(self, mode: bool = True) -> "LitDCAE":
        super().train(mode)
        for module in self.model.modules():  # frozen statistics stay as they are
            if isinstance(module, nn.BatchNorm2d) and not module.weight.requires_grad:
                module.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] → the same after the latents."""
        return self.model.reconstruct(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor | None:
        x, h = batch[0], self.hparams
        out = self._pass(x)
        recon = out.recon.to(torch.promote_types(out.recon.dtype, torch.float32))  # (B, C, H, W)
        real, fake = 2 * x - 1, 2 * recon - 1
        loss = F.l1_loss(fake, real)
        figures = {"reconstruction": loss}
        if self.perceptual is not None:
            with torch.autocast(x.device.type, enabled=False):
                figures["perceptual"] = self.perceptual(fake, real)
            loss = loss + h.perceptual_weight * figures["perceptual"]
        if h.equivariance_weight:
            figures["equivariance"] = self._equivariance(x, out.latents)
            loss = loss + h.equivariance_weight * figures["equivariance"]
        if h.nuclear_weight:
            figures["nuclear"] = torch.linalg.matrix_norm(self.model.low_rank.weight[:, :, 0, 0].float(), "nuc")
            loss = loss + h.nuclear_weight * figures["nuclear"]
        if h.phase == 3:
            with torch.autocast(x.device.type, enabled=False):  # where others met NaN in bfloat16
                last = (batch_idx + 1) % h.accumulate == 0 or self.trainer.is_last_batch
                loss = self.adversarial_step(loss, loss, real, fake, last, figures, counts=self.steps >= h.disc_warmup)
        self.log_dict({f"train/{k}": v for k, v in figures.items()})
        self.log("train/loss", loss, prog_bar=True)
        return loss if h.phase < 3 else None

    def _pass(self, x: Tensor) -> DCAEOutput:
        kept = self.hparams.mask_channels
        if not kept:
            return self.model(x)
        z = mask_channels(self.model.encode(x), random.choice(kept))  # (B, c, h, w)
        recon = self.model.decode_unclamped(z)  # (B, C, H, W)
        return DCAEOutput((recon - x).abs().mean(), recon, z)

    def _equivariance(self, x: Tensor, z: Tensor) -> Tensor:
        """How far images of halved latents are from halved images."""
        small = F.interpolate(z, scale_factor=0.5, mode="bilinear")  # (B, c, h/2, w/2)
        wanted = F.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True)  # (B, C, H/2, W/2)
        return F.l1_loss(2 * self.model.decode_unclamped(small), 2 * wanted)

    @property
    def last_layer(self) -> Tensor:
        head = self.model.decoder.head
        return getattr(head, "conv", head).weight

    def _evaluate(self, batch: tuple[Tensor, Tensor], batch_idx: int, split: str) -> None:
        x = batch[0]
        out = self.model(x)
        error = (out.recon.clamp(0, 1) - x).square().mean((1, 2, 3))  # (B,)
        figures = {"loss": out.loss, "mse": error.mean(), "psnr": (-10 * error.clamp(min=1e-10).log10()).mean()}
        if self.perceptual is not None:
            figures["perceptual"] = self.perceptual(2 * out.recon.clamp(0, 1) - 1, 2 * x - 1)
        self.log_dict({f"{split}/{k}": v for k, v in figures.items()}, batch_size=len(x), sync_dist=True)
        if split == "val":
            self.moments.update(out.latents)
            if batch_idx == 0:
                self.log_pictures(
                    "val/reconstruction", lambda: torch.cat([x[:8], out.recon[:8].clamp(0, 1).to(x)]), len(x[:8])
                )

    def on_validation_epoch_end(self) -> None:
        mean, std = self.moments.compute()  # (c, 1, 1) each, of all processes
        self.moments.reset()
        if not self.trainer.sanity_checking:
            self.model.latent_mean.copy_(mean.flatten())
            self.model.latent_std.copy_(std.flatten())

    def configure_optimizers(self) -> dict | list[torch.optim.Optimizer]:
        h = self.hparams
        if h.phase < 3:
            return super().configure_optimizers()
        lr = optim.learning_rate(self.trainer, h.lr, None if h.base_lr is None else h.base_lr * h.accumulate)
        groups = (optim.decay_groups(self.model, h.weight_decay), self.discriminator.parameters())
        return [torch.optim.AdamW(g, lr, tuple(h.betas), weight_decay=0.0, fused=True) for g in groups]


def _train_only(model: nn.Module, patterns: Sequence[str]) -> None:
    trained = 0
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(fnmatch.fnmatchcase(name, p) for p in patterns))
        trained += parameter.requires_grad
    if not trained:
        parts = sorted({".".join(n.split(".")[:2]) for n, _ in model.named_parameters()})
        raise ValueError(f"trainable={list(patterns)} matches no parameter; parts are {', '.join(parts)}")
