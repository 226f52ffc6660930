"""How far drawn or reconstructed images are from real ones: Fréchet and kernel distances, by torchmetrics.

Only a distance in features of Inception may be called FID: in others, the network's name stands in the figure's.
"""

import importlib.util
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from zoo import hub, registry
from zoo.metrics.precise import exactly, single
from zoo.metrics.probes import pooled_features
from zoo.nn.protocols import HasFeatures, Network

INCEPTION = "inception"
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"  # torch-fidelity's, where it looks for it
WANTED = f"pip install 'latentzoo[fid]' and torch-fidelity's {INCEPTION_FILE} in $TORCH_HOME/hub/checkpoints"
SMALLEST = 50  # images on either side
ENOUGH = 2048  # images of an FID: as many as Inception has features, of which fewer tell no covariance


class Features(nn.Module):
    """A zoo model as torchmetrics takes it: images (B, C, H, W) in [0, 1] → the mean patch token (B, D).

    Resized where they must be; grey images come as colours.
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


class Frechet:
    """The Fréchet distance of reconstructions to what they are of, batch by batch.

    Args:
        network: images (B, 3, H, W) in [0, 1] → features (B, D), with `num_features` D; or 2048, of Inception's.
    """

    def __init__(self, network: nn.Module | int):
        from torchmetrics.image.fid import FrechetInceptionDistance

        self.metric = FrechetInceptionDistance(network, normalize=True)

    def update(self, recon: Tensor, x: Tensor) -> None:
        """Reconstructions and images, (B, 3, H, W) in [0, 1] both, compared as files of 8 bits hold them."""
        place = torch.device("cpu") if x.device.type == "mps" else x.device  # which has no float64
        self.metric.to(place)
        with exactly(torch.empty(0, device=place)):
            for images, real in ((x, True), (recon, False)):
                self.metric.update((single(images).clamp(0, 1) * 255).round().to(place) / 255, real=real)

    def compute(self) -> float:
        """The distance; rounding takes none below 0."""
        return max(0.0, self.metric.compute().item())


def reference_figure() -> str:
    """The name of a Fréchet distance in the features of the weights that the registry refers to."""
    return f"frechet_{registry.reference()}"


def reference() -> Features:
    """The network of `reference_figure`; it ships with the package."""
    return Features(hub.load(registry.reference()))


def inception() -> nn.Module | int:
    """Inception's features as torchmetrics takes them."""
    return 2048


def inception_is_cached() -> bool:
    """Whether torchmetrics' Inception needs no network: its weights are there, and the package that reads them."""
    there = (Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE).is_file()
    return there and importlib.util.find_spec("torch_fidelity") is not None


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

    network: nn.Module | int = inception()
    names = ("fid", "kid")
    if features != INCEPTION:
        network, names = Features(hub.load(features)), (f"frechet_{features}", f"kernel_{features}")
    sides = {True: real, False: drawn}
    frechet = FrechetInceptionDistance(network, normalize=True)
    kernel = KernelInceptionDistance(network, normalize=True, subsets=subsets)
    counts = {True: 0, False: 0}
    for side, batches in sides.items():
        for x in batches:
            place = torch.device("cpu") if x.device.type == "mps" else x.device  # which has no float64
            frechet, kernel = frechet.to(place), kernel.to(place)
            x = (single(x).clamp(0, 1) * 255).round().to(place) / 255  # as files hold them, on both sides
            with exactly(x):
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
    return dict(zip(names, (max(0.0, frechet.compute().item()), mean.item())))
