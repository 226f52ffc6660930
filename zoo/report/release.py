"""`zoo release`: a run becomes weights that stand, its checkpoint folder with config.json as the whole record."""

import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from zoo import hub, recipe, registry
from zoo.data.readers import SAMPLES
from zoo.hub import index, runs
from zoo.hub.card import data_name, folder_card
from zoo.hub.give import refuse_private
from zoo.hub.places import open_source
from zoo.nn.frozen import fingerprint
from zoo.redact import public
from zoo.registry import Metric
from zoo.report import figures, history
from zoo.report.inputs import subject
from zoo.train.fit import commit

SEEDS = re.compile(r"(^|[._])seed(_everything)?$")  # keys in which the runs of a release differ
UNHEARD = ("expect", "save_steps", "skip_nonfinite")  # keys of a recipe that say nothing of what was trained
OF_ONE = ("linear", "used")  # shares of 1 beside registry.SHARES and all that is called accuracy


class Run(NamedTuple):
    """A run that is released, or that mean and range are of as well."""

    place: Path
    known: dict[str, Any]  # as `zoo runs` reads it
    environment: dict[str, Any]

    @property
    def seed(self) -> int:
        seed: int = self.known["seed"]
        return seed


class Stored(NamedTuple):
    """How the first run was stored and what it comes to."""

    dtype: str
    why: str  # this one
    how: str  # the figures came about
    commit: str | None  # that measured them
    figures: list[Mapping[str, Any]]  # of each run, the first one's of the file as it is stored


class Released(NamedTuple):
    """What was written, and what there is to say of it."""

    folder: Path
    said: list[str]


def destination(name: str, output: Path | None = None) -> Path:
    """Where weights are released to: a folder of their name among their family's checkpoints, or `output`.

    Raises:
        ValueError: no arch.tag, a tag that stands, a family of another distribution in the house's folder, or a
            family that is installed and has no folder of the user's.
    """
    arch, _, tag = name.partition(".")
    family = registry.home(arch)
    if not re.fullmatch(r"\w+", tag):
        raise ValueError(f"{name!r} is no arch.tag; name what it was trained on: zoo release RUN {arch}.mnist")
    folder = family.checkpoints / name if output is None else output
    if name in registry.records() or _holds(folder) == name or (output is None and folder.exists()):
        raise ValueError(f"{name} stands, and a tag never changes; release it under another: {name}_v2")
    if output is None and {"site-packages", "dist-packages"} & set(folder.parts):
        raise ValueError(f"{family} is installed, not checked out; give a folder of your own: -o FOLDER")
    if not family.ours and folder.resolve().is_relative_to((registry.HOUSE / "checkpoints").resolve()):
        raise ValueError(
            f"{arch} is of {family}, and weights of it ship with that, not with latentzoo; without -o they go to "
            f"{family.checkpoints}"
        )
    if folder.resolve().parent == family.checkpoints.resolve() and folder.name != name:
        raise ValueError(f"{folder} is among the checkpoints of {family}, where it would be called {name}")
    registry.read_records(family.checkpoints)  # an index of them can be written
    return folder


def release(places: Sequence[Path], name: str, folder: Path, licence: str | None = None) -> Released:
    """Write the first run as a checkpoint folder whose config.json is its record; all runs make mean and range.

    Each run is measured by `zoo eval` on its own data, and so is the first one's file as it is stored: float16 where
    each figure that has an interval stays within it, else float32. What was in the folder is replaced.

    Args:
        places: runs of one recipe that differ in their seeds alone.
        name: arch.tag.
        folder: as `destination` gives it.
        licence: of the weights, SPDX's identifier or the Hub's; None leaves it unknown.

    Raises:
        ValueError: a run that is damaged or has no figures, runs that do not belong together, another arch than
            theirs, a place of this machine in what would be written.
    """
    known = [_read(place) for place in places]
    _refuse_others(known, name.partition(".")[0])
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".release-") as made:
        stage = Path(made) / name
        stored = _store(known, stage, licence)
        config = hub.read_config(stage)
        config |= _record(name, config, known, stored)
        config["golden"] = [round(value, 5) for value in hub.golden_output(hub.load(str(stage))).tolist()]
        said = [f"stored as {stored.dtype}: {stored.why}"]
        try:
            figures.show(str(stage), [], stage / hub.PICTURE)
            config["picture"] = hub.PICTURE
        except ValueError as error:
            said.append(f"no picture: {error}")
        with hub.write_aside(stage) as aside:
            aside(hub.CARD).write_text(folder_card(config), encoding="utf-8")
            text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
            aside(hub.CONFIG).write_text(text, encoding="utf-8")
        refuse_private(config, {file: stage / file for file in (hub.CONFIG, hub.CARD)})
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(stage, folder)
    if config["licence"] == "unknown":
        said.append("its licence is unknown: --licence ID was not given")
    if str(config.get("commit")).endswith("-dirty"):
        said.append(f"trained at {config['commit']}: with changes that no commit holds")
    family = registry.home(name.partition(".")[0])
    if folder.resolve().parent == family.checkpoints.resolve():
        with hub.write_aside(family.checkpoints) as aside:
            aside(registry.INDEX).write_text(index.text(family.checkpoints), encoding="utf-8")
        registry.forget()
        said += ["MODEL_CARD.md, README.md and the page tell of it after: python -m zoo.hub"] if family.ours else []
    return Released(folder, said)


