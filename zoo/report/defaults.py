"""What `zoo eval` prints and `zoo show` draws of a model by what it can do.

A family's report.py says something else where it has more to say: `evaluate`, `figure`, `explain`, `film`, `samples`
are taken from there, each of them alone, or from here.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, cast

import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from zoo.data.transforms import device_of
from zoo.metrics.images import psnr
from zoo.metrics.precise import double
from zoo.metrics.probes import features_of, pooled_features, scored
from zoo.metrics.verdicts import classification
from zoo.nn.masked import MaskedAutoencoder
from zoo.nn.protocols import (
    Classifies,
    FillsIn,
    HasCodes,
    HasFeatures,
    Input,
    Model,
    Network,
    Reconstructs,
    Samples,
    frames_of,
)
from zoo.report import masked, plots
from zoo.report.inputs import photographs, total_of
from zoo.report.probing import separation
from zoo.report.quality import PICTORIAL, Bottleneck, Quality, merged

Batches = Iterable[tuple[Tensor, Tensor]]
SHOWN, DRAWN = 8, 10  # samples and classes of a figure, at most
TIGHT = "constrained"  # layout in which labels keep clear of one another
FILLED = (
    "What the model is given; what it sees of that, the rest hidden; what it predicts of all; and its prediction of "
    "what was hidden beside what it saw."
)


class Autoencoder(Model, Reconstructs, Protocol):
    """A model that gives samples back."""


class FillingIn(Model, FillsIn, Protocol):
    """A model that predicts what it hides of samples."""


# zoo eval


@torch.no_grad()
def evaluate(model: Network, batches: Batches, train: Batches = ()) -> Mapping[str, Any]:
    """Figures of a test set: of a classifier its accuracy, of an autoencoder its reconstructions, else its features.

    Args:
        batches: pairs of samples and labels (B,), -1 where there are none.
        train: the bank of neighbours and probes, as `batches`.

    Returns:
        Numbers, lists and mappings of them, and words, by name. A figure that cannot be measured is None, and `notes`
        say why, by its name.

    Raises:
        ValueError: the model takes other samples than it draws, or there is nothing that can be measured.
    """
    model = model.eval()
    if isinstance(model, Classifies):
        return classification(model, batches, getattr(model, "zoo_config", {}).get("classes") or ())
    if isinstance(model, MaskedAutoencoder):
        return masked.evaluate(model, batches, train)
    if isinstance(model, Reconstructs):
        return reconstruction(model, batches)
    if isinstance(model, Samples) and model.draws().kind != model.takes.kind:
        raise ValueError(
            f"{type(model).__name__} takes {model.takes.kind}s and draws {model.draws().kind}s: nothing is known to "
            "measure it by; draw with `zoo sample`"
        )
    return features(model, batches, train)


@torch.no_grad()
def features(model: Network, batches: Batches, train: Batches) -> dict[str, Any]:
    """The mean `loss`, where what is drawn at random is seeded by the batch; where labels exist, `knn` and `linear`."""
    total, count = 0.0, 0
    queries: list[Tensor] = []
    answers: list[Tensor] = []
    for i, (x, y) in enumerate(batches):
        with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
            torch.manual_seed(i)
            total += double(model(x)[0]).item() * len(x)
        count += len(x)
        if isinstance(model, HasFeatures):
            queries.append(pooled_features(model, x))
            answers.append(y)
    figures: dict[str, Any] = {"loss": total / count}
    if isinstance(model, HasFeatures) and scored(torch.cat(answers)):
        figures |= separation(features_of(model, train), torch.cat(queries), torch.cat(answers))
    return merged(figures, {f"{model.takes.kind}s": count})


@torch.no_grad()
def reconstruction(model: Autoencoder, batches: Batches) -> dict[str, Any]:
    """How much of a sample survives, and how many numbers it survives in: see `Quality` and `Bottleneck`."""
    takes, quality, spent, count = model.takes, Quality(model.takes, total_of(batches)), Bottleneck(model), 0
    for batch, _ in batches:
        for x in batch.split(100):
            z = model.encode(x)  # (B, c, h, w) or (B, D)
            quality.update(model.decode(z), x)
            spent.update(z)
            count += len(x)
    return merged(quality.compute(), spent.compute(), {f"{takes.kind}s": count})


# zoo show


def chosen(batches: Batches | None, takes: Input, most: int = SHOWN) -> Tensor:
    """Samples of a test set's first batch that its order alone decides, (most, …).

    Raises:
        ValueError: nothing that ships with the package fits the model.
    """
    if batches is None:
        raise ValueError(
            f"no {takes.kind}s that ship with the package fit this model; give files: zoo show NAME FILE …"
        )
    x, _ = next(iter(batches))
    return x[:: len(x) // most | 1][:most]


@torch.no_grad()
def figure(model: Network, classes: list[str], batches: Batches | None) -> Figure:
    """Shipped photographs through a model, or samples of the test set; of one that gives none back, what it draws."""
    if isinstance(model, Samples) and not isinstance(model, Reconstructs):
        labels = torch.arange(model.num_classes)[:DRAWN] if model.num_classes else torch.tensor([-1])
        return samples(model, labels, DRAWN, classes)
    if model.takes.kind == "image" and (model.takes.channels == 3 or batches is None):
        names, x = photographs(model)
    else:
        x = chosen(batches, model.takes, 4 if model.takes.kind == "clip" else SHOWN)
        names = [str(i + 1) for i in range(len(x))]
    return explain(model, x, names, classes)


class Row(NamedTuple):
    """What stands in a row of a figure, a sample a column."""

    title: str
    samples: Tensor  # (B, …)
    draw: Callable[[Axes, Tensor], None]
    notes: Sequence[str] = ()  # below each


@torch.no_grad()
def explain(
    model: Network, x: Tensor, names: list[str], classes: list[str], truths: Sequence[str | None] | None = None
) -> Figure:
    """Samples and what a model makes of them, a column each.

    Of a classifier the likeliest classes; of a model that fills in, what it saw, predicted and pasted; of an
    autoencoder the reconstruction, the difference and the latents or codes; of others the features.

    Args:
        x: (B, …) as the model takes them.
        names: a title for each.
        truths: the true class of each by name, None where it is not known; marked where the model classifies.

    Raises:
        ValueError: the model takes other samples than it draws.
    """
    model, takes = model.eval(), model.takes
    if isinstance(model, Samples) and model.draws().kind != takes.kind:
        raise ValueError(f"this model draws {model.draws().kind}s, it takes none; leave them out, or use `zoo sample`")
    if isinstance(model, Classifies):
        pictures = [plots.as_picture(each, takes.kind) for each in x]
        return plots.scores(pictures, names, model(x).float().softmax(-1), classes, truths)
    if isinstance(model, FillsIn):
        return _grid(_filled(model, x), names, FILLED)
    if isinstance(model, Reconstructs):
        return _grid(*_reconstructed(model, x, names))
    if isinstance(model, HasFeatures):
        seen = Row(takes.kind, x, partial(plots.sample, kind=takes.kind))
        z = pooled_features(model, x)  # (B, D)
        kept, about = _bottleneck(model, z)
        return _grid([seen, kept], names, f"What the model is given, and its features of that, {about}: {_meaning(z)}")
    raise ValueError(f"{type(model).__name__} has no features, reconstructions or classes; there is nothing to draw")


@torch.no_grad()
def film(model: Network, clips: Tensor) -> Tensor:
    """Clips (B, F, C, H, W) in motion side by side over what the model makes of them: (F, 3, H', W') in [0, 1].

    Raises:
        ValueError: the model makes no clips.
    """
    model = model.eval()
    if isinstance(model, FillsIn):
        rows = {row.title: row.samples for row in _filled(model, clips)}
    elif isinstance(model, Reconstructs):
        rows = {"clip": clips, "reconstruction": model.reconstruct(clips)}
    else:
        raise ValueError(f"{type(model).__name__} makes no clips, so it draws no moving picture; give -o FILE.png")
    return plots.in_motion(rows)


@torch.no_grad()
def samples(model: Samples, labels: Tensor, each: int, names: list[str], seed: int = 0, **how: Any) -> Figure:
    """A row of drawn samples for each label (R,), -1 is any class; `how` as keywords of the model's `sample`."""
    place = device_of(cast(nn.Module, model))
    generator = torch.Generator(place).manual_seed(seed)
    drawn = model.sample(labels.to(place).repeat_interleave(each), generator=generator, **how)
    rows = len(labels)
    fig, axes = plt.subplots(rows, each, figsize=(0.72 * each + 0.3, 0.72 * rows + 0.2), squeeze=False)
    for ax, one in zip(axes.flat, drawn):  # (R · each) of (C, H, W)
        plots.sample(ax, one, model.draws().kind)
    for label, line in zip(labels.tolist(), axes[:, 0]):
        name = "any" if label < 0 else names[label] if label < len(names) else str(label)
        side = "right" if len(name) > 2 else "center"
        line.set_ylabel(name, fontsize=8, rotation=0, labelpad=8, va="center", ha=side)
    return fig


