"""Numbers that figures are made of: float32 or better, whatever precision a model ran in."""

import torch
from torch import Tensor


def single(x: Tensor) -> Tensor:
    """x in float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def double(x: Tensor) -> Tensor:
    """x in float64, on its device, or on the CPU where that has none (mps)."""
    return x.to("cpu" if x.device.type == "mps" else x.device, torch.float64)


def exactly(x: Tensor) -> torch.autocast:
    """A context in which products with x are as precise as x, also inside autocast."""
    return torch.autocast(x.device.type, enabled=False)
