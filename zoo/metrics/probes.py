"""How well features tell classes apart. N bank images · M queries · D features · O classes."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.metrics.precise import single
from zoo.nn.protocols import HasFeatures, HasTokens


@torch.no_grad()
def knn_accuracy(
    bank: Tensor, bank_labels: Tensor, queries: Tensor, labels: Tensor, k: int = 20, temperature: float = 0.07
) -> float:
    """Top-1 accuracy, in [0, 1], of a weighted nearest-neighbour vote (Wu et al. 2018, §3.4).

    Each of a query's k nearest bank features by cosine votes for its class with weight `exp(cosine / temperature)`.

    Args:
        bank, queries: features, (N, D) and (M, D).
        bank_labels, labels: their classes, (N,) and (M,) int64.

    Raises:
        ValueError: k larger than the bank, no queries.
    """
    if not len(queries):
        raise ValueError(f"no features to classify by a bank of {len(bank)}; give more samples")
    if not 1 <= k <= len(bank):
        raise ValueError(f"k={k}, allowed 1 to {len(bank)}, the size of the bank")
    bank, classes, correct = F.normalize(bank, dim=-1), int(bank_labels.max()) + 1, 0
    for q, y in zip(queries.split(1000), labels.split(1000)):
        cosine, nearest = (F.normalize(q, dim=-1) @ bank.T).topk(k)  # (1000, k) twice
        votes = q.new_zeros(len(q), classes)  # (1000, O)
        votes.scatter_add_(1, bank_labels[nearest], (cosine / temperature).exp())
        correct += (votes.argmax(-1) == y).sum().item()
    return correct / len(labels)


def linear_accuracy(
    bank: Tensor, bank_labels: Tensor, queries: Tensor, labels: Tensor, weight_decay: float = 1e-4, steps: int = 200
) -> float:
    """Top-1 accuracy, in [0, 1], of a linear probe on frozen features: softmax regression, fitted to the end by L-BFGS.

    Features are standardised with the bank's mean and deviation, as by the BatchNorm of published probes. Nothing is
    drawn at random. Minimises `cross-entropy + weight_decay · ‖W‖²`.

    Args:
        bank, queries: features, (N, D) and (M, D).
        bank_labels, labels: their classes, (N,) and (M,) int64.
    """
    mean, std = bank.mean(0), bank.std(0).clamp(min=1e-6)  # (D,)
    bank, queries = (bank - mean) / std, (queries - mean) / std
    weight = bank.new_zeros(int(bank_labels.max()) + 1, bank.shape[1] + 1, requires_grad=True)  # (O, D + 1)
    optimizer = torch.optim.LBFGS([weight], max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = F.linear(bank, weight[:, :-1], weight[:, -1])  # (N, O)
        loss = F.cross_entropy(logits, bank_labels) + weight_decay * weight[:, :-1].square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    found = F.linear(queries, weight[:, :-1].detach(), weight[:, -1].detach()).argmax(-1)
    return (found == labels).float().mean().item()


def pooled_features(model: HasFeatures, x: Tensor) -> Tensor:
    """Features of samples as one vector each, (B, D): the mean of the tokens that belong to a place, or of a map.

    Means are taken in float32 at least, whatever precision the model runs in.
    """
    features = single(model.forward_features(x))
    if features.ndim == 3:
        return features[:, model.num_cls_tokens if isinstance(model, HasTokens) else 0 :].mean(1)  # (B, D)
    return features if features.ndim == 2 else features.mean((2, 3))  # (B, D)


@torch.no_grad()
def features_of(model: HasFeatures, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor] | None:
    """Pooled features (N, D) and labels (N,) of all batches; None where there are none."""
    pairs = [(pooled_features(model, x), y) for x, y in batches]
    if not pairs:
        return None
    features, labels = zip(*pairs)
    return torch.cat(features), torch.cat(labels)


def scored(labels: Tensor) -> bool:
    """Whether labels are a class of each sample: (N,) integers, none of them -1."""
    return labels.ndim == 1 and not labels.is_floating_point() and len(labels) > 0 and bool((labels >= 0).all())
