"""`zoo eval`, `zoo show` and `zoo sample` for any model: find it and its data, let its family speak."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from zoo import hub, registry
from zoo.data.classes import Targets, compare, count_classes, find, relabelled
from zoo.data.readers import serves
from zoo.data.trained import trained_on
from zoo.hub.make import model_class
from zoo.nn.checks import check_least
from zoo.nn.protocols import Classifies, Network, Samples, can
from zoo.report import defaults, plots, sampling
from zoo.report.inputs import KINDS, batches, opened, sample, settle, subject


def evaluate(
    name: str,
    source: str | None = None,
    batch_size: int | None = None,
    class_map: Targets | str | Path | None = None,
    by_number: bool = False,
    reading: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The figures of a model on a test set, with what they were measured on.

    Labels are compared by the names of their classes, of which the data may have fewer than the model.

    Args:
        name: arch.tag, checkpoint folder, hf://org/name, a Lightning checkpoint or a run's directory.
        source: as ImageData's, or FactorData's ("rendered", a .npz, a .h5); of a model of clips as ClipData's, of
            latents the folder that `zoo latents` wrote; or "class:PACKAGE.MODULE.DATAMODULE". None takes the sample
            that ships with the package, where it fits the model.
        batch_size: None is 1000 samples, or 64 clips.
        class_map: classes of the data that the model calls otherwise: {"zero": "0"}, "zero=0,one=1" or a JSON file.
        by_number: compare the numbers of classes, and no names.
        reading: of images, ImageData's keywords that say how the source is read: value_range, image_column, …

    Raises:
        ValueError: classes that the model does not know; a model that names none, unless by_number or class_map.
    """
    check_least(1, batch_size=batch_size)
    model = hub.load(name)
    source, batch_size = source or sample(model), batch_size or KINDS[subject(model).kind].batch_size
    data = opened(model, source, reading)
    test: Iterable[tuple[torch.Tensor, torch.Tensor]] = batches(model, data, batch_size)
    figures: dict[str, Any] = {"name": name, "data": source, "split": serves(data, "test")}
    given = getattr(data, "classes", ())
    if isinstance(model, Classifies) or (count_classes(model) and given):  # what draws needs no classes
        matched = compare(model, given, class_map, by_number)
        test = relabelled(test, matched, source, needed=isinstance(model, Classifies))
        figures["classes"] = matched.said
    elif class_map is not None or by_number:
        raise ValueError(f"{name} knows no classes; leave --class-map and --by-number out")
    there = getattr(data, "served", ("train",))  # samples that are asked about are no bank for themselves
    train = batches(model, data, batch_size, "train") if "train" in there else ()
    figures |= trained_on(name, source, **settle(subject(model), reading))
    return figures | part(model, "evaluate")(model, test, train)


def show(name: str, files: list[Path], output: Path, reading: Mapping[str, Any] | None = None) -> Path:
    """Draw a model's own figure, or what it makes of the given files; a model of clips also as a GIF.

    Args:
        files: images or videos; of a model of latents or activations, NumPy files of one each.
        reading: of images, the value_range.
    """
    model = hub.load(name)
    about = subject(model)
    moving = output.suffix == ".gif"
    if moving and about.kind != "clip":
        raise ValueError(f"{name} draws no moving picture; give -o FILE.png")
    outputs = model.head.out_features if isinstance(model, Classifies) else 0
    names = model.zoo_config.get("classes") or [str(c) for c in range(outputs)]
    if files:
        folder = next((path for path in files if path.is_dir()), None)
        if folder is not None:
            raise ValueError(f"{folder} is a folder; give the files in it, {folder / '*'}")
        given = settle(about, reading)
        samples = torch.stack([KINDS[about.kind].file(path, about, **given) for path in files])
        if moving:
            return plots.write_gif(part(model, "film")(model, samples), output)
        return plots.write(part(model, "explain")(model, samples, [p.name for p in files], names), output)
    try:
        data = batches(model, sample(model), KINDS[about.kind].batch_size)
    except ValueError:
        data = None  # nothing that ships fits this model: the figure is drawn without what needs data
    if moving:
        return plots.write_gif(part(model, "film")(model, defaults.chosen(data, about, 4)), output)
    return plots.write(part(model, "figure")(model, names, data), output)


def draw(name: str, output: Path, classes: list[str], each: int = 8, seed: int = 0, **how: Any) -> Path:
    """Samples that a model draws, a row for each class, and how they come about.

    Args:
        classes: numbers, names, or "any"; none: the first eight.
        each: images of a class.
        how: keywords of the model's `sample`; another model by name.

    Raises:
        ValueError: a model that draws nothing, a class or keyword that it does not have.
    """
    model = hub.load(name)
    if not isinstance(model, Samples):
        drawing = [arch for arch in registry.list_models() if can(model_class(arch), Samples)]
        raise ValueError(f"{name} draws nothing; these archs do: {', '.join(drawing)}")
    if each < 1:
        raise ValueError(f"{each} images of a class: at least 1")
    how = sampling.settle(name, model, how)
    names = model.zoo_config.get("classes") or []
    count = model.num_classes
    wanted = classes or [str(c) for c in range(min(8, count))] or ["any"]
    labels = torch.tensor([_label(c, names, count) for c in wanted])
    return plots.write(part(model, "samples")(model, labels, each, names, seed, **how), output)


def _label(name: str, names: list[str], count: int) -> int:
    if name == "any":
        return -1
    if not count:
        raise ValueError(f"this model has no classes, so no class {name!r}; leave --classes out")
    label = find(name, names)
    if label is None and name.lstrip("-").isdigit():
        label = int(name)
    if label is None or not 0 <= label < count:
        known = f", or a name{registry.suggest(name, names)}" if names else ""
        raise ValueError(f"no class {name!r}; give 0 to {count - 1}, any{known}")
    return label


def part(model: Network, what: str) -> Callable[..., Any]:
    """What is said of a model, "evaluate": by its family's report.py, or by default."""
    own = registry.home(model.zoo_config["arch"]).part("report")
    return getattr(own, what, None) or getattr(defaults, what)
