"""The images of a split as uint8 pixels: in memory, in a memory map, or decoded as they are asked for."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from zoo.data.readers import Items, decode


class Pixels:
    """The images of a split as uint8 (C, H, W): from `array` (N, C, H, W) where it is set, else decoded one by one."""

    def __init__(self, items: Items, image_size: int | None, channels: int, crop_pct: float = 1.0):
        self.items, self.image_size, self.channels, self.crop_pct = items, image_size, channels, crop_pct
        self.array: Tensor | None = None
        height, width, depth = _fit(self.whole(0), image_size, crop_pct).shape
        self.shape: tuple[int, int, int] = (depth, height, width)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Tensor:
        return fitted(self.whole(i), self.image_size, self.crop_pct, self.shape, self.items.source)  # (C, H, W)

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
            digest.update(item if isinstance(item, bytes) else np.ascontiguousarray(item).data)
        return digest.hexdigest()


def fitted(
    pixels: np.ndarray, image_size: int | None, crop_pct: float, shape: tuple[int, int, int], source: str
) -> Tensor:
    """Pixels (H', W', C) uint8, resized and cropped to image_size, as (C, H, W).

    Raises:
        ValueError: another shape comes out, which only images of several sizes do where image_size is None.
    """
    pixels = _fit(pixels, image_size, crop_pct)  # (H, W, C)
    channels, height, width = shape
    if pixels.shape != (height, width, channels):
        h, w = pixels.shape[:2]
        raise ValueError(f"{source} mixes {height}×{width} and {h}×{w} px images; give image_size")
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())  # (C, H, W)


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


def mapped(pixels: Pixels) -> Tensor:
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