def _holds(folder: Path) -> str | None:
    """The name of the record that lies in a folder; None where there is none."""
    try:
        record = registry.record_of(json.loads((folder / hub.CONFIG).read_text(encoding="utf-8")))
    except (OSError, AttributeError, ValueError):
        return None
    return None if record is None else record.name


def _read(place: Path) -> Run:
    """A run that is whole and has figures."""
    (run, *others) = history.find([place])
    if others:
        raise ValueError(f"{place} holds {1 + len(others)} runs; name those to release: zoo release {run} … ARCH.TAG")
    known = history.read(run)
    if known["status"] == "damaged":
        raise ValueError(f"{run} is damaged: {known['fault']}; only a run that is whole is released")
    if not any(isinstance(value, int | float) and math.isfinite(value) for value in known["figures"].values()):
        raise ValueError(f"{run} has no figures: metrics.json is missing or says none; zoo fit --resume {run} ends it")
    return Run(run, known, json.loads((run / "environment.json").read_text(encoding="utf-8")))


def _refuse_others(known: Sequence[Run], arch: str) -> None:
    """Raise where runs are no runs of one recipe and of this arch under several seeds."""
    first = known[0]
    said = [_said(run.place) for run in known]
    for run, own in zip(known, said):
        held = open_source(str(run.place), mmap=True).config["arch"]
        if held != arch:
            raise ValueError(f"{run.place} holds {held}, not {arch}; it is released as {held}.TAG")
        if run.known["recipe"] != first.known["recipe"]:
            raise ValueError(
                f"{first.place} is a run of {first.known['recipe']}, {run.place} of {run.known['recipe']}; mean and "
                "range are of one recipe"
            )
        if other := [key for key in {**said[0], **own} if said[0].get(key) != own.get(key)]:
            raise ValueError(
                f"{first.place} and {run.place} have another {', '.join(other)}; mean and range are of one recipe"
            )
    seeds = [run.seed for run in known]
    twice = next((seed for seed in seeds if seeds.count(seed) > 1), None)
    if twice is not None:
        raise ValueError(f"seed {twice} is there twice; give runs of different seeds")


def _said(run: Path) -> dict[str, Any]:
    """What a run's figures depend on, by key, but for its seeds."""
    flat = recipe.flat(recipe.read_yaml(run / "recipe.yaml"))
    left_out = (*UNHEARD, *recipe.HARMLESS)
    return {k: v for k, v in flat.items() if not (SEEDS.search(k) or k.startswith(UNHEARD) or k.endswith(left_out))}


def _needs(args: Mapping[str, Any], digest: str) -> bool:
    """Whether a record's arguments name a network by its tensors: `encoder_hash`, the first digits."""
    return any(key.endswith("_hash") and value and digest.startswith(str(value)) for key, value in args.items())


def _store(known: Sequence[Run], stage: Path, licence: str | None) -> Stored:
    """Export the first run, in float16 where its figures allow it."""
    place = known[0].place
    model = hub.load(str(place))
    if subject(model) != model.takes:  # it draws pictures, and was trained on latents
        hub.export(place, stage, licence=licence)
        why = f"`zoo eval` cannot measure it on the {model.takes.kind}s of its run; figures are those of `zoo fit`"
        return Stored("float32", why, "`zoo fit`'s test", known[0].environment.get("commit"), [*map(_fitted, known)])
    measured: list[Mapping[str, Any]] = [figures.evaluate(str(run.place)) for run in known]
    hub.export(place, stage, half=True, licence=licence)
    rounded = figures.evaluate(str(stage), run=place)
    half, why = _stays(measured[0], rounded)
    whole = fingerprint(model)
    if owner := next((w.name for w in registry.records().values() if _needs(w.args, whole)), None):
        half, why = False, f"{owner} names the float32 file by its hash"
    if half:
        return Stored("float16", why, "the stored float16 weights, `zoo eval`", commit(), [rounded, *measured[1:]])
    hub.export(place, stage, licence=licence)
    return Stored("float32", why, "the stored float32 weights, `zoo eval`", commit(), measured)


def _fitted(run: Run) -> dict[str, Any]:
    """The figures that a training ended with, as `zoo eval` gives them."""
    split, count = run.known["split"] or "test", run.known["samples"].get(run.known["split"] or "test")
    found = {k: v for k, v in run.known["figures"].items() if k.startswith(f"{split}/")}
    return {"split": split, **found} | ({"images": count} if count else {})


