"""LitVQ trains VQ-VAE, QLAE and its baselines, LitVQGAN against a discriminator as well, LitPrior the prior of codes.

Codebook use is of whole epochs; InfoMEC is measured where factors are known.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo import hub
from zoo.families.vq.usage import CodebookUsage
from zoo.metrics.infomec import infomec
from zoo.nn.checks import check_least, check_types
from zoo.nn.frozen import fingerprint
from zoo.train import adversarial, optim, parallel
from zoo.train.common import Adversarial, Pretraining


class LitVQ(Pretraining):
    """The published training (van den Oord et al. 2017, A.1; Hsu et al. 2023, C): Adam with decoupled weight decay.

    A batch is (images (B, C, H, W) in [0, 1], labels). Labels never train anything: factors, (B, S) int64, score the
    latents by InfoMEC. Statistics of codes wait for the last of accumulated batches, as gradients do.

    Args:
        arch: `zoo ls '*vq*'` and `zoo ls '*_conv'` list them.
        weights: a tag of that arch to go on from, a checkpoint folder, a run or `hf://org/name`; None starts at random.
        arch_args: keywords of the arch.
        lr: peak learning rate; or leave it out for
        base_lr: peak learning rate per 256 images of an optimiser step.
        weight_decay: decoupled; on what has two axes or more, and on what the model lists besides.
        betas: of Adam.
        clip: largest absolute entry of a gradient, of decayed parameters (QLAE's).
        warmup_epochs: length of the linear warm-up.
        min_lr: where the cosine ends; None keeps the step size.
        infomec_images: how many validation images InfoMEC is measured on; 0 is off.
        compile: let torch compile the model.
    """

    def __init__(
        self,
        arch: str,
        weights: str | None = None,
        arch_args: dict[str, Any] | None = None,
        lr: float | None = None,
        base_lr: float | None = None,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        clip: float | None = None,
        warmup_epochs: float = 0.0,
        min_lr: float | None = None,
        infomec_images: int = 10_000,
        compile: bool = False,
    ):
        check_types(LitVQ, locals())
        super().__init__()
        self.save_hyperparameters()
        self.model = hub.create(arch, weights, **dict(arch_args or {})).to(memory_format=torch.channels_last)
        quantizer = self.model.quantizer
        self.usage = None if quantizer is None else CodebookUsage(quantizer.codebook_size, quantizer.num_codebooks)
        self.latents: list[tuple[Tensor, Tensor]] = []
        self.clip, self.infomec_images = clip, infomec_images  # a recipe of LitVQGAN gives hparams neither
        if compile:
            self.model.compile()

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] → the same after the bottleneck."""
        return self.model.reconstruct(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x = batch[0].contiguous(memory_format=torch.channels_last)
        steps = (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0 or self.trainer.is_last_batch
        out = self.model(x, update=steps)
        self.log_dict({f"train/{k}": v for k, v in (out.losses | out.stats).items()})
        self.log("train/loss", out.loss, prog_bar=True)
        return out.loss

    def on_validation_epoch_end(self) -> None:
        self._summarise("val")

    def on_test_epoch_end(self) -> None:
        self._summarise("test")

    def _evaluate(self, batch: tuple[Tensor, Tensor], batch_idx: int, split: str) -> None:
        x, y = batch
        out = self.model(x)
        error = (out.recon.clamp(0, 1) - x).square().mean((1, 2, 3))  # (B,)
        figures = {"loss": out.loss, "mse": error.mean(), "psnr": (-10 * error.clamp(min=1e-10).log10()).mean()}
        if hasattr(self.model, "variance"):
            figures["error"] = figures["mse"] / self.model.variance
        self.log_dict({f"{split}/{k}": v for k, v in figures.items()}, batch_size=len(x), sync_dist=True)
        if self.usage is not None:
            self.usage.update(out.indices)
        if y.ndim == 2 and sum(len(f) for _, f in self.latents) * self.trainer.world_size < self.infomec_images:
            self.latents.append((out.indices if out.indices.numel() else self.model.forward_features(x).float(), y))
        if split == "val" and batch_idx == 0:
            self.log_pictures(
                "val/reconstruction", lambda: torch.cat([x[:8], out.recon[:8].clamp(0, 1).to(x)]), len(x[:8])
            )

    def _summarise(self, split: str) -> None:
        if self.usage is not None:
            self.log_dict({f"{split}/{k}": v.float() for k, v in self.usage.compute().items()})
            self.usage.reset()
        if self.latents:
            joined = (parallel.rows(torch.cat(parts)) for parts in zip(*self.latents))
            latents, factors = (part[: self.infomec_images] for part in joined)
            self.latents.clear()
            scores = infomec(latents, factors, discrete=not latents.is_floating_point())
            for name in ("infom", "infoe", "infoc"):
                self.log(f"{split}/{name}", getattr(scores, name), prog_bar=True, sync_dist=True)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self.clip is not None:
            torch.nn.utils.clip_grad_value_(optimizer.param_groups[0]["params"], self.clip)


class LitVQGAN(LitVQ, Adversarial):
    """The published training of VQGAN (Esser et al. 2021, §3.1; Sun et al. 2024, §3.2), one pass of the model a step.

    `loss = mean |x̂ - x| + perceptual_weight · LPIPS + losses of the codes + λ · disc_weight · (-mean D(x̂))`, with λ the
    adaptive weight; pictures in [-1, 1]. The discriminator learns by the hinge loss from `disc_start - disc_warmup` on
    and counts in the loss from `disc_start` on. Gradients of either never reach the other. Both optimisers step once in
    `accumulate` batches.

    Args:
        arch: `zoo ls '*vqgan*'` and `zoo ls 'llamagen*'` list them.
        weights, arch_args: as LitVQ's.
        lr: of both optimisers; or leave it out for
        base_lr: learning rate per 256 images of an optimiser step. taming's 4.5e-6 an image is 1.152e-3.
        betas: of Adam.
        reconstruction: "l1", or "l2" (LlamaGen).
        perceptual_weight: of LPIPS; 0 needs no VGG.
        disc_weight: of the adversarial term.
        disc_start: optimiser steps before it counts.
        disc_warmup: for so many steps before, the discriminator learns already.
        adaptive: False sets λ to 1 (LlamaGen).
        largest_weight: of λ.
        accumulate: batches of an optimiser step.
        gradient_clip: largest norm of the autoencoder's gradient; None does not clip.
        grad_checkpointing: keep no activations inside blocks.
    """

    def __init__(
        self,
        arch: str = "vqgan_f16",
        weights: str | None = None,
        arch_args: dict[str, Any] | None = None,
        lr: float | None = None,
        base_lr: float | None = None,
        betas: tuple[float, float] = (0.5, 0.9),
        reconstruction: str = "l1",
        perceptual_weight: float = 1.0,
        disc_weight: float = 0.8,
        disc_start: int = 250_001,
        disc_warmup: int = 1_000,
        adaptive: bool = True,
        largest_weight: float = 1e4,
        accumulate: int = 1,
        gradient_clip: float | None = None,
        grad_checkpointing: bool = False,
    ):
        check_types(LitVQGAN, locals())
        check_least(1, accumulate=accumulate)
        super().__init__(arch, weights, arch_args, lr, base_lr, betas=betas, infomec_images=0)
        self.save_hyperparameters()
        if reconstruction not in ("l1", "l2"):
            raise ValueError(f"reconstruction={reconstruction!r}, allowed l1, l2")
        self.automatic_optimization = False
        self.model.grad_checkpointing = grad_checkpointing
        self.discriminator = adversarial.PatchDiscriminator(self.model.takes.shape[0])
        self.perceptual = adversarial.Perceptual() if perceptual_weight else None
        self.largest_weight = largest_weight

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        h = self.hparams
        x = batch[0].contiguous(memory_format=torch.channels_last)
        last = (batch_idx + 1) % h.accumulate == 0 or self.trainer.is_last_batch
        out = self.model(x, update=last)
        real, fake = 2 * x - 1, 2 * out.recon - 1
        reconstruction = (F.l1_loss if h.reconstruction == "l1" else F.mse_loss)(fake, real)
        figures = out.losses | out.stats
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
        self.log_dict({f"train/{k}": v for k, v in figures.items()})
        self.log("train/loss", loss, prog_bar=True)

    @property
    def last_layer(self) -> Tensor:
        return self.model.decoder.conv_out.weight

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        h = self.hparams
        lr = optim.learning_rate(self.trainer, h.lr, None if h.base_lr is None else h.base_lr * h.accumulate)
        return [
            torch.optim.Adam(m.parameters(), lr, tuple(h.betas), fused=True) for m in (self.model, self.discriminator)
        ]


class LitPrior(Pretraining):
    """The published training of a prior (Sun et al. 2024, §3.3): AdamW, gradients clipped by the trainer.

    A batch is (images (B, C, H, W) in [0, 1], labels (B,) int64). The frozen tokeniser makes codes of them on the way.

    Args:
        arch: `zoo ls 'vqprior*'` lists them.
        tokenizer: the weights that make codes of images: a name, a checkpoint folder or run, `hf://org/name`.
        weights: a tag of that arch to go on from, a checkpoint folder, a run or `hf://org/name`; None starts at random.
        arch_args: keywords of the arch; what the tokeniser tells is filled in.
        num_classes: 0 is a prior without classes.
        lr: peak learning rate; or leave it out for
        base_lr: peak learning rate per 256 images of an optimiser step.
        weight_decay: decoupled; on the matrices, not on embeddings.
        betas: of AdamW.
        warmup_epochs: length of the linear warm-up.
        min_lr: where the cosine ends; None keeps the step size.
        grad_checkpointing: keep no activations inside blocks.
        compile: let torch compile the model.

    Raises:
        ValueError: `weights` that belong to another tokeniser.
    """

    def __init__(
        self,
        arch: str,
        tokenizer: str,
        weights: str | None = None,
        arch_args: dict[str, Any] | None = None,
        num_classes: int = 0,
        lr: float | None = None,
        base_lr: float | None = None,
        weight_decay: float = 0.05,
        betas: tuple[float, float] = (0.9, 0.95),
        warmup_epochs: float = 0.0,
        min_lr: float | None = None,
        grad_checkpointing: bool = False,
        compile: bool = False,
    ):
        check_types(LitPrior, locals())
        super().__init__()
        self.save_hyperparameters()
        found = hub.load(tokenizer)
        _, height, width = found.takes.shape
        told = {
            "image_size": [height, width],
            "channels": found.takes.shape[0],
            "grid": [height // found.factor, width // found.factor],
            "codebook_size": found.quantizer.codebook_size,
            "num_classes": num_classes,
            "tokenizer": tokenizer,
            "tokenizer_hash": fingerprint(found)[:16],
        }
        if weights is None:
            self.model = hub.create(arch, **told | dict(arch_args or {}))
        else:
            self.model = hub.create(arch, weights, tokenizer=tokenizer, **dict(arch_args or {}))
            self.model.tokenizer  # noqa: B018, refuses another one than the weights were trained with
        self.model.grad_checkpointing = grad_checkpointing
        if compile:
            self.model.compile()

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] → logits of their codes, of any class, (B, N, K); `model.sample` draws."""
        return self.model(x).logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = self._loss(batch)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def _loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        codes = self.model.encode(x)  # (B, h, w)
        return self.model(codes, y if self.hparams.num_classes else None).loss

    def _evaluate(self, batch: tuple[Tensor, Tensor], batch_idx: int, split: str) -> None:
        """Nats a code, given the class."""
        self.log(f"{split}/loss", self._loss(batch), batch_size=len(batch[0]), sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        """Samples, where a logger takes pictures."""
        labels = torch.arange(16, device=self.device) % max(1, self.hparams.num_classes)
        labels = labels if self.hparams.num_classes else labels - 1
        self.log_pictures("val/samples", lambda: self.model.sample(labels))