def _grid(rows: list[Row], names: list[str], about: str) -> Figure:
    """Rows one above the other, a sample a column; of many samples, bands of as many as fit a page."""
    wide = max(_aspect(row) for row in rows)
    across = min(len(names), max(1, round(SHOWN / wide)))
    bands = -(-len(names) // across)
    cell = 1.5 * wide if wide == 1 else max(3.0, 0.8 * wide)  # inches
    high = 1.65 if wide == 1 else cell / wide + 0.3
    fig, axes = plt.subplots(
        bands * len(rows), across, figsize=(cell * across + 0.6, high * bands * len(rows)), squeeze=False, layout=TIGHT
    )
    for k, line in enumerate(axes):
        band, row = k // len(rows), rows[k % len(rows)]
        for j, ax in enumerate(line):
            i = band * across + j
            if i >= len(names):
                ax.set_axis_off()
                continue
            row.draw(ax, row.samples[i])
            if row.notes:
                ax.set_xlabel(row.notes[i], fontsize=7, labelpad=2)
            if row is rows[0]:
                ax.set_title(plots.short(names[i], round(16 * cell)), fontsize=8)
        line[0].set_ylabel(row.title, fontsize=8)
    return plots.caption(fig, about)


def _aspect(row: Row) -> float:
    """Width over height: a clip's frames stand in a row."""
    return float(row.samples.shape[1]) if row.samples.ndim == 5 else 1.0


def _filled(model: FillingIn, x: Tensor) -> list[Row]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        order = model.draw(len(x)).to(x.device)  # (B, N)
    seen, predicted, pasted = model.reconstruct(x, order)
    pairs = ((model.takes.kind, frames_of(x, pasted)), ("seen", seen), ("predicted", predicted), ("pasted", pasted))
    draw = partial(plots.sample, kind=model.takes.kind)
    return [Row(title, each, draw) for title, each in pairs]


def _reconstructed(model: Autoencoder, x: Tensor, names: list[str]) -> tuple[list[Row], list[str], str]:
    """Rows of samples and reconstructions, the names of the samples, and what is seen in the rows."""
    kind, z = model.takes.kind, model.encode(x)  # (B, c, h, w) or (B, D)
    draw: Callable[[Axes, Tensor], None]
    recon = model.decode(z).float()  # as x
    error = (recon - x).square().flatten(1).mean(1)  # (B,)
    difference = (recon - x).abs()  # as x
    bottleneck, kept = _bottleneck(model, z)
    if kind in PICTORIAL:
        draw = partial(plots.sample, kind=kind)
        difference = difference.mean(-3, keepdim=True)  # (B, …, 1, H, W)
        white = difference.max().clamp(min=1e-6).item()
        difference = difference / white
        notes, scale = [f"{value:.1f} dB" for value in psnr(error).tolist()], f"white = {white:.2g}"
        measure = f"the PSNR in dB, higher is closer; the difference of the two, of pixels from 0 to 1 ({scale})"
    else:
        most = difference.max().item()
        notes, scale = [f"mse {value:.3g}" for value in error.tolist()], f"at most {most:.2g}"
        measure = f"the mean squared error; the difference of the two ({scale})"
        if x.ndim == 2:
            draw = partial(plots.vector, limit=x.abs().max().item())
        else:  # maps, each channel over its range in what came in
            recon, difference, draw = plots.stretched(recon, x), plots.stretched(difference), plots.channels
            x = plots.stretched(x)
    rows = [
        Row(kind, x, draw),
        Row("reconstruction", recon, draw, notes),
        Row("|difference|", difference, draw, [scale] * len(x)),
        bottleneck,
    ]
    about = (
        f"From above: what the model is given; what it makes of that again, out of the {kept} that it keeps, with "
        f"{measure}; what it keeps: {_meaning(z)}"
    )
    return rows, names, about


def _bottleneck(model: Model, z: Tensor) -> tuple[Row, str]:
    """Latents, features or codes of samples, and what they are in a word."""
    size = "×".join(map(str, z.shape[1:]))
    if not z.is_floating_point():
        count = model.count_codes() if isinstance(model, HasCodes) else int(z.max()) + 1
        title = f"codes, {count} colours" if z.ndim > 2 else f"{z.shape[1]} codes"
        return Row(title, z, partial(plots.codes, count=count)), f"{size} codes"
    z = z.float()
    if z.ndim == 2:
        limit = z.abs().max().item()
        scale = [f"−{limit:.2g} to {limit:.2g}"] * len(z)
        return Row(f"{z.shape[1]} numbers", z, partial(plots.vector, limit=limit), scale), f"{size} numbers"
    amount = "all" if z.shape[1] <= plots.MOSAIC else f"{plots.MOSAIC} of"
    title = f"{amount} {z.shape[1]} channels, {z.shape[2]}×{z.shape[3]}"
    low, high = z.flatten(1).amin(1).tolist(), z.flatten(1).amax(1).tolist()  # (B,) each
    scale = [f"{a:.2g} to {b:.2g}".replace("-", "−") for a, b in zip(low, high)]
    return Row(title, plots.stretched(z), plots.channels, scale), f"{size} numbers"


def _meaning(z: Tensor) -> str:
    """How latents, features or codes are drawn, for who has not seen such a picture."""
    if not z.is_floating_point():
        return "each colour is a code, without an order among them."
    if z.ndim == 2:
        return "red is positive, blue negative, each on the same scale, which stands below."
    return (
        "each small picture is a channel, from black, its least value among these samples, to white, its greatest; "
        "below stands the range of all."
    )
