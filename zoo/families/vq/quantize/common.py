"""What all quantisers share: their interface, what comes out, tokens on the way in and indices on the way out.

… any leading axes · N tokens, all leading axes together · D width of a token · K codes
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from zoo.nn.checks import check_dense, check_floats, check_ints

COUNTED = 1 << 20  # codes above which a batch's use of them is not counted


class QuantizeOutput(NamedTuple):
    """What a quantiser makes of tokens (…, D)."""

    z_q: Tensor  # (…, D), the codes; gradients pass to the tokens
    indices: Tensor  # int64, (…) or (…, codebooks); -1 is no token
    losses: dict[str, Tensor]  # weighted already: add them all
    stats: dict[str, Tensor]  # of this batch, without gradients


class VQOutput(NamedTuple):
    """What a model around a quantiser makes of images (B, C, H, W)."""

    loss: Tensor  # what training minimises, a number
    recon: Tensor  # (B, C, H, W), pixels, not clamped to [0, 1]
    indices: Tensor  # int64, (B, h, w), or (B, L) of latents
    losses: dict[str, Tensor]  # the terms of the loss, weighted
    stats: dict[str, Tensor]  # the quantiser's, of this batch


class Quantizer(nn.Module):
    """The interface: a class of this package writes the three methods and sets the three numbers."""

    codebook_size: int  # K
    code_dim: int  # D
    num_codebooks: int = 1  # indices of a token; they get an axis of their own where there can be several

    def forward(self, z: Tensor, mask: Tensor | None = None, update: bool | None = None) -> QuantizeOutput:
        """Tokens (…, D) → codes.

        Args:
            mask: (…) bool, True where there is a token.
            update: of quantisers whose codes follow running means: False keeps a training batch's sums for the next
                update. All but the last of accumulated batches say so.

        Raises:
            ValueError: another width; in eval mode NaN or infinity.
        """
        raise NotImplementedError

    def encode(self, z: Tensor) -> Tensor:
        """Tokens (…, D) → indices (…) int64, or (…, codebooks)."""
        raise NotImplementedError

    def decode(self, indices: Tensor) -> Tensor:
        """Indices (…) int64, or (…, codebooks) → codes (…, D)."""
        raise NotImplementedError


def straight_through(x: Tensor, q: Tensor) -> Tensor:
    """q, with the gradient of x (Bengio et al. 2013)."""
    return x + (q - x).detach()


def full_precision(z: Tensor) -> torch.autocast:
    """A context in which autocast does not lower the precision where z is."""
    check_dense(z, "tokens")
    return torch.autocast(z.device.type, enabled=False)


def at_least_float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype.itemsize < 4 else x


def flat_tokens(z: Tensor, mask: Tensor | None, dim: int, training: bool) -> tuple[Tensor, Tensor]:
    """Tokens (…, D) in float32 at least, (N, D), and which of them count, (N,) bool."""
    check_floats(z, "tokens", ("…", dim), "the width is the last axis")
    if mask is not None and (not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != z.shape[:-1]):
        given = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(f"mask is {given}, expected bool {tuple(z.shape[:-1])}, one entry for a token")
    x = at_least_float32(z.reshape(-1, dim))  # (N, D)
    counted = (x * 0).sum(-1) == 0  # (N,), finite: cheaper than asking every entry
    if mask is not None:
        counted = counted & mask.reshape(-1)
    if not training and not torch.compiler.is_compiling():
        expected = counted.new_ones(()) if mask is None else mask.reshape(-1)
        if not (counted == expected).all():
            raise ValueError("tokens hold NaN or infinity; look for the first one in the encoder or its input")
    return x, counted


def shaped_as(z: Tensor, mask: Tensor | None, q: Tensor, indices: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """Codes (N, D) as z was, zero where masked, and indices, -1 where a token does not count."""
    q = q.reshape(z.shape).to(z.dtype)  # (…, D)
    if mask is not None:
        q = torch.where(mask[..., None], q, 0)
    indices = torch.where(counted if indices.ndim == 1 else counted[:, None], indices, -1)
    return q, indices.reshape(*z.shape[:-1], *indices.shape[1:])  # (…, D), (…) or (…, codebooks)


def check_indices(indices: Tensor, size: int, *codebooks: int) -> Tensor:
    hint = "encode gives them, -1 marks a masked token"
    return check_ints(indices, "indices", ("…", *codebooks), 0, size, hint, wait=True)


def histogram(indices: Tensor, counted: Tensor, size: int) -> Tensor:
    """How often each of `size` indices occurs among the (N,) that count."""
    return counted.new_zeros(size, dtype=torch.float32).index_add_(0, indices, counted.float())  # (K,)


def usage(counts: Tensor) -> dict[str, Tensor]:
    """Share of codes in use, and exp of the entropy of their use; means over codebooks, (…, K)."""
    p = counts / counts.sum(-1, keepdim=True).clamp(min=1)  # (…, K)
    perplexity = (-torch.xlogy(p, p).sum(-1)).exp().mean()
    return {"usage": (counts > 0).float().mean(), "perplexity": perplexity}


def usage_if_few(indices: Tensor, counted: Tensor, size: int) -> dict[str, Tensor]:
    """`usage` of (N,) indices; nothing where a histogram of all codes would cost more than the batch itself."""
    return usage(histogram(indices, counted, size)) if size <= COUNTED else {}
