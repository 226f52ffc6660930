"""`zoo runs` and `zoo info RUN`: what runs have come to, read from their directories alone, without torch."""

import csv
import json
import math
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from zoo import recipe, registry

RISE = (*registry.SHARES, "psnr", "ssim", "infom", "cosine")  # figures that are better when they are larger
FALL = ("loss", "error", "mse", "perceptual", "lpips", "rfid", "nats", "skipped")
SORTS = ("newest", "recipe", "data", "epochs", "last", "best", "seconds")
CURVES = 10  # runs in one picture: as many as there are colours
PANELS = 8
_WORDS = {"train": "training", "val": "validation"}


def find(places: Sequence[Path]) -> list[Path]:
    """The runs in or below some folders; a run, or a checkpoint of one, is itself.

    Raises:
        ValueError: there is no such folder, or no run.
    """
    found: list[Path] = []
    for place in places:
        place = recipe.newest_run(place) or place if place.suffix == ".ckpt" else place
        if not place.is_dir():
            raise ValueError(f"no folder {place}; `zoo fit RECIPE` makes runs in runs/, or give the folder of others")
        for top, folders, files in os.walk(place):
            if _is_run(Path(top), folders, files):
                found.append(Path(top))
                folders.clear()  # what a run holds is no other
            folders[:] = sorted(f for f in folders if not f.startswith("."))
    if not found:
        raise ValueError(f"no run in {', '.join(map(str, places))}; `zoo fit RECIPE` makes some in runs/")
    return list(dict.fromkeys(found))


def _is_run(place: Path, folders: list[str], files: list[str]) -> bool:
    inside = {"checkpoints", "logs"} & set(folders)
    noted = {"recipe.yaml", "environment.json"} & set(files)
    return len(noted) == 2 or bool(noted and inside) or len(inside) == 2


def read(run: Path) -> dict[str, Any]:
    """What is known of a run, whatever state it is in; None where something is not.

    `status` is done, running, unfinished, or damaged, and `fault` what is the matter; `figure` the name of the one that
    `last` and `best` are of, `best_epoch` how many epochs had been trained by then.
    """
    known: dict[str, Any] = dict.fromkeys(
        ("recipe", "data", "split", "seed", "epochs", "epochs_planned", "steps", "steps_planned", "figure", "last")
    )
    known |= dict.fromkeys(("best", "best_epoch", "seconds", "expect", "checkpoint"))
    known |= {
        "run": str(run),
        "status": "done",
        "fault": "",
        "differs": {},
        "figures": {},
        "samples": {},
        "classes": [],
    }
    faults: list[str] = []
    environment, measured = _json(run / "environment.json", faults), _json(run / "metrics.json", faults, needed=False)
    known["recipe"] = environment.get("recipe", measured.get("recipe"))
    known["commands"] = environment.get("commands", [])
    known |= {key: environment["data"][key] for key in ("samples", "classes") if key in (environment.get("data") or {})}
    known["samples"] = measured.get("samples") or known["samples"]
    try:
        said = recipe.read_yaml(run / "recipe.yaml")
    except (OSError, ValueError) as error:
        faults.append("no recipe.yaml" if isinstance(error, FileNotFoundError) else str(error))
    else:
        flat = recipe.flat(said)
        known["data"] = flat.get("data.source") or flat["data"]
        known["seed"], known["expect"] = said.get("seed_everything"), said.get("expect")
        epochs, steps = said["trainer"].get("max_epochs"), said["trainer"].get("max_steps")
        known["epochs_planned"] = epochs if isinstance(epochs, int) and epochs >= 0 else None
        known["steps_planned"] = steps if isinstance(steps, int) and steps >= 0 else None
        known["differs"] = recipe.differing(said, known["recipe"] or "", known["commands"])
    known |= {key: measured.get(key) for key in ("split", "seconds")} | {"figures": measured.get("metrics") or {}}
    logged = rows(run, faults)
    known["steps"] = max((int(row["step"]) + 1 for row in logged if _trains(row)), default=None)
    known["epochs"] = max((_epochs(row) for row in logged), default=None)
    known |= _figures(logged, known)
    if "kept_epochs" in known["figures"]:  # of epochs that are equal, the training chose
        known |= {"best": known["figures"]["val/acc"], "best_epoch": int(known["figures"]["kept_epochs"])}
    files = sorted((run / "checkpoints").glob("best*.ckpt")) or sorted((run / "checkpoints").glob("last*.ckpt"))
    known["checkpoint"] = str(files[-1]) if files else None
    known["changed"] = max(file.stat().st_mtime for file in (run, *_logs(run), *run.glob("*.[jy]*")))
    known["fault"] = "; ".join(faults)
    undone = "running" if recipe.busy(run) else "unfinished"
    known["status"] = "damaged" if faults else "done" if measured and undone != "running" else undone
    return known


