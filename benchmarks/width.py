"""The width theorem on one image (Zheng et al. 2025, theorem 1): a transformer narrower than its tokens has a floor.

One photograph's tokens, 192 wide, are all the data; a plain DiT of each width learns them. The dashed line is the floor
of a width d: what the d largest eigenvalues of `ε - z` over the places leave of its variance.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from matplotlib import pyplot as plt
from torch import Tensor

from benchmarks import harness
from zoo import hub
from zoo.data.readers import SAMPLES
from zoo.families.rae.dit import DiTDH
from zoo.report import plots
from zoo.report.inputs import read_image

WIDTHS = (48, 96, 144, 192, 288)
LAST = 50  # steps that a loss is the mean of


def tokens(name: str) -> Tensor:
    """The normalised tokens of a shipped photograph, (1, C, h, w)."""
    model = hub.load(name)
    with torch.no_grad():
        z = model.encode(read_image(SAMPLES / "photos" / "cat.jpg", model.takes)[None])  # (1, C, h, w)
        return model.normalise(z) / model.normalise(z).std()  # of unit variance, as of a whole data set


def overfit(z: Tensor, width: int, steps: int, seed: int, lr: float = 2e-3) -> float:
    """Mean loss of the last steps."""
    torch.manual_seed(seed)
    _, channels, grid, _ = z.shape
    shape = {"dim": (width, width), "depth": (3, 1), "heads": (width // 48, width // 48)}
    model = DiTDH(channels, grid, num_classes=1, label_drop=0.0, time="uniform", shift=1.0, **shape)
    optimizer = torch.optim.AdamW(model.parameters(), lr, (0.9, 0.95), weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps, pct_start=0.1)
    batch, losses = z.expand(16, -1, -1, -1), []
    for _ in range(steps):
        loss = model(batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(loss.item())
    return sum(losses[-LAST:]) / LAST


def floor(z: Tensor, width: int) -> float:
    """What `width` directions cannot hold of `ε - z`, a channel: ε has variance 1 in all of them."""
    flat = z[0].flatten(1).double()  # (C, N)
    spectrum = torch.linalg.eigvalsh(flat @ flat.T / flat.shape[1]) + 1  # (C,), rising
    return spectrum[: max(0, len(spectrum) - width)].sum().item() / len(spectrum)


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="rae_mae_vit_tiny.tiny_imagenet")
    parser.add_argument("--steps", type=int, default=600, help="of 16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path, default=Path("out/width.png"))
    args = parser.parse_args(argv)
    z = tokens(args.name)
    results = []
    for width in WIDTHS:
        loss = overfit(z, width, args.steps, args.seed)
        results.append(
            {"name": f"width {width}", "width": width, "seed": args.seed, "loss": loss, "floor": floor(z, width)}
        )
        print(harness.table(results[-1:]), flush=True)
    fig, ax = plt.subplots(figsize=(4.6, 2.8))
    ax.plot(WIDTHS, [row["loss"] for row in results], "o-", label="loss after training")
    ax.plot(WIDTHS, [row["floor"] for row in results], "--", label="floor of the theorem")
    ax.axvline(z.shape[1], color="0.7", lw=1)
    ax.set(xlabel=f"width of the transformer; tokens are {z.shape[1]} wide", ylabel="mean (v̂ - v)²", ylim=(0, None))
    ax.legend()
    plots.write(fig, args.picture)
    return results


if __name__ == "__main__":
    print(harness.table(main()))
