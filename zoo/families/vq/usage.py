"""How much of a codebook is in use, over a whole epoch: a batch alone says less the smaller it is."""

import torch
from torch import Tensor
from torchmetrics import Metric


class CodebookUsage(Metric):
    """One histogram of codes, summed over batches and processes.

    Args:
        codebook_size: K.
        num_codebooks: how many indices a token has; figures are means over them.
    """

    counts: Tensor

    def __init__(self, codebook_size: int, num_codebooks: int = 1):
        super().__init__()
        counts = torch.zeros(num_codebooks, codebook_size, dtype=torch.int64)  # (codebooks, K)
        self.add_state("counts", counts, dist_reduce_fx="sum")

    def update(self, indices: Tensor) -> None:
        """Indices (…) int64, or (…, codebooks); -1 is no token.

        Raises:
            ValueError: an index the codebook does not have.
        """
        books, size = self.counts.shape
        indices = indices.reshape(-1, books)  # (N, codebooks)
        if indices.numel() and not -1 <= indices.min() <= indices.max() < size:
            low, high = indices.min(), indices.max()
            raise ValueError(f"indices span {low} to {high}, allowed 0 to {size - 1}, and -1 for no token")
        place = indices + torch.arange(books, device=indices.device) * size  # (N, codebooks)
        counts = torch.bincount(place[indices >= 0], minlength=books * size)  # (codebooks · K,)
        self.counts = self.counts + counts.reshape(books, size)  # (codebooks, K)

    def compute(self) -> dict[str, Tensor]:
        """`usage`, the share of codes that occur; `perplexity`, exp of their entropy; `dead`, codes that never do."""
        p = self.counts / self.counts.sum(1, keepdim=True).clamp(min=1)  # (codebooks, K)
        used = (self.counts > 0).sum(1).float()  # (codebooks,)
        return {
            "usage": (used / self.counts.shape[1]).mean(),
            "perplexity": (-torch.xlogy(p, p).sum(1)).exp().mean(),
            "dead": (self.counts.shape[1] - used).mean(),
        }