def _json(file: Path, faults: list[str], needed: bool = True) -> dict[str, Any]:
    """What a file of a run says; a fault is noted."""
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if needed:
            faults.append(f"no {file.name}")
        return {}
    except (OSError, ValueError) as error:
        faults.append(f"{file.name} cannot be read ({' '.join(str(error).split())})")
        return {}
    if not isinstance(said, dict):
        faults.append(f"{file.name} is no mapping")
        return {}
    return said


def _logs(run: Path) -> list[Path]:
    files = run.glob("logs/version_*/metrics.csv")
    return sorted(files, key=lambda file: int(re.sub(r"\D", "", file.parent.name) or 0))


def rows(run: Path, faults: list[str] | None = None) -> list[dict[str, float]]:
    """The rows of a run's logs in order: column → number. What a run that was gone on with did again is there once.

    Without a test set a run is measured at its end on what it held out: that is a figure of it, and ends no epoch.
    """
    found: list[dict[str, float]] = []
    for file in _logs(run):
        try:
            with open(file, newline="", encoding="utf-8") as lines:
                read = [_numbers(row) for row in csv.DictReader(lines)]
        except (OSError, ValueError, csv.Error) as error:
            if faults is not None:
                faults.append(f"{file.relative_to(run)} cannot be read ({error})")
            continue
        read = [row for row in read if "step" in row and "epoch" in row]
        if read:  # a killed run may have logged steps that no checkpoint held
            found = [row for row in found if row["step"] < read[0]["step"]]
        found += read
    measured = _json(run / "metrics.json", [], needed=False)
    if found and measured.get("split") == "val":
        last = {key: value for key, value in found[-1].items() if key not in ("epoch", "step")}
        figures = measured.get("metrics") or {}
        if all(str(figures.get(key)) == str(value) for key, value in last.items()):  # NaN is not itself
            found.pop()
    return found


def _numbers(row: dict[Any, Any]) -> dict[str, float]:
    found = {}
    for key, value in row.items():
        try:
            found[key] = float(value)
        except (TypeError, ValueError):  # an empty cell, or the row that was being written
            continue
    return found


def _trains(row: dict[str, float]) -> bool:
    return any(key.startswith(("train/", "val/")) for key in row)


def _epochs(row: dict[str, float]) -> int:
    """Whole epochs that were trained when a row was logged: validation ends one, a test counts those before it."""
    return int(row["epoch"]) + any(key.startswith("val/") for key in row)


def _figures(logged: list[dict[str, float]], known: dict[str, Any]) -> dict[str, Any]:
    """Name, last and best value of the figure that tells most: what the recipe expects, else by how good it is."""
    names = list(dict.fromkeys(key for row in logged for key in row if key.startswith(("train/", "val/"))))
    expected = str((known["expect"] or {}).get("metric", "")).replace("test/", "val/")
    wanted = [expected, *(f"val/{kind}" for kind in (*RISE, *FALL)), *(n for n in names if n.startswith("val/"))]
    figure = next((name for name in [*wanted, "train/loss", *names] if name in names), None)
    values = [(_epochs(row), row[figure]) for row in logged if figure in row] if figure else []
    finite = [(epoch, value) for epoch, value in values if math.isfinite(value)]
    rise = None if figure is None else rises(figure)
    if not values:
        return {}
    best = (max if rise else min)(finite, key=lambda pair: pair[1]) if finite and rise is not None else (None, None)
    return {"figure": figure, "last": values[-1][1], "best": best[1], "best_epoch": best[0]}


def rises(figure: str) -> bool | None:
    """Whether a figure is better when it is larger; None where nobody knows."""
    kind = figure.rpartition("/")[2]
    return True if kind in RISE else False if kind in FALL else None


