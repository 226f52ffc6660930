"""All samples of a source in one order, read once: what `zoo predict`, `embed`, `codes`, `latents` run a model over.

Nothing is cached, shuffled or kept: a few batches are in memory at a time. N samples of a source · B of a batch
"""

import os
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from zoo.data import clips, readers
from zoo.data.images import Encoded
from zoo.data.latents import LatentData
from zoo.data.pictures import reason, suffixes
from zoo.data.progress import Progress
from zoo.data.shards import Streamed, find, join
from zoo.data.transforms import transform, unit
from zoo.data.writing import text
from zoo.nn.protocols import Network
from zoo.redact import redact

AHEAD = 2  # batches that are being decoded while one is computed
BATCH = {"image": 64, "clip": 8}  # samples of a batch where nobody says
NAMED = 5  # samples that are left out and named, at most
ROLES = ("train", "val", "test")


@dataclass(frozen=True)
class Listing:
    """All samples of a source, or of one of its splits, in one order, unread.

    Args:
        names: N of them, relative to the source, unique but where a list names one file again; of several sources, as
            they were given, with what is in them.
        labels: (N,) numbers of classes, -1 where there is none; without values where labels come with a stream.
        classes: their names.
        source: as it was given; a list where there were several.
        read: the place of a sample → uint8 pixels, or what `finish` takes.
        stream: instead of `read`: the size of a batch → batches of samples (B, …) and labels (B,).
        finish: samples (B, …) on the device, as read → as a model takes them.
        what: they are, for messages.
        item: of pictures that lie somewhere: the place of one → the file, bytes or array that `read` reads.
    """

    names: Sequence[str]
    labels: Tensor
    classes: list[str]
    source: str | list[str]
    read: Callable[[int], Tensor]
    stream: Callable[[int], Iterator[tuple[Tensor, Tensor]]] | None = None
    finish: Callable[[Tensor], Tensor] = unit
    what: str = "pictures"
    item: Callable[[int], Any] | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def labelled(self) -> bool:
        """Whether any sample has a class."""
        return bool(self.classes) and (self.stream is not None or bool((self.labels >= 0).any()))


class Batch(NamedTuple):
    """Samples (B, …) as the model takes them and labels (B,), on the device, and what they are called."""

    names: list[str]
    samples: Tensor
    labels: Tensor


def listed(
    sources: str | Sequence[str],
    model: Network,
    split: str | None = None,
    reading: Mapping[str, Any] | None = None,
) -> Listing:
    """Find all samples of a source, for a model.

    Args:
        sources: of images as ImageData's source, or several such, pictures and folders mixed; of clips a folder of
            videos, or "sprites"; of latents the folder that `zoo latents` wrote.
        split: "train", "val" or "test" alone; None is all there are, one after the other.
        reading: of images, ImageData's keywords that say how a source is read: value_range, image_column, label_column.

    Raises:
        ValueError: nothing there, no such split, or samples of another kind than the model takes.
        FileNotFoundError: no such source.
    """
    sources = [sources] if isinstance(sources, str) else [*sources]
    given = {key: value for key, value in (reading or {}).items() if value is not None}
    listing = _listed(sources, model, split, given)
    if not len(listing):
        raise ValueError(f"{', '.join(map(redact, sources))} holds no {listing.what}; give a source that holds some")
    return listing


def _listed(sources: list[str], model: Network, split: str | None, given: dict[str, Any]) -> Listing:
    about = model.takes
    if about.kind == "image":
        return _joined([_images(some, model, split, **given) for some in _grouped(sources)], sources)
    if given:
        raise ValueError(f"{', '.join(given)}: of images alone, this model takes {about.kind}s; leave it out")
    if len(sources) > 1:
        raise ValueError(f"{len(sources)} sources, but {about.kind}s are read of one; give the folder that holds them")
    make = {"clip": _clips, "latent": _latents}.get(about.kind)
    if make is None:
        raise ValueError(f"this model takes {about.kind}s, of which no reader is known; call it from Python")
    return make(sources[0], model, split)


