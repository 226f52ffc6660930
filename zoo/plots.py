"""Drawing that every family's figures share: pictures, signed pictures, one style, one way to write a file."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # figures are files here, a screen is never needed

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

INK, QUIET, UP, DOWN = "#222222", "#8a8a8a", "#b2182b", "#2166ac"

plt.rcParams.update(
    {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": QUIET,
        "axes.labelcolor": INK,
        "xtick.color": QUIET,
        "ytick.color": QUIET,
        "figure.dpi": 110,
        "savefig.bbox": "tight",
    }
)


def picture(ax: Axes, image: Tensor) -> None:
    """An image (C, H, W) in [0, 1], grey or RGB."""
    image = image.detach().cpu().float().clamp(0, 1)
    ax.imshow((image[0] if len(image) == 1 else image.permute(1, 2, 0)).numpy(), cmap="gray", vmin=0, vmax=1)
    _bare(ax)


def signed(ax: Axes, image: Tensor) -> None:
    """A filter (C, H, W) of either sign: red is positive, blue negative, white zero. Channels are averaged."""
    image = image.detach().cpu().float().mean(0)
    limit = image.abs().max().item() or 1.0
    ax.imshow(image.numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit)
    _bare(ax)


def _bare(ax: Axes) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)


def write(figure: Figure, path: Path) -> Path:
    """Write a figure and forget it; the folder is made if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)
    return path
