"""Batches in an order that seed and epoch decide, and that goes on where it stopped."""

import math
import warnings
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import Any, Protocol

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from zoo.data.seeds import mix
from zoo.nn.signatures import keywords

LEFT_OUT = 0.05  # share of a training set that may fill no batch without a word


def fitting_batch(count: int) -> int:
    """The batch of a training set of so many samples: the power of two from 8 to 64 next to a sixteenth of it."""
    return min(64, max(8, 2 ** round(math.log2(max(1, count) / 16))))


class Split(Protocol):
    """What Batches reads: samples that lie in `array`, (N, …), or are made one by one in workers.

    There, `whole` gives one of them to a change; without a change, `split[i]` is a uint8 tensor.
    """

    @property
    def array(self) -> Any: ...  # a Tensor, something that is indexed like one, or None

    def whole(self, i: Any) -> Any: ...


class AfterSetup(dict[str, Any]):
    """Splits by name. One that `setup` has not read is refused."""

    def __missing__(self, split: str) -> Any:
        raise ValueError(f"no {split} split has been read; call setup() first, or hand the DataModule to a Trainer")


class DataModule(L.LightningDataModule):
    """What prints itself: Lightning would run over the batches for it."""

    def __str__(self) -> str:
        """The arguments that are not the defaults, and how many samples the splits hold that were read."""
        known = keywords(type(self))
        given = {k: v for k, v in self.hparams.items() if k in known and v != known[k].default}
        splits: dict[str, Any] = getattr(self, "splits", {})
        held = ", ".join(f"{role} {len(split[-1]):,}" for role, split in splits.items() if isinstance(split, tuple))
        said = ", ".join(f"{key}={value!r}" for key, value in given.items())
        return f"{type(self).__name__}({said})" + (f": {held}" if held else "")

    __repr__ = __str__


class InMemory:
    """Samples (N, …) that lie in memory or in a memory map: a tensor, or what is indexed like one."""

    def __init__(self, array: Any):
        self.array = array

    def whole(self, i: int) -> Tensor:
        sample: Tensor = self.array[i]
        return sample


class Changed:
    """Samples of a split under a change, by (index, seed)."""

    def __init__(self, split: Split, change: Callable[[Any, int], Tensor]):
        self.split, self.change = split, change

    def __getitem__(self, key: tuple[int, int]) -> Tensor:
        return self.change(self.split.whole(key[0]), key[1])


