"""LitRAE trains a decoder for a frozen encoder, LitDiT a diffusion transformer in its latents (Zheng et al. 2025)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo import hub
from zoo.families.rae import encoder as encoders
from zoo.metrics.moments import Moments
from zoo.nn.checks import check_least, check_types
from zoo.nn.frozen import Frozen, fingerprint
from zoo.train import adversarial, optim, parallel
from zoo.train.common import Adversarial, Averaging


class LitRAE(Averaging, Adversarial):
    """The published training: L1 + LPIPS, later against a discriminator that sees through a frozen DINO.

    `loss = mean |x̂ - x| + perceptual_weight · LPIPS + λ · disc_weight · (-mean D(x̂))`, λ the adaptive weight, pictures
    in [-1, 1]. The encoder runs once a step and without gradients; the discriminator learns by the hinge loss from the
    same reconstructions, rounded to the 256 levels of a file, augmented differentiably. Each optimiser steps once in
    `accumulate` batches, each has linear warm-up and a cosine. After the first epoch the model's `latent_mean` and
    `latent_std` are those of its training images, exactly.

    A batch is (images (B, 3, H, W) in [0, 1], labels), or ((images, tokens (B, C, h, w)), labels) where tokens were
    written before; the labels are not used.

    Args:
        arch: `zoo ls 'rae*'` lists them.
        weights: a tag of that arch to go on from, a checkpoint folder, a run or `hf://org/name`; None starts at random.
        arch_args: keywords of the arch; what the encoder tells is filled in, its hash with it.
        lr: peak learning rate of both optimisers; or leave it out for
        base_lr: peak learning rate per 256 images of an optimiser step.
        weight_decay: decoupled; on what has two axes or more.
        betas: of AdamW.
        warmup_epochs: length of the linear warm-up.
        min_lr: where the cosine ends; None keeps the step size.
        perceptual_weight: of LPIPS; 0 needs no VGG.
        disc_weight: of the adversarial term; 0 trains without a discriminator.
        disc_start: epoch from which it counts.
        disc_warmup: for so many epochs before, the discriminator learns already.
        disc_backbone: what the discriminator sees through, `timm:MODEL.TAG` or weights of this zoo.
        disc_size: side in px that it sees; None is what it was trained at.
        disc_taps: after which of its blocks, besides the last.
        ema: decay of the moving average of the decoder; 0 is off.
        accumulate: batches of an optimiser step.
        grad_checkpointing: keep no activations inside blocks.
        compile: let torch compile encoder and decoder.

    Raises:
        ValueError: an encoder that does not fit the arch, or not the one that `weights` were trained with.
        ConnectionError: the weights of an encoder cannot be had.
    """

    weight_eps = 1e-6

    def __init__(
        self,
        arch: str,
        weights: str | None = None,
        arch_args: dict[str, Any] | None = None,
        lr: float | None = None,
        base_lr: float | None = None,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.95),
        warmup_epochs: float = 1.0,
        min_lr: float | None = None,
        perceptual_weight: float = 1.0,
        disc_weight: float = 0.75,
        disc_start: float = 8.0,
        disc_warmup: float = 2.0,
        disc_backbone: str = "timm:vit_small_patch8_224.dino",
        disc_size: int | None = None,
        disc_taps: Sequence[int] = (2, 5, 8, 11),
        ema: float = 0.9978,
        accumulate: int = 1,
        grad_checkpointing: bool = False,
        compile: bool = False,
    ):
        check_types(LitRAE, locals())
        check_least(1, accumulate=accumulate)
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.model = hub.create(arch, weights, **dict(arch_args or {}))
        if weights is None:
            told = fingerprint(self.model.encoder.vit)[:16]
            self.model.zoo_config["args"].setdefault("encoder_hash", told)
        self.model.grad_checkpointing = grad_checkpointing
        self.perceptual = adversarial.Perceptual() if perceptual_weight else None
        self.discriminator = None
        if disc_weight:
            self.backbone = Frozen("disc_backbone", disc_backbone, "", lambda: encoders.load(disc_backbone, disc_size))
            dim = self.backbone().vit.norm.weight.numel()
            self.discriminator = adversarial.TokenDiscriminator(self._taps, dim, len(disc_taps) + 1)
        self.moments = Moments(self.model.latent_mean.shape) if weights is None else None
        self.keep_average()
        if compile:
            self.model.decoder.compile()
            self.model.encoder.compile()

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] → the same after the latents."""
        return self.averaged.reconstruct(x)

    def training_step(self, batch: tuple[Any, Tensor], batch_idx: int) -> None:
        h, model = self.hparams, self.model
        x, z = batch[0] if isinstance(batch[0], list | tuple) else (batch[0], None)
        z = model.encode(x) if z is None else z  # (B, C, h, w)
        if self.moments is not None and self.current_epoch == 0:
            self.moments.update(z)
        recon = model.decode_unclamped(model.add_noise(z) if model.noise else z)  # (B, 3, H, W)
        real, fake = 2 * x.to(recon.dtype) - 1, 2 * recon - 1
        figures = {"reconstruction": F.l1_loss(fake, real)}
        loss = figures["reconstruction"]
        if self.perceptual is not None:
            with torch.autocast(x.device.type, enabled=False):
                figures["perceptual"] = self.perceptual(fake, real)
            loss = loss + h.perceptual_weight * figures["perceptual"]
        last = (batch_idx + 1) % h.accumulate == 0 or self.trainer.is_last_batch
        counts = learns = False
        if self.discriminator is not None:
            epoch = self.current_epoch + batch_idx / self.trainer.num_training_batches
            counts, learns = epoch >= h.disc_start, epoch >= h.disc_start - h.disc_warmup
        with torch.autocast(x.device.type, enabled=False):
            loss = self.adversarial_step(loss, loss, real, fake, last, figures, counts, learns)
        if last:
            for scheduler in self._schedulers():
                scheduler.step()
            self.update_average()
        self.log_dict({f"train/{k}": v for k, v in figures.items()})
        self.log("train/loss", loss, prog_bar=True)

    def judge(self, x: Tensor) -> Tensor:
        if not x.requires_grad:
            x = ((x + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1  # as a file would hold it
        return self.discriminator(adversarial.differentiable_augment(x))

    def _taps(self, x: Tensor) -> list[Tensor]:
        return self.backbone().to(x).taps(x, self.hparams.disc_taps)

    def _schedulers(self) -> list:
        found = self.lr_schedulers()
        return found if isinstance(found, list) else [] if found is None else [found]

    @property
    def last_layer(self) -> Tensor:
        return self.model.decoder.head.weight

    def on_train_epoch_end(self) -> None:
        if self.moments is not None and self.current_epoch == 0:
            mean, std = self.moments.compute()
            for model in (self.model, self.averaged):
                model.latent_mean.copy_(mean)
                model.latent_std.copy_(std)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        super().on_save_checkpoint(checkpoint)
        for key, name in self._sums():  # of all processes; the first one goes on with them
            checkpoint["state_dict"][key] = parallel.total(getattr(self.moments, name))

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        super().on_load_checkpoint(checkpoint)
        for key, _ in self._sums() if self.global_rank else ():
            checkpoint["state_dict"][key] = torch.zeros_like(checkpoint["state_dict"][key])

    def _sums(self) -> list[tuple[str, str]]:
        """Of the moments: keys in a state dict, and attributes."""
        return [] if self.moments is None else [(f"moments.{n}", n) for n in ("count", "first", "second")]

    def _evaluate(self, batch: tuple[Any, Tensor], batch_idx: int, split: str) -> None:
        x, z = batch[0] if isinstance(batch[0], list | tuple) else (batch[0], None)
        model = self.averaged
        recon = model.decode_unclamped(model.encode(x) if z is None else z)  # (B, 3, H, W)
        error = (recon.clamp(0, 1) - x).square().mean((1, 2, 3))  # (B,)
        figures = {"loss": (recon - x).abs().mean(), "psnr": (-10 * error.clamp(min=1e-10).log10()).mean()}
        if self.perceptual is not None:
            figures["perceptual"] = self.perceptual(2 * recon.clamp(0, 1) - 1, 2 * x - 1)
        self.log_dict({f"{split}/{k}": v for k, v in figures.items()}, batch_size=len(x), sync_dist=True)
        if split == "val" and batch_idx == 0:
            self.log_reconstructions(x, recon)

    def configure_optimizers(self) -> tuple[list, list]:
        h = self.hparams
        lr = optim.learning_rate(self.trainer, h.lr, None if h.base_lr is None else h.base_lr * h.accumulate)
        parts = [self.model] if self.discriminator is None else [self.model, self.discriminator]
        groups = [optim.decay_groups(part, h.weight_decay) for part in parts]
        optimizers = [torch.optim.AdamW(g, lr, tuple(h.betas), fused=True) for g in groups]
        least = lr if h.min_lr is None else h.min_lr
        plans = [optim.warmup_cosine(o, self.trainer, lr, least, h.warmup_epochs, h.accumulate) for o in optimizers]
        return optimizers, [p["lr_scheduler"] for p in plans]


class LitDiT(Averaging):
    """The published training of a diffusion transformer in the latents of a frozen autoencoder (§5 and appendix D).

    A batch is (normalised latents (B, C, h, w), labels (B,) int64), LatentData's: nothing is encoded on the way. The
    learning rate is constant, then falls on a line. Gradients are clipped by the trainer.

    Args:
        arch: `zoo ls 'ditdh*'` lists them.
        autoencoder: weights that made the latents: a name, a checkpoint folder, a run or `hf://org/name`.
        weights: a tag of that arch to go on from, a checkpoint folder, a run or `hf://org/name`; None starts at random.
        arch_args: keywords of the arch; what the autoencoder tells is filled in.
        num_classes: of the labels; 0 is a model without classes.
        lr: peak learning rate; or leave it out for
        base_lr: peak learning rate per 256 latents of an optimiser step.
        weight_decay: decoupled; on the matrices.
        betas: of AdamW.
        warmup_epochs: length of the linear warm-up.
        decay_epoch: when the step size begins to fall; None keeps it.
        min_lr: where it ends.
        ema: decay of the moving average, which is what draws; 0 is off.
        grad_checkpointing: keep no activations inside blocks.
        compile: let torch compile the model.

    Raises:
        ValueError: an autoencoder whose latents have another shape, `weights` that belong to another autoencoder, or
            latents that another one wrote.
    """

    def __init__(
        self,
        arch: str,
        autoencoder: str,
        weights: str | None = None,
        arch_args: dict[str, Any] | None = None,
        num_classes: int = 1000,
        lr: float | None = None,
        base_lr: float | None = None,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.95),
        warmup_epochs: float = 0.0,
        decay_epoch: float | None = None,
        min_lr: float = 0.0,
        ema: float = 0.9995,
        grad_checkpointing: bool = False,
        compile: bool = False,
    ):
        check_types(LitDiT, locals())
        super().__init__()
        self.save_hyperparameters()
        if weights is None:
            found = hub.load(autoencoder)
            channels, grid, _ = found.latent_shape
            told = {"latent_channels": channels, "grid": grid, "num_classes": num_classes, "autoencoder": autoencoder}
            told["autoencoder_hash"] = fingerprint(found)[:16]
            self.model = hub.create(arch, **told | dict(arch_args or {}))
            self.model._autoencoder.network = found.requires_grad_(False)
        else:
            self.model = hub.create(arch, weights, autoencoder=autoencoder, **dict(arch_args or {}))
        self.model.autoencoder  # noqa: B018, refuses another one than the weights were trained with
        self.model.grad_checkpointing = grad_checkpointing
        self.keep_average()
        if compile:
            self.model.compile()

    def setup(self, stage: str) -> None:
        names = getattr(self.trainer.datamodule, "classes", None)
        if names and len(names) == self.hparams.num_classes:
            self.model.zoo_config["classes"] = list(names)
        wrote = getattr(self.trainer.datamodule, "config", {}).get("fingerprint")
        if wrote is not None and not wrote.startswith(self.model._autoencoder.digest):
            raise ValueError(
                f"the latents were written by {self.trainer.datamodule.config['encoder']}, the hash of whose tensors "
                f"begins {wrote[:16]}; this model paints for {self.model._autoencoder.name}, "
                f"{self.model._autoencoder.digest}: write them again with `zoo latents`"
            )

    def forward(self, z: Tensor) -> Tensor:
        """Normalised latents (B, C, h, w) → velocities at random times, of any class; `model.sample` draws."""
        return self.averaged(z).velocity

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        z, y = batch
        loss = self.model(z, y if self.hparams.num_classes else None).loss
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.update_average()

    def _evaluate(self, batch: tuple[Tensor, Tensor], batch_idx: int, split: str) -> None:
        """The loss at the same times and noises at every validation, on however many processes: losses compare."""
        z, y = batch
        rank, world = parallel.world()
        with torch.random.fork_rng(devices=[z.device] if z.is_cuda else []):
            torch.manual_seed(batch_idx)
            drawn = self.model.draw(z.new_empty(len(z) * world, *z.shape[1:]))
        drawn = tuple(each[rank::world] for each in drawn)
        loss = self.averaged(z, y if self.hparams.num_classes else None, drawn).loss
        self.log(f"{split}/loss", loss, batch_size=len(z), sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        """Samples, where a logger takes pictures."""
        labels = torch.arange(16, device=self.device) % max(1, self.hparams.num_classes)
        labels = labels if self.hparams.num_classes else labels - 1
        generator = torch.Generator(self.device).manual_seed(0)
        self.log_pictures("val/samples", lambda: self.averaged.sample(labels, steps=25, generator=generator))

    def configure_optimizers(self) -> dict:
        h = self.hparams
        lr = optim.learning_rate(self.trainer, h.lr, h.base_lr)
        groups = optim.decay_groups(self.model, h.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr, tuple(h.betas), fused=True)
        return optim.warmup_linear(optimizer, self.trainer, lr, h.min_lr, h.warmup_epochs, h.decay_epoch)
