"""ImageData: labelled images from any source, batches (B, C, H, W) in [0, 1] with labels (B,) int64.

A set that fits is decoded once into uint8, and a batch is one indexing of that array. uint8 travels to the device; it
is cropped, flipped and scaled there. N images of a split · B of a batch · C channels · H W sides in pixels
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

import lightning as L
import numpy as np
import torch
from lightning.fabric.utilities.data import AttributeDict
from torch import Tensor

from zoo.data import own
from zoo.data.augment import Change, augment, erase, resized_crop
from zoo.data.batches import AfterSetup, Batches, DataModule, fitting_batch
from zoo.data.pictures import ValueRange, check_range, decode
from zoo.data.pixels import Pixels, fitted, mapped, readable
from zoo.data.readers import (
    ALL,
    STAGES,
    Items,
    described,
    hold_out,
    lacking,
    natural_channels,
    no_columns,
    read,
    serving,
    stand_in,
    together,
)
from zoo.data.seeds import balanced
from zoo.data.shards import Sample, Shards, Streamed, find, join
from zoo.nn.checks import check_least, check_types
from zoo.nn.protocols import Input

CACHES = ("auto", "memory", "memmap", "none")
IN_MEMORY, ON_DISK = 16e6, 32e9  # bytes of decoded pixels up to which "auto" takes each


class ImageData(DataModule):
    """Images and labels from a folder, parquet, the Hub, torchvision, or the samples that ship with the package.

    Batches are the same for the same seed, whatever the cache, and a run that stops in mid-epoch goes on with the
    batches it has not seen. Pictures are upright, whatever their camera's tag (EXIF) says, and lie on white where they
    are transparent.

    Args:
        source: "samples/mnist", "torchvision:MNIST", a folder (`train/CLASS/*.png`, `CLASS/*`, pictures without
            classes, or Hub-style parquet), a picture or several, a CSV or JSONL that lists them, a parquet file, a Hub
            id, or "shards:PLACE", read as a stream: a folder or URL (https, s3, gs, hf://datasets/org/name) of
            `zoo shard`.
        image_size: side in px; images are resized (shorter side) and centre-cropped to it. None: as they are.
        channels: 1 grey, 3 RGB; None: grey where all images are (64 of them are looked at), else RGB.
        batch_size: images of a training batch, per process. None: what fits the set, a power of two from 8 to 64, so
            that an epoch has about 16 of them.
        eval_batch_size: of a validation or test batch; None: `batch_size`.
        crop: pad by so many black px and crop back at random, in training; 0 is off. Or from and to in px: the shorter
            side of the whole picture is resized to one of these, and image_size cut out at random (VQGAN's 256 to 256).
        flip: mirror half of the training images.
        crop_scale: cut a random rectangle of such a share of the area, aspect 3/4 to 4/3, and resize it to
            image_size, in training ("random resized crop", Szegedy et al. 2015). Of the whole picture where nothing is
            cached, else of the cached one.
        randaugment: timm's description of a RandAugment (Cubuk et al. 2020), "rand-m9-mstd0.5-inc1"; it and crop_scale
            then run in the workers.
        erase: probability with which a rectangle of a training image becomes noise (Zhong et al. 2020).
        crop_pct: share of the shorter side that evaluation sees: 0.875 resizes to image_size / 0.875 before cropping.
        val_fraction: share of the training images held out for validation. None: a tenth, and of each class that has
            two at least one, where the source has neither validation nor test split, else 0. With 0, validation is the
            source's own validation split, or its test split where there is none: then choose nothing by it.
        keep_test: the test split never serves as validation: with None, a tenth is held out beside it too, where the
            source has no validation split of its own.
        limit: train on so many images, drawn evenly over the classes.
        cache: "memory", "memmap" (decoded once for all seeds and limits, in `$ZOO_CACHE`, by default
            ~/.cache/latentzoo; `zoo cache` lists and removes), "none" (decode as we go), or "auto", by size.
        seed: of the order, the augmentation and the draws.
        num_workers: processes that decode when nothing is cached.
        image_column, label_column: of a table, where there is more than one; a label_column "" reads without labels.
        lanes: of shards, how many are read at once, by all processes together; a multiple of their number.
        shuffle_buffer: of shards, samples of a lane among which the next one is drawn.
        bad: a picture that is damaged is refused by name ("refuse"), or left out with a count ("skip").
        value_range: of pictures with more than 8 bits, the values that are black and white. None takes 16 bits from 0
            to 65,535, and refuses 32 bits and floats.
        stratify: hold out of each class its share; False draws without looking at classes, as earlier versions did.
        train, val, test: in Python, Datasets of your own in the place of a source: any with a length, or lists, of
            (image, label), images alone, or dicts with image and label. An image is a Pillow picture, a path, bytes, an
            array (H, W, C) or a tensor (C, H, W), uint8 or floats in [0, 1]. Each sample is asked for anew in every
            epoch, unless cache is "memory".
    """

    hparams: AttributeDict  # the arguments, by name
    # What the recipe of a run meant that was begun before there was the keyword.
    older: ClassVar = {"stratify": False, "val_fraction": 0.0}
    every_class = False  # of a folder: set before it is read by who trains on nothing, to keep what training lacks

    def __init__(
        self,
        source: str | list[str] = "samples/mnist",
        image_size: int | None = None,
        channels: int | None = None,
        batch_size: int | None = 256,
        eval_batch_size: int | None = None,
        crop: int | tuple[int, int] = 0,
        flip: bool = False,
        crop_scale: tuple[float, float] | None = None,
        randaugment: str | None = None,
        erase: float = 0.0,
        crop_pct: float = 1.0,
        val_fraction: float | None = None,
        limit: int | None = None,
        cache: str = "auto",
        seed: int = 0,
        num_workers: int = 2,
        image_column: str | None = None,
        label_column: str | None = None,
        lanes: int = 8,
        shuffle_buffer: int = 128,
        bad: str = "refuse",
        value_range: tuple[float, float] | None = None,
        stratify: bool = True,
        keep_test: bool = False,
        train: Any = None,
        val: Any = None,
        test: Any = None,
    ):
        self.given = {role: data for role, data in (("train", train), ("val", val), ("test", test)) if data is not None}
        if self.given and source != "samples/mnist":
            raise ValueError(f"source={source!r} and {', '.join(self.given)}: Datasets are a source; give one of both")
        if self.given:
            source = ", ".join(f"{role} {type(data).__name__}" for role, data in self.given.items())
        listed = [source] if isinstance(source, str | Path) else source
        if not isinstance(listed, list | tuple) or not all(isinstance(file, str | Path) for file in listed):
            raise ValueError(f"source={source!r}, allowed a name, a path, or a list of paths")
        source = str(source) if isinstance(source, str | Path) else [str(file) for file in source]
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
        if not isinstance(crop, int):
            if crop_scale is not None or not (image_size or math.inf) <= crop[0] <= crop[1]:
                raise ValueError(
                    f"crop={crop} with image_size={image_size}, crop_scale={crop_scale}: allowed (from, to) with "
                    "image_size ≤ from ≤ to, and no crop_scale"
                )
            if cache in ("memory", "memmap"):
                raise ValueError(f"crop={crop} cuts whole pictures, cache={cache!r} holds squares; set cache to none")
        if not 0 < crop_pct <= 1 or not 0 <= erase <= 1:
            raise ValueError(f"crop_pct={crop_pct}, erase={erase}: allowed above 0 up to 1, and 0 to 1")
        if randaugment is not None and channels == 1:
            raise ValueError("randaugment works on RGB images; give channels=3")
        if not 0 <= (val_fraction or 0) < 1:
            raise ValueError(f"val_fraction={val_fraction}, allowed 0 to below 1")
        check_range(value_range)
        if bad not in ("refuse", "skip"):
            raise ValueError(f"bad={bad!r}, allowed refuse, skip")
        if self.given and (cache == "memmap" or bad == "skip"):
            raise ValueError(f"cache={cache!r}, bad={bad!r}: files and rows are kept or left out, of Datasets neither")
        self.save_hyperparameters(ignore=["train", "val", "test"])  # which no file takes
        if self._streams and (val_fraction or limit is not None or cache in ("memory", "memmap")):
            raise ValueError(
                f"val_fraction={val_fraction}, limit={limit}, cache={cache!r}: shards are read as they are; choose "
                "when they are written, or read the source they were made of"
            )
        self.splits: dict[str, tuple[Pixels | Encoded, Tensor]] = AfterSetup()
        self._found: Mapping[str, Items | Shards] | None = None
        self.classes: list[str] = []
        self.served: dict[str, str] = {}  # role → the split of the source that serves as it
        self.labelled = True  # whether all splits that were set up have labels

    def setup(self, stage: str | None = None) -> None:
        """Read and decode what the stage needs: "fit" train and validation, "validate", "test"."""
        needed = STAGES.get(stage, ("train", "val", "test"))
        if all(split in self.splits for split in needed):
            return
        items = self._items()
        labelled = {role: some.labelled for role, some in items.items()}
        self.served = serving(labelled, self.said, needed) | {role: self.served[role] for role in self.splits}
        if self.hparams.keep_test and "val" in needed and self.served.get("val") == "test":
            raise ValueError(
                f"{self.said} has no validation split with labels, and its test split is not to choose by; leave "
                "data.val_fraction out to hold a tenth out, add a split val/, or give --data.keep_test false"
            )
        for split in needed:
            if split not in self.served:
                raise self._lacking(split, items)
            some = items[self.served[split]]
            self.classes = some.classes
            self.labelled &= some.labelled
            self.splits[split] = self._pixels(some, split), torch.as_tensor(some.labels)

    @property
    def said(self) -> str:
        """The source in a few words."""
        return described(self.hparams.source)

    def roles(self) -> dict[str, str]:
        """The splits that the source itself has, `train`, `val`, `test`, each with what it holds, in words."""
        splits = self._splits()
        return {
            role: f"{len(splits[role])} pictures" + ("" if splits[role].labelled else " without labels")
            for role in splits
        }

    def names(self, split: str) -> Sequence[str]:
        """What the pictures of a split are called, in order: paths in the source, "row 5" of a table, or "test/17".

        Args:
            split: "train", "val", "test", once it is set up, or ALL.

        Raises:
            ValueError: a stream of which samples are left out.
        """
        if self._streams and self.hparams.bad == "skip":
            raise ValueError(f"{self.said} is a stream; which samples bad='skip' leaves out is known once it is read")
        return self._split(split)[0].items.names

    def _splits(self) -> Mapping[str, Items | Shards]:
        """The splits that the source itself has, undecoded; read once, so what is said of it is said once."""
        if self._found is None:
            self._found = self._read()
        return self._found

    def _read(self) -> Mapping[str, Items | Shards]:
        h = self.hparams
        if self._streams:
            no_columns(h.source, h.image_column, h.label_column)
            return find(h.source.removeprefix("shards:"), "images")
        how = (h.image_column, h.label_column, self.every_class)
        items = own.read(self.given) if self.given else read(h.source, *how)
        if h.bad == "skip":
            items = {role: readable(some, h.value_range) for role, some in items.items()}
        return items

    def _items(self) -> Mapping[str, Items | Shards]:
        """The splits that are served: some of training may be held out, or left out."""
        h, splits = self.hparams, self._splits()
        if self._streams or "train" not in splits:
            return splits
        items = dict(cast(Mapping[str, Items], splits))
        train, share = items["train"], h.val_fraction
        if share is None and ("val" in items or ("test" in items and not h.keep_test)):
            share = 0.0
        some = "pictures" if len(items) == 1 else "training pictures"
        drawn = hold_out(train.labels, share, h.seed, h.stratify, f"{some} of {self.said}")
        if drawn is not None:
            items |= {"train": train.take(drawn[0]), "val": train.take(drawn[1])}
        if h.limit is not None:
            items["train"] = items["train"].take(balanced(items["train"].labels, h.limit, h.seed))
        return items

    def _lacking(self, split: str, items: Mapping[str, Items | Shards]) -> ValueError:
        if split != "train" and self.hparams.val_fraction is None and set(items) == {"train"} and not self._streams:
            return ValueError(
                f"{self.said} holds one picture, and none that could be held out for validation; add some, or a folder "
                "of pictures val/"
            )
        return lacking(self.said, split, items)

    def _every(self) -> Items | Shards:
        """All that the source holds, undecoded."""
        splits: Mapping[str, Any] = self._splits()
        return join(splits) if self._streams else together(splits)

    def _split(self, split: str) -> "tuple[Pixels | Encoded, Tensor]":
        """The pictures and labels of a split; all of them are read when they are first asked for."""
        if split == ALL and ALL not in self.splits:
            some = self._every()
            self.classes, self.served[ALL] = some.classes, ALL
            self.splits[ALL] = self._pixels(some, ALL), torch.as_tensor(some.labels)
        return self.splits[split]

    def encoded(self, split: str) -> Sequence[Any] | np.ndarray:
        """The images of a split, or of the one that serves as it, as the source has them: paths, bytes, or arrays.

        Raises:
            ValueError: a stream, whose images are not at hand; or no such split.
        """
        if self._streams:
            raise ValueError(f"{self.said} is a stream")
        if split == ALL:
            return cast(Items, self._every()).images
        items = cast(dict[str, Items], self._items())
        role = stand_in({role: some.labelled for role, some in items.items()}, split)
        if role is None:
            raise self._lacking(split, items)
        return items[role].images

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image, after setup."""
        return self.splits[next(iter(self.splits), "train")][0].shape

    def train_dataloader(self) -> Batches:
        count = len(self.splits["train"][1]) // (self.trainer.world_size if self.trainer else 1)
        return self._batches("train", self.hparams.batch_size or fitting_batch(count), shuffle=True)

    def val_dataloader(self) -> Batches:
        return self._batches("val", self._evaluated, shuffle=False)

    def test_dataloader(self) -> Batches:
        return self._batches("test", self._evaluated, shuffle=False)

    def predict_dataloader(self) -> Batches:
        """Every picture of the source, in order."""
        return self.in_order(ALL, self._evaluated)

    @property
    def _evaluated(self) -> int:
        """Images of a validation or test batch."""
        return self.hparams.eval_batch_size or self.hparams.batch_size or 256

    def in_order(self, split: str, batch_size: int) -> Batches:
        """A split as it is, nothing shuffled, changed or left out; ALL is each picture of every split."""
        pixels, labels = self._split(split)
        return self._kind(pixels, labels, batch_size, shuffle=False, num_workers=self.hparams.num_workers)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """uint8 (B, C, H, W) on the device → augmented if it is a training batch, float in [0, 1]."""
        x, y, stamp = batch
        if stamp is None:
            return x.to(torch.float32).div_(255), y
        h = self.hparams
        x = augment(x, 0 if self._squares else h.crop, h.flip, stamp).to(torch.float32).div_(255)
        if h.crop_scale and not self._in_workers:
            x = resized_crop(x, h.crop_scale, stamp)
        return (erase(x, h.erase, stamp) if h.erase else x), y

    @property
    def _in_workers(self) -> bool:
        """Whether training images are cut and augmented one by one, before they make a batch."""
        uncached = self.splits["train"][0].array is None
        crops = self.hparams.crop_scale is not None and uncached
        return self.hparams.randaugment is not None or self._squares or crops

    @property
    def _squares(self) -> bool:
        """Whether training images are squares cut of whole pictures."""
        return not isinstance(self.hparams.crop, int)

    def _batches(self, split: str, batch_size: int, shuffle: bool) -> Batches:
        pixels, labels = self.splits[split]
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        h = self.hparams
        cut = h.crop if self._squares else h.crop_scale
        change = Change(pixels.shape[1:], cut, h.randaugment) if shuffle and self._in_workers else None
        return self._kind(pixels, labels, batch_size, shuffle, h.seed, rank, world, h.num_workers, change)

    @property
    def _streams(self) -> bool:
        return self.said.startswith("shards:")

    @property
    def _kind(self) -> Callable[..., Batches]:
        if not self._streams:
            return Batches
        h = self.hparams
        return partial(Streamed, lanes=h.lanes, buffer=h.shuffle_buffer, bad=h.bad)

    def _pixels(self, items: Items | Shards, split: str) -> "Pixels | Encoded":
        h = self.hparams
        share = 1.0 if split == "train" else h.crop_pct
        if isinstance(items, Shards):
            return Encoded(items, h.image_size, h.channels, share, h.value_range)
        pixels = Pixels(items, h.image_size, h.channels or natural_channels(items.native), share, h.value_range)
        size = len(items) * int(np.prod(pixels.shape))
        cache = "none" if self._squares and split == "train" else h.cache
        if cache == "auto" and self.given:
            cache = "none"  # a Dataset may make another picture each time
        elif cache == "auto":
            kept = size <= ON_DISK and split != ALL  # which is read once
            cache = "memory" if size <= IN_MEMORY else "memmap" if kept else "none"
        if cache == "memory":
            pixels.array = torch.from_numpy(pixels.decode_into(np.empty((len(items), *pixels.shape), np.uint8)))
        elif cache == "memmap":
            pixels.array = mapped(pixels)
        pixels.items = replace(items, whole=None)  # nobody asks again, and a spawned worker would get it all
        return pixels


def follow(data: L.LightningDataModule, takes: Input) -> None:
    """Have side and channels of a DataModule's pictures be a model's, where its keywords leave them open."""
    if takes.kind != "image" or takes.size[0] != takes.size[1]:
        return
    for key, value in (("image_size", takes.size[0]), ("channels", takes.channels)):
        if data.hparams.get(key, value) is None:
            data.hparams[key] = value


class Encoded:
    """Images of shards, each of a sample that was read instead of by number."""

    array = None

    def __init__(
        self,
        items: Shards,
        image_size: int | None,
        channels: int | None,
        crop_pct: float = 1.0,
        value_range: ValueRange | None = None,
    ):
        size = items.size if image_size is None else (image_size, image_size)
        if size is None:
            raise ValueError(f"the images of {items.source} have several sizes; give image_size")
        self.items, self.image_size, self.crop_pct, self.value_range = items, image_size, crop_pct, value_range
        self.shape = (channels or items.channels or 3, *size)

    def __getitem__(self, sample: Sample) -> Tensor:
        return fitted(self.whole(sample), self.image_size, self.crop_pct, self.shape, self.items.source)  # (C, H, W)

    def whole(self, sample: Sample) -> np.ndarray:
        """An image before it is made to fit, (H, W, C) uint8."""
        return decode(sample.data, self.shape[0], str(sample), self.value_range)
