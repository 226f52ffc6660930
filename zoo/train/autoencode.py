"""LitAutoencoder, which trains whatever gives back a loss, and what a training against a discriminator adds."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from zoo.metrics.images import psnr
from zoo.nn.checks import check_least
from zoo.nn.protocols import PIXELS, Classifies, Network, Reconstructs, Samples
from zoo.train import adversarial, optim, parallel
from zoo.train.common import Averaging


class LitAutoencoder(Averaging):
    """Trains any model whose forward gives a NamedTuple that begins with `loss`: AdamW, warm-up, cosine, an average.

    A batch is (samples (B, …) as `model.takes` says, labels); the labels are not used. Each of the output's `losses`
    and `stats` is logged beside `train/loss`. Of held-out samples that is `val/loss`; where the output has a `recon`,
    (B, …) as the samples, `val/mse` too, and where the samples are pixels `val/psnr` in dB, the mean over samples, both
    of reconstructions clamped to [0, 1]. Eight images, or the frames of a clip, are drawn above their reconstructions.

    Keywords are those of `Training` and `Averaging`, in zoo/train/common.py. A child changes `training_step`, or what
    is measured (`measure`), and declares its own keywords alone.

    Raises:
        ValueError: an arch that gives logits.
    """

    def make_model(self) -> Network:
        model = super().make_model()
        if isinstance(model, Classifies):
            raise ValueError(f"{self.hparams.arch} gives logits and no loss; train it with zoo.LitClassifier")
        return model

    def forward(self, x: Tensor) -> Any:
        """Samples (B, …) → their reconstructions, alike; of a model that makes none, what it gives back."""
        model = self.averaged
        return model.reconstruct(x) if isinstance(model, Reconstructs) else model(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        out = self.model(batch[0])
        if not hasattr(out, "loss"):
            raise ValueError(
                f"{type(self.model).__name__}.forward gives a {type(out).__name__}; training needs a NamedTuple that "
                "begins with loss"
            )
        self.log_step(out.loss, {**getattr(out, "losses", {}), **getattr(out, "stats", {})})
        return out.loss

    def evaluate(self, batch: Any, batch_idx: int, split: str) -> Any:
        out = self.averaged(batch[0])
        self.log_evaluation(batch[0], out, batch_idx, split)
        return out

    def log_evaluation(self, x: Tensor, out: Any, batch_idx: int, split: str) -> None:
        """What `measure` says of samples and the model's output; of the first validation batch, pictures."""
        figures = {f"{split}/{name}": figure for name, figure in self.measure(x, out).items()}
        self.log_dict(figures, batch_size=len(x), sync_dist=True)
        if split == "val" and batch_idx == 0 and getattr(out, "recon", None) is not None:
            self.log_reconstructions(x, out.recon)

    def measure(self, x: Tensor, out: Any) -> dict[str, Tensor]:
        """Figures of a held-out batch, name → (), and the model's output for it."""
        recon = getattr(out, "recon", None)
        if recon is None:
            return {"loss": out.loss}
        pixels = self.model.takes.range == PIXELS
        error = ((recon.clamp(0, 1) if pixels else recon) - x).square().mean(tuple(range(1, x.ndim)))  # (B,)
        figures = {"loss": out.loss, "mse": error.mean()}
        return figures | {"psnr": psnr(error).mean()} if pixels else figures

    def log_reconstructions(self, x: Tensor, recon: Tensor) -> None:
        """Eight images, or the frames of the first clip, above what was made of them; other samples are no pictures."""
        kind = self.model.takes.kind
        if kind in ("image", "clip"):
            above, below = (x[0], recon[0]) if kind == "clip" else (x[:8], recon[:8])  # (F or 8, C, H, W) each
            self.log_pictures("val/reconstruction", lambda: torch.cat([above, below.clamp(0, 1).to(above)]))

    def on_validation_epoch_end(self) -> None:
        """Samples, where the model draws images and a logger takes them; the same noise each time."""
        model = self.averaged
        if isinstance(model, Samples) and model.draws().kind == "image":
            generator = torch.Generator(self.device).manual_seed(0)
            self.log_samples(lambda labels: model.sample(labels, generator=generator), model.num_classes)


