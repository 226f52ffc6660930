"""What training without labels shares, and LitMAE, which pretrains masked autoencoders of images and of video."""

from collections.abc import Callable
from typing import Any, Self

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.utils import make_grid

from zoo import hub
from zoo.train import adversarial, optim, parallel


class Pretraining(optim.Guarded, parallel.Sharded, L.LightningModule):
    """What training without labels shares: a `model` with its `zoo_config`, AdamW, warm-up, cosine.

    Hyperparameters read here: lr, base_lr, weight_decay, betas, warmup_epochs and min_lr, of which None keeps the peak.
    """

    @classmethod
    def from_weights(cls, name: str, **args) -> Self:
        """Ready to go on training from `arch.tag`, a checkpoint folder or hf://org/name; keywords as the class's."""
        arch = hub.load(name).zoo_config["arch"]
        return cls(arch, name.removeprefix(f"{arch}."), **args)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate(batch, batch_idx, "val")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate(batch, batch_idx, "test")

    def log_pictures(self, name: str, draw: Callable[[], Tensor], across: int = 8) -> None:
        """Images (B, C, H, W) in [0, 1] as a grid; they are only made where a logger takes pictures."""
        boards = [b.experiment for b in self.loggers if hasattr(b.experiment, "add_image")]
        if boards:
            grid = make_grid(draw(), nrow=across)  # (C, H', W')
            for board in boards:
                board.add_image(name, grid, self.global_step)

    def log_reconstructions(self, x: Tensor, recon: Tensor) -> None:
        """Eight originals (B, C, H, W) above what was made of them."""
        self.log_pictures("val/reconstruction", lambda: torch.cat([x[:8], recon[:8].clamp(0, 1).to(x)]), len(x[:8]))

    def on_fit_start(self) -> None:
        # Lightning keeps the mode a submodule is handed over in, and a model from zoo.load may be in eval mode.
        self.train()

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        super().on_save_checkpoint(checkpoint)
        # All that export needs to build the model again.
        checkpoint["zoo"] = self.model.zoo_config

    def configure_optimizers(self) -> dict:
        h = self.hparams
        lr = optim.learning_rate(self.trainer, h.lr, h.base_lr)
        optimizer = torch.optim.AdamW(optim.decay_groups(self.model, h.weight_decay), lr, tuple(h.betas), fused=True)
        return optim.warmup_cosine(optimizer, self.trainer, lr, lr if h.min_lr is None else h.min_lr, h.warmup_epochs)


class Averaging(Pretraining):
    """Keeps an exponential moving average of the model: what is evaluated, exported and saved as the best.

    Hyperparameter read here: ema, the decay an optimiser step; 0 is off. Of a model that needs a frozen network, that
    one is not copied.
    """

    def keep_average(self) -> None:
        """Called at the end of `__init__`, before anything is compiled."""
        decay = self.hparams.ema
        if not 0 <= decay < 1:
            raise ValueError(f"ema={decay}, allowed 0 to below 1")
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(decay)) if decay else None
        if self.average is not None:
            self.average.requires_grad_(False)

    @property
    def averaged(self) -> nn.Module:
        """The average once there is one, else the model."""
        return self.model if self.average is None or not self.average.n_averaged else self.average.module

    def update_average(self) -> None:
        """After each step of the model's optimiser; without effect if that step had no gradient."""
        if self.average is not None and self.learned:
            self.average.update_parameters(self.model)
        self.learned = False


class Adversarial(Pretraining):
    """Training against a `discriminator`, by hand: what VQGAN, DC-AE's third phase and RAE share.

    Gradients of either never reach the other, and both step once in `accumulate` batches. Read here: hyperparameters
    accumulate and disc_weight; `last_layer`, whose gradients weigh the two losses.
    """

    largest_weight, weight_eps = 1e4, 1e-4

    def __init__(self):
        super().__init__()
        self.steps = 0  # of the model's optimiser: the trainer counts both optimisers'

    def judge(self, x: Tensor) -> Tensor:
        """The discriminator's logits of images (B, C, H, W) in [-1, 1]."""
        return self.discriminator(x)

    def adversarial_step(
        self,
        loss: Tensor,
        reconstruction: Tensor,
        real: Tensor,
        fake: Tensor,
        last: bool,
        figures: dict[str, Tensor],
        counts: bool = True,
        learns: bool = True,
        adaptive: bool = True,
        clip: float | None = None,
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
            clip: largest norm of the model's gradient.
        """
        h = self.hparams
        if counts:
            self.discriminator.requires_grad_(False)
            against = adversarial.generator_loss(self.judge(fake))
            weight = 1.0
            if adaptive:
                weight = adversarial.adaptive_weight(
                    reconstruction, against, self.last_layer, self.largest_weight, self.weight_eps
                )
            loss = loss + weight * h.disc_weight * against
            figures |= {"generator": against, "adaptive_weight": weight}
        with parallel.by_hand(self.trainer.strategy):
            self.manual_backward(loss / h.accumulate)
            if learns:
                self.discriminator.requires_grad_(True)
                judged = adversarial.discriminator_loss(self.judge(real.detach()), self.judge(fake.detach()))
                self.manual_backward(judged / h.accumulate)
                figures["discriminator"] = judged
        if last:
            parallel.average_gradients(self.parameters())
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip)
            optimizers = self.optimizers()
            for optimizer in optimizers[: 1 + learns] if isinstance(optimizers, list) else [optimizers]:
                optimizer.step()
                optimizer.zero_grad()
            self.steps += 1
        return loss

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["steps"] = self.steps

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        super().on_load_checkpoint(checkpoint)
        self.steps = checkpoint["steps"]
