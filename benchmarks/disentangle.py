"""QLAE, its baselines and its ablations on the rendered scenes: what their latents know of the factors (InfoMEC).

The same network, data, steps and step size for all, in small: 32 px, a quarter of the width. Rows are kept in --kept
as they come; a second call goes on with what is missing.
"""

import argparse
import logging
import warnings
from pathlib import Path
from typing import Any

import lightning as L

from benchmarks import harness
from zoo.data.factors import FactorData
from zoo.families.vq.lit import LitVQ

# what it is called -> arch, keywords, weight decay: the authors' settings for Shapes3D
METHODS: dict[str, tuple[str, dict[str, Any], float]] = {
    "QLAE": ("qlae_conv", {}, 0.1),
    "autoencoder": ("ae_conv", {}, 0.001),
    "β-VAE, β = 1": ("vae_conv", {"beta": 1.0}, 0.0),
    "VQ-VAE": ("vqvae_conv_latents", {}, 0.01),
    "QLAE without weight decay": ("qlae_conv", {}, 0.0),
    "QLAE with ten times the decay": ("qlae_conv", {}, 1.0),
    "QLAE with one codebook for all latents": ("qlae_conv", {"shared": True}, 0.1),
}
FIGURES = ("infom", "infoe", "infoc", "psnr")


def run(method: str, seed: int, steps: int, size: int, width: int, latents: int) -> dict[str, float]:
    """InfoMEC and PSNR on held-out scenes."""
    L.seed_everything(seed, verbose=False)
    arch, args, weight_decay = METHODS[method]
    args = args | {"image_size": size, "width": width, "latents": latents}
    lit = LitVQ(arch, arch_args=args, lr=1e-3, weight_decay=weight_decay, clip=1.0, infomec_images=5_000)
    data = FactorData("rendered", size, 100_000, 5_000, 64, 500, seed)
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    trainer = L.Trainer(max_steps=steps, max_epochs=-1, limit_val_batches=0, **dict.fromkeys(quiet, False))
    trainer.fit(lit, data)
    (figures,) = trainer.test(lit, data, verbose=False)
    return {k: figures[f"test/{k}"] for k in FIGURES}


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=3000, help="of 64 images; the authors take 200,000 of 128")
    parser.add_argument("--size", type=int, default=32, help="px")
    parser.add_argument("--width", type=int, default=8, help="of the finest level; the authors' is 32")
    parser.add_argument("--latents", type=int, default=14, help="twice the factors")
    parser.add_argument("--kept", type=Path, default=Path("out/disentangle.json"))
    args = parser.parse_args(argv)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    shape = {"steps": args.steps, "size": args.size, "width": args.width, "latents": args.latents}
    kept = harness.Kept(args.kept, shape)
    for seed in args.seeds:
        for method in args.methods:
            if kept.lacks(method=method, seed=seed):
                kept.add(method=method, seed=seed, **run(method, seed, **shape))
    return [row for seed in args.seeds for method in args.methods for row in kept.where(method=method, seed=seed)]


if __name__ == "__main__":
    print(harness.table(main()))
