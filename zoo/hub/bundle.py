"""Bundles: what a machine without a network needs to load some weights, in a folder that `$ZOO_CACHE` names.

A bundle holds the publishers' files as they came, under `weights/`, and a lock file with the hash of each.
"""

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from zoo import registry
from zoo.hub import lock
from zoo.hub.doors import load
from zoo.hub.fetch import Came
from zoo.hub.files import again, hash_file
from zoo.hub.places import is_place
from zoo.nn.frozen import Frozen


def load_whole(name: str) -> None:
    """Load weights and every network that they need besides, as first use would.

    Raises:
        ValueError: one of these lies at a place that no record pins.
    """
    _thaw(name, load(name, mmap=True))


def _thaw(name: str, model: nn.Module) -> None:
    for frozen in _frozen(model):
        if frozen.network is None and frozen.name not in registry.records() and is_place(frozen.name):
            raise ValueError(f"{name} needs its {frozen.kind} {frozen.name}, which no record pins; give it a record")
        network = frozen()
        if isinstance(network, nn.Module):
            _thaw(name, network)


def _frozen(model: nn.Module) -> Iterator[Frozen[Any]]:
    for module in model.modules():
        yield from (value for value in vars(module).values() if isinstance(value, Frozen))


def pack(came: Iterable[Came], folder: Path) -> list[Came]:
    """Copy what was fetched into a folder, each file once, the lock file last.

    Raises:
        ValueError: a file changed while it was copied.
    """
    packed = {one.file.address: one for one in came}
    for one in packed.values():
        target = folder / one.file.packed
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(one.path, target)
        if hash_file(target) != one.pin.sha256:
            raise ValueError(f"{one.path} of {one.owner} changed while it was copied; {again(one.path)}")
    lock.write(folder / lock.FILE, {address: replace(one.pin, packed=True) for address, one in packed.items()})
    return list(packed.values())


def foreign(folder: Path) -> str | None:
    """Why a folder may not be replaced by a bundle: it is none, or holds more."""
    names = {path.name for path in folder.iterdir() if path.suffix != ".part"}  # which a killed one has left
    if more := sorted(names - {lock.FILE, f"{lock.FILE}.lock", "weights"}):
        return f"it holds {more[0]}, which is not of a bundle"
    try:
        pins = lock.read(folder / lock.FILE)
    except ValueError as error:
        return str(error)
    return None if any(pin.packed for pin in pins.values()) else f"its {lock.FILE} is no bundle's"
