"""What a model is shown: the data that fit it, and files of one's own. `KINDS` says how for each kind of input."""

import pkgutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from zoo.data.classes import count_classes
from zoo.data.pictures import ValueRange
from zoo.data.readers import ALL, no_columns
from zoo.data.readers import SAMPLES as FOLDER
from zoo.data.transforms import device_of, of_input
from zoo.nn.protocols import Input, Kind, Network, PrefersData, Samples

# (kind, shape of a sample) -> what ships with the package and fits.
SAMPLES: dict[tuple[Kind, tuple[int, ...]], str] = {
    ("image", (1, 28, 28)): "samples/mnist",
    ("image", (3, 32, 32)): "samples/sprites",
    ("image", (3, 64, 64)): "samples/sprites",
    ("clip", (8, 3, 64, 64)): "sprites",
}
CLASS = "class:"  # begins a source that names a LightningDataModule by its import path


class Reading(NamedTuple):
    """How samples of a kind are read."""

    data: Callable[..., Any]  # a source → its LightningDataModule, sized for an input
    file: Callable[..., Tensor]  # a file → one sample
    batch_size: int  # of an evaluation
    sources: str  # what `zoo eval NAME SOURCE` takes, for messages


def subject(model: Network) -> Input:
    """What a person sees of a model: what it draws, else what it takes."""
    return model.draws() if isinstance(model, Samples) else model.takes


def sample(model: Network) -> str:
    """The data that a model prefers, or the shipped samples of its input's kind and shape and its classes.

    Raises:
        ValueError: none do.
    """
    if isinstance(model, PrefersData) and model.default_data:
        return model.default_data
    about = subject(model)
    source = SAMPLES.get((about.kind, about.shape))
    if source is None:
        give = KINDS[about.kind].sources
        raise ValueError(f"nothing that ships with the package fits {about.kind}s of {about.shape}; give {give}")
    if count_classes(model):
        given, own = opened(model, source).classes, model.zoo_config.get("classes")
        if own != given if own else count_classes(model) != len(given):
            raise ValueError(f"{source} has other classes than this model; give {KINDS[about.kind].sources}")
    return source


def opened(model: Network, source: Any, reading: Mapping[str, Any] | None = None) -> Any:
    """The DataModule of a source, sized for a model, with its test set read, or all of a source that is not divided.

    Args:
        source: its name, or a list of pictures; or a DataModule, which is taken as it is, with what it holds out.
        reading: of images, ImageData's keywords that say how a source is read.
    """
    about = subject(model)
    if isinstance(source, str) and source.startswith(CLASS):
        data = _named(source.removeprefix(CLASS))
    elif isinstance(source, str | list):
        data = KINDS[about.kind].data(source, about, **seen(model) | settle(about, reading))
    else:
        data = source
    data.prepare_data()
    named = isinstance(source, str | list)
    if named and hasattr(data, "roles") and not {"val", "test"} & set(data.roles()):
        data.in_order(ALL, 1)  # which reads them
    else:
        data.setup("test")
    return data


def shown_split(data: Any) -> str:
    """Which samples of what `opened` made are evaluated: "test", or ALL of a source that is not divided."""
    return ALL if ALL in getattr(data, "served", ()) else "test"


