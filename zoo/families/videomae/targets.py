"""What is predicted of hidden cubes: the rows of TARGETS, and of SPACE_TIME for MAE-ST."""

import torch
from torch import Tensor

from zoo.nn.embed import gather_rows
from zoo.nn.masked import PIXEL, Target, norm_pixel


def norm_colors(cubes: Tensor, channels: int) -> Tensor:
    """`(t - mean) / (√var + 1e-6)` over each colour of a cube apart, unbiased (VideoMAE's target), (B, M, UP²C)."""
    x = cubes.unflatten(-1, (-1, channels))  # (B, M, UP², C)
    var, mean = torch.var_mean(x, -2, keepdim=True)  # (B, M, 1, C) each
    return (x - mean).div_(var.sqrt() + 1e-6).flatten(2)  # (B, M, UP²C)


def undo_norm_colors(pred: Tensor, cubes: Tensor, ids: Tensor | None, channels: int) -> Tensor:
    """Predictions (B, N, UP²C) with each colour's mean and deviation that `norm_colors` took out."""
    source = cubes if ids is None else gather_rows(cubes, ids)  # (B, N or K, UP²C)
    source = source.unflatten(-1, (-1, channels))  # (B, N or K, UP², C)
    mean, std = source.mean(-2, keepdim=True), source.var(-2, keepdim=True).sqrt()  # (B, N or K, 1, C)
    if ids is not None:
        mean, std = mean.mean(1, keepdim=True), std.mean(1, keepdim=True)  # (B, 1, 1, C)
    return (pred.unflatten(-1, (-1, channels)) * (std + 1e-6) + mean).flatten(2)  # (B, N, UP²C)


def undo_norm_pixel(pred: Tensor, cubes: Tensor, ids: Tensor | None, channels: int) -> Tensor:
    """Predictions (B, N, outputs) with the mean and the deviation that `norm_pixel` took out."""
    source = cubes if ids is None else gather_rows(cubes, ids)  # (B, N or K, outputs)
    mean, std = source.mean(-1, keepdim=True), (source.var(-1, keepdim=True) + 1e-6).sqrt()  # (B, N or K, 1)
    if ids is not None:
        mean, std = mean.mean(1, keepdim=True), std.mean(1, keepdim=True)  # (B, 1, 1)
    return pred * std + mean  # (B, N, outputs)


TARGETS = {"norm_pixel": Target(norm_colors, undo_norm_colors), "pixel": PIXEL}
SPACE_TIME = {"norm_pixel": Target(norm_pixel, undo_norm_pixel), "pixel": PIXEL}
