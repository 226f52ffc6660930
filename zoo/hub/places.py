"""Where weights lie: a record, a folder, the Hugging Face Hub, a publisher's server, a run. Each opens as a Source."""

import os
import warnings
from collections.abc import Callable
from dataclasses import fields
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo import registry
from zoo.hub.fetch import Published, download, fetch, note_shipped
from zoo.hub.files import (
    CONFIG,
    check_arch,
    check_made,
    plain_tensors,
    read_checkpoint,
    read_config,
    read_tensors,
)
from zoo.hub.foreign import read_state, translate
from zoo.hub.make import TORCHS, Source
from zoo.recipe import newest_run
from zoo.registry import Weights, cache_folder


def is_place(name: str) -> bool:
    return name.startswith("hf://") or os.sep in name or "/" in name or name.endswith(".ckpt") or Path(name).is_dir()


def full_name(arch: str, weights: str) -> str:
    """What `weights` means beside an arch; a tag wins over a folder of the same name beside the user."""
    if f"{arch}.{weights}" in registry.records():
        return f"{arch}.{weights}"
    named = weights.partition(".")[0] in registry.archs()
    return weights if is_place(weights) or named else f"{arch}.{weights}"


def open_source(name: str, mmap: bool | None = None) -> Source:
    """The checkpoint of a name or place; `mmap` and errors as `zoo.load`'s."""
    path = Path(name)
    if name in registry.records() or not is_place(name):
        return _open_record(registry.weights_info(name), mmap)
    run = newest_run(path)
    if path.suffix == ".ckpt" or run is not None:
        return _open_lightning(path if run is None or path.suffix == ".ckpt" else _pick_checkpoint(run), bool(mmap))
    folder, fetch = hub_folder(name) if name.startswith("hf://") else (path, None)
    config = read_config(folder)
    expected = config["weights"]
    place = folder / expected["file"]

    def read() -> dict[str, Tensor]:
        file = fetch(expected["file"]) if fetch else place
        return read_tensors(file, expected["sha256"], expected["size"], mmap)

    return Source(config, place, read)


def _open_record(record: Weights, mmap: bool | None) -> Source:
    _say_terms(record.name)
    if record.embedded:
        file = embedded_folder(record) / record.file
        return Source(_shipped_config(record), file, lambda: read_tensors(file, record.sha256, record.size, mmap))
    config = {"arch": record.arch, "args": record.args, "classes": list(record.classes), "name": record.name}
    return Source(config, Path(record.name), lambda: _fetch(record, mmap))


def published(record: Weights) -> list[Published]:
    """The files of weights that are published elsewhere: `file`, and `extra_file` where there is one."""
    if record.url:
        return [Published(record.file, url=record.url)]
    return [Published(file, record.repo or "", record.revision) for file in (record.file, record.extra_file) if file]


def _shipped_config(record: Weights) -> dict[str, Any]:
    """The config.json of weights that ship, which says of them what their record says.

    Raises:
        ValueError: it says something else, so one of the two was edited.
    """
    folder = embedded_folder(record)
    config = read_config(folder)
    told = registry.record_of(config)
    if told != record:
        other = [f.name for f in fields(record) if getattr(told, f.name, None) != getattr(record, f.name)]
        raise ValueError(
            f"{folder / CONFIG} has another {', '.join(other)} than the record of {record.name}: it was edited, or is "
            f"of another version of {record.distribution}. Install that again, or, where the edit is meant, write "
            f"{registry.INDEX} again: python -m zoo.hub"
        )
    own = {"arch": record.arch, "args": record.args, "name": record.name, "golden": list(record.golden)}
    return config | own


def _fetch(record: Weights, mmap: bool | None) -> dict[str, Tensor]:
    """The tensors of weights that are published elsewhere, under the names of this zoo."""
    main, *others = published(record)
    file = fetch(main, record.name, record.sha256, record.md5)
    state = read_state(file, mmap)
    if not record.foreign:
        return plain_tensors(state, file)
    more = read_state(fetch(others[0], record.name)) if others else None
    return translate(state, record.arch, record.args, file, more=more).state


