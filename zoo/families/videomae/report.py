"""What `zoo eval` prints and `zoo show` draws of a masked autoencoder of video and its classifier."""

from collections.abc import Iterable, Sequence

import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from zoo.families.videomae.model import VideoMAE, VideoMAEClassifier
from zoo.nn.protocols import frames_of
from zoo.report import plots
from zoo.report.defaults import chosen
from zoo.report.inputs import batches, sample
from zoo.report.masked import seeded_order

GALLERY = ("videomae_vit_tiny.sprites", "frames of a clip, the tenth that is seen, filled in")
Batches = Iterable[tuple[Tensor, Tensor]]


def gallery(model: VideoMAE, across: int) -> Tensor:
    """The frames of a clip, masked, pasted: a row each."""
    clip = chosen(batches(model, sample(model), across), model.takes, 1)  # (1, F, C, H, W)
    masked, _, pasted = model.reconstruct(clip)
    return torch.cat([p[0] for p in (clip, masked, pasted)])  # (3 F, C, H, W)


def figure(model: VideoMAE | VideoMAEClassifier, classes: list[str], batches: Batches | None) -> Figure:
    """Clips of the shipped test set through the model."""
    clips = chosen(batches, model.takes, 4)
    return explain(model, clips, [f"clip {i + 1}" for i in range(len(clips))], classes)


@torch.no_grad()
def explain(
    model: VideoMAE | VideoMAEClassifier,
    clips: Tensor,
    names: list[str],
    classes: list[str],
    truths: Sequence[str | None] | None = None,
) -> Figure:
    """Frames, what the encoder sees of them, and the reconstruction, a strip each; or class scores.

    Args:
        clips: (B, F, C, H, W) in [0, 1].
        names: a title for each.
        truths: the true class of each by name, None where it is not known.

    Raises:
        ValueError: the model is an encoder alone.
    """
    model = model.eval()
    if isinstance(model, VideoMAEClassifier):
        strips = [plots.as_picture(clip[:: max(1, len(clip) // 4)], "clip") for clip in clips]  # (C, H, some W) each
        return plots.scores(strips, names, model(clips).float().softmax(-1), classes, truths)
    rows, per_row = _rows(model, clips), min(2, len(clips))  # clips side by side
    lines, hidden = -(-len(clips) // per_row), 1 - model.num_keep / model.num_cubes
    fig = plt.figure(figsize=(5.6 * per_row, 2.35 * lines + 0.3))
    grid = fig.add_gridspec(lines, per_row, hspace=0.22, wspace=0.04)
    for i in range(len(clips)):
        places = grid[i // per_row, i % per_row].subgridspec(len(rows), 1, hspace=0.05)
        for j, (title, pictures) in enumerate(rows.items()):
            ax = fig.add_subplot(places[j])
            plots.sample(ax, pictures[i], "clip")
            if j == 0:
                ax.set_title(plots.short(names[i], 48), fontsize=8)
            if i % per_row == 0:
                ax.set_ylabel(title, fontsize=7)
    about = (
        f"The frames of each clip, from left to right in time; what the model sees, {hidden:.0%} of the cubes hidden; "
        "and those that were hidden as it predicts them, beside what it saw."
    )
    if model.target_kind == "norm_pixel":
        about += " Each hidden cube's own mean and contrast are put back, as in the paper's figures."
    return plots.caption(fig, about)


@torch.no_grad()
def film(model: VideoMAE, clips: Tensor) -> Tensor:
    """The figure in motion: clips (B, F, C, H, W) side by side over masked and reconstruction, (F, 3, H', W').

    Raises:
        ValueError: the model is a classifier or an encoder alone.
    """
    if isinstance(model, VideoMAEClassifier):
        raise ValueError("a classifier draws no moving picture; give -o FILE.png, or the autoencoder's name")
    return plots.in_motion(_rows(model.eval(), clips))


def _rows(model: VideoMAE, clips: Tensor) -> dict[str, Tensor]:
    pictures = model.reconstruct(clips, seeded_order(model, len(clips), 0).to(clips.device))
    return {"clip": frames_of(clips, pictures.pasted), "masked": pictures.masked, "filled in": pictures.pasted}
