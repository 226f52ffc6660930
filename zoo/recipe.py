"""Finding and copying recipes, and the help of the verbs that run them; no Lightning, no YAML parsing."""

import fnmatch
from pathlib import Path

from zoo import registry
from zoo.registry import suggest

FIT_HELP = """\
zoo fit RECIPE|FILE [--runs FOLDER] [--model.KEY VALUE] [--data.KEY VALUE] [--trainer.KEY VALUE] [--seed_everything N]
        [--save_steps N] [--skip_nonfinite N]
zoo fit --resume RUN [--model.KEY VALUE …]
zoo fit RECIPE|FILE --run RUN …
zoo fit RECIPE|FILE --help | --print_config

RECIPE is a name that `zoo ls --recipes` shows, FILE a recipe of one's own (`zoo cp RECIPE FILE`).
KEY is an argument of the recipe's LightningModule, its DataModule, or Lightning's Trainer: `zoo fit RECIPE --help`
lists them with type, value and meaning, `zoo fit RECIPE --print_config` prints the recipe with all defaults filled in.

Each run gets a directory of its own under runs/RECIPE/: the resolved recipe, the environment, checkpoints/, logs/
(CSV and TensorBoard) and metrics.json. Ctrl-C and SIGTERM leave a checkpoint after the step in progress; --resume goes
on from it exactly, and what is given on the command line then wins over what the run began with. A checkpoint is
written at the end of each epoch, and with --save_steps each N optimiser steps: what a killed run loses at most. A loss
that is not finite stops the run; with --skip_nonfinite, up to N such batches are left out first.

With --run the directory is that one: the command begins the run, and the same command again goes on with it, which is
what a scheduler that stops and restarts it wants.

zoo fit bilinear/mnist --data.source PATH_OR_HUB_ID --trainer.max_epochs 3"""

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


def list_recipes(pattern: str = "*") -> list[str]:
    """Names `family/name` of the recipes that ship with the package and match a shell pattern."""
    names = sorted(f"{f.name}/{p.stem}" for f in registry.families().values() for p in f.recipes.glob("*.yaml"))
    return [n for n in names if fnmatch.fnmatchcase(n, pattern)]


def recipe_path(name: str) -> Path:
    """The file of a recipe, by name or path.

    Raises:
        ValueError: neither a file nor a recipe; the message names the nearest ones.
    """
    family, _, stem = name.rpartition("/")
    shipped = registry.families()[family].recipes / f"{stem}.yaml" if family in registry.families() else Path(name)
    for path in (Path(name), shipped):
        if path.is_file():
            return path
    raise ValueError(
        f"no recipe {name!r}{suggest(name, list_recipes())}; `zoo ls --recipes` lists them, or give a file"
    )


def about(name: str) -> str:
    """A recipe's first comment line."""
    with open(recipe_path(name), encoding="utf-8") as f:
        return f.readline().lstrip("# ").strip()


def copy_recipe(name: str, to: Path) -> Path:
    """Copy a recipe; never over a file that is there."""
    text = recipe_path(name).read_text(encoding="utf-8")
    if to.exists():
        raise ValueError(f"{to} exists; give another name")
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(text, encoding="utf-8")
    return to
