"""Large images in small memory: a function of images, tile by tile, blended where tiles overlap."""

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor


def tiled(
    function: Callable[[Tensor], Tensor],
    x: Tensor,
    tile: int,
    overlap: int,
    ratio: tuple[int, int] = (1, 1),
    batch_size: int = 1,
) -> Tensor:
    """`function(x)`, computed of overlapping square tiles and blended linearly where they overlap.

    Exact for a function that looks no further than half an overlap; others differ by what they miss of the whole.

    Args:
        function: (B, C, h, w) → (B, C', h·up/down, w·up/down).
        x: (B, C, H, W).
        tile, overlap: sides in places of x; an axis shorter than a tile is taken whole.
        ratio: (up, down), sides of what comes out over sides of what goes in.
        batch_size: tiles at a time, of each image.

    Raises:
        ValueError: no tile, or an overlap that leaves it no step.
    """
    if tile < 1 or not 0 <= overlap < tile:
        raise ValueError(f"tile={tile}, overlap={overlap}: allowed tiles of at least 1, overlaps of 0 up to tile - 1")
    height, width = x.shape[2:]
    if height <= tile and width <= tile:
        return function(x)
    up, down = ratio
    tops, lefts = _starts(height, tile, overlap), _starts(width, tile, overlap)
    weight = _ramp(min(tile, height) * up // down, overlap * up // down)[:, None] * _ramp(
        min(tile, width) * up // down, overlap * up // down
    )  # (h', w')
    out = total = None
    places = list(product(tops, lefts))
    for some in (places[i : i + batch_size] for i in range(0, len(places), batch_size)):
        y = function(torch.cat([x[:, :, t : t + tile, left : left + tile] for t, left in some]))  # (n·B, C', h', w')
        if out is None:
            out = y.new_zeros(len(x), y.shape[1], height * up // down, width * up // down)  # (B, C', H', W')
            total = out.new_zeros(out.shape[2:])  # (H', W')
            weight = weight.to(out)
        for (t, left), part in zip(some, y.split(len(x))):
            rows, columns = (slice(s * up // down, s * up // down + n) for s, n in zip((t, left), weight.shape))
            out[:, :, rows, columns] += part * weight
            total[rows, columns] += weight
    return out.div_(total)  # (B, C', H', W')


def _starts(side: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin; the last one ends with the side."""
    if side <= tile:
        return [0]
    return [*range(0, side - tile, tile - overlap), side - tile]


def _ramp(side: int, overlap: int) -> Tensor:
    """Weights of a tile's places along an axis, (side,): rising over the overlap, 1, falling."""
    place = torch.arange(side) + 0.5
    return torch.minimum(place, side - place).div(max(overlap, 0.5)).clamp(max=1)