def told(figure: str | None, value: float | None) -> str:
    """A figure with its unit, a share of 1 in percent."""
    kind = (figure or "").rpartition("/")[2]
    if value is None:
        return "–"
    if kind in registry.SHARES:
        return f"{100 * value:.1f} %"
    return f"{value:.4g} {registry.UNITS.get(kind, '')}".strip()


def short(differs: dict[str, Any], left_out: Iterable[str] = ()) -> str:
    """What a run has otherwise than its recipe, "lr=0.01": the last of a key's names, where that is enough."""
    differs = {key: value for key, value in differs.items() if key not in left_out}
    if differs.get("data.seed", ...) == differs.get("seed_everything"):
        del differs["data.seed"]
    ends = [key.rpartition(".")[2] for key in differs]
    names = [end if ends.count(end) == 1 else key for key, end in zip(differs, ends)]
    shown = (f"{value:g}" if isinstance(value, float) else str(value) for value in differs.values())
    return " ".join(f"{name.removesuffix('_everything')}={value}" for name, value in zip(names, shown))


def progress(known: dict[str, Any]) -> str:
    """ "12/30" epochs; of a run that counts steps, "1,200/10,000 steps"."""
    if known["steps_planned"] is not None:
        return f"{known['steps'] or 0:,}/{known['steps_planned']:,} steps"
    planned = "" if known["epochs_planned"] is None else f"/{known['epochs_planned']}"
    return f"{'?' if known['epochs'] is None else known['epochs']}{planned}"


def ordered(found: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    """Runs by a column, the best first; those that have none come last.

    Raises:
        ValueError: no such column.
    """
    if key not in SORTS:
        raise ValueError(f"--sort {key}{registry.suggest(key, SORTS)}; allowed {', '.join(SORTS)}")
    if key == "newest":
        return sorted(found, key=lambda known: -known["changed"])
    there = [known for known in found if known[key] is not None]
    if key in ("last", "best"):  # figures of one name stand together
        there.sort(key=lambda known: (known["figure"], -known[key] if rises(known["figure"]) else known[key]))
    else:
        there.sort(key=lambda known: known[key])
    return there + [known for known in found if known[key] is None]


def table(found: list[dict[str, Any]]) -> str:
    """Runs as lines, and what to do about those that are not done."""
    lines = [("recipe", "differs", "data", "epochs", "figure", "last", "best", "test", "seconds", "run")]
    for known in found:
        figure = known["figure"]
        best = told(figure, known["best"])
        tested = (figure or "").replace("val/", "test/")
        lines.append(
            (
                known["recipe"] or "?",
                _cut(short(known["differs"], ("data.source",)), 32),
                _tail(known["data"] or "?", 24),
                progress(known),
                figure or "–",
                told(figure, known["last"]),
                best if known["best_epoch"] is None else f"{best} ({known['best_epoch']})",
                told(figure, known["figures"].get(tested)) if tested.startswith("test/") else "–",
                known["status"] if known["status"] != "done" else f"{known['seconds'] or 0:,.0f}",
                known["run"],
            )
        )
    columns = [column for column in zip(*lines) if set(column[1:]) - {"–", ""}]
    widths = [max(map(len, column)) for column in columns]
    text = ["  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths)).rstrip() for line in zip(*columns)]
    text += [f"damaged: {known['run']}: {known['fault']}" for known in found if known["status"] == "damaged"]
    if unfinished := [known["run"] for known in found if known["status"] == "unfinished"]:
        text.append(f"unfinished; to go on: zoo fit --resume {unfinished[0]}")
    return "\n".join(text)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1].rstrip()}…"


def _tail(text: Any, width: int) -> str:
    text = str(text)
    return text if len(text) <= width else f"…{text[len(text) - width + 1 :]}"


def curves(found: list[dict[str, Any]], output: Path) -> Path:
    """Draw losses and figures of several runs over epochs, a panel each; the best value is marked.

    Args:
        found: runs, read.
        output: a picture file.

    Raises:
        ValueError: too many runs for one picture, or none that has logged anything.
    """
    from zoo.report import plots

    if len(found) > CURVES:
        raise ValueError(f"{len(found)} runs are too many for one picture; name at most {CURVES}: zoo runs A B -o FILE")
    logged = [rows(Path(known["run"])) for known in found]
    names = list(dict.fromkeys(key for some in logged for row in some for key in row if _drawn(key)))
    names.sort(key=lambda name: (not name.startswith("train/"), not name.endswith("/loss")))
    if not names:
        raise ValueError(
            f"{', '.join(known['run'] for known in found)} logged nothing yet; train on: zoo fit --resume RUN"
        )
    return plots.write(_drawing(found, logged, names[:PANELS]), output)


