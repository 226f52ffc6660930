"""Random numbers that a seed alone decides."""

import contextlib
import hashlib
import random
from collections.abc import Iterator

import numpy as np
import torch


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """What timm and torchvision draw inside is decided by a seed, and nobody else's draws are disturbed."""
    python, kept, torchs = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    # The generator itself: torch.manual_seed notes the stack at every call, for a GPU that may be set up later.
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(kept)
        torch.set_rng_state(torchs)


def mix(*numbers: int | str) -> int:
    """One well-spread seed from several small numbers."""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=7).digest(), "little")
