"""Datasets of one's own, of torch, torchvision or the Hub, or lists, as a source; and batches of one's own.

A sample is (image, label), an image alone, or a dict with `image` and `label`. An image is a Pillow picture, a path,
encoded bytes, an array (H, W[, C]) or a tensor (C, H, W), uint8 or floats in [0, 1]; a label the number or the name of
a class. A batch is the same of many, tensors all.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset

from zoo.data import tables
from zoo.data.pictures import Found, is_picture
from zoo.data.progress import Progress
from zoo.data.readers import Items
from zoo.nn.protocols import Input

IMAGES, LABELS = ("image", "img"), ("label", "labels")  # keys of a dict
WANTED = (
    "expected (image, label), an image alone, or a dict with image and label; an image is a Pillow picture, a path, "
    "bytes, an array (H, W, C) or a tensor (C, H, W), uint8 or floats in [0, 1]"
)


class Pictures(Sequence[Any]):
    """The images of a Dataset, as `decode` takes them; each is made when it is asked for."""

    def __init__(self, data: Any, name: str):
        self.data, self.name = data, name

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: Any) -> Any:
        if not 0 <= i < len(self):
            raise IndexError(i)
        where = f"sample {i} of {self.name}"
        return _image(taken_apart(self.data[int(i)], where)[0], where)


def read(given: Mapping[str, Any]) -> dict[str, Items]:
    """The splits by role.

    Labels are those that a Dataset keeps, as torchvision's and the Hub's do; else each sample is asked for once.

    Raises:
        ValueError: no Dataset, an empty one, or one whose samples or labels cannot be understood.
    """
    names = {role: f"the {type(data).__name__} {role}" for role, data in given.items()}
    for role, data in given.items():
        _check(role, data)
    parts = {role: [_part(data, names[role])] for role, data in given.items()}
    numbers, classes = tables.numbers(parts, "label")
    return {
        role: Items(Pictures(data, names[role]), numbers[role], classes, names[role], _names(data, role))
        for role, data in given.items()
    }


def taken_apart(sample: Any, where: str) -> tuple[Any, Any]:
    """The image of a sample, or the images of a batch, and the label; None where there is none.

    Raises:
        ValueError: neither one, nor a pair, nor a dict of both.
    """
    if isinstance(sample, Mapping):
        image, label = (next((k for k in keys if k in sample), None) for keys in (IMAGES, LABELS))
        if image is None:
            raise ValueError(f"{where} is a dict of {', '.join(map(str, sample))}; {WANTED}")
        return sample[image], None if label is None else sample[label]
    if isinstance(sample, tuple | list):
        if len(sample) not in (1, 2):
            kinds = ", ".join(type(part).__name__ for part in sample[:5])
            raise ValueError(f"{where} is {len(sample)} things ({kinds}); {WANTED}")
        return sample[0], sample[1] if len(sample) == 2 else None
    return sample, None


def batch(given: Any, takes: Input, labelled: bool, look: bool) -> tuple[Tensor, Tensor]:
    """What a DataLoader of one's own gives, as training takes it: images (B, C, H, W) or clips, and labels (B,).

    Args:
        takes: what the model takes.
        labelled: the model needs labels; else they are -1 where there are none.
        look: also whether the values are in [0, 1], which a GPU has to be waited for.

    Raises:
        ValueError: not such tensors, or values that are no pixels.
    """
    wanted = f"({takes.layout.replace(' ', ', ')}) with {takes.channels} channels"
    if isinstance(given, list | tuple) and (is_picture(given[0]) or isinstance(given[0], tuple)):
        given = {"image": given}  # of samples that nobody has put together
    x, y = taken_apart(given, "a batch of the DataLoader")
    if not isinstance(x, Tensor):
        kind = f"a list of {type(x[0]).__name__}" if isinstance(x, list | tuple) and x else f"a {type(x).__name__}"
        raise ValueError(
            f"a batch of the DataLoader holds {kind}, expected a tensor {wanted}; give the DataLoader "
            "collate_fn=zoo.collate(model)"
        )
    axes = len(takes.shape) + 1
    views = takes.kind == "clip"  # a video may come as several, (B, V, F, C, H, W)
    if x.ndim not in (axes, axes + views) or x.shape[-3] != takes.channels:
        turn = "; permute(0, 3, 1, 2) puts channels first" if x.ndim == 4 and x.shape[3] == takes.channels else ""
        raise ValueError(f"a batch of the DataLoader is {tuple(x.shape)}, expected {wanted}{turn}")
    if x.dtype == torch.uint8:
        x = x.to(torch.float32) / 255
    elif not x.is_floating_point():
        raise ValueError(f"a batch of the DataLoader is {x.dtype}, expected uint8, or floats in [0, 1]")
    elif look and not x.is_meta:  # of an estimate, which has shapes alone
        check_span(x, "a batch of the DataLoader")
    if y is None and labelled:
        raise ValueError("a batch of the DataLoader has no labels, which this model needs; give (images, labels)")
    if y is None:
        return x, torch.full((len(x),), tables.NONE, device=x.device)  # (B,)
    if not isinstance(y, Tensor) or (labelled and y.is_floating_point()):
        kind = str(y.dtype) if isinstance(y, Tensor) else type(y).__name__
        raise ValueError(f"labels of the DataLoader's batches are {kind}, expected a tensor (B,) of class numbers")
    return x, y if y.is_floating_point() else y.to(torch.int64)


def _check(role: str, data: Any) -> None:
    if isinstance(data, DataLoader):
        raise ValueError(f"{role} is a DataLoader; give it to the Trainer itself, or here its dataset")
    sized = hasattr(data, "__getitem__") and hasattr(data, "__len__")
    if not sized or isinstance(data, IterableDataset | str | Path | Mapping):
        raise ValueError(
            f"{role} is a {type(data).__name__}, expected a Dataset with a length, or a list; a folder or file is the "
            "source, and what has no length goes to the Trainer in a DataLoader"
        )
    if not len(data):
        raise ValueError(f"{role} is an empty {type(data).__name__}; give one with samples, or leave it out")


def _part(data: Any, name: str) -> tables.Part:
    """The labels of a Dataset as a table."""
    import pyarrow as pa

    labels, classes = _labels(data, name), _classes(data)
    try:
        table = pa.table({"label": pa.array(labels)})
    except pa.ArrowException as error:
        kinds = sorted({type(label).__name__ for label in labels})
        raise ValueError(f"the labels of {name} are {' and '.join(kinds)}; give numbers or names throughout") from error
    if classes:
        table = table.replace_schema_metadata(tables.noted("label", classes))
    return tables.Part(name, table.schema, table.select, name)


def _labels(data: Any, name: str) -> list[Any]:
    """Of all samples, None where there is none."""
    first = _label(taken_apart(data[0], f"sample 0 of {name}")[1], f"sample 0 of {name}")
    if first is None:
        return [None] * len(data)
    kept = _kept(data)
    if kept is not None and len(kept) == len(data) and _label(kept[0], name) == first:
        return [_label(label, f"sample {i} of {name}") for i, label in enumerate(kept)]
    labels = []
    with Progress(len(data), f"samples of {name} asked for their labels") as progress:
        for i in range(len(data)):
            where = f"sample {i} of {name}"
            labels.append(_label(taken_apart(data[i], where)[1], where))
            progress.add(1)
    return labels


def _kept(data: Any) -> Any:
    """The labels that a Dataset keeps, the Hub's in a column, torchvision's in `targets` or `labels`; else None."""
    if isinstance(data, Subset):
        whole = _kept(data.dataset)
        return None if whole is None else [whole[i] for i in data.indices]
    if getattr(data, "target_transform", None) is not None:
        return None
    columns = getattr(data, "column_names", None)
    if isinstance(columns, list) and hasattr(data, "with_format"):
        key = next((key for key in LABELS if key in columns), None)
        return None if key is None else data.with_format("arrow").select_columns([key])[:].column(key).to_pylist()
    kept = getattr(data, "targets", getattr(data, "labels", None))
    return kept if isinstance(kept, list | tuple | np.ndarray | Tensor) else None


def _classes(data: Any) -> list[str]:
    """The names of the classes, as torchvision's Datasets and the Hub's have them; none where nothing says."""
    if isinstance(data, Subset):
        return _classes(data.dataset)
    features = getattr(data, "features", None)
    if isinstance(features, Mapping):
        return list(next((n for k in LABELS if (n := getattr(features.get(k), "names", None))), ()))
    classes = getattr(data, "classes", ())
    return [str(name) for name in classes] if isinstance(classes, list | tuple) else []


def _label(label: Any, where: str) -> Any:
    """A number, a name, or None."""
    if isinstance(label, Tensor | np.ndarray | np.generic) and np.prod(label.shape) == 1:
        label = label.item()
    if label is None or isinstance(label, str | int | float):
        return label
    raise ValueError(f"the label of {where} is {str(label)[:40]} ({type(label).__name__}); expected a number or a name")


def _names(data: Any, role: str) -> list[str]:
    if isinstance(data, list) and all(isinstance(sample, str | Path) for sample in data):
        return [Path(sample).as_posix() for sample in data]
    return [f"{role}/{i}" for i in range(len(data))]


def _image(image: Any, where: str) -> Any:
    """A picture, a path, encoded bytes, or an array (H, W, C) uint8.

    Raises:
        ValueError: none of what is wanted; axes in another order, another type or range of numbers.
    """
    if isinstance(image, dict) and {"bytes", "path"} <= image.keys():  # the Hub's, not decoded
        image = image["bytes"] if image["bytes"] is not None else image["path"]
    if isinstance(image, bytes):
        return Found(image, where)
    if isinstance(image, str | Path):
        return Path(image)
    if is_picture(image):
        return image
    if not isinstance(image, np.ndarray | Tensor):
        raise ValueError(f"{where} is a {type(image).__name__}; {WANTED}")
    array = image.detach().cpu() if isinstance(image, Tensor) else torch.as_tensor(image)
    if array.ndim == 3 and isinstance(image, Tensor):
        if array.shape[0] not in (1, 3):
            turn = "; permute(2, 0, 1) puts channels first" if array.shape[2] in (1, 3) else ""
            raise ValueError(f"{where} is a tensor {tuple(array.shape)}, expected (C, H, W) with 1 or 3 channels{turn}")
        array = array.permute(1, 2, 0)  # (H, W, C)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        turn = "; transpose(1, 2, 0) puts channels last" if array.ndim == 3 and array.shape[0] in (1, 3) else ""
        raise ValueError(f"{where} is an array {tuple(array.shape)}, expected (H, W) or (H, W, C){turn}")
    if array.is_floating_point():
        check_span(array, where)
        array = (array.to(torch.float32) * 255).round()
    elif array.dtype != torch.uint8:
        raise ValueError(f"{where} is {array.dtype}, expected uint8, or floats in [0, 1]")
    return array.to(torch.uint8).numpy()


def check_span(values: Tensor, where: str) -> None:
    """Refuse floats that are no pixels in [0, 1].

    Raises:
        ValueError: NaN, or values outside.
    """
    if not values.numel():
        return
    low, high = (v.item() for v in values.aminmax())
    if not -1e-3 <= low <= high <= 1 + 1e-3:
        cure = "divide by 255" if low >= 0 and high > 2 else "leave Normalize out: a model does that by itself"
        raise ValueError(f"{where} spans [{low:.3g}, {high:.3g}], expected floats in [0, 1]; {cure}")