class Batches:
    """Batches of one split, (uint8 (B, C, H, W), int64 (B,), stamp), in an order that seed and epoch decide.

    The stamp seeds a training batch's augmentation; it is None for evaluation. With several processes, each takes every
    world-th image, and all take equally many batches: evaluation leaves out nothing and evens out the batches, training
    leaves out what does not fill one, other images in each epoch, and says so where they are many. A training set that
    is smaller than a batch is one batch.

    `state_dict` counts the images of an epoch that this process has seen, so that Lightning goes on in the middle, with
    another batch size too: what is left is cut anew, and no image comes twice.

    Args:
        change: makes a uint8 sample of what `whole` gives and a seed; None takes samples as they are.

    Raises:
        ValueError: fewer images than there are processes.
    """

    counts = "images"  # what batch_size counts

    def __init__(
        self,
        pixels: Split,
        labels: Tensor,
        batch_size: int,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        num_workers: int = 2,
        change: Callable[[Any, int], Tensor] | None = None,
    ):
        self.change = change
        self.pixels, self.labels, self.batch_size, self.shuffle = pixels, labels, batch_size, shuffle
        self.seed, self.rank, self.world, self.num_workers = seed, rank, world, num_workers
        self.sampler, self.batch_sampler = self, None  # where Lightning looks for set_epoch
        if len(labels) < world and (shuffle or len(labels)):
            raise ValueError(f"{len(labels)} images for {world} processes, each needs one; take fewer processes")
        if shuffle:
            self.batch_size, said = _settled(len(labels), batch_size, world)
            if said and rank == 0:
                warnings.warn(said, stacklevel=2)
        self._begin(0, 0)

    def __len__(self) -> int:
        n = len(self.labels)
        if self.shuffle:
            return n // self.world // self.batch_size
        return min(-(-n // (self.world * self.batch_size)), n // self.world)

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            self._begin(epoch, 0)

    def indices(self, step: int) -> list[int] | list[str]:
        """Which samples of the split the step's batch holds."""
        return self._order(self.epoch)[self.spans[step]].tolist()

    @property
    def step(self) -> int:
        """The number in its epoch of the batch that came or comes first."""
        return next(iter(self.spans), 0)

    def state_dict(self) -> dict[str, int]:
        over = self.spans and self.done >= list(self.spans.values())[-1].stop
        return {"epoch": self.epoch + 1, "images": 0} if over else {"epoch": self.epoch, "images": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Begin where another loader was.

        Args:
            state: what `state_dict` gave; or, of older checkpoints, `done` batches of `batch_size`, by default of this
                loader's.
        """
        epoch, each = state["epoch"], len(self.labels) // self.world
        size = state.get("batch_size", self.batch_size)
        images = state["images"] if "images" in state else state["done"] * size
        if images >= (each if "images" in state else each // size * size):
            epoch, images = epoch + 1, 0
        self._begin(epoch, images)

    def _begin(self, epoch: int, images: int) -> None:
        """Go on, or begin, after so many images of this process."""
        self.epoch, self.start, self.done = epoch, images, images
        self.spans = self._spans(images)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, list[int] | None]]:
        epoch, start = self.epoch, self.start
        self.start, self.done = 0, start
        self.spans = self._spans(start)
        for (x, y), (step, span) in zip(self._read(epoch, self.spans), self.spans.items()):
            self.done = span.stop
            yield x, y, [self.seed, epoch, step, self.rank] if self.shuffle else None
        if self.epoch == epoch:  # nobody called set_epoch
            self.epoch, self.done = epoch + 1, 0

    def _order(self, epoch: int) -> Tensor:
        n = len(self.labels)
        if not self.shuffle:
            return torch.arange(self.rank, n, self.world)
        generator = torch.Generator().manual_seed(mix(self.seed, epoch))
        return torch.randperm(n, generator=generator)[self.rank : n // self.world * self.world : self.world]

    def _sizes(self) -> list[int]:
        """How many images of this process each batch of an epoch holds."""
        if self.shuffle:
            return [self.batch_size] * len(self)
        left = len(range(self.rank, len(self.labels), self.world))
        if self.world == 1:
            return [min(self.batch_size, left - at) for at in range(0, left, self.batch_size)]
        # A process with an image less has no batch less.
        return [left // len(self) + (k < left % len(self)) for k in range(len(self))]

    def _spans(self, seen: int) -> dict[int, slice]:
        """The batches that an epoch has left after so many images: of each its number, and its part of the order.

        They are as many as an epoch of this size has left there, and as large, so the last one may hold less.
        """
        sizes = self._sizes()
        ends = list(accumulate(sizes))
        total = len(self.labels) // self.world if self.shuffle else sum(sizes)
        spans = {}
        for step in range(len(ends))[min(bisect_right(ends, seen), len(ends) - 1) :]:
            spans[step] = slice(seen, min(seen + sizes[step], total))
            seen = spans[step].stop
        return spans

    def _read(self, epoch: int, spans: dict[int, slice]) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels of batches of an epoch."""
        order = self._order(epoch)
        index = [order[span] for span in spans.values()]
        for x, i in zip(self._images(index, epoch), index):
            yield x, self.labels[i]

    def _images(self, index: list[Tensor], epoch: int) -> Iterator[Tensor]:
        if self.pixels.array is not None and self.change is None:
            for i in index:
                batch = self.pixels.array[i]  # (B, C, H, W)
                yield batch.pin_memory() if torch.cuda.is_available() else batch
            return
        keys = [i.tolist() for i in index]
        if self.change is not None:
            turn = epoch if self.shuffle else 0  # what is made for evaluation is the same each time
            keys = [[(i, mix(self.seed, turn, i)) for i in batch] for batch in keys]
        yield from self._load(self.pixels if self.change is None else Changed(self.pixels, self.change), keys)

    def _load(self, made: Any, keys: Iterable[list], **options: Any) -> DataLoader:
        """Batches of what the workers make of the keys."""
        return DataLoader(
            made,
            batch_sampler=keys,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # its own: the default one belongs to the model
            **options,
        )


def _settled(count: int, batch_size: int, world: int) -> tuple[int, str]:
    """The size of a process's training batches, and what is to be said of it."""
    each = count // world
    if each < batch_size:
        return each, (
            f"{count} training samples make no batch of {batch_size * world}: each batch holds {each * world} of them, "
            "and rates that are scaled by the batch are scaled by that"
        )
    most = LEFT_OUT * count
    left = [count - each // size * size * world for size in range(1, batch_size + 1)]
    if left[-1] <= most:
        return batch_size, ""
    better = max((size for size, out in enumerate(left, 1) if out <= most), default=1)
    return batch_size, (
        f"{left[-1]} of {count} training samples, other ones in each epoch, are left out, as they fill no batch of "
        f"{batch_size}; batches of {better} leave out {left[better - 1]}"
    )
