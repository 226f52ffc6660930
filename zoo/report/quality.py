"""How much of a sample survives a model, and in how many numbers: of every model that gives samples back."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.metrics.images import psnr
from zoo.metrics.intervals import mean_interval
from zoo.metrics.precise import double, exactly, single
from zoo.nn.frozen import weights_are_random
from zoo.nn.protocols import HasCodes, Input, Model
from zoo.report import distances
from zoo.train import adversarial

PICTORIAL = ("image", "clip")  # kinds whose reconstructions are judged as pictures
VGG = "vgg16-397923af.pth"
SMALLEST = 16  # side in px of a picture that VGG halves four times
RANKED = 4096  # channels of a latent whose rank is computed, at most
AT_ONCE = 100  # samples that are compared at a time


class Quality:
    """Of reconstructions, batch by batch; see `compute`.

    Args:
        takes: what the samples are.
        total: how many there are, where that is known, so that no network runs over fewer than its figure needs.
    """

    def __init__(self, takes: Input, total: int | None = None):
        self.takes, self.count = takes, 0
        self.sums: dict[str, float] = {}
        self.squares: dict[str, float] = {}  # of figures that are known of each sample
        self.first = self.second = torch.zeros((), dtype=torch.float64)  # sums of numbers and of their squares
        self.notes: dict[str, str] = {}  # figure → why there is none
        self.perceptual: adversarial.Perceptual | None = None
        self.frechet: dict[str, distances.Frechet] = {}
        self.least: dict[str, int] = {}  # samples of a distance
        if takes.kind == "image":
            self._find_networks(total)

    def _find_networks(self, total: int | None) -> None:
        name, network = distances.reference_figure(), distances.reference()
        self.least = {"rfid": distances.ENOUGH, name: network.num_features + 1}
        if total is None or total >= self.least[name]:
            self.frechet[name] = distances.Frechet(network)
        if not distances.inception_is_cached():
            self.notes["rfid"] = f"needs {distances.WANTED}"
        elif total is None or total >= self.least["rfid"]:
            self.frechet["rfid"] = distances.Frechet(distances.inception())
        if min(self.takes.size) < SMALLEST:
            self.notes["lpips"] = f"needs pictures of {SMALLEST} px"
        elif not (Path(torch.hub.get_dir()) / "checkpoints" / VGG).is_file() and not weights_are_random():
            self.notes["lpips"] = f"needs torchvision's {VGG} in $TORCH_HOME/hub/checkpoints"
        else:
            self.perceptual = adversarial.Perceptual()

    def update(self, recon: Tensor, x: Tensor) -> None:
        """Reconstructions, of any precision, and samples, (B, …) both."""
        with exactly(x):
            for part, truth in zip(recon.split(AT_ONCE), x.split(AT_ONCE)):
                self._compare(single(part), single(truth))

    def _compare(self, recon: Tensor, x: Tensor) -> None:
        axes = tuple(range(1, x.ndim))
        error = double(recon - x).square().mean(axes)  # (B,)
        self.count += len(x)
        if self.takes.kind not in PICTORIAL:
            self._add("mse", error)
            self.first = self.first + double(x).sum(0)  # (D,) or (c, h, w)
            self.second = self.second + double(x).square().sum(0)
            return
        self._add("psnr", psnr(error))
        if min(self.takes.size) >= 11:  # the side of its window
            from torchmetrics.functional.image import structural_similarity_index_measure as ssim

            pictures, truth = (t.flatten(0, -4) for t in (recon, x))  # (B F, C, H, W) each
            total = ssim(pictures, truth, data_range=1.0, reduction="sum")  # a pair only where images are asked for
            self._add("ssim", torch.as_tensor(total) / (len(pictures) / len(x)))
        self._add("l1", double(recon - x).abs().mean(axes))
        if self.takes.kind == "image":
            recon, x = (t.expand(-1, 3, -1, -1) if t.shape[1] == 1 else t for t in (recon, x))  # (B, 3, H, W) each
            if self.perceptual is not None:
                self._add("lpips", self.perceptual(2 * recon - 1, 2 * x - 1) * len(x))
            for distance in self.frechet.values():
                distance.update(recon, x)

    def compute(self) -> dict[str, Any]:
        """Of images and clips `psnr` (dB), `ssim` (Wang et al. 2004, torchmetrics) and `l1`, means over samples.

        Of images besides: `lpips` (VGG-16), `rfid`, the Fréchet distance of all reconstructions to all pictures in the
        features of Inception, and the same in those of weights that ship, by their name. None where a network is not
        in the cache or the samples are too few, and `notes` say so. Grey pictures count as colours there.

        Of other samples, `mse` is the mean squared error and `explained` 1 minus its share of the variance of each
        number.

        `psnr`, `l1` and `mse` each have an interval of 95 % beside them, `psnr_interval`, [low, high].
        """
        figures: dict[str, Any] = {k: v / self.count for k, v in self.sums.items()}
        if self.count > 1:
            figures |= {f"{k}_interval": mean_interval(self.sums[k], v, self.count) for k, v in self.squares.items()}
        if self.takes.kind not in PICTORIAL:
            variance = (self.second / self.count - (self.first / self.count).square()).mean().item()
            return figures | {"explained": 1 - figures["mse"] / max(variance, 1e-12)}
        if self.takes.kind == "clip":
            return figures
        notes = dict(self.notes)
        for name, least in self.least.items():
            if self.count < least and name not in notes:
                notes[name] = f"needs {least:,} pictures, these are {self.count:,}"
            figures[name] = None if name in notes else self.frechet[name].compute()
        return figures | {"lpips": figures.get("lpips")} | ({"notes": notes} if notes else {})

    def _add(self, name: str, values: Tensor) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + values.sum().item()
        if values.ndim:  # one of each sample
            self.squares[name] = self.squares.get(name, 0.0) + double(values).square().sum().item()


class Bottleneck:
    """Of latents or codes, batch by batch."""

    def __init__(self, model: Model):
        self.used = torch.zeros(model.count_codes() if isinstance(model, HasCodes) else 0, dtype=torch.bool)
        self.numbers, self.places = 0, 0
        self.first = self.second = torch.zeros((), dtype=torch.float64)  # sums of channels and of their products

    def update(self, z: Tensor) -> None:
        """Latents (B, c, …), of any precision, or codes, int64."""
        self.numbers = z[0].numel()
        if not z.is_floating_point():
            if len(self.used):
                self.used = self.used.to(z.device)
                self.used[z.flatten()] = True
            return
        flat = double(z.movedim(1, 0).flatten(1))  # (c, B·h·w)
        self.places += flat.shape[1]
        if len(flat) <= RANKED:
            self.first, self.second = self.first + flat.sum(1), self.second + flat @ flat.T

    def compute(self) -> dict[str, Any]:
        """Latents: `floats` of a sample; `rank` is their effective rank, exp of the entropy of the covariance's
        spectrum over its sum (Roy and Vetterli 2007), of c `channels`. Codes: `codes` of a sample, and `used`, the
        share of the codebook that occurs.
        """
        if not self.places:
            used = {"used": int(self.used.sum()) / len(self.used)} if len(self.used) else {}
            return {"codes": self.numbers} | used
        if not self.first.ndim:
            return {"floats": self.numbers}
        mean = self.first / self.places  # (c,)
        covariance = self.second / self.places - mean[:, None] * mean  # (c, c)
        spectrum = torch.linalg.eigvalsh(covariance).clamp(min=1e-12)  # (c,)
        share = spectrum / spectrum.sum()
        rank = (-(share * share.log()).sum()).exp().item()
        return {"floats": self.numbers, "channels": len(mean), "rank": rank}


def merged(*parts: dict[str, Any]) -> dict[str, Any]:
    """Figures of several kinds together; their notes are joined, and come last."""
    notes = {key: why for part in parts for key, why in part.get("notes", {}).items()}
    figures = {key: value for part in parts for key, value in part.items() if key != "notes"}
    return figures | ({"notes": notes} if notes else {})
