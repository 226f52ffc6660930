"""What `zoo eval` prints and `zoo show` draws of a masked autoencoder of video and its classifier."""

from collections.abc import Iterable

import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from zoo.families.videomae.model import VideoMAE, VideoMAEClassifier
from zoo.metrics.probes import classification, knn_accuracy, linear_accuracy
from zoo.report import plots
from zoo.report.inputs import batches, sample

GALLERY = ("videomae_vit_tiny.sprites", "frames of a clip, the tenth that is seen, filled in")
Batches = Iterable[tuple[Tensor, Tensor]]


@torch.no_grad()
def evaluate(model: VideoMAE | VideoMAEClassifier, batches: Batches, train: Batches) -> dict[str, float]:
    """Of a classifier, its accuracy; of an autoencoder, how well it fills in and how well its features separate.

    `psnr` is over the hidden cubes' pixels of predicted frames, in dB, with each cube's own mean and deviation put
    back, or with the average of the visible ones. `knn` and `linear` classify by the mean token, with the training
    clips as bank.
    """
    model = model.eval()
    if isinstance(model, VideoMAEClassifier):
        return classification(model, batches)
    figures, features, labels = {}, [], []
    sums, count = torch.zeros(3, dtype=torch.float64), 0
    for i, (x, y) in enumerate(batches):
        if model.decoder is not None:
            order = _order(model, len(x), i)
            sums[0] += model(x, order).loss.double() * len(x)
            shown = _frames(x, model)
            for j, statistics in ((1, "own"), (2, "visible")):
                pasted = model.reconstruct(x, order, statistics).pasted
                sums[j] += (pasted - shown).double().square().mean((1, 2, 3, 4)).sum()
        count += len(x)
        features.append(_pooled(model, x))
        labels.append(y)
    if model.decoder is not None:
        hidden = 1 - model.num_keep / model.num_cubes
        figures["loss"] = (sums[0] / count).item()
        figures["psnr"] = (-10 * (sums[1] / count / hidden).log10()).item()
        figures["psnr_visible_statistics"] = (-10 * (sums[2] / count / hidden).log10()).item()
    queries, labels = torch.cat(features), torch.cat(labels)
    bank, bank_labels = (torch.cat(parts) for parts in zip(*((_pooled(model, x), y) for x, y in train)))
    figures["knn"] = knn_accuracy(bank, bank_labels, queries, labels, min(20, len(bank)))
    figures["linear"] = linear_accuracy(bank, bank_labels, queries, labels)
    return figures | {"clips": count, "bank": len(bank)}


def gallery(model: VideoMAE, across: int) -> Tensor:
    """The frames of a clip, masked, pasted: a row each."""
    clip = chosen(batches(model, sample(model), across))[:1]  # (1, F, C, H, W)
    masked, _, pasted = model.reconstruct(clip)
    return torch.cat([p[0] for p in (clip, masked, pasted)])  # (3 F, C, H, W)


def chosen(batches: Batches | None) -> Tensor:
    """Four clips of a test set that its order alone decides, (4, F, C, H, W).

    Raises:
        ValueError: no clips that ship with the package fit the model.
    """
    if batches is None:
        raise ValueError("no clips that ship with the package fit this model; give video files: zoo show NAME a.mp4")
    x, _ = next(iter(batches))
    return x[:: len(x) // 4 | 1][:4]


def figure(model: VideoMAE | VideoMAEClassifier, classes: list[str], batches: Batches | None) -> Figure:
    """Clips of the shipped test set through the model."""
    clips = chosen(batches)
    return explain(model, clips, [f"clip {i + 1}" for i in range(len(clips))], classes)


@torch.no_grad()
def explain(model: VideoMAE | VideoMAEClassifier, clips: Tensor, names: list[str], classes: list[str]) -> Figure:
    """Frames, what the encoder sees of them, and the reconstruction, a strip each; or class scores.

    Args:
        clips: (B, F, C, H, W) in [0, 1].
        names: a title for each.

    Raises:
        ValueError: the model is an encoder alone.
    """
    model = model.eval()
    if isinstance(model, VideoMAEClassifier):
        strips = [torch.cat(list(clip[:: max(1, len(clip) // 4)]), dim=2) for clip in clips]  # (C, H, some W) each
        return plots.scores(strips, names, model(clips).softmax(-1), classes)
    rows, per_row = _rows(model, clips), min(2, len(clips))  # clips side by side
    lines, hidden = -(-len(clips) // per_row), 1 - model.num_keep / model.num_cubes
    fig = plt.figure(figsize=(5.6 * per_row, 2.35 * lines + 0.3))
    grid = fig.add_gridspec(lines, per_row, hspace=0.22, wspace=0.04)
    for i in range(len(clips)):
        strips = grid[i // per_row, i % per_row].subgridspec(len(rows), 1, hspace=0.05)
        for j, (title, pictures) in enumerate(rows.items()):
            ax = fig.add_subplot(strips[j])
            plots.picture(ax, torch.cat(list(pictures[i]), dim=2))  # (C, H, F W)
            if j == 0:
                ax.set_title(names[i], fontsize=8)
            if i % per_row == 0:
                ax.set_ylabel(title, fontsize=7)
    note = f"{hidden:.0%} of the cubes are hidden"
    if model.target_kind == "norm_pixel":
        note += "; each hidden cube's own mean and contrast are put back, as in the paper's figures"
    fig.text(0.5, 0.04, note, ha="center", fontsize=7, color=plots.QUIET)
    return fig


@torch.no_grad()
def film(model: VideoMAE, clips: Tensor) -> Tensor:
    """The figure in motion: clips (B, F, C, H, W) side by side over masked and reconstruction, (F, 3, 3 H, B W).

    Raises:
        ValueError: the model is a classifier or an encoder alone.
    """
    if isinstance(model, VideoMAEClassifier):
        raise ValueError("a classifier draws no moving picture; give -o FILE.png, or the autoencoder's name")
    columns = torch.cat(list(_rows(model.eval(), clips).values()), dim=3)  # (B, F, C, 3 H, W)
    frames = torch.cat(list(columns), dim=3)  # (F, C, 3 H, B W)
    frames = frames.expand(-1, 3, -1, -1)
    scale = max(1, 128 // model.takes.shape[2])
    return F.interpolate(frames, scale_factor=scale, mode="nearest") if scale > 1 else frames


def _rows(model: VideoMAE, clips: Tensor) -> dict[str, Tensor]:
    pictures = model.reconstruct(clips, _order(model, len(clips), 0))
    return {"clip": _frames(clips, model), "masked": pictures.masked, "filled in": pictures.pasted}


def _frames(x: Tensor, model: VideoMAE) -> Tensor:
    """The frames that the model predicts, of clips (B, F, C, H, W)."""
    count = getattr(model, "pred_frames", model.takes.shape[0])
    return x[:, torch.linspace(0, x.shape[1] - 1, count).long()]


def _order(model: VideoMAE, count: int, seed: int) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model.draw(count)


def _pooled(model: VideoMAE, x: Tensor) -> Tensor:
    return model.forward_features(x)[:, model.num_cls_tokens :].mean(1)  # (B, D)
