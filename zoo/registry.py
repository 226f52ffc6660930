"""Which models and weights there are. Names and facts only: no torch, no weights read, no network.

Weights of our own are recorded by the config.json of their folder, and an index beside the folders holds all of these
records; files of other publishers are recorded in facts.py.

The house's families are the folders of `zoo/families`. An installed distribution brings one of its own by an entry
point of the group `latentzoo.families`: its name is the family's, its value the package that holds `model.py`,
`facts.py`, `card.md` and `recipes/`. Of such a package facts.py alone is run to list it, the package is not imported.
"""

import fnmatch
import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

GROUP = "latentzoo.families"  # of entry points
HOUSE = Path(__file__).parent
RECIPES = HOUSE / "recipes" if (HOUSE / "recipes").is_dir() else HOUSE.parent / "recipes"  # wheel, or checkout

CAPABILITIES = (
    *("HasFeatures", "HasTokens", "Reconstructs", "HasLatents", "HasCodes", "FillsIn", "Classifies", "Samples"),
    *("StartsFrom", "AdaptsState", "FixesArguments", "KeepsBatchState", "SparesDecay", "DecaysAlso", "HasLayers"),
    *("Recomputes", "PrefersData"),
)

# Public name of `zoo` -> the module that holds it. The classes of families come on top, from their facts.py.
PUBLIC = {
    **dict.fromkeys(("Metric", "Weights", "list_models", "list_weights", "weights_info"), "zoo.registry"),
    **dict.fromkeys(("create", "load"), "zoo.hub.doors"),
    **dict.fromkeys(("save", "export", "push", "verify"), "zoo.hub.give"),
    "convert": "zoo.hub.foreign",
    "LitAutoencoder": "zoo.train.autoencode",
    "LitClassifier": "zoo.train.classify",
    "LitFinetune": "zoo.train.finetune",
    "LitMAE": "zoo.train.mask",
    "ImageData": "zoo.data.images",
    "ClipData": "zoo.data.clips",
    "FactorData": "zoo.data.factors",
    **dict.fromkeys(("LatentData", "ImageLatentData"), "zoo.data.latents"),
    **dict.fromkeys(("transform", "preprocess", "collate"), "zoo.data.transforms"),
    "unchecked": "zoo.nn.checks",
    "RandomImages": "zoo.data.synthetic",
    **dict.fromkeys(("Input", "Model", *CAPABILITIES), "zoo.nn.protocols"),
}

SHARES = ("acc", "probe_acc", "knn", "accuracy", "top5")  # figures that are logged as a share of 1 and told in percent
UNITS = {"psnr": "dB"}  # of others that have one

INDEX = "index.json"  # of a folder of checkpoints: their records, as `python -m zoo.hub` and `zoo release` write it
RECORDED = (  # fields of a record that stand in config.json as they are called; those of its file stand under "weights"
    *("name", "args", "kind", "licence", "data", "data_terms", "metrics", "recipe", "command", "hardware", "wall_time"),
    *("commit", "parent", "golden", "notes"),
)

PERMISSIVE = ("Apache-2.0", "MIT", "BSD-3-Clause", "CC0-1.0", "CC-BY-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0")


