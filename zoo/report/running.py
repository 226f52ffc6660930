"""Where a model runs and how exactly: `--device`, `--precision` of the verbs that run one over data."""

import contextlib
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch

from zoo.nn.protocols import Network

DEVICES = "auto, cpu, cuda, cuda:N, mps"
PRECISIONS = {"32": None, "bf16": torch.bfloat16, "16": torch.float16}  # of matrix products and convolutions


def find_device(name: str = "auto") -> torch.device:
    """The device of a name; "auto" is the GPU where there is one.

    Raises:
        ValueError: no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise ValueError(f"--device {name}, allowed {DEVICES}")
    device = torch.device(name)
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}[device.type]
    if (device.index or 0) >= there:
        raise ValueError(f"--device {name}: this machine has {there} such devices; give --device auto or cpu")
    return device


@contextlib.contextmanager
def running(model: Network, device: str = "auto", precision: str = "32") -> Iterator[torch.device]:
    """Lend a model to a device, products in a precision; it goes back where it was, and so do its numbers.

    Args:
        precision: "32", or "bf16", "16" for mixed precision: weights stay float32.

    Raises:
        ValueError: no such device here, or a precision that it lacks.
    """
    place = find_device(device)
    if precision not in PRECISIONS:
        raise ValueError(f"--precision {precision}, allowed {', '.join(PRECISIONS)}")
    before = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), place)
    model.to(place)
    try:
        with mixed(place, precision):
            yield place
    finally:
        model.to(before)


def mixed(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Autocast in a precision of `PRECISIONS`; nothing of "32"."""
    kind = PRECISIONS[precision]
    return contextlib.nullcontext() if kind is None else torch.autocast(device.type, kind)
