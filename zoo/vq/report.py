"""What `zoo eval` prints and `zoo show` draws of a vector-quantised autoencoder."""

from collections.abc import Iterable

import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from zoo import plots
from zoo.data.readers import SAMPLES
from zoo.infomec import infomec
from zoo.vq.model import VQVAE, LatentAutoencoder
from zoo.vq.usage import CodebookUsage

Batches = Iterable[tuple[Tensor, Tensor]]
STEPS = 7  # of a traversal through a latent that has no codes


@torch.no_grad()
def evaluate(model: VQVAE | LatentAutoencoder, batches: Batches, train: Batches) -> dict[str, float]:
    """How much of an image survives the codes, and how many of them are in use, over the whole test set.

    `error` is the mean squared error over the variance of the test set's pixels, 1 for the mean grey (van den Oord's
    example); `psnr` is in dB, of the mean squared error of all images together. Where the factors of the images are
    known, InfoM, InfoE and InfoC say what the latents know of them (the standalone definition, 10,000 images at most).
    """
    model = model.eval()
    usage = CodebookUsage(model.quantizer.codebook_size, model.quantizer.num_codebooks) if model.quantizer else None
    error, first, second, values, count = 0.0, 0.0, 0.0, 0, 0
    latents, factors = [], []
    for x, y in batches:
        out = model(x)
        if y.ndim == 2:
            latents.append(out.indices if out.indices.numel() else model.forward_features(x))
            factors.append(y)
        error += (out.recon.clamp(0, 1) - x).double().square().sum().item()
        first, second = first + x.double().sum().item(), second + x.double().square().sum().item()
        values, count = values + x.numel(), count + len(x)
        if usage is not None:
            usage.update(out.indices)
    mse, variance = error / values, second / values - (first / values) ** 2
    figures = {"mse": mse, "error": mse / variance, "psnr": -10 * torch.tensor(mse).log10().item()}
    if usage is not None:
        figures |= {k: v.item() for k, v in usage.compute().items()}
    if factors:
        z, y = torch.cat(latents)[:10_000], torch.cat(factors)[:10_000]
        scores = infomec(z, y, discrete=not z.is_floating_point())
        figures |= {k: getattr(scores, k) for k in ("infom", "infoe", "infoc")}
    return figures | {"images": count}


def figure(model: VQVAE | LatentAutoencoder, classes: list[str], batches: Batches | None) -> Figure:
    """Shipped images that fit the model, or else shipped photographs, through the codes."""
    from zoo.report import read_image

    paths = sorted((SAMPLES / "photos").glob("*.jpg"))
    return explain(model, torch.stack([read_image(p, model) for p in paths]), [p.stem for p in paths], classes)


@torch.no_grad()
def explain(model: VQVAE | LatentAutoencoder, images: Tensor, names: list[str], classes: list[str]) -> Figure:
    """Image, reconstruction, difference and codes, a column each; of latents instead their traversals.

    Args:
        images: (B, C, H, W) in [0, 1].
        names: a title for each.
    """
    model = model.eval()
    recon = model.reconstruct(images)  # (B, C, H, W)
    if isinstance(model, LatentAutoencoder):
        return _traversals(model, images[0], recon[0])
    codes = model.encode(images)  # (B, h, w) or (B, h, w, codebooks)
    codes = codes if codes.ndim == 3 else codes[..., 0]
    rows = (images, recon, (recon - images).abs().mean(1, keepdim=True), codes)
    titles = ("image", "reconstruction", "|difference|", f"codes, {model.quantizer.codebook_size} colours")
    fig, axes = plt.subplots(len(rows), len(images), figsize=(1.5 * len(images) + 0.6, 6.3), squeeze=False)
    colours = plots.colours(model.quantizer.codebook_size)  # (K, 3)
    for row, title, line in zip(rows, titles, axes):
        for ax, pixels, name in zip(line, row, names):
            if row is codes:
                ax.imshow(colours[pixels], interpolation="nearest")
                ax.set_xticks([])
                ax.set_yticks([])
            else:
                plots.picture(ax, pixels if row is not rows[2] else pixels / rows[2].max())
            if row is images:
                ax.set_title(name, fontsize=8)
        line[0].set_ylabel(title, fontsize=8)
    return fig


def _traversals(model: LatentAutoencoder, image: Tensor, recon: Tensor) -> Figure:
    """A row for a latent: it takes its values, one after the other, and all others stay."""
    latents = model.forward_features(image[None])  # (1, L) or (1, L·D)
    if model.bottleneck == "qlae":
        values = model.quantizer.values.sort(-1).values.expand(model.latents, -1)  # (L, V)
    elif model.bottleneck == "vq":
        pick = torch.linspace(0, model.quantizer.codebook_size - 1, STEPS).long()
        values = model.quantizer.decode(pick).expand(model.latents, -1, -1)  # (L, V, D)
    else:
        span = latents.abs().max().clamp(min=1)
        values = torch.linspace(-1, 1, STEPS).mul(span).expand(model.latents, -1)  # (L, V)
    count = values.shape[1]
    fig, axes = plt.subplots(
        model.latents, count + 2, figsize=(0.72 * (count + 2), 0.72 * model.latents + 0.3), squeeze=False
    )
    for i, line in enumerate(axes):
        some = latents.reshape(1, model.latents, -1).repeat(count, 1, 1)  # (V, L, 1 or D)
        some[:, i] = values[i].reshape(count, -1)
        pictures = (image, recon, *model.decode(some.flatten(1)))
        for j, (ax, pixels) in enumerate(zip(line, pictures)):
            if j < 2 and i:
                ax.axis("off")
                continue
            plots.picture(ax, pixels)
            if not i:
                ax.set_title("image" if not j else "recon." if j == 1 else "", fontsize=7)
        line[2].set_ylabel(f"z{i}", fontsize=7, rotation=0, labelpad=8, va="center")
    return fig
