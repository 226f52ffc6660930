"""LitRAE trains a decoder for a frozen encoder, LitDiT a diffusion transformer in its latents (Zheng et al. 2025)."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from zoo import hub
from zoo.families.rae import encoder as encoders
from zoo.families.rae.dit import DiTDH
from zoo.families.rae.model import RAE, RAEOutput
from zoo.metrics.moments import Moments
from zoo.nn.frozen import Frozen, fingerprint
from zoo.nn.protocols import HasLatents
from zoo.train import adversarial, optim, parallel
from zoo.train.autoencode import Adversarial
from zoo.train.common import Averaging, check_class, frozen_name
from zoo.train.optim import Rate


class LitRAE(Adversarial):
    """The published training: L1 + LPIPS, later against a discriminator that sees through a frozen DINO.

    `loss = mean |x̂ - x| + perceptual_weight · LPIPS + λ · disc_weight · (-mean D(x̂))`, λ the adaptive weight, L1 of
    pictures in [0, 1], the other terms in [-1, 1]. The encoder runs once a step and without gradients. The
    discriminator learns by the hinge loss from what the decoder makes after its own step, without noise, rounded to the
    256 levels of a file; what it sees is augmented differentiably. Each optimiser steps once in `accumulate` batches,
    each has linear warm-up and a cosine over its own steps. After the first epoch the model's `latent_mean` and
    `latent_std` are those of its training images, exactly.

    A batch is (images (B, 3, H, W) in [0, 1], labels), or ((images, tokens (B, C, h, w)), labels) where tokens were
    written before; the labels are not used.

    Args:
        arch_args: keywords of the arch; what the encoder tells is filled in, its hash with it.
        disc_weight: of the adversarial term, published as 0.75; 0 trains without a discriminator, which needs DINO.
        disc_start: epoch from which it counts.
        disc_warmup: for so many epochs before, the discriminator learns already.
        disc_backbone: what the discriminator sees through, `timm:MODEL.TAG` or weights of this zoo.
        disc_size: side in px that it sees; None is what it was trained at.
        disc_taps: after which of its blocks, besides the last.
        ema: decay of the moving average of the decoder; 0 is off.

    Raises:
        ValueError: an encoder that does not fit the arch, or not the one that `weights` were trained with.
        ConnectionError: the weights of an encoder cannot be had.
    """

    weight_eps = 1e-6
    usual = Rate(lr=2e-4)
    model: RAE
    averaged: RAE

    def __init__(
        self,
        arch: str,
        *,
        betas: tuple[float, float] = (0.9, 0.95),
        warmup_epochs: float = 1.0,
        ema: float = 0.9978,
        disc_weight: float = 0.0,
        disc_start: float = 8.0,
        disc_warmup: float = 2.0,
        disc_backbone: str = "timm:vit_small_patch8_224.dino",
        disc_size: int | None = None,
        disc_taps: Sequence[int] = (2, 5, 8, 11),
        **common: Any,
    ):
        super().__init__(arch, betas=betas, warmup_epochs=warmup_epochs, ema=ema, disc_weight=disc_weight, **common)
        self.automatic_optimization = False
        self.perceptual = adversarial.Perceptual() if self.hparams.perceptual_weight else None
        self.discriminator = None
        if disc_weight:
            self.backbone = Frozen("disc_backbone", disc_backbone, "", partial(encoders.load, disc_backbone, disc_size))
            dim = self.backbone().vit.norm.weight.numel()
            self.discriminator = adversarial.TokenDiscriminator(self._taps, dim, len(disc_taps) + 1)
        self.moments = Moments(self.model.latent_mean.shape) if self.hparams.weights is None else None

    def make_model(self) -> RAE:
        model = check_class(super().make_model(), RAE)
        if self.hparams.weights is None:
            model.zoo_config["args"].setdefault("encoder_hash", fingerprint(model.encoder.vit)[:16])
        return model

    def compile_model(self) -> None:
        self.model.decoder.compile()
        self.model.encoder.compile()

    def training_step(self, batch: tuple[Any, Tensor], batch_idx: int) -> None:
        h, model = self.hparams, self.model
        x, z = _images_and_tokens(batch)
        z = model.encode(x) if z is None else z  # (B, C, h, w)
        if self.moments is not None and self.current_epoch == 0:
            self.moments.update(z)
        recon = model.decode_unclamped(model.add_noise(z) if model.noise else z)  # (B, 3, H, W)
        real, fake = 2 * x.to(recon.dtype) - 1, 2 * recon - 1
        loss = F.l1_loss(recon, x.to(recon.dtype))
        figures: dict[str, Tensor | float] = {"reconstruction": loss}
        if self.perceptual is not None:
            with torch.autocast(x.device.type, enabled=False):
                figures["perceptual"] = self.perceptual(fake, real)
            loss = loss + h.perceptual_weight * figures["perceptual"]
        last = (batch_idx + 1) % h.accumulate == 0 or self.trainer.is_last_batch
        counts = learns = False
        if self.discriminator is not None:
            epoch = self.current_epoch + batch_idx / self.trainer.num_training_batches
            counts, learns = epoch >= h.disc_start, epoch >= h.disc_start - h.disc_warmup

        def again() -> Tensor:
            torch.clear_autocast_cache()  # of the weights before the step
            with torch.no_grad():
                return 2 * model.decode_unclamped(z) - 1  # (B, 3, H, W)

        loss = self.adversarial_step(loss, loss, real, fake, last, figures, counts, learns, again=again)
        self.log_step(loss, figures)

    def judge(self, discriminator: nn.Module, x: Tensor) -> Tensor:
        discriminator.train(not x.requires_grad)  # spectral norms are estimated in its own pass alone, as published
        if not x.requires_grad:
            x = ((x + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1  # as a file would hold it
        with torch.autocast(x.device.type, enabled=False):
            return discriminator(adversarial.differentiable_augment(x))

    def _taps(self, x: Tensor) -> list[Tensor]:
        return self.backbone().to(x).taps(x, self.hparams.disc_taps)

    @property
    def last_layer(self) -> Tensor:
        return self.model.decoder.head.weight

    def on_train_epoch_end(self) -> None:
        if self.moments is not None and self.current_epoch == 0:
            mean, std = self.moments.compute()
            for model in (self.model, self.averaged):
                model.get_buffer("latent_mean").copy_(mean)
                model.get_buffer("latent_std").copy_(std)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        for key, name in self._sums():  # of all processes; the first one goes on with them
            checkpoint["state_dict"][key] = parallel.total(getattr(self.moments, name))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        for key, _ in self._sums() if self.global_rank else ():
            checkpoint["state_dict"][key] = torch.zeros_like(checkpoint["state_dict"][key])

    def _sums(self) -> list[tuple[str, str]]:
        """Of the moments: keys in a state dict, and attributes."""
        return [] if self.moments is None else [(f"moments.{n}", n) for n in ("count", "first", "second")]

    def evaluate(self, batch: tuple[Any, Tensor], batch_idx: int, split: str) -> None:
        x, z = _images_and_tokens(batch)
        model = self.averaged
        z = model.encode(x) if z is None else z  # (B, C, h, w)
        recon = model.decode_unclamped(z)  # (B, 3, H, W)
        self.log_evaluation(x, RAEOutput((recon - x).abs().mean(), recon, z), batch_idx, split)


def _images_and_tokens(batch: tuple[Any, Tensor]) -> tuple[Tensor, Tensor | None]:
    """Images (B, 3, H, W) of a batch, and their tokens (B, C, h, w) where they were written before."""
    if isinstance(batch[0], Tensor):
        return batch[0], None
    images, tokens = batch[0]
    return images, tokens


class LitDiT(Averaging):
    """The published training of a diffusion transformer in the latents of a frozen autoencoder (§5 and appendix D).

    A batch is (normalised latents (B, C, h, w), labels (B,) int64), LatentData's: nothing is encoded on the way. The
    learning rate is constant, then falls on a line. Gradients are clipped by the trainer.

    Args:
        autoencoder: weights that made the latents: a name, a checkpoint folder, a run or `hf://org/name`; None is the
            arch's.
        arch_args: keywords of the arch; what the autoencoder tells is filled in.
        num_classes: of the labels; 0 is a model without classes.
        decay_epoch: when the step size begins to fall; None keeps it.
        min_lr: where it ends.
        ema: decay of the moving average, which is what draws; 0 is off.

    Raises:
        ValueError: an autoencoder whose latents have another shape, `weights` that belong to another autoencoder, or
            latents that another one wrote.
    """

    usual = Rate(lr=2e-4)
    model: DiTDH
    averaged: DiTDH

    def __init__(
        self,
        arch: str,
        autoencoder: str | None = None,
        *,
        num_classes: int = 1000,
        betas: tuple[float, float] = (0.9, 0.95),
        decay_epoch: float | None = None,
        min_lr: float = 0.0,
        ema: float = 0.9995,
        **common: Any,
    ):
        super().__init__(arch, betas=betas, min_lr=min_lr, ema=ema, **common)

    def make_model(self) -> DiTDH:
        h = self.hparams
        args = dict(h.arch_args or {})
        if h.weights is None:
            name = h.autoencoder or frozen_name(h.arch, args, "_autoencoder")
            autoencoder = hub.load(name)
            if not isinstance(autoencoder, HasLatents):
                raise ValueError(f"autoencoder={name} has no continuous latents; give an autoencoder that has")
            channels, grid, _ = autoencoder.latent_shape
            of_autoencoder = {
                "latent_channels": channels,
                "grid": grid,
                "num_classes": h.num_classes,
                "autoencoder": name,
                "autoencoder_hash": fingerprint(autoencoder)[:16],
            }
            model = check_class(hub.create(h.arch, **of_autoencoder | args), DiTDH)
            model._autoencoder.network = autoencoder.requires_grad_(False)
        else:
            own = {} if h.autoencoder is None else {"autoencoder": h.autoencoder}
            model = check_class(hub.create(h.arch, h.weights, **own | args), DiTDH)
        model.autoencoder  # noqa: B018, refuses another one than the weights were trained with
        return model

    @property
    def reads_labels(self) -> bool:
        return bool(self.hparams.num_classes and self.model.num_classes)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        latents, own = getattr(self.datamodule, "config", {}), self.model._autoencoder
        digest = latents.get("fingerprint")  # of the encoder that wrote them
        if digest is not None and not digest.startswith(own.digest):
            raise ValueError(
                f"the latents were written by {latents['encoder']}, the hash of whose tensors begins {digest[:16]}; "
                f"this model paints for {own.name}, {own.digest}: write them again with `zoo latents`"
            )

    def forward(self, z: Tensor) -> Tensor:
        """Normalised latents (B, C, h, w) → velocities at random times, of any class; `model.sample` draws."""
        return self.averaged(z).velocity

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        z, y = batch
        loss = self.model(z, self.labels(y) if self.reads_labels else None).loss
        self.log_step(loss)
        return loss

    def evaluate(self, batch: tuple[Tensor, Tensor], batch_idx: int, split: str) -> None:
        """The loss at the same times and noises at every validation, on however many processes: losses compare."""
        z, y = batch
        rank, world = parallel.world()
        with torch.random.fork_rng(devices=[z.device] if z.is_cuda else []):
            torch.manual_seed(batch_idx)
            times, noises = self.model.draw(z.new_empty(len(z) * world, *z.shape[1:]))
        own = times[rank::world], noises[rank::world]  # of this process
        loss = self.averaged(z, self.labels(y) if self.reads_labels else None, own).loss
        self.log(f"{split}/loss", loss, batch_size=len(z), sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        """Samples, where a logger takes pictures."""
        generator = torch.Generator(self.device).manual_seed(0)
        sample = partial(self.averaged.sample, steps=25, generator=generator)
        self.log_samples(sample, self.model.num_classes)

    def schedule(self, optimizer: Optimizer, lr: float, accumulate: int = 1) -> OptimizerLRSchedulerConfig:
        h = self.hparams
        return optim.warmup_linear(optimizer, self.trainer, lr, h.min_lr, h.warmup_epochs, h.decay_epoch)
