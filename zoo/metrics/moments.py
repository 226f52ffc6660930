"""Mean and deviation of a stream of batches, exactly."""

import torch
from torch import Tensor
from torchmetrics import Metric


class Moments(Metric):
    """Mean and deviation over batches and processes, exact: counts and sums in float64.

    Args:
        shape: (C, h, w) of each channel at each place, (C, 1, 1) of each channel, or (D,) of vectors.
    """

    batch_state = ("count", "first", "second")
    count: Tensor
    first: Tensor
    second: Tensor

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.dims = [0] if shape[1:] != (1, 1) else [0, 2, 3]
        for name, size in (("count", ()), ("first", shape), ("second", shape)):
            state = torch.zeros(tuple(size), dtype=torch.float64)
            self.add_state(name, state, dist_reduce_fx="sum", persistent=True)

    def update(self, z: Tensor) -> None:
        """Latents (B, C, h, w) or (B, D)."""
        z = z.detach().double()
        self.count += z.numel() / self.first.numel()
        self.first += z.sum(self.dims, keepdim=True).reshape(self.first.shape)
        self.second += z.square().sum(self.dims, keepdim=True).reshape(self.first.shape)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation, both of the given shape."""
        mean = self.first / self.count
        return mean, (self.second / self.count - mean.square()).clamp(min=1e-12).sqrt()
