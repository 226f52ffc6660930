"""One bit an entry: lookup-free quantisation (Yu et al. 2023) and its twin on a sphere (Zhao et al. 2024)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.families.vq.quantize.common import (
    QuantizeOutput,
    Quantizer,
    check_indices,
    flat_tokens,
    full_precision,
    shaped_as,
    straight_through,
    usage_if_few,
)


class BinaryQuantizer(Quantizer):
    """The sign of every entry: LFQ (Yu et al. 2023, MAGVIT-v2), or on a sphere, BSQ (Zhao et al. 2024).

    The loss makes each token sure of its code and all codes used, `entropy_weight · (E[H(p)] - diversity · H(E[p]))`
    with p the softmax over codes by distance. Bits are independent given a token, so the first term is a sum over bits.
    The second is exact within groups of bits and a sum over groups (BSQ, §3.3).

    Args:
        dim: D bits, 2ᴰ codes.
        spherical: tokens have unit length and entries are ±1/√D; else ±1.
        beta: weight of the commitment loss.
        entropy_weight, diversity: of the loss; a weight of 0 costs nothing.
        temperature: of the softmax.
        group: bits that H(E[p]) takes together.
    """

    basis: Tensor

    def __init__(
        self,
        dim: int,
        spherical: bool = False,
        beta: float = 0.25,
        entropy_weight: float = 0.1,
        diversity: float = 1.0,
        temperature: float = 0.01,
        group: int = 8,
    ):
        super().__init__()
        if not 1 <= dim <= 62 or not 1 <= group <= 16:
            raise ValueError(f"dim={dim}, allowed 1 to 62, an index is an int64; group={group}, allowed 1 to 16")
        self.codebook_size, self.code_dim = 2**dim, dim
        self.spherical, self.beta, self.group = spherical, beta, min(group, dim)
        self.entropy_weight, self.diversity, self.temperature = entropy_weight, diversity, temperature
        self.scale = dim**-0.5 if spherical else 1.0
        self.register_buffer("basis", 2 ** torch.arange(dim))  # (D,)

    def forward(self, z: Tensor, mask: Tensor | None = None, update: bool | None = None) -> QuantizeOutput:
        """Tokens (…, D) → codes; `update` changes nothing."""
        with full_precision(z):
            x, counted = flat_tokens(z, mask, self.code_dim, self.training)  # (N, D), (N,)
            x = F.normalize(x, dim=-1) if self.spherical else x
            indices = self._indices(x)  # (N,)
            q = self._codes(indices)  # (N, D)
            compared = torch.where(counted[:, None], x, q)  # (N, D): what does not count has no error
            size = counted.sum().clamp(min=1) * self.code_dim
            losses = {"commitment": self.beta * (compared - q).square().sum() / size}
            if self.entropy_weight:
                losses["entropy"] = self.entropy_weight * self._entropy(compared, counted)
            if self.training:
                q = straight_through(x, q)
            stats = usage_if_few(indices, counted, self.codebook_size)
        return QuantizeOutput(*shaped_as(z, mask, q, indices, counted), losses, stats)

    def encode(self, z: Tensor) -> Tensor:
        """Tokens (…, D) → indices (…) int64; the first entry is the lowest bit."""
        x, _ = flat_tokens(z, None, self.code_dim, False)  # (N, D)
        return self._indices(x).reshape(z.shape[:-1])

    def decode(self, indices: Tensor) -> Tensor:
        """Indices (…) int64 → codes (…, D)."""
        return self._codes(check_indices(indices, self.codebook_size))  # (…, D)

    def _codes(self, indices: Tensor) -> Tensor:
        bits = indices[..., None] // self.basis % 2  # (…, D)
        return (bits * 2 - 1) * self.scale  # (…, D)

    def _indices(self, x: Tensor) -> Tensor:
        return ((x.detach() > 0) * self.basis).sum(-1)  # (N,)

    def _entropy(self, x: Tensor, counted: Tensor) -> Tensor:
        """`E[H(p)] - diversity · H(E[p])`, of the tokens (N, D) that count."""
        weight = counted.to(x.dtype) / counted.sum().clamp(min=1)  # (N,)
        log_odds = 4 * self.scale * x / self.temperature  # (N, D), of a bit being set
        of_each = _binary_entropy(log_odds).sum(-1) @ weight
        of_mean = x.new_zeros(())
        for part in log_odds.split(self.group, dim=1):
            codes = torch.arange(2 ** part.shape[1], device=x.device)  # (G,)
            bits = codes[:, None] // self.basis[: part.shape[1]] % 2  # (G, g)
            p = weight @ (part @ bits.T.to(x.dtype) - F.softplus(part).sum(-1, keepdim=True)).exp()  # (G,)
            of_mean = of_mean - (p * p.clamp(min=1e-30).log()).sum()
        return of_each - self.diversity * of_mean


def _binary_entropy(log_odds: Tensor) -> Tensor:
    p = log_odds.sigmoid()
    return F.softplus(log_odds) - p * log_odds
