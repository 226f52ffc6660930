"""`zoo fit` and `zoo validate`: LightningCLI with exact resume, one directory per run, and what ran written down."""

import contextlib
import csv
import inspect
import json
import logging
import os
import platform
import random
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import jsonargparse
import lightning as L
import numpy as np
import torch
import torch.distributed as dist
from jsonargparse.typing import NonNegativeInt, PositiveInt
from lightning.pytorch.callbacks import Callback, Checkpoint, ModelCheckpoint, RichProgressBar, TQDMProgressBar
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.optim.lr_scheduler import LambdaLR

from zoo import __version__, parallel, recipe
from zoo.data.images import mix
from zoo.hub import FULL, read_checkpoint, write_aside
from zoo.optim import Guarded
from zoo.redact import HIDDEN, redact, redacted
from zoo.registry import suggest

LAST = Path("checkpoints") / "last.ckpt"

# Lightning advertises packages at every start; whoever reads a run's output is looking for something else.
logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda record: "Tip:" not in record.getMessage())
warnings.filterwarnings("ignore", message=".*treespec.*")


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """What Lightning refuses of its Trainer's values, as the ValueError that the command line prints."""
    try:
        yield
    except MisconfigurationException as error:
        raise ValueError(" ".join(str(error).split())) from error


@_one_line()
def fit(argv: list[str]) -> int:
    """Train by a recipe, or go on with a run; returns the exit status, 128 + signal when one stopped it."""
    argv, root = _take(list(argv), "--runs", "runs")
    argv, run = _take(argv, "--resume", None)
    argv, place = _take(argv, "--run", None)
    if place is not None and (Path(place) / LAST).is_file():
        run, argv = place, _same_recipe(Path(place), argv)
    if run is None:
        name, overrides = argv[0], argv[1:]
        file = recipe.recipe_path(name)
        cli = parse(file, overrides)
        # Of several processes, the first one makes the directory and writes into it; the others need no place.
        run = Path(place or root)
        if cli.trainer.is_global_zero:
            run = _new_run(Path(root), name) if place is None else run
            run.mkdir(parents=True, exist_ok=True)
    else:
        run, overrides = Path(run), argv
        if not (run / "recipe.yaml").is_file():
            raise ValueError(f"{run} is no run to resume: it needs recipe.yaml; runs lie under runs/RECIPE/")
        cli = parse(run / "recipe.yaml", overrides)
        if cli.trainer.is_global_zero:
            _clear(run)
            if not (run / LAST).is_file():
                print(f"{run} was stopped before its first checkpoint: it begins again")
        if HIDDEN in f"{cli.config['model']} {cli.config['data']}":
            raise ValueError(
                f"{run}/recipe.yaml holds an address whose secret was not written down; give it again, "
                f"zoo fit --resume {run} --data.source ADDRESS"
            )
        name = json.loads((run / "environment.json").read_text())["recipe"]
    if cli.trainer.is_global_zero:
        _write_down(run, cli, name)
        print(f"run {run}", flush=True)
    try:
        status = _run(cli, run, name, resume=run / LAST if (run / LAST).is_file() else None, overridden=bool(overrides))
    except RuntimeError as error:
        if cli.trainer.world_size == 1 or not re.search("by peer|Broken pipe", str(error)):
            raise
        raise ConnectionError("another process of this run has ended; what it says tells why") from error
    if dist.is_initialized():
        dist.destroy_process_group()  # threads that still wait for other processes abort a process that ends
    return status


@_one_line()
def validate(argv: list[str]) -> int:
    """Build a recipe, run one batch of each loop, print what goes in; no files are left. Or estimate what it takes."""
    if "--estimate" in argv:
        from zoo import estimate

        return estimate.main(argv)
    overrides = [*argv[1:], "--trainer.fast_dev_run", "1", "--trainer.enable_progress_bar", "false"]
    cli = parse(recipe.recipe_path(argv[0]), overrides)
    data, model = cli.datamodule, cli.model
    data.prepare_data()
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    images, labels = data.on_after_batch_transfer(batch, 0)
    cli.trainer.fit(model, data)
    print(f"images      {tuple(images.shape)} {images.dtype} in [{images.min():.3g}, {images.max():.3g}]")
    print(f"labels      {tuple(labels.shape)} {labels.dtype}, {data.num_classes} classes")
    print(f"parameters  {sum(p.numel() for p in model.model.parameters()):,}")
    steps = cli.config["trainer"]["accumulate_grad_batches"] * cli.trainer.world_size
    lr = max(group.get("initial_lr", group["lr"]) for group in cli.trainer.optimizers[0].param_groups)
    print(f"batch       {len(images) * steps} images an optimiser step, learning rate {lr:g}")
    print(f"{argv[0]} is valid")
    return 0


