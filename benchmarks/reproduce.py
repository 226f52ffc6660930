"""`make reproduce`: each family's reproduce recipe, trained from nothing on shipped samples, against its range.

python -m benchmarks.reproduce                              a seed that the range does not know; 1 if one is outside
python -m benchmarks.reproduce --seeds 0 1 2 3 4 --record   the range over seeds, measured again

--record writes benchmarks/results/reproduce.json, and from it what each recipe expects.
"""

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import platform
import re
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks import harness
from zoo import recipe
from zoo.metrics.intervals import widened

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "reproduce.json"
NAMES = recipe.list_recipes("*/reproduce")
UNITS = {"psnr": "dB", "acc": "share", "knn": "share", "loss": "recipe's loss"}
NEW = 5  # no seed of the ranges: a figure within says that the recipe holds, not only that its numbers are the same


def place(name: str, seed: int, runs: Path) -> Path:
    return runs / f"{name.replace('/', '-')}-{seed}"


def ended(name: str, seed: int, runs: Path) -> dict[str, Any] | None:
    """The row of a training that has ended in the same folder, of this recipe and this package."""
    run = place(name, seed, runs)
    if not (run / "metrics.json").is_file():
        return None
    found = row(run)
    since = ["git", "diff", "--quiet", str(found["commit"]), "--", "zoo", f"recipes/{name}.yaml"]
    return None if subprocess.run(since, cwd=ROOT, stderr=subprocess.DEVNULL).returncode else found


def row(run: Path) -> dict[str, Any]:
    """What a run came to, by what it wrote down."""
    measured, about = (json.loads((run / f"{name}.json").read_text("utf-8")) for name in ("metrics", "environment"))
    metric = recipe.read_yaml(run / "recipe.yaml")["expect"]["metric"]
    return {
        "name": f"{measured['recipe']} seed {measured['seed']}",
        "recipe": measured["recipe"],
        "seed": measured["seed"],
        "metric": metric,
        "value": float(f"{measured['metrics'][metric]:.5g}"),
        "unit": UNITS[metric.removeprefix("test/")],
        "seconds": measured["seconds"],
        "commit": about["commit"],
    }


def train(name: str, seed: int, runs: Path) -> dict[str, Any]:
    """One training, as `zoo fit NAME --seed_everything SEED --data.seed SEED` does it; a row of what it came to."""
    from zoo.train import fit

    run, said = place(name, seed, runs), io.StringIO()
    flags = ["--seed_everything", str(seed), "--data.seed", str(seed), "--run", str(run)]
    for noise in ("enable_progress_bar", "enable_model_summary", "logger"):
        flags += [f"--trainer.{noise}", "false"]
    with contextlib.redirect_stdout(said):
        status = fit.fit([name, *flags])
    if status:
        raise RuntimeError(f"{name} with seed {seed} ended with {status}: {said.getvalue()}")
    return row(run)


def trained(names: Sequence[str], seeds: Sequence[int], jobs: int, runs: Path) -> list[dict[str, Any]]:
    """All trainings, `jobs` at a time in processes of one thread: these networks are too small for more."""
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that begin now
    rows = {(name, seed): ended(name, seed, runs) for name in names for seed in seeds}
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        missing = sorted((key for key, row in rows.items() if row is None), key=lambda key: key[1])  # all of one seed
        begun = {key: pool.submit(train, *key, runs) for key in missing}
        for key, training in begun.items():
            rows[key] = training.result()
            print("{name:<26} {metric} {value:.5g}, {seconds:.0f} s".format(**rows[key]), flush=True)
    return list(rows.values())


