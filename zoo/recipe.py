"""Finding, reading and copying recipes, and the help of the verbs that run them; no Lightning, no torch."""

import contextlib
import fnmatch
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from zoo import registry
from zoo.registry import suggest

BUSY = ".lock"  # of a run's directory, held while it is trained
PATIENCE = 10.0  # seconds, in which the workers of a killed process notice and let go of its run
FINETUNE = "finetune_folder"  # what fits a folder of pictures

FIT_HELP = """\
zoo fit RECIPE|FILE [--data PATH] [--runs FOLDER] [--model.KEY VALUE] [--data.KEY VALUE] [--trainer.KEY VALUE]
        [--seed_everything N] [--save_steps N] [--skip_nonfinite N]
zoo fit --resume RUN [--model.KEY VALUE …]
zoo fit RECIPE|FILE --run RUN …
zoo fit RECIPE|FILE --help | --print_config

RECIPE is a name that `zoo ls --recipes` shows, FILE a recipe of one's own (`zoo cp RECIPE FILE`).
KEY is an argument of the recipe's LightningModule, its DataModule, or Lightning's Trainer: `zoo fit RECIPE --help`
lists them with type, value and meaning, `zoo fit RECIPE --print_config` prints the recipe with all defaults filled in.
--data PATH is short for the DataModule's first key, --data.source PATH; of a class, --data CLASS names the DataModule.

Each run gets a directory of its own under runs/RECIPE/: the resolved recipe, the environment, checkpoints/, logs/
(CSV and TensorBoard) and metrics.json. Ctrl-C and SIGTERM leave a checkpoint after the step in progress; --resume goes
on from it exactly, and what is given on the command line then wins over what the run began with. A checkpoint is
written at the end of each epoch, and with --save_steps each N optimiser steps: what a killed run loses at most. A loss
that is not finite stops the run; with --skip_nonfinite, up to N such batches are left out first.

With --run the directory is that one: the command begins the run, and the same command again goes on with it, which is
what a scheduler that stops and restarts it wants.

zoo fit finetune_folder --data photos/          a classifier of one's own pictures, in folders by class
zoo fit bilinear/mnist --data PATH_OR_HUB_ID --trainer.max_epochs 3"""

VALIDATE_HELP = """\
zoo validate RECIPE|FILE [--model.KEY VALUE …]
zoo validate RECIPE|FILE --estimate [--device h100|h200|a100|b200 | --tflops T[,T,T]] [--utilisation 0.4]
        [--images N] [--…]

Parses the recipe, builds everything, runs one batch of training and validation, prints shapes; leaves no files.

With --estimate nothing is read, fetched or trained: a step of the recipe is gone through with shapes alone, a model of
any size in seconds. Printed are parameters, gradients, optimiser, moving average and activations at the recipe's batch,
with and without gradient checkpointing, a device's share under DDP and FSDP2; operations an image and a step; images a
second and hours of training at a share of the device's peaks, 0.4 of an H100's if not said otherwise; and JSON in the
last line. What kernels need while they run comes on top. T are TFLOP/s in half precision, in float32 convolutions
(TF32) and in float32 matrices, or one number for all; N the images of an epoch, where the data set is one of your own.
Devices are those of the recipe or of --trainer.devices; "auto" counts as one.

zoo validate mae/in1k_pretrain_large --estimate --data.batch_size 128 --trainer.devices 4 --device a100"""

HARMLESS = (  # keys on which no figure depends
    *("num_workers", "cache", "logger", "enable_progress_bar", "enable_model_summary", "log_every_n_steps"),
    *("enable_checkpointing", "default_root_dir"),
)


def list_recipes(pattern: str = "*") -> list[str]:
    """Names of the recipes that ship with the package and match a shell pattern: those of no family, `family/name`."""
    own = sorted(p.stem for p in registry.RECIPES.glob("*.yaml"))
    names = sorted(f"{f.name}/{p.stem}" for f in registry.families().values() for p in f.recipes.glob("*.yaml"))
    return [n for n in (*own, *names) if fnmatch.fnmatchcase(n, pattern)]


def recipe_path(name: str) -> Path:
    """The file of a recipe, by name or path.

    Raises:
        ValueError: neither a file nor a recipe; the message names the nearest ones, and of a folder the command that
            trains on it, or goes on with it.
    """
    family, _, stem = name.rpartition("/")
    folders = {"": registry.RECIPES, **{f.name: f.recipes for f in registry.families().values()}}
    for path in (Path(name), *(folder / f"{stem}.yaml" for known, folder in folders.items() if known == family)):
        if path.is_file():
            return path
    if (Path(name) / "recipe.yaml").is_file():
        raise ValueError(f"{name} is a run, no recipe; zoo fit --resume {name} goes on with it")
    if Path(name).is_dir():
        raise ValueError(f"{name} is a folder, no recipe; zoo fit {FINETUNE} --data {name} trains on its pictures")
    raise ValueError(
        f"no recipe {name!r}{suggest(name, list_recipes())}; `zoo ls --recipes` lists them, or give a file"
    )


def about(name: str) -> str:
    """A recipe's first comment line."""
    with open(recipe_path(name), encoding="utf-8") as f:
        return f.readline().lstrip("# ").strip()


