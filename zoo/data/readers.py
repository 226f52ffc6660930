"""Where images come from: torchvision's sets, image folders, Hub-style parquet, and the samples that ship here.

Each reader gives one split as undecoded items, labels and class names; `decode` turns an item into pixels. Libraries
are imported by the reader that needs them.
"""

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zoo.data import cache
from zoo.registry import suggest

SAMPLES = Path(__file__).parent / "samples"
SPLITS = {"train": ("train",), "val": ("validation", "valid", "val", "dev"), "test": ("test",)}
STAGES: dict[str | None, tuple[str, ...]] = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".gif", ".tif", ".tiff"}


@dataclass
class Items:
    """One split: arrays, encoded bytes or paths; labels (N,) int64; the class names; where it was read.

    Of what `take` gives, `native` is the split as its source has it, `index` the place there of each.
    """

    images: Sequence[Any] | np.ndarray
    labels: np.ndarray
    classes: list[str]
    source: str
    index: np.ndarray | None = None
    whole: "Items | None" = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def native(self) -> "Items":
        return self.whole or self

    def take(self, index: np.ndarray) -> "Items":
        images, native = [self.images[i] for i in index], index if self.index is None else self.index[index]
        return Items(images, self.labels[index], self.classes, self.source, native, self.native)


def read(source: str, image_column: str | None = None, label_column: str | None = None) -> dict[str, Items]:
    """The splits of a source by role, `train`, `val`, `test`, as far as it has them.

    Args:
        source: "samples/NAME", "torchvision:NAME" or "torchvision:NAME:ROOT", a folder, or a Hub id "org/name".

    Raises:
        ValueError: unknown set or column, an empty folder.
        FileNotFoundError: no such folder.
        ConnectionError: a download without a network.
    """
    if source.startswith("torchvision:"):
        return _torchvision(source)
    if source.startswith("samples/"):
        names = sorted(p.parent.name for p in SAMPLES.glob("*/data"))
        if source.removeprefix("samples/") not in names:
            raise ValueError(f"no shipped images {source!r}; there are {', '.join(f'samples/{n}' for n in names)}")
        return _parquet(str(SAMPLES / source.removeprefix("samples/")), image_column, label_column)
    path = Path(source).expanduser()
    if path.is_dir():
        if any(path.rglob("*.parquet")):
            return _parquet(str(path), image_column, label_column)
        return _folder(path)
    if path.is_absolute() or source.startswith((".", "~")) or source.count("/") != 1:
        raise FileNotFoundError(
            f"no folder {source}; give a folder of class folders or of parquet files, a Hub id org/name, "
            "torchvision:NAME or samples/mnist"
        )
    return _parquet(source, image_column, label_column)


