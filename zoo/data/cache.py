"""Decoded images that stay on the disk: one copy of a source in a geometry, filled as far as it was read.

A copy is a folder `images/KEY` of $ZOO_CACHE: `pixels`, N samples of uint8 in the source's own order, with holes where
none were read; `filled`, a byte for each; `about.json`, which is written last and makes it a copy. Which samples a run
takes, in which order, is an index into it. A process fills under a lock, the bytes before the marks; all others read.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from zoo.hub.files import write_aside
from zoo.redact import redact
from zoo.registry import cache_folder

FORMAT = "latentzoo pixels 1"
ABOUT, PIXELS, FILLED = "about.json", "pixels", "filled"
OLDER = re.compile(r"[0-9a-f]{24}(\.npy|\.\d+\.part)")  # whole files, one of each seed, split and limit
MOVE = "set ZOO_CACHE to a folder that can be"  # what helps where the cache cannot be written
CHUNK = 64e6  # bytes that are made before they are marked


@contextlib.contextmanager
def writing(place: Path, cure: str = MOVE) -> Iterator[None]:
    """Whatever keeps a cache from being written, as an OSError that says where it is and what moves it."""
    try:
        yield
    except (OSError, NotImplementedError) as error:
        raise unwritable(place, error, cure) from error


def unwritable(place: Path, error: Exception, cure: str = MOVE) -> OSError:
    """What to say of a cache that cannot be written."""
    reason = getattr(error, "strerror", None) or error
    return OSError(f"the cache {place} cannot be written: {reason}; {cure}, or make room there")


def filled(
    key: str, shape: tuple[int, ...], rows: np.ndarray, make: Callable[[int], np.ndarray], about: dict[str, Any]
) -> np.memmap:
    """A copy (N, …) in which at least `rows` are filled; what is written to the array stays in this process.

    One that is larger than the memory cannot be written to.

    Args:
        make: of a row's number, its samples (…) uint8; called in threads, for rows that nobody has read before.
        about: what `zoo cache ls` says of it.

    Raises:
        OSError: the cache cannot be written, or the disk has too little room.
    """
    place = cache_folder() / "images" / key
    with contextlib.suppress(FileNotFoundError):  # not there, or being removed
        if not _missing(place, rows).size:
            return mapped(place, shape)
    with _locked(place), contextlib.ExitStack() as stack:
        with writing(place):
            _begin(place, shape, about)
            pixels, marks = (stack.enter_context(open(place / name, "r+b")) for name in (PIXELS, FILLED))
        missing, size = _missing(place, rows), math.prod(shape[1:])
        free = shutil.disk_usage(place).free
        if missing.size * size > free:
            raise OSError(
                f"{missing.size * size / 1e9:.3g} GB of decoded images do not fit in the {free / 1e9:.3g} GB that are "
                f"free in {place.parent}; set ZOO_CACHE to a folder with room, `zoo cache prune`, or data.cache to none"
            )
        pool = stack.enter_context(ThreadPoolExecutor(os.cpu_count()))
        for some in np.array_split(missing, math.ceil(missing.size * size / CHUNK) or 1):
            made = list(pool.map(make, some.tolist()))
            with writing(place):
                for row, sample in zip(some.tolist(), made):
                    pixels.seek(row * size)
                    pixels.write(np.ascontiguousarray(sample).data)
                pixels.flush()
                os.fsync(pixels.fileno())  # a mark must not outlive its bytes
                for row in some.tolist():
                    marks.seek(row)
                    marks.write(b"\1")
                marks.flush()
        return mapped(place, shape)


def remembered(kind: str, keys: Sequence[str], make: Callable[[int], str]) -> list[str]:
    """What `make` says of each key, which is asked once on this machine, by one of its processes.

    Args:
        kind: of what is said; another kind is another file.
        make: of the place of a key; called in threads.

    Raises:
        OSError: the cache cannot be written.
    """
    place = cache_folder() / "found" / f"{hashlib.blake2b(kind.encode(), digest_size=12).hexdigest()}.json"
    with _locked(place):
        known: dict[str, str] = {}
        with contextlib.suppress(FileNotFoundError, ValueError):  # not there, or cut off: then it is found again
            known = json.loads(place.read_text(encoding="utf-8"))
        missing = [i for i, key in enumerate(keys) if key not in known]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in range(0, len(missing), 1000):  # so much is lost where a run is stopped
                some = missing[start : start + 1000]
                known |= zip((keys[i] for i in some), pool.map(make, some))
                with writing(place), write_aside(place.parent) as aside:
                    aside(place.name).write_text(json.dumps(known), encoding="utf-8")  # names that are no UTF-8 too
    return [known[key] for key in keys]


def _begin(place: Path, shape: tuple[int, ...], about: dict[str, Any]) -> None:
    if (place / ABOUT).is_file() and (place / PIXELS).is_file():
        return
    place.mkdir(exist_ok=True)
    for name, size in ((FILLED, shape[0]), (PIXELS, math.prod(shape))):  # no mark without pixels at any time
        with open(place / name, "wb") as file:
            file.truncate(size)
    text = json.dumps({"format": FORMAT, "shape": shape, **about}, ensure_ascii=False)
    (place / f"{ABOUT}.part").write_text(redact(text), encoding="utf-8")
    os.replace(place / f"{ABOUT}.part", place / ABOUT)


def _missing(place: Path, rows: np.ndarray) -> np.ndarray:
    """Those of the rows that nobody has read, rising."""
    if not (place / ABOUT).is_file():
        raise FileNotFoundError(place)
    marks = np.fromfile(place / FILLED, np.uint8)
    rows = np.unique(rows)
    return rows[marks[rows] == 0]


def mapped(place: Path, shape: tuple[int, ...]) -> np.memmap:
    """What `filled` gave, mapped anew."""
    try:
        try:
            out = np.memmap(place / PIXELS, np.uint8, "c", shape=shape)  # copy on write: torch wants a writable array
        except FileNotFoundError:
            raise
        except OSError:  # which has to fit into memory as a whole, as if all of it would be written to
            out = np.memmap(place / PIXELS, np.uint8, "r", shape=shape)
    except ValueError as error:
        raise ValueError(f"{place} is damaged ({error}); remove that folder, and it is made again") from error
    with contextlib.suppress(OSError):  # of somebody else
        os.utime(place / ABOUT)  # when it was last used
    return out


@contextlib.contextmanager
def _locked(place: Path) -> Iterator[None]:
    """While one process of the machine fills a place; its folder is made."""
    with writing(place.parent):
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(_lock(place)).acquire()
    with lock:
        yield


def _lock(place: Path) -> Path:
    return place.with_name(f"{place.name}.lock")


# Keeping house


@dataclass(frozen=True)
class Copy:
    """What lies in the cache: a copy, one that was never finished, or a file of an older version."""

    path: Path
    source: str
    geometry: str
    filled: str  # "100 of 60000"
    bytes: int  # on the disk
    used: float  # seconds since 1970


def copies() -> list[Copy]:
    """All copies, those that were used last first."""
    place = cache_folder() / "images"
    found = [_copy(path) for path in place.iterdir()] if place.is_dir() else []
    return sorted((copy for copy in found if copy), key=lambda copy: -copy.used)


def _copy(path: Path) -> Copy | None:
    """What a path of the cache is; None of what the zoo did not put there."""
    try:
        if path.is_file() and OLDER.fullmatch(path.name):
            return Copy(path, "written by an older version, not read any more", "", "", _size(path), _used(path))
        if not path.is_dir() or not re.fullmatch("[0-9a-f]{24}", path.name):
            return None
        if not (path / ABOUT).is_file():
            known = {ABOUT, f"{ABOUT}.part", PIXELS, FILLED}
            ours = {p.name for p in path.iterdir()} <= known
            return Copy(path, "never finished", "", "", _size(path), _used(path)) if ours else None
        about = json.loads((path / ABOUT).read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            return None
        marks = np.fromfile(path / FILLED, np.uint8)
        some = f"{int(marks.sum())} of {len(marks)}"
        return Copy(path, about["source"], about["geometry"], some, _size(path), _used(path / ABOUT))
    except (OSError, ValueError, KeyError, TypeError):  # gone meanwhile, or nothing of ours
        return None


def _size(path: Path) -> int:
    """Bytes on the disk, where holes take none."""
    stats = [p.stat() for p in ([path] if path.is_file() else path.iterdir())]
    return sum(getattr(s, "st_blocks", -(-s.st_size // 512)) * 512 for s in stats)


def _used(path: Path) -> float:
    return max(path.stat().st_mtime, path.stat().st_atime) if OLDER.fullmatch(path.name) else path.stat().st_mtime


def prune(
    days: float | None = None, size: float | None = None, everything: bool = False
) -> tuple[list[Copy], list[Copy]]:
    """Remove copies, and say which, and which should have gone but are in use.

    A run that reads one keeps it until it ends, but for workers that are spawned later; on Windows it is left.

    Args:
        days: those that were not used for so long.
        size: the ones used longest ago, until the others take no more bytes than this.
        everything: all of them.
    """
    removed: list[Copy] = []
    kept: list[Copy] = []
    total = 0
    for copy in copies():
        total += copy.bytes
        stale = days is not None and time.time() - copy.used > days * 86400
        if everything or stale or (size is not None and total > size):
            (removed if _remove(copy.path) else kept).append(copy)
            total -= copy.bytes
    return removed, kept


def _remove(path: Path) -> bool:
    try:
        if path.is_file():
            path.unlink()
            path.parent.with_name(f"{path.name.partition('.')[0]}.lock").unlink(missing_ok=True)
            return True
        with FileLock(_lock(path), timeout=0):
            # The first is what Windows keeps of a copy that is read, whole then; without it, it is no copy.
            for name in (PIXELS, ABOUT, f"{ABOUT}.part", FILLED):
                (path / name).unlink(missing_ok=True)
            path.rmdir()
        return True
    except (Timeout, PermissionError):
        return False
