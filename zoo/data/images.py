"""ImageData: labelled images from any source, batches (B, C, H, W) in [0, 1] with labels (B,) int64.

A set that fits is decoded once into uint8, and a batch is one indexing of that array. uint8 travels to the device; it
is cropped, flipped and scaled there. N images of a split · B of a batch · C channels · H W sides in pixels
"""

import contextlib
import hashlib
import os
import random
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import numpy as np
import torch
from filelock import FileLock
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from zoo.data.readers import Items, decode, natural_channels, read
from zoo.layers import check_least, check_types

if TYPE_CHECKING:
    from zoo.data.shards import Sample, Shards

CACHES = ("auto", "memory", "memmap", "none")
IN_MEMORY, ON_DISK = 16e6, 32e9  # bytes of decoded pixels up to which "auto" takes each


class ImageData(L.LightningDataModule):
    """Images and labels from a folder, parquet, the Hub, torchvision, or the samples that ship with the package.

    Batches are the same for the same seed, whatever the cache, and a run that stops in mid-epoch goes on with the
    batches it has not seen.

    Args:
        source: "samples/mnist", "torchvision:MNIST", a folder (`train/CLASS/*.png`, or Hub-style parquet), a Hub id, or
            "shards:PLACE", read as a stream: a folder or URL (https, s3, gs, hf://datasets/org/name) of `zoo shard`.
        image_size: side in px; images are resized (shorter side) and centre-cropped to it. None: as they are.
        channels: 1 grey, 3 RGB; None: grey where all images are (64 of them are looked at), else RGB.
        batch_size: images of a training batch, per process.
        eval_batch_size: of a validation or test batch; None: `batch_size`.
        crop: pad by so many black px and crop back at random, in training; 0 is off.
        flip: mirror half of the training images.
        crop_scale: cut a random rectangle of such a share of the area, aspect 3/4 to 4/3, and resize it to
            image_size, in training ("random resized crop", Szegedy et al. 2015). Of the whole picture where nothing is
            cached, else of the cached one.
        randaugment: timm's description of a RandAugment (Cubuk et al. 2020), "rand-m9-mstd0.5-inc1"; it and crop_scale
            then run in the workers.
        erase: probability with which a rectangle of a training image becomes noise (Zhong et al. 2020).
        crop_pct: share of the shorter side that evaluation sees: 0.875 resizes to image_size / 0.875 before cropping.
        val_fraction: share of the training images held out for validation. With 0, validation is the source's own
            validation split, or its test split where there is none: then choose nothing by it.
        limit: train on so many images, drawn evenly over the classes.
        cache: "memory", "memmap" (a file in `$ZOO_CACHE`, by default ~/.cache/latentzoo), "none" (decode as we go), or
            "auto", by size.
        seed: of the order, the augmentation and the draws.
        num_workers: processes that decode when nothing is cached.
        image_column, label_column: of parquet, where there is more than one.
        lanes: of shards, how many are read at once, by all processes together; a multiple of their number.
        shuffle_buffer: of shards, samples of a lane among which the next one is drawn.
        bad: of shards, a sample that is damaged is refused by name ("refuse"), or left out with a warning ("skip").
    """

    def __init__(
        self,
        source: str = "samples/mnist",
        image_size: int | None = None,
        channels: int | None = None,
        batch_size: int = 256,
        eval_batch_size: int | None = None,
        crop: int = 0,
        flip: bool = False,
        crop_scale: tuple[float, float] | None = None,
        randaugment: str | None = None,
        erase: float = 0.0,
        crop_pct: float = 1.0,
        val_fraction: float = 0.0,
        limit: int | None = None,
        cache: str = "auto",
        seed: int = 0,
        num_workers: int = 2,
        image_column: str | None = None,
        label_column: str | None = None,
        lanes: int = 8,
        shuffle_buffer: int = 128,
        bad: str = "refuse",
    ):
        check_types(ImageData, locals())
        super().__init__()
        check_least(1, batch_size=batch_size, eval_batch_size=eval_batch_size, image_size=image_size, limit=limit)
        check_least(1, lanes=lanes, shuffle_buffer=shuffle_buffer)
        check_least(0, crop=crop, seed=seed, num_workers=num_workers)
        if channels not in (None, 1, 3):
            raise ValueError(f"channels={channels}, allowed 1 for grey and 3 for RGB; leave it out to have looked")
        if cache not in CACHES:
            raise ValueError(f"cache={cache!r}, allowed {', '.join(CACHES)}")
        if crop_scale is not None and not 0 < crop_scale[0] <= crop_scale[1] <= 1:
            raise ValueError(f"crop_scale={crop_scale}, allowed (from, to) with 0 < from ≤ to ≤ 1")
        if not 0 < crop_pct <= 1 or not 0 <= erase <= 1:
            raise ValueError(f"crop_pct={crop_pct}, erase={erase}: allowed above 0 up to 1, and 0 to 1")
        if randaugment is not None and channels == 1:
            raise ValueError("randaugment works on RGB images; give channels=3")
        if not 0 <= val_fraction < 1:
            raise ValueError(f"val_fraction={val_fraction}, allowed 0 to below 1")
        if bad not in ("refuse", "skip"):
            raise ValueError(f"bad={bad!r}, allowed refuse, skip")
        self.save_hyperparameters()
        if self._streams and (val_fraction or limit is not None or cache in ("memory", "memmap")):
            raise ValueError(
                f"val_fraction={val_fraction}, limit={limit}, cache={cache!r}: shards are read as they are; choose "
                "when they are written, or read the source they were made of"
            )
        if bad == "skip" and not self._streams:
            raise ValueError(f"bad='skip' is for shards; write some with `zoo shard {source} FOLDER`, or mend the file")
        self.splits: dict[str, tuple[Pixels, Tensor]] = {}
        self.classes: list[str] = []

    def setup(self, stage: str | None = None) -> None:
        """Read and decode what the stage needs: "fit" train and validation, "validate", "test"."""
        h = self.hparams
        needed = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}.get(stage, ("train", "val", "test"))
        if all(split in self.splits for split in needed):
            return
        if self._streams:
            from zoo.data import shards

            items = shards.find(h.source.removeprefix("shards:"), "images")
        else:
            items = read(h.source, h.image_column, h.label_column)
        items = _hold_out(items, h.val_fraction, h.seed)
        if h.limit is not None:
            items["train"] = items["train"].take(_balanced(items["train"].labels, h.limit, h.seed))
        for split in needed:
            if split not in items:
                raise ValueError(
                    f"{h.source} has no {split} split, only {', '.join(items)}; set val_fraction, or add one"
                )
            self.classes = items[split].classes
            self.splits[split] = self._pixels(items[split], split), torch.as_tensor(items[split].labels)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image, after setup."""
        return next(iter(self.splits.values()))[0].shape

    def train_dataloader(self) -> "Batches":
        return self._batches("train", self.hparams.batch_size, shuffle=True)

    def val_dataloader(self) -> "Batches":
        return self._batches("val", self.hparams.eval_batch_size or self.hparams.batch_size, shuffle=False)

    def test_dataloader(self) -> "Batches":
        return self._batches("test", self.hparams.eval_batch_size or self.hparams.batch_size, shuffle=False)

    def in_order(self, split: str, batch_size: int) -> "Batches":
        """A split as it is, nothing shuffled, changed or left out."""
        pixels, labels = self.splits[split]
        return self._kind(pixels, labels, batch_size, shuffle=False, num_workers=self.hparams.num_workers)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """uint8 (B, C, H, W) on the device → augmented if it is a training batch, float in [0, 1]."""
        x, y, stamp = batch
        if stamp is None:
            return x.to(torch.float32).div_(255), y
        h = self.hparams
        x = augment(x, h.crop, h.flip, stamp).to(torch.float32).div_(255)
        if h.crop_scale and not self._in_workers:
            x = resized_crop(x, h.crop_scale, stamp)
        return (erase(x, h.erase, stamp) if h.erase else x), y

    @property
    def _in_workers(self) -> bool:
        """Whether training images are cut and augmented one by one, before they make a batch."""
        uncached = self.splits["train"][0].array is None
        return self.hparams.randaugment is not None or (self.hparams.crop_scale is not None and uncached)

    def _batches(self, split: str, batch_size: int, shuffle: bool) -> "Batches":
        pixels, labels = self.splits[split]
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        h = self.hparams
        change = Change(pixels.shape[1:], h.crop_scale, h.randaugment) if shuffle and self._in_workers else None
        return self._kind(pixels, labels, batch_size, shuffle, h.seed, rank, world, h.num_workers, change)

    @property
    def _streams(self) -> bool:
        return self.hparams.source.startswith("shards:")

    @property
    def _kind(self) -> Callable[..., "Batches"]:
        if not self._streams:
            return Batches
        from zoo.data.shards import Streamed

        h = self.hparams
        return partial(Streamed, lanes=h.lanes, buffer=h.shuffle_buffer, bad=h.bad)

    def _pixels(self, items: "Items | Shards", split: str) -> "Pixels":
        h = self.hparams
        share = 1.0 if split == "train" else h.crop_pct
        if self._streams:
            return Encoded(items, h.image_size, h.channels, share)
        pixels = Pixels(items, h.image_size, h.channels or natural_channels(items), share)
        size = len(items) * int(np.prod(pixels.shape))
        cache = h.cache
        if cache == "auto":
            cache = "memory" if size <= IN_MEMORY else "memmap" if size <= ON_DISK else "none"
        if cache == "memory":
            pixels.array = torch.from_numpy(pixels.decode_into(np.empty((len(items), *pixels.shape), np.uint8)))
        elif cache == "memmap":
            pixels.array = _mapped(pixels)
        return pixels


class Pixels:
    """The images of a split as uint8 (C, H, W): from `array` (N, C, H, W) where it is set, else decoded one by one."""

    def __init__(self, items: Items, image_size: int | None, channels: int, crop_pct: float = 1.0):
        self.items, self.image_size, self.channels, self.crop_pct = items, image_size, channels, crop_pct
        self.array: Tensor | None = None
        self.shape: tuple[int, int, int] | None = None
        self.shape = tuple(self[0].shape)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Tensor:
        pixels = _fit(self.whole(i), self.image_size, self.crop_pct)
        if self.shape is not None and pixels.shape != (self.shape[1], self.shape[2], self.shape[0]):
            (height, width), (h, w) = self.shape[1:], pixels.shape[:2]
            raise ValueError(f"{self.items.source} mixes {height}×{width} and {h}×{w} px images; give image_size")
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy())  # (C, H, W)

    def whole(self, i: int) -> np.ndarray:
        """An image before it is made to fit, (H, W, C) uint8; the cached one where there is a cache."""
        if self.array is not None:
            return self.array[i].permute(1, 2, 0).numpy()
        return decode(self.items.images[i], self.channels, self.items.source)

    def decode_into(self, out: np.ndarray) -> np.ndarray:
        """All images into out, (N, C, H, W)."""

        def some(part: range) -> None:
            for i in part:
                out[i] = self[i].numpy()

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(some, [range(i, min(i + 256, len(self))) for i in range(0, len(self), 256)]))
        return out

    def fingerprint(self) -> str:
        """Of the encoded images and the geometry: another file, size or channel count is another cache."""
        geometry = f"{len(self)} {self.image_size} {self.shape}" + (f" {self.crop_pct}" if self.crop_pct < 1 else "")
        digest = hashlib.blake2b(geometry.encode(), digest_size=12)
        for item in self.items.images:
            if isinstance(item, Path):
                stat = item.stat()
                item = f"{item.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode()
            digest.update(item if isinstance(item, bytes) else np.ascontiguousarray(item))
        return digest.hexdigest()


class Encoded(Pixels):
    """Images of shards: of a sample that was read, instead of by number."""

    def __init__(self, items: "Shards", image_size: int | None, channels: int | None, crop_pct: float = 1.0):
        if image_size is None and items.size is None:
            raise ValueError(f"the images of {items.source} have several sizes; give image_size")
        self.items, self.image_size, self.crop_pct, self.array = items, image_size, crop_pct, None
        self.channels = channels or items.channels or 3
        self.shape = (self.channels, *((image_size, image_size) if image_size else items.size))

    def whole(self, sample: "Sample") -> np.ndarray:
        return decode(sample.data, self.channels, str(sample))


class Change:
    """What happens to one training image in a worker: random resized crop, RandAugment; the same for the same seed."""

    def __init__(self, shape: tuple[int, int], crop_scale: tuple[float, float] | None, randaugment: str | None):
        from torchvision.transforms import InterpolationMode, RandomResizedCrop

        mode = InterpolationMode.BICUBIC
        self.crop = crop_scale and RandomResizedCrop(tuple(shape), tuple(crop_scale), interpolation=mode)
        self.shape, self.policy = shape, randaugment and policy(randaugment, min(shape))

    def __call__(self, pixels: np.ndarray, seed: int) -> Tensor:
        """Pixels (H, W, C) uint8 → (C, height, width) uint8."""
        from PIL import Image

        with seeded(seed):
            image = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
            image = self.crop(image) if self.crop else image
            image = self.policy(image) if self.policy else image
        changed = np.asarray(image).reshape(*self.shape, -1)
        return torch.from_numpy(changed.transpose(2, 0, 1).copy())  # (C, H, W)


def policy(description: str, side: int) -> Any:
    """timm's RandAugment of a description, for images of such a side in px."""
    from timm.data.auto_augment import rand_augment_transform

    # The bounds of its moves are in pixels; grey fills what they uncover.
    options = {"translate_const": int(0.45 * side), "img_mean": (124, 116, 104)}
    augment = rand_augment_transform(description, options)
    for op in augment.ops:
        if op.name.startswith("Posterize"):  # at full strength it asks for 0 bits, which Pillow 12 refuses
            op.level_fn = lambda *args, level=op.level_fn: (max(1, level(*args)[0]),)
    return augment


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """What timm and torchvision draw inside is decided by a seed, and nobody else's draws are disturbed."""
    python, kept, torchs = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    # The generator itself: torch.manual_seed notes the stack at every call, for a GPU that may be set up later.
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(kept)
        torch.set_rng_state(torchs)


