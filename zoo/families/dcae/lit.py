"""LitDCAE: the three phases of DC-AE's training (Chen et al. 2024, §3.3 and appendix A), one module."""

import fnmatch
import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.families.dcae.model import DCAE, DCAEOutput, mask_channels
from zoo.metrics.moments import Moments
from zoo.train import adversarial
from zoo.train.autoencode import Adversarial
from zoo.train.common import check_class
from zoo.train.optim import Rate

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
        phase: 1, 2 or 3.
        trainable: shell patterns of what is trained instead of the phase's, by parameter names.
        weight_decay: decoupled; on what has two axes or more of the autoencoder, never of the discriminator.
        disc_weight: of the adversarial term, times λ (phase 3).
        disc_warmup: optimiser steps in which the discriminator learns and does not count yet (phase 3).
        accumulate: batches of an optimiser step (phase 3; before, it is Trainer's `accumulate_grad_batches`).
        mask_channels: each step keeps so many first channels of the latents, one of these (DC-AE 1.5, §3.2).
        equivariance_weight: of `L1(decode(z / 2), x / 2)`, halved in size by the same mean (Skorokhodov et al. 2025,
            §3.3).
        nuclear_weight: of the nuclear norm of the matrix on the latents, `arch_args: {low_rank: true}`
            (LoRAE, arXiv:2310.16194).

    Raises:
        ValueError: a phase after the first without weights, patterns that match nothing, an option of another phase.
    """

    decays_discriminator = False
    usual = Rate(lr=6.4e-5)
    model: DCAE
    averaged: DCAE

    def __init__(
        self,
        arch: str,
        *,
        phase: int = 1,
        trainable: Sequence[str] | None = None,
        weight_decay: float = 0.1,
        disc_weight: float = 0.5,
        disc_warmup: int = 0,
        mask_channels: Sequence[int] | None = None,
        equivariance_weight: float = 0.0,
        nuclear_weight: float = 0.0,
        **common: Any,
    ):
        super().__init__(arch, weight_decay=weight_decay, disc_weight=disc_weight, **common)
        if nuclear_weight and self.model.low_rank is None:
            raise ValueError("nuclear_weight needs the matrix on the latents: arch_args: {low_rank: true}")
        for keep in mask_channels or ():
            if not 1 <= keep <= self.model.latent_channels:
                raise ValueError(f"mask_channels holds {keep}, allowed 1 to {self.model.latent_channels}")
        self.perceptual = adversarial.Perceptual() if self.hparams.perceptual_weight else None
        self.discriminator = adversarial.PatchDiscriminator(self.model.takes.shape[0]) if phase == 3 else None
        self.automatic_optimization = phase < 3
        self.moments = Moments((self.model.latent_channels, 1, 1))

    def make_model(self) -> DCAE:
        h = self.hparams
        if h.phase not in TRAINABLE:
            raise ValueError(f"phase={h.phase}, allowed 1, 2, 3")
        if h.phase > 1 and h.weights is None:
            raise ValueError(
                f"phase {h.phase} refines a trained autoencoder: give the weights of phase {h.phase - 1}, a name, a "
                "checkpoint folder or a run"
            )
        if h.phase < 3 and h.accumulate != 1:
            raise ValueError(f"accumulate={h.accumulate} is phase 3's; give --trainer.accumulate_grad_batches")
        model = check_class(super().make_model(), DCAE).to(memory_format=torch.channels_last)
        _train_only(model, h.trainable or TRAINABLE[h.phase])
        return model

    def train(self, mode: bool = True) -> "LitDCAE":
        super().train(mode)
        for module in self.model.modules():  # frozen statistics stay as they are
            if isinstance(module, nn.BatchNorm2d) and not module.weight.requires_grad:
                module.eval()
        return self

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor | None:
        x, h = batch[0], self.hparams
        out = self._pass(x)
        recon = out.recon.to(torch.promote_types(out.recon.dtype, torch.float32))  # (B, C, H, W)
        real, fake = 2 * x - 1, 2 * recon - 1
        loss = F.l1_loss(fake, real)
        figures: dict[str, Tensor | float] = {"reconstruction": loss}
        if self.perceptual is not None:
            with torch.autocast(x.device.type, enabled=False):
                figures["perceptual"] = self.perceptual(fake, real)
            loss = loss + h.perceptual_weight * figures["perceptual"]
        if h.equivariance_weight:
            figures["equivariance"] = self._equivariance(x, out.latents)
            loss = loss + h.equivariance_weight * figures["equivariance"]
        if h.nuclear_weight and self.model.low_rank is not None:
            figures["nuclear"] = torch.linalg.matrix_norm(self.model.low_rank.weight[:, :, 0, 0].float(), "nuc")
            loss = loss + h.nuclear_weight * figures["nuclear"]
        if h.phase == 3:
            with torch.autocast(x.device.type, enabled=False):  # where others met NaN in bfloat16
                last = (batch_idx + 1) % h.accumulate == 0 or self.trainer.is_last_batch
                loss = self.adversarial_step(loss, loss, real, fake, last, figures, counts=self.steps >= h.disc_warmup)
        self.log_step(loss, figures)
        return loss if h.phase < 3 else None

    def _pass(self, x: Tensor) -> DCAEOutput:
        counts = self.hparams.mask_channels
        if not counts:
            return self.model(x)
        z = mask_channels(self.model.encode(x), random.choice(counts))  # (B, c, h, w)
        recon = self.model.decode_unclamped(z)  # (B, C, H, W)
        return DCAEOutput((recon - x).abs().mean(), recon, z)

    def _equivariance(self, x: Tensor, z: Tensor) -> Tensor:
        """How far images of halved latents are from halved images; both are halved by the mean of 2×2."""
        small, wanted = F.avg_pool2d(z, 2), F.avg_pool2d(x, 2)  # (B, c, h/2, w/2), (B, C, H/2, W/2)
        return F.l1_loss(2 * self.model.decode_unclamped(small), 2 * wanted)

    @property
    def last_layer(self) -> Tensor:
        head = self.model.decoder.head
        return (head if isinstance(head, nn.Conv2d) else head.conv).weight

    def evaluate(self, batch: tuple[Tensor, Tensor], batch_idx: int, split: str) -> DCAEOutput:
        out = super().evaluate(batch, batch_idx, split)
        if split == "val":
            self.moments.update(out.latents)
        return out

    def on_validation_epoch_end(self) -> None:
        mean, std = self.moments.compute()  # (c, 1, 1) each, of all processes
        self.moments.reset()
        if not self.trainer.sanity_checking:
            for model in (self.model, self.averaged):
                model.get_buffer("latent_mean").copy_(mean.flatten())
                model.get_buffer("latent_std").copy_(std.flatten())


def _train_only(model: nn.Module, patterns: Sequence[str]) -> None:
    trained = 0
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(fnmatch.fnmatchcase(name, p) for p in patterns))
        trained += parameter.requires_grad
    if not trained:
        parts = sorted({".".join(n.split(".")[:2]) for n, _ in model.named_parameters()})
        raise ValueError(f"trainable={list(patterns)} matches no parameter; parts are {', '.join(parts)}")
