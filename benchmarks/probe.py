"""What a linear classifier reads from latents (Zheng et al. 2025, table 1): RAE against DC-AE and VQ, the same images.

Frozen latents of training images, softmax regression to the end, accuracy on test images; PSNR and latent floats of
each beside it. "pooled" is the mean over places, "whole" all latents of an image in a row.
"""

import argparse
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import harness
from zoo import hub
from zoo.data.images import ImageData
from zoo.metrics.images import psnr
from zoo.metrics.probes import linear_accuracy

NAMES = (
    "rae_mae_vit_tiny.tiny_imagenet",
    "dcae_tiny_f8c4.tiny_imagenet",
    "dcae_tiny_f32c64.tiny_imagenet",
    "vqvae_conv_small.cifar10",
)


@torch.no_grad()
def latents(model: nn.Module, data: ImageData, split: str, count: int) -> tuple[Tensor, Tensor, float]:
    """Latents (N, c, h, w), labels (N,) and the PSNR of reconstructions in dB."""
    size = model.takes.shape[1:]
    found, labels, decibels = [], [], 0.0
    for batch in data.in_order(split, 200):
        x, y = data.on_after_batch_transfer(batch, 0)
        if x.shape[2:] != size:
            x = nn.functional.interpolate(x, size=size, mode="bicubic", antialias=True).clamp(0, 1)
        if hasattr(model, "quantizer"):
            out = model(x)
            z, recon = model.forward_features(x), out.recon.clamp(0, 1)
        else:
            z = model.encode(x)  # (B, c, h, w)
            recon = model.decode(z) if split == "test" else x
        error = (recon - x).square().mean((1, 2, 3))  # (B,)
        decibels += psnr(error).sum().item()
        found.append(z.half())
        labels.append(y)
        if sum(map(len, labels)) >= count:
            break
    y = torch.cat(labels)
    return torch.cat(found), y, decibels / len(y)


def probe(name: str, data: ImageData, train: int, test: int, decay: float) -> dict[str, float]:
    model = hub.load(name)
    (bank, y, _), (queries, wanted, decibels) = latents(model, data, "train", train), latents(model, data, "test", test)
    row = {"floats": bank[0].numel(), "psnr": decibels, "px": model.takes.shape[-1]}
    mean = lambda z: z.float().flatten(2).mean(2) if z.ndim == 4 else z.float().mean(1)  # noqa: E731
    row["pooled"] = linear_accuracy(mean(bank), y, mean(queries), wanted, decay)
    if row["floats"] <= 1024:
        row["whole"] = linear_accuracy(bank.float().flatten(1), y, queries.float().flatten(1), wanted, decay)
    return row


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="torchvision:CIFAR10", help="as ImageData's source")
    parser.add_argument("--size", type=int, default=32, help="side of its images in px; each model resizes them")
    parser.add_argument("--train", type=int, default=20_000)
    parser.add_argument("--test", type=int, default=10_000)
    parser.add_argument("--weight-decay", type=float, default=1e-4)
    parser.add_argument("--names", nargs="+", default=NAMES)
    args = parser.parse_args(argv)
    data = ImageData(args.data, args.size, 3, limit=args.train, cache="memory")
    data.setup()
    results = []
    for name in args.names:
        results.append({"name": name, **probe(name, data, args.train, args.test, args.weight_decay)})
        print(harness.table(results[-1:]), flush=True)
    return results


if __name__ == "__main__":
    print(harness.table(main()))