def _stays(whole: Mapping[str, Any], rounded: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether the figures of a float16 file lie within the intervals of the float32 one's, and in words."""
    judged = {key: interval for key in whole if (interval := whole.get(f"{key}_interval"))}
    for key, (low, high) in judged.items():
        value = rounded.get(key)
        if value is None or not low <= value <= high:
            return False, f"{key} of float16 is {value}, outside of float32's interval [{low:.4f}, {high:.4f}]"
    if not judged:
        return False, "no figure of it has an interval that float16 could be held against"
    key, (low, high) = next(iter(judged.items()))
    return True, f"{key} of it is {rounded[key]:.4f}, within float32's interval [{low:.4f}, {high:.4f}]"


def _record(name: str, config: dict[str, Any], known: Sequence[Run], stored: Stored) -> dict[str, Any]:
    """What config.json says besides what an export tells: all that the first run knows of itself."""
    first, measured, trained = known[0], stored.figures, dict(config.get("trained", {}))
    if trained.get("recipe"):
        trained["stated"] = recipe.flat(recipe.read_yaml(recipe.recipe_path(trained["recipe"])))
    data, split = trained.get("data"), measured[0]["split"]
    record = {
        "name": name,
        "licence": config.get("licence", "unknown"),
        "data": data if data and re.fullmatch(r"(?!samples/)[\w.-]+/[\w.-]+", data) else None,
        "data_terms": _terms(data, trained),
        "recipe": trained.get("recipe"),
        "command": _command(first.known["commands"]),
        "hardware": _hardware(first.environment),
        "wall_time": _wall_time(first.known["seconds"] or 0.0, len(first.known["commands"])),
        "commit": first.environment.get("commit"),
        "parent": config.get("parent") or config.get("name"),
    }
    protocol = stored.how if split == "test" else f"{stored.how}; {runs.CHOSEN}"
    about = {"data": data_name(trained, config), "protocol": protocol, "split": split, "commit": stored.commit}
    seeds = tuple(run.seed for run in known)
    metrics = [
        registry.plain(_metric(key, [figures.get(key) for figures in measured], measured[0], seeds, about))
        for key, value in measured[0].items()
        if isinstance(value, float) and math.isfinite(value)
    ]
    return {key: value for key, value in record.items() if value is not None} | {
        "trained": trained,
        "metrics": metrics,
    }


def _metric(
    key: str, values: Sequence[Any], figures: Mapping[str, Any], seeds: tuple[int, ...], about: Mapping[str, Any]
) -> Metric:
    """A figure of the first run, and mean and range over all that have it."""
    kind = key.rpartition("/")[2]
    share = kind in (*registry.SHARES, *OF_ONE) or "accuracy" in kind

    def shown(value: float) -> float:
        return round(100 * value, 2) if share else float(f"{value:.5g}")

    several = len(values) > 1 and all(isinstance(value, float) and math.isfinite(value) for value in values)
    counts = [figures[kind] for kind in ("images", "clips", "latents", "activations") if kind in figures]
    interval = figures.get(f"{key}_interval")
    return Metric(
        key,
        shown(values[0]),
        "%" if share else registry.UNITS.get(kind, ""),
        images=counts[0] if counts else None,
        interval=interval and (shown(interval[0]), shown(interval[1])),
        seeds=seeds if several else seeds[:1],
        mean=shown(sum(values) / len(values)) if several else None,
        range=(shown(min(values)), shown(max(values))) if several else None,
        **about,
    )


def _terms(data: str | None, trained: Mapping[str, Any]) -> str:
    """What one may do with the data of a run, as far as it is known here."""
    known = {w.data: w.data_terms for w in registry.records().values() if w.data}
    if data in known:
        return known[data]
    if data and data.startswith("samples/"):
        front = (SAMPLES / data.partition("/")[2] / "README.md").read_text(encoding="utf-8").split("---\n")[1]
        return f"{data}: {yaml.safe_load(front)['license']}"
    if data and re.fullmatch(r"\w+", data):  # a DataModule without a source
        return f"made by {data}, of no data set"
    return "not stated"


def _command(commands: Sequence[str]) -> str:
    """What was typed, without where the run lies and without other places of this machine."""
    typed = [re.sub(r" --(run|runs|resume)[ =]\S+", "", command).split() for command in commands]
    return " && ".join(" ".join([*words[:2], *map(_public, words[2:])]) for words in typed if len(words) > 2)


def _public(word: str) -> str:
    value = word.rpartition("=")[2]
    known = value in recipe.list_recipes() or public(value) == value
    return word if known or not (os.sep in value or Path(value).exists()) else word.replace(value, "PATH")


def _hardware(environment: Mapping[str, Any]) -> str:
    device, processes = environment.get("device", "cpu"), environment.get("processes", 1)
    if device == "cpu":
        cores = environment.get("cpus", 1)
        return f"cpu ({cores} core{'s' * (cores != 1)})"
    return f"{processes} × {device}" if processes > 1 else str(device)


def _wall_time(seconds: float, sittings: int) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            time = f"{seconds / size:.1f} {unit}"
            break
    else:
        time = f"{seconds:.0f} s"
    return time if sittings == 1 else f"{time}, the last of {sittings} sittings"
