"""Shards: training data as a stream of tar files, from a disk, a web server, an object store or the Hub.

A place holds `manifest.json` and the shards it names, in WebDataset's layout: members `KEY.jpg` (png, webp, mp4, …) and
`KEY.cls`, the class number, stand one after the other; a split without labels, which the manifest names, has no
`KEY.cls`. fsspec reads the bytes, the standard library's tarfile takes them apart: webdataset's own reader does so too,
but gives up at the first broken connection, cannot begin an epoch in the middle, and has each worker read other shards,
so that the order hangs on their number.

An epoch: the shards are permuted, laid end to end, and cut into `lanes` equal stretches. Each lane is read from its
start to its end and mixed in a buffer of `buffer` samples; sample i of the epoch comes from lane i % lanes. Nothing of
this depends on how many processes and workers there are: process r of W takes every W-th sample, which lie in its own
lanes. And all of it is known without the data, so that a run goes on in mid-epoch without reading what it has seen.
"""

import hashlib
import io
import json
import math
import random
import tarfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, Protocol

import fsspec
import torch
from fsspec.implementations.local import LocalFileSystem
from torch import Tensor
from torch.utils.data import default_collate

from zoo.data.batches import Batches, Split
from zoo.data.pictures import Damaged, reason
from zoo.data.remote import file_system
from zoo.data.seeds import mix

MANIFEST, FORMAT = "manifest.json", "zoo-shards-1"
IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "ppm", "pgm", "gif", "tif", "tiff", "jfif", "jp2", "avif", "heic")
CLIPS = ("mp4", "webm", "avi", "gif", "mkv", "mov", "m4v")
BLOCK = 4 << 20  # bytes of one request
AHEAD = 128  # samples that each lane reads ahead, or BLOCK bytes of them
WAITS = (0.1, 0.5, 2, 8, 20)  # seconds before a read that failed is tried again
STALLED = 60  # seconds after which a request counts as failed


@dataclass(frozen=True)
class Shard:
    """One tar file, what the manifest says of it, and the number of its first sample in the split."""

    url: str
    samples: int
    bytes: int
    sha256: str
    first: int


@dataclass
class Shards:
    """One split; the labels come with the samples."""

    source: str
    shards: list[Shard]
    classes: list[str]
    size: tuple[int, int] | None  # height and width in px, where all images have the same
    channels: int | None
    labelled: bool = True

    def __len__(self) -> int:
        return sum(shard.samples for shard in self.shards)

    @property
    def names(self) -> list[str]:
        """What the samples are called in their order, FILE[NUMBER]."""
        return [f"{shard.url.rpartition('/')[2]}[{i}]" for shard in self.shards for i in range(shard.samples)]

    @property
    def labels(self) -> Tensor:
        """As many as there are samples, without values: nobody can take them for labels."""
        return torch.empty(len(self), dtype=torch.int64, device="meta")


class Sample(NamedTuple):
    """One sample as it was stored; `number` is its place in the split, `fault` what is wrong with it."""

    key: str
    url: str
    number: int
    data: bytes
    label: int
    fault: str = ""

    def __str__(self) -> str:
        return f"{self.key} in {self.url}"


# Finding


def find(place: str, kind: str) -> dict[str, Shards]:
    """The splits of a place by role, `train`, `val`, `test`, as far as its manifest has them.

    Args:
        place: folder or URL: https://…, s3://…, gs://…, hf://datasets/org/name.
        kind: "images" or "clips".

    Raises:
        FileNotFoundError: no manifest there.
        ConnectionError: the place cannot be reached.
        ValueError: no manifest of ours, or of the other kind.
    """
    url = f"{place.rstrip('/')}/{MANIFEST}"
    fs, path = file_system(url)
    try:
        manifest = json.loads(patiently(url, fs, lambda: fs.cat_file(path)))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{place} has no {MANIFEST}; `zoo shard SOURCE -o FOLDER` writes shards with one, `zoo shard --index "
            f"{place} -o FOLDER` one for shards that are there"
        ) from error
    except ValueError as error:
        raise ValueError(f"{url} is not JSON ({error}); get it again, or write it with `zoo shard --index`") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(
            f"{url} is no manifest of format {FORMAT}; write one with `zoo shard --index {place} -o FOLDER`"
        )
    try:
        if manifest["kind"] != kind:
            reader = {"images": "ImageData", "clips": "ClipData"}[manifest["kind"]]
            raise ValueError(f"{place} holds {manifest['kind']}, not {kind}; read it with {reader}")
        return {role: _split(place, manifest, role) for role in manifest["splits"]}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{url} is damaged ({error!r}); get it again, or write it with `zoo shard --index`") from error


