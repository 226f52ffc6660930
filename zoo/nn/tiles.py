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
    """`function(x)`, computed of overlapping square tiles and blended where they overlap.

    The outer quarter of an overlap is not used and the middle half is blended linearly: exact for a function that looks
    no further than that quarter. Others differ by what they miss of the whole.

    Args:
        function: (B, C, h, w) → (B, C', h·up/down, w·up/down).
        x: (B, C, H, W).
        tile, overlap: sides in places of x; an axis shorter than a tile is taken whole.
        ratio: (up, down), sides of what comes out over sides of what goes in.
        batch_size: tiles at a time, of each image.

    Raises:
        ValueError: no tile, or an overlap that leaves it no step.
    """
    if min(tile, batch_size) < 1 or not 0 <= overlap < tile:
        raise ValueError(
            f"tile={tile}, overlap={overlap}, batch_size={batch_size}: allowed tiles and batches of at least 1, "
            "overlaps of 0 up to tile - 1"
        )
    height, width = x.shape[2:]
    if height <= tile and width <= tile:
        return function(x)
    up, down = ratio
    places = list(product(_starts(height, tile, overlap), _starts(width, tile, overlap)))
    for start in range(0, len(places), batch_size):
        some = places[start : start + batch_size]
        y = function(torch.cat([x[:, :, t : t + tile, left : left + tile] for t, left in some]))  # (n·B, C', h', w')
        if start == 0:
            out = y.new_zeros(len(x), y.shape[1], height * up // down, width * up // down)  # (B, C', H', W')
            total = out.new_zeros(out.shape[2:])  # (H', W')
        for place, part in zip(some, y.split(len(x))):
            starts = [s * up // down for s in place]
            spans = [slice(s, s + n) for s, n in zip(starts, part.shape[2:])]
            ramps = [
                _ramp(n, overlap * up // down, s == 0, s + n == whole)
                for s, n, whole in zip(starts, part.shape[2:], total.shape)
            ]
            weight = (ramps[0][:, None] * ramps[1]).to(out)  # (h', w')
            out[:, :, spans[0], spans[1]] += part * weight
            total[spans[0], spans[1]] += weight
    return out.div_(total)  # (B, C', H', W')


def _starts(side: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin; the last one ends with the side."""
    if side <= tile:
        return [0]
    return [*range(0, side - tile, tile - overlap), side - tile]


def _ramp(side: int, overlap: int, first: bool, last: bool) -> Tensor:
    """Weights of a tile's places along an axis, (side,): rising, 1, falling, but for where the image itself ends."""
    rise = ((torch.arange(side) + 0.5 - overlap / 4) / max(overlap / 2, 1e-6)).clamp(0, 1)
    ones = torch.ones(side)
    return (ones if first or not overlap else rise) * (ones if last or not overlap else rise.flip(0))
