"""Whether every recipe still says what it said: `python -m benchmarks.configs REVISION`.

The recipes of a revision are resolved by that revision's own code, those of this checkout by its code. Both resolved
configs, defaults and all, must be equal but for where classes live: of a class path its last word is compared.
"""

import json
import subprocess
import sys
import tarfile
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

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


def main(revision: str) -> int:
    archive = subprocess.run(["git", "archive", revision, "zoo", "recipes"], cwd=ROOT, check=True, capture_output=True)
    with tempfile.TemporaryDirectory() as before:
        with tarfile.open(fileobj=BytesIO(archive.stdout)) as files:
            files.extractall(before, filter="data")
        old = resolved(Path(before))
    new = resolved(ROOT)
    changed = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    for name in changed:
        print(f"{name} differs")
        ours, theirs = new.get(name, {}), old.get(name, {})
        for key in sorted(ours.keys() | theirs.keys()):
            if ours.get(key) != theirs.get(key):
                print(f"  {key}\n    {revision}: {theirs.get(key)}\n    now: {ours.get(key)}")
    print(f"{len(new) - len(changed)} of {len(new)} recipes resolve as at {revision}")
    return len(changed) > 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