def _split(place: str, manifest: dict[str, Any], role: str) -> Shards:
    shards, first = [], 0
    for row in manifest["splits"][role]:
        url = row["file"] if "://" in row["file"] else f"{place.rstrip('/')}/{row['file']}"
        shards.append(Shard(url, row["samples"], row["bytes"], row["sha256"], first))
        first += row["samples"]
    size = manifest["size"] and tuple(manifest["size"])
    labelled = role not in manifest.get("unlabelled", ())
    return Shards(place, shards, manifest["classes"], size, manifest["channels"], labelled)


def join(splits: Mapping[str, Shards]) -> Shards:
    """The samples of all splits, one split after the other; those without labels are so in all, if in one."""
    parts = list(splits.values())
    shards: list[Shard] = []
    for shard in (shard for part in parts for shard in part.shards):
        shards.append(replace(shard, first=sum(other.samples for other in shards)))
    return replace(parts[0], shards=shards, labelled=all(part.labelled for part in parts))


# Reading


def patiently(url: str, fs: fsspec.AbstractFileSystem, read: Callable[[], Any]) -> Any:
    """What `read` returns; tried again where it fails, but for a local disk, which will not change its mind."""
    waits = () if isinstance(fs, LocalFileSystem) else WAITS
    for wait in (*waits, None):
        try:
            return read()
        except FileNotFoundError:
            raise
        except Exception as error:  # each file system has exceptions of its own
            refused = isinstance(error, PermissionError) or getattr(error, "status", None) in (401, 403, 410)
            if wait is None or refused:
                tried = f" after {len(waits) + 1} attempts" if wait is None and waits else ""
                raise ConnectionError(
                    f"{url} cannot be read{tried}: {type(error).__name__} {error}; is it whole, reachable, and allowed "
                    "to you? A run that this stops goes on with `zoo fit --resume`"
                ) from error
        time.sleep(wait)
    raise AssertionError


class Stream:
    """The bytes of a shard from the start, in requests of BLOCK bytes, hashed as they pass; what tarfile reads.

    A request that fails is made again, so nothing before it is read twice. A server that cannot give a part of a file
    sends the whole shard; it is then kept in memory while it is read.
    """

    def __init__(self, shard: Shard):
        self.shard, self.at, self.digest, self.block = shard, 0, hashlib.sha256(), io.BytesIO()
        self.fs, self.path = file_system(shard.url)

    def read(self, size: int) -> bytes:
        """Up to so many bytes; none at the end."""
        data = self.block.read(size)
        if not data and self.at < self.shard.bytes:
            block = patiently(self.shard.url, self.fs, self._request)
            self.digest.update(block)
            self.at += len(block)
            self.block = io.BytesIO(block)
            data = self.block.read(size)
        return data

    def _request(self) -> bytes:
        end = min(self.at + BLOCK, self.shard.bytes)
        # A file system that is not asynchronous opens a file for this; what it read ahead there would be lost.
        options = {"timeout": STALLED} if self.fs.async_impl else {"cache_type": "none"}
        block = self.fs.cat_file(self.path, start=self.at, end=end, **options)
        if len(block) == self.shard.bytes:
            return block[self.at :]
        if len(block) != end - self.at:
            raise OSError(f"{len(block)} bytes came of the {end - self.at} from {self.at} on")
        return block

    def check(self) -> None:
        """Read to the end and compare with the manifest.

        Raises:
            ValueError: the shard is another than the manifest describes.
        """
        while self.read(BLOCK):
            pass
        if self.digest.hexdigest() != self.shard.sha256:
            raise ValueError(
                f"{self.shard.url} has changed: its sha256 is {self.digest.hexdigest()}, the manifest says "
                f"{self.shard.sha256}; get it again, or write the manifest anew with `zoo shard --index`"
            )


