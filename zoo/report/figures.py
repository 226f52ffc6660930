"""`zoo eval`, `zoo show` and `zoo sample` for any model: find it and its data, let its family speak."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from zoo import hub, registry
from zoo.data.classes import Matched, Targets, compare, count_classes, find, relabelled
from zoo.data.clips import ClipData
from zoo.data.images import ImageData
from zoo.data.progress import shown
from zoo.data.readers import ALL, serves
from zoo.data.trained import changed, trained_on
from zoo.hub.files import write_aside
from zoo.hub.make import model_class
from zoo.metrics.verdicts import unique
from zoo.nn.checks import check_least
from zoo.nn.protocols import Classifies, Network, Samples, can
from zoo.nn.signatures import arguments
from zoo.report import defaults, mistakes, plots, sampling, showing
from zoo.report.inputs import KINDS, Again, batches, loader, opened, sample, settle, shown_split, subject
from zoo.report.quality import merged
from zoo.report.running import running
from zoo.report.runs import datamodule

CONFUSION, WORST = "confusion.png", "worst.png"  # pictures of a classifier's figures


def evaluate(
    name: str,
    source: str | list[str] | None = None,
    batch_size: int | None = None,
    class_map: Targets | str | Path | None = None,
    by_number: bool = False,
    reading: Mapping[str, Any] | None = None,
    device: str = "auto",
    precision: str = "32",
    output: Path | None = None,
    run: str | Path | None = None,
) -> dict[str, Any]:
    """The figures of a model on a test set, with what they were measured on.

    Labels are compared by the names of their classes, of which the data may have fewer than the model.

    Args:
        name: arch.tag, checkpoint folder, hf://org/name, a Lightning checkpoint or a run's directory.
        source: as ImageData's, or FactorData's ("rendered", a .npz, a .h5); of a model of clips as ClipData's, of
            latents the folder that `zoo latents` wrote; or "class:PACKAGE.MODULE.DATAMODULE". None takes a run's own
            data and split, else the sample that ships with the package, where it fits the model.
        batch_size: None is 1000 samples, or 64 clips.
        class_map: classes of the data that the model calls otherwise: {"zero": "0"}, "zero=0,one=1" or a JSON file.
        by_number: compare the numbers of classes, and no names.
        reading: of images, ImageData's keywords that say how the source is read: value_range, image_column, …
        device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:N", "mps".
        precision: of the model, "32", "bf16" or "16"; figures are computed in 32 bits or more.
        output: a folder for figures.json, and of a classifier for confusion.png and worst.png.
        run: without a source, whose own data are taken: those of the run that `name` was made of, by default `name`.

    Returns:
        Figures by name; `notes` say why one is None.

    Raises:
        ValueError: classes that the model does not know; a model that names none, unless by_number or class_map.
    """
    figures, pictures = measured(
        name, source, batch_size, class_map, by_number, reading, device, precision, output is not None, run
    )
    if output is not None:
        keep(figures, pictures, output)
    return figures


def measured(
    name: str,
    source: str | list[str] | None = None,
    batch_size: int | None = None,
    class_map: Targets | str | Path | None = None,
    by_number: bool = False,
    reading: Mapping[str, Any] | None = None,
    device: str = "auto",
    precision: str = "32",
    drawn: bool = False,
    run: str | Path | None = None,
) -> tuple[dict[str, Any], dict[str, Figure]]:
    """As `evaluate`, and nothing is written: figures, and with `drawn` of a classifier its pictures by their file."""
    check_least(1, batch_size=batch_size)
    model = hub.load(name)
    about = subject(model)
    began = Path(run or name)
    own = None if source else datamodule(began, about)
    if own is not None and settle(about, reading):
        raise ValueError(
            f"{', '.join(settle(about, reading))}: the data of {name} is read as its recipe says; leave it out"
        )
    given = own or source or sample(model)
    data = opened(model, given, reading) if own is None else _own(name, began, model, own)
    batch_size, split = batch_size or KINDS[about.kind].batch_size, shown_split(data)
    called = getattr(data, "said", None) or (given if own is None else data.hparams.get("source", type(own).__name__))
    figures: dict[str, Any] = {"name": name, "data": called, "split": serves(data, split)}
    matched = _match(name, model, data, called, class_map, by_number)
    read = own is not None or isinstance(data, ImageData | ClipData)  # it knows which pictures are measured
    figures |= trained_on(name, data if read else given, split, **settle(about, reading))
    with running(model, device, precision) as place:
        test = _again(model, data, batch_size, split, place)
        if matched is not None:
            figures["classes"] = matched.said
            test = _relabelled(test, matched, called, isinstance(model, Classifies))
        # Samples that are asked about are no bank for themselves.
        bank = split != ALL and "train" in getattr(data, "served", ("train",))
        train = _again(model, data, batch_size, "train", place) if bank else ()
        found, pictures = _figures(model, test, train, drawn, _names(data, split))
    return merged(figures, found), pictures


def keep(figures: Mapping[str, Any], pictures: Mapping[str, Figure], folder: Path) -> None:
    """Write down what `measured` found: figures.json, and its pictures; those of another model go.

    Raises:
        OSError: the disk is full; what was there before is untouched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with write_aside(folder) as aside:
        for file, picture in pictures.items():
            plots.render(picture, aside(file), Path(file).suffix)
        text = json.dumps(figures, indent=2, ensure_ascii=False) + "\n"
        aside("figures.json").write_text(text, encoding="utf-8")
    for file in {CONFUSION, WORST} - pictures.keys():
        (folder / file).unlink(missing_ok=True)


