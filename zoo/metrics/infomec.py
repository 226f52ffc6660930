"""InfoMEC: are latents modular, explicit and compact about known factors? (Hsu et al. 2023, §4)

N samples · S sources (factors) · L latents · A of them active · k neighbours
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


class InfoMEC(NamedTuple):
    """Scores in [0, 1], but `infoe` may fall below 0; and what they were made of."""

    infom: float  # each active latent is about one source
    infoe: float  # sources are a linear function of the latents
    infoc: float  # each source is in one active latent
    nmi: Tensor  # (S, L), I(source; latent) / H(source)
    active: Tensor  # (L,) bool


class Rules(NamedTuple):
    """What the authors' three programs do differently."""

    neighbours: int  # of the estimator for continuous latents
    spread: str  # "range" or "iqr", that makes a latent active
    least_discrete: float  # active above this spread, or above this share of the largest
    least_continuous: float
    relative_discrete: bool
    one_hot: bool  # discrete latents enter the regression as one-hot vectors, else standardised


DEFINITIONS = {
    "standalone": Rules(10, "range", 0.0, 1 / 20, False, True),
    "training": Rules(3, "range", 1 / 8, 1 / 8, True, False),
    "tripod": Rules(10, "iqr", 0.1, 1 / 10, False, True),
}


@torch.no_grad()
def infomec(latents: Tensor, sources: Tensor, discrete: bool, definition: str = "standalone") -> InfoMEC:
    """InfoM, InfoE and InfoC of latents, by one of the authors' three definitions.

    `InfoM = (mean_j max_i NMI_ij / Σ_i NMI_ij - 1/S) / (1 - 1/S)` over active latents j, InfoC the same along latents,
    with A in place of S. `InfoE = mean_i (log C_i - h_i) / log C_i` with h_i the loss, in nats, of a logistic
    regression from all latents to the C_i classes of source i, balanced, without penalty, scored where it was fitted:
    of a constant predictor it is log C_i.

    No active latent gives 0 for InfoM and InfoC; one active latent is compact, one source modular: 1. An active latent
    that knows nothing about any source counts 1/S. A source of one class has no information to find and is left out.

    Args:
        latents: (N, L), int64 or float.
        sources: classes, (N, S) int64.
        discrete: the latents take few values each.
        definition: "standalone", the published file; "training", what the authors' training logs; "tripod".

    Raises:
        ValueError: sources that are no classes, other lengths, NaN, an unknown definition, too few samples.
    """
    rules = _check(latents, sources, definition)
    sources = sources[:, (sources != sources[:1]).any(0)]  # (N, S)
    if not sources.shape[1]:
        raise ValueError("every source has one class only; there is nothing to tell apart")
    classes = [c.unique(return_inverse=True)[1] for c in sources.unbind(1)]  # S of (N,)
    x = latents.double()  # (N, L)
    if discrete:
        codes = [z.unique(return_inverse=True)[1] for z in latents.unbind(1)]  # L of (N,)
        rows = [torch.stack([_information(s, z) for z in codes]) for s in classes]
    else:
        rows = [_knn_information(_untied(x), s, rules.neighbours) for s in classes]
    nmi = torch.stack([row / _entropy(s) for row, s in zip(rows, classes)])  # (S, L)
    active = _active(x, discrete, rules)  # (L,)
    features = torch.cat([F.one_hot(z).double() for z in codes], 1) if discrete and rules.one_hot else _standard(x)
    infoe = sum(1 - _regression(features, s) / math.log(int(s.max()) + 1) for s in classes) / len(classes)
    kept = nmi[:, active]  # (S, A)
    return InfoMEC(_concentration(kept.T), infoe, _concentration(kept) if kept.numel() else 0.0, nmi, active)


def _check(latents: Tensor, sources: Tensor, definition: str) -> Rules:
    if definition not in DEFINITIONS:
        raise ValueError(f"definition={definition!r}, allowed {', '.join(DEFINITIONS)}")
    if sources.is_floating_point():
        raise ValueError(f"sources are {sources.dtype}, expected classes, int64; number the values of each factor")
    if latents.ndim != 2 or sources.ndim != 2 or len(latents) != len(sources):
        raise ValueError(f"latents {tuple(latents.shape)}, sources {tuple(sources.shape)}: expected (N, L) and (N, S)")
    if not latents.double().isfinite().all():
        raise ValueError("latents hold NaN or infinity; nothing can be measured on them")
    rules = DEFINITIONS[definition]
    if len(latents) <= rules.neighbours:
        raise ValueError(
            f"{len(latents)} samples, needed are more than {rules.neighbours} neighbours; 10,000 are usual"
        )
    return rules


def _concentration(nmi: Tensor) -> float:
    """How much of each row of nmi (rows, columns) is in its largest entry: 0 when even, 1 when alone."""
    rows, columns = nmi.shape
    if not rows:
        return 0.0
    if columns == 1:
        return 1.0
    total = nmi.sum(1)  # (rows,)
    share = torch.where(total > 0, nmi.amax(1) / total.clamp(min=1e-300), 1 / columns)
    return ((share.mean().item()) - 1 / columns) / (1 - 1 / columns)


