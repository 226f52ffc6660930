"""How well features separate classes, by neighbours and by a linear probe; of data without a training set too."""

from typing import Any

import torch
from torch import Tensor

from zoo.data.seeds import held_out
from zoo.metrics.intervals import share
from zoo.metrics.precise import exactly, single
from zoo.metrics.probes import knn_accuracy, linear_accuracy, scored

HELD_OUT = 0.5  # of samples that are their own bank
FIGURES = ("knn", "linear")


def separation(bank: tuple[Tensor, Tensor] | None, queries: Tensor, labels: Tensor) -> dict[str, Any]:
    """The accuracies `knn`, of 20 neighbours, and `linear`, in [0, 1], each with its 95 % interval; `bank`, its size.

    Without a bank, half of the samples, of each class its share, are asked about and the others are the bank: none is
    its own neighbour. What cannot be measured is None, and `notes` say why.

    Args:
        bank: features (N, D) and their classes (N,) int64.
        queries, labels: the same, (M, D) and (M,).
    """
    for what, y in (("test", labels), ("training", labels if bank is None else bank[1])):
        if not scored(y):
            return _left_out(f"the {what} samples have no labels")
        if int(y.min()) == int(y.max()):
            return _left_out(f"the {what} samples are all of one class")
    notes = {}
    if bank is None:
        if len(labels) < 2:
            return _left_out("one sample is not enough to be asked about and to answer")
        kept, held = map(torch.from_numpy, held_out(labels.cpu().numpy(), HELD_OUT, seed=0))
        bank, queries, labels = (queries[kept], labels[kept]), queries[held], labels[held]
        said = f"no training split: {len(held)} of the samples were asked about, the other {len(kept)} are the bank"
        notes = {"notes": dict.fromkeys(FIGURES, said)}
    size, count = len(bank[0]), len(labels)
    with exactly(queries):
        features = (single(bank[0]), bank[1])
        found = (
            knn_accuracy(*features, single(queries), labels, min(20, size)),
            linear_accuracy(*features, single(queries), labels),
        )
    figures: dict[str, Any] = {}
    for name, accuracy in zip(FIGURES, found):
        figures |= share(name, round(accuracy * count), count)
    return figures | {"bank": size} | notes


def _left_out(why: str) -> dict[str, Any]:
    return dict.fromkeys(FIGURES) | {"notes": dict.fromkeys(FIGURES, f"left out: {why}")}
