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
import time
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
    file = place(name, seed, runs) / "row.json"
    if not file.is_file():
        return None
    row = json.loads(file.read_text(encoding="utf-8"))
    since = ["git", "diff", "--quiet", str(row["commit"]), "--", "zoo", f"recipes/{name}.yaml"]
    return None if subprocess.run(since, cwd=ROOT, stderr=subprocess.DEVNULL).returncode else row


def train(name: str, seed: int, runs: Path) -> dict[str, Any]:
    """One training, as `zoo fit NAME --seed_everything SEED --data.seed SEED` does it; a row of what it came to."""
    from zoo.train import fit

    run = place(name, seed, runs)
    flags = ["--seed_everything", str(seed), "--data.seed", str(seed), "--run", str(run)]
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
    quiet += ["--trainer.logger", "false"]
    spent, said = time.process_time(), io.StringIO()
    with contextlib.redirect_stdout(said):
        status = fit.fit([name, *flags, *quiet])
    if status:
        raise RuntimeError(f"{name} with seed {seed} ended with {status}: {said.getvalue()}")
    measured = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    metric = recipe.read_yaml(recipe.recipe_path(name))["expect"]["metric"]
    row = {
        "name": f"{name} seed {seed}",
        "recipe": name,
        "seed": seed,
        "metric": metric,
        "value": round(measured["metrics"][metric], 4),
        "unit": UNITS[metric.removeprefix("test/")],
        "seconds": measured["seconds"],
        "cpu_seconds": round(time.process_time() - spent, 1),
        "commit": fit.commit(),
    }
    (run / "row.json").write_text(json.dumps(row) + "\n", encoding="utf-8")
    return row


def trained(names: Sequence[str], seeds: Sequence[int], jobs: int, runs: Path) -> list[dict[str, Any]]:
    """All trainings, `jobs` at a time in processes of one thread: these networks are too small for more."""
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that begin now
    rows = {(name, seed): ended(name, seed, runs) for name in names for seed in seeds}
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        missing = sorted((key for key, row in rows.items() if row is None), key=lambda key: key[1])  # all of one seed
        begun = {key: pool.submit(train, *key, runs) for key in missing}
        for key, training in begun.items():
            rows[key] = training.result()
            print("{name:<26} {metric} {value:.4f}, {seconds:.0f} s".format(**rows[key]), flush=True)
    return list(rows.values())


def ranges(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What each recipe expects of these rows, as it is written in its file."""
    found = {}
    for name in dict.fromkeys(row["recipe"] for row in rows):
        own = [row for row in rows if row["recipe"] == name]
        values, seeds = [row["value"] for row in own], [row["seed"] for row in own]
        found[name] = {
            "metric": own[0]["metric"],
            "value": round(statistics.mean(values), 4),
            "range": [min(values), max(values)],
            "about": f"mean of seeds {', '.join(map(str, seeds))} on a CPU core",
        }
    return found


def compared(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows held against what their recipes expect: with `low`, `high` and `verdict`, "within" or "outside"."""
    found = []
    for row in rows:
        low, high = widened(*recipe.read_yaml(recipe.recipe_path(row["recipe"]))["expect"]["range"])
        verdict = "within" if low <= row["value"] <= high else "outside"
        found.append(row | {"low": low, "high": high, "verdict": verdict})
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """A line a training, for people."""
    line = "{:<22} {:>4}  {:<10} {:>9}  {:<8} {:<20} {:>7}"
    lines = [line.format("recipe", "seed", "metric", "value", "verdict", "expected", "seconds")]
    for row in rows:
        expected = f"{row['low']:.4f} to {row['high']:.4f}"
        about = (row["recipe"], row["seed"], row["metric"], f"{row['value']:.4f}", row["verdict"], expected)
        lines.append(line.format(*about, f"{row['seconds']:.0f}"))
    return "\n".join(lines)


def record(rows: list[dict[str, Any]], commit: str | None) -> None:
    """Keep rows, with where and how they were measured, and write what recipes expect into them."""
    seeds = sorted({row["seed"] for row in rows})
    head = {
        "command": f"python -m benchmarks.reproduce --seeds {' '.join(map(str, seeds))} --record",
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit,
        "machine": harness.machine(),
        "versions": {"python": platform.python_version()}
        | {name: metadata.version(name) for name in ("torch", "torchvision", "lightning", "timm")},
        "seeds": seeds,
        "expect": ranges(rows),
        "results": rows,
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(head, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for name, expect in head["expect"].items():
        write_expect(recipe.recipe_path(name), expect)


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
    from zoo.train import fit

    commit = fit.commit()
    if args.record and (commit is None or commit.endswith("-dirty")):
        raise SystemExit("files differ from the last commit: commit them, then measure")
    if args.record and sorted(args.recipes) != NAMES:
        raise SystemExit("--record keeps a file of all recipes: leave out --recipes")
    with tempfile.TemporaryDirectory() as folder:
        rows = trained(args.recipes, args.seeds, args.jobs, args.runs or Path(folder))
    if args.record:
        record(sorted(rows, key=lambda row: (row["recipe"], row["seed"])), commit)
    rows = compared(rows)
    print(table(rows))
    return int(any(row["verdict"] == "outside" for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
