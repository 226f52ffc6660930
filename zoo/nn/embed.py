"""Patches, pixel statistics and positions.

B images of a batch · C channels · H W height and width in pixels · P patch side in pixels · N tokens · K of them kept
D width
"""

from collections.abc import Sequence

import torch
from torch import Tensor

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pixel_statistics(
    channels: int, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[tuple[str, Tensor], tuple[str, Tensor]]:
    """("mean", (C,)) and ("std", (C,)) of pixels in [0, 1]; None is ImageNet's for 3 channels, else 0.5.

    Raises:
        ValueError: not one value a channel.
    """
    return _statistic("mean", mean, IMAGENET_MEAN, channels), _statistic("std", std, IMAGENET_STD, channels)


def _statistic(name: str, values: Sequence[float] | None, rgb: Sequence[float], channels: int) -> tuple[str, Tensor]:
    values = values or (rgb if channels == 3 else (0.5,) * channels)
    if len(values) != channels:
        raise ValueError(f"{name} has {len(values)} values for {channels} channels; give one each")
    return name, torch.tensor(values)  # (C,)


def check_multiple(what: str, height: int, width: int, p: int) -> None:
    """Refuse sides, in pixels, that patches of side p do not fill.

    Args:
        what: has these sides, with its verb: "images are".

    Raises:
        ValueError: naming the nearest sides that fit.
    """
    if height % p or width % p or min(height, width) < p:
        near = "×".join(str(max(p, round(side / p) * p)) for side in (height, width))
        raise ValueError(f"{what} {height}×{width} px, not a multiple of patch={p}; resize to {near}")


def patchify(x: Tensor, p: int) -> Tensor:
    """Images (B, C, H, W) → patches (B, N, P²C), row by row; within one: row, column, channel, the channel fastest."""
    b, c, h, w = x.shape
    x = x.reshape(b, c, h // p, p, w // p, p).permute(0, 2, 4, 3, 5, 1)  # (B, H/P, W/P, P, P, C)
    return x.flatten(1, 2).flatten(2)  # (B, N, P²C)


def unpatchify(x: Tensor, p: int, height: int, width: int) -> Tensor:
    """Patches (B, N, P²C) → images (B, C, H, W), the inverse of `patchify`."""
    x = (
        x.unflatten(1, (height // p, width // p)).unflatten(3, (p, p, x.shape[2] // p**2)).permute(0, 5, 1, 3, 2, 4)
    )  # (B, C, H/P, P, W/P, P)
    return x.flatten(4, 5).flatten(2, 3)  # (B, C, H, W)


def gather_rows(x: Tensor, ids: Tensor) -> Tensor:
    """Rows of each sample: x (B, N, D), ids (B, K) int64 → (B, K, D); no index of width D is made."""
    b, n, d = x.shape
    start = torch.arange(b, device=x.device)[:, None] * n  # (B, 1)
    return x.reshape(b * n, d)[ids + start]  # (B, K, D)


def sincos(dim: int, height: int, width: int) -> Tensor:
    """Fixed positions of a grid, (height·width, dim), float32 (He et al. 2021, A.1; Vaswani et al. 2017, §3.5).

    The first half of the channels holds the column, the second the row, each as all sines, then all cosines: the order
    that every released MAE was trained with.
    """
    if dim % 4:
        raise ValueError(f"dim={dim}, positions of a grid need a multiple of 4")
    omega = 10000 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim / 4))  # (dim/4,)
    rows, columns = torch.meshgrid(
        torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64), indexing="ij"
    )
    halves = [axis.reshape(-1, 1) * omega for axis in (columns, rows)]  # (height·width, dim/4) each
    return torch.cat([f(a) for a in halves for f in (torch.sin, torch.cos)], dim=1).float()  # (height·width, dim)
