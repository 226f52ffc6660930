"""`zoo eval` and `zoo show` for any model: find it, find its data, let the family speak."""

import inspect
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from zoo import hub, registry
from zoo.report import plots
from zoo.report.inputs import _batch_size, batches, read_clip, read_image, sample

SAMPLING = ("steps", "solver", "guidance", "interval", "guide", "temperature", "top_k")  # what `zoo sample` sets


def evaluate(name: str, source: str | None = None, batch_size: int | None = None) -> dict[str, Any]:
    """The figures of a model on a test set, with what they were measured on.

    Args:
        name: arch.tag, checkpoint folder, hf://org/name, a Lightning checkpoint or a run's directory.
        source: as ImageData's, or ClipData's for a model of clips, or FactorData's ("rendered", a .npz, a .h5); None
            takes the sample that ships with the package, where it fits the model.
        batch_size: None is 1000 images, or 64 clips.
    """
    model = hub.load(name)
    source, batch_size = source or sample(model), batch_size or _batch_size(model)
    train, test = (batches(model, source, batch_size, split) for split in ("train", "test"))
    figures = family(model).evaluate(model, test, train)
    return {"name": name, "data": source, "split": "test"} | figures


def show(name: str, images: list[Path], output: Path) -> Path:
    """Draw a model's own figure, or how it sees the given image or video files; a model of clips also as a GIF."""
    model = hub.load(name)
    report = family(model)
    outputs = model.head.out_features if hasattr(model, "head") else 0
    classes = model.zoo_config.get("classes") or [str(c) for c in range(outputs)]
    clips = len(model.takes.shape) == 4
    if output.suffix == ".gif" and not hasattr(report, "film"):
        raise ValueError(f"{name} draws no moving picture; give -o FILE.png")
    if images:
        pixels = torch.stack([(read_clip if clips else read_image)(path, model) for path in images])
        if output.suffix == ".gif":
            return plots.write_gif(report.film(model, pixels), output)
        return plots.write(report.explain(model, pixels, [p.name for p in images], classes), output)
    try:
        data = batches(model, sample(model), _batch_size(model))
    except ValueError:
        data = None  # nothing that ships fits this model: the figure leaves its curve out and says so by its absence
    if output.suffix == ".gif":
        return plots.write_gif(report.film(model, report.chosen(data)), output)
    return plots.write(report.figure(model, classes, data), output)


def draw(name: str, output: Path, classes: list[str], each: int = 8, seed: int = 0, **how: Any) -> Path:
    """Images that a model draws, a row for each class, and how they come about.

    Args:
        classes: numbers, names, or "any"; none: the first eight.
        each: images of a class.
        how: keywords of the model's `sample`; `guide` by name.

    Raises:
        ValueError: a model that draws nothing, a class or keyword that it does not have.
    """
    model = hub.load(name)
    if not hasattr(model, "sample"):
        raise ValueError(f"{name} draws no images; `zoo ls 'ditdh*'` and `zoo ls 'vqprior*'` list those that do")
    if each < 1:
        raise ValueError(f"{each} images of a class: at least 1")
    allowed = inspect.signature(getattr(model, "sample_latents", None) or model.sample_codes).parameters
    for key in how:
        if key not in allowed:
            raise ValueError(f"{name} takes no {key}; it takes {', '.join(k for k in SAMPLING if k in allowed)}")
    if "guide" in how:
        how["guide"] = hub.load(how["guide"])
        if how["guide"].takes.shape != model.takes.shape:
            raise ValueError(f"the guide paints {how['guide'].takes.shape}, {name} {model.takes.shape}")
    names = model.zoo_config.get("classes") or []
    count = model.num_classes
    given = classes or [str(c) for c in range(min(8, count))] or ["any"]
    labels = torch.tensor([_label(c, names, count) for c in given])
    return plots.write(family(model).samples(model, labels, each, names, seed, **how), output)


def _label(given: str, names: list[str], count: int) -> int:
    if given == "any":
        return -1
    matches = [i for i, n in enumerate(names) if given.lower() in [part.strip().lower() for part in n.split(",")]]
    label = int(given) if given.lstrip("-").isdigit() else matches[0] if matches else None
    if label is None or not 0 <= label < count:
        known = f", or a name{registry.suggest(given, names)}" if names else ""
        raise ValueError(f"no class {given!r}; give 0 to {count - 1}, any{known}")
    return label


def family(model: nn.Module) -> ModuleType:
    """The report module of a model's family."""
    return registry.home(model.zoo_config["arch"]).part("report")
