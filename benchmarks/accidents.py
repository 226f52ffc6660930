"""kill -9 at random moments of the smoke recipes' training, resumed until they are through, compared to the last bit.

Each run is a process of its own, forked from one that has imported everything. One kill in three waits for a checkpoint
that is being written. A run that went through counts every step of every log against an undisturbed run's, string by
string, and every tensor of the last checkpoint.
"""

import argparse
import contextlib
import csv
import os
import random
import signal
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks import harness
from zoo import cli, hub, recipe
from zoo.train.callbacks import LAST
from zoo.train.parse import parse

SMALL = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
SMALL += ["--trainer.log_every_n_steps", "1", "--save_steps", "3"]
LIGHTER = {"rae/smoke": ["--data.num_images", "32", "--data.batch_size", "4"]}  # its networks are of full size
KEPT = ("state_dict", "optimizer_states", "lr_schedulers", "random", "steps", "global_step", "epoch")


@dataclass
class Count:
    """What happened to the runs of one recipe."""

    name: str
    kills: int = 0
    before_first: int = 0
    while_writing: int = 0
    resumed: int = 0
    runs: int = 0
    steps: int = 0
    different: list[str] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        return vars(self) | {"different": len(self.different)}


def start(argv: list[str], log: Path) -> int:
    """`zoo fit …` in a forked process whose output goes to a file; its id."""
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        with open(log, "ab", buffering=0) as out:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
        status = cli.main(["fit", *argv])
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def ended(pid: int) -> int | None:
    """The exit status of a process, or None while it runs; minus the signal that ended it."""
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def kill(pid: int, folder: Path, draw: random.Random, seconds: float) -> int | None:
    """SIGKILL at a moment drawn from so many seconds, or inside the write of a checkpoint; None if it came too late."""
    deadline, writes = time.monotonic() + draw.uniform(0, seconds), 0
    wanted = draw.randint(1, 4) if draw.random() < 1 / 3 else 0
    seen = False
    while (status := ended(pid)) is None:
        if wanted:
            now = any(folder.glob("*/*/checkpoints/.*.part"))
            writes, seen = writes + (now and not seen), now
            due = writes >= wanted
        else:
            due = time.monotonic() >= deadline
        if due:
            os.kill(pid, signal.SIGKILL)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        time.sleep(2e-4)
    return status


def losses(run: Path) -> dict[int, dict[str, set[str]]]:
    """Of each step all that any log of a run says about training, as it stands there."""
    found: dict[int, dict[str, set[str]]] = {}
    for file in sorted((run / "logs").glob("version_*/metrics.csv")):
        with open(file, newline="") as f:
            for row in csv.DictReader(f):
                for key, value in row.items():
                    if value and key and key.startswith(("train/", "val/")):
                        found.setdefault(int(row["step"]), {}).setdefault(key, set()).add(value)
    return found


def differences(run: Path, whole: Path) -> tuple[int, list[str]]:
    """How many steps were compared, and what is not the same in two runs."""
    ours, theirs = losses(run), losses(whole)
    found = [f"{run}: step {s}: {ours.get(s)} for {theirs[s]}" for s in theirs if ours.get(s) != theirs[s]]
    found += [f"{run}: step {s} too many" for s in ours if s not in theirs]
    a, b = (hub.read_checkpoint(r / LAST) for r in (run, whole))
    found += [f"{run}: {key}" for key in KEPT if not same(a.get(key), b.get(key))]
    return len(theirs), found


def same(a: Any, b: Any) -> bool:
    """Bitwise, through containers."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a.nan_to_num(), b.nan_to_num())
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(v, b[k]) for k, v in a.items())
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def accidents(name: str, kills: int, draw: random.Random, root: Path) -> Count:
    """Runs of a recipe, one after the other, until so many were killed, each resumed until it is through."""
    count, log = Count(name), root / "log.txt"
    argv = [name, *SMALL, *LIGHTER.get(name, ())]
    begun = time.monotonic()
    if (status := wait(start([*argv, "--runs", str(root / "whole")], log))) != 0:
        raise RuntimeError(f"{name} does not train (status {status}):\n{log.read_text()[-2000:]}")
    seconds = time.monotonic() - begun
    (whole,) = root.glob("whole/*/*")
    while count.kills < kills:
        folder = root / f"run{count.runs}"
        pid, run = start([*argv, "--runs", str(folder)], log), None
        while True:
            status = kill(pid, folder, draw, seconds) if count.kills < kills else wait(pid)
            run = next(folder.glob("*/*"), None)
            if status == -signal.SIGKILL:
                count.kills += 1
                count.before_first += run is None or not (run / LAST).is_file()
                count.while_writing += run is not None and any((run / "checkpoints").glob(".*.part"))
            elif status == 2 and run is not None and not (run / "recipe.yaml").is_file():
                run.rename(root / f"refused{count.kills}")  # there was no run yet: nothing to go on with
                run = None
            elif status != 0:
                count.different.append(f"{run}: status {status}, see {log}")
                break
            else:
                break
            if run is None:
                pid = start([*argv, "--runs", str(folder)], log)
            else:
                count.resumed += 1
                pid = start(["--resume", str(run)], log)
        count.runs += 1
        if status == 0:
            steps, different = differences(run, whole)
            count.steps += steps
            count.different += different
    return count


def wait(pid: int) -> int:
    """The exit status of a process that is waited for."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="over all recipes")
    parser.add_argument("--family", action="append", help="only these; may be given again")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the runs there")
    args = parser.parse_args(argv)
    names = [n for n in recipe.list_recipes("*smoke*") if not args.family or n.partition("/")[0] in args.family]
    torch.set_num_threads(1)
    for name in names:  # imports what each family needs, once
        parse(recipe.recipe_path(name), SMALL)
    draw, rows = random.Random(args.seed), []
    with contextlib.ExitStack() as stack:
        root = args.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for i, name in enumerate(names):
            folder = root / name.replace("/", "-")
            folder.mkdir(parents=True)
            share = args.kills // len(names) + (i < args.kills % len(names))
            count = accidents(name, share, draw, folder)
            rows.append(count)
            print(harness.table([count.row()]), *count.different[:5], sep="\n", flush=True)
    total = Count("all", *(sum(getattr(r, k) for r in rows) for k in list(vars(rows[0]))[1:-1]))
    total.different = [d for r in rows for d in r.different]
    return [count.row() | {"seed": args.seed} for count in (*rows, total)]


if __name__ == "__main__":
    counts = main()
    print(harness.table(counts[-1:]))
    raise SystemExit(1 if counts[-1]["different"] else 0)