def read_shard(shard: Shard, stop: int, classes: int) -> Iterator[Sample]:
    """The first `stop` samples of a shard. Where that is all of them, its hash is checked: after the last.

    So a shard that has changed stops the run by name, but its samples may have been trained on by then. Of an epoch,
    the lane in which a shard ends checks it; one that ends inside of it cannot.

    Raises:
        ConnectionError, FileNotFoundError: it cannot be read, or is not there.
        ValueError: no tar file, not as many samples as the manifest says, or other bytes.
    """
    stream, count = Stream(shard), 0
    try:
        for key, parts in islice(grouped(stream), stop):
            yield make_sample(shard, shard.first + count, key, parts, classes)
            count += 1
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no shard {shard.url}, which {MANIFEST} names; put it back") from error
    except tarfile.TarError as error:
        raise ValueError(f"{shard.url} is no tar file, or a damaged one ({error}); get it again") from error
    if stop == shard.samples:
        stream.check()
    if count < stop:
        raise ValueError(
            f"{shard.url} holds {count} samples, the manifest says {shard.samples}: it is damaged, get it again; or "
            "the manifest is, write it with `zoo shard --index`"
        )


def grouped(stream: Any) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Members of a tar file that stand together under one key: its name up to the first dot, and what follows."""
    key = ""
    parts: dict[str, bytes] = {}
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            archive.members = []  # type: ignore[attr-defined]  # typeshed does not know the list that tarfile would grow
            folder, slash, name = member.name.rpartition("/")
            stem, _, suffix = name.partition(".")
            file = archive.extractfile(member) if member.isreg() else None
            if file is None or not stem:
                continue
            if key != folder + slash + stem:
                if parts:
                    yield key, parts
                key, parts = folder + slash + stem, {}
            parts[suffix.lower()] = file.read()
    if parts:
        yield key, parts


def make_sample(shard: Shard, number: int, key: str, parts: dict[str, bytes], classes: int) -> Sample:
    """A sample of a shard's members, or what is wrong with it; without labels where there are 0 classes."""
    data = next((parts[suffix] for suffix in (*IMAGES, *CLIPS) if suffix in parts), None)
    label = parts.get("cls", b"").strip()
    if data is None:
        fault = f"has no image or video, only {', '.join(parts)}"
    elif not classes:
        return Sample(key, shard.url, number, data, -1)
    elif not label.isdigit() or int(label) >= classes:
        fault = f"has the class {label.decode(errors='replace')!r}, expected KEY.cls with a number below {classes}"
    else:
        return Sample(key, shard.url, number, data, int(label))
    return Sample(key, shard.url, number, b"", -1, fault)


# The order


