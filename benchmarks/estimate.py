"""What `zoo validate --estimate` says of a step, and what the step takes: memory at its peak, and operations a second.

On a CPU in float32, each training in a process of its own, whose high-water mark is read; on a GPU as the recipe says.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch

from benchmarks import harness
from zoo.nn.frozen import random_weights
from zoo.train import estimate

SMALL = ["--model.compile", "false"]
ROWS = {  # recipe, and the batch that a machine with 16 GB takes
    "mae/in1k_pretrain_base": ["--data.batch_size", "16", *SMALL],
    "mae/in1k_pretrain_large": ["--data.batch_size", "8", *SMALL],
    "videomae/k400_pretrain_small": ["--data.batch_size", "2", *SMALL],
    "vq/in1k_vqgan_f16": ["--data.batch_size", "1", "--model.perceptual_weight", "0"],
    "dcae/in1k_f32c32_phase1": ["--data.batch_size", "1", "--model.perceptual_weight", "0"],
    "rae/in1k_ditdh_s": ["--data.batch_size", "8", *SMALL],
}
CHILD = "from benchmarks import estimate; estimate.child({!r}, {!r}, {!r})"


class Timed(L.Callback):
    """When the last step began."""

    def on_train_batch_start(self, *_: Any) -> None:
        self.start = time.perf_counter()


def step(name: str, overrides: list[str], device: str) -> float:
    """Train two steps on random images; the seconds of the second."""
    plan, timed = estimate.resolve(name, overrides), Timed()
    with random_weights():  # weights are random: nothing is fetched
        module = plan.module()
        x = torch.rand(plan.data["batch_size"], *module.model.takes.shape)
        batches = estimate.Batches([(x, torch.zeros(len(x), dtype=torch.int64))] * 2, len(x))
        estimate.trainer(timed, accelerator=device, precision=plan.precision).fit(module, batches)
    return time.perf_counter() - timed.start


def child(name: str, overrides: list[str], device: str) -> None:
    """Print the bytes that two steps take at their peak, and the seconds of the second."""
    step("mae/smoke", ["--trainer.precision", "32-true"], device)  # what torch sets up at its first step does not count
    if device == "cpu":
        before = harness.memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the high water falls to what is held
        seconds = step(name, overrides, device)
        peak = harness.memory() - before
    else:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        seconds = step(name, overrides, device)
        peak = torch.cuda.max_memory_allocated() - before
    print(json.dumps([peak, seconds]))


def compare(name: str, overrides: list[str], device: str) -> dict[str, Any]:
    """Estimated and measured bytes, their ratio, and the operations a second that the measured step has made."""
    found = estimate.estimate(name, overrides)
    code = CHILD.format(name, overrides, device)
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    peak, seconds = json.loads(out.splitlines()[-1])
    again = ", activations made again" if found["grad_checkpointing"] else ""
    return {
        "name": f"{name}, batch {found['batch']}, {found['precision']}{again}",
        "estimate_gb": found["total_bytes"] / 1e9,
        "measured_gb": peak / 1e9,
        "ratio": found["total_bytes"] / peak,
        "gflop_an_image": found["flops_per_image"] / 1e9,
        "images_per_second": found["batch"] / seconds,
        "gflop_per_second": found["flops_per_image"] * found["batch"] / seconds / 1e9,
    }


def main(argv: list[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=list(ROWS))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    precise = ["--trainer.precision", "32-true"] if args.device == "cpu" else []
    results = []
    for name in args.rows:
        for again in ("false", "true"):
            overrides = [*ROWS[name], *precise, "--model.grad_checkpointing", again]
            results.append(compare(name, overrides, args.device))
            print(harness.table(results[-1:]), flush=True)
    return results


if __name__ == "__main__":
    print(harness.table(main()))
