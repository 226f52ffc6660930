"""What `zoo validate --estimate` says of published recipes, as they are and with activations made again; none is run.

Bytes are of one device, images a second of one H100 at 40 % of its peaks: what a step would be, counted from shapes.
"""

import argparse
from typing import Any

from benchmarks import harness
from zoo.train import estimate

RECIPES = (
    *("mae/in1k_pretrain_large", "mae/in1k_finetune_large", "videomae/k400_pretrain_large", "vq/in1k_vqgan_f16"),
    *("dcae/in1k_f64c128_phase1", "rae/in1k_ditdh_xl"),
)


def plan(name: str) -> dict[str, Any]:
    """Bytes and operations of a recipe's step on one device."""
    found = estimate.estimate(name, ["--trainer.devices", "1"])
    kept, other = found["activation_bytes"], found["other_activation_bytes"]
    whole, again = (other, kept) if found["grad_checkpointing"] else (kept, other)
    return {
        "name": name,
        "batch": found["batch"],
        "precision": found["precision"],
        "trained": found["trained"],
        "state_gb": (found["total_bytes"] - kept) / 1e9,
        "activations_gb": whole / 1e9,
        "again_gb": again / 1e9,
        "gflop_an_image": found["flops_per_image"] / 1e9,
        "made_again": found["grad_checkpointing"],
        "images_per_second": estimate.speed(found, 0.4, estimate.DEVICES["h100"])["images_per_second"],
    }


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    args = parser.parse_args(argv)
    return [plan(name) for name in args.recipes]


if __name__ == "__main__":
    print(harness.table(main()))
