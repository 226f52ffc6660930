"""Where images come from: folders, files, lists and tables of them, torchvision's sets, the samples that ship here.

Each reader gives the splits as undecoded items, labels and class names; `zoo.data.pictures` turns an item into pixels.
Libraries are imported by the reader that needs them.
"""

import sys
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache as cache_results
from pathlib import Path
from typing import Any, cast

import numpy as np

from zoo.data import cache, lists, repository, tables
from zoo.data.folders import SPLITS, read_folder
from zoo.data.pictures import is_grey, opened, suffixes
from zoo.data.seeds import held_out
from zoo.registry import cache_folder, suggest

SAMPLES = Path(__file__).parent / "samples"
ALL = "all"  # the name, beside the splits', of every sample of a source
TENTH = 0.1  # of a training set, held out where the source has neither validation nor test
STAND_IN = {"val": "test", "test": "val"}
STAGES: dict[str | None, tuple[str, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": (),  # every picture, read when it is asked for
}


@dataclass
class Items:
    """One split: arrays, encoded bytes or paths; labels (N,) int64, all -1 where it has none; where it was read.

    The class names are those of all splits of a source together; none where no split has labels. Without `ids`, each is
    named by where it lies in the source. Of what `take` gives, `native` is the split as its source has it, `index` the
    place there of each.
    """

    images: Sequence[Any] | np.ndarray
    labels: np.ndarray
    classes: list[str]
    source: str
    ids: Sequence[str] | None = None
    index: np.ndarray | None = None
    whole: "Items | None" = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def native(self) -> "Items":
        return self.whole or self

    @property
    def labelled(self) -> bool:
        """Whether the pictures have classes: all do, or none."""
        return bool((self.labels >= 0).any())

    @property
    def names(self) -> Sequence[str]:
        """What each is called: its path in the source with "/", of a table the row's path or "row 5", else "test/17".

        A folder's are made when they are asked for: a million of them take seconds.
        """
        if self.ids is not None:
            return self.ids
        root = Path(self.source)
        return [p.relative_to(root).as_posix() if isinstance(p, Path) else str(i) for i, p in enumerate(self.images)]

    def take(self, index: np.ndarray) -> "Items":
        native = index if self.index is None else self.index[index]
        images: Any
        if isinstance(self.images, list | np.ndarray):
            images = [self.images[i] for i in index]
        else:  # a Dataset, which makes each sample when it is asked for
            from torch.utils.data import Subset

            images = Subset(cast(Any, self.images), index.tolist())
        ids = None if self.ids is None else [self.ids[i] for i in index]
        return Items(images, self.labels[index], self.classes, self.source, ids, native, self.native)


def together(splits: Mapping[str, Items]) -> Items:
    """All pictures of all splits, training first; an only split as it is."""
    parts = [splits[role] for role in SPLITS if role in splits]
    if len(parts) == 1:
        return parts[0]
    from torch.utils.data import ConcatDataset

    images: Any = ConcatDataset([cast(Any, part.images) for part in parts])  # looks into the splits, copies nothing
    labels = np.concatenate([part.labels for part in parts])
    first = parts[0]
    return Items(images, labels, first.classes, first.source, [name for part in parts for name in part.names])


def read(
    source: str | Path | Sequence[str | Path],
    image_column: str | None = None,
    label_column: str | None = None,
    every_class: bool = False,
) -> dict[str, Items]:
    """The splits of a source by role, `train`, `val`, `test`, as far as it has them.

    Args:
        source: a folder, a picture or several, a list of them (CSV, TSV, JSONL), a parquet file, "samples/NAME",
            "torchvision:NAME" or "torchvision:NAME:ROOT", or a Hub id "org/name", which a configuration may follow,
            "org/name:CONFIG", or a revision, "org/name@REVISION".
        image_column, label_column: of a table, where there are several; a label_column "" reads without labels, of a
            folder all pictures in it at any depth.
        every_class: as `read_folder`'s: what is asked about is read whole, what is trained on without the classes that
            training lacks.

    Raises:
        ValueError: unknown set or column, columns of what has none, an empty folder or table, a row without a picture
            or with a label that is none, a file that is none of these, a folder among several pictures.
        FileNotFoundError: no such folder or file, or no picture where a row says.
        ConnectionError: a download without a network.
        OSError: a cache that cannot be written.
    """

    def table(parts: dict[str, list[tables.Part]], in_folders: bool = False) -> dict[str, Items]:
        splits, classes = tables.read(parts, name, image_column, label_column, in_folders)
        return {role: Items(images, labels, classes, name, ids) for role, (images, labels, ids) in splits.items()}

    if not isinstance(source, str | Path):
        if len(source) != 1:
            no_columns(described(source), image_column, label_column)
            return _pictures(source)
        source = source[0]
    name = str(source)
    if name.startswith("torchvision:"):
        no_columns(name, image_column, label_column)
        sets = _torchvision(name)
        none = {role: np.full(len(items), tables.NONE) for role, items in sets.items()}
        return sets if label_column != "" else {r: replace(s, labels=none[r], classes=[]) for r, s in sets.items()}
    if name.startswith("samples/"):
        names = sorted(p.parent.name for p in SAMPLES.glob("*/data"))
        if name.removeprefix("samples/") not in names:
            raise ValueError(f"no shipped images {name!r}; there are {', '.join(f'samples/{n}' for n in names)}")
        path = SAMPLES / name.removeprefix("samples/")
        return table(tables.local(path, tables.find(path)))
    path = Path(name).expanduser()
    if path.is_dir():
        files = tables.find(path)
        parts = tables.local(path, files) if files else {}
        if parts and (image_column or not tables.beside(path, parts)):
            return table(parts)
        listed = lists.of_folder(path)
        if listed:
            return table(listed)
        no_columns(name, image_column, label_column)
        return _folder(path, label_column != "", every_class)
    kind = path.suffix.lower()
    if path.is_file() and kind == ".parquet":
        return table(tables.local(path.parent, {tables.split_of(path.name) or "train": [path]}))
    if path.is_file() and kind in lists.SUFFIXES:
        return table(lists.parts(path))
    if path.is_file():
        no_columns(name, image_column, label_column)
        return _pictures([path])
    found = None if name.startswith((".", "~")) else repository.named(name)
    if found is None or kind in (".parquet", *lists.SUFFIXES, *suffixes()):
        raise FileNotFoundError(
            f"no {'file' if kind else 'folder'} {name}; give a folder of class folders or of parquet files, pictures, "
            "a CSV or JSONL that lists them, a Hub id org/name, torchvision:NAME or samples/mnist"
        )
    return table(*repository.parts(name, found))


def no_columns(source: str, image_column: str | None, label_column: str | None) -> None:
    """Refuse columns of what is no table; a label_column "" names none.

    Raises:
        ValueError: one is named.
    """
    given = [f"{k}={v!r}" for k, v in (("image_column", image_column), ("label_column", label_column)) if v]
    if given:
        raise ValueError(f"{source} is no table and has no columns; leave {' and '.join(given)} out")


def described(source: str | Path | Sequence[str | Path]) -> str:
    """A source in a few words, for messages and for what is written down."""
    if isinstance(source, str | Path):
        return str(source)
    return str(source[0]) if len(source) == 1 else f"{len(source)} files"


def _pictures(files: Sequence[str | Path]) -> dict[str, Items]:
    """Files of pictures without labels, which are all training."""
    if not files:
        raise ValueError("no picture is given; give a folder, or files")
    paths = [Path(file).expanduser() for file in files]
    for path in paths:
        if path.is_dir():
            raise ValueError(f"{path} is a folder, expected a picture; give that folder alone, or the files in it")
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}; give pictures that are there, or a folder of them")
        if path.suffix.lower() not in suffixes():
            raise ValueError(
                f"{path} is no picture; expected one with a suffix that Pillow knows, .jpg, .png, …, or alone a "
                f"parquet file or a list of pictures, {', '.join(lists.SUFFIXES)}"
            )
    names = [paths[0].name] if len(paths) == 1 else [path.as_posix() for path in paths]
    none = np.full(len(paths), tables.NONE)
    return {"train": Items(paths, none, [], described(files), names)}


