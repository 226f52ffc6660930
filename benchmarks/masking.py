"""What to hide: tubes, single cubes or whole frames of sprites, a short pretraining each (VideoMAE, table 2).

Each network then meets characters it never saw: a linear probe on its mean token, fitted to twenty clips a class.
"""

import argparse
import logging
import statistics
import warnings
from typing import Any

import lightning as L

from benchmarks import harness
from benchmarks.labels import TASKS, features, probe
from zoo.data.clips import ClipData
from zoo.train.mask import LitMAE

ARGS = {"frames": 8, "image_size": 64, "patch_size": 8, "target": "pixel"}
MASKS = (("tube", 0.9), ("tube", 0.75), ("random", 0.9), ("frame", 0.75))


def pretrain(mask: str, ratio: float, epochs: int, seed: int) -> LitMAE:
    """The recipe sprites_pretrain_cpu with another mask and fewer epochs."""
    L.seed_everything(seed, verbose=False)
    statistics_of = {"mean": [0.102, 0.086, 0.081], "std": [0.24, 0.217, 0.204]}
    args = ARGS | statistics_of | {"mask": mask, "mask_ratio": ratio}
    lit = LitMAE("videomae_vit_tiny", arch_args=args, base_lr=4e-3, warmup_epochs=1, probe_images=0)
    data = ClipData("sprites", 8, 64, batch_size=64, eval_batch_size=222, seed=seed)
    trainer = L.Trainer(
        max_epochs=epochs,
        limit_val_batches=0,
        precision="bf16-mixed",
        **dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False),
    )
    trainer.fit(lit, data)
    return lit


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--labels", default="20", help="clips a class, or all")
    parser.add_argument("--clips", type=int, default=2664, help="of the training set to draw the labelled ones from")
    args = parser.parse_args(argv)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    results = []
    for mask, ratio in MASKS:
        model = pretrain(mask, ratio, args.epochs, args.seed).model
        found = features(model, 888, args.clips)
        for task in TASKS:
            accuracy = statistics.mean(probe(found, task, args.labels, seed) for seed in range(3))
            row = {
                "name": f"{mask} {ratio:.0%}, {task}",
                "mask": mask,
                "hidden": ratio,
                "task": task,
                "seed": args.seed,
            }
            results.append(row | {"accuracy": accuracy})
        print(harness.table(results[-len(TASKS) :]), flush=True)
    return results


if __name__ == "__main__":
    print(harness.table(main()))