@dataclass
class Lane:
    """Samples `first` to `last` of shards that are laid end to end, mixed in a buffer, or as they are."""

    shards: list[Shard]
    first: int
    last: int
    buffer: int
    seed: int

    def order(self) -> Iterator[int]:
        """The places 0 to last - first - 1, each once: one of the buffer at random, refilled by the next."""
        draw, count = random.Random(self.seed), self.last - self.first
        held = list(range(min(self.buffer, count)))
        coming = len(held)
        while held:
            k = int(draw.random() * len(held))
            yield held[k]
            if coming < count:
                held[k], coming = coming, coming + 1
            else:
                held[k] = held[-1]
                held.pop()

    def locate(self, place: int) -> tuple[Shard, int]:
        """The shard of a place, and the number in it."""
        place += self.first
        for shard in self.shards:
            if place < shard.samples:
                return shard, place
            place -= shard.samples
        raise IndexError(place)

    def read(self, skip: int, classes: int, pool: ThreadPoolExecutor) -> Iterator[Sample]:
        """The samples in order but the first `skip`; a shard that holds only those is not opened."""
        order, held = self.order(), {}
        seen = set(islice(order, skip))
        coming = _ahead(self._stored(seen, classes), pool)
        for place in order:
            while place not in held:
                read, sample = next(coming)
                held[read] = sample
            yield held.pop(place)

    def _stored(self, seen: set[int], classes: int) -> Iterator[tuple[int, Sample]]:
        start = -self.first  # the place of the shard's first sample
        for shard in self.shards:
            stop = min(shard.samples, self.last - self.first - start)
            if any(place not in seen for place in range(max(0, start), start + stop)):
                for place, sample in enumerate(read_shard(shard, stop, classes), start):
                    if place >= 0 and place not in seen:
                        yield place, sample
            start += shard.samples


def _ahead(samples: Iterator[tuple[int, Sample]], pool: ThreadPoolExecutor) -> Iterator[tuple[int, Sample]]:
    """The same, read ahead by another thread."""

    def some() -> list[tuple[int, Sample]]:
        out, size = [], 0
        for place, sample in samples:
            out.append((place, sample))
            size += len(sample.data)
            if len(out) == AHEAD or size >= BLOCK:
                break
        return out

    coming = pool.submit(some)
    while now := coming.result():
        coming = pool.submit(some)
        yield from now


# Batches


class Stored(Split, Protocol):
    """What Streamed reads: a split that makes samples of what its shards hold."""

    items: Shards