def copy_recipe(name: str, to: Path) -> Path:
    """Copy a recipe; never over a file that is there, and a full disk leaves none."""
    text = recipe_path(name).read_text(encoding="utf-8")
    if to.exists():
        raise ValueError(f"{to} exists; give another name")
    to.parent.mkdir(parents=True, exist_ok=True)
    try:
        to.write_text(text, encoding="utf-8")
    except OSError as error:
        to.unlink(missing_ok=True)  # half a recipe
        raise OSError(f"cannot write {to}: {error.strerror}; nothing is there now, give another name") from error
    return to


def newest_run(place: Path) -> Path | None:
    """The run of a place that `zoo.load` takes; None where it holds none.

    A place is a run, a checkpoint in it, the folder of a recipe's runs, or one that holds no other recipe's.

    Raises:
        ValueError: it holds runs of several recipes.
    """
    if place.suffix == ".ckpt":
        place = place.parent.parent
    elif not (place / "checkpoints").is_dir() and not (place / "config.json").is_file():
        found = list(place.glob("*/checkpoints")) or list(place.glob("*/*/checkpoints"))
        recipes = sorted({checkpoints.parents[1] for checkpoints in found})
        if len(recipes) > 1:
            named = ", ".join(map(str, recipes))
            raise ValueError(f"{place} holds runs of {len(recipes)} recipes, {named}; name one of them")
        place = max(found, default=place / "checkpoints").parent
    return place if (place / "checkpoints").is_dir() else None


@contextlib.contextmanager
def alone(run: Path) -> Iterator[None]:
    """While one process, and what it has started, trains in a run's directory.

    Raises:
        ValueError: another one does.
    """
    from filelock import FileLock, Timeout

    try:
        lock = FileLock(run / BUSY).acquire(timeout=PATIENCE)
    except Timeout:
        raise ValueError(f"{run} is being trained by another process; wait for it, or begin another run") from None
    try:
        yield
    finally:
        lock.lock.release()
        (run / BUSY).unlink(missing_ok=True)


def busy(run: Path) -> bool:
    """Whether a process trains in a run's directory now."""
    from filelock import FileLock, Timeout

    try:
        if (run / BUSY).is_file():
            FileLock(run / BUSY).acquire(timeout=0).lock.release()
    except Timeout:
        return True
    except OSError:  # somebody else's, which cannot be asked
        return False
    return False


def read_yaml(path: Path) -> dict[str, Any]:
    """What a recipe says, as it stands.

    Raises:
        ValueError: it is no YAML, or no recipe.
    """
    import yaml

    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeError) as error:
        raise ValueError(f"{path} is no YAML ({' '.join(str(error).split())}); `zoo cp` shows a recipe") from error
    parts = {"model", "data", "trainer"}
    if not isinstance(said, dict) or not all(isinstance(said.get(part), dict) for part in parts):
        raise ValueError(f"{path} is no recipe: it needs model, data and trainer; `zoo cp` shows one")
    return said


def differing(run: dict[str, Any], name: str, commands: Sequence[str] = ()) -> dict[str, Any]:
    """What a run has otherwise than its recipe says: key → value, "model.lr": 0.01.

    A run has all defaults filled in, which a recipe leaves out: of keys that the recipe does not have, those count that
    a command has set. Where a recipe is gone, these are all that is known.

    Args:
        run: its recipe.yaml, read.
        name: of the recipe, or its file.
        commands: that began it and went on with it.
    """
    try:
        recipe = flat(read_yaml(recipe_path(name)))
    except (OSError, ValueError):
        recipe = {}
    own, typed = flat(run), {key for command in commands for key in re.findall(r"--(\w+\.[\w.]+)", command)}
    free = {key.rpartition(".")[0] for key in recipe} - recipe.keys() - {"", "trainer"}  # mappings such as arch_args
    asked = {key for key in own if key in typed or key.rpartition(".")[0] in typed | free}
    other = {key: own[key] for key in own if key in recipe and not _same(recipe[key], own[key])}
    other |= {key: own[key] for key in own if key in asked - recipe.keys() and own[key] is not None}
    told = [key for key in other if not key.startswith("expect") and not key.endswith(HARMLESS)]
    return {key: other[key] for key in sorted(told, key=lambda key: not key.startswith("model"))}  # what tells most


def flat(said: dict[str, Any]) -> dict[str, Any]:
    """Keys as they are typed: "model.lr", "data.source", "model.arch_args.image_size"; a class is "model" itself."""
    found: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if not isinstance(value, dict) or not value:
            found[prefix] = value
            return
        if "class_path" in value:
            found[prefix] = str(value["class_path"]).rpartition(".")[2]
            value = value.get("init_args") or {}
        for key, inner in value.items():
            walk(f"{prefix}.{key}".lstrip("."), inner)

    walk("", said)
    return found


def _same(recipe: Any, run: Any) -> bool:
    """Whether a run has what a recipe says, and perhaps defaults besides."""
    if isinstance(recipe, dict) and isinstance(run, dict):
        return all(_same(value, run.get(key)) for key, value in recipe.items())
    if isinstance(recipe, list) and isinstance(run, list):
        return len(recipe) == len(run) and all(map(_same, recipe, run))
    try:
        return recipe == run or (not isinstance(run, bool) and float(recipe) == float(run))  # YAML reads 1e-3 as a text
    except (TypeError, ValueError):
        return False