def ranges(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What each recipe expects of these rows, as it is written in its file."""
    found = {}
    for name in dict.fromkeys(row["recipe"] for row in rows):
        own = [row for row in rows if row["recipe"] == name]
        values, seeds = [row["value"] for row in own], [row["seed"] for row in own]
        found[name] = {
            "metric": own[0]["metric"],
            "value": float(f"{statistics.mean(values):.5g}"),
            "range": [min(values), max(values)],
            "about": f"mean of seeds {', '.join(map(str, seeds))} on a CPU core",
        }
    return found


def expected(name: str) -> dict[str, Any]:
    """What a recipe says that it reaches."""
    return recipe.read_yaml(recipe.recipe_path(name))["expect"]


def compare(rows: list[dict[str, Any]]) -> int:
    """Print each row beside what its recipe expects of another seed; 1 where one is outside."""
    line, outside = "{:<20} {:>4}  {:<9} {:>7}  {:<7}  {:<18} {:>7}", 0
    print(line.format("recipe", "seed", "metric", "value", "verdict", "expected", "seconds"))
    for row in rows:
        low, high = widened(*expected(row["recipe"])["range"])
        verdict = "within" if low <= row["value"] <= high else "outside"
        outside |= verdict == "outside"
        about = (row["recipe"], row["seed"], row["metric"], f"{row['value']:.5g}", verdict, f"{low:.5g} to {high:.5g}")
        print(line.format(*about, f"{row['seconds']:.0f}"))
    return int(outside)


def record(rows: list[dict[str, Any]]) -> None:
    """Keep rows in place of older ones of the same recipes, with where they were measured; write what recipes expect.

    Raises:
        SystemExit: rows of other recipes stay, which were measured elsewhere.
    """
    libraries = ("torch", "torchvision", "lightning", "timm")
    where = {
        "machine": harness.machine() | {"threads": 1},
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in libraries},
    }
    older = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {"results": []}
    stay = [row for row in older["results"] if row["recipe"] not in {row["recipe"] for row in rows}]
    if stay and any(_but_load(older[key]) != _but_load(value) for key, value in where.items()):
        raise SystemExit(f"{RESULT} has other recipes' rows of another machine or other versions: leave out --recipes")
    rows = sorted([*stay, *rows], key=lambda row: (row["recipe"], row["seed"]))
    seeds = sorted({row["seed"] for row in rows})
    told = {
        "command": f"python -m benchmarks.reproduce --seeds {' '.join(map(str, seeds))} --record",
        "date": datetime.now(UTC).date().isoformat(),
        "commit": rows[0]["commit"],  # each row has its own
        **where,
        "seeds": seeds,
        "expect": ranges(rows),
        "results": rows,
    }
    harness.write(told, RESULT)
    for name, expect in told["expect"].items():
        write_expect(recipe.recipe_path(name), expect)


def _but_load(told: dict[str, Any]) -> dict[str, Any]:
    """A machine without how busy it was."""
    return {key: value for key, value in told.items() if key != "load"}


def write_expect(path: Path, expect: dict[str, Any]) -> None:
    """Put what a recipe expects in place of its last line."""
    line = 'expect: {{metric: {metric}, value: {value}, range: {range}, about: "{about}"}}'.format(**expect)
    text, times = re.subn(r"^expect: .*$", line, path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    if times != 1:
        raise ValueError(f"{path} has {times} lines that begin with expect:, and one is written again")
    path.write_text(text, encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help="only these")
    parser.add_argument("--seeds", type=int, nargs="+", default=[NEW])
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time")
    parser.add_argument("--runs", type=Path, help="where runs stay; those that have ended there are not trained again")
    parser.add_argument("--record", action="store_true", help="keep the figures, and expect them from now on")
    args = parser.parse_args(argv)
    lacking = [name for name in args.recipes if "range" not in expected(name)]
    if lacking and not args.record:
        raise SystemExit(f"{', '.join(lacking)}: no range yet; --seeds 0 1 2 3 4 --record measures it")
    if args.record:
        from zoo.train import fit

        if (fit.commit() or "-dirty").endswith("-dirty"):
            raise SystemExit("files differ from the last commit: commit them, then measure")
    with tempfile.TemporaryDirectory() as folder:
        rows = trained(args.recipes, args.seeds, args.jobs, args.runs or Path(folder))
    if args.record:
        record(rows)
    return compare(rows)


if __name__ == "__main__":
    raise SystemExit(main())
