"""What `zoo eval` prints and `zoo show` draws of a masked autoencoder and its classifier."""

import copy
from collections.abc import Iterable

import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from zoo.families.mae.masks import num_kept
from zoo.families.mae.model import MAE, MAEClassifier
from zoo.metrics.images import psnr
from zoo.metrics.probes import classification, features_of, pooled_features, separation
from zoo.report import plots
from zoo.report.inputs import photographs

RATIOS = (0.5, 0.75, 0.85, 0.95)
GALLERY = ("mae_vit_tiny.tiny_imagenet", "photographs, three quarters hidden, predicted")
Batches = Iterable[tuple[Tensor, Tensor]]


@torch.no_grad()
def evaluate(model: MAE | MAEClassifier, batches: Batches, train: Batches) -> dict[str, float]:
    """Of a classifier, its accuracy; of an autoencoder, how well it fills in and how well its features separate.

    `psnr` is over the hidden patches' pixels, in dB, with each patch's own mean and deviation put back, or with the
    average of the visible ones. `knn` and `linear` classify by the mean patch token, with the training images as bank.
    """
    model = model.eval()
    if isinstance(model, MAEClassifier):
        return classification(model, batches)
    figures, features, labels = {}, [], []
    sums, count = torch.zeros(3, dtype=torch.float64), 0
    for i, (x, y) in enumerate(batches):
        if model.decoder is not None:
            order = _order(model, len(x), i)
            sums[0] += model(x, order).loss.double() * len(x)
            for j, statistics in ((1, "own"), (2, "visible")):
                pasted = model.reconstruct(x, order, statistics).pasted
                sums[j] += (pasted - x).double().square().mean((1, 2, 3)).sum()
        count += len(x)
        features.append(pooled_features(model, x))
        labels.append(y)
    if model.decoder is not None:
        hidden = 1 - model.num_keep / model.num_patches
        figures["loss"] = (sums[0] / count).item()
        figures["psnr"] = psnr(sums[1] / count / hidden).item()
        figures["psnr_visible_statistics"] = psnr(sums[2] / count / hidden).item()
    bank, bank_labels = features_of(model, train)
    figures |= separation(bank, bank_labels, torch.cat(features), torch.cat(labels))
    return figures | {"images": count, "bank": len(bank)}


def figure(model: MAE | MAEClassifier, classes: list[str], batches: Batches | None) -> Figure:
    """Shipped photographs through the model."""
    names, images = photographs(model)
    return explain(model, images, names, classes)


@torch.no_grad()
def explain(model: MAE | MAEClassifier, images: Tensor, names: list[str], classes: list[str]) -> Figure:
    """Image, masked, predicted, pasted, a row each, and the first image at growing mask ratios; or class scores.

    Args:
        images: (B, C, H, W) in [0, 1].
        names: a title for each.

    Raises:
        ValueError: the model is an encoder alone.
    """
    model = model.eval()
    if isinstance(model, MAEClassifier):
        return plots.scores(list(images), names, model(images).softmax(-1), classes)
    columns = [images, *model.reconstruct(images, _order(model, len(images), 0))]
    titles = ["image", f"{1 - model.num_keep / model.num_patches:.0%} hidden", "prediction", "pasted"]
    rows, per_row = len(images), min(2, len(images))  # images side by side
    lines = -(-rows // per_row)
    fig = plt.figure(figsize=(10.8, 1.36 * (lines + 1) + 0.3))
    grid = fig.add_gridspec(lines + 1, 9, width_ratios=[1, 1, 1, 1, 0.2, 1, 1, 1, 1], hspace=0.1, wspace=0.05)
    for i in range(rows):
        for j, column in enumerate(columns):
            ax = fig.add_subplot(grid[i // per_row, j + 5 * (i % per_row)])
            plots.picture(ax, column[i])
            if i < per_row:
                ax.set_title(titles[j], fontsize=8)
            if j == 0:
                ax.set_ylabel(names[i], fontsize=7)
    for k, ratio in enumerate(RATIOS):
        some = copy.copy(model)  # the same parameters, another count of kept patches
        some.num_keep = num_kept(model.grid, ratio, "random", 1)
        pictures = some.reconstruct(images[:1], _order(model, 1, 0))
        for j, picture in enumerate((pictures.masked, pictures.pasted)):
            ax = fig.add_subplot(grid[-1, 2 * k + j + k // 2])
            plots.picture(ax, picture[0])
            ax.set_xlabel(f"{ratio:.0%} hidden" if j == 0 else "pasted", fontsize=7)
    if model.target_kind == "norm_pixel":
        note = "each hidden patch's own mean and contrast are put back, as in the paper's figures"
        fig.text(0.5, 0.05, note, ha="center", fontsize=7, color=plots.QUIET)
    return fig


def gallery(model: MAE, across: int) -> Tensor:
    """Photographs, masked, pasted: rows of so many."""
    _, x = photographs(model, across)
    masked, _, pasted = model.reconstruct(x)
    return torch.cat([x, masked, pasted])  # (3 across, C, H, W)


def _order(model: MAE, count: int, seed: int) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model.draw(count)
