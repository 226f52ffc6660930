"""Residual autoencoding on and off at f8, f16 and f32, with equal latent floats (Chen et al. 2024, figure 3), in small.

The same data, steps and schedule for all, L1 alone, no attention. Rows and the first seed's weights are kept beside
--kept as they come; a second call goes on with what is missing. The last step draws the gap and photographs.
"""

import argparse
import logging
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from matplotlib import pyplot as plt

from benchmarks import harness
from zoo import hub
from zoo.data.images import ImageData
from zoo.data.readers import SAMPLES
from zoo.families.dcae.lit import LitDCAE
from zoo.report import plots
from zoo.report.inputs import read_image

ARCHS = {8: "dcae_tiny_f8c4", 16: "dcae_tiny_f16c16", 32: "dcae_tiny_f32c64"}  # 256 floats of a 64 px image each
WIDTHS = (16, 32, 64, 128, 128, 128)
SHORTCUTS = {"on": "grouped", "off": "none"}


def run(ratio: int, shortcuts: str, seed: int, data: ImageData, steps: int, folder: Path) -> dict[str, float]:
    """Test figures after training; seed 0 leaves its weights in a folder."""
    L.seed_everything(seed, verbose=False)
    stages = ratio.bit_length()
    args = {"widths": WIDTHS[:stages], "shortcut": SHORTCUTS[shortcuts]}
    args |= {"encoder_attention": (), "decoder_attention": ()}
    lit = LitDCAE(ARCHS[ratio], arch_args=args, lr=1e-3, min_lr=0.0, warmup_epochs=0.05, perceptual_weight=0)
    trainer = fit(lit, data, steps)
    (figures,) = trainer.test(lit, data, verbose=False)
    if seed == 0:
        hub.save(lit.model, folder / f"f{ratio}_{shortcuts}")
    return {"psnr": figures["test/psnr"], "parameters": sum(p.numel() for p in lit.model.parameters())}


def fit(lit: LitDCAE, data: ImageData, steps: int) -> L.Trainer:
    """Train for so many steps, at most one epoch, and leave nothing behind."""
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    trainer = L.Trainer(
        max_steps=steps, max_epochs=1, limit_val_batches=0, precision="bf16-mixed", **dict.fromkeys(quiet, False)
    )
    trainer.fit(lit, data)
    return trainer


def draw(results: list[dict[str, Any]], folder: Path) -> plt.Figure:
    """PSNR over the ratio, and photographs through all six networks of seed 0."""
    photos = sorted((SAMPLES / "photos").glob("*.jpg"))[:4]
    fig = plt.figure(figsize=(9.6, 3.4), layout="constrained")
    left, right = fig.subfigures(1, 2, width_ratios=[1, 1.9])
    ax = left.subplots()
    for which, colour in (("on", plots.UP), ("off", plots.DOWN)):
        seeds = [[row["psnr"] for row in harness.where(results, ratio=ratio, shortcuts=which)] for ratio in ARCHS]
        ax.plot([sum(s) / len(s) for s in seeds], color=colour, label=f"shortcuts {which}")
        for i, values in enumerate(seeds):
            ax.plot([i] * len(values), values, ".", color=colour)
    ax.set_xticks(range(len(ARCHS)), [a.rpartition("_")[2] for a in ARCHS.values()])
    ax.set_ylabel("PSNR, dB, unseen images")
    ax.legend(frameon=False)
    axes = right.subplots(len(photos), 1 + 2 * len(ARCHS))
    columns = [None, *((ratio, which) for which in SHORTCUTS for ratio in ARCHS)]
    for column, what in enumerate(columns):
        model = hub.load(str(folder / "f{}_{}".format(*what))) if what else None
        for row, photo in enumerate(photos):
            image = read_image(photo, (model or hub.build(ARCHS[8], {})).takes)[None]  # (1, 3, 64, 64)
            with torch.no_grad():
                plots.picture(axes[row, column], (model.reconstruct(image) if model else image)[0])
        axes[0, column].set_title("f{} {}".format(*what) if what else "image", fontsize=8)
    return fig


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="zh-plus/tiny-imagenet", help="as ImageData's source")
    parser.add_argument("--limit", type=int, default=40_000, help="training images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=2000, help="of 16 images")
    parser.add_argument("--kept", type=Path, default=Path("out/residual.json"))
    args = parser.parse_args(argv)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    kept = harness.Kept(args.kept, {"data": args.data, "limit": args.limit, "steps": args.steps})
    folder, data = args.kept.with_suffix(""), None
    for seed in args.seeds:
        for ratio in ARCHS:
            for shortcuts in SHORTCUTS:
                if kept.lacks(ratio=ratio, shortcuts=shortcuts, seed=seed):
                    if data is None or data.hparams.seed != seed:  # the same images for all, in another order
                        data = ImageData(
                            args.data, 64, 3, 16, 500, flip=True, limit=args.limit, cache="memory", seed=seed
                        )
                    found = run(ratio, shortcuts, seed, data, args.steps, folder)
                    kept.add(arch=ARCHS[ratio], ratio=ratio, shortcuts=shortcuts, seed=seed, **found)
    results = [row for seed in args.seeds for row in kept.where(seed=seed)]
    if 0 in args.seeds:
        plots.write(draw(results, folder), args.kept.with_suffix(".png"))
    return results


if __name__ == "__main__":
    print(harness.table(main()))
