"""A data set's classes and a model's, compared by name. A label is a number, and says nothing of whose number it is.

D classes of the data · M classes of the model
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo import registry
from zoo.hub.files import read_json
from zoo.nn.protocols import Classifies, Network, Samples

WNID = re.compile(r"n\d{8}")  # a synset of WordNet, as ImageNet's folders are called
SHOWN = 6  # names in a message
Targets = Mapping[str, str | int]  # a data set's class → the model's, by name or number


class Matched(NamedTuple):
    """Which of the model's classes each class of the data is."""

    order: tuple[int, ...]  # D numbers below M
    said: str  # "10 of 10 classes by name"

    def labels(self, y: Tensor) -> Tensor:
        """The data's labels (B,) as the model's; what is negative has no class and stays."""
        if self.order == tuple(range(len(self.order))):
            return y
        order = torch.tensor(self.order, device=y.device)  # (D,)
        return torch.where(y < 0, y, order[y.clamp(min=0)])  # (B,)


def count_classes(model: Network) -> int:
    """How many classes a model tells apart, or draws by; 0 where it knows none."""
    if isinstance(model, Classifies):
        return model.head.out_features
    return model.num_classes if isinstance(model, Samples) else 0


def names_of(model: Network) -> list[str]:
    """The names of a model's classes, none where it remembers none.

    Raises:
        ValueError: as many names as there are not classes.
    """
    names = list(model.zoo_config.get("classes") or ())
    if names and len(names) != count_classes(model):
        raise ValueError(
            f"{model.zoo_config['arch']} has {count_classes(model)} classes and the names of {len(names)}; mend "
            "classes in its config.json"
        )
    return names


def compare(
    model: Network, given: Sequence[str], class_map: Targets | str | Path | None = None, by_number: bool = False
) -> Matched:
    """Find each class of the data among the model's, by name. Data that lacks some of the model's classes will do.

    Args:
        given: names of the data's classes, in the order of its labels.
        class_map: which of the model's classes those are that go by another name: a mapping, a JSON file of one, or
            "zero=0,one=1"; a target is a name or a number of the model's.
        by_number: take class i of the data for class i of the model, whatever they are called; of data whose classes
            are all called by numbers, as folders and lists do, i is that number.

    Raises:
        ValueError: a model without names, or a class of the data that it does not have.
    """
    count, known = count_classes(model), names_of(model)
    arch = model.zoo_config["arch"]
    if by_number and class_map is not None:
        raise ValueError("--by-number and --class-map exclude one another; give one of them")
    if by_number:
        if len(given) > count:
            raise ValueError(f"the data has {len(given)} classes, {_some(given)}; {arch} has {count}")
        # A list or a folder has its numbers as names: 3 and 5 are classes 3 and 5, not the first two.
        written = bool(given) and all(name.isdecimal() for name in given)
        numbers = [int(name) for name in given] if written else [*range(count)]
        if beyond := [number for number in numbers if number >= count]:
            raise ValueError(f"the data has the classes {_some(beyond)}; {arch} has 0 to {count - 1}")
        return Matched(tuple(numbers), f"{len(given) or count} classes by number, no names compared")
    if not known and class_map is None:
        raise ValueError(
            f"{arch} has no names of its {count} classes, so those of the data, {_some(given)}, cannot be found among "
            "them; say which is which with --class-map NAME=NUMBER,…, or take them in their order with --by-number"
        )
    if not given:
        raise ValueError(f"the data has no names of its classes, {arch} has {_some(known)}; give --by-number")
    return match(known or count, given, read_map(class_map))


def match(known: Sequence[str] | int, given: Sequence[str], targets: Targets | None = None, mend: str = "") -> Matched:
    """Which of the known classes each given one is: by what `targets` says, else by name, synonym or wnid.

    Names are compared as they are, then without case, spaces, "_" and "-", numbers as numbers. "tench, Tinca tinca" is
    called either; of ImageNet's synsets a wnid is as good as a name. A name that fits two classes fits none.

    Args:
        known: the model's names, or how many classes it has where they have none.
        mend: what to do about a class that is not known, where no class map can be given.

    Raises:
        ValueError: a given class is not known, or two are the same.
    """
    count, names = (known, []) if isinstance(known, int) else (len(known), list(known))
    told = {} if targets is None else _told(targets, names, count, given)
    pairs = names if len(told) == len(given) else [*names, *given]
    wnids = _wnids() if any(map(WNID.fullmatch, pairs)) else {}
    index = [_index(names, level, wnids) for level in range(3)]
    order = [told.get(name, _find(name, index, wnids)) for name in given]
    unknown = [name for name, place in zip(given, order) if place is None]
    if unknown:
        example = ",".join(f"{name}=CLASS" for name in unknown[:2])
        numbers = ", or take them in their order with --by-number" if all(map(str.isdigit, given)) else ""
        mend = mend or (
            f"say which they are with --class-map {example},… or a JSON file, by the model's names or numbers{numbers}"
        )
        has = _some(names) if names else f"0 to {count - 1}"
        said = f"{len(unknown)} of the data's {len(given)} classes, {_some(unknown)}, are none of the model's, {has}"
        raise ValueError(f"{said}; {mend}")
    found = [place for place in order if place is not None]
    for i, (name, place) in enumerate(zip(given, found)):
        other = given[found.index(place)]
        if found.index(place) < i and not {name, other} <= told.keys():
            raise ValueError(
                f"{other!r} and {name!r} of the data are both {names[place]!r} of the model; if that is meant, say so "
                f"with --class-map {other}={place},{name}={place}"
            )
    by_wnid = all(map(WNID.fullmatch, given)) and not any(map(WNID.fullmatch, names))
    way = "the class map" if len(told) == len(given) else "wnid" if by_wnid else "name"
    some = f", {len(told)} of them by the class map" if 0 < len(told) < len(given) else ""
    missing = count - len(set(found))
    lacks = f"; the data lacks {missing} of the model's {count}" if missing else ""
    return Matched(tuple(found), f"{len(given)} of {len(given)} classes matched by {way}{some}{lacks}")


