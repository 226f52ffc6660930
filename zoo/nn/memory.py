"""The bytes of a tensor for `readinto`, `write` and hashes: numpy would give them too, but torch runs without it."""

import ctypes
from typing import Any

from torch import Tensor


def memory(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU, without a copy: what is written into them is in the tensor."""
    array: Any = (ctypes.c_ubyte * (tensor.numel() * tensor.element_size())).from_address(tensor.data_ptr())
    array.tensor = tensor  # lives as long as the view of its memory
    return memoryview(array)