class Adversarial(LitAutoencoder):
    """Training against a `discriminator`, by hand: what VQGAN, DC-AE's third phase and RAE share.

    Gradients of either never reach the other, and both step once in `accumulate` batches, each on its own schedule,
    which stands still while a discriminator waits. A child makes `discriminator` and `perceptual`, either of them None
    where there is none, names `last_layer`, whose gradients weigh the two losses, and sets `automatic_optimization` to
    False.

    Args:
        perceptual_weight: of LPIPS, published as 1; 0 needs no VGG-16.
        disc_weight: of the adversarial term.
        accumulate: batches of an optimiser step.
    """

    largest_weight: float = 1e4  # of λ
    weight_eps: ClassVar[float] = 1e-4
    decays_discriminator: ClassVar[bool] = True
    discriminator: nn.Module | None
    perceptual: adversarial.Perceptual | None

    def __init__(
        self,
        arch: str,
        *,
        perceptual_weight: float = 0.0,
        disc_weight: float = 0.8,
        accumulate: int = 1,
        **common: Any,
    ):
        super().__init__(arch, **common)
        check_least(1, accumulate=accumulate)
        self.steps = 0  # of the model's optimiser: the trainer counts both optimisers'
        self._owed: list[tuple[Tensor, Callable[[], Tensor]]] = []  # what a discriminator sees after the model's step

    def measure(self, x: Tensor, out: Any) -> dict[str, Tensor]:
        figures = super().measure(x, out)
        if self.perceptual is not None:
            figures["perceptual"] = self.perceptual(2 * out.recon.clamp(0, 1) - 1, 2 * x - 1)
        return figures

    @property
    def last_layer(self) -> Tensor:
        """The weight of the model's last layer."""
        raise NotImplementedError

    def judge(self, discriminator: nn.Module, x: Tensor) -> Tensor:
        """The discriminator's logits of images (B, C, H, W) in [-1, 1]."""
        return discriminator(x)

    def adversarial_step(
        self,
        loss: Tensor,
        reconstruction: Tensor,
        real: Tensor,
        fake: Tensor,
        last: bool,
        figures: dict[str, Tensor | float],
        counts: bool = True,
        learns: bool = True,
        adaptive: bool = True,
        clip: float | None = None,
        again: Callable[[], Tensor] | None = None,
    ) -> Tensor:
        """Both optimisers' part of a step; the loss of the model.

        Args:
            loss: all of it, but for the adversarial term; `reconstruction` is the part that λ weighs against.
            real, fake: images (B, C, H, W) in [-1, 1].
            last: whether this batch completes an optimiser step.
            figures: where terms are written down.
            counts, learns: whether the adversarial term counts, and whether the discriminator learns; where there is
                none, neither.
            adaptive: False sets λ to 1.
            clip: largest norm of the gradient of either.
            again: makes the images from which the discriminator learns, after the model's step; None: from `fake`.
        """
        h, discriminator = self.hparams, self.discriminator
        if counts and discriminator is not None:
            discriminator.requires_grad_(False)
            against = adversarial.generator_loss(self.judge(discriminator, fake))
            weight: Tensor | float = 1.0
            if adaptive:
                weight = adversarial.adaptive_weight(
                    reconstruction, against, self.last_layer, self.largest_weight, self.weight_eps
                )
            loss = loss + weight * h.disc_weight * against
            figures |= {"generator": against, "adaptive_weight": weight}
        with parallel.by_hand(self.trainer.strategy):
            self.manual_backward(loss / h.accumulate)
        learner = discriminator if learns else None
        if learner is not None and again is None:
            self._discriminate(learner, real, fake, figures)
        elif again is not None and not self.left_out:
            self._owed.append((real, again))
        if last:
            self._step(0, self.model, clip)
            self.update_average()  # before the model makes anything again: FSDP then leaves it whole
            if learner is not None and self._owed:
                self.take_note()
                for images, made_again in self._owed:
                    self._discriminate(learner, images, made_again(), figures)
            self._owed.clear()
            if learner is not None:
                self._step(1, learner, clip)
            self.learned = False
            self.steps += 1
        return loss

    def _discriminate(
        self, discriminator: nn.Module, real: Tensor, fake: Tensor, figures: dict[str, Tensor | float]
    ) -> None:
        """The discriminator's backward pass."""
        discriminator.requires_grad_(True)
        on_real, on_fake = (self.judge(discriminator, images.detach()) for images in (real, fake))
        figures["discriminator"] = loss = adversarial.discriminator_loss(on_real, on_fake)
        with parallel.by_hand(self.trainer.strategy):
            self.manual_backward(loss / self.hparams.accumulate)

    def _step(self, number: int, network: nn.Module, clip: float | None) -> None:
        """The step of an optimiser, and of its schedule."""
        parallel.average_gradients(network.parameters())
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(network.parameters(), clip)
        optimizers, schedulers = self.optimizers(), self.lr_schedulers() or []
        optimizer = optimizers[number] if isinstance(optimizers, list) else optimizers
        optimizer.step()
        optimizer.zero_grad()
        for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
            mine = getattr(optimizer, "optimizer", optimizer) is scheduler.optimizer
            if mine and not isinstance(scheduler, ReduceLROnPlateau):  # which asks for a figure, and a step has none
                scheduler.step()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        if self.automatic_optimization:
            return super().configure_optimizers()
        h = self.hparams
        lr = self.peak(h.accumulate)
        groups = [optim.decay_groups(self.model, h.weight_decay)]
        if self.discriminator is not None:
            decay = h.weight_decay if self.decays_discriminator else 0.0
            groups.append(optim.decay_groups(self.discriminator, decay))
        optimizers = [torch.optim.AdamW(g, lr, tuple(h.betas), fused=True) for g in groups]
        return [self.schedule(optimizer, lr, h.accumulate) for optimizer in optimizers]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["steps"] = self.steps

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.steps = checkpoint["steps"]
