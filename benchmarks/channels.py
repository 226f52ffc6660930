"""Channel masking (Chen et al. 2025, DC-AE 1.5, §3.2): PSNR against the channels that are kept, with it and without.

The same small network, data, steps and schedule for both. Rows are kept in --kept as they come; a second call goes
on with what is missing.
"""

import argparse
import logging
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch

from benchmarks import harness
from benchmarks.residual import WIDTHS, fit
from zoo.data.images import ImageData
from zoo.families.dcae.lit import LitDCAE

KEPT = (2, 4, 8, 12, 16)
MASKS = {"masked": (4, 8, 12, 16), "plain": None}


def run(which: str, seed: int, data: ImageData, steps: int) -> dict[int, float]:
    """Test PSNR of each number of channels kept."""
    L.seed_everything(seed, verbose=False)
    args = {"widths": WIDTHS[:5], "encoder_attention": (), "decoder_attention": ()}
    settings = {"lr": 1e-3, "min_lr": 0.0, "warmup_epochs": 0.05, "perceptual_weight": 0}
    lit = LitDCAE("dcae_tiny_f16c16", arch_args=args, mask_channels=MASKS[which], **settings)
    fit(lit, data, steps)
    model, sums, count = lit.model.eval(), dict.fromkeys(KEPT, 0.0), 0
    for batch in data.in_order("test", 500):
        x, _ = data.on_after_batch_transfer(batch, 0)
        with torch.no_grad():
            for keep in KEPT:
                error = (model.reconstruct(x, keep) - x).square().mean((1, 2, 3))  # (B,)
                sums[keep] += (-10 * error.log10()).sum().item()
        count += len(x)
    return {keep: total / count for keep, total in sums.items()}


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="zh-plus/tiny-imagenet", help="as ImageData's source")
    parser.add_argument("--limit", type=int, default=40_000, help="training images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=2000, help="of 16 images")
    parser.add_argument("--kept", type=Path, default=Path("out/channels.json"))
    args = parser.parse_args(argv)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    kept = harness.Kept(args.kept, {"data": args.data, "limit": args.limit, "steps": args.steps})
    for seed in args.seeds:
        data = ImageData(args.data, 64, 3, 16, 500, flip=True, limit=args.limit, cache="memory", seed=seed)
        data.setup()
        for which in MASKS:
            if kept.lacks(training=which, seed=seed):
                for channels, psnr in run(which, seed, data, args.steps).items():
                    kept.add(training=which, channels=channels, seed=seed, psnr=psnr)
    return [row for seed in args.seeds for row in kept.where(seed=seed)]


if __name__ == "__main__":
    print(harness.table(main()))
