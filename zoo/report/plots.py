"""Drawing that every family's figures share: pictures, signed pictures, one style, one way to write a file."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

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


def colours(count: int) -> np.ndarray:
    """As many colours that neighbours in number do not share, (count, 3) in [0, 1]."""
    turn = np.arange(count) * 0.61803398875 % 1  # golden steps round the wheel
    return plt.get_cmap("hsv")(turn)[:, :3] * (0.55 + 0.45 * (np.arange(count) * 0.754877666 % 1))[:, None]


def signed(ax: Axes, image: Tensor) -> None:
    """A filter (C, H, W) of either sign: red is positive, blue negative, white zero. Channels are averaged."""
    image = image.detach().cpu().float().mean(0)
    limit = image.abs().max().item() or 1.0
    ax.imshow(image.numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit)
    _bare(ax)


def scores(pictures: Sequence[Tensor], names: list[str], probabilities: Tensor, classes: list[str]) -> Figure:
    """Pictures (C, H, W) with their names, and beside each its five likeliest classes of probabilities (B, O)."""
    wide = pictures[0].shape[2] / pictures[0].shape[1]
    fig, axes = plt.subplots(
        len(pictures), 2, figsize=(3.4 + 1.4 * wide, 1.4 * len(pictures) + 0.4), squeeze=False, width_ratios=[wide, 2]
    )
    for (left, right), image, name, p in zip(axes, pictures, names, probabilities):
        picture(left, image)
        left.set_title(name, fontsize=8)
        top = p.topk(min(5, len(p)))
        right.barh(range(len(top.values)), top.values.tolist(), color=UP)
        right.set_yticks(range(len(top.values)), [classes[c] for c in top.indices.tolist()], fontsize=7)
        right.set_xlim(0, 1)
        right.invert_yaxis()
    fig.tight_layout()
    return fig


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


def write_gif(frames: Tensor, path: Path, seconds: float = 0.25) -> Path:
    """Write a moving picture, frames (F, 3, H, W) in [0, 1], each shown so long, without end."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = (frames.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()  # (F, H, W, 3)
    first, *rest = [Image.fromarray(p).quantize(256) for p in pixels]
    first.save(path, save_all=True, append_images=rest, duration=round(1000 * seconds), loop=0)
    return path
