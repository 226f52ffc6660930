"""The lock file: what a publisher's file held when it was first loaded.

A file whose sha256 its record does not state is pinned by the one that came first: by its sha256, and on the Hub by the
commit, which later loads ask for. Pins are kept in `$ZOO_LOCK`, else in lock.json of the zoo's cache. They name
addresses and no place of this machine, so that a lock serves every machine.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from zoo.hub.files import read_json, write_aside
from zoo.registry import cache_folder

FORMAT = "latentzoo lock 1"
FILE = "lock.json"


@dataclass(frozen=True)
class Pin:
    """What an address held."""

    sha256: str
    size: int  # bytes
    commit: str = ""  # of the Hub's repository
    packed: bool = False  # the file lies beside the lock, in a bundle

    def __post_init__(self) -> None:
        wrong = [k for k in ("sha256", "commit") if not isinstance(getattr(self, k), str)]
        if wrong or type(self.size) is not int or self.size < 0 or type(self.packed) is not bool:
            raise ValueError("a value is of the wrong type")
        if not re.fullmatch("[0-9a-f]{64}", self.sha256) or not re.fullmatch("([0-9a-f]{40})?", self.commit):
            raise ValueError("a hash is none")


def current() -> Path:
    """The lock file that new pins go to."""
    return Path(os.environ["ZOO_LOCK"]).expanduser() if os.environ.get("ZOO_LOCK") else cached()


def cached() -> Path:
    """The lock file of the cache, or of the bundle that is in its place."""
    return cache_folder() / FILE


def find(address: str, first: Path | None = None) -> tuple[Pin, Path] | None:
    """The pin of an address and the lock file that has it; the cache's comes after `first`, by default `current`."""
    for path in dict.fromkeys((first or current(), cached())):
        if pin := read(path).get(address):
            return pin, path
    return None


def bundle(address: str, first: Path | None = None) -> Path | None:
    """The bundle that holds the file of an address; None where none does."""
    paths = dict.fromkeys((first or current(), cached()))
    return next((path.parent for path in paths if (pin := read(path).get(address)) and pin.packed), None)


def read(path: Path) -> dict[str, Pin]:
    """The pins of a lock file by address; none where there is no file.

    Raises:
        ValueError: it is damaged, or no lock file.
    """
    if not path.exists():
        return {}
    try:
        held = read_json(path)
        if held["format"] != FORMAT:
            raise ValueError(f"its format is {held['format']!r}, this version reads {FORMAT!r}")
        return {address: Pin(**pin) for address, pin in held["pins"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        said = f"no {error}" if isinstance(error, LookupError) else error
        raise ValueError(
            f"{path} is damaged, or no lock file of the zoo ({said}); put back the one that was there, or remove it: "
            f"zoo lock NAMES -o {path} makes one"
        ) from error


def write(path: Path, pins: Mapping[str, Pin]) -> None:
    """A lock file, a line for each pin: lines of two branches merge."""
    rows = {address: {k: v for k, v in asdict(pin).items() if v or k == "size"} for address, pin in pins.items()}
    lines = ",\n".join(f"  {json.dumps(address)}: {json.dumps(rows[address])}" for address in sorted(rows))
    text = f'{{\n "format": {json.dumps(FORMAT)},\n "pins": {{\n{lines}\n }}\n}}\n'
    with write_aside(path.parent) as aside:
        aside(path.name).write_text(text, encoding="utf-8")


def keep(path: Path, address: str, pin: Pin, update: bool = False) -> tuple[Pin, Pin | None]:
    """Add a pin to a lock file, which other processes may be doing too.

    Args:
        update: in place of the one that is there.

    Returns:
        The pin that stands there now, another process may have been first; and the one that stood there before.

    Raises:
        ValueError: the file is damaged, or no lock file.
        OSError: it cannot be written.
    """
    path = path.resolve()  # a link stays one
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f"{path.name}.lock")):
        pins = read(path)
        before = pins.get(address)
        if before is not None and not update:
            return before, before
        write(path, pins | {address: pin})
        return pin, before
