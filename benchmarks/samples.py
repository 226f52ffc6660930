"""Are digits drawn by `vqprior_tiny.mnist` the digits that were asked for? `bilinear_d256.mnist` reads them.

It never saw a drawn digit; how it reads the shipped test digits and their reconstructions stands beside.
"""

import argparse
import time
from typing import Any

import torch
from torch import Tensor

from benchmarks import harness
from zoo import hub
from zoo.metrics.verdicts import classification
from zoo.report import figures as report

WAYS = ((1.0, 1.0), (1.0, 1.5), (1.0, 2.0), (0.9, 1.0), (0.8, 1.0))  # temperature, guidance


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prior", default="vqprior_tiny.mnist", help="name, checkpoint folder or run")
    parser.add_argument("--reader", default="bilinear_d256.mnist")
    parser.add_argument("--each", type=int, default=100, help="drawn digits of a class")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    prior, reader = hub.load(args.prior), hub.load(args.reader)
    x, y = next(report.batches(prior, "samples/mnist", 1000))

    def read(images: Tensor, labels: Tensor) -> float:
        return classification(reader, [(images, labels)])["accuracy"]

    seen = {"name": "test digits", "images": len(x), "accuracy": read(x, y)}
    kept = {
        "name": "test digits after their codes",
        "images": len(x),
        "accuracy": read(prior.tokenizer.reconstruct(x), y),
    }
    results = [seen, kept]
    labels = torch.arange(prior.num_classes).repeat_interleave(args.each)
    for temperature, guidance in WAYS:
        draw = torch.Generator().manual_seed(args.seed)
        start = time.perf_counter()
        drawn = prior.sample(labels, temperature=temperature, guidance=guidance, generator=draw)
        rate = len(drawn) / (time.perf_counter() - start)
        row = {"name": f"drawn, temperature {temperature:g}, guidance {guidance:g}", "images": len(drawn)}
        row |= {"seed": args.seed, "temperature": temperature, "guidance": guidance}
        results.append(row | {"images_per_second": rate, "accuracy": read(drawn, labels)})
        print(harness.table(results[-1:]), flush=True)
    return results


if __name__ == "__main__":
    print(harness.table(main()))