def read_map(given: Targets | str | Path | None) -> Targets | None:
    """A class map as a mapping: of a mapping itself, of a JSON file, of "zero=0,one=1".

    Raises:
        ValueError: it is none.
        FileNotFoundError: no such file.
    """
    if given is None or isinstance(given, Mapping):
        return given
    text = str(given)
    pairs = [part.rpartition("=") for part in text.split(",")]
    if text.endswith(".json") or not all(equals for _, equals, _ in pairs):
        if not Path(text).is_file():
            raise FileNotFoundError(f"no class map {text}; give a JSON file, or NAME=CLASS,NAME=CLASS")
        read = read_json(Path(text))
        if not isinstance(read, dict) or not all(isinstance(v, str | int) for v in read.values()):
            raise ValueError(f'{text} is no class map; expected a JSON object such as {{"zero": "0"}}')
        return read
    return {name.strip(): target.strip() for name, _, target in pairs}


def find(name: str, names: Sequence[str]) -> int | None:
    """The place of a class among names, as `match` compares them; None where none is it, or several are."""
    wnids = _wnids() if WNID.fullmatch(name) else {}
    return _find(name, [_index(names, level, wnids) for level in range(3)], wnids)


def relabelled(
    batches: Iterable[tuple[Tensor, Tensor]], matched: Matched, source: str, needed: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches whose labels (B,) are the model's; errors as `check_labels`'."""
    for x, y in batches:
        check_labels(y, len(matched.order), source, needed)
        yield x, matched.labels(y)


def check_labels(
    labels: Tensor, count: int, source: str, needed: bool = True, mend: str = "give some that have"
) -> None:
    """See that labels (N,) are classes of the data.

    Args:
        needed: -1, no label, will not do.
        mend: what to do where there are none.

    Raises:
        ValueError: one is no whole number from 0 to below `count`.
    """
    if labels.ndim != 1 or labels.is_floating_point():
        raise ValueError(f"{source} has labels {tuple(labels.shape)} {labels.dtype}; expected a class of each sample")
    wrong = ((labels < (0 if needed else -1)) | (labels >= count)).nonzero()  # (bad, 1)
    if needed and len(labels) and int(labels.max()) < 0:
        raise ValueError(f"the samples of {source} have no labels, which this model needs; {mend}")
    if len(wrong):
        first = int(wrong[0])
        raise ValueError(
            f"sample {first} of {source} has the label {int(labels[first])}, allowed 0 to {count - 1}; mend the data"
        )


def _told(targets: Targets, names: list[str], count: int, given: Sequence[str]) -> dict[str, int]:
    """Class of the data → number of the model's, as far as a class map says so."""
    told = {}
    for name, target in targets.items():
        mine = find(name, given)
        if mine is None:
            raise ValueError(f"the class map says what {name!r} is, which the data has not: it has {_some(given)}")
        place = find(str(target), names)
        if place is None and str(target).isdigit() and int(target) < count:
            place = int(target)
        if place is None:
            has = f"{_some(names)}, or " if names else ""
            raise ValueError(f"the class map takes {name!r} for {target!r}; the model has {has}0 to {count - 1}")
        told[given[mine]] = place
    return told


def _wnids() -> dict[str, str]:
    """ImageNet's wnid → name, and name → wnid."""
    listed = registry.class_list("imagenet1k")
    return dict(zip((*listed.wnids, *listed.names), (*listed.names, *listed.wnids)))


def _index(names: Sequence[str], level: int, wnids: Mapping[str, str]) -> dict[str, set[int]]:
    index: dict[str, set[int]] = {}
    for i, name in enumerate(names):
        for key in _keys(name, level, wnids):
            index.setdefault(key, set()).add(i)
    return index


def _find(name: str, index: Sequence[Mapping[str, set[int]]], wnids: Mapping[str, str]) -> int | None:
    for level, places in enumerate(index):
        found = set().union(*(places.get(key, ()) for key in _keys(name, level, wnids)))
        if found:
            return found.pop() if len(found) == 1 else None
    return None


def _keys(name: str, level: int, wnids: Mapping[str, str]) -> set[str]:
    """What a class is called: 0 its name and its wnid, 1 each of its synonyms too, 2 all of these loosely."""
    called = {name, wnids.get(name, name)}
    if level == 0:
        return called
    parts = {part for whole in called for part in re.split(r",\s+", whole)}
    numbered = re.fullmatch(r"(\d+)\s+-\s+(.+)", name)  # torchvision's "0 - zero"
    called |= parts | set(numbered.groups() if numbered else ())
    return called if level == 1 else {_loosely(key) for key in called}


def _loosely(name: str) -> str:
    """'Golden_Retriever' as 'goldenretriever', '07' as '7'."""
    return str(int(name)) if re.fullmatch(r"\d+", name) else re.sub(r"[\s_\-\[\]]+", "", name).casefold()


def _some(names: Sequence[Any]) -> str:
    """Names for a message: the first few, and how many there are."""
    more = f", … ({len(names)})" if len(names) > SHOWN else ""
    return ", ".join(str(name).partition(",")[0] for name in names[:SHOWN]) + more