def parse(file: Path, overrides: list[str]) -> LightningCLI:
    """Build model, data and Trainer from a recipe and the command line.

    Raises:
        ValueError: what the parser refuses, in one line, with the nearest names for an unknown key.
    """
    cli = _parse(_CLI, file, overrides)
    if cli.config["skip_nonfinite"] and not isinstance(cli.model, Guarded):
        raise ValueError(
            f"skip_nonfinite={cli.config['skip_nonfinite']}: {type(cli.model).__name__} cannot leave batches out; "
            "leave it out, or derive the class from zoo.optim.Guarded"
        )
    cli.model.skip_nonfinite = cli.config["skip_nonfinite"]
    return cli


def resolve(file: Path, overrides: list[str]) -> jsonargparse.Namespace:
    """What a recipe and the command line say, checked and filled in; nothing is built. Errors as `parse`'s."""
    return _parse(_Resolved, file, overrides).config


def _parse(kind: type[LightningCLI], file: Path, overrides: list[str]) -> LightningCLI:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "LightningCLI's args parameter")
        try:
            cli = kind(
                args=["--config", str(file), *overrides],
                run=False,
                save_config_callback=None,
                auto_configure_optimizers=False,
                seed_everything_default=0,
                parser_kwargs={"exit_on_error": False, "allow_abbrev": False},
            )
        except (jsonargparse.ArgumentError, TypeError, ValueError) as error:
            raise ValueError(_short(str(error), file)) from error
    if "max_epochs" not in cli.config["trainer"]:  # the parser drops what is no mapping, and all defaults with it
        raise ValueError(f"{file}: trainer holds no keys; give some of Lightning's Trainer, as `zoo cp` shows")
    if cli.config.get("data") is None:
        raise ValueError(f"{file} names no data; give class_path and init_args under data:, as `zoo cp` shows")
    return cli


class _CLI(LightningCLI):
    def add_arguments_to_parser(self, parser: jsonargparse.ArgumentParser) -> None:
        parser.add_argument("--expect", type=dict | None, default=None, help="the figure the recipe should reach")
        parser.add_argument("--save_steps", type=PositiveInt | None, default=None, help="a checkpoint each so many")
        parser.add_argument("--skip_nonfinite", type=NonNegativeInt, default=0, help="batches that may be left out")


class _Resolved(_CLI):
    def instantiate_classes(self) -> None:
        pass


def _run(cli: LightningCLI, run: Path, name: str, resume: Path | None, overridden: bool) -> int:
    trainer, stop = cli.trainer, Stop(run)
    trainer.strategy.checkpoint_io = WriteAside()
    if getattr(trainer.strategy, "_layer_sync", None) and trainer.strategy.root_device.type == "cpu":
        trainer.strategy._layer_sync = parallel.JoinBatchNorms()
    state = RunState(overridden)
    trainer.callbacks[:0] = [state]
    bars = trainer.progress_bar_callback is not None
    if bars and sys.stdout.isatty():
        trainer.callbacks.remove(trainer.progress_bar_callback)
        trainer.callbacks.append(RichProgressBar())
    elif bars and isinstance(trainer.progress_bar_callback, TQDMProgressBar):
        trainer.progress_bar_callback._refresh_rate = 50  # a log file wants few lines
    trainer.callbacks = [c for c in trainer.callbacks if not (isinstance(c, ModelCheckpoint) and c.dirpath is None)]
    trainer.callbacks += [
        stop,
        ModelCheckpoint(run / LAST.parent, "last", save_on_train_epoch_end=True, enable_version_counter=False),
    ]
    if cli.config["save_steps"] is not None:
        trainer.callbacks.append(SaveSteps(run, cli.config["save_steps"]))
    if cli.config["trainer"]["logger"] in (None, True):
        trainer.loggers = [CSVLog(run, "logs"), TensorBoardLogger(str(run), "logs/tensorboard", version="")]
    for part in (cli.model, cli.datamodule):  # what the loggers write down
        part._hparams_initial.update(redacted(dict(part.hparams_initial)))
    start = time.perf_counter()
    try:
        trainer.fit(cli.model, cli.datamodule, ckpt_path=resume and str(resume), weights_only=True)
    except Stopped as stopped:
        if trainer.is_global_zero:
            print(f"stopped by {signal.Signals(stopped.signum).name}; go on with: zoo fit --resume {run}")
        return 128 + stopped.signum
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise OSError(
            f"cannot write to {run}: {error}; its checkpoint is untouched, free some space and go on with: zoo fit "
            f"--resume {run}"
        ) from error
    signum = max(parallel.gather(stop.signum))
    if signum:  # in the last epoch's validation; the training is whole
        if trainer.is_global_zero:
            print(f"stopped by {signal.Signals(signum).name} before the test; go on with: zoo fit --resume {run}")
        return 128 + signum
    seconds = time.perf_counter() - start
    validated = state.figures | dict(trainer.callback_metrics)
    (figures,) = trainer.test(cli.model, cli.datamodule, verbose=False)
    if not trainer.is_global_zero:
        return 0
    found = {
        "recipe": name,
        "seed": cli.config["seed_everything"],
        "data": cli.datamodule.hparams.get("source", type(cli.datamodule).__name__),
        "metrics": {k: float(v) for k, v in (validated | figures).items()},
        "expect": cli.config["expect"],
        "seconds": round(seconds, 2),
        "images_per_second": round(stop.images * trainer.world_size / seconds),
    }
    _write_json(run / "metrics.json", found)
    for key, value in figures.items():
        print(f"{key:<12} {value:.4f}")
    expect = found["expect"] or {}
    if expect.get("value") is not None:
        about = redact(expect.get("about", "see the recipe"))
        print(f"{'expected':<12} {expect['metric']} {expect['value']} ({about})")
    print(f"{seconds:.1f} s, {found['images_per_second']:,} images/s")
    print(run)
    return 0


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
            os.replace(self.aside, self.last)
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
    validates = loop.epoch_loop._should_check_val_fx(loop._data_fetcher)
    return steps_now(trainer, module, index) and not trainer.is_last_batch and not validates


