"""What a run needs besides training: to stop by a signal, to go on exactly, to lose no file."""

import csv
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch.optim.lr_scheduler import LambdaLR

from zoo.data.batches import Batches
from zoo.data.progress import EVERY
from zoo.data.seeds import mix
from zoo.hub.files import read_checkpoint, replace, write_aside
from zoo.redact import redacted
from zoo.train import parallel

LAST = Path("checkpoints") / "last.ckpt"


class Begun(Callback):
    """Writes down what runs, on the first process, once a batch is through: what is refused before is no run."""

    def __init__(self, write: Callable[[], None]):
        self._write, self.written = write, False

    def write(self) -> None:
        """Once."""
        if not self.written and parallel.world()[0] == 0:
            self._write()
        self.written = True

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, out: Any, batch: Any, index: int
    ) -> None:
        self.write()


class Stopped(Exception):
    """A signal asked for the end, and a checkpoint was written."""

    def __init__(self, signum: int):
        super().__init__(signum)
        self.signum = signum


class Stop(Callback):
    """SIGTERM and Ctrl-C finish the step, write a checkpoint and leave; a second Ctrl-C leaves at once.

    Of several processes, whichever gets the signal stops all of them after the same step.
    """

    def __init__(self, run: Path):
        self.run, self.signum, self.saved, self.images = run, 0, False, 0
        self.before: dict[int, Any] = {}
        self.group: Any = None  # of CPU tensors: asking a GPU would wait for it at every step
        self.asked: tuple[torch.Tensor, Any] | None = None

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        # Now and not earlier: Lightning puts its own handlers in place just before.
        for signum in (signal.SIGTERM, signal.SIGINT):
            self.before[signum] = signal.signal(signum, self._note)
        if trainer.world_size > 1:
            self.group = dist.new_group(backend="gloo")

    def _note(self, signum: int, frame: object) -> None:
        if self.signum == signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.signum = signum

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, out: Any, batch: Any, index: int
    ) -> None:
        self.images += len(batch[0])
        signum = self._agreed()
        if signum and resumable(trainer, module, index):  # else the next batch will do
            trainer.save_checkpoint(self.run / LAST)
            self.signum, self.saved = signum, True

    def _agreed(self) -> int:
        """The signal that any process has got; of several, what they had got a step ago, so that none waits."""
        if self.group is None:
            return self.signum
        heard = 0
        if self.asked is not None:
            flag, work = self.asked
            work.wait()
            heard = int(flag)
        flag = torch.tensor(max(self.signum, heard))
        self.asked = flag, dist.all_reduce(flag, dist.ReduceOp.MAX, self.group, async_op=True)
        return heard

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, index: int) -> None:
        if self.saved:  # only now has the step that was saved been logged
            raise Stopped(self.signum)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._restore()

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        self._restore()

    def _restore(self) -> None:
        for signum, handler in self.before.items():
            signal.signal(signum, handler)