def mapped(
    listing: Listing, device: torch.device | str = "cpu", batch_size: int = 64, bad: str = "refuse"
) -> Iterator[Batch]:
    """The samples of a listing in its order, batch by batch, counted on stderr.

    Args:
        bad: a sample that cannot be read stops everything by name ("refuse"), or is left out, which is said in the end
            ("skip").

    Raises:
        ValueError: a damaged sample, or none that is whole.
    """
    left_out: list[str] = []
    known = 0
    with Progress(len(listing), listing.what) as progress:
        for places, x, y in _batches(listing, batch_size, bad, left_out):
            if len(places):
                samples = listing.finish(x.to(device, non_blocking=True))
                yield Batch([listing.names[i] for i in places], samples, y.to(device))
            progress.add(len(places) + len(left_out) - known)
            known = len(left_out)
    if left_out:
        more = f"; … ({len(left_out)})" if len(left_out) > NAMED else ""
        said = "; ".join(left_out[:NAMED]) + more
        if len(left_out) == len(listing):
            raise ValueError(f"none of {len(listing)} {listing.what} can be read: {said}")
        warnings.warn(f"{len(left_out)} of {len(listing)} {listing.what} are left out: {said}", stacklevel=2)


def _batches(
    listing: Listing, batch_size: int, bad: str, left_out: list[str]
) -> Iterator[tuple[Sequence[int], Tensor, Tensor]]:
    """Places, samples as they are read and labels."""
    if listing.stream is not None:
        if bad == "skip":
            raise ValueError("shards are read whole; leave bad='skip' out, and mend the shard that is named")
        at = 0
        for x, y in listing.stream(batch_size):
            yield range(at, at + len(y)), x, y
            at += len(y)
        return

    def attempt(place: int) -> Tensor | str:
        try:
            return listing.read(place)
        except (OSError, ValueError) as error:
            if bad != "skip":
                raise
            return reason(error)

    spans = (range(at, min(at + batch_size, len(listing))) for at in range(0, len(listing), batch_size))
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        coming: deque[tuple[range, list[Future[Tensor | str]]]] = deque()
        coming.extend((span, [pool.submit(attempt, i) for i in span]) for span in islice(spans, 1 + AHEAD))
        while coming:
            span, futures = coming.popleft()
            read = [future.result() for future in futures]
            coming.extend((span, [pool.submit(attempt, i) for i in span]) for span in islice(spans, 1))
            left_out += [x for x in read if isinstance(x, str)]
            whole = [(i, x) for i, x in zip(span, read) if isinstance(x, Tensor)]
            places, samples = [i for i, _ in whole], [x for _, x in whole]
            yield places, torch.stack(samples) if samples else torch.empty(0), listing.labels[places]
    finally:
        pool.shutdown(cancel_futures=True)


# Sources


def _grouped(sources: Sequence[str]) -> Iterator[list[str]]:
    """Pictures that stand together as one list, each other source by itself."""
    pictures: list[str] = []
    for source in sources:
        if Path(source).suffix.lower() in suffixes() and not Path(source).is_dir():
            pictures.append(source)
            continue
        if pictures:
            yield pictures
        pictures = []
        yield [source]
    if pictures:
        yield pictures


def _joined(listings: Sequence[Listing], sources: list[str]) -> Listing:
    """Several listings as one, each name with its source before it."""
    source: str | list[str] = [redact(s) for s in sources] if len(sources) > 1 else redact(sources[0])
    if len(listings) == 1:
        return Listing(**{**vars(listings[0]), "source": source})
    if any(listing.stream is not None for listing in listings):
        raise ValueError("shards are read alone; give them without other sources")
    classes = list(dict.fromkeys(name for listing in listings for name in listing.classes))
    names: list[str] = []
    labels, starts = [], []
    for listing in listings:
        order = torch.tensor([classes.index(name) for name in listing.classes] or [-1])  # (classes,)
        labels.append(torch.where(listing.labels < 0, -1, order[listing.labels.clamp(min=0)]))  # (N,)
        starts.append(len(names))
        root = "" if isinstance(listing.source, list) else f"{listing.source.rstrip('/')}/"
        names += [f"{root}{name}" for name in listing.names]

    def of(place: int) -> tuple[Listing, int]:
        which = int(np.searchsorted(starts, place, side="right")) - 1
        return listings[which], place - starts[which]

    def read(place: int) -> Tensor:
        listing, there = of(place)
        return listing.read(there)

    def item(place: int) -> Any:
        listing, there = of(place)
        assert listing.item is not None  # of a stream alone
        return listing.item(there)

    return Listing(names, torch.cat(labels), classes, source, read, item=item)


