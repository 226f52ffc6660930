"""What is predicted of hidden patches: the rows of TARGETS."""

from torch import Tensor

from zoo.nn.embed import gather_rows
from zoo.nn.masked import PIXEL, Target, norm_pixel


def undo_norm_pixel(pred: Tensor, patches: Tensor, ids: Tensor | None, channels: int) -> Tensor:
    """Predictions (B, N, P²C) with the mean and the deviation that `norm_pixel` took out."""
    source = patches if ids is None else gather_rows(patches, ids)  # (B, N or K, P²C)
    mean, var = source.mean(-1, keepdim=True), source.var(-1, keepdim=True)  # (B, N or K, 1)
    if ids is not None:
        mean, var = mean.mean(1, keepdim=True), var.mean(1, keepdim=True)  # (B, 1, 1)
    return pred * (var + 1e-6).sqrt() + mean  # (B, N, P²C)


TARGETS = {"norm_pixel": Target(norm_pixel, undo_norm_pixel), "pixel": PIXEL}
