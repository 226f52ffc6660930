"""A picture as a model takes it, the one way in which training, evaluation, figures and predictions read it.

`decode` makes 8-bit pixels of a picture, `fit` resizes and crops them by Pillow, and only then are they divided by 255.
Whatever reads pictures goes through these, so the same file gives the same bits everywhere.

B pictures · C channels · H W height and width in pixels · F frames of a clip
"""

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo.data.pictures import ValueRange, check_range, decode
from zoo.nn.protocols import Input

if TYPE_CHECKING:
    from PIL import Image

    Picture = str | Path | bytes | Image.Image | np.ndarray | Tensor

KINDS = ("image", "clip")  # of input that is read from pictures
WANTED = "a path, bytes, a PIL image, an array (H, W) or (H, W, C), or a uint8 tensor (C, H, W)"


def fit(pixels: np.ndarray, size: int | tuple[int, int] | None, crop_pct: float = 1.0) -> np.ndarray:
    """Pixels (H', W', C) uint8 resized until `size / crop_pct` is covered, bicubic, and the centre of it cut out.

    Args:
        size: side in px, or (height, width); None: as they are.
    """
    from PIL import Image

    if size is None:
        return pixels
    height, width = (size, size) if isinstance(size, int) else size
    h, w = pixels.shape[:2]
    if (h, w) == (height, width) and crop_pct == 1:
        return pixels
    scale = max(height / crop_pct / h, width / crop_pct / w)
    image = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
    image = image.resize((max(width, round(w * scale)), max(height, round(h * scale))), Image.Resampling.BICUBIC)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return np.asarray(image.crop((left, top, left + width, top + height))).reshape(height, width, -1)  # (H, W, C)


def unit(pixels: Tensor) -> Tensor:
    """uint8 of any shape → float32 in [0, 1]."""
    return pixels.to(torch.float32).div_(255)


@dataclass(frozen=True)
class Transform:
    """A picture → float32 (C, H, W) in [0, 1], a video file → (F, C, H, W). It pickles, so workers can have it.

    A picture is a path, encoded bytes, a PIL image, an array (H, W) or (H, W, C), or a uint8 tensor (C, H, W). It is
    read upright, on white, and resized as ImageData does it; the result is the same to the last bit.
    """

    channels: int
    size: tuple[int, int]  # (height, width) in px
    crop_pct: float = 1.0  # share of the shorter side that is seen
    value_range: ValueRange | None = None  # as ImageData's
    frames: int | None = None  # of a clip, which is cut as ClipData cuts one for evaluation

    def __call__(self, picture: "Picture") -> Tensor:
        return unit(self.pixels(picture))

    def pixels(self, picture: "Picture") -> Tensor:
        """The same before it is divided, uint8.

        Raises:
            ValueError: it is damaged, no picture, or one of 32 bits without a range.
            FileNotFoundError: no such file.
        """
        if self.frames is not None:
            return self._cut(picture)
        if isinstance(picture, Tensor):
            if picture.dtype != torch.uint8 or picture.ndim != 3:
                raise ValueError(
                    f"a tensor of {picture.dtype} {tuple(picture.shape)}, expected uint8 (C, H, W); of floats in "
                    "[0, 1] give (x * 255).round().byte()"
                )
            picture = picture.cpu().permute(1, 2, 0).numpy()  # (H, W, C)
        elif isinstance(picture, Mapping | Sequence) and not isinstance(picture, str | bytes):
            raise ValueError(f"a {type(picture).__name__} is no picture; expected {WANTED}")
        pixels = fit(decode(picture, self.channels, "this batch", self.value_range), self.size, self.crop_pct)
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy())  # (C, H, W)

    def _cut(self, video: Any) -> Tensor:
        from zoo.data.clips import Cut

        height, width = self.size
        if not isinstance(video, str | Path):
            raise ValueError(f"a {type(video).__name__} is no clip; give the path of a video")
        if not Path(video).is_file():
            raise FileNotFoundError(f"no file {video}")
        if height != width:
            raise ValueError(f"{video} would be cut square, this model takes {height}×{width} px")
        clip = Cut(self.frames or 1, height)(Path(video), 0)  # (F, 3, H, W)
        return clip if self.channels == 3 else clip.float().mean(1, keepdim=True).round().byte()


@dataclass(frozen=True)
class Collate:
    """Samples of a Dataset → batches (x, y) as the LightningModules here take them; for a DataLoader's `collate_fn`.

    A sample is (picture, label), a picture alone, or a mapping with `image` and, where there is one, `label`. x is
    float32 (B, C, H, W) in [0, 1], y int64 (B,), -1 where there is no label.
    """

    transform: Transform

    def __call__(self, samples: Iterable[Any]) -> tuple[Tensor, Tensor]:
        """Raises:
        ValueError: a sample of another form, or a label that is no number of a class.
        """
        pictures, labels = zip(*map(_parted, samples), strict=True)
        return unit(torch.stack([self.transform.pixels(p) for p in pictures])), torch.tensor(labels, dtype=torch.int64)


