"""What a recipe can set: the keys of the classes that it names, what `zoo fit RECIPE --help` says of them, and the
nearest ones to a key that there is not.
"""

import contextlib
import difflib
import inspect
import json
import pkgutil
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jsonargparse
import lightning as L
import yaml

import zoo
from zoo import hub, recipe, registry
from zoo.data.images import ImageData
from zoo.data.trained import ABOUT, placed
from zoo.nn.signatures import Argument, arguments

ROLES = {"model": L.LightningModule, "data": L.LightningDataModule}
WIDTH, CELL = 120, 26  # of a line of help, and of its columns
UNREADABLE = (OSError, yaml.YAMLError, AttributeError, ImportError, LookupError, TypeError, ValueError)
OWN = {
    "seed_everything": Argument("int | bool", 0, "of all that is drawn at random."),
    "expect": Argument("dict | None", None, "the figure that the recipe should reach: metric, value, range, about."),
    "save_steps": Argument("int | None", None, "a checkpoint each so many optimiser steps, besides one an epoch."),
    "skip_nonfinite": Argument("int", 0, "how many batches may be left out whose loss is not finite."),
}


class Named(NamedTuple):
    """What a recipe and the command line name."""

    classes: dict[str, type]  # role, "model" or "data" → the class
    arch: str | None


def as_begun(file: Path, overrides: list[str]) -> list[str]:
    """Flags for what a run's resolved recipe lacks: keywords of its DataModule that are newer, with what it did without
    them, and where its source lay, where the recipe's own words do not lead there from here.
    """
    kind, flags = named(file, overrides).classes.get("data", object), []
    with contextlib.suppress(*UNREADABLE):
        given = yaml.safe_load(file.read_text(encoding="utf-8"))["data"]["init_args"]
        older = {key: value for key, value in getattr(kind, "older", {}).items() if key in keys_of(kind)}
        older = {key: value for key, value in older.items() if key not in given}
        moved = {key: value for key, value in placed(file.parent, given).items() if value != given.get(key)}
        flags = [f"--data.{key}={json.dumps(value)}" for key, value in (older | moved).items()]
    return flags


def spelled_out(file: Path, overrides: list[str]) -> list[str]:
    """`--data PATH` as the flag of what the recipe's DataModule is about, ImageData's `source`, LatentData's `folder`.

    A class, a file of its keys and JSON stay: that is how the parser is told of another DataModule.

    Raises:
        ValueError: the DataModule reads nothing, or --data without a value.
    """
    at = next((i for i, flag in enumerate(overrides) if flag == "--data" or flag.startswith("--data=")), None)
    if at is None:
        return overrides
    _, equals, value = overrides[at].partition("=")
    before, after = overrides[:at], overrides[at + 1 :]
    if not equals and (not after or after[0].startswith("--")):
        raise ValueError("--data without a value; give a folder, --data photos/")
    value, after = (value, after) if equals else (after[0], after[1:])
    classes = [name for name in zoo.__all__ if name.endswith("Data")]
    if value.endswith((".yaml", ".yml")) or value.startswith("{") or value in classes or _is_class(value):
        return overrides
    kind = named(file, [*before, *after]).classes.get("data", ImageData)
    first = next((key for key in keys_of(kind) if key in ABOUT), None)
    if first is None:
        raise ValueError(f"{file}: its {kind.__name__} makes its own samples and reads no --data {value}; leave it out")
    return [*before, f"--data.{first}={value}", *spelled_out(file, after)]


def _is_class(value: str) -> bool:
    """Whether a value is a class by its full name, package.module.CLASS."""
    found: object = None
    if re.fullmatch(r"\w+(\.\w+)+", value) and not Path(value).exists():
        with contextlib.suppress(*UNREADABLE):
            found = pkgutil.resolve_name(value)
    return inspect.isclass(found)


def named(file: Path, overrides: list[str]) -> Named:
    """The classes and the arch of a recipe, as far as it can be read: it may be what is wrong."""
    flags = dict(re.findall(r"--([\w.]+)[= ]([^-\s]\S*)", " ".join(overrides)))
    classes: dict[str, type] = {}
    arch = None
    for role in ROLES:
        with contextlib.suppress(*UNREADABLE):
            part = yaml.safe_load(file.read_text(encoding="utf-8"))[role]
            arch = part.get("init_args", {}).get("arch") if role == "model" else arch
            kind = pkgutil.resolve_name(flags.get(f"{role}.class_path", flags.get(role, part["class_path"])))
            classes |= {role: kind} if inspect.isclass(kind) else {}
    return Named(classes, flags.get("model.arch", flags.get("model.init_args.arch", arch)))


def keys_of(kind: type) -> dict[str, Argument]:
    """What the constructor of a LightningModule or DataModule takes, through `**keywords` as its parents take them."""
    names = jsonargparse.ArgumentParser().add_class_arguments(kind, fail_untyped=False)
    explained = arguments(kind)
    return {name: explained[name] for name in names}


