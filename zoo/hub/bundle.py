"""Bundles: what a machine without a network needs to load some weights, in a folder that `$ZOO_CACHE` names.

A bundle holds the publishers' files as they came, under `weights/`, a lock file with the hash of each, and under
`checkpoints/` those folders of our own that ship with another distribution than this one.
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
from zoo.hub.fetch import Came, packed_at
from zoo.hub.files import again, hash_file
from zoo.hub.places import embedded_folder, is_place
from zoo.nn.frozen import Frozen
from zoo.registry import BUNDLED, Weights


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


def apart(shipped: Iterable[Weights]) -> list[Weights]:
    """Those of weights that ship which a machine lacks that has this distribution alone."""
    return [record for record in shipped if record.distribution == registry.MORE]


def pack(came: Iterable[Came], shipped: Iterable[Weights], folder: Path) -> list[Came]:
    """Copy what was fetched and weights that ship into a folder, each file once, the lock file last.

    Raises:
        ValueError: a file changed while it was copied.
    """
    packed = {one.file.address: one for one in came}
    for record in shipped:
        source, target = embedded_folder(record), folder / BUNDLED / record.name
        shutil.copytree(source, target)
        if hash_file(target / record.file) != record.sha256:
            raise ValueError(f"{source / record.file} is not what the record of {record.name} says; {again(source)}")
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
    if more := sorted(names - {lock.FILE, f"{lock.FILE}.lock", "weights", BUNDLED}):
        return f"it holds {more[0]}, which is not of a bundle"
    try:
        pins = lock.read(folder / lock.FILE)
    except ValueError as error:
        return str(error)
    if BUNDLED not in names and not any(pin.packed for pin in pins.values()):
        return f"its {lock.FILE} is no bundle's"
    files = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.suffix != ".part"}
    ours = {packed_at(address) for address in pins} | {Path(lock.FILE), Path(f"{lock.FILE}.lock")}
    shipped = {Path(BUNDLED, record.name) for record in registry.records().values() if record.embedded}
    others = sorted(file.as_posix() for file in files - ours if file.parent not in shipped)
    return f"it holds {others[0]}, which is not of a bundle" if others else None
