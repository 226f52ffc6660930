"""What `zoo eval` prints and `zoo show` draws of a bilinear classifier."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from zoo.data.classes import find
from zoo.families.bilinear.model import (
    BilinearClassifier,
    Eigen,
    decompose,
    effective_rank,
    to_pixels,
    truncation_curve,
)
from zoo.metrics.precise import exactly, single
from zoo.metrics.verdicts import Verdicts
from zoo.report import plots

GALLERY = ("bilinear_d256.mnist_noise", "what the logits of 0 to 7 look for, read from the weights")
TOP = 10  # classes whose logits are drawn, at most
KEPT = 15  # eigenvectors per class that the truncated accuracy is stated for


@torch.no_grad()
def evaluate(
    model: BilinearClassifier,
    batches: Iterable[tuple[Tensor, Tensor]],
    train: Iterable[tuple[Tensor, Tensor]] | None = None,
) -> dict[str, Any]:
    """Of a classifier's figures all; for a one-layer model also what its weights say.

    Args:
        batches: pairs of images (B, C, H, W) in [0, 1] and labels (B,).
        train: not needed here.
    """
    verdicts, labels, hidden, model = Verdicts(), list[Tensor](), list[Tensor](), model.eval()
    for x, y in batches:
        hidden.append(single(model.embed(x.flatten(1))))  # (B, D)
        verdicts.update(model(x), y)
        labels.append(y)
    figures = verdicts.figures(model.zoo_config.get("classes") or ())
    if readable(model):
        with exactly(hidden[0]):
            eigen = decompose(model.interactions())
            curve = truncation_curve(torch.cat(hidden), torch.cat(labels), eigen)
        figures[f"accuracy_{KEPT}_eigenvectors"] = curve[min(KEPT, len(curve)) - 1].item()
        figures["effective_rank"] = effective_rank(eigen.values).mean().item()
    return figures


@torch.no_grad()
def gallery(model: BilinearClassifier, across: int) -> Tensor:
    """The two strongest eigenvectors of so many classes, blue to red: a row each, (2 across, 3, H, W)."""
    eigen = decompose(model.interactions())
    vectors = eigen.vectors[:across, :2].transpose(0, 1).flatten(0, 1)  # (2 across, D)
    filters = to_pixels(vectors, model.embed.weight).reshape(-1, *model.takes.shape[1:])  # (2 across, H, W)
    filters = filters / filters.abs().amax((1, 2), keepdim=True)
    return torch.stack([1 + filters.clamp(max=0), 1 - filters.abs(), 1 - filters.clamp(min=0)], 1)


def figure(model: BilinearClassifier, classes: list[str], batches: Iterable[tuple[Tensor, Tensor]] | None) -> Figure:
    """Each class's strongest eigenvectors as pictures, its spectrum, and accuracy against how many are kept.

    Args:
        batches: images and labels for the curve; None leaves it out.

    Raises:
        ValueError: the model has more than one layer, a gate or a residual path.
    """
    if not readable(model):
        raise ValueError("only a model of one bilinear layer, without gate or residual, is read from its weights alone")
    eigen = decompose(model.interactions())
    shown, side = min(len(classes), 10), 3
    fig = plt.figure(figsize=(9.5, 1.02 * shown + 3.6))
    grid = fig.add_gridspec(
        shown + 1,
        2 * side + 2,
        height_ratios=[1] * shown + [2.6],
        width_ratios=[1] * side + [0.12] + [1] * side + [2.6],
    )
    for row in range(shown):
        values, vectors = eigen.values[row], eigen.vectors[row]
        for sign, first in ((1, 0), (-1, side + 1)):
            best = (sign * values).argsort(descending=True)[:side]
            for column, k in enumerate(best):
                ax = fig.add_subplot(grid[row, first + column])
                plots.signed(ax, _pixels(model, vectors[k]))
                ax.set_xlabel(
                    f"λ {values[k]:+.2f}", fontsize=6.5, labelpad=1, color=plots.UP if sign > 0 else plots.DOWN
                )
                if row == 0 and column == side // 2:
                    ax.set_title("speak for the class" if sign > 0 else "speak against it", fontsize=9, pad=6)
                if first + column == 0:
                    ax.set_ylabel(classes[row], rotation=0, ha="right", va="center", fontsize=11, labelpad=8)
        ax = fig.add_subplot(grid[row, -1])
        _spectrum(ax, values)
        if row == 0:
            ax.set_title("λ, the 30 largest |λ|", fontsize=9, pad=6)
    if batches is not None:
        _curve(fig.add_subplot(grid[-1, :]), model, eigen, batches)
    fig.suptitle(
        "What each class looks for, read from the weights: logit = Σ λ (v · x)²\n"
        "red and blue are opposite signs of v, full where it is largest; swapping them changes nothing",
        fontsize=10,
        y=0.925,
    )
    fig.subplots_adjust(hspace=0.32, wspace=0.08)
    return fig


@torch.no_grad()
def explain(
    model: BilinearClassifier,
    images: Tensor,
    names: list[str],
    classes: list[str],
    truths: Sequence[str | None] | None = None,
) -> Figure:
    """For each image: the logits, and the eigenvectors that made the winning one; else the likeliest classes.

    Args:
        images: (B, C, H, W) in [0, 1].
        names: a title for each.
        truths: the true class of each by name, None where it is not known.
    """
    model = model.eval()
    if not readable(model):
        return plots.scores(list(images), names, model(images).float().softmax(-1), classes, truths)
    eigen, logits = decompose(model.interactions()), model(images)
    shown = 5
    fig, axes = plt.subplots(
        len(images),
        shown + 2,
        figsize=(11, 1.75 * len(images) + 0.6),
        squeeze=False,
        width_ratios=[1, 1.7] + [1] * shown,
        layout="constrained",
    )
    for row, (image, name) in enumerate(zip(images, names)):
        winner = logits[row].argmax().item()
        h = model.embed(image.flatten()[None])[0]  # (D,)
        parts = eigen.values[winner] * (eigen.vectors[winner] @ h).square()  # (K,)
        plots.picture(axes[row, 0], image)
        axes[row, 0].set_title(plots.short(name, 20), fontsize=8)
        bars = axes[row, 1]
        said = None if truths is None else truths[row]
        true = None if said is None else find(said, classes)
        top = logits[row].topk(min(TOP, len(classes))).indices.sort().values.tolist()
        colours = [plots.RIGHT if c == true else plots.UP if c == winner else "#cccccc" for c in top]
        bars.barh(range(len(top)), logits[row, top].tolist(), color=colours)
        bars.set_yticks(range(len(top)), [plots.short(classes[c], 16) for c in top], fontsize=6)
        bars.invert_yaxis()
        bars.tick_params(axis="x", labelsize=6)
        bars.set_title(f"logits: {plots.verdict(said, true, winner, classes)}", fontsize=8)
        for ax, k in zip(axes[row, 2:], parts.abs().argsort(descending=True)):
            plots.signed(ax, _pixels(model, eigen.vectors[winner, k]))
            share = 100 * parts[k] / logits[row, winner]
            ax.set_title(f"{share:+.0f} % of the logit", fontsize=7.5, color=plots.UP if parts[k] > 0 else plots.DOWN)
    seen = any(find(said, classes) is not None for said in truths or () if said is not None)
    known = "the true class is green, " if seen else ""
    return plots.caption(
        fig,
        f"What the model is given; the logit of each class, {known}the likeliest red where it is another; and the "
        "eigenvectors that gave most of the likeliest class's logit, each from blue, minus its largest value, over "
        "white, 0, to red.",
    )


def readable(model: BilinearClassifier) -> bool:
    """Whether logits = Σ λ (v · E x)² holds for the whole network."""
    return len(model.blocks) == 1 and model.gate is None and not model.residual


def _pixels(model: BilinearClassifier, vector: Tensor) -> Tensor:
    image = to_pixels(vector, model.embed.weight.detach())  # (I,)
    return (image * image.sum().sign()).reshape(model.takes.shape)  # (C, H, W), the free sign chosen mostly red


def _spectrum(ax: Axes, values: Tensor) -> None:
    top = values[:30].tolist()
    ax.bar(range(len(top)), top, color=[plots.UP if v > 0 else plots.DOWN for v in top], width=0.8)
    ax.axhline(0, color=plots.QUIET, linewidth=0.6)
    ax.set_xticks([])
    ends = max(top), min(top)
    ax.set_yticks(ends, [f"{v:+.2f}" for v in ends], fontsize=6.5, color=plots.QUIET)
    ax.yaxis.tick_right()
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)


@torch.no_grad()
def _curve(ax: Axes, model: BilinearClassifier, eigen: Eigen, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    pairs = [(model.embed(x.flatten(1)), y) for x, y in batches]
    h, y = (torch.cat(parts) for parts in zip(*pairs))
    accuracy = (100 * truncation_curve(h, y, eigen)).tolist()
    ax.plot(range(1, len(accuracy) + 1), accuracy, color=plots.INK, linewidth=1.5)
    ax.set_xscale("log")
    ticks = [k for k in (1, 2, 5, 10, 15, 30, 100, len(accuracy)) if k <= len(accuracy)]
    ax.set_xticks(ticks, [str(k) for k in ticks])
    ax.minorticks_off()
    kept = min(KEPT, len(accuracy))
    ax.plot(kept, accuracy[kept - 1], "o", color=plots.UP)
    ax.annotate(
        f"{kept} per class: {accuracy[kept - 1]:.1f} %   all {len(accuracy)}: {accuracy[-1]:.1f} %",
        (kept, accuracy[kept - 1]),
        xytext=(10, -22),
        textcoords="offset points",
        fontsize=9,
    )
    ax.set_xlabel(
        f"eigenvectors kept per class, of {len(accuracy)}   (effective rank {effective_rank(eigen.values).mean():.0f})"
    )
    ax.set_ylabel(f"accuracy on {len(y):,} images, %")
    ax.grid(axis="y", color="#eeeeee")