class RunState(Callback):
    """Exact resume: random states of all processes and the place in the epoch travel in the checkpoint.

    On resume, what the recipe and the command line say of the optimiser wins over the checkpoint, where `overridden`.
    Processes begin with the same weights and draw different masks and noises.
    """

    def __init__(self, overridden: bool):
        self.overridden, self.fresh, self.states, self.batches = overridden, [], None, None
        self.figures: dict[str, float] = {}  # of a run whose training was through already

    def on_save_checkpoint(self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict) -> None:
        kind, keys, *rest = np.random.get_state()
        mine = {
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
            "python": random.getstate(),
            "numpy": (kind, keys.tolist(), *rest),
        }
        checkpoint["random"] = parallel.gather(mine)  # one of each process
        checkpoint["figures"] = {k: float(v) for k, v in trainer.callback_metrics.items()}
        # Lightning keeps this too, but forgets to give it back once anything has asked for estimated_stepping_batches.
        checkpoint["batches"] = trainer.train_dataloader.state_dict()

    def on_load_checkpoint(self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict) -> None:
        states, self.batches = checkpoint["random"], checkpoint["batches"]
        if len(states) != trainer.world_size:
            raise ValueError(
                f"the run was trained by {len(states)} processes and cannot go on exactly with {trainer.world_size}; "
                "give it as many, or begin a new run from it with --model.weights RUN"
            )
        self.states = states[trainer.global_rank]
        self.figures = checkpoint.get("figures", {})

    def on_fit_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        # Before the checkpoint's optimiser state comes in: these are the values of the recipe and the command line.
        self.fresh = [
            [{k: v for k, v in g.items() if k != "params"} for g in o.param_groups] for o in trainer.optimizers
        ]

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self.batches is not None:
            trainer.train_dataloader.load_state_dict(self.batches)
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


class CSVLog(CSVLogger):
    """Lightning's, in which neither a kill nor a full disk loses the rows so far."""

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        self._experiment = self._experiment or Rows(self.log_dir)
        return self._experiment


class Rows(ExperimentWriter):
    """A new column makes a new file; Lightning empties the one there is first."""

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        path = Path(self.metrics_file_path)
        with (
            write_aside(path.parent) as aside,
            open(path, newline="") as old,
            open(aside(path.name), "w", newline="") as new,
        ):
            writer = csv.DictWriter(new, fieldnames)
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
            os.replace(aside, path)
        except (OSError, RuntimeError) as error:  # torch's writer reports a full disk as a RuntimeError
            raise OSError(
                f"cannot write {path}: {error}; the checkpoint before it is untouched, free some space"
            ) from error
        finally:
            aside.unlink(missing_ok=True)


def _same_recipe(run: Path, argv: list[str]) -> list[str]:
    """What changes the recipe on a command line that has begun the run already."""
    began = json.loads((run / "environment.json").read_text())["recipe"]
    if argv[:1] != [began]:
        raise ValueError(f"{run} is a run of {began}, not of {' '.join(argv[:1])}; give another --run")
    return argv[1:]