class Changed:
    """Images under a Change, by (index, seed)."""

    def __init__(self, pixels: Pixels, change: Change):
        self.pixels, self.change = pixels, change

    def __getitem__(self, key: tuple[int, int]) -> Tensor:
        return self.change(self.pixels.whole(key[0]), key[1])


class Batches:
    """Batches of one split, (uint8 (B, C, H, W), int64 (B,), stamp), in an order that seed and epoch decide.

    The stamp seeds a training batch's augmentation; it is None for evaluation. `state_dict` says how far an epoch has
    come, so that Lightning resumes it in the middle. With several processes, each takes every world-th image, and all
    take equally many batches: training leaves out what does not fill one, evaluation leaves out nothing and evens out
    the batches.

    Raises:
        ValueError: fewer images than make a training batch, or than there are processes.
    """

    def __init__(
        self,
        pixels: Pixels,
        labels: Tensor,
        batch_size: int,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        num_workers: int = 2,
        change: Change | None = None,
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

    def indices(self, step: int) -> list[int]:
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


def augment(x: Tensor, crop: int, flip: bool, stamp: list[int]) -> Tensor:
    """Pad-and-crop and mirror a batch (B, C, H, W) on its device, image by image; the same for the same stamp."""
    generator = torch.Generator().manual_seed(mix(*stamp))
    b, _, h, w = x.shape
    if crop:
        shift = torch.randint(0, 2 * crop + 1, (2, b), generator=generator).to(x.device)
        rows = shift[0, :, None] + torch.arange(h, device=x.device)  # (B, H)
        columns = shift[1, :, None] + torch.arange(w, device=x.device)  # (B, W)
        images = torch.arange(b, device=x.device)[:, None, None]
        padded = F.pad(x, (crop,) * 4)  # (B, C, H + 2 crop, W + 2 crop)
        x = padded[images, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)  # (B, C, H, W)
    if flip:
        mirrored = torch.rand(b, generator=generator).to(x.device) < 0.5
        x = torch.where(mirrored[:, None, None, None], x.flip(-1), x)
    return x


def resized_crop(x: Tensor, scale: tuple[float, float], stamp: list[int]) -> Tensor:
    """A random rectangle of each image (B, C, H, W), float in [0, 1], resized to the whole (bicubic), on its device.

    One draw of area and aspect per image, cut to the image where it is too long: no loop of attempts.
    """
    generator = torch.Generator().manual_seed(mix("crop", *stamp))
    b, _, height, width = x.shape
    area, aspect, down, right = torch.rand(4, b, generator=generator)  # (B,) each
    area = scale[0] + (scale[1] - scale[0]) * area
    aspect = (4 / 3) ** (2 * aspect - 1)
    tall, wide = (area / aspect).sqrt().clamp(max=1), (area * aspect).sqrt().clamp(max=1)  # (B,) shares of a side
    zero = torch.zeros(b)
    centre = torch.stack([(2 * right - 1) * (1 - wide), (2 * down - 1) * (1 - tall)], dim=1)  # (B, 2), in [-1, 1]
    theta = torch.stack([torch.stack([wide, zero], 1), torch.stack([zero, tall], 1), centre], dim=2).to(x)  # (B, 2, 3)
    grid = F.affine_grid(theta, [b, 1, height, width], align_corners=False)  # (B, H, W, 2)
    return F.grid_sample(x, grid, "bicubic", "reflection", align_corners=False).clamp_(0, 1)


def erase(x: Tensor, probability: float, stamp: list[int]) -> Tensor:
    """Noise in a rectangle, 2 to 33 % of the area, of some images (B, C, H, W) in [0, 1], on their device."""
    generator = torch.Generator().manual_seed(mix("erase", *stamp))
    b, _, height, width = x.shape
    chance, area, aspect, down, right = torch.rand(5, b, generator=generator)  # (B,) each
    area, aspect = 0.02 + (1 / 3 - 0.02) * area, (1 / 0.3) ** (2 * aspect - 1)
    inside = torch.ones(b, 1, 1, dtype=torch.bool)
    for dim, side, share, at in ((1, height, (area * aspect).sqrt(), down), (2, width, (area / aspect).sqrt(), right)):
        length = (share.clamp(max=1) * side).round()  # (B,)
        place = torch.arange(side) - (at * (side - length + 1)).floor()[:, None]  # (B, side)
        inside = inside & ((place >= 0) & (place < length[:, None])).unsqueeze(3 - dim)  # (B, H or 1, W)
    inside = (inside & (chance < probability)[:, None, None]).to(x.device)[:, None]  # (B, 1, H, W)
    noise = torch.randn(x.shape, generator=generator).mul_(0.25).add_(0.5).clamp_(0, 1)
    return torch.where(inside, noise.to(x), x)


def mix(*numbers: int | str) -> int:
    """One well-spread seed from several small numbers."""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=7).digest(), "little")