@dataclass(frozen=True)
class Metric:
    """One measured figure and how it was measured."""

    name: str  # as torchmetrics or the paper spells it, "accuracy"
    value: float
    unit: str  # "%", "dB", …
    data: str  # the data set and split it was measured on
    protocol: str  # what was done, in one sentence
    split: str = ""  # of the data, where those are named without it
    images: int | None = None  # samples it was measured on
    interval: tuple[float, float] | None = None  # 95 %, of these samples
    seeds: tuple[int, ...] = ()  # of the runs: the first one's is the value, mean and range are of all
    mean: float | None = None
    range: tuple[float, float] | None = None
    commit: str | None = None  # of this repository, that measured it

    def __str__(self) -> str:
        """The figure with its unit, its interval, and what other seeds came to."""
        said = f"{self.value:g} {self.unit}".strip()
        if self.interval is not None:
            said += f" [{self.interval[0]:g}, {self.interval[1]:g}]"
        if self.mean is not None and self.range is not None:
            seeds = ", ".join(map(str, self.seeds))
            said += f", mean {self.mean:g} ({self.range[0]:g} to {self.range[1]:g}) of seeds {seeds}"
        return said

    @property
    def where(self) -> str:
        """The data, the split and the number of samples, as far as they are known."""
        count = "" if self.images is None else f" ({self.images:,})"
        return f"{self.data}, {self.split} split{count}" if self.split else f"{self.data}{count}"


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
    extra_file: str = ""  # of the same repository, with tensors that `file` lacks
    recipe: str | None = None
    command: str | None = None
    hardware: str | None = None
    wall_time: str | None = None
    commit: str | None = None  # of this repository, that trained them
    parent: str | None = None  # the weights training started from
    golden: tuple[float, ...] = ()  # first outputs on the golden input, see zoo.hub.golden_output
    notes: str = ""
    data: str | None = None  # Hub id of the training data
    class_list: str | None = None  # whose names its classes have, "imagenet1k"; None: as an embedded config.json says

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
    def folder(self) -> Path:
        """Where weights that ship with the package lie."""
        return home(self.arch).checkpoints / self.name

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes: of its list, or as the config.json of weights that ship states them; else none."""
        if self.class_list is not None:
            return class_list(self.class_list).names
        if not self.embedded:
            return ()
        import json

        config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        return tuple(config.get("classes", ()))

    @property
    def permissive(self) -> bool:
        return self.licence in PERMISSIVE


def record_of(config: Mapping[str, Any]) -> Weights | None:
    """The record that a checkpoint folder's config.json is; None of what was saved or exported, which has no terms.

    Raises:
        ValueError: it lacks something, or has something of another type.
    """
    if not {"name", "licence", "data_terms"} <= config.keys():
        return None
    try:
        return _record({key: config[key] for key in RECORDED if key in config} | config["weights"])
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"the record of {config['name']} is not whole: {_said(error)}") from error


def _record(told: Mapping[str, Any]) -> Weights:
    """A record, of what JSON says of it."""
    read: dict[str, Any] = {"metrics": tuple(map(metric_of, told["metrics"])), "golden": tuple(told.get("golden", ()))}
    return Weights(**{**told, **read})


def metric_of(told: Mapping[str, Any]) -> Metric:
    """A figure, of what JSON says of it."""
    read: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in told.items()}
    return Metric(**read)


def whole_figures(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The figures of a config.json that lack nothing, without what no Metric says."""
    known = {f.name for f in fields(Metric)}
    needed = {f.name for f in fields(Metric) if f.default is MISSING}
    rows = (row for row in config.get("metrics") or () if isinstance(row, dict) and row.keys() >= needed)
    return [{key: value for key, value in row.items() if key in known} for row in rows]


def plain(said: Metric | Weights) -> dict[str, Any]:
    """What a figure or a record says, for JSON: without what is as by default."""
    own = {f.name: getattr(said, f.name) for f in fields(said) if getattr(said, f.name) != f.default}
    return own | ({"metrics": [plain(metric) for metric in said.metrics]} if isinstance(said, Weights) else {})


@cache
def shipped(folder: Path) -> tuple[Weights, ...]:
    """The records of a folder of checkpoints, by its index; where it has none, by each checkpoint's config.json.

    Raises:
        ValueError: a file that does not say them.
    """
    import json

    index = folder / INDEX
    if not index.is_file():
        return read_records(folder)
    try:
        told = json.loads(index.read_text(encoding="utf-8"))
        return tuple(_record({"name": name} | record) for name, record in told.items())
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{index} is no index of records ({_said(error)}); python -m zoo.hub writes it") from error


def read_records(folder: Path) -> tuple[Weights, ...]:
    """The records of a folder of checkpoints as each config.json says them, by name.

    Raises:
        ValueError: a config.json that is none, or in a folder of another name than it says.
    """
    import json

    found = []
    for path in sorted(folder.glob("[!.]*/config.json")):
        try:
            record = record_of(json.loads(path.read_text(encoding="utf-8")))
        except (AttributeError, ValueError) as error:
            raise ValueError(f"{path} is no record ({_said(error)})") from error
        if record is not None and record.name != path.parent.name:
            raise ValueError(f"{path} says that it is {record.name}; a checkpoint's folder is named as it is")
        found += [record] if record is not None else []
    return tuple(found)


@dataclass(frozen=True)
class ClassList:
    """The classes of a public data set, in the order of its labels."""

    about: str  # where names and order come from
    names: tuple[str, ...]
    wnids: tuple[str, ...] = ()  # of ImageNet, "n01440764"


@cache
def class_list(name: str) -> ClassList:
    """The classes of a data set that weights here were trained on: a file of zoo/data/class_lists."""
    import json

    folder = HOUSE / "data" / "class_lists"
    known = sorted(path.stem for path in folder.glob("*.json"))
    if name not in known:
        raise ValueError(f"no list of classes {name!r}{suggest(name, known)}; there are {', '.join(known)}")
    listed = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return ClassList(listed["about"], tuple(listed["names"]), tuple(listed.get("wnids", ())))


