"""What `zoo eval` prints and `zoo show` draws of a masked autoencoder and its classifier."""

import copy
from collections.abc import Iterable, Sequence

import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from zoo.families.mae.masks import num_kept
from zoo.families.mae.model import MAE, MAEClassifier
from zoo.report import plots
from zoo.report.inputs import photographs
from zoo.report.masked import seeded_order

RATIOS = (0.5, 0.75, 0.85, 0.95)
GALLERY = ("mae_vit_tiny.tiny_imagenet", "photographs, three quarters hidden, predicted")
Batches = Iterable[tuple[Tensor, Tensor]]


def figure(model: MAE | MAEClassifier, classes: list[str], batches: Batches | None) -> Figure:
    """Shipped photographs through the model."""
    names, images = photographs(model)
    return explain(model, images, names, classes)


@torch.no_grad()
def explain(
    model: MAE | MAEClassifier,
    images: Tensor,
    names: list[str],
    classes: list[str],
    truths: Sequence[str | None] | None = None,
) -> Figure:
    """Image, masked, predicted, pasted, a row each, and the first image at growing mask ratios; or class scores.

    Args:
        images: (B, C, H, W) in [0, 1].
        names: a title for each.
        truths: the true class of each by name, None where it is not known.

    Raises:
        ValueError: the model is an encoder alone.
    """
    model = model.eval()
    if isinstance(model, MAEClassifier):
        return plots.scores(list(images), names, model(images).float().softmax(-1), classes, truths)
    columns = [images, *model.reconstruct(images, seeded_order(model, len(images), 0).to(images.device))]
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
                ax.set_ylabel(plots.short(names[i], 15), fontsize=7)
    for k, ratio in enumerate(RATIOS):
        some = copy.copy(model)  # the same parameters, another count of kept patches
        some.num_keep = num_kept(model.grid, ratio, "random", 1)
        pictures = some.reconstruct(images[:1], seeded_order(model, 1, 0).to(images.device))
        for j, picture in enumerate((pictures.masked, pictures.pasted)):
            ax = fig.add_subplot(grid[-1, 2 * k + j + k // 2])
            plots.picture(ax, picture[0])
            ax.set_xlabel(f"{ratio:.0%} hidden" if j == 0 else "pasted", fontsize=7)
    about = (
        "The picture; what the model sees of it; what it predicts of every patch, of which only the hidden ones are "
        "trained; the hidden ones pasted beside what was seen. Last row: the first picture with more and more hidden."
    )
    if model.target_kind == "norm_pixel":
        about += (
            " The model predicts no patch's mean and contrast: those of the hidden ones are put back from the picture, "
            "as in the paper's figures."
        )
    return plots.caption(fig, about)


def gallery(model: MAE, across: int) -> Tensor:
    """Photographs, masked, pasted: rows of so many."""
    _, x = photographs(model, across)
    masked, _, pasted = model.reconstruct(x)
    return torch.cat([x, masked, pasted])  # (3 across, C, H, W)