def _drawn(key: str) -> bool:
    return key == "train/loss" or key.startswith("val/")


def _drawing(found: list[dict[str, Any]], logged: list[list[dict[str, float]]], names: list[str]) -> Any:
    from zoo.report.plots import plt

    steps = [_steps_of_an_epoch(some) for some in logged]
    in_epochs = all(count is not None for some, count in zip(logged, steps) if some)
    across = min(len(names), 3 if len(names) != 4 else 2)
    down = -(-len(names) // across)
    fig, axes = plt.subplots(down, across, figsize=(4.2 * across, 3 * down), squeeze=False)
    labels = legend(found)
    for ax, name in zip(axes.flat, names):
        kind, rise = name.rpartition("/")[2], rises(name)
        scale, unit = (100, "%") if kind in registry.SHARES else (1, registry.UNITS.get(kind, ""))
        for number, (some, count) in enumerate(zip(logged, steps)):
            points = [
                ((row["step"] + 1) / (count if in_epochs and count else 1), row[name] * scale)
                for row in some
                if name in row
            ]
            if not points:
                continue
            x, y = zip(*points)
            (line,) = ax.plot(x, y, color=f"C{number}", linewidth=1.4, marker="o" if len(x) <= 30 else "", markersize=3)
            line.set_label(labels[number])
            finite = [point for point in points if math.isfinite(point[1])]
            if finite and rise is not None and name.startswith("val/"):
                best = (max if rise else min)(finite, key=lambda point: point[1])
                ax.plot(*best, marker="*", markersize=10, color=f"C{number}")
        better = "" if rise is None else f", {'higher' if rise else 'lower'} is better"
        ax.set_title(f"{_WORDS[name.partition('/')[0]]} {kind}{better}", fontsize=9)
        ax.set_ylabel(f"{name}{f' in {unit}' if unit else ''}")
        ax.set_xlabel("epochs trained" if in_epochs else "optimiser steps")
        ax.set_xlim(left=0)
        ax.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
        ax.grid(alpha=0.25)
    for ax in list(axes.flat)[len(names) :]:
        ax.set_visible(False)
    lines = {
        line.get_label(): line for ax in axes.flat for line in ax.get_lines() if not line.get_label().startswith("_")
    }
    fig.tight_layout()
    fig.legend(
        lines.values(), lines.keys(), loc="upper center", bbox_to_anchor=(0.5, 0), frameon=False, title="★ best value"
    )
    recipes = {str(known["recipe"]) for known in found}
    if len(recipes) == 1:
        fig.suptitle(f"{recipes.pop()}: {len(found)} run{'s' * (len(found) > 1)}", y=1.03)
    return fig


def _steps_of_an_epoch(logged: list[dict[str, float]]) -> float | None:
    """Optimiser steps of an epoch, from the rows that end one; None where no epoch was ended."""
    ends = [((row["step"] + 1) / _epochs(row)) for row in logged if any(key.startswith("val/") for key in row)]
    later = [row["step"] / row["epoch"] for row in logged if row["epoch"] >= 1]  # at most one epoch's end too large
    return max(ends) if ends else min(later) if later else None


def legend(found: list[dict[str, Any]]) -> list[str]:
    """What tells runs apart: their recipes where these differ, what they have otherwise, or else their directories."""
    keys = dict.fromkeys(key for known in found for key in known["differs"])
    own = [{key: _said(Path(known["run"])).get(key) for key in keys} for known in found]
    same = [key for key in keys if all(values[key] == own[0][key] for values in own)]
    several = len({known["recipe"] for known in found}) > 1
    labels = [" ".join([str(k["recipe"])] * several + [short(v, same)]).strip() for k, v in zip(found, own)]
    names = [Path(known["run"]).name for known in found]
    return [
        f"{label} · {name}" if label and labels.count(label) > 1 else label or name
        for label, name in zip(labels, names)
    ]


def _said(run: Path) -> dict[str, Any]:
    """What a run's recipe says, by key; nothing where it cannot be read."""
    try:
        return recipe.flat(recipe.read_yaml(run / "recipe.yaml"))
    except (OSError, ValueError):
        return {}
