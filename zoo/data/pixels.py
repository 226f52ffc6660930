"""The images of a split as uint8 pixels: in memory, in a memory map, or decoded as they are asked for."""

import hashlib
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.data import cache
from zoo.data.pictures import ValueRange, decode, reason
from zoo.data.readers import Items
from zoo.data.transforms import fit
from zoo.registry import cache_folder

DECODER = "upright, on white, 16 bits by 65535"  # what `decode` makes of a picture; changes with it, so caches do


class Pixels:
    """The images of a split as uint8 (C, H, W): from `array` (N, C, H, W) where it is set, else decoded one by one."""

    def __init__(
        self,
        items: Items,
        image_size: int | None,
        channels: int,
        crop_pct: float = 1.0,
        value_range: ValueRange | None = None,
    ):
        self.items, self.image_size, self.channels, self.crop_pct = items, image_size, channels, crop_pct
        self.value_range = value_range
        self.array: Tensor | Rows | None = None
        self.cached: tuple[Path, tuple[int, ...], np.ndarray | None] | None = None  # of the cache, which `array` maps
        # Of the source's first image: no seed or limit decides the shape.
        first = decode(items.native.images[0], channels, items.source, value_range)
        height, width, depth = fit(first, image_size, crop_pct).shape
        self.shape: tuple[int, int, int] = (depth, height, width)

    def __len__(self) -> int:
        return len(self.items)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | ({} if self.cached is None else {"array": None})  # a worker maps the file, nothing is sent

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self.cached is not None:
            place, shape, index = self.cached
            try:
                self.array = _array(cache.mapped(place, shape), index)
            except FileNotFoundError as error:
                raise FileNotFoundError(
                    f"{place} was removed while it was read; begin again, or go on with `zoo fit --resume`, and "
                    "it is made again"
                ) from error

    def __getitem__(self, i: int) -> Tensor:
        return fitted(self.whole(i), self.image_size, self.crop_pct, self.shape, self.items.source)  # (C, H, W)

    def whole(self, i: int) -> np.ndarray:
        """An image before it is made to fit, (H, W, C) uint8; the cached one where there is a cache."""
        if self.array is not None:
            return self.array[i].permute(1, 2, 0).numpy()
        return decode(self.items.images[i], self.channels, self.items.source, self.value_range)

    def decode_into(self, out: np.ndarray) -> np.ndarray:
        """All images into out, (N, C, H, W)."""

        def some(part: range) -> None:
            for i in part:
                out[i] = self[i].numpy()

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(some, [range(i, min(i + 256, len(self))) for i in range(0, len(self), 256)]))
        return out

    def fingerprint(self) -> str:
        """Of the source's encoded images, their decoder and the geometry: with any of them the cache is another."""
        geometry = f"{DECODER} {len(self)} {self.image_size} {self.shape}"
        geometry += f" {self.crop_pct}" if self.crop_pct < 1 else ""
        geometry += f" {self.value_range}" if self.value_range else ""
        digest = hashlib.blake2b(geometry.encode(), digest_size=12)
        folders: dict[str, str] = {}  # as they are named → as they are; to resolve each file takes minutes of a million
        for item in self.items.images:
            if isinstance(item, Path):
                stat, (folder, name) = item.stat(), os.path.split(item)
                if folder not in folders:
                    folders[folder] = os.path.realpath(folder)
                item = f"{os.path.join(folders[folder], name)} {stat.st_size} {stat.st_mtime_ns}".encode()
            digest.update(item if isinstance(item, bytes) else np.ascontiguousarray(item).data)
        return digest.hexdigest()


def readable(items: Items, value_range: ValueRange | None) -> Items:
    """Without the pictures that cannot be decoded; they are counted, and the first ones named, in one line.

    Which they are is remembered, so that each is decoded once for this on a machine. Arrays are taken as they are.

    Raises:
        ValueError: none can be decoded.
    """
    images = items.images
    if not isinstance(images, list):
        return items

    def why(i: int) -> str:
        try:
            decode(images[i], 3, items.source, value_range)
        except (OSError, ValueError) as error:
            return reason(error)
        return ""

    reasons = cache.remembered(f"{DECODER} {value_range}", [_key(item) for item in images], why)
    good = [i for i, said in enumerate(reasons) if not said]
    bad = [said for said in reasons if said]
    if not good:
        raise ValueError(f"none of {len(images)} pictures of {items.source} can be read; the first: {bad[0]}")
    if bad:
        some = "; ".join(bad[:5]) + ("; …" if len(bad) > 5 else "")
        warnings.warn(f"{len(bad)} of {len(images)} pictures of {items.source} are left out: {some}", stacklevel=2)
    ids = None if items.ids is None else [items.ids[i] for i in good]
    # Not `take`: of what is damaged, nothing is asked any more.
    return Items([images[i] for i in good], items.labels[good], items.classes, items.source, ids)


def _key(item: Any) -> str:
    """What tells an encoded picture from all others."""
    if isinstance(item, Path):
        about = item.stat()
        return f"{item.absolute()} {about.st_size} {about.st_mtime_ns}"
    return hashlib.blake2b(item, digest_size=16).hexdigest()


def fitted(
    pixels: np.ndarray, image_size: int | None, crop_pct: float, shape: tuple[int, int, int], source: str
) -> Tensor:
    """Pixels (H', W', C) uint8, resized and cropped to image_size, as (C, H, W).

    Raises:
        ValueError: another shape comes out, which only images of several sizes do where image_size is None.
    """
    pixels = fit(pixels, image_size, crop_pct)  # (H, W, C)
    channels, height, width = shape
    if pixels.shape != (height, width, channels):
        h, w = pixels.shape[:2]
        raise ValueError(f"{source} mixes {height}×{width} and {h}×{w} px images; give image_size")
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())  # (C, H, W)


def mapped(pixels: Pixels) -> "Tensor | Rows":
    """A memory map of the images, decoded once for all seeds, splits and limits of their source."""
    items, native = pixels.items, pixels.items.native
    every = copy(pixels)
    every.items = native
    index = np.arange(len(native)) if items.index is None else items.index
    size = "as they are" if pixels.image_size is None else f"crop {pixels.crop_pct:g}"
    about = {"source": items.source, "geometry": f"{'×'.join(map(str, pixels.shape))}, {size}"}
    shape = (len(native), *pixels.shape)
    key = every.fingerprint()
    copied = cache.filled(key, shape, index, lambda i: every[i].numpy(), about)
    pixels.cached = cache_folder() / "images" / key, shape, items.index
    return _array(copied, items.index)


def _array(copied: np.memmap, index: np.ndarray | None) -> "Tensor | Rows":
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nobody here writes to it
        array = torch.from_numpy(copied)
    return array if index is None else Rows(array, torch.from_numpy(index))


class Rows:
    """Some rows of an array, in an order of their own; what is asked for is copied, as of a tensor."""

    def __init__(self, array: Tensor, index: Tensor):
        self.array, self.index = array, index
        self.shape = torch.Size((len(index), *array.shape[1:]))

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: Any) -> Tensor:
        return self.array[self.index[i]]


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