class Streamed(Batches):
    """Batches of a split in shards, as Batches gives them: the same for any number of processes and workers.

    The main process reads, with a thread for each of its lanes; the workers get encoded bytes, and decode. Evaluation
    reads in stored order, each process its own stretch, and shows each sample once; all have equally many batches. A
    sample that is `bad` ("refuse" or "skip") stops the run by name, or is left out with a warning; its place in a
    training batch goes to another one of the batch.

    Raises:
        ValueError: the processes cannot share the lanes evenly; fewer samples than processes.
    """

    def __init__(self, pixels: Stored, labels: Tensor, *args: Any, lanes: int, buffer: int, bad: str, **more: Any):
        self.shards, self.lanes, self.buffer, self.bad = pixels.items, lanes, buffer, bad
        self.faults: set[str] = set()  # names of samples that are left out
        super().__init__(pixels, labels, *args, **more)
        if self.shuffle and lanes % self.world:
            raise ValueError(
                f"{self.world} processes cannot share {lanes} lanes evenly; set lanes to a multiple of {self.world}"
            )
        if len(labels) < self.world:
            raise ValueError(f"{len(labels)} samples for {self.world} processes; evaluate in fewer")

    def __len__(self) -> int:
        if self.shuffle:
            return len(self.labels) // self.world // self.batch_size
        return math.ceil(math.ceil(len(self.labels) / self.world) / self.batch_size)

    def indices(self, step: int) -> list[str]:
        """Which samples the step's batch holds: FILE[NUMBER]."""
        lanes = self._lanes(self.epoch)
        orders = [lane.order() for lane in lanes]
        places = ((lanes[i], next(orders[i])) for _ in range(len(self.labels)) for i in range(len(lanes)))
        span = self.spans[step]
        batch = islice(places, span.start, span.stop)
        found = (lane.locate(place) for lane, place in batch)
        return [f"{shard.url.rpartition('/')[2]}[{number}]" for shard, number in found]

    def _lanes(self, epoch: int) -> list[Lane]:
        """This process's lanes of an epoch."""
        shards, count = self.shards.shards, len(self.labels)
        if not self.shuffle:
            first, last = (count * r // self.world for r in (self.rank, self.rank + 1))
            return [Lane(shards, first, last, 1, 0)]
        generator = torch.Generator().manual_seed(mix(self.seed, epoch, "shards"))
        shards = [shards[i] for i in torch.randperm(len(shards), generator=generator).tolist()]
        # Sample i is of lane i % lanes, so the first ones are longer by one where it does not come out even.
        ends = [lane * (count // self.lanes) + min(lane, count % self.lanes) for lane in range(self.lanes + 1)]
        return [
            Lane(shards, ends[i], ends[i + 1], self.buffer, mix(self.seed, epoch, "lane", i))
            for i in range(self.rank, self.lanes, self.world)
        ]

    def _samples(self, epoch: int, skip: int, pool: ThreadPoolExecutor) -> Iterator[Sample]:
        """The epoch's samples of this process but the first `skip`."""
        lanes, classes = self._lanes(epoch), len(self.shards.classes) if self.shards.labelled else 0
        reading = [lane.read(-(-(skip - i) // len(lanes)), classes, pool) for i, lane in enumerate(lanes)]
        while True:
            for i in range(skip % len(lanes), len(lanes)):
                yield next(reading[i])
            skip = 0

    def _sizes(self) -> list[int]:
        if self.shuffle:
            return super()._sizes()
        left = len(self.labels) * (self.rank + 1) // self.world - len(self.labels) * self.rank // self.world
        sizes: list[int] = []
        for later in reversed(range(len(self))):
            # A process with a sample less than others may have to cut its last batch in two.
            sizes.append(min(self.batch_size, left - later))
            left -= sizes[-1]
        return sizes

    def _keys(self, epoch: int, spans: dict[int, slice], pool: ThreadPoolExecutor) -> Iterator[list]:
        """What the workers make batches of, each sample with its seed."""
        turn = epoch if self.shuffle else 0
        samples = self._samples(epoch, next(iter(spans.values())).start, pool)
        for span in spans.values():
            yield [(s, mix(self.seed, turn, s.number)) for s in islice(samples, span.stop - span.start)]

    def _read(self, epoch: int, spans: dict[int, slice]) -> Iterator[tuple[Tensor, Tensor]]:
        pool = ThreadPoolExecutor(self.lanes, "shards")
        made, join = Made(self.pixels, self.change, self.bad == "skip"), partial(_join, fill=self.shuffle)
        try:
            for x, y, faults in self._load(made, self._keys(epoch, spans, pool), collate_fn=join):
                for fault in faults:
                    if fault.name not in self.faults:
                        self.faults.add(fault.name)
                        so_far = f"{len(self.faults)} so far"
                        warnings.warn(f"a sample is left out, {so_far}: {fault.said}", stacklevel=2)
                yield x, y
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


class Fault(NamedTuple):
    """A sample that is left out, and why."""

    name: str
    said: str


class Made:
    """Samples decoded, by (sample, seed): pixels and label, or what is wrong where that is to be skipped."""

    def __init__(self, pixels: Any, change: Any, skip: bool):
        self.pixels, self.change, self.skip = pixels, change, skip

    def __getitem__(self, key: tuple[Sample, int]) -> tuple[Tensor, int] | Fault:
        sample, seed = key
        try:
            if sample.fault:
                raise Damaged(f"{sample} {sample.fault}", "mend the shard", "samples")
            if self.change is None:
                return self.pixels[sample], sample.label
            return self.change(self.pixels.whole(sample), seed), sample.label
        except ValueError as error:
            if self.skip:
                return Fault(str(sample), reason(error))
            raise


def _join(made: list[tuple[Tensor, int] | Fault], fill: bool) -> tuple[Tensor, Tensor, list[Fault]]:
    """A batch, and what is left out of it; filled to its size with the others."""
    good, faults = [m for m in made if not isinstance(m, Fault)], [m for m in made if isinstance(m, Fault)]
    if not good:
        raise ValueError(f"none of the {len(made)} samples of a batch can be decoded; the first: {faults[0].said}")
    if fill:
        good = (good * len(made))[: len(made)]
    x, y = default_collate(good)
    return x, y, faults