def batches(
    model: Network, source: Any, batch_size: int, split: str = "test", device: torch.device | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """The test or training set of a source in order, sized for a model, nothing augmented. Read when first asked.

    Each batch is (samples, labels); labels are -1 where the data has none. A DataModule named as `class:` gives the
    batches of its own loaders.

    Args:
        source: its name, or what `opened` made of that.
        split: "test", "train", or "all" of a source that is not divided.
        device: where the batches go; None leaves them where they are read.
    """
    data = opened(model, source) if isinstance(source, str) else source
    if split == "train":
        data.setup("fit")
    for batch in loader(data, batch_size, split):
        if device is not None:
            batch = data.transfer_batch_to_device(batch, device, 0)
        batch = data.on_after_batch_transfer(batch, 0)
        if isinstance(batch, tuple | list):
            x, y = batch
        else:
            x, y = batch, torch.full((len(batch),), -1, device=batch.device)
        yield x, y


def loader(data: Any, batch_size: int, split: str) -> Any:
    """What gives the batches of a split that is read, as they come from its workers."""
    if hasattr(data, "in_order"):
        return data.in_order(split, batch_size)
    return data.train_dataloader() if split == "train" else data.test_dataloader()


class Again:
    """Batches that are made anew for each pass over them.

    Args:
        make: begins a pass.
        total: of samples in a pass, where that is known.
    """

    def __init__(self, make: Callable[[], Iterator[tuple[Tensor, Tensor]]], total: int | None):
        self.make, self.total = make, total

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.make()


def total_of(some: object) -> int | None:
    """How many samples batches hold together, where they say so."""
    total: int | None = getattr(some, "total", None)
    return total


def seen(model: Network) -> dict[str, Any]:
    """The share of a picture that a model's checkpoint says it sees, as a keyword of ImageData; else nothing."""
    stated = getattr(model, "zoo_config", {}).get("crop_pct")
    return {"crop_pct": stated} if stated and subject(model).kind == "image" else {}


def settle(about: Input, reading: Mapping[str, Any] | None) -> dict[str, Any]:
    """The keywords of a reader that were given.

    Raises:
        ValueError: some that are for other samples than a model's.
    """
    given = {key: value for key, value in (reading or {}).items() if value is not None}
    foreign = [key for key in given if about.kind != "image" and (about.kind, key) != ("clip", "bad")]
    if foreign:
        raise ValueError(f"{', '.join(foreign)}: of images alone, this model takes {about.kind}s; leave it out")
    return given


def _named(path: str) -> Any:
    try:
        return pkgutil.resolve_name(path)()
    except (AttributeError, ImportError, TypeError, ValueError) as error:
        raise ValueError(
            f"{CLASS}{path} is no DataModule that is made without arguments ({error}); give package.module.Class"
        ) from error


def _images(source: str, about: Input, **reading: Any) -> Any:
    from zoo.data.factors import FactorData
    from zoo.data.images import ImageData

    if source == "rendered" or source.endswith((".npz", ".h5")):
        no_columns(source, reading.get("image_column"), reading.get("label_column"))
        return FactorData(source, about.size[0])
    data = ImageData(source, image_size=about.size[0], channels=about.channels, **reading)
    data.every_class = True  # what is not trained on is read whole
    return data


def _clips(source: str, about: Input, **reading: Any) -> Any:
    from zoo.data.clips import ClipData

    data = ClipData(source, image_size=about.size[0], channels=about.channels, frames=about.shape[0], **reading)
    data.every_class = True
    return data


def _latents(source: str, about: Input) -> Any:
    from zoo.data.latents import LatentData

    data = LatentData(source)
    if data.input_shape != about.shape:
        raise ValueError(f"{source} holds latents {data.input_shape}, this model takes {about.shape}")
    return data


def _activations(source: str, about: Input) -> Any:
    raise ValueError(
        f"no reader of activations {about.shape} from {source} is known; give {KINDS['activation'].sources}"
    )


def photographs(model: Network, most: int | None = None) -> tuple[list[str], Tensor]:
    """Names and pixels, (B, C, H, W) in [0, 1], of the photographs that ship with the package, for a model."""
    paths, place = sorted((FOLDER / "photos").glob("*.jpg"))[:most], device_of(model)
    return [p.stem for p in paths], torch.stack([read_image(p, subject(model), **seen(model)) for p in paths]).to(place)


def read_image(path: Path, about: Input, value_range: ValueRange | None = None, crop_pct: float = 1.0) -> Tensor:
    """An image file as a model takes it, (C, H, W) in [0, 1], resized as ImageData does it.

    Args:
        value_range, crop_pct: as ImageData's.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an image, or one of 32 bits without a range.
    """
    return of_input(about, crop_pct, value_range)(path)


def read_clip(path: Path, about: Input) -> Tensor:
    """A video file as a model takes it, (F, C, H, W) in [0, 1]: its middle, up to four frames apart.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a video, damaged, or too short.
    """
    return of_input(about)(path)


def read_numbers(path: Path, about: Input) -> Tensor:
    """A latent or an activation out of a NumPy file, float32 of the model's shape.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a NumPy file of numbers, or another shape.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        array = np.load(path, allow_pickle=False)
        numbers = torch.from_numpy(np.asarray(array, dtype=np.float32))
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no array of numbers ({error}); write one with numpy.save") from error
    if numbers.shape != about.shape:
        raise ValueError(f"{path} holds {tuple(numbers.shape)}, this model takes {about.kind}s of {about.shape}")
    return numbers


KINDS: dict[Kind, Reading] = {
    "image": Reading(_images, read_image, 1000, "a folder or a Hub id"),
    "clip": Reading(_clips, read_clip, 64, "a folder of videos"),
    "latent": Reading(_latents, read_numbers, 1000, "a folder that `zoo latents` writes"),
    "activation": Reading(_activations, read_numbers, 1000, "class:PACKAGE.MODULE.DATAMODULE"),
}
