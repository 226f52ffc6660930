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


def held_out(
    labels: np.ndarray, share: float, seed: int, stratify: bool = True, every: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of what is trained on and of what is held out, drawn at random.

    Each class gives its share, and at least one sample as far as the number that is held out goes; its last one stays
    in training. Without classes, all of labels (N,) being one, N share samples are drawn.

    Args:
        stratify: False draws without looking at classes, as earlier versions did.
        every: hold out more than the share where a class of two or more would otherwise give none.

    Raises:
        ValueError: too few samples to hold one out.
    """
    if len(labels) < 2:
        raise ValueError(
            f"val_fraction={share} of {len(labels)} samples: at least 2, one to hold out and one to train on"
        )
    order = np.random.default_rng(seed).permutation(len(labels))
    count = max(1, round(share * len(labels)))
    if not stratify:
        return order[count:], order[:count]
    _, labels, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    wanted, most = share * sizes, sizes - 1
    if not most.any():  # each class has one sample
        return order[count:], order[:count]
    count = min(max(count, int((most > 0).sum()) if every else 0), int(most.sum()))
    least = np.minimum(most, 1) if count >= (most > 0).sum() else np.zeros_like(sizes)
    each = np.clip(wanted.astype(int), least, most)  # of each class
    while each.sum() != count:
        step = 1 if each.sum() < count else -1
        free = each < most if step > 0 else each > least
        each[np.argmax(np.where(free, step * (wanted - each), -np.inf))] += step
    held = _turns(labels[order]) < each[labels[order]]
    return order[~held], order[held]


def balanced(labels: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """`limit` indices, evenly over the classes as far as they go."""
    order = np.random.default_rng(seed).permutation(len(labels))
    return order[np.argsort(_turns(labels[order]), kind="stable")][:limit]


def _turns(labels: np.ndarray) -> np.ndarray:
    """How many of its class come before each, (N,)."""
    _, counts = np.unique(labels, return_counts=True)
    turns = np.empty(len(labels), dtype=np.int64)
    turns[np.argsort(labels, kind="stable")] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return turns
