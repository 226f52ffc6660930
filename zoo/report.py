"""`zoo eval` and `zoo show` for any model: find it, find its data, let the family speak."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from zoo import hub, plots, registry


def evaluate(name: str, source: str | None = None, batch_size: int = 1000) -> dict[str, Any]:
    """The figures of a model on a test set, with what they were measured on.

    Args:
        name: arch.tag, checkpoint folder, hf://org/name, a Lightning checkpoint or a run's directory.
        source: as ImageData's; None takes the sample that ships with the package, where it fits the model.
    """
    model = hub.load(name)
    source = source or sample(model)
    train, test = (batches(model, source, batch_size, split) for split in ("train", "test"))
    figures = family(model).evaluate(model, test, train)
    return {"name": name, "data": source, "split": "test"} | figures


def show(name: str, images: list[Path], output: Path) -> Path:
    """Draw a model's own figure, or how it sees the given image files."""
    model = hub.load(name)
    report = family(model)
    outputs = model.head.out_features if hasattr(model, "head") else 0
    classes = model.zoo_config.get("classes") or [str(c) for c in range(outputs)]
    if images:
        pixels = torch.stack([read_image(path, model) for path in images])
        return plots.write(report.explain(model, pixels, [p.name for p in images], classes), output)
    try:
        data = batches(model, sample(model), 1000)
    except ValueError:
        data = None  # no shipped images fit this model: the figure leaves its curve out and says so by its absence
    return plots.write(report.figure(model, classes, data), output)


def family(model: nn.Module) -> ModuleType:
    """The report module of a model's family."""
    return importlib.import_module(f"zoo.{registry.family_of(model.zoo_config['arch'])}.report")


def sample(model: nn.Module) -> str:
    """The shipped images that fit a model: its size and, of a classifier, its classes.

    Raises:
        ValueError: none do.
    """
    from zoo.data import readers

    samples = registry.facts(registry.family_of(model.zoo_config["arch"])).SAMPLES
    if model.input_shape not in samples:
        raise ValueError(
            f"no images that ship with the package fit {model.input_shape}; give --data FOLDER or a Hub id"
        )
    source = samples[model.input_shape]
    classes, named = readers.read(source)["test"].classes, model.zoo_config.get("classes")
    if hasattr(model, "head") and (named != classes if named else model.head.out_features != len(classes)):
        raise ValueError(f"{source} has other classes than this classifier; give --data FOLDER or a Hub id")
    return source


def batches(model: nn.Module, source: str, batch_size: int, split: str = "test") -> Iterator[tuple[Tensor, Tensor]]:
    """The test or training images of a source in order, sized for a model, nothing augmented. Read when first asked."""
    from zoo.data.images import Batches, ImageData

    channels, height, _ = model.input_shape
    data = ImageData(source, image_size=height, channels=channels)
    data.prepare_data()
    data.setup("fit" if split == "train" else "test")
    pixels, labels = data.splits[split]
    for batch in Batches(pixels, labels, batch_size, shuffle=False):
        yield data.on_after_batch_transfer(batch, 0)


def read_image(path: Path, model: nn.Module) -> Tensor:
    """An image file as the model takes it, (C, H, W) in [0, 1], resized where it must be.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an image.
    """
    from PIL import Image, UnidentifiedImageError
    from torchvision.transforms.v2 import functional as T

    channels, height, width = model.input_shape
    try:
        image = Image.open(path).convert("L" if channels == 1 else "RGB")
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} is not an image that Pillow reads; give PNG or JPEG") from error
    pixels = T.to_dtype(T.pil_to_tensor(image), torch.float32, scale=True)  # (C, H', W')
    if pixels.shape[1:] == (height, width):
        return pixels
    return T.center_crop(T.resize(pixels, min(height, width), antialias=True), [height, width]).clamp(0, 1)