def natural_channels(items: Items) -> int:
    """1 if all of 64 images, taken evenly, are grey; one colour picture among grey ones must not lose its colour."""
    for i in range(0, len(items), -(-len(items) // 64)):
        with opened(items.images[i], items.source) as image:
            if not is_grey(image):
                return 3
    return 1


def hold_out(labels: np.ndarray, share: float | None, seed: int, stratify: bool, said: str) -> tuple[Any, Any] | None:
    """Indices of what is trained on and of what is held out for validation, which is said once; None where nothing is.

    Args:
        labels: (N,) of the training set.
        share: None is TENTH, and no less than one of each class that has two, where a set of one is left as it is.
        said: what is drawn from, "pictures of FOLDER".
    """
    if share == 0 or (share is None and len(labels) < 2):
        return None
    kept, held = held_out(labels, TENTH if share is None else share, seed, stratify, every=share is None)
    classes, both = set(labels.tolist()) - {tables.NONE}, set(labels[kept].tolist()) & set(labels[held].tolist())
    sides = f", {len(both - {tables.NONE})} of {len(classes)} classes on both sides" if classes else ""
    _say(f"{len(held)} of {len(labels)} {said} are held out for validation, drawn with seed {seed}{sides}")
    return kept, held


@cache_results
def _say(line: str) -> None:
    """A line on stderr, once, by the first of several processes."""
    from lightning.pytorch.utilities import rank_zero_only

    rank_zero_only(print)(line, file=sys.stderr, flush=True)


def serving(labelled: Mapping[str, bool], source: str, needed: Collection[str]) -> dict[str, str]:
    """Role → the split that serves as it, from whether each split has labels; a stand-in for labels is said."""
    served = {role: role for role in labelled}
    for role, other in STAND_IN.items():
        split = stand_in(labelled, role)
        if split == other and (role not in labelled or role in needed):
            served[role] = other
            if role in labelled:
                warnings.warn(f"{role} of {source} has no labels; {other} serves as {role}", stacklevel=3)
    return served


def stand_in(labelled: Mapping[str, bool], role: str) -> str | None:
    """The split that serves as a role, from whether each split has labels; None where none does.

    Validation and test stand in for one another where a source has but one of them, or where one alone has labels: what
    has none is no test.
    """
    other = STAND_IN.get(role, role)
    if other in labelled and (role not in labelled or labelled[other] > labelled[role]):
        return other
    return role if role in labelled else None


def serves(data: Any, role: str) -> str:
    """The split of its source that a DataModule gives as a role, "val" where there is no test set of its own."""
    served: str = getattr(data, "served", {}).get(role, role)
    return served


def lacking(source: str, split: str, there: Collection[str]) -> ValueError:
    """What to say where a source has not the split that is asked for, and none that serves as it."""
    share = "" if split == "train" else ", or hold out a share of a recipe's training with data.val_fraction"
    return ValueError(
        f"{source} has no {split} split, only {', '.join(there)}; add one, of a folder as {split}/ in it{share}"
    )


def _torchvision(source: str) -> dict[str, Items]:
    import torchvision

    name, _, root = source.removeprefix("torchvision:").partition(":")
    sets = {"MNIST", "FashionMNIST", "KMNIST", "QMNIST", "CIFAR10", "CIFAR100", "SVHN", "STL10"}
    if name not in sets:
        raise ValueError(f"no torchvision set {name!r}{suggest(name, sets)}; allowed {', '.join(sorted(sets))}")
    cure = f"give torchvision:{name}:FOLDER with one that can be" if root else cache.MOVE
    root = root or str(cache_folder() / "torchvision")
    with cache.writing(Path(root), cure):
        Path(root).mkdir(parents=True, exist_ok=True)
    made = getattr(torchvision.datasets, name)
    by_split = name in ("SVHN", "STL10")
    out = {}
    for role in ("train", "test"):
        try:
            data = made(root, **({"split": role} if by_split else {"train": role == "train"}), download=True)
        except PermissionError as error:
            raise cache.unwritable(Path(root), error, cure) from error
        except (OSError, RuntimeError) as error:
            raise ConnectionError(
                f"{source} is not in {root} and could not be downloaded ({error}); connect once, or give a folder"
            ) from error
        images = np.asarray(data.data)
        if by_split:
            images = images.transpose(0, 2, 3, 1)  # these two come as (N, C, H, W)
        labels = np.asarray(data.targets if hasattr(data, "targets") else data.labels, dtype=np.int64)
        labels = labels[:, 0] if labels.ndim == 2 else labels  # QMNIST's are followed by who wrote the digit, and more
        classes = getattr(data, "classes", None) or [str(c) for c in range(int(labels.max()) + 1)]
        out[role] = Items(images, labels, list(classes), source, [f"{role}/{i}" for i in range(len(labels))])
    return out


def _folder(root: Path, labelled: bool, every_class: bool) -> dict[str, Items]:
    expected = "{0}/CLASS/*.png, {0}/*.png without classes, or parquet files"
    splits, classes = read_folder(root, suffixes(), "images", expected, labelled, every_class)
    return {
        role: Items(files, np.asarray(labels, dtype=np.int64), classes, str(root))
        for role, (files, labels) in splits.items()
    }