def sections(names: Named) -> dict[str, dict[str, Argument]]:
    """Where a key can stand, "model" or "model.arch_args" ("" is the recipe itself) → the keys there."""
    keys, arch = {role: keys_of(kind) for role, kind in names.classes.items()}, names.arch
    if arch is not None and arch in registry.archs() and "arch_args" in keys.get("model", ()):
        explained = arguments(hub.model_class(arch))
        keys["model.arch_args"] = {key: explained[key] for key in hub.keywords(arch)}
    return keys | {"trainer": arguments(L.Trainer), "": OWN}


def suggest(section: str, key: str, file: Path, overrides: list[str]) -> str:
    """How a line that refuses a key ends: which keys may be meant, those of the same name in another section first."""
    names = named(file, overrides)
    known = sections(names)
    own_last = sorted(known, key=lambda place: place == section)
    place_of = {near: place for place in own_last for near in known[place]}
    same = [(place, key) for place in own_last if key in known[place] and place != section]
    close = [(place_of[near], near) for near in difflib.get_close_matches(key, place_of, n=3, cutoff=0.6)]
    if meant := same or close:
        written = [near if place == section else _flag(place, near) for place, near in meant]
        return f", did you mean {' or '.join(written)}?"
    return _called_otherwise(section, key, names.classes[section]) if section in names.classes else ""


def _called_otherwise(role: str, key: str, kind: type) -> str:
    """Of a key that other classes of the same role take: what this recipe's class takes.

    A class's first argument is what it is about, ImageData's `source` or LatentData's `folder`: one stands for another.
    """
    own, takers = list(keys_of(kind)), {}
    for name in zoo.__all__:
        with contextlib.suppress(Exception):  # a class of another distribution whose module cannot be imported
            public = getattr(zoo, name)
            if issubclass(public, ROLES[role]) and key in (keys := list(keys_of(public))):
                takers[name] = keys
    if not takers or not own:
        return ""
    first = any(keys[0] == key for keys in takers.values())
    instead = _flag(role, own[0]) if first else ", ".join(own)
    return f"; it is a key of {', '.join(takers)}, this recipe's {kind.__name__} takes {instead}"


def _flag(section: str, key: str) -> str:
    return f"--{section}.{key}" if section else f"--{key}"


def describe(name: str, config: jsonargparse.Namespace) -> str:
    """What can be set in a recipe: key, type, value in this recipe, and what the docstring says of it.

    Args:
        name: of the recipe, or its file.
        config: the recipe as its parser resolves it.
    """
    trainer = yaml.safe_load(recipe.recipe_path(name).read_text(encoding="utf-8")).get("trainer", {})
    values: dict[str, Mapping[str, Any] | jsonargparse.Namespace] = {
        role: dict(vars(config[role].get("init_args", jsonargparse.Namespace()))) for role in ROLES
    }
    arch = values["model"].get("arch")
    classes = {role: pkgutil.resolve_name(config[role].class_path) for role in ROLES}
    known = sections(Named(classes, arch))
    known["trainer"] = {key: argument for key, argument in known["trainer"].items() if key in trainer}
    values |= {"model.arch_args": values["model"].get("arch_args") or {}, "trainer": config["trainer"], "": config}
    about = {role: f"{kind.__name__}: {_first_line(kind)}" for role, kind in classes.items()}
    about["trainer"] = "Lightning's Trainer, as far as this recipe sets it; its other arguments are keys as well"
    about[""] = "of the recipe itself"
    if arch is not None and "model.arch_args" in known:
        about["model.arch_args"] = f"{arch}: {registry.summary(arch)}"
    lines = [_cut(f"{name}: {recipe.about(name)}", WIDTH)]
    for place in ("model", "model.arch_args", "data", "trainer", ""):
        if known.get(place):
            lines += ["", _cut(f"{_flag(place, 'KEY')}  {about[place]}", WIDTH), *_table(known[place], values[place])]
    return "\n".join([*lines, "", f"`zoo fit {name} --print_config` prints it whole, as a recipe."])


def _table(keys: dict[str, Argument], values: Mapping[str, Any] | jsonargparse.Namespace) -> list[str]:
    rows = [
        (
            _cut(key, CELL),
            _cut(a.type, CELL),
            _cut(_value(values[key]) if key in values else "the arch's", CELL),
            a.about,
        )
        for key, a in keys.items()
    ]
    widths = [*(max(len(row[i]) for row in rows) for i in range(3)), 0]
    return [_cut("  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths)), WIDTH) for row in rows]


def _value(value: Any) -> str:
    """As it is written on the command line."""
    if isinstance(value, jsonargparse.Namespace):
        value = value.as_dict()
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(list(value) if isinstance(value, tuple) else value)


def _first_line(of: type) -> str:
    return (inspect.getdoc(of) or "").partition("\n")[0]


def _cut(text: str, width: int) -> str:
    return text.rstrip() if len(text) <= width else f"{text[: width - 1].rstrip()}…"
