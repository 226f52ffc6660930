"""Noise-augmented decoding (Zheng et al. 2025, §4.3): PSNR of clean and noisy latents, against the noise of training.

The same small decoder, steps and data for every τ, on written latents: nothing is encoded again.
"""

import argparse
import logging
import warnings
from typing import Any

import lightning as L
import torch

from benchmarks import harness
from zoo.data.latents import ImageLatentData
from zoo.families.rae.lit import LitRAE

TAUS = (0.0, 0.4, 0.8)
TESTED = (0.0, 0.2, 0.4)  # deviation of the noise on test latents


def run(tau: float, seed: int, data: ImageLatentData, steps: int, images: int) -> dict[float, float]:
    """Test PSNR under each noise."""
    L.seed_everything(seed, verbose=False)
    args = {"noise": tau, "depth": 3}
    settings = {"lr": 1e-3, "min_lr": 0.0, "warmup_epochs": 0, "perceptual_weight": 0, "disc_weight": 0, "ema": 0.99}
    lit = LitRAE("rae_mae_vit_tiny", arch_args=args, **settings)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(max_epochs=1, limit_train_batches=steps, limit_val_batches=0, precision="bf16-mixed", **quiet)
    trainer.fit(lit, data)
    model, sums, count = lit.averaged.eval(), dict.fromkeys(TESTED, 0.0), 0
    generator = torch.Generator().manual_seed(0)
    for batch in data.test_dataloader():
        (x, z), _ = data.on_after_batch_transfer(batch, 0)
        grain = torch.randn(z.shape, generator=generator)
        with torch.no_grad():
            for sigma in TESTED:
                error = (model.decode(z + sigma * grain) - x).square().mean((1, 2, 3))  # (B,)
                sums[sigma] += (-10 * error.log10()).sum().item()
        count += len(x)
        if count >= images:
            break
    return {sigma: total / count for sigma, total in sums.items()}


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="what `zoo latents rae_mae_vit_tiny.tiny_imagenet FOLDER --data SOURCE` wrote")
    parser.add_argument("--data", help="its images, as ImageData's source; default: where they were")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=600, help="of 64 images")
    parser.add_argument("--images", type=int, default=2000, help="of the test")
    args = parser.parse_args(argv)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    results = []
    for seed in args.seeds:
        data = ImageLatentData(args.folder, args.data, 64, 250, seed, cache="memory")
        data.setup()
        for tau in TAUS:
            for sigma, psnr in run(tau, seed, data, args.steps, args.images).items():
                results.append(
                    {"name": f"τ {tau:g}, noise {sigma:g}", "tau": tau, "noise": sigma, "seed": seed, "psnr": psnr}
                )
            print(harness.table(results[-len(TESTED) :]), flush=True)
    return results


if __name__ == "__main__":
    print(harness.table(main()))
