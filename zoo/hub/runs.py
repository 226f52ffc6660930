"""What a checkpoint folder tells of the run that made it: how it was trained, its figures, no place of this machine."""

import json
import math
import os
from pathlib import Path
from typing import Any

from zoo import registry
from zoo.hub.card import data_name, describe_input
from zoo.nn.protocols import Network
from zoo.recipe import differing, flat, list_recipes, newest_run, read_yaml, recipe_path

CHOSEN = "there was no test set, and the weights may have been chosen by this figure"


def told(ckpt: Path, model: Network) -> dict[str, Any]:
    """What config.json tells of a run: how it was trained, and its figures; no place of this machine."""
    run = newest_run(ckpt)
    if run is None:
        return {"metrics": []}
    environment, measured = (_read_if_there(run / name) for name in ("environment.json", "metrics.json"))
    name = environment.get("recipe") or measured.get("recipe") or ""
    known = name in list_recipes()
    about = environment.get("data") or {}
    trained: dict[str, Any] = {"recipe": name if known else None, "differs": {}, "data": about.get("public")}
    if (run / "recipe.yaml").is_file():
        said = read_yaml(run / "recipe.yaml")
        if not about:  # of an earlier version, which did not note whether others have the data
            shipped = flat(read_yaml(recipe_path(name))) if known else {}
            source = flat(said).get("data.source", flat(said).get("data"))
            trained["data"] = source if source in shipped.values() else None
        other = differing(said, name, environment.get("commands", ())) if known else {}
        trained["differs"] = {key: value for key, value in other.items() if not _telling(key, value)}
    trained["samples"] = measured.get("samples") or about.get("samples", {})  # those of the test came last
    split = measured.get("split", "test")
    config = {"input": describe_input(model.takes), "classes": model.zoo_config.get("classes")}
    count = trained["samples"].get(split)
    data = f"{data_name(trained, config)}, {split} split{f' ({count:,})' if count else ''}"
    protocol = f"`zoo fit`, {f'`{name}`' if known else 'a recipe of one’s own'}, seed {measured.get('seed', '?')}"
    if split != "test":
        protocol += f"; {CHOSEN}"
    metrics = [
        registry.plain(_metric(key, value, data, protocol))
        for key, value in measured.get("metrics", {}).items()
        if key.startswith(f"{split}/") and isinstance(value, int | float) and math.isfinite(value)
    ]
    return {"metrics": metrics, "trained": trained}


def _metric(name: str, value: float, data: str, protocol: str) -> registry.Metric:
    """A figure as it was logged, a share of 1 in percent."""
    kind = name.rpartition("/")[2]
    if kind in registry.SHARES:
        return registry.Metric(name, round(100 * value, 2), "%", data, protocol)
    return registry.Metric(name, float(f"{value:.5g}"), registry.UNITS.get(kind, ""), data, protocol)


def _telling(key: str, value: Any) -> bool:
    """Whether a value may be a place of this machine, or lie about the data, which are told by themselves."""
    return key.endswith("source") or "/" in str(value) or os.sep in str(value)


def _read_if_there(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
