"""What `zoo eval` prints of a masked autoencoder, of images or of clips, and the masks that figures share."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from zoo.metrics.images import psnr
from zoo.metrics.precise import double, single
from zoo.metrics.probes import features_of, pooled_features, scored
from zoo.nn.masked import MaskedAutoencoder
from zoo.nn.protocols import frames_of
from zoo.report.inputs import total_of
from zoo.report.probing import separation
from zoo.report.quality import Quality, merged

Batches = Iterable[tuple[Tensor, Tensor]]


@torch.no_grad()
def evaluate(model: MaskedAutoencoder, batches: Batches, train: Batches) -> dict[str, Any]:
    """How well it fills in and how well its features separate; of an encoder alone the features.

    Orders are seeded by the batch. `hidden_psnr` is over the pixels of hidden patches, of predicted frames, with each
    patch's own mean and deviation put back, or with the average of the visible ones; the figures of `Quality` are of
    whole pictures, hidden patches as predicted and with their own statistics, the others as they were. `knn` and
    `linear` classify by the mean patch token, with the training samples as bank; without such a bank, see `separation`.
    """
    features: list[Tensor] = []
    labels: list[Tensor] = []
    sums, count = dict.fromkeys(("loss", "hidden_psnr", "hidden_psnr_visible_statistics"), 0.0), 0
    whole = Quality(model.takes, total_of(batches)) if model.decoder is not None else None
    for i, (x, y) in enumerate(batches):
        if whole is not None:
            order = seeded_order(model, len(x), i).to(x.device)  # (B, N)
            sums["loss"] += double(model(x, order).loss).item() * len(x)
            hidden = 1 - model.num_keep / model.num_patches
            for name, statistics in (("hidden_psnr", "own"), ("hidden_psnr_visible_statistics", "visible")):
                pasted = single(model.reconstruct(x, order, statistics).pasted)  # (B, …, C, H, W)
                truth = frames_of(x, pasted)
                error = double(pasted - truth).square().flatten(1).mean(1)  # (B,)
                sums[name] += psnr(error / hidden).sum().item()
                if statistics == "own":
                    whole.update(pasted, truth)
        count += len(x)
        features.append(pooled_features(model, x))
        labels.append(y)
    asked = torch.cat(labels)
    bank = features_of(model, train if scored(asked) else ())
    separate = separation(bank, torch.cat(features), asked)
    filled = {} if whole is None else merged({name: total / count for name, total in sums.items()}, whole.compute())
    return merged(filled, separate, {f"{model.takes.kind}s": count})


def seeded_order(model: MaskedAutoencoder, count: int, seed: int) -> Tensor:
    """The order (B, N) that `model.draw` gives of a seed; nobody else's random numbers are disturbed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model.draw(count)  # (B, N)
