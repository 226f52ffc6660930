"""Which patches are hidden: the rows of MASKS.

A mask is an order of the patches for each image, of which the first are kept. Counts are constants and everything is
made on the device, so that nothing waits for a number to come back.

b images of a batch · h w the grid in patches · N = hw patches, K of them kept · cell: side, in patches, of a cell
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Grid = tuple[int, ...]  # (h, w)
Device = torch.device | str


def random_order(b: int, grid: Grid, keep: int, device: Device, cell: int) -> Tensor:
    """Uniform without replacement (§3): one draw of (B, N), the official code's."""
    return torch.rand(b, math.prod(grid), device=device).argsort(1)  # (B, N)


def block_order(b: int, grid: Grid, keep: int, device: Device, cell: int) -> Tensor:
    """Rectangles of 8 to 40 % of the area and aspect 0.3 to 1/0.3, one after another until enough is hidden.

    Bao et al. 2022 (BEiT), algorithm 1; the last rectangle is trimmed by chance, so that the count is exact.
    """
    (h, w), rectangles = grid, 24
    area = torch.empty(b, rectangles, device=device).uniform_(0.08, 0.4) * h * w  # (B, R)
    aspect = torch.empty(b, rectangles, device=device).uniform_(math.log(0.3), -math.log(0.3)).exp()  # (B, R)
    inside = []
    for side, length in ((h, (area * aspect).sqrt()), (w, (area / aspect).sqrt())):
        length = length.round().clamp(1, side)  # (B, R)
        start = (torch.rand(b, rectangles, device=device) * (side - length + 1)).floor()  # (B, R)
        at = torch.arange(side, device=device) - start[..., None]  # (B, R, side)
        inside.append((at >= 0) & (at < length[..., None]))
    covered = (inside[0][..., :, None] & inside[1][..., None, :]).flatten(2)  # (B, R, N)
    first = torch.where(covered.any(1), covered.int().argmax(1), rectangles)  # (B, N), which rectangle hides a patch
    return (first + torch.rand(b, h * w, device=device)).argsort(1, descending=True)  # (B, N)


def grid_order(b: int, grid: Grid, keep: int, device: Device, cell: int) -> Tensor:
    """One of every 2×2 patches is kept, the same one all over an image, drawn per image (§4.1, "grid")."""
    h, w = grid
    place = torch.randint(4, (b, 1), device=device)  # (B, 1)
    row, column = torch.arange(h * w, device=device) // w, torch.arange(h * w, device=device) % w  # (N,)
    hidden = (row % 2 * 2 + column % 2) != place  # (B, N)
    return (hidden + torch.rand(b, h * w, device=device)).argsort(1)  # (B, N)


def cell_order(b: int, grid: Grid, keep: int, device: Device, cell: int) -> Tensor:
    """Cells of `cell`×`cell` patches are kept or hidden as a whole (Pixio, Yang et al. 2025)."""
    h, w = grid
    draw = torch.rand(b, h // cell * (w // cell), device=device).argsort(1).argsort(1)  # (B, cells), ranks
    rank = draw.reshape(b, h // cell, 1, w // cell, 1).expand(-1, -1, cell, -1, cell).reshape(b, h * w)  # (B, N)
    return (rank + torch.rand(b, h * w, device=device)).argsort(1)  # (B, N)


def color_order(b: int, grid: Grid, keep: int, device: Device, cell: int) -> Tensor:
    """The peaks of green noise, white noise less its fine and its coarse part, are hidden (ColorMAE, Hinojosa 2024).

    The band is the difference of two Gaussian filters, of standard deviations of half a patch and of two patches.
    """
    (h, w), low, high = grid, 2.0, 0.5
    radius = math.ceil(3 * low)
    noise = torch.randn(b, 1, h + 2 * radius, w + 2 * radius, device=device)  # (B, 1, h + 2r, w + 2r)
    at = torch.arange(-radius, radius + 1, device=device, dtype=noise.dtype)  # (2r + 1,)
    bands = []
    for sigma in (high, low):
        kernel = (-0.5 * (at / sigma) ** 2).exp()
        kernel = kernel / kernel.sum()  # (2r + 1,)
        bands.append(F.conv2d(F.conv2d(noise, kernel[None, None, None]), kernel[None, None, :, None]))  # (B, 1, h, w)
    return (bands[0] - bands[1]).flatten(1).argsort(1)  # (B, N)


def any_count(grid: Grid, keep: int, cell: int) -> int:
    """As many as the mask ratio says."""
    return keep


def grid_count(grid: Grid, keep: int, cell: int) -> int:
    """A quarter, of sides that 2×2 patches fill."""
    h, w = grid
    if h % 2 or w % 2 or keep * 4 != h * w:
        raise ValueError(
            f"mask='grid' hides 3 of 4 patches of an even grid, here it would keep {keep} of {h}×{w}; use mask='random'"
        )
    return keep


def cell_count(grid: Grid, keep: int, cell: int) -> int:
    """Whole cells, rounded down."""
    h, w = grid
    if h % cell or w % cell or keep < cell**2:
        raise ValueError(
            f"mask='cell' needs sides that are multiples of mask_cell={cell}, and a cell to keep; "
            f"the grid is {h}×{w}, {keep} patches are kept"
        )
    return keep - keep % cell**2


class Mask(NamedTuple):
    """A row of MASKS."""

    order: Callable[[int, Grid, int, Device, int], Tensor]
    """(b, grid, K, device, cell) → an order of the patches for each image, (B, N) int64: the first K are kept."""

    num_kept: Callable[[Grid, int, int], int] = any_count
    """(grid, K by the mask ratio, cell) → how many patches this mask keeps; ValueError where it cannot."""

    shuffled: bool = False
    """Whether hidden patches stand in a random order, so that any first ones of them are a fair sample."""


MASKS = {
    "random": Mask(random_order, shuffled=True),
    "block": Mask(block_order),
    "grid": Mask(grid_order, grid_count),
    "cell": Mask(cell_order, cell_count),
    "color": Mask(color_order),
}


def num_kept(grid: Grid, ratio: float, mask: str, cell: int) -> int:
    """How many patches stay, K; the official rounding, down.

    Raises:
        ValueError: none or all of them would, or the mask cannot hide this share of this grid.
    """
    n = math.prod(grid)
    keep = int(n * (1 - ratio))
    if not 0 < ratio < 1 or not 1 <= keep < n:
        raise ValueError(
            f"mask_ratio={ratio} of {n} patches keeps {keep}; some must be hidden and some kept, 0.75 is the paper's. "
            "To see all of an image use forward_features"
        )
    return MASKS[mask].num_kept(grid, keep, cell)