@dataclass(frozen=True)
class Family:
    """Where a family lives; its modules are imported when they are asked for."""

    name: str
    package: str  # "zoo.families.mae"
    folder: Path  # of model.py, facts.py and card.md
    checkpoints: Path  # folder of the weights that ship with it
    recipes: Path  # folder of its recipes, NAME.yaml
    distribution: str = "latentzoo"

    def __str__(self) -> str:
        return f"{self.package} (distribution {self.distribution})"

    @property
    def ours(self) -> bool:
        """Whether it ships with this package."""
        return self.package.startswith("zoo.families.")

    def part(self, name: str) -> ModuleType | None:
        """A module of the family by its last name, "convert"; None where there is none.

        Raises:
            ValueError: a module that another distribution brings cannot be imported.
        """
        full = f"{self.package}.{name}"
        try:
            return importlib.import_module(full)
        except Exception as error:
            if isinstance(error, ModuleNotFoundError) and error.name == full:
                return None
            if self.ours:
                raise
            raise ValueError(f"family {self.name} of {self}: {full} cannot be imported, {_said(error)}") from error


@dataclass(frozen=True)
class Facts:
    """What a family's facts.py states. Only ARCHS, TITLE and PAPER are required."""

    archs: dict[str, str]  # arch -> one line about it, its parameter count among it
    title: str
    paper: str  # author, year, title, where
    weights: tuple[Weights, ...] = ()
    starts: dict[str, tuple[str, ...]] = field(default_factory=dict)  # arch -> archs whose encoder it starts from
    public: dict[str, str] = field(default_factory=dict)  # public name -> the module of the family that holds it
    picture: tuple[str, str] | None = None  # file and caption, for the family's page
    reference: str | None = None  # weights that ship, in whose features `zoo eval` compares pictures

    @property
    def classes(self) -> list[str]:
        """The public names that are names of `zoo` as well."""
        return [name for name in self.public if name[:1].isupper()]


@cache
def families() -> MappingProxyType[str, Family]:
    """The house's families, then those that other distributions bring, by name; no package of theirs is imported."""
    return MappingProxyType({name: family for name, (family, _) in _known().items()})


@cache
def _known() -> MappingProxyType[str, tuple[Family, Facts]]:
    """Family -> where it is, and its facts. One of another distribution that fails or clashes is left out."""
    known: dict[str, tuple[Family, Facts]] = {}
    owners: dict[str, object] = dict.fromkeys(PUBLIC, "zoo")  # arch or public name -> whose it is
    for family in (*_house(), *_brought()):
        try:
            facts = _read(family)
            if not family.ours:
                _refuse_clashes(family, facts, known, owners)
        except (Exception, SystemExit) as error:
            if family.ours:
                raise
            _leave_out(family.name, family, _said(error))
            continue
        known[family.name] = family, facts
        owners |= dict.fromkeys([*facts.archs, *facts.classes], family)
    return MappingProxyType(known)


def _house() -> list[Family]:
    folders = sorted(path.parent for path in (HOUSE / "families").glob("*/facts.py"))
    return [Family(f.name, f"zoo.families.{f.name}", f, HOUSE / "checkpoints", RECIPES / f.name) for f in folders]


def _brought() -> Iterator[Family]:
    """What installed distributions bring, by name and distribution; what is not there is left out."""
    import importlib.metadata  # here and not above: `import zoo` does not pay for it
    import importlib.util

    entries = [(e.name, e.dist.name if e.dist else "?", e.value) for e in importlib.metadata.entry_points(group=GROUP)]
    for name, distribution, value in sorted(entries):
        package = value.partition(":")[0].strip()
        root, *inner = package.split(".")
        try:
            spec = importlib.util.find_spec(root)  # of a top-level package: nothing is run
        except (ImportError, ValueError):
            spec = None
        folders = [Path(place, *inner) for place in (spec and spec.submodule_search_locations) or ()]
        folder = next((f for f in folders if (f / "facts.py").is_file()), None)
        if folder is None:
            _leave_out(name, f"{package} (distribution {distribution})", "no such package with a facts.py is installed")
        else:
            yield Family(name, package, folder, folder / "checkpoints", folder / "recipes", distribution)