def _fit(pixels: np.ndarray, size: int | None, crop_pct: float = 1.0) -> np.ndarray:
    """Resize the shorter side to `size / crop_pct` and crop the centre; (H, W, C) uint8."""
    from PIL import Image

    if size is None or (pixels.shape[:2] == (size, size) and crop_pct == 1):
        return pixels
    h, w = pixels.shape[:2]
    scale = size / crop_pct / min(h, w)
    image = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
    image = image.resize((max(size, round(w * scale)), max(size, round(h * scale))), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size))).reshape(size, size, -1)


def _mapped(pixels: Pixels) -> Tensor:
    """A memory map of the decoded images; written aside and renamed, so that a cache file is whole or not there."""
    folder = Path(os.environ.get("ZOO_CACHE", Path.home() / ".cache" / "latentzoo")) / "images"
    path = folder / f"{pixels.fingerprint()}.npy"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f"{path.stem}.lock"):  # of a machine's processes, one decodes
        if not path.is_file():
            aside = path.with_suffix(f".{os.getpid()}.part")
            try:
                out = new_map(aside, np.uint8, (len(pixels), *pixels.shape))
                pixels.decode_into(out)
                out.flush()
                os.replace(aside, path)
            finally:
                aside.unlink(missing_ok=True)
    # Copy-on-write: torch wants a writable array.
    return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))


