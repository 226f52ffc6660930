"""Which cubes are hidden, and which are predicted: the rows of MASKS and of DECODE.

A mask is an order of the cubes for each clip, of which the first are kept. Counts are constants and everything is made
on the device, so that nothing waits for a number to come back.

b clips of a batch · G steps · S places · N = GS cubes, K of them kept, M predicted
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Grid = tuple[int, ...]  # (G, H/P, W/P)
Device = torch.device | str


def tube_order(b: int, grid: Grid, keep: int, device: Device) -> Tensor:
    """The same random places in every step (VideoMAE §3.2): what is hidden stays hidden."""
    steps, places = grid[0], grid[1] * grid[2]
    order = torch.rand(b, 1, places, device=device).argsort(2)  # (B, 1, S)
    order = order + places * torch.arange(steps, device=device)[:, None]  # (B, G, S)
    return torch.cat([part.flatten(1) for part in order.tensor_split([keep // steps], dim=2)], dim=1)  # (B, N)


def random_order(b: int, grid: Grid, keep: int, device: Device) -> Tensor:
    """Uniform over all cubes, space and time alike (MAE-ST §3)."""
    return torch.rand(b, math.prod(grid), device=device).argsort(1)  # (B, N)


def frame_order(b: int, grid: Grid, keep: int, device: Device) -> Tensor:
    """Whole steps are kept or hidden (VideoMAE's ablation)."""
    places = grid[1] * grid[2]
    order = torch.rand(b, grid[0], device=device).argsort(1)  # (B, G)
    return (order[:, :, None] * places + torch.arange(places, device=device)).flatten(1)  # (B, N)


class Mask(NamedTuple):
    """A row of MASKS."""

    order: Callable[[int, Grid, int, Device], Tensor]
    """(b, grid, K, device) → an order of the cubes for each clip, (B, N) int64: the first K are kept."""

    units: Callable[[Grid], int]
    """How many units a clip has; each is hidden or kept as a whole."""

    rounds_kept: bool = False
    """Whether the official code rounds the kept units down, not the hidden ones."""


MASKS = {
    "tube": Mask(tube_order, lambda grid: grid[1] * grid[2]),
    "random": Mask(random_order, math.prod, rounds_kept=True),
    "frame": Mask(frame_order, lambda grid: grid[0]),
}


def num_kept(grid: Grid, ratio: float, mask: str) -> int:
    """How many cubes stay, K, with the official roundings.

    Raises:
        ValueError: none or all of them would.
    """
    count = MASKS[mask].units(grid)
    stay = int(count * (1 - ratio)) if MASKS[mask].rounds_kept else count - int(count * ratio)
    if not 0 < ratio < 1 or not 0 < stay < count:
        raise ValueError(
            f"mask_ratio={ratio} with mask={mask!r} keeps {stay} of {count}; some must be hidden and some kept, 0.9 is "
            "the papers'. To see all of a clip use forward_features"
        )
    return stay * (math.prod(grid) // count)


def running_cell(b: int, grid: Grid, device: Device) -> Tensor:
    """What V2's decoder predicts, (B, N) bool: two of each 2×2 places, from any of four starts.

    Of the corners 0 1 / 2 3 it is, step by step, 1 and 2, 0 and 1, 0 and 3, 2 and 3, and so on (V2's code, `run_cell`).
    """
    steps, height, width = grid
    start = torch.randint(4, (b, 1, 1), device=device)  # (B, 1, 1)
    step = torch.arange(steps, device=device)[:, None] + 1  # (G, 1)
    place = torch.arange(height * width, device=device)  # (S,)
    corner = place // width % 2 * 2 + place % width % 2  # (S,), which of its 2×2 a place is
    return ((corner + start + step) % 4 >= 2).flatten(1)  # (B, N)


def all_hidden(order: Tensor, keep: int, grid: Grid) -> Tensor:
    """All that the encoder does not see."""
    return order[:, keep:]  # (B, N - K)


def half(order: Tensor, keep: int, grid: Grid) -> Tensor:
    """The running cell, a half of all cubes, as published: also where the encoder has seen them."""
    return _first(running_cell(len(order), grid, order.device), order.shape[1] // 2)  # (B, N/2)


def hidden_half(order: Tensor, keep: int, grid: Grid) -> Tensor:
    """The running cell without what the encoder has seen; in four steps each place is decoded twice."""
    decoded = running_cell(len(order), grid, order.device).scatter(1, order[:, :keep], False)  # (B, N)
    return _first(decoded, order.shape[1] // 2 - keep // 2)  # (B, N/2 - K/2)


def _first(chosen: Tensor, count: int) -> Tensor:
    """Places (B, count) int64 of the first so many that are chosen, (B, N) bool, in raster order."""
    return chosen.int().sort(dim=1, descending=True, stable=True).indices[:, :count]


class Decode(NamedTuple):
    """A row of DECODE."""

    ids: Callable[[Tensor, int, Grid], Tensor]
    """(order (B, N), K, grid) → the cubes that training predicts, (B, M) int64."""

    halves: bool = False
    """Whether a cell of 2×2 places runs over the grid."""

    of_tubes: bool = False
    """Whether the count is constant only of tubes, and of steps in fours."""

    sees: bool = False
    """Whether some of these cubes were seen by the encoder; they do not count in the loss."""


DECODE = {
    "all": Decode(all_hidden),
    "running_cell": Decode(half, halves=True, sees=True),
    "running_cell_hidden": Decode(hidden_half, halves=True, of_tubes=True),
}


def check_decode(decode: str, grid: Grid, mask: str) -> None:
    """Refuse a grid or a mask that a row of DECODE does not fit.

    Raises:
        ValueError: naming what fits.
    """
    steps, height, width = grid
    if DECODE[decode].halves and (height % 2 or width % 2):
        raise ValueError(f"decode={decode!r} runs a cell of 2×2, the grid is {height}×{width}; take an even one")
    if DECODE[decode].of_tubes and (steps % 4 or mask != "tube"):
        raise ValueError(
            f"decode={decode!r} has a constant count for mask='tube' and steps in fours, given {mask!r} and {steps}; "
            "take decode='running_cell'"
        )
