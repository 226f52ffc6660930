"""Finite scalar quantisation (Mentzer et al. 2023)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

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


class FSQ(Quantizer):
    """Every entry of a token rounded to one of a few levels; nothing to learn or to collapse (Mentzer et al. 2023, §3).

    The authors recommend [8, 6, 5] for 2⁸ codes, [8, 5, 5, 5] for 2¹⁰, [7, 5, 5, 5, 5] for 2¹², [8, 8, 8, 5, 5, 5] for
    2¹⁶.

    Args:
        levels: how many levels each entry has, at least 2; a token has as many entries.
    """

    levels: Tensor
    basis: Tensor

    def __init__(self, levels: Sequence[int]):
        super().__init__()
        if not levels or min(levels) < 2:
            raise ValueError(f"levels={list(levels)}, each must be at least 2; [8, 5, 5, 5] is the authors' for 2^10")
        self.codebook_size, self.code_dim = math.prod(levels), len(levels)
        self.register_buffer("levels", torch.tensor(levels))  # (D,)
        self.register_buffer("basis", torch.tensor([math.prod(levels[:i]) for i in range(len(levels))]))  # (D,)

    def forward(self, z: Tensor, mask: Tensor | None = None, update: bool | None = None) -> QuantizeOutput:
        """Tokens (…, D) → codes in [-1, 1]; `update` changes nothing."""
        with full_precision(z):
            x, counted = flat_tokens(z, mask, self.code_dim, self.training)  # (N, D), (N,)
            x = self._bound(x)  # (N, D)
            indices = self._indices(x)  # (N,)
            q = self._codes(torch.where(counted, indices, 0))  # (N, D)
            if self.training:
                q = straight_through(x / (self.levels // 2), q)
            stats = usage_if_few(indices, counted, self.codebook_size)
        return QuantizeOutput(*shaped_as(z, mask, q, indices, counted), {}, stats)

    def encode(self, z: Tensor) -> Tensor:
        """Tokens (…, D) → indices (…) int64."""
        with full_precision(z):
            x, _ = flat_tokens(z, None, self.code_dim, False)  # (N, D)
            return self._indices(self._bound(x)).reshape(z.shape[:-1])

    def decode(self, indices: Tensor) -> Tensor:
        """Indices (…) int64 → codes (…, D)."""
        return self._codes(check_indices(indices, self.codebook_size))  # (…, D)

    def _codes(self, indices: Tensor) -> Tensor:
        digits, half = indices[..., None] // self.basis % self.levels, self.levels // 2  # (…, D), (D,)
        return (digits - half).float() / half  # (…, D)

    def _bound(self, x: Tensor) -> Tensor:
        """Squeezed, so that rounding gives as many values as there are levels (the paper's appendix A.1)."""
        half = (self.levels - 1) * (1 + 1e-3) / 2
        offset = (self.levels + 1) % 2 / 2  # an even count has no level at zero
        return (x + (offset / half).atanh()).tanh() * half - offset

    def _indices(self, x: Tensor) -> Tensor:
        digits = x.detach().nan_to_num().round().long() + self.levels // 2  # (N, D)
        return (digits * self.basis).sum(-1)  # (N,)