def _images(sources: list[str], model: Network, split: str | None, **reading: Any) -> Listing:
    source, value_range = sources[0], reading.pop("value_range", None)
    if source.startswith("shards:"):
        readers.no_columns(redact(source), reading.get("image_column"), reading.get("label_column"))
        return _stream(source, model, split, value_range)
    pictures = Path(source).suffix.lower() in suffixes() and not Path(source).is_dir()
    splits = readers.read(sources if pictures else source, **reading, every_class=True)
    items = _chosen(source, splits, split) if split else readers.together(splits)

    pixels = transform(model, value_range=value_range).pixels
    names = sources if pictures else items.names
    return Listing(
        [text(name) for name in names],
        torch.as_tensor(items.labels),
        items.classes,
        sources if pictures else redact(source),
        lambda place: pixels(items.images[place]),
        item=lambda place: items.images[place],
    )


def _stream(source: str, model: Network, split: str | None, value_range: Any) -> Listing:
    about, crop_pct = model.takes, transform(model).crop_pct
    splits = find(source.removeprefix("shards:"), "images")
    items = _chosen(source, splits, split) if split else join(splits)

    def stream(batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        pixels = Encoded(items, about.size[0], about.channels, crop_pct, value_range)
        batches = Streamed(pixels, items.labels, batch_size, False, lanes=1, buffer=1, bad="refuse")
        yield from ((x, y) for x, y, _ in batches)

    classes = items.classes if items.labelled else []
    return Listing(items.names, torch.full((len(items),), -1), classes, redact(source), _unread, stream)


def _clips(source: str, model: Network, split: str | None) -> Listing:
    if source == "sprites":
        about = model.takes
        data = clips.ClipData(source, about.shape[0], about.size[0], about.channels)
        data.setup({"train": "fit", "val": "validate", "test": "test"}.get(split or ""))
        composed = {role: data.splits[role] for role in ROLES if role in data.splits and data.served[role] == role}
        some = {split: _chosen(source, composed, split)} if split else composed
        arrays = [clip.array[i] for clip, labels in some.values() for i in range(len(labels))]
        names = [f"{role}/{i}" for role, (_, labels) in some.items() for i in range(len(labels))]
        labels = torch.cat([labels for _, labels in some.values()])
        return Listing(names, labels, data.classes, source, arrays.__getitem__, what="clips")
    root = Path(source).expanduser()
    if source.partition(":")[0] in ("moving", "shards"):
        raise ValueError(f"{source} has no files whose names could stand in a table; give a folder of videos")
    found, classes = clips.find_videos(root, every_class=True)
    videos = {split: _chosen(source, found, split)} if split else found
    paths = [path for some, _ in videos.values() for path in some]
    numbers = torch.tensor([label for _, some in videos.values() for label in some])
    pixels = transform(model).pixels
    names = [text(_relative(path, root)) for path in paths]
    return Listing(names, numbers, classes, source, lambda place: pixels(paths[place]), what="videos")


def _relative(path: Path, root: Path) -> str:
    return Path(os.path.relpath(path, root)).as_posix()


def _latents(source: str, model: Network, split: str | None) -> Listing:
    data = LatentData(source)
    if data.input_shape != model.takes.shape:
        raise ValueError(f"{source} holds latents {data.input_shape}, this model takes {model.takes.shape}")
    data.setup()
    written = {role: data.splits[role] for role in ("train", "test")}
    some = {split: _chosen(source, written, split)} if split else written
    places = [(latents, i) for latents, labels in some.values() for i in range(len(labels))]
    names = [f"{role}/{i}" for role, (_, labels) in some.items() for i in range(len(labels))]

    def read(place: int) -> Tensor:
        latents, i = places[place]
        return latents.array[i]  # (c, h, w) or (D,)

    def finish(z: Tensor) -> Tensor:
        x, _ = data.on_after_batch_transfer((z, None, None), 0)
        assert isinstance(x, Tensor)
        return x

    labels = torch.cat([labels for _, labels in some.values()])
    return Listing(names, labels, data.classes, source, read, finish=finish, what="latents")


def _chosen(source: str, splits: Mapping[str, Any], split: str) -> Any:
    if split not in splits:
        raise ValueError(f"{source} has no {split} split, only {', '.join(splits)}; leave --split out to take all")
    return splits[split]


def _unread(place: int) -> Tensor:
    raise ValueError("a stream has no places")
