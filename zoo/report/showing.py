"""What `zoo show MODEL SOURCE…` draws a model on: some pictures of each source, with their names and classes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from zoo.data.lists import SUFFIXES
from zoo.data.pixels import Pixels, readable
from zoo.data.readers import Items, read, stand_in, together
from zoo.data.trained import changed, run_of
from zoo.data.transforms import of_input
from zoo.nn.protocols import Input, Network
from zoo.report.inputs import KINDS, opened, seen, settle, shown_split, subject
from zoo.report.runs import datamodule

SHOWN = {"image": 8, "clip": 4, "latent": 8, "activation": 8}  # samples of a source, at most
FILES = 32  # files that are named one by one, of all together
TABLES = (".parquet", ".npz", ".h5", *SUFFIXES)  # files that hold many samples


Sample = tuple[str, Tensor, str | None]  # name, (…), name of its class


class Given(NamedTuple):
    """Samples that a model is shown."""

    samples: Tensor  # (B, …)
    names: list[str]
    truths: list[str | None]  # names of their classes, None where they have none
    said: str  # where they come from, in a sentence for the caption; "" of files, whose names stand there


def given(model: Network, sources: Sequence[str | Path], reading: Mapping[str, Any] | None = None) -> Given:
    """Files as they are given, and of each other source up to eight samples (clips: four), evenly over it.

    Args:
        sources: files, and whatever `zoo eval` takes: folders, lists and tables, Hub ids, torchvision:NAME, …
        reading: of images, ImageData's keywords that say how a source is read.

    Raises:
        ValueError: a source that cannot be read, or a damaged file, which is named.
        FileNotFoundError: no such file or folder.
    """
    about = subject(model)
    how = settle(about, reading)
    files = [source for source in sources if _is_file(source, about)]
    left = {files[i] for i in evenly(len(files), FILES)}
    parts: list[Sample] = []
    said = [f"{len(left)} of {len(files)} files, evenly over them"] if len(left) < len(files) else []
    ranged = seen(model) | {key: how[key] for key in ("value_range",) if key in how}
    for source in sources:
        if not _is_file(source, about):
            some, count, what = _some_of(model, str(source), about, how)
            parts += some
            said.append(f"{len(some)} of {count} {what}, evenly over them" if len(some) < count else f"all {what}")
        elif source in left:
            path = Path(source).expanduser()
            parts.append((path.name, KINDS[about.kind].file(path, about, **ranged), None))
    return _stacked(parts, said)


def own(model: Network, name: str) -> Given | None:
    """Up to eight validation samples (clips: four) of a run, evenly over them; None of what is no run.

    Raises:
        ValueError: its data cannot be made again, or has no samples that the model takes.
    """
    run = run_of(Path(name))
    about = subject(model)
    data = None if run is None else datamodule(run, about)
    if run is None or data is None:
        return None
    if why := changed(run, data):
        raise ValueError(f"{why}; give a source")
    data.prepare_data()
    data.setup("validate")
    some, count = _validation(data, SHOWN[about.kind])
    shape = tuple(some[0][1].shape)
    if shape != about.shape:
        raise ValueError(f"the data of {run} are {shape}, this model takes {about.shape}; give a source")
    of = f" of the run's {count}" if count else ""
    return _stacked(some, [f"{len(some)}{of} validation samples" + (", evenly over them" if count else " of the run")])


def evenly(count: int, most: int) -> list[int]:
    """At most so many of `count` places, evenly over them, the first and the last among them."""
    return [round(i) for i in np.linspace(0, count - 1, min(count, most))]


def _is_file(source: str | Path, about: Input) -> bool:
    """Whether a source is one sample, or is named as one that is not there."""
    path = Path(source).expanduser()
    if about.kind == "image":
        return path.is_file() and path.suffix.lower() not in TABLES
    return path.is_file() or (bool(path.suffix) and ":" not in str(source) and not path.is_dir())


def _stacked(parts: list[Sample], said: list[str]) -> Given:
    names, samples, truths = zip(*parts, strict=True)
    sentence = "; ".join(said)
    return Given(torch.stack(samples), list(names), list(truths), f"Shown: {sentence}." if said else "")


def _some_of(model: Network, source: str, about: Input, how: Mapping[str, Any]) -> tuple[list[Sample], int, str]:
    """Name, sample and class of some samples of a source, how many there are, and of what."""
    if about.kind == "image" and not _by_module(source):
        return _pictures(source, about, {**seen(model), **how})
    if about.kind == "clip" and Path(source).expanduser().is_dir():
        return _videos(Path(source).expanduser(), about, how.get("bad") == "skip")
    data = opened(model, source, how)
    some, count = _first(data, shown_split(data), KINDS[about.kind].batch_size, SHOWN[about.kind])
    return some, count, f"samples of the first batch of {source}"


def _by_module(source: str) -> bool:
    """Whether a source of images is read by a DataModule alone."""
    return source == "rendered" or source.startswith(("class:", "shards:")) or source.endswith((".npz", ".h5"))


def _pictures(source: str, about: Input, how: Mapping[str, Any]) -> tuple[list[Sample], int, str]:
    columns = {key: how[key] for key in ("image_column", "label_column") if key in how}
    splits = read(source, **columns, every_class=True)
    role = stand_in({role: items.labelled for role, items in splits.items()}, "test")
    items = together(splits) if role is None else splits[role]
    if how.get("bad") == "skip":
        items = readable(items, how.get("value_range"))
    transform = of_input(about, how.get("crop_pct", 1.0), how.get("value_range"))
    places = evenly(len(items), SHOWN["image"])
    some = [
        (name, transform(items.images[i]), _called(items.classes, int(items.labels[i])))
        for i, name in zip(places, _names(items, places))
    ]
    return some, len(items), f"pictures of {source}" + ("" if role is None else f" ({role})")


def _videos(folder: Path, about: Input, skip: bool) -> tuple[list[Sample], int, str]:
    from zoo.data.clips import find_videos, readable

    splits, classes = find_videos(folder, every_class=True)
    role = next((role for role in ("test", "val") if role in splits), next(iter(splits)))
    paths, labels = readable(*splits[role], frames=about.shape[0]) if skip else splits[role]
    cut = of_input(about)
    some = [(paths[i].name, cut(paths[i]), _called(classes, labels[i])) for i in evenly(len(paths), SHOWN["clip"])]
    return some, len(paths), f"videos of {folder}" + ("" if len(splits) == 1 else f" ({role})")


def _validation(data: Any, most: int) -> tuple[list[Sample], int]:
    """Samples of a DataModule's validation split, and how many there are; 0 where only the first batch is looked at."""
    pixels, labels = getattr(data, "splits", {}).get("val", (None, None))
    if isinstance(pixels, Pixels):
        places = evenly(len(labels), most)
        x, _ = data.on_after_batch_transfer((torch.stack([pixels[i] for i in places]), labels[places], None), 0)
        called = [_called(data.classes, int(labels[i])) for i in places]
        return list(zip(_names(pixels.items, places), x, called)), len(labels)
    return _first(data, "val", 64, most)[0], 0


def _first(data: Any, split: str, batch_size: int, most: int) -> tuple[list[Sample], int]:
    """Samples of a split's first batch, evenly over it, and how many that holds."""
    if hasattr(data, "in_order"):
        loader = data.in_order(split, batch_size)
    else:
        loader = data.val_dataloader() if split == "val" else data.test_dataloader()
    batch = data.on_after_batch_transfer(next(iter(loader)), 0)
    x, y = batch if isinstance(batch, tuple | list) else (batch, torch.full((len(batch),), -1))
    classes = getattr(data, "classes", []) if y.ndim == 1 else []  # else labels are numbers of factors
    return [(str(i + 1), x[i], _called(classes, y[i])) for i in evenly(len(x), most)], len(x)


def _names(items: Items, places: Sequence[int]) -> list[str]:
    """What pictures are called, without their folders, but for the last one where others have the same name."""
    parts = [items.names[i].split("/") for i in places]
    names = [part[-1] for part in parts]
    return names if len(set(names)) == len(names) else ["/".join(part[-2:]) for part in parts]


def _called(classes: Sequence[str], label: int | Tensor) -> str | None:
    return classes[int(label)] if 0 <= label < len(classes) else None