def _own(name: str, run: Path, model: Network, data: Any) -> Any:
    """The data that a run was trained on, with its test set, or what it held out, read.

    Raises:
        ValueError: there is neither, or a model is measured on other samples than it was trained on.
    """
    about, cure = subject(model), f"name what it is measured on: zoo eval {name} SOURCE"
    try:
        if not (why := changed(run, data)):
            opened(model, data)
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"the data of {name} has nothing to measure it on ({error}); {cure}") from error
    if why:
        raise ValueError(f"{why}; {cure}")
    x, _ = next(batches(model, data, 1))
    if not isinstance(x, torch.Tensor) or x.shape[1:] != about.shape:
        raise ValueError(f"{name} was trained on other samples than the {about.kind}s that show what it does; {cure}")
    return data


def _match(
    name: str, model: Network, data: Any, called: Any, class_map: Targets | str | Path | None, by_number: bool
) -> Matched | None:
    """Which classes of the model those of the data are; None of a model that has none, or needs none and gets none."""
    given = getattr(data, "classes", ())
    labelled = bool(given) if shown_split(data) == ALL else getattr(data, "labelled", True)
    if isinstance(model, Classifies) and not labelled:
        raise ValueError(
            f"the samples of {called} have no labels, which the figures of a classifier need; put them into a folder "
            f"for each class, or have them named: zoo predict {name} {called}"
        )
    if isinstance(model, Classifies) or (count_classes(model) and given):  # what draws needs no classes
        return compare(model, given, class_map, by_number)
    if class_map is not None or by_number:
        raise ValueError(f"{name} knows no classes; leave --class-map and --by-number out")
    return None


def _again(model: Network, data: Any, batch_size: int, split: str, place: torch.device) -> Again:
    """A split on a device, as often as it is asked for, counted on stderr."""
    total = len(loader(data, batch_size, split).labels) if split != "train" and hasattr(data, "in_order") else None

    def once() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        some = batches(model, data, batch_size, split, place)
        return shown(some, lambda batch: len(batch[0]), total, f"{subject(model).kind}s")

    return Again(once, total)


def _relabelled(test: Again, matched: Matched, called: Any, needed: bool) -> Again:
    return Again(lambda: relabelled(test, matched, called, needed), test.total)


def _names(data: Any, split: str) -> Sequence[str]:
    """What the samples of a split are called, in order; nothing where they have no names."""
    try:
        return data.names(split) if isinstance(data, ImageData) else ()
    except ValueError:  # a stream of which some are left out
        return ()


