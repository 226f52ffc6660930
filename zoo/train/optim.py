"""Step sizes and parameter groups that every LightningModule shares."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from zoo.nn.protocols import DecaysAlso, KeepsBatchState, SparesDecay


class Rate(NamedTuple):
    """A peak learning rate, as it is or per 256 samples of an optimiser step: one of both."""

    lr: float | None = None
    base_lr: float | None = None


def effective_batch(trainer: L.Trainer, accumulate: int = 1) -> int:
    """What its loader counts of one optimiser step: a batch, times processes, times accumulated batches.

    A loader counts what it reads: images, or videos, each of them once however many clips are cut from it.

    Args:
        accumulate: batches of an optimiser step, where the trainer does not count them.

    Raises:
        ValueError: a loader of one's own that does not say how large its batches are.
    """
    trainer.fit_loop.setup_data()  # builds the loader where it is not there yet
    loader: Any = trainer.train_dataloader  # of whatever class the DataModule chose
    size = getattr(loader, "batch_size", None) or getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
    if size is None:
        raise ValueError("the DataLoader does not say how large its batches are, by which base_lr is scaled; give lr")
    return size * trainer.world_size * trainer.accumulate_grad_batches * accumulate


def learning_rate(trainer: L.Trainer, lr: float | None, base_lr: float | None, accumulate: int = 1) -> float:
    """`lr`, or `base_lr × batch / 256` (Goyal et al. 2017); printed, so that a smaller machine is noticed.

    The batch is `effective_batch`, which counts videos, not the clips cut from them.

    Args:
        accumulate: as `effective_batch`'s.

    Raises:
        ValueError: both or neither are given, or one that is not above 0.
    """
    rate = base_lr if lr is None else lr
    if rate is not None and rate <= 0:
        raise ValueError(f"lr={lr}, base_lr={base_lr}: allowed above 0; 1e-3 is where to start")
    if rate is None or None not in (lr, base_lr):
        raise ValueError(f"lr={lr} and base_lr={base_lr}: give one of them; base_lr is scaled by the batch, over 256")
    if base_lr is None:
        return rate
    batch, counts = effective_batch(trainer, accumulate), getattr(trainer.train_dataloader, "counts", "samples")
    rank_zero_info(f"learning rate {rate * batch / 256:.4g} = {rate:g} × {batch} {counts} a step / 256")
    return rate * batch / 256


def epochs(trainer: L.Trainer) -> int:
    """How many the Trainer trains for; -1 where steps or hours end it."""
    return -1 if trainer.max_epochs is None else trainer.max_epochs


def _steps(trainer: L.Trainer) -> int:
    """Optimiser steps of the whole training, as the Trainer counts them.

    Raises:
        ValueError: it has no end, and a schedule needs one.
    """
    steps = trainer.estimated_stepping_batches
    if math.isinf(steps):
        raise ValueError(
            f"max_epochs={trainer.max_epochs}, max_steps={trainer.max_steps}: the step size follows a schedule that "
            "needs an end; give trainer.max_epochs or trainer.max_steps"
        )
    return int(steps)


def _fall(lr: float, min_lr: float) -> None:
    """Say so where a schedule that should fall rises: `base_lr` follows the batch, `min_lr` does not."""
    if min_lr > lr:
        rank_zero_warn(
            f"min_lr={min_lr:.4g} is above the peak learning rate {lr:.4g}, and the step size rises to it: min_lr does "
            "not follow the batch; give a smaller one, or the batch of the recipe"
        )


def warmup_cosine(
    optimizer: Optimizer, trainer: L.Trainer, lr: float, min_lr: float, warmup_epochs: float, accumulate: int = 1
) -> OptimizerLRSchedulerConfig:
    """Linear warm-up, then half a cosine from lr to min_lr, step by step (Loshchilov and Hutter 2017).

    Args:
        accumulate: batches of an optimiser step, where the trainer does not count them.
    """
    _fall(lr, min_lr)
    steps = math.ceil(_steps(trainer) / accumulate)
    if epochs(trainer) > 0:
        warmup = warmup_epochs * steps / epochs(trainer)
    else:  # steps or hours end it, or nothing is trained
        trainer.fit_loop.setup_data()
        each = trainer.num_training_batches / trainer.accumulate_grad_batches / accumulate
        warmup = warmup_epochs * each if warmup_epochs and math.isfinite(each) else 0

    def scale(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        done = (step - warmup) / max(1, steps - warmup)
        return (min_lr + (lr - min_lr) * (1 + math.cos(math.pi * min(1, done))) / 2) / lr

    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, scale), "interval": "step"}}


def warmup_linear(
    optimizer: Optimizer, trainer: L.Trainer, lr: float, min_lr: float, warmup_epochs: float, decay_epoch: float | None
) -> OptimizerLRSchedulerConfig:
    """Linear warm-up, a constant, and from `decay_epoch` on a line to min_lr, step by step."""
    if decay_epoch is not None:
        _fall(lr, min_lr)
    steps = _steps(trainer)
    epoch = steps / epochs(trainer)
    warmup, start = warmup_epochs * epoch, steps if decay_epoch is None else decay_epoch * epoch

    def scale(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        done = min(1.0, max(0.0, step - start) / max(1, steps - start))
        return (lr + (min_lr - lr) * done) / lr

    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, scale), "interval": "step"}}


class Guarded(L.LightningModule):
    """A loss that is not finite stops the training before anything is learned from it, and the error says where.

    Up to `skip_nonfinite` batches of a run are left out instead, on all processes together, and counted as
    `train/skipped`: no gradient comes of them, and what they did to buffers is undone, as to what a module lists in
    `batch_state`. An optimiser step without any gradient moves neither weights nor their average; schedules go on. By
    hand, where a discriminator's loss alone is not finite, the model's gradients are taken back as well, unless it has
    stepped.

    And the trainer's gradient_clip_val works under bf16-mixed: there Lightning refuses every fused optimiser, as those
    unscale gradients by themselves. bfloat16 scales none.
    """

    skip_nonfinite = 0
    skipped = 0  # batches, since the run began
    left_out = False  # this batch
    learned = False  # anything since gradients were empty

    def log(self, name: str, value: Any, *args: Any, batch_size: int | None = None, **kwargs: Any) -> None:
        # As a float: Lightning averages the counts of processes, and rounds integers down.
        kwargs["batch_size"] = None if batch_size is None else float(batch_size)
        super().log(name, value, *args, **kwargs)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.take_note()

    def take_note(self) -> None:
        """Of what a batch may change: a loss that is not finite takes back what came after this."""
        self.left_out = False
        if self.skip_nonfinite:
            self._buffers_before = [(buffer, buffer.clone()) for buffer in self.buffers()]
            stateful = [module for module in self.modules() if isinstance(module, KeepsBatchState)]
            state = [(module, name, getattr(module, name)) for module in stateful for name in module.batch_state]
            self._batch_state_before = [(m, n, v.clone() if isinstance(v, Tensor) else v) for m, n, v in state]
            by_hand = () if self.automatic_optimization else self.parameters()
            self._grads_before = [(p, None if p.grad is None else p.grad.clone()) for p in by_hand]
            self._learned_before = self.learned

    def on_before_zero_grad(self, optimizer: Optimizer) -> None:
        self.learned = False

    def on_before_backward(self, loss: Tensor) -> None:
        finite = bool(loss.isfinite().all())
        if not self.left_out and self.trainer.strategy.reduce_boolean_decision(finite):
            return
        if not self.left_out:
            if self.skipped >= self.skip_nonfinite:
                raise ValueError(self._complaint(loss, finite))
            self.left_out, self.skipped = True, self.skipped + 1
            rank_zero_warn(f"{self._place(loss, finite)}: left out, {self.skipped} of {self.skip_nonfinite}")
        with torch.no_grad():
            for buffer, before in self._buffers_before:
                buffer.copy_(before)
        for module, name, before in self._batch_state_before:
            setattr(module, name, before)
        for parameter, grad in self._grads_before:
            parameter.grad = grad
        self.learned = self._learned_before

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        if not self.left_out:
            super().backward(loss, *args, **kwargs)
            self.learned = True

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        def closure() -> Any:
            loss = None if optimizer_closure is None else optimizer_closure()
            return loss if self.learned else None  # which Lightning takes for a step that is skipped, where it scales

        super().optimizer_step(epoch, batch_idx, optimizer, closure)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.skip_nonfinite:
            self.log("train/skipped", float(self.skipped))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["skipped"] = self.skipped

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.skipped = checkpoint.get("skipped", 0)

    def _place(self, loss: Tensor, finite: bool) -> str:
        trainer = self.trainer
        batch, indices = trainer.fit_loop.batch_idx, getattr(trainer.train_dataloader, "indices", None)
        images = "" if indices is None else f", images {indices(batch)}"
        value = "not finite on another process" if finite else loss.detach().flatten()[0].item()
        step = trainer.global_step  # by hand it counts the steps of every optimiser
        step = step if self.automatic_optimization else getattr(self, "steps", step)
        return f"the loss is {value} at step {step}, batch {batch} of epoch {trainer.current_epoch}{images}"

    def _complaint(self, loss: Tensor, finite: bool) -> str:
        attributes = ("last_model_path", "best_model_path")
        paths = [getattr(callback, a, "") for callback in self.trainer.checkpoint_callbacks for a in attributes]
        checkpoint = next(filter(None, [*paths, self.trainer.ckpt_path]), "")
        return (
            f"{self._place(loss, finite)}: nothing was learned from it. "
            + (f"{self.skipped} batches were left out before, as many as may be. " if self.skipped else "")
            + (f"The last checkpoint is {checkpoint}. " if checkpoint else "")
            + "Lower the learning rate, clip gradients, or train in float32"
        )

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        if gradient_clip_val is None or self.trainer.precision != "bf16-mixed":
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        value = gradient_clip_algorithm == "value"
        clip = torch.nn.utils.clip_grad_value_ if value else torch.nn.utils.clip_grad_norm_
        clip([p for group in optimizer.param_groups for p in group["params"]], gradient_clip_val)


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on what has two axes or more, but for what the model lists in `no_decay`, and on `decay_also`."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    exempt = model.no_decay if isinstance(model, SparesDecay) else ()
    also = model.decay_also if isinstance(model, DecaysAlso) else ()
    decays = {n: (p.ndim > 1 and n not in exempt) or n in also for n, p in named}
    groups = [
        {"params": [p for n, p in named if decays[n] == decay], "weight_decay": weight_decay if decay else 0.0}
        for decay in (True, False)
    ]
    return [g for g in groups if g["params"]]
