"""Step sizes and parameter groups that every LightningModule shares."""

import math
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def effective_batch(trainer: L.Trainer) -> int:
    """Images of one optimiser step: of a batch, times processes, times accumulated batches."""
    trainer.estimated_stepping_batches  # noqa: B018, builds the loader where it is not there yet
    return trainer.train_dataloader.batch_size * trainer.world_size * trainer.accumulate_grad_batches


def learning_rate(trainer: L.Trainer, lr: float | None, base_lr: float | None) -> float:
    """`lr`, or `base_lr × images a step / 256` (Goyal et al. 2017); printed, so that a smaller machine is noticed.

    Raises:
        ValueError: both or neither are given.
    """
    if (lr is None) == (base_lr is None):
        raise ValueError(f"lr={lr} and base_lr={base_lr}: give one of them; base_lr is scaled by the batch, over 256")
    if lr is not None:
        return lr
    batch = effective_batch(trainer)
    rank_zero_info(f"learning rate {base_lr * batch / 256:.4g} = {base_lr:g} × {batch} images a step / 256")
    return base_lr * batch / 256


def warmup_cosine(
    optimizer: Optimizer, trainer: L.Trainer, lr: float, min_lr: float, warmup_epochs: float, accumulate: int = 1
) -> dict:
    """Linear warm-up, then half a cosine from lr to min_lr, step by step (Loshchilov and Hutter 2017).

    Args:
        accumulate: batches of an optimiser step, where not the trainer counts them.
    """
    steps = math.ceil(trainer.estimated_stepping_batches / accumulate)
    warmup = warmup_epochs * steps / trainer.max_epochs if warmup_epochs else 0

    def scale(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        done = (step - warmup) / max(1, steps - warmup)
        return (min_lr + (lr - min_lr) * (1 + math.cos(math.pi * min(1, done))) / 2) / lr

    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, scale), "interval": "step"}}


def warmup_linear(
    optimizer: Optimizer, trainer: L.Trainer, lr: float, min_lr: float, warmup_epochs: float, decay_epoch: float | None
) -> dict:
    """Linear warm-up, a constant, and from `decay_epoch` on a line to min_lr, step by step."""
    steps = trainer.estimated_stepping_batches
    epoch = steps / trainer.max_epochs
    warmup, start = warmup_epochs * epoch, steps if decay_epoch is None else decay_epoch * epoch

    def scale(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        done = min(1.0, max(0.0, step - start) / max(1, steps - start))
        return (lr + (min_lr - lr) * done) / lr

    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, scale), "interval": "step"}}


class Guarded:
    """For a LightningModule: a loss that is not finite stops before anything is learned from it, and says where.

    And the trainer's gradient_clip_val works under bf16-mixed: there Lightning refuses every fused optimiser, as those
    unscale gradients by themselves. bfloat16 scales none.
    """

    def log(self, name: str, value: Any, *args: Any, batch_size: int | None = None, **kwargs: Any) -> None:
        # As a float: Lightning averages the counts of processes, and rounds integers down.
        super().log(name, value, *args, batch_size=None if batch_size is None else float(batch_size), **kwargs)

    def on_before_backward(self, loss: Tensor) -> None:
        if loss.isfinite().all():
            return
        trainer = self.trainer
        batch, loader = trainer.fit_loop.batch_idx, trainer.train_dataloader
        images = f", images {loader.indices(batch)}" if hasattr(loader, "indices") else ""
        kept = [c.last_model_path or c.best_model_path for c in trainer.checkpoint_callbacks]
        kept = next((path for path in kept if path), "")
        raise ValueError(
            f"the loss is {loss.detach().flatten()[0].item()} at step {trainer.global_step}, batch {batch} of epoch "
            f"{trainer.current_epoch}{images}: nothing was learned from it. "
            + (f"The last checkpoint is {kept}. " if kept else "")
            + "Lower the learning rate, clip gradients, or train in float32"
        )

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        if gradient_clip_val is None or self.trainer.precision != "bf16-mixed":
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        value = gradient_clip_algorithm == "value"
        clip = torch.nn.utils.clip_grad_value_ if value else torch.nn.utils.clip_grad_norm_
        clip([p for group in optimizer.param_groups for p in group["params"]], gradient_clip_val)


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Weight decay on what has two axes or more, but for what the model lists in `no_decay`, and on `decay_also`."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    exempt, also = getattr(model, "no_decay", ()), getattr(model, "decay_also", ())
    decays = {n: (p.ndim > 1 and n not in exempt) or n in also for n, p in named}
    groups = [
        {"params": [p for n, p in named if decays[n] == decay], "weight_decay": weight_decay if decay else 0.0}
        for decay in (True, False)
    ]
    return [g for g in groups if g["params"]]
