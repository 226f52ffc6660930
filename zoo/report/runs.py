"""What a run of `zoo fit` knows of its data: the DataModule that its recipe.yaml names, made again."""

import pkgutil
from pathlib import Path

import lightning as L
import yaml

from zoo.data.images import follow
from zoo.data.trained import placed, run_of
from zoo.nn.protocols import Input
from zoo.train.keys import keys_of


def datamodule(run: Path, takes: Input | None = None) -> L.LightningDataModule | None:
    """The DataModule that a run was trained on, not yet set up; None where `run` is no run.

    Its splits are the run's own: keywords that are newer than the run's recipe mean what it did without them, and a
    source that the recipe gives as a relative path is where it was when the run began.

    Args:
        run: a run's directory, that of a recipe's runs (the newest), or a checkpoint in one.
        takes: what its model takes, which says what the recipe leaves open, as in training.

    Raises:
        ValueError: its recipe names no DataModule that can be made here.
    """
    place = run_of(run)
    if place is None:
        return None
    file = place / "recipe.yaml"
    try:
        recipe = yaml.safe_load(file.read_text(encoding="utf-8"))["data"]
        kind = pkgutil.resolve_name(recipe["class_path"])
        older = {key: value for key, value in getattr(kind, "older", {}).items() if key in keys_of(kind)}
        data = kind(**older | placed(place, recipe.get("init_args") or {}))
    except (yaml.YAMLError, AttributeError, ImportError, LookupError, TypeError, ValueError) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"{file}: its data cannot be made again ({said}); name a source beside {run}") from error
    if not isinstance(data, L.LightningDataModule):
        raise ValueError(f"{file}: {recipe['class_path']} is no DataModule; name a source beside {run}")
    if takes is not None:
        follow(data, takes)
    return data
