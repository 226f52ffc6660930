"""How well features tell classes apart. N bank images · M queries · D features · O classes."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.metrics.precise import single
from zoo.nn.protocols import Classifies, HasFeatures, HasTokens, Network


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
    mean, std = _spread(bank)
    weight, bias = _regression((bank - mean) / std, bank_labels, int(bank_labels.max()) + 1, weight_decay, steps)
    found = F.linear((queries - mean) / std, weight, bias).argmax(-1)  # (M,)
    return (found == labels).float().mean().item()


def linear_head(
    bank: Tensor, labels: Tensor, classes: int, weight_decay: float = 1e-4, bias: bool = True
) -> tuple[Tensor, Tensor | None]:
    """The probe of `linear_accuracy` as a layer on features as they come: weight (O, D) and bias (O,).

    Args:
        bank: features, (N, D), of two samples or more.
        labels: their classes, (N,) int64.
        classes: O, also of those that no sample has.
        bias: False gives a layer without one, of features that are scaled and not centred.
    """
    mean, std = _spread(bank)
    centre = mean if bias else torch.zeros_like(mean)  # (D,)
    weight, offset = _regression((bank - centre) / std, labels, classes, weight_decay, steps=200, bias=bias)
    weight = weight.double() / std  # (O, D)
    return weight.to(bank), None if offset is None else (offset - weight @ centre.double()).to(bank)  # (O, D), (O,)


def _spread(bank: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of features (N, D), each (D,)."""
    return bank.mean(0), bank.std(0).clamp(min=1e-6)


def _regression(
    bank: Tensor, labels: Tensor, classes: int, weight_decay: float, steps: int, bias: bool = True
) -> tuple[Tensor, Tensor | None]:
    """Softmax regression on standardised features (N, D), by L-BFGS: weight (O, D) and bias (O,)."""
    d = bank.shape[1]
    both = bank.new_zeros(classes, d + bias, requires_grad=True)  # (O, D + 1)
    optimizer = torch.optim.LBFGS([both], max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = F.linear(bank, both[:, :d], both[:, d] if bias else None)  # (N, O)
        loss = F.cross_entropy(logits, labels) + weight_decay * both[:, :d].square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return both[:, :d].detach(), both[:, d].detach() if bias else None


@torch.no_grad()
def head_inputs(model: Network, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """What a classifier's head reads of all samples, (N, D) float32, and their labels, (N,); in the model's mode."""
    assert isinstance(model, Classifies)
    read: list[Tensor] = []
    hook = model.head.register_forward_pre_hook(lambda _, given: read.append(single(given[0])))  # (B, D)
    labels = []
    try:
        for x, y in batches:
            model(x)
            labels.append(y)
    finally:
        hook.remove()
    return torch.cat(read), torch.cat(labels)


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
