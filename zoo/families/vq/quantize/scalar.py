"""QLAE's latent quantiser (Hsu et al. 2023).

… any leading axes · N tokens, all leading axes together · L latents · V values of each
"""

import torch
from torch import Tensor, nn

from zoo.families.vq.quantize.common import (
    QuantizeOutput,
    Quantizer,
    at_least_float32,
    check_indices,
    flat_tokens,
    full_precision,
    histogram,
    shaped_as,
    straight_through,
    usage,
)


class ScalarCodebooks(Quantizer):
    """QLAE's latent quantiser: each latent takes the nearest of its own few learned values (Hsu et al. 2023, §3.1).

    Args:
        latents: L.
        values: V, values of each latent; they begin evenly spaced in [-½, ½].
        shared: one set of values for all latents (the paper's ablation).
        learned: False leaves the values where they begin.
        quantization, commitment: weights of `mean (sg(z) - q)²`, which moves values, and `mean (z - sg(q))²`, which
            moves the encoder.
    """

    def __init__(
        self,
        latents: int,
        values: int = 10,
        shared: bool = False,
        learned: bool = True,
        quantization: float = 0.01,
        commitment: float = 0.01,
    ):
        super().__init__()
        if min(latents, values) < 1:
            raise ValueError(f"latents={latents}, values={values}, each must be at least 1")
        self.num_codebooks, self.codebook_size, self.code_dim = latents, values, latents
        self.weights = {"quantization": quantization, "commitment": commitment}
        start = torch.linspace(-0.5, 0.5, values).expand(1 if shared else latents, values).clone()  # (L or 1, V)
        self.values = nn.Parameter(start, requires_grad=learned)

    def forward(self, z: Tensor, mask: Tensor | None = None, update: bool | None = None) -> QuantizeOutput:
        """Latents (…, L) → their values; indices are (…, L), one for each latent. `update` changes nothing."""
        with full_precision(z):
            x, counted = flat_tokens(z, mask, self.code_dim, self.training)  # (N, L), (N,)
            indices = self._indices(x)  # (N, L)
            q = _look_up(self._all_values(), indices)  # (N, L)
            compared = torch.where(counted[:, None], x, q.detach())  # (N, L): what does not count has no error
            size = counted.sum().clamp(min=1) * self.code_dim
            losses = {"commitment": self.weights["commitment"] * (compared - q.detach()).square().sum() / size}
            if self.values.requires_grad:
                losses["quantization"] = self.weights["quantization"] * (compared.detach() - q).square().sum() / size
            if self.training:
                q = straight_through(x, q.detach())
            stats = usage(self._histograms(indices, counted))
        return QuantizeOutput(*shaped_as(z, mask, q, indices, counted), losses, stats)

    def encode(self, z: Tensor) -> Tensor:
        """Latents (…, L) → indices (…, L) int64."""
        x, _ = flat_tokens(z, None, self.code_dim, False)  # (N, L)
        return self._indices(x).reshape(z.shape)

    def decode(self, indices: Tensor) -> Tensor:
        """Indices (…, L) int64 → values (…, L)."""
        return _look_up(self._all_values(), check_indices(indices, self.codebook_size, self.num_codebooks))

    def _all_values(self) -> Tensor:
        return at_least_float32(self.values).expand(self.num_codebooks, -1)  # (L, V)

    @torch.no_grad()
    def _indices(self, x: Tensor) -> Tensor:
        """The nearest value lies between two midpoints of the sorted values: V - 1 comparisons, no distances."""
        values, order = self._all_values().sort(-1)  # (L, V) twice
        middle = (values[:, 1:] + values[:, :-1]) / 2  # (L, V - 1)
        x = x.T.contiguous()  # (L, N)
        place = torch.zeros_like(x, dtype=torch.uint8 if self.codebook_size <= 256 else torch.int32)  # (L, N)
        for m in middle[..., None].unbind(1):
            place += (x > m).view(torch.uint8)
        return _look_up(order, place.T)  # (N, L)

    def _histograms(self, indices: Tensor, counted: Tensor) -> Tensor:
        start = torch.arange(self.num_codebooks, device=indices.device) * self.codebook_size  # (L,)
        counted = counted[:, None].expand_as(indices)  # (N, L)
        counts = histogram((indices + start).flatten(), counted.flatten(), self.num_codebooks * self.codebook_size)
        return counts.reshape(self.num_codebooks, -1)  # (L, V)


def _look_up(table: Tensor, indices: Tensor) -> Tensor:
    """Entry indices[…, l] of row l: table (L, V), indices (…, L) → (…, L)."""
    start = torch.arange(len(table), device=indices.device) * table.shape[1]  # (L,)
    return table.reshape(-1).index_select(0, (indices + start).reshape(-1)).reshape(indices.shape)
