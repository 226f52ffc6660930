"""What `zoo eval` prints and `zoo show` draws of a vector-quantised autoencoder, and of a prior of its codes."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from zoo.data.factors import RENDERED, render
from zoo.data.transforms import device_of
from zoo.families.vq.model import VQVAE
from zoo.families.vq.prior import CodePrior
from zoo.families.vq.qlae import LatentAutoencoder
from zoo.families.vq.quantize import ScalarCodebooks, VectorQuantizer
from zoo.families.vq.usage import CodebookUsage
from zoo.metrics.images import psnr
from zoo.metrics.infomec import infomec
from zoo.metrics.precise import double, exactly, single
from zoo.nn.protocols import HasCodes
from zoo.report import defaults, plots
from zoo.report.inputs import photographs, total_of
from zoo.report.quality import Quality, merged

Model = VQVAE | LatentAutoencoder | CodePrior
GALLERY = ("vqvae_conv_small.cifar10", "photographs at 32 px, through 64 codes")
Batches = Iterable[tuple[Tensor, Tensor]]
STEPS = 7  # of a traversal through a latent that has no codes
SHOWN = 8  # images in a row


@torch.no_grad()
def evaluate(model: Model, batches: Batches, train: Batches) -> dict[str, Any]:
    """How much of an image survives the codes, and how many of them are in use, over the whole test set.

    As of every autoencoder, see `Quality`. Besides, `mse` is the mean squared error, `error` the same over the variance
    of the test set's pixels, 1 for the mean grey (van den Oord's example), and `psnr_of_mse` is in dB, of the mean
    squared error of all images together. Where the factors of the images are known, InfoM, InfoE and InfoC say what the
    latents know of them (the standalone definition, 10,000 images at most).

    Of a prior: nats a code given the class, its exponential, and bits an image.
    """
    model = model.eval()
    if isinstance(model, CodePrior):
        return _likelihood(model, batches)
    usage = CodebookUsage(model.quantizer.codebook_size, model.quantizer.num_codebooks) if model.quantizer else None
    quality = Quality(model.takes, total_of(batches))
    error, first, second, values, count = 0.0, 0.0, 0.0, 0, 0
    latents, factors = [], []
    for x, y in batches:
        out = model(x)
        recon = single(out.recon).clamp(0, 1)  # (B, C, H, W)
        quality.update(recon, x)
        if y.ndim == 2 and isinstance(model, LatentAutoencoder):
            with exactly(x):  # rounding would move latents, whose distances InfoMEC measures
                latents.append(model.encode(x))  # (B, L)
            factors.append(y)
        error += double(recon - x).square().sum().item()
        first, second = first + double(x).sum().item(), second + double(x).square().sum().item()
        values, count = values + x.numel(), count + len(x)
        if usage is not None:
            usage.to(x.device).update(out.indices)
    mse, variance = error / values, second / values - (first / values) ** 2
    together = psnr(torch.tensor(mse, dtype=torch.float64)).item()
    figures = {"mse": mse, "error": mse / variance, "psnr_of_mse": together}
    if usage is not None:
        figures |= {k: v.item() for k, v in usage.compute().items()}
    if factors:
        z, y = torch.cat(latents)[:10_000], torch.cat(factors)[:10_000]
        with exactly(z):
            scores = infomec(z, y, discrete=not z.is_floating_point())
        figures |= {k: getattr(scores, k) for k in ("infom", "infoe", "infoc")}
    return merged(quality.compute(), figures, {"images": count})


@torch.no_grad()
def figure(model: Model, classes: list[str], batches: Batches | None) -> Figure:
    """Shipped digits or photographs through the codes, factors of rendered scenes one by one, a prior's own images."""
    if isinstance(model, CodePrior):
        labels = torch.arange(model.num_classes) if model.num_classes else torch.tensor([-1])
        return defaults.samples(model, labels, defaults.DRAWN, classes)
    if isinstance(model, LatentAutoencoder) and model.takes.shape[0] == 3:
        place = device_of(model)
        scene = render(torch.tensor([[1, 3, 2, 3, 4, 0, 3]]), model.takes.shape[-1]).to(place)  # (1, 3, H, W)
        return _traversals(model.eval(), scene[0], model.reconstruct(scene)[0], _meanings(model))
    if model.takes.shape[0] == 1 and batches is not None:
        images = next(iter(batches))[0]  # (B, 1, H, W), class after class
        some = images[:: max(1, len(images) // SHOWN)][:SHOWN]
        return explain(model, some, [""] * len(some), classes)
    names, images = photographs(model)
    return explain(model, images, names, classes)


def _meanings(model: LatentAutoencoder) -> list[str]:
    """The factor of rendered scenes that each latent tells most of, and which share of it (normalised information)."""
    draw = torch.Generator().manual_seed(0)
    factors = torch.stack([torch.randint(n, (2000,), generator=draw) for n in RENDERED.values()], 1)  # (N, S)
    x = render(factors, model.takes.shape[-1]).to(device_of(model))  # (N, 3, H, W)
    z = model.encode(x).cpu()  # (N, L)
    scores = infomec(z, factors, discrete=not z.is_floating_point())
    share, best = scores.nmi.nan_to_num().max(0)  # (L,) twice
    names = list(RENDERED)
    return [f"{names[i]} {s:.2f}" if a else "unused" for i, s, a in zip(best, share, scores.active)]


@torch.no_grad()
def explain(model: Model, images: Tensor, names: list[str], classes: list[str]) -> Figure:
    """Image, reconstruction, difference and codes, a column each; of one image's latents instead their traversals.

    Of a prior: how much each code surprises it.

    Args:
        images: (B, C, H, W) in [0, 1].
        names: a title for each.
    """
    model = model.eval()
    if isinstance(model, CodePrior):
        return _surprise(model, images, names)
    if isinstance(model, LatentAutoencoder) and len(images) == 1:
        return _traversals(model, images[0], model.reconstruct(images[:1])[0])
    return defaults.explain(model, images, names, classes)


def _traversals(model: LatentAutoencoder, image: Tensor, recon: Tensor, meanings: list[str] | None = None) -> Figure:
    """A row for a latent: it takes its values, one after the other, all others stay; those of a factor together."""
    latents = model.forward_features(image[None])  # (1, L) or (1, L·D)
    quantizer = model.quantizer
    if isinstance(quantizer, ScalarCodebooks):
        values = quantizer.values.sort(-1).values.expand(model.latents, -1)  # (L, V)
    elif isinstance(quantizer, VectorQuantizer):
        pick = torch.linspace(0, quantizer.codebook_size - 1, STEPS).long().to(latents.device)
        values = quantizer.decode(pick).expand(model.latents, -1, -1)  # (L, V, D)
    else:
        span = latents.abs().max().clamp(min=1)
        values = torch.linspace(-1, 1, STEPS, device=latents.device).mul(span).expand(model.latents, -1)  # (L, V)
    count = values.shape[1]
    fig, axes = plt.subplots(
        model.latents, count + 2, figsize=(0.72 * (count + 2), 0.72 * model.latents + 0.3), squeeze=False
    )
    meanings = meanings or [""] * model.latents
    order = sorted(range(model.latents), key=lambda i: (meanings[i] == "unused", meanings[i].split(" ")[0]))
    for row, (i, line) in enumerate(zip(order, axes)):
        some = latents.reshape(1, model.latents, -1).repeat(count, 1, 1)  # (V, L, 1 or D)
        some[:, i] = values[i].reshape(count, -1)
        pictures = (image, recon, *model.decode(some.flatten(1)))
        for j, (ax, pixels) in enumerate(zip(line, pictures)):
            if j < 2 and row:
                ax.axis("off")
                continue
            plots.picture(ax, pixels)
            if not row:
                ax.set_title("image" if not j else "returned" if j == 1 else "", fontsize=7)
        line[-1].yaxis.set_label_position("right")
        line[-1].set_ylabel(f"z{i}  {meanings[i]}", fontsize=7, rotation=0, labelpad=4, va="center", ha="left")
    about = (
        "The picture, and what the model makes of it. To their right a row for each latent: it alone changes, from one "
        "end of its values to the other"
    )
    known = (
        any(meanings)
        and "; beside it, the factor of the scene that it tells most about, and how much of it, from 0 to 1 (all)"
    )
    return plots.caption(fig, f"{about}{known or ''}.")


def _likelihood(model: CodePrior, batches: Batches) -> dict[str, float]:
    nats, count = 0.0, 0
    for x, y in batches:
        nats += double(model(x, y if model.num_classes else None).loss).item() * len(x)
        count += len(x)
    nats /= count
    return {
        "nats": nats,
        "perplexity": math.exp(nats),
        "bits_per_image": nats * model.length / math.log(2),
        "images": count,
    }


def _surprise(model: CodePrior, images: Tensor, names: list[str]) -> Figure:
    """Images, what the codes keep of them, and each code's nats given those before it, of any class."""
    out = model(images)
    log_p = out.logits.float().log_softmax(-1).gather(-1, out.indices.flatten(1)[..., None])  # (B, N, 1)
    nats = -log_p.reshape(out.indices.shape)  # (B, h, w)
    tokenizer = model.tokenizer
    assert isinstance(tokenizer, HasCodes)  # it made the codes
    recon = tokenizer.decode(out.indices)  # (B, C, H, W)
    size = (1.5 * len(images) + 0.6, 4.9)
    fig, axes = plt.subplots(3, len(images), figsize=size, squeeze=False, layout="constrained")
    for column, (image, again, surprise, name) in enumerate(zip(images, recon, nats, names)):
        plots.picture(axes[0, column], image)
        plots.picture(axes[1, column], again)
        axes[2, column].imshow(surprise.cpu(), vmin=0, vmax=math.log(model.codebook_size), interpolation="nearest")
        axes[2, column].set(xticks=[], yticks=[])
        axes[2, column].set_xlabel(f"{surprise.sum() / math.log(2):.0f} bits", fontsize=7)
        axes[0, column].set_title(plots.short(name), fontsize=8)
    for ax, title in zip(axes[:, 0], ("image", "reconstruction", "surprise")):
        ax.set_ylabel(title, fontsize=8)
    most = f"{math.log(model.codebook_size):.1f} nats, what a blind guess costs"
    return plots.caption(
        fig,
        "The picture; what its codes keep of it; and how much each code surprises the model, which knows those before "
        f"it: from dark, 0, to yellow, {most}. Below, all together.",
    )
