"""Folders of files by split and class, as people have them: `train/CLASS/*`, `CLASS/*`, or files without classes.

Links are followed. What is left out is said in one warning, with counts: hidden and system files, other kinds of file,
classes without files, and, of what is trained on, classes that training lacks.
"""

import os
import warnings
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from zoo.data.pictures import HEIF, WANTS_HEIF

# The words that name a split, of folders, files and columns; of two, the first is taken.
SPLITS = {
    "train": ("train", "training"),
    "val": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
SYSTEM = {  # of macOS, Synology, QNAP, Windows and Linux, beside all that begins with a dot
    "__macosx",
    "@eadir",
    "#recycle",
    "@recycle",
    "$recycle.bin",
    "system volume information",
    "lost+found",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
}
NAMED = 5  # names of a list in a message, at most

Labelled = tuple[list[Path], list[int]]  # files and their classes, -1 where they have none


@dataclass
class Left:
    """What a folder holds besides the files that are read."""

    hidden: int = 0
    dangling: int = 0
    beside: int = 0  # files beside class folders
    loose: int = 0  # files beside the folders of splits
    outside: list[str] = field(default_factory=list)  # folders beside those
    kinds: Counter[str] = field(default_factory=Counter)  # suffix → other files
    empty: list[str] = field(default_factory=list)
    strange: dict[str, int] = field(default_factory=dict)  # class that training lacks → its files

    def said(self, what: str) -> str:
        """In words, "hidden files (3), empty classes (1: train/dog)"; "" where it is nothing."""
        others = {s: n for s, n in self.kinds.items() if s and s not in HEIF}
        heif = sum(n for s, n in self.kinds.items() if s in HEIF)
        parts = (
            (self.strange, f"classes that training lacks ({len(self.strange)}: {_names(self.strange)})"),
            (self.empty, f"empty classes ({len(self.empty)}: {_names(self.empty)})"),
            (self.outside, f"folders beside the splits' ({len(self.outside)}: {_names(self.outside)})"),
            (self.loose, f"{what} beside the splits' folders ({self.loose})"),
            (self.beside, f"{what} beside the class folders ({self.beside})"),
            (heif, f"{'/'.join(HEIF)} ({heif}), which needs {WANTS_HEIF}"),
            (self.hidden, f"hidden files and folders ({self.hidden})"),
            (self.dangling, f"links to nothing ({self.dangling})"),
            (self.kinds[""], f"files without suffix ({self.kinds['']})"),
            (others, f"other kinds of file ({sum(others.values())}: {_names(others)})"),
        )
        return ", ".join(words for there, words in parts if there)


def read_folder(
    root: Path,
    suffixes: Collection[str],
    what: str,
    expected: str,
    labelled: bool = True,
    every_class: bool = False,
) -> tuple[dict[str, Labelled], list[str]]:
    """The files and classes of each split, and the names of the classes: those of training, else of the first split.

    Args:
        suffixes: of the files, in lower case.
        what: they are, "images", for messages.
        expected: how they may lie, for messages.
        labelled: False takes all files of a split, at any depth, and no folder for a class.
        every_class: keep the classes that training lacks, whose names and numbers come after its own. A model is not
            trained for them, but can be asked about their files.

    Raises:
        ValueError: a split without files, or with none of training's classes; a link to a folder that it lies in.
    """
    left = Left()
    folders = {p.name.lower(): p for p in sorted(root.iterdir()) if p.is_dir() and not is_hidden(p.name)}
    roots = {role: next((folders[n] for n in names if n in folders), root) for role, names in SPLITS.items()}
    roots = {role: folder for role, folder in roots.items() if folder != root}
    if "train" not in roots and len(roots) < len(folders):  # a class may be called test
        roots = {}
    if not roots and len(folders) == 1 and _holds_splits(only := next(iter(folders.values()))):  # as archives unpack
        return read_folder(only, suffixes, what, expected, labelled, every_class)
    if roots:
        left.outside = [f.name for f in folders.values() if f not in roots.values()]
        left.loose = sum(p.is_file() and p.suffix.lower() in suffixes and not is_hidden(p.name) for p in root.iterdir())
    roots = roots or {"train": root}
    found: dict[str, tuple[dict[str, list[Path]], list[Path]]]
    if labelled:
        found = {role: _split(folder, suffixes, left) for role, folder in roots.items()}
    else:
        found = {role: ({}, sorted(files_under(folder, suffixes, left))) for role, folder in roots.items()}
    first = next((role for role, (classes, _) in found.items() if classes), "")
    names = in_order(found[first][0]) if first else []
    if every_class:
        names += in_order({name for classes, _ in found.values() for name in classes} - {*names})
    splits: dict[str, Labelled] = {}
    for role, (classes, loose) in found.items():
        if classes and not classes.keys() & {*names}:
            raise ValueError(
                f"{roots[role]} has the classes {_names(sorted(classes))}, none of those of {roots[first]}, "
                f"{_names(names)}; give both folders the same classes, or take {roots[role]} away"
            )
        left.strange |= {f"{role}/{name}": len(files) for name, files in classes.items() if name not in names}
        files = [(file, label) for label, name in enumerate(names) for file in classes.get(name, ())]
        files = files or [(file, -1) for file in loose]
        if not files:
            but = f", only {left.said(what)}" if left.said(what) else ""
            raise ValueError(f"{roots[role]} holds no {what}{but}; expected {expected.format(roots[role])}")
        splits[role] = [file for file, _ in files], [label for _, label in files]
    if left.said(what):
        warnings.warn(f"{root} is read without {left.said(what)}", stacklevel=2)
    return splits, names


def is_hidden(name: str) -> bool:
    """Whether a file or folder belongs to a system or a tool, and not to the data."""
    return name.startswith(".") or name.lower() in SYSTEM


def files_under(
    folder: Path, suffixes: Collection[str], left: Left, above: frozenset[tuple[int, int]] = frozenset()
) -> list[Path]:
    """The files at any depth that have one of the suffixes, in no order; the others are counted.

    Raises:
        ValueError: a link to a folder that it lies in.
    """
    here = _identity(folder)
    if here in above:
        raise ValueError(
            f"{folder} is a link to {folder.resolve()}, in which it lies, and so without end; point it elsewhere, or "
            "give a folder without it"
        )
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_hidden(entry.name):
                left.hidden += 1
            elif entry.is_dir():
                found += files_under(Path(entry.path), suffixes, left, above | {here})
            elif not entry.is_file():
                left.dangling += 1
            elif (suffix := os.path.splitext(entry.name)[1].lower()) in suffixes:
                found.append(Path(entry.path))
            else:
                left.kinds[suffix] += 1
    return found


def in_order(names: Iterable[str]) -> list[str]:
    """Names in the order that numbers classes: as numbers where all of them are, else as text."""
    names = list(names)
    if all(name.isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def _split(folder: Path, suffixes: Collection[str], left: Left) -> tuple[dict[str, list[Path]], list[Path]]:
    """The files of each class of a split's folder; where there is no class, the files in it."""
    classes: dict[str, list[Path]] = {}
    loose, kinds = [], Counter[str]()
    for path in sorted(folder.iterdir()):
        if is_hidden(path.name):
            left.hidden += 1
        elif path.is_dir():
            classes[path.name] = sorted(files_under(path, suffixes, left, frozenset({_identity(folder)})))
        elif not path.is_file():
            left.dangling += 1
        elif path.suffix.lower() in suffixes:
            loose.append(path)
        else:
            kinds[path.suffix.lower()] += 1
    full = {name: files for name, files in classes.items() if files}
    left.empty += [f"{folder.name}/{name}" for name in classes if name not in full]
    if not full:
        left.kinds += kinds  # beside class folders they are lists and licences
        return full, loose
    left.beside += len(loose)
    return full, []


def _holds_splits(folder: Path) -> bool:
    """Whether all that a folder holds are folders of splits, one of them training."""
    names = {p.name.lower() for p in folder.iterdir() if not is_hidden(p.name)}
    return bool(names & {*SPLITS["train"]}) and names <= {name for some in SPLITS.values() for name in some}


def _identity(folder: Path) -> tuple[int, int]:
    about = folder.stat()
    return about.st_dev, about.st_ino


def _names(things: Collection[str] | dict[str, int]) -> str:
    some = [f"{name} {things[name]}" if isinstance(things, dict) else name for name in [*things][:NAMED]]
    return ", ".join(some) + (", …" if len(things) > NAMED else "")
