"""Phases 2 and 3 on top of shipped weights: what each is worth, and what it leaves alone (Chen et al. 2024, §3.3).

Phase 2: trained at 64 px, tested at 64 and, enlarged, at 128 px, before and after training the layers next to the
latents at 128 px. Phase 3: the decoder's head against a discriminator at 64 px; `detail` is the energy of the pixels
above half the highest frequency, reconstruction over image, 1 for as sharp.
"""

import argparse
import logging
import warnings
from typing import Any

import lightning as L
import torch
from torch import Tensor

from benchmarks import harness
from benchmarks.residual import fit
from zoo import hub
from zoo.data.images import ImageData
from zoo.families.dcae.lit import LitDCAE
from zoo.families.dcae.model import DCAE


@torch.no_grad()
def figures(model: DCAE, sets: dict[int, ImageData], images: int) -> dict[str, float]:
    """PSNR at each size, over the first test images, and detail."""
    found, model = {}, model.eval()
    for size, data in sets.items():
        psnr, ours, theirs, count = 0.0, 0.0, 0.0, 0
        for batch in data.in_order("test", 250):
            x, _ = data.on_after_batch_transfer(batch, 0)
            recon = model.reconstruct(x)
            psnr += (-10 * (recon - x).square().mean((1, 2, 3)).log10()).sum().item()
            ours, theirs, count = ours + fine(recon), theirs + fine(x), count + len(x)
            if count >= images:
                break
        found |= {f"psnr {size}": psnr / count, f"detail {size}": ours / theirs}
    return found


def fine(x: Tensor) -> float:
    """The energy of images (B, C, H, W) above half the highest frequency of either axis."""
    spectrum = torch.fft.rfft2(x.double(), norm="ortho").abs().square()  # (B, C, H, W/2 + 1)
    rows = torch.fft.fftfreq(x.shape[2]).abs()[:, None] > 0.25
    columns = torch.fft.rfftfreq(x.shape[3])[None] > 0.25
    return (spectrum * (rows | columns)).sum().item()


def phase(number: int, name: str, data: ImageData, steps: int, seed: int) -> DCAE:
    """The weights after so many steps of a phase."""
    L.seed_everything(seed, verbose=False)
    settings = {"lr": 2.5e-4, "weight_decay": 0.001, "min_lr": 0.0}
    if number == 3:
        settings = {"lr": 2e-4, "weight_decay": 0.0, "betas": (0.5, 0.9), "disc_weight": 0.5, "disc_warmup": 100}
    lit = LitDCAE.from_weights(name, phase=number, perceptual_weight=0.0, **settings)
    fit(lit, data, steps * (2 if number == 3 else 1))  # the trainer counts both optimisers'
    return lit.model


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__)
    weights = ["dcae_tiny_f8c4.tiny_imagenet", "dcae_tiny_f32c64.tiny_imagenet"]
    parser.add_argument("--weights", nargs="+", default=weights)
    parser.add_argument("--data", default="zh-plus/tiny-imagenet", help="as ImageData's source")
    parser.add_argument("--limit", type=int, default=10_000, help="training images")
    parser.add_argument("--images", type=int, default=2000, help="test images")
    parser.add_argument("--steps", type=int, default=300, help="of 16 images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args(argv)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    results: list[dict[str, Any]] = []
    for seed in args.seeds:
        sets = {
            size: ImageData(args.data, size, 3, 16, 250, flip=True, limit=args.limit, cache="memory", seed=seed)
            for size in (64, 128)
        }
        for data in sets.values():
            data.setup()
        for name in args.weights:
            before = hub.load(name)
            if seed == args.seeds[0]:
                results.append(
                    {"name": f"{name} as it is", "weights": name, "phase": 1, **figures(before, sets, args.images)}
                )
            for number, size in ((2, 128), (3, 64)):
                after = phase(number, name, sets[size], args.steps, seed).eval()
                row = {
                    "name": f"{name} after phase {number}, seed {seed}",
                    "weights": name,
                    "phase": number,
                    "seed": seed,
                }
                results.append(row | figures(after, sets, args.images))
                print(harness.table(results[-1:]), flush=True)
                if number == 3:
                    x = torch.rand(4, 3, 64, 64)
                    with torch.no_grad():
                        assert torch.equal(after.encode(x), before.encode(x)), "phase 3 moved the latents"
    return results


if __name__ == "__main__":
    print(harness.table(main()))