def _figures(
    model: Network, test: Again, train: Iterable[Any], drawn: bool, files: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Figure]]:
    """What is said of a model by its family or by default; of a classifier its figures always, and their pictures."""
    found: dict[str, Any] = {}
    pictures: dict[str, Figure] = {}
    if isinstance(model, Classifies):
        verdicts, worst = mistakes.judge(model, test)
        names = unique(model.zoo_config.get("classes") or [f"class_{c}" for c in range(model.head.out_features)])
        found = verdicts.figures(names)
        if drawn:
            pictures[CONFUSION] = mistakes.confusion(verdicts.pairs, names)
            wrong = int((verdicts.pairs[:, 0] != verdicts.pairs[:, 1]).sum())
            files = files if len(files) == len(verdicts.pairs) else ()
            pictures[WORST] = mistakes.sheet(worst, names, model.takes.kind, files, wrong)
        if part(model, "evaluate") is defaults.evaluate:
            return found, pictures
    return merged(found, part(model, "evaluate")(model, test, train)), pictures


def show(
    name: str,
    sources: Sequence[str | Path],
    output: Path,
    reading: Mapping[str, Any] | None = None,
    device: str = "auto",
    precision: str = "32",
    batch_size: int | None = None,
) -> Path:
    """Draw what a model makes of some samples, or the model's own figure; a model of clips also as a GIF.

    Without a source a run draws samples of its own validation split, and any other model what its family draws of it.

    Args:
        sources: files, and what `zoo eval` takes: folders, lists of pictures, Hub ids, …; of a model of latents or
            activations, NumPy files of one each. Of what holds many, up to eight samples are drawn, evenly over it.
        reading: of images, ImageData's keywords that say how a source is read.
        device, precision: as `zoo.report.running.running`'s.
        batch_size: of the samples that a family's own figure is computed of; None is 1000, or 64 clips.

    Raises:
        ValueError: a source that cannot be read or does not fit; a moving picture of what does not move.
    """
    check_least(1, batch_size=batch_size)
    model = hub.load(name)
    about = subject(model)
    moving = output.suffix.lower() == ".gif"
    if moving and about.kind != "clip":
        raise ValueError(f"{name} draws no moving picture; give -o FILE.png")
    outputs = model.head.out_features if isinstance(model, Classifies) else 0
    names = model.zoo_config.get("classes") or [str(c) for c in range(outputs)]
    shown = showing.given(model, sources, reading) if sources else showing.own(model, name)
    with running(model, device, precision) as place, torch.no_grad():
        if shown is not None:
            samples = shown.samples.to(place)
            if moving:
                return plots.write_gif(part(model, "film")(model, samples), output)
            explain = part(model, "explain")
            truths = {"truths": shown.truths} if "truths" in arguments(explain) and any(shown.truths) else {}
            figure = explain(model, samples, [str(n) for n in shown.names], names, **truths)
            return plots.write(plots.caption(figure, shown.said) if shown.said else figure, output)
        data = _shipped(model, batch_size or KINDS[about.kind].batch_size, place)
        if moving:
            return plots.write_gif(part(model, "film")(model, defaults.chosen(data, about, 4)), output)
        return plots.write(part(model, "figure")(model, names, data), output)


def _shipped(
    model: Network, batch_size: int, place: torch.device
) -> Iterator[tuple[torch.Tensor, torch.Tensor]] | None:
    """The test set that ships with the package and fits a model, on a device; None where nothing does."""
    try:
        source = sample(model)
    except ValueError:
        return None  # the figure is drawn without what needs data
    return batches(model, source, batch_size, device=place)


def draw(
    name: str,
    output: Path,
    classes: list[str],
    each: int = 8,
    seed: int = 0,
    device: str = "auto",
    precision: str = "32",
    **how: Any,
) -> Path:
    """Samples that a model draws, a row for each class, and how they come about.

    Args:
        classes: numbers, names, or "any"; none: the first eight.
        each: images of a class.
        device, precision: as `zoo.report.running.running`'s.
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
    with running(model, device, precision) as place, torch.no_grad():
        for other in how.values():  # the model that guides it
            if isinstance(other, torch.nn.Module):
                other.to(place)
        figure = part(model, "samples")(model, labels, each, names, seed, **how)
    return plots.write(figure, output)


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
