"""What a model is shown: the data that fit it, and files of one's own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo import registry
from zoo.data.readers import SAMPLES


def sample(model: nn.Module) -> str:
    """What a model asks for by `default_data`, or the shipped images or clips of its size and a classifier's classes.

    Raises:
        ValueError: none do.
    """
    if getattr(model, "default_data", None):
        return model.default_data
    samples = registry.home(model.zoo_config["arch"]).part("facts").SAMPLES
    shape = _shape(model)
    if shape not in samples:
        raise ValueError(f"nothing that ships with the package fits {shape}; give --data FOLDER or a Hub id")
    source = samples[shape]
    classes, named = _data(model, source, "test").classes, model.zoo_config.get("classes")
    if hasattr(model, "head") and (named != classes if named else model.head.out_features != len(classes)):
        raise ValueError(f"{source} has other classes than this classifier; give --data FOLDER or a Hub id")
    return source


def batches(model: nn.Module, source: str, batch_size: int, split: str = "test") -> Iterator[tuple[Tensor, Tensor]]:
    """The test or training set of a source in order, sized for a model, nothing augmented. Read when first asked."""
    data = _data(model, source, split)
    for batch in data.in_order(split, batch_size):
        yield data.on_after_batch_transfer(batch, 0)


def _shape(model: nn.Module) -> tuple[int, ...]:
    """Of the images a model is about: what a model of latents draws."""
    return model.autoencoder.takes.shape if hasattr(model, "autoencoder") else model.takes.shape


def _batch_size(model: nn.Module) -> int:
    return 64 if len(model.takes.shape) == 4 else 1000


def _data(model: nn.Module, source: str, split: str) -> Any:
    from zoo.data.clips import ClipData
    from zoo.data.factors import FactorData
    from zoo.data.images import ImageData

    *frames, channels, height, _ = _shape(model)
    if source == "rendered" or source.endswith((".npz", ".h5")):
        data = FactorData(source, height)
    else:
        kind = ClipData if frames else ImageData
        data = kind(source, image_size=height, channels=channels, **({"frames": frames[0]} if frames else {}))
    data.prepare_data()
    data.setup("fit" if split == "train" else "test")
    return data


def photographs(model: nn.Module, most: int | None = None) -> tuple[list[str], Tensor]:
    """Names and pixels, (B, C, H, W) in [0, 1], of the photographs that ship with the package, sized for a model."""
    paths = sorted((SAMPLES / "photos").glob("*.jpg"))[:most]
    return [p.stem for p in paths], torch.stack([read_image(p, model) for p in paths])


def read_image(path: Path, model: nn.Module) -> Tensor:
    """An image file as the model takes it, (C, H, W) in [0, 1], resized where it must be.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an image.
    """
    from PIL import Image
    from torchvision.transforms.v2 import functional as T

    from zoo.data.readers import naming

    channels, height, width = _shape(model)
    with naming(str(path)):
        image = Image.open(path).convert("L" if channels == 1 else "RGB")
    pixels = T.to_dtype(T.pil_to_tensor(image), torch.float32, scale=True)  # (C, H', W')
    if pixels.shape[1:] == (height, width):
        return pixels
    return T.center_crop(T.resize(pixels, min(height, width), antialias=True), [height, width]).clamp(0, 1)


def read_clip(path: Path, model: nn.Module) -> Tensor:
    """A video file as the model takes it, (F, C, H, W) in [0, 1]: its middle, up to four frames apart.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a video, damaged, or too short.
    """
    from zoo.data.clips import Cut

    frames, channels, height, width = model.takes.shape
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    if height != width:
        raise ValueError(f"{path} would be cut square, this model takes {height}×{width} px")
    clip = Cut(frames, height)(path, 0).to(torch.float32) / 255  # (F, 3, H, W)
    return clip.mean(1, keepdim=True) if channels == 1 else clip
