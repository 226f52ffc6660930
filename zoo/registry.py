"""Which models and weights there are. Names and facts only: no torch, no disk, no network."""

import difflib
import fnmatch
import importlib
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType, ModuleType
from typing import Any

FAMILIES = ("mae", "videomae", "vq", "dcae", "rae", "bilinear")

PERMISSIVE = ("Apache-2.0", "MIT", "BSD-3-Clause", "CC0-1.0", "CC-BY-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0")


@dataclass(frozen=True)
class Metric:
    """One measured figure and how it was measured."""

    name: str  # as torchmetrics or the paper spells it, "accuracy"
    value: float
    unit: str  # "%", "dB", …
    data: str  # the data set and split it was measured on
    protocol: str  # what was done, in one sentence


@dataclass(frozen=True)
class Weights:
    """A pinned checkpoint of an arch: where it is, how good it is, what one may do with it."""

    name: str  # arch.tag
    args: dict[str, Any]  # of the arch's builder
    sha256: str  # of `file`; "" where a publisher states none
    size: int  # bytes of `file`; 0 where a publisher states none
    licence: str  # of the weights, SPDX
    data_terms: str  # of what they were trained on
    metrics: tuple[Metric, ...]
    kind: str = "full"  # "full" or "encoder"
    repo: str | None = None  # on the Hub; without repo and url, the weights ship with the package
    revision: str | None = None  # 40 hex digits of the Hub commit
    url: str | None = None  # on a publisher's own server
    md5: str = ""  # its first digits, where that is what the publisher states
    foreign: bool = False  # in the authors' own layout, converted while it is loaded
    file: str = "model.safetensors"
    beside: str = ""  # another file of the repository, whose tensors belong to it
    recipe: str | None = None
    command: str | None = None
    hardware: str | None = None
    wall_time: str | None = None
    commit: str | None = None  # of this repository, that trained them
    parent: str | None = None  # the weights training started from
    classes: tuple[str, ...] = ()
    golden: tuple[float, ...] = ()  # first outputs on the golden input, see zoo.hub.golden_output
    notes: str = ""
    data: str | None = None  # Hub id of the training data

    @property
    def arch(self) -> str:
        return self.name.partition(".")[0]

    @property
    def tag(self) -> str:
        return self.name.partition(".")[2]

    @property
    def embedded(self) -> bool:
        return self.repo is None and self.url is None

    @property
    def permissive(self) -> bool:
        return self.licence in PERMISSIVE


@cache
def facts(family: str) -> ModuleType:
    """The family's weights.py: ARCHS, WEIGHTS, and what its cards need."""
    return importlib.import_module(f"zoo.{family}.weights")


@cache
def archs() -> MappingProxyType[str, str]:
    """arch -> family, in the order of FAMILIES."""
    return MappingProxyType({arch: family for family in FAMILIES for arch in facts(family).ARCHS})


@cache
def records() -> MappingProxyType[str, Weights]:
    """arch.tag -> record."""
    return MappingProxyType({w.name: w for family in FAMILIES for w in facts(family).WEIGHTS})


def family_of(arch: str) -> str:
    """The family an arch belongs to.

    Raises:
        ValueError: there is no such arch; the message names the nearest ones.
    """
    if arch not in archs():
        raise ValueError(f"no arch {arch!r}{suggest(arch, archs())}; `zoo ls` lists them")
    return archs()[arch]


def summary(arch: str) -> str:
    """One line about an arch: what goes in and comes out, how large it is."""
    return facts(family_of(arch)).ARCHS[arch]


def list_models(pattern: str = "*", pretrained: bool = False) -> list[str]:
    """Names of archs that match a shell pattern; with `pretrained`, only those that have weights."""
    trained = {w.arch for w in records().values()}
    return [a for a in archs() if fnmatch.fnmatchcase(a, pattern) and (a in trained or not pretrained)]


def list_weights(pattern: str = "*") -> list[str]:
    """Names `arch.tag` of all weights that match a shell pattern."""
    return [name for name in records() if fnmatch.fnmatchcase(name, pattern)]


def weights_info(name: str) -> Weights:
    """The record of `arch.tag`.

    Raises:
        ValueError: no such arch, or no such tag of it; the message names what there is.
    """
    if name in records():
        return records()[name]
    arch, dot, tag = name.partition(".")
    family_of(arch)
    tags = [w.tag for w in records().values() if w.arch == arch]
    if not tags:
        raise ValueError(f"no weights for {arch}; train some with a recipe, `zoo ls --recipes` lists them")
    given = f"{arch} has no weights {tag!r}" if dot else f"{name!r} names an arch, not weights"
    raise ValueError(f"{given}; it has {', '.join(f'{arch}.{t}' for t in tags)}")


def suggest(given: str, options: Any) -> str:
    """`, did you mean a or b?`: the nearest of the options, or nothing."""
    near = difflib.get_close_matches(given, list(options), n=3, cutoff=0.5)
    return f", did you mean {' or '.join(near)}?" if near else ""
