"""How far drawn images are from real ones: Fréchet and kernel distances, by torchmetrics, in any features.

Only features of Inception may be called FID: in others, the encoder's name stands in the figure's.
"""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from zoo import hub
from zoo.metrics.probes import pooled_features
from zoo.nn.protocols import HasFeatures, Network

INCEPTION = "inception"
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"  # torch-fidelity's, where it looks for it
SMALLEST = 50  # images on either side


class Features(nn.Module):
    """A zoo model as torchmetrics takes it: images (B, C, H, W) in [0, 1] → the mean patch token (B, D).

    Resized where they must be.
    """

    def __init__(self, model: Network):
        super().__init__()
        self.model: Network = model.eval().requires_grad_(False)
        blank = torch.zeros(1, *model.takes.shape)
        self.num_features = self(blank).shape[1]

    def forward(self, x: Tensor) -> Tensor:
        size = self.model.takes.size
        if x.shape[2:] != size:
            x = nn.functional.interpolate(x, size=size, mode="bicubic", antialias=True).clamp(0, 1)
        if not isinstance(self.model, HasFeatures):
            raise ValueError(f"{type(self.model).__name__} has no features to compare by; give others")
        return pooled_features(self.model, x)  # (B, D)


def inception_is_cached() -> bool:
    """Whether torchmetrics' Inception needs no network."""
    return (Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE).is_file()


@torch.no_grad()
def distances(
    real: Iterable[Tensor], drawn: Iterable[Tensor], features: str = INCEPTION, subsets: int = 100
) -> dict[str, float]:
    """Fréchet distance and kernel distance (Bińkowski et al. 2018) of two sets of images (B, 3, H, W) in [0, 1].

    Args:
        features: "inception" gives `fid` and `kid`; weights of this zoo give `frechet_NAME` and `kernel_NAME`, which no
            FID compares with.
        subsets: of the kernel distance, of at most 1,000 images each.

    Raises:
        ValueError: fewer than 50 images on a side.
        ModuleNotFoundError: Inception without torch-fidelity.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    network: int | Features = 2048  # of Inception's features
    names = ("fid", "kid")
    if features != INCEPTION:
        network, names = Features(hub.load(features)), (f"frechet_{features}", f"kernel_{features}")
    sides = {True: real, False: drawn}
    frechet = FrechetInceptionDistance(network, normalize=True)
    kernel = KernelInceptionDistance(network, normalize=True, subsets=subsets)
    counts = {True: 0, False: 0}
    for side, batches in sides.items():
        for x in batches:
            x = (x * 255).round() / 255  # as files hold them, on both sides
            frechet.update(x, real=side)
            kernel.update(x, real=side)
            counts[side] += len(x)
    if min(counts.values()) < SMALLEST:
        raise ValueError(
            f"{counts[True]} real and {counts[False]} drawn images: at least {SMALLEST} of each are needed"
        )
    kernel.subset_size = min(1000, *counts.values())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the subsets
        mean, _ = kernel.compute()
    return dict(zip(names, (frechet.compute().item(), mean.item())))
