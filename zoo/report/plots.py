"""Drawing that every family's figures share: pictures, signed pictures, one style, one way to write a file."""

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch

matplotlib.use("Agg")  # figures are files here, a screen is never needed

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import make_grid

from zoo.nn.protocols import Kind

INK, QUIET, UP, DOWN = "#222222", "#8a8a8a", "#b2182b", "#2166ac"
MOSAIC = 16  # channels of a map that are shown, at most
BARS = 64  # numbers of a vector that are shown as bars, at most

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


def sample(ax: Axes, x: Tensor, kind: Kind, limit: float | None = None) -> None:
    """A sample of any kind: a picture, a clip's frames in a row, the channels of a map, or a vector.

    Args:
        limit: of a vector, the absolute value at which bars and colours end; None is its own largest.
    """
    if x.ndim == 1:
        vector(ax, x, limit)
    else:
        picture(ax, as_picture(x, kind))


def as_picture(x: Tensor, kind: Kind) -> Tensor:
    """A sample as one picture (C, H, W) in [0, 1].

    Frames of a clip (F, C, H, W) stand in a row; channels of a map (c, h, w) and the numbers of a vector (D,) stand in
    a mosaic, from black, the least value, to white.
    """
    if kind == "image":
        return x
    if kind == "clip":
        return torch.cat(list(x), dim=2)  # (C, H, F W)
    if x.ndim == 1:
        return _square(stretched(x[None, None])[0, 0], 1.0)[None]  # (1, rows, side)
    return mosaic(stretched(x[None])[0])


def stretched(x: Tensor, like: Tensor | None = None) -> Tensor:
    """Maps (B, c, h, w) or vectors (B, D), over the range that each channel has in `like`, or in x: [0, 1] there."""
    like = x if like is None else like
    dims = (0, *range(2, like.ndim))
    low, high = like.amin(dims, keepdim=True), like.amax(dims, keepdim=True)  # (1, c, 1, 1) each
    return (x - low) / (high - low).clamp(min=1e-6)


def mosaic(x: Tensor) -> Tensor:
    """The first channels of a map (c, h, w) in [0, 1] side by side, MOSAIC at most: (3, h', w')."""
    return make_grid(x[:MOSAIC, None], nrow=2 if len(x) <= 4 else 4, padding=1, pad_value=1.0)


def channels(ax: Axes, x: Tensor) -> None:
    """The channels of a map (c, h, w) in [0, 1]."""
    picture(ax, mosaic(x))


def _square(x: Tensor, filler: float) -> Tensor:
    """A vector (D,) in rows of about √D."""
    side = math.ceil(len(x) ** 0.5)
    return torch.nn.functional.pad(x, (0, -len(x) % side), value=filler).reshape(-1, side)  # (rows, side)


def vector(ax: Axes, x: Tensor, limit: float | None = None) -> None:
    """A vector (D,): bars, BARS at most, or else a mosaic; red is positive, blue negative.

    Args:
        limit: the absolute value at which bars and colours end; None is the largest of x.
    """
    x = x.detach().cpu().float()
    limit = limit or x.abs().max().item() or 1.0
    if len(x) > BARS:
        ax.imshow(_square(x, 0.0).numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    else:
        ax.bar(range(len(x)), x.tolist(), color=[UP if v > 0 else DOWN for v in x.tolist()], width=0.8)
        ax.axhline(0, color=QUIET, linewidth=0.6)
        ax.set_ylim(-1.05 * limit, 1.05 * limit)
        ax.set_box_aspect(1)
    _bare(ax)


def codes(ax: Axes, indices: Tensor, count: int) -> None:
    """Codes, of `count` values: a map (h, w), or of several codebooks the first, in colours; a row (L,) as bars."""
    indices = indices.detach().cpu()
    if indices.ndim == 1:
        vector(ax, indices.float(), float(max(1, count - 1)))
        return
    ax.imshow(colours(count)[indices if indices.ndim == 2 else indices[..., 0]], interpolation="nearest")
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


def in_motion(rows: Sequence[Tensor]) -> Tensor:
    """Clips (B, F, C, H, W) side by side, a row over the other: (F, 3, rows H, B W), a small one enlarged."""
    columns = torch.cat(list(rows), dim=3)  # (B, F, C, rows H, W)
    frames = torch.cat(list(columns), dim=3).expand(-1, 3, -1, -1)  # (F, 3, rows H, B W)
    scale = max(1, 128 // rows[0].shape[-2])
    return torch.nn.functional.interpolate(frames, scale_factor=scale, mode="nearest") if scale > 1 else frames


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