def new_map(path: Path, dtype: type, shape: tuple[int, ...]) -> np.memmap:
    """A new .npy file, mapped, its place on the disk taken at once: writing to a map of a full disk kills the process.

    Raises:
        OSError: the disk is full.
    """
    out = np.lib.format.open_memmap(path, "w+", dtype, shape)
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as f:
            os.posix_fallocate(f.fileno(), 0, path.stat().st_size)
    return out


def _hold_out(items: dict[str, Items], fraction: float, seed: int) -> dict[str, Items]:
    if fraction:
        order = np.random.default_rng(seed).permutation(len(items["train"]))
        held = max(1, round(fraction * len(order)))
        items = items | {"train": items["train"].take(order[held:]), "val": items["train"].take(order[:held])}
    if "val" not in items and "test" in items:
        items = items | {"val": items["test"]}
    if "test" not in items and "val" in items:
        items = items | {"test": items["val"]}
    return items


def _balanced(labels: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """`limit` indices, evenly over the classes as far as they go."""
    order = np.random.default_rng(seed).permutation(len(labels))
    turn = np.empty(len(labels), dtype=np.int64)  # how many of its class come before it
    for c in np.unique(labels):
        mine = order[labels[order] == c]
        turn[mine] = np.arange(len(mine))
    return order[np.argsort(turn[order], kind="stable")][:limit]