def _open_lightning(file: Path, mmap: bool) -> Source:
    checkpoint = read_checkpoint(file, mmap)
    if not isinstance(checkpoint, dict) or not {"zoo", "state_dict"} <= checkpoint.keys():
        raise ValueError(f"{file} was not written by a LightningModule of this zoo; `zoo convert` reads foreign files")
    try:
        check_made(checkpoint["zoo"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} does not say how its model is made ({error}); train it again") from error
    check_arch(checkpoint["zoo"], file)
    if "kept" in checkpoint:  # by a training that keeps its best weights beside the last ones
        kept = plain_tensors(checkpoint["kept"], file)
        return Source(checkpoint["zoo"], file, lambda: {TORCHS.sub("", k): v for k, v in kept.items()})
    tensors = plain_tensors(checkpoint["state_dict"], file)
    averaged = "average.module."  # a moving average is what was evaluated
    prefix = averaged if any(k.startswith(averaged) for k in tensors) else "model."
    state = {TORCHS.sub("", k.removeprefix(prefix)): v for k, v in tensors.items() if k.startswith(prefix)}
    return Source(checkpoint["zoo"], file, lambda: state)


def embedded_folder(record: Weights) -> Path:
    """Where weights that ship lie: in the distribution that brings them, or in a bundle.

    Raises:
        FileNotFoundError: that one is not installed, lacks them, or lacks a file of them.
    """
    note_shipped(record)
    folder, again = record.folder, f"pip install --force-reinstall --no-deps {record.distribution}"
    if folder is not None:
        if lacks := [file for file in (CONFIG, record.file) if not (folder / file).is_file()]:
            raise FileNotFoundError(
                f"{folder / lacks[0]} is not there; get it again: {again}, or copy the bundle whole"
            )
        return folder
    ships = f"{record.name} ships with {record.distribution}"
    carried = f", or copy a bundle with it, whole, to {cache_folder()}" if os.environ.get("ZOO_CACHE") else ""
    try:
        other = metadata.version(record.distribution)
    except metadata.PackageNotFoundError:
        get = f"pip install {record.distribution}"
        raise FileNotFoundError(f"{ships}, which is not installed: {get}{carried}") from None
    raise FileNotFoundError(f"{ships}, and version {other} of it, which is installed, lacks it: {again}{carried}")


@cache
def _say_terms(name: str) -> None:
    """Once per process, for weights that are not free to use."""
    record = registry.weights_info(name)
    if not record.permissive:
        warnings.warn(f"{record.name} is under {record.licence}; data: {record.data_terms}", stacklevel=4)


def hub_folder(name: str) -> tuple[Path, Callable[[str], Path]]:
    """The folder of a repository's config.json in the cache, and how to fetch its other files at the same commit."""
    repo, _, revision = name.removeprefix("hf://").partition("@")
    if repo.count("/") != 1 or not all(repo.split("/")):
        raise ValueError(f"{name!r} is not hf://org/name or hf://org/name@revision")
    if revision and not all(part.strip(".") for part in revision.replace("\\", "/").split("/")):
        raise ValueError(f"{name!r} has no revision {revision!r}; give a branch, a tag or a commit")
    config = download(repo, CONFIG, revision or None)
    return config.parent, lambda file: download(repo, file, config.parent.name)


def _pick_checkpoint(run: Path) -> Path:
    """The best checkpoint of a run, else its last."""
    files = sorted((run / "checkpoints").glob("best*.ckpt")) or sorted((run / "checkpoints").glob("last*.ckpt"))
    if not files:
        raise FileNotFoundError(
            f"{run}/checkpoints holds neither best*.ckpt nor last.ckpt, the run saved nothing yet; begin it again: "
            f"zoo fit --resume {run}"
        )
    return files[-1]
