"""Batches in an order that seed and epoch decide, and that goes on where it stopped."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from zoo.data.seeds import mix


class Split(Protocol):
    """What Batches reads: samples that lie in `array`, (N, …), or are made one by one in workers.

    There, `whole` gives one of them to a change; without a change, `split[i]` is a uint8 tensor.
    """

    @property
    def array(self) -> Tensor | None: ...

    def whole(self, i: Any) -> Any: ...


class InMemory:
    """Samples (N, …) that lie in memory or in a memory map."""

    def __init__(self, array: Tensor):
        self.array = array

    def whole(self, i: int) -> Tensor:
        return self.array[i]


class Changed:
    """Samples of a split under a change, by (index, seed)."""

    def __init__(self, split: Split, change: Callable[[Any, int], Tensor]):
        self.split, self.change = split, change

    def __getitem__(self, key: tuple[int, int]) -> Tensor:
        return self.change(self.split.whole(key[0]), key[1])


class Batches:
    """Batches of one split, (uint8 (B, C, H, W), int64 (B,), stamp), in an order that seed and epoch decide.

    The stamp seeds a training batch's augmentation; it is None for evaluation. `state_dict` says how far an epoch has
    come, so that Lightning resumes it in the middle. With several processes, each takes every world-th image, and all
    take equally many batches: training leaves out what does not fill one, evaluation leaves out nothing and evens out
    the batches.

    Args:
        change: makes a uint8 sample of what `whole` gives and a seed; None takes samples as they are.

    Raises:
        ValueError: fewer images than make a training batch, or than there are processes.
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
        self.epoch = self.start = self.done = 0
        self.sampler, self.batch_sampler = self, None  # where Lightning looks for set_epoch
        if len(self) == 0 and shuffle:
            raise ValueError(f"{len(labels)} training images make no batch of {batch_size * world}; lower batch_size")
        if len(self) == 0 and len(labels):
            raise ValueError(f"{len(labels)} images for {world} processes, each needs one; take fewer processes")

    def __len__(self) -> int:
        n = len(self.labels)
        if self.shuffle:
            return n // self.world // self.batch_size
        return min(-(-n // (self.world * self.batch_size)), n // self.world)

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def indices(self, step: int) -> list[int] | list[str]:
        """Which samples of the split the step's batch holds."""
        return self._cut(self.epoch)[step].tolist()

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.start = state["epoch"], state["done"]
        if self.start >= len(self):
            self.epoch, self.start = self.epoch + 1, 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, list[int] | None]]:
        epoch, start = self.epoch, self.start
        self.start, self.done = 0, start
        for step, (x, y) in enumerate(self._read(epoch, start), start):
            self.done = step + 1
            yield x, y, [self.seed, epoch, step, self.rank] if self.shuffle else None
        if self.epoch == epoch:  # nobody called set_epoch
            self.epoch, self.done = epoch + 1, 0

    def _order(self, epoch: int) -> Tensor:
        n = len(self.labels)
        if not self.shuffle:
            return torch.arange(self.rank, n, self.world)
        generator = torch.Generator().manual_seed(mix(self.seed, epoch))
        return torch.randperm(n, generator=generator)[self.rank : n // self.world * self.world : self.world]

    def _cut(self, epoch: int) -> tuple[Tensor, ...]:
        """The epoch's batches, as indices."""
        order = self._order(epoch)
        if self.shuffle or self.world == 1:
            return order.split(self.batch_size)[: len(self)]
        return order.tensor_split(len(self))  # a process with an image less has no batch less

    def _read(self, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels of an epoch's batches from one on."""
        index = self._cut(epoch)[start:]
        for x, i in zip(self._images(index, epoch), index):
            yield x, self.labels[i]

    def _images(self, index: tuple[Tensor, ...], epoch: int) -> Iterator[Tensor]:
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
