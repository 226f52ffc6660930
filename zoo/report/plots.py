"""Drawing that every family's figures share: pictures, signed pictures, one style, one way to write a file."""

import math
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch

matplotlib.use("Agg")  # figures are files here, a screen is never needed

from matplotlib import font_manager
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import make_grid

from zoo.data.classes import find
from zoo.hub.files import write_aside
from zoo.nn.protocols import Kind

warnings.filterwarnings("ignore", "Glyph .* missing from")  # of a name in a script that no font here has

INK, QUIET, UP, DOWN, RIGHT = "#222222", "#6b6b6b", "#b2182b", "#2166ac", "#1b7837"
MOSAIC = 16  # channels of a map that are shown, at most
BARS = 64  # numbers of a vector that are shown as bars, at most

FONTS = ("DejaVu Sans", "Noto Sans CJK JP", "Noto Sans CJK SC", "Hiragino Sans", "Microsoft YaHei", "Arial Unicode MS")

plt.rcParams.update(
    {
        "font.family": [name for name in FONTS if name in font_manager.get_font_names()],
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


def scores(
    pictures: Sequence[Tensor],
    names: list[str],
    probabilities: Tensor,
    classes: list[str],
    truths: Sequence[str | None] | None = None,
) -> Figure:
    """Pictures (C, H, W) with their names, and beside each its five likeliest classes of probabilities (B, O).

    Args:
        truths: the true class of each by the name that its data gives it, None where it is not known. It is green and
            among those drawn, whatever its score; what was predicted instead is red.
    """
    wide = pictures[0].shape[2] / pictures[0].shape[1]
    fig, axes = plt.subplots(
        len(pictures),
        2,
        figsize=(4.2 + 1.4 * wide, 1.55 * len(pictures) + 0.3),
        squeeze=False,
        width_ratios=[wide, 2.4],
        layout="constrained",
    )
    probabilities = probabilities.detach().cpu().float()
    for i, ((left, right), image, name, p) in enumerate(zip(axes, pictures, names, probabilities)):
        picture(left, image)
        left.set_title(short(name), fontsize=8)
        said = None if truths is None else truths[i]
        true = None if said is None else find(said, classes)
        order = p.topk(min(5, len(p))).indices.tolist()
        if true is not None and true not in order:
            order[-1] = true
        guess = order[0]
        colours = [RIGHT if c == true else UP if c == guess and true is not None else DOWN for c in order]
        right.barh(range(len(order)), p[order].tolist(), color=colours)
        right.set_yticks(range(len(order)), [short(classes[c], 28) for c in order], fontsize=7)
        for c, tick in zip(order, right.get_yticklabels()):
            tick.set_color(RIGHT if c == true else INK)
        right.set_title(verdict(said, true, guess, classes), fontsize=8, color=INK if true is None else colours[0])
        right.set_xlim(0, 1)
        right.tick_params(axis="x", labelsize=7, labelbottom=i == len(pictures) - 1)
        right.invert_yaxis()
    axes[-1, 1].set_xlabel("probability that the model gives the class", fontsize=7)
    known = any(find(said, classes) is not None for said in truths or () if said is not None)
    told = " The true class is green; where another is likelier, that one is red." if known else ""
    return caption(fig, f"What the classifier sees, and the five classes it finds likeliest.{told}")


def verdict(said: str | None, true: int | None, guess: int, classes: list[str]) -> str:
    """What a picture is and whether a model takes it for that; where that is not known, what it takes it for."""
    if said is None:
        return f"taken for {short(classes[guess], 28)}"
    if true is None:
        return f"{short(said, 28)}, which the model does not know"
    return f"{short(said, 28)} ✓" if true == guess else f"✗ it is {short(said, 28)}"


def short(name: str, most: int = 24) -> str:
    """A name in one line for a figure, its middle left out where it is long; a dollar is no formula."""
    name = "".join(c if c.isprintable() else "·" for c in name)
    if len(name) > most:
        name = f"{name[: most // 2]}…{name[len(name) - (most - most // 2 - 1) :]}"
    return name.replace("$", r"\$")


def caption(figure: Figure, text: str) -> Figure:
    """The figure with a text below all that is drawn, in lines as wide as it is; a second one below the first."""
    figure.canvas.draw()  # only now is it known where things are
    figure.set_layout_engine("none")  # and there they stay
    box = figure.get_tightbbox()  # in inches
    wide, high = figure.get_size_inches()
    lines = textwrap.wrap(text, max(60, round(14 * max(wide, box.width))))
    at = (box.x0 + box.x1) / 2 / wide, (box.y0 - 0.08) / high
    figure.text(*at, "\n".join(lines), ha="center", va="top", fontsize=8, color=QUIET)
    return figure


def in_motion(rows: Mapping[str, Tensor]) -> Tensor:
    """Clips (B, F, C, H, W) side by side, a row over the other below its name: (F, 3, H', W'), small ones enlarged."""
    parts: list[Tensor] = []
    for name, clips in rows.items():
        frames = torch.cat(list(clips), dim=3).expand(-1, 3, -1, -1)  # (F, 3, H, B W)
        frames = frames.repeat_interleave(scale := max(1, 128 // frames.shape[2]), 2).repeat_interleave(scale, 3)
        parts += [_written(name, frames.shape[3]).to(frames).expand(len(frames), -1, -1, -1), frames]
    return torch.cat(parts, dim=2)


def _written(text: str, width: int) -> Tensor:
    """A strip of white with a text on it, (3, 16, width) in [0, 1]."""
    from PIL import Image, ImageDraw

    strip = Image.new("RGB", (width, 16), "white")
    ImageDraw.Draw(strip).text((4, 2), text, fill=INK)
    return torch.from_numpy(np.array(strip)).permute(2, 0, 1) / 255


def _bare(ax: Axes) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)


def write(figure: Figure, path: Path) -> Path:
    """Write a figure and forget it; the folder is made if it is missing.

    Raises:
        OSError: the disk is full; what was there before is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_aside(path.parent) as aside:
        render(figure, aside(path.name), path.suffix)
    return path


def render(figure: Figure, file: Path, suffix: str) -> None:
    """Write a figure as what a suffix says, whatever its file is called, and forget it."""
    try:
        figure.savefig(file, format=suffix.removeprefix(".").lower() or None)
    finally:
        plt.close(figure)


def write_gif(frames: Tensor, path: Path, seconds: float = 0.25) -> Path:
    """Write a moving picture, frames (F, 3, H, W) in [0, 1], each shown so long, without end; errors as `write`'s."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = (frames.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()  # (F, H, W, 3)
    first, *rest = [Image.fromarray(p).quantize(256) for p in pixels]
    with write_aside(path.parent) as aside:
        how = {"save_all": True, "append_images": rest, "duration": round(1000 * seconds), "loop": 0}
        first.save(aside(path.name), "GIF", **how)
    return path
