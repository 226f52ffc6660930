"""What `zoo eval` prints of a masked autoencoder, of images or of clips, and the masks that figures share."""

from collections.abc import Iterable

import torch
from torch import Tensor

from zoo.metrics.images import psnr
from zoo.metrics.probes import features_of, pooled_features, scored, separation
from zoo.nn.masked import MaskedAutoencoder
from zoo.nn.protocols import frames_of

Batches = Iterable[tuple[Tensor, Tensor]]


@torch.no_grad()
def evaluate(model: MaskedAutoencoder, batches: Batches, train: Batches) -> dict[str, float | str]:
    """How well it fills in and how well its features separate; of an encoder alone the features.

    `psnr` is over the hidden patches' pixels, of predicted frames, in dB, with each patch's own mean and deviation put
    back, or with the average of the visible ones. `knn` and `linear` classify by the mean patch token, with the
    training samples as bank; without such a bank, see `separation`.
    """
    figures: dict[str, float | str] = {}
    features: list[Tensor] = []
    labels: list[Tensor] = []
    sums, count = torch.zeros(3, dtype=torch.float64), 0
    for i, (x, y) in enumerate(batches):
        if model.decoder is not None:
            order = seeded_order(model, len(x), i)
            sums[0] += model(x, order).loss.double() * len(x)
            for j, statistics in ((1, "own"), (2, "visible")):
                pasted = model.reconstruct(x, order, statistics).pasted
                error = (pasted - frames_of(x, pasted)).double().square()  # (B, …, C, H, W)
                sums[j] += error.flatten(1).mean(1).sum()
        count += len(x)
        features.append(pooled_features(model, x))
        labels.append(y)
    if model.decoder is not None:
        hidden = 1 - model.num_keep / model.num_patches
        figures["loss"] = (sums[0] / count).item()
        figures["psnr"] = psnr(sums[1] / count / hidden).item()
        figures["psnr_visible_statistics"] = psnr(sums[2] / count / hidden).item()
    asked = torch.cat(labels)
    bank = features_of(model, train if scored(asked) else ())
    figures |= separation(bank, torch.cat(features), asked)
    return figures | {f"{model.takes.kind}s": count}


def seeded_order(model: MaskedAutoencoder, count: int, seed: int) -> Tensor:
    """The order (B, N) that `model.draw` gives of a seed; nobody else's random numbers are disturbed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model.draw(count)  # (B, N)
