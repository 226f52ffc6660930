"""What `zoo eval` prints and `zoo show` and `zoo sample` draw of a representation autoencoder and its transformer."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import make_grid

from zoo import registry
from zoo.families.rae.dit import DiTDH
from zoo.families.rae.model import RAE
from zoo.report import defaults, distances, plots

GALLERY = ("rae_mae_vit_tiny.tiny_imagenet", "photographs, through a frozen encoder's tokens")
Batches = Iterable[tuple[Tensor, Tensor]]
DRAWN = 1000  # images that distances are measured on, at most


@torch.no_grad()
def evaluate(model: RAE | DiTDH, batches: Batches, train: Batches) -> Mapping[str, Any]:
    """Of an autoencoder, as of every one with continuous latents; of a transformer, how far its images are from real.

    Distances are of as many drawn images as real ones, 1,000 at most, classes as the real ones have them, 50 Euler
    steps without guidance, seed 0; Inception's where it is cached, else those of weights that ship, named so.
    """
    if isinstance(model, RAE):
        return defaults.evaluate(model, batches)
    pairs: list[tuple[Tensor, Tensor]] = []
    for x, y in batches:
        pairs.append((x, y))
        if sum(len(labels) for _, labels in pairs) >= DRAWN:
            break
    real, labels = (torch.cat(parts)[:DRAWN] for parts in zip(*pairs))  # (N, 3, H, W), (N,)
    generator = torch.Generator(real.device).manual_seed(0)

    def drawn() -> Iterator[Tensor]:
        for y in labels.split(100):
            yield model.sample(y if labels.max() < model.num_classes else torch.full_like(y, -1), generator=generator)

    features = distances.INCEPTION if distances.inception_is_cached() else registry.reference()
    return distances.distances(real.split(100), drawn(), features) | {"images": len(real)}


@torch.no_grad()
def figure(model: RAE | DiTDH, classes: list[str], batches: Batches | None) -> Figure:
    """Photographs that ship with the package; of a transformer, what it draws."""
    if isinstance(model, RAE):
        return defaults.figure(model, classes, batches)
    shown = torch.arange(0, max(1, model.num_classes), max(1, model.num_classes // 6))[:6]
    return samples(model, shown if model.num_classes else shown - 1, 5, classes, beside=3.0)


@torch.no_grad()
def explain(model: RAE | DiTDH, images: Tensor, names: list[str], classes: list[str]) -> Figure:
    """Image, reconstruction, difference and the latent's channels, a column each.

    Raises:
        ValueError: a transformer, which takes no images.
    """
    if isinstance(model, DiTDH):
        raise ValueError("this model draws images, it takes none; leave them out, or use `zoo sample`")
    return defaults.explain(model, images, names, classes)


@torch.no_grad()
def samples(
    model: DiTDH, labels: Tensor, each: int, names: list[str], seed: int = 0, beside: float | None = None, **how: Any
) -> Figure:
    """A row of drawn images for each label, and below, how the first of them comes out of the noise.

    Args:
        labels: (R,) int64, -1 is any class.
        each: images in a row.
        names: of the classes.
        beside: the same noise again to the right, with so much guidance.
        how: keywords of `DiTDH.sample_latents`.
    """
    place = model.pos_embed.device
    every = labels.to(place).repeat_interleave(each)  # (R · each,)
    trace: list[Tensor] = []

    def draw(**how: Any) -> Tensor:
        z = model.sample_latents(every, generator=torch.Generator(place).manual_seed(seed), **how)
        images = torch.cat([model.decode(part) for part in z.split(64)])  # (R · each, 3, H, W)
        return images.unflatten(0, (len(labels), each))  # (R, each, 3, H, W)

    sides = {"": draw(trace=trace, **how)}
    if beside is not None:
        sides = {"no guidance": sides[""], f"guidance {beside:g}": draw(**how | {"guidance": beside})}
    chosen = torch.linspace(0, len(trace) - 1, min(each * len(sides), len(trace))).round().long().tolist()
    moments = model.decode(torch.stack([trace[i][0] for i in chosen]))  # (moments, 3, H, W)
    rows = len(labels) + 1
    fig = plt.figure(figsize=(0.9 * each * len(sides) + 1.2, 0.95 * rows), layout="constrained")
    grid = fig.add_gridspec(rows, len(sides))
    for column, (title, images) in enumerate(sides.items()):
        for line, (row, label) in enumerate(zip(images, labels.tolist())):
            ax = fig.add_subplot(grid[line, column])
            plots.picture(ax, make_grid(row, nrow=each, padding=1, pad_value=1.0))
            if line == 0 and title:
                ax.set_title(title, fontsize=8)
            if column == 0:
                name = names[label] if 0 <= label < len(names) else "any class" if label < 0 else str(label)
                ax.set_ylabel(name.partition(",")[0][:16], fontsize=7, rotation=0, ha="right", va="center")
    ax = fig.add_subplot(grid[-1, :])
    plots.picture(ax, make_grid(moments, nrow=len(moments), padding=1, pad_value=1.0))
    ax.set_xlabel("the first image, as the model expects it from noise to the end", fontsize=7)
    about = "What the model draws, a row for each class"
    if beside is not None:
        about += ", and the same noise led further towards the class by guidance"
    return plots.caption(fig, f"{about}. Last row: how the first of them comes out of the noise.")