class SaveSteps(Checkpoint):
    """Writes last.ckpt each `every` optimiser steps inside an epoch too: a killed run loses no more than those."""

    def __init__(self, run: Path, every: int):
        self.every, self.steps, self.waiting = every, 0, False
        self.last, self.aside = run / LAST, (run / LAST).with_name(f".{LAST.name}.next")
        self.last_model_path, self.best_model_path = str(self.last) if self.last.is_file() else "", ""

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, out: Any, batch: Any, index: int
    ) -> None:
        self.steps += steps_now(trainer, module, index)
        if self.steps >= self.every and resumable(trainer, module, index):
            trainer.save_checkpoint(self.aside)
            self.steps, self.waiting = 0, True

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, index: int) -> None:
        self._publish(trainer)  # only now has the step that was saved been logged: no log lacks it

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        self._publish(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.steps = 0

    def _publish(self, trainer: L.Trainer) -> None:
        if self.waiting and trainer.is_global_zero:
            replace(self.aside, self.last)
            self.last_model_path = str(self.last)
        self.waiting = False


def steps_now(trainer: L.Trainer, module: L.LightningModule, index: int) -> bool:
    """Whether a batch that is not the epoch's last completes an optimiser step; by hand, the module accumulates."""
    by_hand = 1 if module.automatic_optimization else module.hparams.get("accumulate", 1)
    return (index + 1) % (trainer.accumulate_grad_batches * by_hand) == 0


def resumable(trainer: L.Trainer, module: L.LightningModule, index: int) -> bool:
    """Whether a run can go on exactly from a checkpoint written after this batch.

    Not inside an optimiser step, as no checkpoint holds accumulated gradients. And not where the epoch ends or a
    validation follows: whoever goes on from there would leave it out.
    """
    loop = trainer.fit_loop
    fetcher = loop._data_fetcher
    validates = fetcher is not None and loop.epoch_loop._should_check_val_fx(fetcher)
    return steps_now(trainer, module, index) and not trainer.is_last_batch and not validates


class RunState(Callback):
    """Exact resume: random states of all processes and the place in the epoch travel in the checkpoint.

    On resume, what the recipe and the command line say of the optimiser wins over the checkpoint, where `overridden`.
    Processes begin with the same weights and draw different masks and noises.
    """

    def __init__(self, overridden: bool):
        self.overridden = overridden
        self.fresh: list[list[dict[str, Any]]] = []  # of each optimiser and parameter group, as the recipe says
        self.states: dict[str, Any] | None = None  # of this process's random numbers
        self.batches: dict[str, Any] | None = None  # the loader's place in the epoch
        self.batch_size: int | None = None  # of the DataModule that was there
        self.figures: dict[str, float] = {}  # of a run whose training was through already

    def on_save_checkpoint(self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        numpy: Any = np.random.get_state()  # a tuple, unless one asks otherwise
        kind, keys, *rest = numpy
        mine = {
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
            "python": random.getstate(),
            "numpy": (kind, keys.tolist(), *rest),
        }
        checkpoint["random"] = parallel.gather(mine)  # one of each process
        checkpoint["figures"] = {k: float(v) for k, v in trainer.callback_metrics.items()}
        # Lightning keeps this too, but forgets to give it back once anything has asked for estimated_stepping_batches.
        # A loader that cannot say how far it has come, torch's DataLoader, begins the epoch again: Lightning warns.
        state_dict = getattr(trainer.train_dataloader, "state_dict", None)
        checkpoint["batches"] = None if state_dict is None else state_dict()

    def on_load_checkpoint(self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        states, self.batches = checkpoint["random"], checkpoint["batches"]
        if len(states) != trainer.world_size:
            raise ValueError(
                f"the run was trained by {len(states)} processes and cannot go on exactly with {trainer.world_size}; "
                "give it as many, or begin a new run from it with --model.weights RUN"
            )
        self.batch_size = checkpoint.get("datamodule_hyper_parameters", {}).get("batch_size")
        self.states = states[trainer.global_rank]
        self.figures = checkpoint.get("figures", {})

    def on_fit_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        # Before the checkpoint's optimiser state comes in: these are the values of the recipe and the command line.
        self.fresh = [
            [{k: v for k, v in g.items() if k != "params"} for g in o.param_groups] for o in trainer.optimizers
        ]

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self.batches is not None:
            self._go_on(trainer)
        elif trainer.world_size > 1:
            L.seed_everything(mix(torch.initial_seed(), trainer.global_rank) % 2**32, verbose=False)
        if self.states is None or not self.overridden:
            return
        for optimizer, groups in zip(trainer.optimizers, self.fresh):
            for group, values in zip(optimizer.param_groups, groups):
                group.update(values)
        for config in trainer.lr_scheduler_configs:
            schedule = config.scheduler
            if isinstance(schedule, LambdaLR):
                schedule.base_lrs = [g["initial_lr"] for g in schedule.optimizer.param_groups]
                for group, lr in zip(schedule.optimizer.param_groups, schedule.base_lrs):
                    group["lr"] = lr * schedule.lr_lambdas[0](schedule.last_epoch)

    def _go_on(self, trainer: L.Trainer) -> None:
        """Where the loader was, in images; Lightning counts batches, and is told how many of the present size."""
        loader: Any = trainer.train_dataloader  # the one that said where it was
        state = dict(self.batches or {})
        data: L.LightningDataModule | None = getattr(trainer, "datamodule", None)
        now = data and data.hparams.get("batch_size")
        if "done" in state and self.batch_size and now:  # of an older checkpoint, which counted batches too
            state["batch_size"] = loader.batch_size * self.batch_size // now  # a batch of ClipData holds fewer videos
        loader.load_state_dict(state)
        if isinstance(loader, Batches) and loader.start:
            progress = trainer.fit_loop.epoch_loop.batch_progress.current
            shift = loader.step - progress.ready
            for stage in ("ready", "started", "processed", "completed"):
                setattr(progress, stage, getattr(progress, stage) + shift)

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, index: int) -> None:
        if self.states is None:
            return
        states, self.states = self.states, None
        torch.set_rng_state(states["torch"])
        if torch.cuda.is_available() and states["cuda"] is not None:
            torch.cuda.set_rng_state(states["cuda"])
        version, internal, gauss = states["python"]
        random.setstate((version, tuple(internal), gauss))
        kind, keys, *rest = states["numpy"]
        np.random.set_state((kind, np.asarray(keys, dtype=np.uint32), *rest))


class LogShort(Callback):
    """An epoch with fewer steps than `log_every_n_steps` is logged at its last one."""

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        steps = trainer.num_training_batches // trainer.accumulate_grad_batches  # a float where it has no end
        own = vars(trainer)  # an attribute that Lightning does not annotate
        own["log_every_n_steps"] = int(min(own["log_every_n_steps"], max(1, steps)))


class Lines(Callback):
    """An epoch's figures in a line, one each half minute: what a file is told where a terminal has a bar."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self.clock, self.due = clock, clock() + EVERY[False]

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.is_global_zero and self.clock() >= self.due:
            self.due = self.clock() + EVERY[False]
            of = f" of {trainer.max_epochs}" if (trainer.max_epochs or 0) > 0 else ""
            figures = ", ".join(f"{key} {value:.4g}" for key, value in trainer.callback_metrics.items())
            print(f"epoch {trainer.current_epoch + 1}{of}: {figures}", flush=True)


class CSVLog(CSVLogger):
    """Lightning's, in which neither a kill nor a full disk loses the rows so far."""

    rows: "Rows | None" = None  # of the first process, once something is logged

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        if self.rows is None:
            self.rows = Rows(self.log_dir)
        return self.rows

    def finalize(self, status: str) -> None:
        if self.rows is not None:
            self.save()


class Rows(ExperimentWriter):
    """A new column makes a new file; Lightning empties the one there is first."""

    def save(self) -> None:
        columns = sorted({*self.metrics_keys, *(column for row in self.metrics for column in row)})
        if columns != self.metrics_keys and Path(self.metrics_file_path).is_file():
            self.widen(columns)
        self.metrics_keys = columns  # Lightning finds none new, and appends
        super().save()

    def widen(self, columns: list[str]) -> None:
        """Write the rows so far under more columns."""
        path = Path(self.metrics_file_path)
        with (
            write_aside(path.parent) as aside,
            open(path, newline="", encoding="utf-8") as old,
            open(aside(path.name), "w", newline="", encoding="utf-8") as new,
        ):
            writer = csv.DictWriter(new, columns)
            writer.writeheader()
            writer.writerows(csv.DictReader(old))


class WriteAside(TorchCheckpointIO):
    """A checkpoint is written beside its place, synced and renamed: a full disk leaves the last good one.

    One that is damaged is not gone on from.
    """

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = None) -> Any:
        try:
            return read_checkpoint(Path(path))
        except ValueError as error:
            run = Path(path).parents[1]
            raise ValueError(
                f"{error}; put another checkpoint of {Path(path).parent} in its place, or begin again with: zoo fit "
                f"{run / 'recipe.yaml'}"
            ) from error

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        aside = path.with_name(f".{path.name}.{os.getpid()}.part")
        # jsonargparse notes how it made the module; export and weights_only loading want plain arguments only.
        for key in [k for k in checkpoint.get("hyper_parameters", {}) if k.startswith("_")]:
            del checkpoint["hyper_parameters"][key]
        for key in ("hyper_parameters", "datamodule_hyper_parameters"):
            if key in checkpoint:
                checkpoint[key] = redacted(dict(checkpoint[key]))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(aside, "wb") as f:
                torch.save(checkpoint, f)
                f.flush()
                os.fsync(f.fileno())
            replace(aside, path)
        except (OSError, RuntimeError) as error:  # torch's writer reports a full disk as a RuntimeError
            raise OSError(
                f"cannot write {path}: {error}; the checkpoint before it is untouched, free some space"
            ) from error
        finally:
            aside.unlink(missing_ok=True)