def _new_run(root: Path, name: str) -> Path:
    stem = Path(name).stem if Path(name).suffix else name.replace("/", "-")
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    for n in range(1000):
        run = root / stem / (f"{stamp}-{n}" if n else stamp)
        try:
            run.mkdir(parents=True)
        except FileExistsError:
            if not run.is_dir():
                raise
        else:
            return run
    raise OSError(f"no free directory under {root / stem}; give another --runs")


def _clear(run: Path) -> None:
    """What a killed run had not finished writing."""
    for pattern in (".*.part", f".{LAST.name}.next"):
        for left in run.rglob(pattern):
            left.unlink()


def _write_down(run: Path, cli: LightningCLI, name: str) -> None:
    """The resolved recipe, the environment and the commit, beside the checkpoints; the recipe last: it makes a run."""
    resolved = cli.parser.dump(cli.config, skip_none=False)
    earlier = json.loads((run / "environment.json").read_text()) if (run / "environment.json").is_file() else {}
    _write_json(
        run / "environment.json",
        {
            "recipe": name,
            "commands": [*earlier.get("commands", ()), redact(" ".join(["zoo", *sys.argv[1:]]))],
            "zoo": __version__,
            "commit": _commit(),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
            "processes": cli.trainer.world_size,
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "torch": torch.__version__,
            "lightning": L.__version__,
        },
    )
    _write_text(run / "recipe.yaml", redact(re.sub(r"^config:.*\n(- .*\n)*", "", resolved, flags=re.MULTILINE)))


def _commit() -> str | None:
    """The commit of this checkout, with -dirty where files differ; None in an installed package."""
    here = Path(__file__).resolve().parents[1]
    if not (here / ".git").exists():
        return None
    # `git describe --dirty` would write the index, and leave it locked where it is killed or the disk is full.
    head, changed = (
        subprocess.run(["git", "--no-optional-locks", *argv], cwd=here, capture_output=True, text=True).stdout.strip()
        for argv in (["rev-parse", "--verify", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
    )
    return f"{head}-dirty" if head and changed else head or None


def _write_json(path: Path, values: dict[str, Any]) -> None:
    _write_text(path, json.dumps(redacted(values), indent=2, default=str) + "\n")


def _write_text(path: Path, text: str) -> None:
    with write_aside(path.parent) as aside:
        aside(path.name).write_text(text)


def _take(argv: list[str], flag: str, default: str | None) -> tuple[list[str], str | None]:
    """Remove `flag VALUE` or `flag=VALUE` from argv."""
    for i, arg in enumerate(argv):
        if arg == flag and i + 1 < len(argv):
            return argv[:i] + argv[i + 2 :], argv[i + 1]
        if arg.startswith(f"{flag}="):
            return argv[:i] + argv[i + 1 :], arg.partition("=")[2]
    return argv, default


def _short(error: str, file: Path) -> str:
    """A parser's complaint in one line, with the nearest of the keys there are."""
    unknown = re.search(r"(?:[Oo]ption|[Kk]ey|unrecognized arguments:) '?(?:--)?([\w.]+)'?(?: is not| \d|$)", error)
    if unknown is not None:
        key = unknown[1]
        known = dict.fromkeys(_keys())
        wrong = next((k for k in key.split(".") if k not in known), key)
        near = suggest(wrong, [k for k in known if k != wrong])
        return f"{file}: no key {key!r}{near}; `zoo fit --help` says where keys come from"
    keys, given = re.findall(r'Parser key "([\w.]+)"', error), re.search(r"G(?:iven|ot) value: (.*)", error)
    types = [t for t in re.findall(r"Expected an? <class '(\w+)'>", error) if t != "NoneType"]
    if keys and given and types:
        return f"{file}: {keys[-1]} is {given[1]!r}, expected {' or '.join(types)}"
    reason = re.sub(
        r"^.*?Errors:\s*-|- Expected a <class 'NoneType'>.*|Problem with given class_path [^:]*:",
        "",
        error,
        flags=re.DOTALL,
    )
    return f"{file}: {' '.join(reason.split())[:400]}"


def _keys() -> list[str]:
    from zoo.classify import LitClassifier
    from zoo.data.clips import ClipData
    from zoo.data.images import ImageData
    from zoo.dcae.lit import LitDCAE
    from zoo.pretrain import LitMAE
    from zoo.vq.lit import LitPrior, LitVQGAN

    places = (LitClassifier, LitMAE, LitVQGAN, LitPrior, LitDCAE, ImageData, ClipData, L.Trainer)
    return [
        "model",
        "data",
        "trainer",
        "seed_everything",
        "expect",
        "save_steps",
        "skip_nonfinite",
        *(k for c in places for k in inspect.signature(c).parameters),
    ]
