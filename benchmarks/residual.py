"""Residual autoencoding on and off at f8, f16 and f32, with equal latent floats (Chen et al. 2024, figure 3), in small.

The same data, steps and schedule for all, L1 alone, no attention. Results and the first seed's weights are kept beside
--out as they come; a second call goes on with what is missing. The last step draws the table, the gap and photographs.
"""

import argparse
import json
import logging
import warnings
from pathlib import Path

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


def table(results: dict[str, dict[str, float]]) -> str:
    """Mean over the seeds and their range."""
    lines = ["| | parameters | off, dB | on, dB | gain, dB | seeds |", "|---" * 6 + "|"]
    for ratio in ARCHS:
        pairs = _pairs(results, ratio)
        if pairs:
            off, on, gain = [p[0] for p in pairs], [p[1] for p in pairs], [p[1] - p[0] for p in pairs]
            count = next(v["parameters"] for k, v in results.items() if k.startswith(f"f{ratio} "))
            cells = [f"{count:,}", *(harness.spread(v, 2) for v in (off, on, gain)), str(len(pairs))]
            lines.append(f"| {ARCHS[ratio].rpartition('_')[2]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _pairs(results: dict[str, dict[str, float]], ratio: int) -> list[tuple[float, float]]:
    """(off, on) of each seed that has both."""
    off = {k.split()[2]: v["psnr"] for k, v in results.items() if k.startswith(f"f{ratio} off")}
    on = {k.split()[2]: v["psnr"] for k, v in results.items() if k.startswith(f"f{ratio} on")}
    return [(off[seed], on[seed]) for seed in sorted(off.keys() & on.keys())]


def draw(results: dict[str, dict[str, float]], folder: Path) -> plt.Figure:
    """PSNR over the ratio, and photographs through all six networks of seed 0."""
    photos = sorted((SAMPLES / "photos").glob("*.jpg"))[:4]
    fig = plt.figure(figsize=(9.6, 3.4), layout="constrained")
    left, right = fig.subfigures(1, 2, width_ratios=[1, 1.9])
    ax = left.subplots()
    for which, colour in (("on", plots.UP), ("off", plots.DOWN)):
        seeds = [[p[which == "on"] for p in _pairs(results, ratio)] for ratio in ARCHS]
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


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="zh-plus/tiny-imagenet", help="as ImageData's source")
    parser.add_argument("--limit", type=int, default=40_000, help="training images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=2000, help="of 16 images")
    parser.add_argument("--out", type=Path, default=Path("out/residual.json"))
    args = parser.parse_args(argv)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    results = json.loads(args.out.read_text()) if args.out.is_file() else {}
    folder = args.out.with_suffix("")
    wanted = [(r, s, seed) for seed in args.seeds for r in ARCHS for s in SHORTCUTS]
    missing = [w for w in wanted if "f{} {} {}".format(*w) not in results]
    data = None
    for ratio, shortcuts, seed in missing:
        if data is None or data.hparams.seed != seed:
            data = ImageData(
                args.data, 64, 3, 16, 500, flip=True, limit=args.limit, cache="memory", seed=seed
            )  # the same images for all, in another order
        results[f"f{ratio} {shortcuts} {seed}"] = run(ratio, shortcuts, seed, data, args.steps, folder)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(results, indent=1) + "\n")
        print(f"f{ratio} {shortcuts} {seed}  {results[f'f{ratio} {shortcuts} {seed}']['psnr']:.2f} dB", flush=True)
    print(table(results))
    if 0 in args.seeds:
        print(plots.write(draw(results, folder), args.out.with_suffix(".png")))


if __name__ == "__main__":
    main()
