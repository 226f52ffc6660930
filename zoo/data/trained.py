"""How many of the pictures that a run is evaluated on it was trained on: compared by what is in them, not by name."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from zoo.data.clips import ClipData
from zoo.data.images import ImageData
from zoo.data.pictures import decode
from zoo.recipe import newest_run

MOST = 4e9  # bytes of parquet, which is read as a whole; of a folder only files of the same size are opened
ABOUT = ("source", "folder")  # what a DataModule reads, of its keys
READERS: dict[str, Any] = {
    f"{place}.{kind.__name__}": kind for kind in (ImageData, ClipData) for place in ("zoo", kind.__module__)
}


def noted(data: Any) -> dict[str, str | None]:
    """What a run notes of its data as it begins, so that they are known again.

    Returns:
        {"at": the source as an absolute path, None where it is no place of this machine; "train": a digest of which
        files are trained on, None of what cannot be listed}.
    """
    return {"at": _absolute(next(filter(None, map(data.hparams.get, ABOUT)), None)), "train": _listing(data)}


def changed(place: Path, data: Any, drawn: bool = True) -> str:
    """Why it is not known any more which samples a run was trained on; "" where it is.

    Args:
        place: of the run, as `run_of`'s.
        data: its DataModule, made again.
        drawn: ask only about a source of which the run held out a share, which is drawn anew from what is there now.
    """
    run = run_of(place)
    began = _begun(run).get("train") if run is not None else None
    if began is None or (drawn and set(data.roles()) != {"train"}):
        return ""
    if began == _listing(data):
        return ""
    return f"{data.hparams.source} holds other samples than when {run} began, so what it was trained on is not known"


def placed(run: Path, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a run's DataModule with its source where it lay, whatever the directory is now."""
    at = _begun(run).get("at")
    key = next((key for key in ABOUT if key in given), None)
    return {**given, key: at} if at and key and _absolute(given[key]) != at else given


def _begun(run: Path) -> dict[str, Any]:
    try:
        said = json.loads((run / "environment.json").read_text(encoding="utf-8"))["data"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # of an earlier version, or damaged, which is said elsewhere
    return said if isinstance(said, dict) else {}


def _absolute(source: Any) -> str | None:
    """A place of this machine by its whole path, "sprites:FOLDER" among them; None of what is none."""
    if not isinstance(source, str):
        return None
    kind, colon, place = source.partition(":")
    for before, path in (("", source), (kind + colon, place)):
        if path and (full := Path(path).expanduser()).exists():
            return before + os.path.abspath(full)
    return None


def _listing(data: Any) -> str | None:
    """A digest of the names of training files, or of the number of what are no files."""
    if not isinstance(data, ImageData | ClipData) or getattr(data, "given", None):
        return None
    try:
        items = data.encoded("train")
    except (OSError, ValueError):
        return None  # a stream, or clips that are made
    digest = hashlib.blake2b(f"{len(items)}".encode(), digest_size=16)
    for item in items if len(items) and isinstance(items[0], Path) else ():
        digest.update(os.fsencode(f"\0{os.path.relpath(item, data.hparams.source)}"))
    return digest.hexdigest()


def trained_on(name: str, source: Any, split: str = "test", **reading: Any) -> dict[str, Any]:
    """How many samples of a source's test split a run was trained on, and of how many; nothing of what is no run.

    Encoded files are compared byte by byte, arrays by their pixels: a picture that was saved again counts as another
    one. What the run held out was not trained on.

    Args:
        name: a run's directory, a recipe's, or a checkpoint of it, as `zoo.load` takes them.
        source: as ImageData's or ClipData's, or a DataModule of either.
        split: of it, as its `encoded` takes it.
        reading: ImageData's keywords that say how it is read.

    Returns:
        {"trained_on": 3, "pictures": 100}, of clips "videos"; where that costs too much, None, and `notes` say why.
    """
    run = run_of(Path(name))
    if run is None:
        return {}
    try:
        recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))["data"]
        kind, given = READERS.get(recipe["class_path"]), placed(run, dict(recipe["init_args"]))
        if kind is None:
            return _unknown(f"what {recipe['class_path']} reads is not compared")
        theirs, own = str(given["source"]), isinstance(source, ImageData | ClipData)
        named = str(source.hparams.source) if own else source
        if theirs.startswith("shards:") or (theirs != named and _costly(theirs)):
            return _unknown(f"{theirs} is not read again for this")
        if given.get("bad") == "skip":
            share = (kind.older | given)["val_fraction"]
            if share or share is None or given.get("limit"):
                return _unknown(f"what of {theirs} is damaged is not looked for again")
            given["bad"] = "refuse"  # or each file would be decoded, and what was left out is not evaluated either
        if why := changed(run, kind(**{**kind.older, **given}), drawn=False):
            return _unknown(why)
        shown = (source if own else kind(source, **reading)).encoded(split)
        known = _same(kind(**{**kind.older, **given}).encoded("train"), shown)
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        return _unknown(" ".join(str(error).split()))
    return {"trained_on": known, "pictures" if kind is ImageData else "videos": len(shown)}


def _unknown(why: str) -> dict[str, Any]:
    return {"trained_on": None, "notes": {"trained_on": f"unknown: {why}"}}


def run_of(path: Path) -> Path | None:
    """The directory of the run that a place which `zoo.load` takes belongs to; None where it is no run's."""
    run = newest_run(path)
    return run if run is not None and (run / "recipe.yaml").is_file() else None


def _costly(source: str) -> bool:
    """Whether a source may have to be fetched, or is more than is read by the way."""
    folder = Path(source).expanduser()
    if source.startswith("samples/"):
        return False
    if folder.is_file():
        return folder.stat().st_size > MOST
    return not folder.is_dir() or sum(file.stat().st_size for file in folder.rglob("*.parquet")) > MOST


def _same(trained: Sequence[Any], shown: Sequence[Any]) -> int:
    """How many of the samples that are shown were trained on."""
    if any(isinstance(some[0], np.ndarray) for some in (trained, shown) if len(some)):
        pixels = {_digest(decode(item, 3, "")) for item in trained}
        return sum(_digest(decode(item, 3, "")) in pixels for item in shown)
    sizes = {_size(item) for item in shown}
    known = {_digest(_read(item)) for item in trained if _size(item) in sizes}  # most files need not be opened
    return sum(_digest(_read(item)) in known for item in shown)


def _size(item: Any) -> int:
    return item.stat().st_size if isinstance(item, Path) else len(item)


def _read(item: Any) -> bytes:
    return item.read_bytes() if isinstance(item, Path) else item


def _digest(content: bytes | np.ndarray) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    if isinstance(content, np.ndarray):
        digest.update(repr(content.shape).encode())
        content = content.tobytes()
    digest.update(content)
    return digest.digest()
