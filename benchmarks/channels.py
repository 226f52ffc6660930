"""Channel masking (Chen et al. 2025, DC-AE 1.5, §3.2): PSNR against the channels that are kept, with it and without.

The same small network, data, steps and schedule for both. Results are kept in --out as they come; a second call goes on
with what is missing.
"""

import argparse
import json
import logging
import warnings
from pathlib import Path

import lightning as L
import torch

from benchmarks import harness
from benchmarks.residual import WIDTHS, fit
from zoo.data.images import ImageData
from zoo.families.dcae.lit import LitDCAE

KEPT = (2, 4, 8, 12, 16)
MASKS = {"masked": (4, 8, 12, 16), "plain": None}


def run(which: str, seed: int, data: ImageData, steps: int) -> dict[str, float]:
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
    return {str(keep): total / count for keep, total in sums.items()}


def table(results: dict[str, dict[str, float]]) -> str:
    """Mean over the seeds and their range."""
    lines = [f"| PSNR, dB | {' | '.join(f'{k} of 16' for k in KEPT)} | seeds |", "|---" * (len(KEPT) + 2) + "|"]
    for which in MASKS:
        seeds = [v for k, v in results.items() if k.startswith(which)]
        if seeds:
            cells = [harness.spread([s[str(k)] for s in seeds], 2) for k in KEPT]
            lines.append(f"| {which} | {' | '.join(cells)} | {len(seeds)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="zh-plus/tiny-imagenet", help="as ImageData's source")
    parser.add_argument("--limit", type=int, default=40_000, help="training images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=2000, help="of 16 images")
    parser.add_argument("--out", type=Path, default=Path("out/channels.json"))
    args = parser.parse_args(argv)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    results = json.loads(args.out.read_text()) if args.out.is_file() else {}
    for seed in args.seeds:
        data = ImageData(args.data, 64, 3, 16, 500, flip=True, limit=args.limit, cache="memory", seed=seed)
        data.setup()
        for which in MASKS:
            if f"{which} {seed}" not in results:
                results[f"{which} {seed}"] = run(which, seed, data, args.steps)
                args.out.parent.mkdir(parents=True, exist_ok=True)
                args.out.write_text(json.dumps(results, indent=1) + "\n")
                print(which, seed, results[f"{which} {seed}"], flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
