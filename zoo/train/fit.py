"""`zoo fit` and `zoo validate`: LightningCLI with exact resume, one directory per run, and what ran written down."""

import contextlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from zoo import __version__, recipe
from zoo.data.readers import serves
from zoo.data.trained import noted
from zoo.hub.files import FULL, read_checkpoint, write_aside
from zoo.hub.make import differing
from zoo.metrics.intervals import widened
from zoo.nn.protocols import Input
from zoo.redact import HIDDEN, public, redact, redacted
from zoo.train import keys, parallel
from zoo.train.callbacks import LAST, Begun, CSVLog, Lines, LogShort, RunState, SaveSteps, Stop, Stopped, WriteAside
from zoo.train.parse import parse, resolve

FIGURES = ("model", "data", "trainer", "seed_everything")  # keys that they depend on, but for recipe.HARMLESS
SEEDS = ("seed_everything", "data.seed")  # which a range is over


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """What Lightning refuses of its Trainer's values, as the ValueError that the command line prints."""
    try:
        yield
    except MisconfigurationException as error:
        raise ValueError(" ".join(str(error).split())) from error
    except SystemExit as end:  # with which Lightning answers to Ctrl-C, once it has told the other processes
        if isinstance(end.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise


@contextlib.contextmanager
def _or_nothing(run: Path, made: list[Path], begun: Begun) -> Iterator[None]:
    """Takes back what an attempt wrote that was refused, or failed, before its first batch was through.

    What was there before stays: of a run that is gone on with, its logs and its recipe.

    Args:
        made: directories that the attempt has made, from the inside out.
    """
    before = _written(run)
    try:
        yield
    except BaseException:
        if not begun.written:
            for path in sorted(_written(run) - before, reverse=True):  # what a folder holds before the folder
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # somebody else's file is in it
                for folder in made:
                    folder.rmdir()
        raise


def _written(run: Path) -> set[Path]:
    """What a training writes into a run's directory, as far as it is there."""
    tops = [run / name for name in ("recipe.yaml", "environment.json", "metrics.json", "logs", "checkpoints")]
    return {path for top in tops if top.exists() for path in (top, *top.rglob("*"))}


@_one_line()
def fit(argv: list[str]) -> int:
    """Train by a recipe, or go on with a run; returns the exit status, 128 + signal when one stopped it."""
    argv, runs = _take(list(argv), "--runs")
    argv, resumed = _take(argv, "--resume")
    argv, place = _take(argv, "--run")
    root = Path("runs" if runs is None else runs)
    if place is not None and (Path(place) / LAST).is_file():
        resumed, argv = place, _same_recipe(Path(place), argv)
    made: list[Path] = []
    if resumed is None:
        name, overrides = argv[0], argv[1:]
        _wants_data(name, overrides)
        cli = parse(recipe.recipe_path(name), overrides)
        # Of several processes, the first one makes the directory and writes into it; the others need no place.
        run = Path(place or root)
        if cli.trainer.is_global_zero:
            run, made = _directory(place, root, name)
    else:
        run, overrides = Path(resumed), argv
        if not (run / "recipe.yaml").is_file():
            raise ValueError(f"{run} is no run to resume: it needs recipe.yaml; runs lie under runs/RECIPE/")
        overrides = keys.spelled_out(run / "recipe.yaml", overrides)
        cli = parse(run / "recipe.yaml", [*keys.as_begun(run / "recipe.yaml", overrides), *overrides])
        if HIDDEN in f"{cli.config['model']} {cli.config['data']}":
            raise ValueError(
                f"{run}/recipe.yaml holds an address whose secret was not written down; give it again, "
                f"zoo fit --resume {run} --data.source ADDRESS"
            )
        name = json.loads((run / "environment.json").read_text(encoding="utf-8"))["recipe"]
    begun = Begun(partial(_write_down, run, cli, name))
    with contextlib.ExitStack() as stack:
        if cli.trainer.is_global_zero:
            stack.enter_context(_or_nothing(run, made, begun))
            stack.enter_context(recipe.alone(run))
            _clear(run)
            print(f"run {run}", flush=True)
        last = run / LAST
        try:
            status = _run(cli, run, name, begun, resume=last if last.is_file() else None, overridden=bool(overrides))
        except RuntimeError as error:
            if cli.trainer.world_size == 1 or not re.search("by peer|Broken pipe", str(error)):
                raise
            raise ConnectionError("another process of this run has ended; what it says tells why") from error
    if dist.is_initialized():
        dist.destroy_process_group()  # threads that still wait for other processes abort a process that ends
    return status


def _wants_data(name: str, overrides: list[str]) -> None:
    """See that a folder is given to the recipe that has none of its own."""
    given = ("--data", "--data.source", "--data.init_args.source", "--print_config")
    if name == recipe.FINETUNE and not any(flag.partition("=")[0] in given for flag in overrides):
        raise ValueError(f"{name} is for pictures of your own; give their folder: zoo fit {name} --data photos/")


def describe(argv: list[str]) -> int:
    """Print what can be set in a recipe, with what the rest of the command line sets already."""
    argv, _ = _take(argv, "--runs")
    argv, _ = _take(argv, "--run")
    print(keys.describe(argv[0], resolve(recipe.recipe_path(argv[0]), argv[1:])))
    return 0


@_one_line()
def validate(argv: list[str]) -> int:
    """Build a recipe, run one batch of each loop, print what goes in; no files are left."""
    _wants_data(argv[0], argv[1:])
    overrides = [*argv[1:], "--trainer.fast_dev_run", "1", "--trainer.enable_progress_bar", "false"]
    cli = parse(recipe.recipe_path(argv[0]), overrides)
    data, model = cli.datamodule, cli.model
    data.prepare_data()
    data.setup("fit")
    loader = data.train_dataloader()
    batch = data.on_after_batch_transfer(next(iter(loader)), 0)
    cli.trainer.fit(model, data)
    if not cli.trainer.is_global_zero:
        return 0
    tensors, takes = list(_tensors(batch)), model.model.takes
    for x in tensors:
        span = f" in [{x.min():.3g}, {x.max():.3g}]" if x.numel() else ""
        print(f"{_name(x, takes):<11} {tuple(x.shape)} {x.dtype}{span}")
    print(f"parameters  {sum(p.numel() for p in model.model.parameters()):,}")
    times = (
        cli.config["trainer"]["accumulate_grad_batches"] * model.hparams.get("accumulate", 1) * cli.trainer.world_size
    )
    lr = max(group.get("initial_lr", group["lr"]) for group in cli.trainer.optimizers[0].param_groups)
    made, read = len(tensors[0]), getattr(loader, "batch_size", None)
    of = f" of {read * times} {loader.counts}" if hasattr(loader, "counts") and read != made else ""
    print(f"batch       {made * times} {takes.kind}s{of} an optimiser step, learning rate {lr:g}")
    print(f"{argv[0]} is valid")
    return 0


def _tensors(batch: Any) -> Iterator[torch.Tensor]:
    """All that a batch holds, however it is nested: (images, labels), ((images, latents), labels)."""
    if isinstance(batch, torch.Tensor):
        yield batch
    elif isinstance(batch, list | tuple):
        for part in batch:
            yield from _tensors(part)


def _name(x: torch.Tensor, takes: Input) -> str:
    """What a tensor of a batch is: what the model takes, labels, or something of its own."""
    if x.shape[1:] == takes.shape:
        return f"{takes.kind}s"
    return "others" if x.is_floating_point() else "labels"


def _run(cli: LightningCLI, run: Path, name: str, begun: Begun, resume: Path | None, overridden: bool) -> int:
    trainer, stop = cli.trainer, Stop(run)
    trainer.strategy.checkpoint_io = WriteAside()
    state = RunState(overridden)
    callbacks: list[Callback] = vars(trainer)["callbacks"]  # an attribute that Lightning does not annotate
    callbacks[:0] = [begun, state]
    bar = trainer.progress_bar_callback
    if bar is not None:
        callbacks.remove(bar)
        callbacks.append(RichProgressBar() if sys.stdout.isatty() else Lines())
    callbacks[:] = [c for c in callbacks if not (isinstance(c, ModelCheckpoint) and c.dirpath is None)]
    callbacks += [
        stop,
        LogShort(),
        ModelCheckpoint(run / LAST.parent, "last", save_on_train_epoch_end=True, enable_version_counter=False),
    ]
    if cli.config["save_steps"] is not None:
        callbacks.append(SaveSteps(run, cli.config["save_steps"]))
    logger = cli.config["trainer"]["logger"]
    if logger is not False:
        given = [] if logger in (None, True) else trainer.loggers  # they join ours
        trainer.loggers = [CSVLog(run, "logs"), TensorBoardLogger(str(run), "logs/tensorboard", version=""), *given]
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
    except RuntimeError as error:
        if resume is None or not str(error).startswith("Error(s) in loading state_dict"):
            raise
        raise ValueError(_misfit(resume, cli.model.state_dict())) from error
    begun.write()
    if not stop.images and trainer.is_global_zero:
        reached = ", ".join(f"{key}={cli.config['trainer'][key]}" for key in ("max_epochs", "max_steps", "max_time"))
        print(f"nothing was left to train with {reached}: this is the test alone; raise what ended it to go on")
    signum = max(parallel.gather(stop.signum))
    if signum:  # in the last epoch's validation; the training is whole
        if trainer.is_global_zero:
            print(f"stopped by {signal.Signals(signum).name} before the test; go on with: zoo fit --resume {run}")
        return 128 + signum
    seconds = time.perf_counter() - start
    validated = state.figures | dict(trainer.callback_metrics)
    validated |= getattr(cli.model, "kept_figures", {})  # of a training that ends with other weights than its last
    (figures,) = trainer.test(cli.model, cli.datamodule, verbose=False)
    if not trainer.is_global_zero:
        return 0
    split, expect, changed = serves(cli.datamodule, "test"), cli.config["expect"] or {}, _changed(cli, name)
    changed = [key for key in changed if key not in SEEDS] if expect.get("range") else changed
    changed += ["beginning"] if resume is not None and overridden and not changed else []
    measured = {
        "recipe": name,
        "seed": cli.config["seed_everything"],
        "data": cli.datamodule.hparams.get("source", type(cli.datamodule).__name__),
        "split": split,
        "samples": _samples(cli.datamodule),
        "metrics": {k: float(v) for k, v in {**validated, **figures}.items()},
        "expect": None if changed else cli.config["expect"],
        "seconds": round(seconds, 2),
        "images_per_second": round(stop.images * trainer.world_size / seconds),
    }
    _write_json(run / "metrics.json", measured)
    for key, value in figures.items():
        print(f"{key:<12} {value:.4f}")
    if kept := getattr(cli.model, "said", ""):
        print(kept)
    if split != "test":
        print(f"{measured['data']} has no test set with labels: these are of its {split} split")
    if expect.get("value") is not None:
        metric = expect["metric"].replace("test/", f"{split}/")
        figure = f"{metric} {expect['value']}"
        about = redact(expect.get("about", "see the recipe"))
        others = ", ".join(changed[:4]) + (", …" if len(changed) > 4 else "")
        other = f"nothing known: the run has another {others} than the recipe"
        print(f"{'expected':<12} {other if changed else f'{figure} ({about})'}")
        if expect.get("range") and metric in figures and not changed:
            low, high = widened(*expect["range"])
            verdict = "within" if low <= figures[metric] <= high else "outside"
            print(f"{'compared':<12} {verdict} {low:.4f} to {high:.4f}, where another seed's figure is expected")
    print(f"{seconds:.1f} s, {measured['images_per_second']:,} images/s")
    print(run)
    return 0


def _misfit(checkpoint: Path, own: Mapping[str, torch.Tensor]) -> str:
    """How a checkpoint differs from the tensors of what should go on from it, and what to do."""
    differ = differing(own, read_checkpoint(checkpoint)["state_dict"])
    how = ("missing", "left over", "of another shape")
    faults = ", ".join(f"{len(names)} {words} ({names[0]} first)" for words, names in zip(how, differ) if names)
    return (
        f"{checkpoint} does not fit the model that is asked for now, its tensors are {faults}; leave out what changes "
        "the model, or begin a new run from its weights: zoo fit RECIPE --model.weights RUN"
    )


def _changed(cli: LightningCLI, name: str) -> list[str]:
    """What this run has otherwise than its recipe says, of all that figures depend on."""
    try:
        recipes = _flat(resolve(recipe.recipe_path(name), []))
    except (ValueError, OSError):  # a file that is gone, or lacks what the command line gave
        return [name]
    own = _flat(cli.config)
    keys = [key for key in {**recipes, **own} if recipes.get(key) != own.get(key)]
    return [
        key.replace(".init_args", "") for key in keys if key.startswith(FIGURES) and not key.endswith(recipe.HARMLESS)
    ]


def _flat(config: Any) -> dict[str, str]:
    return {key: str(value) for key, value in vars(config.clone().as_flat()).items()}


def _same_recipe(run: Path, argv: list[str]) -> list[str]:
    """What changes the recipe on a command line that has begun the run already."""
    began = json.loads((run / "environment.json").read_text(encoding="utf-8"))["recipe"]
    if argv[:1] != [began]:
        raise ValueError(f"{run} is a run of {began}, not of {' '.join(argv[:1])}; give another --run")
    return argv[1:]


def _directory(place: str | None, root: Path, name: str) -> tuple[Path, list[Path]]:
    """The run's directory, and those that were not there, from the inside out; without a place, a new one."""
    stem = Path(name).stem if Path(name).suffix else name.replace("/", "-")
    folder = root / stem if place is None else Path(place)
    made = [f for f in (folder, *folder.parents) if not f.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        flag = "--runs" if place is None else "--run"
        raise OSError(f"{folder} cannot be made ({error.strerror}); give another {flag}") from error
    if place is not None:
        return folder, made
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    for n in range(1000):
        run = folder / (f"{stamp}-{n}" if n else stamp)
        with contextlib.suppress(FileExistsError):
            run.mkdir()
            return run, [run, *made]
    raise OSError(f"no free directory under {folder}; give another --runs")


def _clear(run: Path) -> None:
    """What a killed run had not finished writing; of one that begins again, the logs as well."""
    for pattern in (".*.part", f".{LAST.name}.next"):
        for left in run.rglob(pattern):
            left.unlink()
    if (run / "recipe.yaml").is_file() and not (run / LAST).is_file():
        print(f"{run} was stopped before its first checkpoint: it begins again")
        shutil.rmtree(run / "logs", ignore_errors=True)


def _write_down(run: Path, cli: LightningCLI, name: str) -> None:
    """The resolved recipe, the environment and the commit, beside the checkpoints; the recipe last: it makes a run."""
    resolved = cli.parser.dump(cli.config, skip_none=False)
    file = run / "environment.json"
    earlier = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    _write_json(
        file,
        {
            "recipe": name,
            "data": _about(cli.datamodule),
            "commands": [*earlier.get("commands", ()), redact(" ".join(["zoo", *sys.argv[1:]]))],
            "zoo": __version__,
            "commit": commit(),
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


def _about(data: L.LightningDataModule) -> dict[str, Any]:
    """What is asked of a run's data once they are gone: samples of each split, classes, the name that all know."""
    return {
        "public": public(data.hparams["source"]) if "source" in data.hparams else type(data).__name__,
        "samples": _samples(data),
        "classes": list(getattr(data, "classes", ())),
        **noted(data),
    }


def _samples(data: L.LightningDataModule) -> dict[str, int]:
    """How many there are of each split of the source that was read."""
    splits: dict[str, Any] = getattr(data, "splits", {})
    return {serves(data, role): len(s[-1] if isinstance(s, tuple) else s) for role, s in splits.items()}


def commit() -> str | None:
    """The commit of this checkout, with -dirty where files differ; None in an installed package."""
    here = Path(__file__).resolve().parents[2]
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
        aside(path.name).write_text(text, encoding="utf-8")


def _take(argv: list[str], flag: str) -> tuple[list[str], str | None]:
    """The command line without `flag VALUE` or `flag=VALUE`, and the value; None where the flag is not there."""
    for i, arg in enumerate(argv):
        if arg == flag and i + 1 < len(argv):
            return argv[:i] + argv[i + 2 :], argv[i + 1]
        if arg.startswith(f"{flag}="):
            return argv[:i] + argv[i + 1 :], arg.partition("=")[2]
    return argv, None