def natural_channels(items: Items) -> int:
    """1 if all of 64 images, taken evenly, are grey; one colour picture among grey ones must not lose its colour."""
    some = range(0, len(items), -(-len(items) // 64))
    return 1 if all(_open(items.images[i], items.source).mode in ("1", "L", "I;16") for i in some) else 3


def decode(item: Any, channels: int, source: str) -> np.ndarray:
    """An item as uint8 pixels (H, W, C).

    Raises:
        ValueError: the file is damaged or no image; it is named.
    """
    image = _open(item, source)
    with naming(_what(item, source)):  # Pillow reads the pixels only now
        pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


@contextlib.contextmanager
def naming(what: str) -> Iterator[None]:
    """Whatever Pillow makes of a damaged file, as a ValueError that says which."""
    from PIL import Image

    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{what} cannot be decoded ({error}); remove it or get it again") from error


def _open(item: Any, source: str) -> Any:
    from PIL import Image

    if isinstance(item, np.ndarray):
        return Image.fromarray(item[:, :, 0] if item.shape[2:] == (1,) else item)
    with naming(_what(item, source)):
        return Image.open(io.BytesIO(item) if isinstance(item, bytes) else item)


def _what(item: Any, source: str) -> str:
    return str(item) if isinstance(item, str | Path) else f"an image of {source}"


def _torchvision(source: str) -> dict[str, Items]:
    import torchvision

    name, _, root = source.removeprefix("torchvision:").partition(":")
    sets = {"MNIST", "FashionMNIST", "KMNIST", "QMNIST", "CIFAR10", "CIFAR100", "SVHN", "STL10"}
    if name not in sets:
        raise ValueError(f"no torchvision set {name!r}{suggest(name, sets)}; allowed {', '.join(sorted(sets))}")
    root = root or str(cache.root() / "torchvision")
    with cache.writing(Path(root)):
        Path(root).mkdir(parents=True, exist_ok=True)
    made = getattr(torchvision.datasets, name)
    by_split = name in ("SVHN", "STL10")
    out = {}
    for role in ("train", "test"):
        try:
            data = made(root, **({"split": role} if by_split else {"train": role == "train"}), download=True)
        except PermissionError as error:
            raise cache.unwritable(Path(root), error) from error
        except (OSError, RuntimeError) as error:
            raise ConnectionError(
                f"{source} is not in {root} and could not be downloaded ({error}); connect once, or give a folder"
            ) from error
        images = np.asarray(data.data)
        if by_split:
            images = images.transpose(0, 2, 3, 1)  # these two come as (N, C, H, W)
        labels = np.asarray(data.targets if hasattr(data, "targets") else data.labels, dtype=np.int64)
        classes = getattr(data, "classes", None) or [str(c) for c in range(int(labels.max()) + 1)]
        out[role] = Items(images, labels, list(classes), source)
    return out


def _folder(root: Path) -> dict[str, Items]:
    folders = {p.name.lower(): p for p in sorted(root.iterdir()) if p.is_dir()}
    roles = {role: folders[n] for role, names in SPLITS.items() for n in names if n in folders}
    roots = roles if "train" in roles else {"train": root}
    classes = sorted(p.name for p in roots["train"].iterdir() if p.is_dir())
    out = {}
    for role, folder in roots.items():
        paths, labels = [], []
        for label, name in enumerate(classes):
            files = sorted(f for f in (folder / name).rglob("*") if f.suffix.lower() in SUFFIXES)
            paths += files
            labels += [label] * len(files)
        if not paths:
            raise ValueError(f"{folder} holds no images; expected {folder}/CLASS/*.png, or parquet files")
        out[role] = Items(paths, np.asarray(labels, dtype=np.int64), classes, str(root))
    return out


def _parquet(source: str, image_column: str | None, label_column: str | None) -> dict[str, Items]:
    try:
        import datasets
    except ImportError as error:
        raise ValueError(f"{source} is parquet, which needs the package datasets; pip install datasets") from error
    local = Path(source).is_dir()
    if local:
        datasets.disable_progress_bars()  # reading what lies here takes a moment, a download may take long
    try:
        sets = datasets.load_dataset(source)
    except datasets.exceptions.DatasetNotFoundError as error:
        raise FileNotFoundError(
            f"no folder and no Hub data set {source!r}; is the name right, is it private?"
        ) from error
    except (OSError, ConnectionError) as error:
        raise ConnectionError(
            f"{source} is not cached and the Hub cannot be reached ({error}); load it once online, or give a folder"
        ) from error
    finally:
        if local:
            datasets.enable_progress_bars()
    out = {}
    for role, names in SPLITS.items():
        name = next((n for n in names if n in sets), None)
        if name is not None:
            out[role] = _columns(sets[name], source, image_column, label_column)
    if not out:
        raise ValueError(f"{source} has the splits {', '.join(sets)}; expected some of train, validation, test")
    return out


def _columns(data: Any, source: str, image_column: str | None, label_column: str | None) -> Items:
    import datasets

    features = data.features
    image = _pick(
        image_column, [n for n, f in features.items() if isinstance(f, datasets.Image)], features, "image", source
    )
    label = _pick(
        label_column, [n for n, f in features.items() if isinstance(f, datasets.ClassLabel)], features, "label", source
    )
    table = data.cast_column(image, datasets.Image(decode=False)).with_format("arrow")[:]
    encoded = table.column(image).combine_chunks().field("bytes").to_pylist()
    labels = table.column(label).to_numpy().astype(np.int64)
    names = getattr(features[label], "names", None) or [str(c) for c in range(int(labels.max()) + 1)]
    return Items(encoded, labels, list(names), source)


def _pick(name: str | None, fitting: list[str], features: Any, what: str, source: str) -> str:
    if name is not None and name not in features:
        raise ValueError(f"{source} has no column {name!r}{suggest(name, features)}; it has {', '.join(features)}")
    if name is None and not fitting:
        raise ValueError(f"{source} has no {what} column among {', '.join(features)}; name it with {what}_column")
    return name or fitting[0]
