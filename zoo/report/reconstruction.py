"""What `zoo eval` prints and `zoo show` draws of any autoencoder with continuous latents: DC-AE, RAE."""

from collections.abc import Iterable
from pathlib import Path

import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor, nn
from torchvision.utils import make_grid

from zoo.report import plots
from zoo.report.inputs import photographs
from zoo.train import adversarial

Batches = Iterable[tuple[Tensor, Tensor]]
SHOWN = 16  # channels of a latent, at most


@torch.no_grad()
def evaluate(model: nn.Module, batches: Batches, train: Batches) -> dict[str, float | str]:
    """How much of an image survives, and how many numbers it survives in.

    `psnr` (dB), `ssim` (Wang et al. 2004, torchmetrics) and `l1` are means over images of pixels in [0, 1]; `lpips` is
    measured where torchvision's VGG-16 lies in the cache. `floats` are the latents of one image; `rank` is their
    effective rank, exp of the entropy of the covariance's spectrum over its sum (Roy and Vetterli 2007), of c channels.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    model = model.eval()
    vgg = Path(torch.hub.get_dir()) / "checkpoints" / "vgg16-397923af.pth"
    perceptual = adversarial.Perceptual() if vgg.is_file() and model.takes.shape[0] == 3 else None
    sums = dict.fromkeys(("psnr", "ssim", "l1", *(("lpips",) if perceptual else ())), 0.0)
    count, first, second = 0, 0.0, 0.0
    for batch, _ in batches:
        for x in batch.split(100):
            z = model.encode(x)  # (B, c, h, w)
            recon = model.decode(z)  # (B, C, H, W)
            error = (recon - x).double().square().mean((1, 2, 3)).clamp(min=1e-10)  # (B,)
            sums["psnr"] += (-10 * error.log10()).sum().item()
            sums["ssim"] += ssim(recon, x, data_range=1.0, reduction="sum").item()
            sums["l1"] += (recon - x).abs().double().mean((1, 2, 3)).sum().item()
            if perceptual is not None:
                sums["lpips"] += perceptual(2 * recon - 1, 2 * x - 1).item() * len(x)
            flat = z.movedim(1, 0).flatten(1).double()  # (c, B·h·w)
            first, second, count = first + flat.sum(1), second + flat @ flat.T, count + len(x)
    places = count * z.shape[2:].numel()
    mean = first / places  # (c,)
    spectrum = torch.linalg.eigvalsh(second / places - mean[:, None] * mean).clamp(min=1e-12)  # (c,)
    share = spectrum / spectrum.sum()
    figures = {k: v / count for k, v in sums.items()}
    if perceptual is None:
        figures["lpips"] = "needs torchvision's VGG-16, vgg16-397923af.pth, in $TORCH_HOME/hub/checkpoints"
    rank = (-(share * share.log()).sum()).exp().item()
    return figures | {"floats": z[0].numel(), "channels": len(mean), "rank": rank, "images": count}


@torch.no_grad()
def figure(model: nn.Module, classes: list[str], batches: Batches | None) -> Figure:
    """Photographs that ship with the package."""
    names, images = photographs(model)
    return explain(model, images, names, classes)


@torch.no_grad()
def explain(model: nn.Module, images: Tensor, names: list[str], classes: list[str]) -> Figure:
    """Image, reconstruction, difference and the latent's channels, a column each.

    Args:
        images: (B, C, H, W) in [0, 1].
        names: a title for each.
    """
    model = model.eval()
    z = model.encode(images)  # (B, c, h, w)
    recon = model.decode(z)  # (B, C, H, W)
    difference = (recon - images).abs().mean(1, keepdim=True)  # (B, 1, H, W)
    low, high = z.amin((0, 2, 3), keepdim=True), z.amax((0, 2, 3), keepdim=True)  # (1, c, 1, 1) each
    channels = ((z - low) / (high - low).clamp(min=1e-6))[:, :SHOWN]  # (B, ≤ 16, h, w)
    across = 2 if channels.shape[1] <= 4 else 4
    shown = "all" if channels.shape[1] == z.shape[1] else f"{SHOWN} of"
    titles = ("image", "reconstruction", "|difference|", f"{shown} {z.shape[1]} channels, {z.shape[2]}×{z.shape[3]}")
    fig, axes = plt.subplots(4, len(images), figsize=(1.5 * len(images) + 0.6, 6.3), squeeze=False)
    for column, name in enumerate(names):
        mosaic = make_grid(channels[column, :, None], nrow=across, padding=1, pad_value=1.0)  # (3, h', w')
        error = (recon[column] - images[column]).square().mean().clamp(min=1e-10)
        pictures = (images[column], recon[column], difference[column] / difference.max(), mosaic)
        for ax, pixels in zip(axes[:, column], pictures):
            plots.picture(ax, pixels)
        axes[0, column].set_title(name, fontsize=8)
        axes[1, column].set_xlabel(f"{-10 * error.log10():.1f} dB", fontsize=7)
    for ax, title in zip(axes[:, 0], titles):
        ax.set_ylabel(title, fontsize=8)
    return fig