def of_input(takes: Input, crop_pct: float = 1.0, value_range: ValueRange | None = None) -> Transform:
    """The transform of an input.

    Raises:
        ValueError: it is read from no picture.
    """
    if takes.kind not in KINDS:
        raise ValueError(
            f"this model takes {takes.kind}s {takes.shape}, no pictures; give a tensor {takes.layout}, or preprocess "
            "with the model that makes them"
        )
    if not 0 < crop_pct <= 1:
        raise ValueError(f"crop_pct={crop_pct}, allowed above 0 up to 1")
    if takes.kind == "clip" and (crop_pct != 1 or value_range is not None):
        raise ValueError(f"crop_pct={crop_pct}, value_range={value_range}: of pictures alone, this model takes clips")
    check_range(value_range)
    return Transform(
        takes.channels, takes.size, crop_pct, value_range, takes.shape[0] if takes.kind == "clip" else None
    )


def transform(model: nn.Module, *, crop_pct: float | None = None, value_range: ValueRange | None = None) -> Transform:
    """What makes of a picture what a model takes, float32 (C, H, W) in [0, 1]: `ImageFolder(…, zoo.transform(model))`.

    A picture is a path, encoded bytes, a PIL image, an array (H, W) or (H, W, C), or a uint8 tensor (C, H, W); of a
    model of clips, the path of a video. The bits are those that ImageData gives for the same file.

    Args:
        model: as zoo.create or zoo.load gives it.
        crop_pct: share of the shorter side that is seen, as ImageData's; None: what the model's checkpoint states,
            else 1.
        value_range: of pictures with more than 8 bits, the values that are black and white, as ImageData's.

    Raises:
        ValueError: a model that takes no pictures, or is none of this zoo.
    """
    takes = getattr(model, "takes", None)
    if not isinstance(takes, Input):
        raise ValueError(
            f"a {type(model).__name__} does not say what it takes; give a model of zoo.load or zoo.create, of a "
            "LightningModule its .model"
        )
    stated = getattr(model, "zoo_config", {}).get("crop_pct", 1.0)
    return of_input(takes, stated if crop_pct is None else crop_pct, value_range)


def preprocess(
    model: nn.Module,
    pictures: "Picture | Iterable[Picture]",
    *,
    crop_pct: float | None = None,
    value_range: ValueRange | None = None,
) -> Tensor:
    """Pictures as a batch that a model takes, float32 (B, C, H, W) in [0, 1] on its device; one is a batch of one.

    Args:
        pictures: one or several, each as `zoo.transform` takes it.
        crop_pct, value_range: as `zoo.transform`'s.

    Raises:
        ValueError: a model that takes no pictures, none given, or a damaged one, which is named.
        FileNotFoundError: no such file.
    """
    read = transform(model, crop_pct=crop_pct, value_range=value_range)
    batch = torch.stack([read.pixels(picture) for picture in _several(pictures)])  # (B, C, H, W) or (B, F, C, H, W)
    return unit(batch.to(device_of(model)))


def collate(model: nn.Module, *, crop_pct: float | None = None, value_range: ValueRange | None = None) -> Collate:
    """A DataLoader's `collate_fn` that makes batches as `zoo.LitClassifier` and the others take them, of PIL images.

    `DataLoader(dataset, batch_size=64, collate_fn=zoo.collate(model))`. Samples are (picture, label), a picture alone,
    or mappings with `image` and `label`, as the Hub's `datasets` gives them. A batch is x, float32 (B, C, H, W) in
    [0, 1], and y, int64 (B,), -1 where there is no label.

    Args:
        crop_pct, value_range: as `zoo.transform`'s.

    Raises:
        ValueError: a model that takes no pictures.
    """
    return Collate(transform(model, crop_pct=crop_pct, value_range=value_range))


def device_of(model: nn.Module) -> torch.device:
    """Where a model's numbers lie; of one that has none, the CPU."""
    return next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))


def _several(pictures: Any) -> list[Any]:
    """Pictures as a list, of one as well."""
    one = isinstance(pictures, str | Path | bytes) or hasattr(pictures, "getexif")  # a PIL image
    axes = getattr(pictures, "ndim", None)
    if one or (axes is not None and axes < 4):
        return [pictures]
    if isinstance(pictures, Mapping) or not isinstance(pictures, Iterable):
        raise ValueError(f"a {type(pictures).__name__} is no picture; expected {WANTED}, or a list of them")
    if not (several := list(pictures)):
        raise ValueError("no pictures; give at least one")
    return several


def _parted(sample: Any) -> tuple[Any, int]:
    """Picture and label of a sample."""
    if isinstance(sample, Mapping):
        if "image" not in sample:
            raise ValueError(
                f"a sample has the keys {', '.join(map(str, sample))}, expected image and label; rename its columns"
            )
        picture, label = sample["image"], sample.get("label")
    elif isinstance(sample, tuple | list):
        if len(sample) != 2:
            raise ValueError(f"a sample of {len(sample)} parts, expected (picture, label) or a picture alone")
        picture, label = sample
    else:
        picture, label = sample, None
    try:
        return picture, -1 if label is None else operator.index(label)
    except TypeError:
        raise ValueError(
            f"a label is {label!r}, expected the number of a class, or None; number the classes from 0"
        ) from None
