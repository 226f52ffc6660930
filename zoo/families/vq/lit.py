"""LitVQ trains VQ-VAE, QLAE and its baselines, LitVQGAN against a discriminator as well, LitPrior the prior of codes.

Codebook use is of whole epochs; InfoMEC is measured where factors are known.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo import hub
from zoo.families.vq.model import VQVAE
from zoo.families.vq.prior import CodePrior
from zoo.families.vq.qlae import LatentAutoencoder
from zoo.families.vq.quantize import VQOutput
from zoo.families.vq.usage import CodebookUsage
from zoo.families.vq.vqgan import VQGAN
from zoo.metrics.infomec import infomec
from zoo.nn.frozen import fingerprint
from zoo.train import adversarial, parallel
from zoo.train.autoencode import Adversarial, LitAutoencoder
from zoo.train.common import Training, check_class, frozen_name
from zoo.train.optim import Rate

Coded = VQVAE | VQGAN | LatentAutoencoder


class CountsCodes(LitAutoencoder):
    """What trainings of a model with codes share: images lie channels last, and the use of codes is of whole epochs."""

    model: Coded
    averaged: Coded

    def __init__(self, arch: str, **common: Any):
        super().__init__(arch, **common)
        quantizer = self.model.quantizer
        self.usage = None if quantizer is None else CodebookUsage(quantizer.codebook_size, quantizer.num_codebooks)

    def make_model(self) -> Coded:
        model = super().make_model()
        if not isinstance(model, Coded):
            raise ValueError(f"{self.hparams.arch} has no quantiser; train it with zoo.LitAutoencoder")
        return model.to(memory_format=torch.channels_last)

    def evaluate(self, batch: tuple[Tensor, Tensor], batch_idx: int, split: str) -> VQOutput:
        out = super().evaluate(batch, batch_idx, split)
        if self.usage is not None:
            self.usage.update(out.indices)
        return out

    def measure(self, x: Tensor, out: VQOutput) -> dict[str, Tensor]:
        figures = super().measure(x, out)
        if isinstance(self.model, VQVAE):
            figures["error"] = figures["mse"] / self.model.variance
        return figures

    def on_validation_epoch_end(self) -> None:
        self.summarise("val")

    def on_test_epoch_end(self) -> None:
        self.summarise(self.tested)

    def summarise(self, split: str) -> None:
        """Log what was collected in an epoch, and begin anew."""
        if self.usage is not None:
            self.log_dict({f"{split}/{k}": v.float() for k, v in self.usage.compute().items()})
            self.usage.reset()


class LitVQ(CountsCodes):
    """The published training (van den Oord et al. 2017, A.1; Hsu et al. 2023, C): Adam with decoupled weight decay.

    A batch is (images (B, C, H, W) in [0, 1], labels). Labels never train anything: factors, (B, S) int64, score the
    latents by InfoMEC. Statistics of codes wait for the last of accumulated batches, as gradients do.

    Args:
        clip: largest absolute entry of a gradient, of decayed parameters (QLAE's).
        infomec_images: how many validation images InfoMEC is measured on; 0 is off.
    """

    usual = Rate(lr=2e-4)

    def __init__(self, arch: str, *, clip: float | None = None, infomec_images: int = 10_000, **common: Any):
        super().__init__(arch, **common)
        self.latents: list[tuple[Tensor, Tensor]] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x = batch[0].contiguous(memory_format=torch.channels_last)
        steps = (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0 or self.trainer.is_last_batch
        out = self.model(x, update=steps)
        self.log_step(out.loss, out.losses | out.stats)
        return out.loss

    def evaluate(self, batch: tuple[Tensor, Tensor], batch_idx: int, split: str) -> VQOutput:
        out, (x, y) = super().evaluate(batch, batch_idx, split), batch
        seen = sum(len(factors) for _, factors in self.latents) * self.trainer.world_size
        if y.ndim == 2 and isinstance(self.averaged, LatentAutoencoder) and seen < self.hparams.infomec_images:
            with torch.autocast(x.device.type, enabled=False):  # it rounds latents, whose distances InfoMEC measures
                self.latents.append((self.averaged.encode(x), y))  # (B, L)
        return out

    def summarise(self, split: str) -> None:
        super().summarise(split)
        if self.latents:
            joined = (parallel.rows(torch.cat(parts)) for parts in zip(*self.latents))
            latents, factors = (part[: self.hparams.infomec_images] for part in joined)
            self.latents.clear()
            scores = infomec(latents, factors, discrete=not latents.is_floating_point())
            for name in ("infom", "infoe", "infoc"):
                self.log(f"{split}/{name}", getattr(scores, name), prog_bar=True, sync_dist=True)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self.hparams.clip is not None:
            torch.nn.utils.clip_grad_value_(optimizer.param_groups[0]["params"], self.hparams.clip)


class LitVQGAN(Adversarial, CountsCodes):
    """The published training of VQGAN (Esser et al. 2021, §3.1; Sun et al. 2024, §3.2), one pass of the model a step.

    `loss = mean |x̂ - x| + perceptual_weight · LPIPS + losses of the codes + λ · disc_weight · (-mean D(x̂))`, with λ the
    adaptive weight; pictures in [-1, 1]. The discriminator learns by the hinge loss from `disc_start - disc_warmup` on
    and counts in the loss from `disc_start` on; as published it begins with both at once. Gradients of either never
    reach the other. Both optimisers step once in `accumulate` batches.

    Args:
        reconstruction: "l1", or "l2" (LlamaGen).
        disc_start: optimiser steps before the adversarial term counts.
        disc_warmup: for so many steps before, the discriminator learns already.
        adaptive: False sets λ to 1 (LlamaGen).
        largest_weight: of λ.
        gradient_clip: largest norm of the gradient of either network (LlamaGen); None does not clip.
    """

    usual = Rate(base_lr=1.152e-3)  # 4.5e-6 an image

    def __init__(
        self,
        arch: str = "vqgan_f16",
        *,
        betas: tuple[float, float] = (0.5, 0.9),
        reconstruction: str = "l1",
        disc_start: int = 250_001,
        disc_warmup: int = 0,
        adaptive: bool = True,
        largest_weight: float = 1e4,
        gradient_clip: float | None = None,
        **common: Any,
    ):
        super().__init__(arch, betas=betas, **common)
        if reconstruction not in ("l1", "l2"):
            raise ValueError(f"reconstruction={reconstruction!r}, allowed l1, l2")
        self.automatic_optimization = False
        self.discriminator = adversarial.PatchDiscriminator(self.model.takes.shape[0])
        self.perceptual = adversarial.Perceptual() if self.hparams.perceptual_weight else None
        self.largest_weight = largest_weight

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        h = self.hparams
        x = batch[0].contiguous(memory_format=torch.channels_last)
        last = (batch_idx + 1) % h.accumulate == 0 or self.trainer.is_last_batch
        out = self.model(x, update=last)
        real, fake = 2 * x - 1, 2 * out.recon - 1
        reconstruction = (F.l1_loss if h.reconstruction == "l1" else F.mse_loss)(fake, real)
        figures: dict[str, Tensor | float] = out.losses | out.stats
        if self.perceptual is not None:
            figures["perceptual"] = self.perceptual(fake, real)
            reconstruction = reconstruction + h.perceptual_weight * figures["perceptual"]
        loss = self.adversarial_step(
            reconstruction + sum(v for k, v in out.losses.items() if k != "reconstruction"),
            reconstruction,
            real,
            fake,
            last,
            figures,
            counts=self.steps >= h.disc_start,
            learns=self.steps >= h.disc_start - h.disc_warmup,
            adaptive=h.adaptive,
            clip=h.gradient_clip,
        )
        self.log_step(loss, figures)

    @property
    def last_layer(self) -> Tensor:
        return check_class(self.model, VQGAN).decoder.conv_out.weight


class LitPrior(Training):
    """The published training of a prior (Sun et al. 2024, §3.3): AdamW, gradients clipped by the trainer.

    A batch is (images (B, C, H, W) in [0, 1], labels (B,) int64). The frozen tokeniser makes codes of them on the way.

    Args:
        tokenizer: the weights that make codes of images: a name, a checkpoint folder or run, `hf://org/name`; None is
            the arch's.
        num_classes: 0 is a prior without classes.
        weight_decay: decoupled; on the matrices, not on embeddings.

    Raises:
        ValueError: `weights` that belong to another tokeniser, or a tokeniser whose codes are no map.
    """

    usual = Rate(lr=1e-4)
    model: CodePrior

    def __init__(
        self,
        arch: str,
        tokenizer: str | None = None,
        *,
        num_classes: int = 0,
        weight_decay: float = 0.05,
        betas: tuple[float, float] = (0.9, 0.95),
        **common: Any,
    ):
        super().__init__(arch, weight_decay=weight_decay, betas=betas, **common)

    def make_model(self) -> CodePrior:
        h = self.hparams
        args = dict(h.arch_args or {})
        if h.weights is not None:
            own = {} if h.tokenizer is None else {"tokenizer": h.tokenizer}
            model = check_class(hub.create(h.arch, h.weights, **own | args), CodePrior)
            model.tokenizer  # noqa: B018, refuses another one than the weights were trained with
            return model
        name = h.tokenizer or frozen_name(h.arch, args, "_tokenizer")
        tokenizer = hub.load(name)
        if not isinstance(tokenizer, VQVAE | VQGAN):
            raise ValueError(f"tokenizer={name} is a {type(tokenizer).__name__}, allowed VQVAE and VQGAN")
        channels, height, width = tokenizer.takes.shape
        of_tokenizer = {
            "image_size": [height, width],
            "channels": channels,
            "grid": [height // tokenizer.factor, width // tokenizer.factor],
            "codebook_size": tokenizer.quantizer.codebook_size,
            "num_classes": h.num_classes,
            "tokenizer": name,
            "tokenizer_hash": fingerprint(tokenizer)[:16],
        }
        return check_class(hub.create(h.arch, **of_tokenizer | args), CodePrior)

    @property
    def reads_labels(self) -> bool:
        return bool(self.hparams.num_classes and self.model.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] → logits of their codes, of any class, (B, N, K); `model.sample` draws."""
        return self.model(x).logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = self._loss(batch)
        self.log_step(loss)
        return loss

    def _loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        codes = self.model.encode(x)  # (B, h, w)
        return self.model(codes, self.labels(y) if self.reads_labels else None).loss

    def evaluate(self, batch: tuple[Tensor, Tensor], batch_idx: int, split: str) -> None:
        """Nats a code, given the class."""
        self.log(f"{split}/loss", self._loss(batch), batch_size=len(batch[0]), sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        """Samples, where a logger takes pictures."""
        self.log_samples(self.model.sample, self.model.num_classes)