def _active(x: Tensor, discrete: bool, rules: Rules) -> Tensor:
    if rules.spread == "range":
        spread = x.amax(0) - x.amin(0)  # (L,)
    else:
        low, high = x.quantile(x.new_tensor([0.25, 0.75]), dim=0)
        spread = high - low  # (L,)
    relative = rules.relative_discrete if discrete else True
    least = rules.least_discrete if discrete else rules.least_continuous
    return spread > least * (spread.max() if relative else 1)


def _standard(x: Tensor) -> Tensor:
    return (x - x.mean(0)) / x.std(0, correction=0).clamp(min=1e-12)  # (N, L)


def _untied(x: Tensor) -> Tensor:
    """x (N, L) of unit deviation, equal values moved apart by `1e-10 max(1, mean |x|)` of noise, scikit-learn's.

    Of equal values every neighbour lies at distance 0, and an estimate from distances is 0 whatever they tell.
    """
    x = x / x.std(0, correction=0).clamp(min=1e-12)
    noise = torch.from_numpy(np.random.RandomState(0).standard_normal(x.shape)).to(x.device)
    return x + 1e-10 * x.abs().mean(0).clamp(min=1) * noise  # (N, L)


def _entropy(classes: Tensor) -> Tensor:
    p = classes.bincount().double() / len(classes)
    return -torch.xlogy(p, p).sum()


def _information(a: Tensor, b: Tensor) -> Tensor:
    """I(a; b) in nats from the table of how often two codings (N,) meet: one count, no loop."""
    rows, columns = int(a.max()) + 1, int(b.max()) + 1
    p = (a * columns + b).bincount(minlength=rows * columns).reshape(rows, columns).double() / len(a)
    outer = p.sum(1, keepdim=True) * p.sum(0)  # (rows, columns)
    return torch.xlogy(p, p / outer.clamp(min=1e-300)).sum().clamp(min=0)


def _knn_information(x: Tensor, classes: Tensor, k: int) -> Tensor:
    """I(x_l; class) in nats of every column of x (N, L), continuous, by neighbours (Ross 2014), (L,).

    `ψ(N) + mean ψ(k) - mean ψ(N_class) - mean ψ(m)`, m the points nearer than the k-th neighbour of the own class, the
    point itself among them. All on the line, so that neighbours stand beside one another once it is sorted. Classes of
    one sample are left out.
    """
    n = torch.bincount(classes)[classes]  # (N,), size of the own class
    x, classes, n = x[n > 1].T.contiguous(), classes[n > 1], n[n > 1]  # (L, N), (N,), (N,)
    near = n.sub(1).clamp(max=k)  # (N,)
    radius = torch.empty_like(x)  # (L, N)
    for c in classes.unique():
        own = (classes == c).nonzero()[:, 0]
        radius[:, own] = _kth_distance(x[:, own], int(near[own[0]]))
    m = _strictly_nearer(x, radius)  # (L, N)
    digamma = torch.digamma(torch.arange(len(n) + 1.0, dtype=x.dtype, device=x.device))  # of every count there can be
    of_near, of_class, of_all = digamma[near].mean(), digamma[n].mean(), digamma[m.clamp(min=1)].mean(1)
    return (digamma[-1] + of_near - of_class - of_all).clamp(min=0)  # (L,)


def _strictly_nearer(x: Tensor, radius: Tensor) -> Tensor:
    """How many points of each row of x (L, N) lie nearer to each than its radius, itself among them, (L, N)."""
    line = x.sort(1).values  # (L, N)
    first = torch.searchsorted(line, x - radius, right=True)  # (L, N)
    end = torch.searchsorted(line, x + radius)  # (L, N)
    # Rounded, x ± radius may miss the neighbour at that distance, which is not to be counted.
    low = x - line.gather(1, first.clamp(max=x.shape[1] - 1)) >= radius  # (L, N)
    high = line.gather(1, (end - 1).clamp(min=0)) - x >= radius  # (L, N)
    return end - first - low.long() - high.long()


def _kth_distance(x: Tensor, k: int) -> Tensor:
    """Distance of each point of each row of x (L, N) to its k-th neighbour in it: k + 1 windows of a sorted row."""
    line, order = x.sort(1)  # (L, N) twice
    wide = F.pad(line, (k, k), value=math.inf)  # (L, N + 2k)
    wide[:, :k] = -math.inf
    best = torch.full_like(line, math.inf)
    for left in range(k + 1):  # so many neighbours to the left, the others to the right
        low, high = (wide[:, k + shift : k + shift + line.shape[1]] for shift in (-left, k - left))
        best = torch.minimum(best, torch.maximum(line - low, high - line))
    return torch.empty_like(best).scatter_(1, order, best)


@torch.inference_mode(False)
def _regression(x: Tensor, classes: Tensor, steps: int = 100) -> float:
    """Mean loss, in nats, of a balanced logistic regression without penalty, at its optimum or after so many steps."""
    x, classes = x.clone(), classes.clone()  # those of Lightning's evaluation know no gradients
    weight = len(classes) / (classes.bincount() * (classes.max() + 1)).double()  # (C,), balanced
    w = x.new_zeros(len(weight), x.shape[1] + 1, requires_grad=True)  # (C, features + 1)
    optimizer = torch.optim.LBFGS([w], max_iter=steps, tolerance_grad=1e-4, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = F.linear(x, w[:, :-1], w[:, -1])  # (N, C)
        loss = (F.cross_entropy(logits, classes, reduction="none") * weight[classes]).mean()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return F.cross_entropy(F.linear(x, w[:, :-1].detach(), w[:, -1].detach()), classes).item()
