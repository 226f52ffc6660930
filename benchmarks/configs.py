"""Whether every recipe still says what it said: `python -m benchmarks.configs REVISION`.

The recipes of a revision are resolved by that revision's own code, those of this checkout by its code. Both resolved
configs, defaults and all, must be equal but for where classes live: of a class path its last word is compared. A key
that a class did not take before is listed with its value; one that changed or is lost fails.
"""

import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
# Runs in either checkout; where the parser lives is all that it has to find out.
RESOLVE = """
import importlib, json, sys
from zoo import recipe
for place in ("zoo.train.parse", "zoo.fit"):
    try:
        parse = importlib.import_module(place)
        break
    except ModuleNotFoundError:
        pass
configs = {}
for name in recipe.list_recipes():
    configs[name] = parse.resolve(recipe.recipe_path(name), []).as_dict()
json.dump(configs, open(sys.argv[1], "w"), default=str, sort_keys=True)
"""


class Difference(NamedTuple):
    """Between a recipe as it was and as it is."""

    place: str  # "model.init_args.lr"
    owner: str  # the class that takes the key
    about: Any  # what changed; of a key that is gained, its value
    gained: bool = False


def resolved(checkout: Path) -> dict[str, Any]:
    """Recipe → what its parser makes of it, class paths cut to their last word."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        subprocess.run([sys.executable, "-c", RESOLVE, file.name], cwd=checkout, check=True)
        return {name: _short(config) for name, config in json.load(open(file.name)).items()}


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        value = {k: _short(v) for k, v in value.items() if k != "config"}
        if "class_path" in value:
            value["class_path"] = value["class_path"].rpartition(".")[2]
        return value
    return [_short(v) for v in value] if isinstance(value, list) else value


def compare(old: Any, new: Any, place: str = "", owner: str = "recipe") -> Iterator[Difference]:
    """Where two resolved configs differ, and which class takes the key there.

    Args:
        place: of both in the recipe, "model.init_args".
        owner: the class whose arguments they are; "recipe" outside of any.
    """
    if not (isinstance(old, dict) and isinstance(new, dict)):
        if old != new:
            yield Difference(place, owner, f"was {old!r}, is {new!r}")
        return
    owner = new.get("class_path", owner)
    for key in sorted(old.keys() | new.keys()):
        inside = f"{place}.{key}" if place else key
        if key not in old:
            yield Difference(inside, owner, new[key], gained=True)
        elif key not in new:
            yield Difference(inside, owner, f"was {old[key]!r}, is lost")
        else:
            yield from compare(old[key], new[key], inside, owner)


def main(revision: str) -> int:
    archive = subprocess.run(["git", "archive", revision, "zoo", "recipes"], cwd=ROOT, check=True, capture_output=True)
    with tempfile.TemporaryDirectory() as before:
        with tarfile.open(fileobj=BytesIO(archive.stdout)) as files:
            files.extractall(before, filter="data")
        old = resolved(Path(before))
    new = resolved(ROOT)
    differences = {name: list(compare(old[name], new.get(name, {}))) for name in sorted(old)}
    gained = {
        (d.owner, d.place.rpartition(".")[2], repr(d.about)) for each in differences.values() for d in each if d.gained
    }
    for owner in sorted({owner for owner, _, _ in gained}):
        print(f"{owner} gained", ", ".join(f"{key}={value}" for o, key, value in sorted(gained) if o == owner))
    changed = {name: [d for d in each if not d.gained] for name, each in differences.items()}
    for name, each in changed.items():
        for d in each:
            print(f"{name}: {d.place} {d.about}")
    same = sum(not each for each in changed.values())
    print(
        f"{same} of {len(old)} recipes resolve as at {revision}, but for gained keys; {len(new.keys() - old)} are new"
    )
    return same < len(old)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