def _read(family: Family) -> Facts:
    """What a family's facts.py states, and the records of its own weights, in the order of its archs."""
    module = importlib.import_module(f"{family.package}.facts") if family.ours else _run_alone(family)
    order = {arch: place for place, arch in enumerate(module.ARCHS)}
    own = [w for w in shipped(family.checkpoints) if w.arch in order or not family.ours]  # the house's share a folder
    own.sort(key=lambda w: (order.get(w.arch, len(order)), w.tag))
    others = tuple(getattr(module, "WEIGHTS", ()))
    if twice := {w.name for w in own} & {w.name for w in others}:
        raise ValueError(f"{min(twice)} is recorded twice: by its config.json and in facts.py, where it is to go")
    return Facts(
        dict(module.ARCHS),
        module.TITLE,
        module.PAPER,
        (*own, *others),
        getattr(module, "STARTS", {}),
        dict(getattr(module, "PUBLIC", {})),
        getattr(module, "PICTURE", None),
        getattr(module, "REFERENCE", None),
    )


def _run_alone(family: Family) -> ModuleType:
    """The facts.py of another distribution without its package, which may import torch, or be broken."""
    from importlib.machinery import SourceFileLoader

    loader = SourceFileLoader(f"{family.package}.facts", str(family.folder / "facts.py"))
    module = ModuleType(loader.name)
    loader.exec_module(module)
    return module


def _refuse_clashes(
    family: Family, facts: Facts, known: Mapping[str, tuple[Family, Facts]], owners: Mapping[str, object]
) -> None:
    """Raise where a family has a name that is taken, or weights of an arch that it does not have."""
    if family.name in known:
        raise ValueError(f"the family {family.name} belongs to {known[family.name][0]}")
    for name in (*facts.archs, *facts.classes):
        if name in owners:
            raise ValueError(f"the name {name} belongs to {owners[name]}")
    for weights in facts.weights:
        if weights.arch not in facts.archs:
            raise ValueError(f"its weights {weights.name} are of no arch that it has")


def _said(error: BaseException) -> str:
    """An error in one line."""
    kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
    return kind + " ".join(str(error).split())


def _leave_out(name: str, place: object, reason: str) -> None:
    import logging

    logging.getLogger("zoo").warning("zoo: family %s of %s is left out: %s", name, place, reason)


def forget() -> None:
    """Look again, the next time something is asked for: records have changed."""
    for known in (shipped, families, _known, archs, records, public):
        known.cache_clear()


def facts(family: str) -> Facts:
    """What is known of a family without its network: sizes, weights, papers."""
    return _known()[family][1]


@cache
def archs() -> MappingProxyType[str, str]:
    """arch -> family."""
    return MappingProxyType({arch: family for family, (_, facts) in _known().items() for arch in facts.archs})


@cache
def records() -> MappingProxyType[str, Weights]:
    """arch.tag -> record."""
    return MappingProxyType({w.name: w for _, facts in _known().values() for w in facts.weights})


@cache
def public() -> MappingProxyType[str, str]:
    """Public name of `zoo` -> the module that holds it: the house's table, and the classes that families list."""
    classes = {
        name: f"{family.package}.{facts.public[name]}" for family, facts in _known().values() for name in facts.classes
    }
    return MappingProxyType(classes | PUBLIC)


def lazily(package: str) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """`__all__`, `__getattr__` and `__dir__` of a family's package: its PUBLIC names, imported when first asked for."""
    names = importlib.import_module(f"{package}.facts").PUBLIC

    def __getattr__(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}{suggest(name, names)}")
        return getattr(importlib.import_module(f"{package}.{names[name]}"), name)

    return list(names), __getattr__, lambda: list(names)


def home(arch: str) -> Family:
    """Where the family of an arch lives; errors as `family_of`'s."""
    return families()[family_of(arch)]


def family_of(arch: str) -> str:
    """The family an arch belongs to.

    Raises:
        ValueError: there is no such arch; the message names the nearest ones.
    """
    if arch not in archs():
        raise ValueError(f"no arch {arch!r}{suggest(arch, archs())}; `zoo ls --all` lists them")
    return archs()[arch]


def summary(arch: str) -> str:
    """One line about an arch: what goes in and comes out, how large it is."""
    return facts(family_of(arch)).archs[arch]


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
        raise ValueError(f"no weights for {arch}; train some with a recipe, `zoo info {arch}` names those there are")
    problem = f"{arch} has no weights {tag!r}" if dot else f"{name!r} names an arch, not weights"
    raise ValueError(f"{problem}; it has {', '.join(f'{arch}.{t}' for t in tags)}")


def reference() -> str:
    """Weights that ship, in whose features `zoo eval` compares pictures: those that a family of the house names."""
    return next(facts.reference for family, facts in _known().values() if family.ours and facts.reference)


def suggest(word: str, options: Any) -> str:
    """`, did you mean a or b?`: the nearest of the options, or nothing."""
    import difflib  # here and not above: `import zoo` and `zoo ls` seldom need it

    near = difflib.get_close_matches(word, list(options), n=3, cutoff=0.5)
    return f", did you mean {' or '.join(near)}?" if near else ""
