"""What a classifier gets wrong: its figures, the mistakes it is surest of, and which classes it takes for which."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from torch import Tensor

from zoo.metrics.precise import single
from zoo.metrics.verdicts import Verdicts
from zoo.nn.protocols import Kind, Network
from zoo.report import plots

MOST = 24  # mistakes of a sheet
NAMED = 40  # classes whose names stand beside a confusion matrix, at most
NUMBERED = 12  # classes whose counts are written into it, at most
PAIRS = 20  # of classes that are taken for one another, in a list beside a larger one
CUT = 24  # letters of a name


class Mistake(NamedTuple):
    """A sample that was taken for another class."""

    sample: Tensor  # as the model takes it, without the batch
    label: int
    answer: int
    score: float  # of the answer, in [0, 1]
    place: int = -1  # of the sample in its test set


@torch.no_grad()
def judge(model: Network, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[Verdicts, list[Mistake]]:
    """A classifier's answers over a test set, and the mistakes it is surest of, MOST at most, the surest first."""
    verdicts, worst, model, seen = Verdicts(), list[Mistake](), model.eval(), 0
    for x, y in batches:
        logits = single(model(x))  # (B, O)
        verdicts.update(logits, y)
        scores, answers = logits.softmax(1).max(1)  # (B,) each
        wrong = (answers != y).nonzero()[:, 0]  # (wrong,)
        for i in wrong[scores[wrong].argsort(descending=True, stable=True)[:MOST]].tolist():
            worst.append(Mistake(x[i].cpu(), int(y[i]), int(answers[i]), scores[i].item(), seen + i))
        seen += len(y)
        worst = sorted(worst, key=lambda mistake: -mistake.score)[:MOST]
    return verdicts, worst


def sheet(
    mistakes: Sequence[Mistake],
    names: Sequence[str],
    kind: Kind,
    files: Sequence[str] = (),
    total: int | None = None,
) -> Figure:
    """Mistakes as pictures, each with its class, and what it was taken for with which score.

    Args:
        names: of the classes.
        files: what the samples of the test set are called, in its order; none where they have no names.
        total: of the mistakes that there are.
    """
    if not mistakes:
        fig, ax = plt.subplots(figsize=(4, 1))
        ax.text(0.5, 0.5, "no mistakes", ha="center", va="center")
        ax.set_axis_off()
        return fig
    across = min(6, len(mistakes))
    rows = math.ceil(len(mistakes) / across)
    fig, axes = plt.subplots(
        rows, across, figsize=(max(3.0, 1.7 * across), (2.3 if files else 2.1) * rows + 0.4), squeeze=False
    )
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, mistake in zip(axes.flat, mistakes):
        ax.set_axis_on()
        plots.sample(ax, mistake.sample, kind)
        file = f"{plots.short(files[mistake.place], CUT)}\n" if files else ""
        ax.set_title(f"{file}is {_cut(names[mistake.label])}", fontsize=8, color=plots.INK)
        ax.set_xlabel(f"{_cut(names[mistake.answer])}?\n{mistake.score:.0%}", fontsize=8, color=plots.UP)
    some = "The mistakes" if total in (None, len(mistakes)) else f"The {len(mistakes)} of {total:,} mistakes"
    title = f"{some} it is surest of: above the true class, below what the model said, and its score"
    fig.suptitle(title if across > 3 else "above the true class, below the answer", fontsize=9)
    fig.tight_layout(rect=(0, 0, 1, 1 - 0.1 / (rows + 1)), h_pad=1.8)
    return fig


def confusion(pairs: Tensor, names: Sequence[str]) -> Figure:
    """How often each class, a row, is taken for which, a column: shares of the row.

    Of few classes each count is written down. Of many the names would be too small: those pairs that are confused most
    often are listed beside.

    Args:
        pairs: label and answer of each sample, (N, 2) int64.
        names: of all classes.
    """
    count = len(names)
    table = (pairs[:, 0] * count + pairs[:, 1]).bincount(minlength=count * count).reshape(count, count)  # (O, O)
    rates = table / table.sum(1, keepdim=True).clamp(min=1)  # (O, O)
    few = count <= NAMED
    side = min(9.0, max(2.2, 0.34 * count)) if few else 7.0
    widths = None if few else [side, 3.0]
    size = (side + (1.8 if few else 4.0), side + (0.9 if few else 0.0))
    fig, axes = plt.subplots(1, 1 if few else 2, figsize=size, squeeze=False, width_ratios=widths)
    ax = axes[0, 0]
    scale = Normalize(0, 1) if few else PowerNorm(0.5, 0, 1)  # one mistake in a hundred is seen among many classes
    drawn = ax.imshow(rates.numpy(), cmap="Blues", norm=scale, interpolation="nearest")
    fig.colorbar(drawn, ax=ax, fraction=0.046, pad=0.03, label="share of the true class")
    ax.set_xlabel("what the model said")
    ax.set_ylabel("true class")
    if few:
        called = [_cut(name) for name in names]
        letters = 8 if count <= 20 else 6.5
        ax.set_xticks(range(count), called, rotation=45, ha="right", rotation_mode="anchor", fontsize=letters)
        ax.set_yticks(range(count), called, fontsize=letters)
    else:
        ax.set_title(f"{count} classes, numbered as the model numbers them", fontsize=8)
        _pairs(axes[0, 1], table, names)
    if count <= NUMBERED:
        for row, column in table.nonzero().tolist():
            colour = "white" if rates[row, column] > 0.5 else plots.INK
            ax.text(column, row, int(table[row, column]), ha="center", va="center", fontsize=7, color=colour)
    fig.tight_layout()
    return fig


def _pairs(ax: Axes, table: Tensor, names: Sequence[str]) -> None:
    """The pairs of classes that are confused most often, as text."""
    wrong = table.clone().fill_diagonal_(0)
    top = wrong.flatten().topk(min(PAIRS, wrong.numel()))
    lines = []
    for n, place in zip(top.values.tolist(), top.indices.tolist()):
        label, answer = divmod(place, len(names))
        if n:
            lines.append(f"{n:>4} of {int(table[label].sum()):<4} {_cut(names[label])} → {_cut(names[answer])}")
    ax.set_axis_off()
    ax.set_title("taken for another class most often", fontsize=8, loc="left")
    ax.text(0, 1, "\n".join(lines) or "none", va="top", fontsize=7, family="monospace", linespacing=1.5)


def _cut(name: str) -> str:
    """The first of a class's synonyms, no longer than CUT."""
    return plots.short(name.partition(", ")[0], CUT)
