"""What several test modules share."""

import re

import torch

import zoo
from zoo import registry


def small(arch: str) -> torch.nn.Module:
    """An arch at a size a test can afford: two blocks where it has over 20 million parameters."""
    count = int(re.search(r"([\d,]+) parameters", registry.summary(arch))[1].replace(",", ""))
    if count < 20_000_000:
        return zoo.create(arch)
    decoder = {"decoder_depth": 1} if not arch.endswith("_classifier") else {}
    return zoo.create(arch, depth=2, **decoder)


def image_batch(model: torch.nn.Module, count: int = 4) -> torch.Tensor:
    """Random images (B, C, H, W) that a model takes."""
    return torch.rand(count, *model.input_shape, generator=torch.Generator().manual_seed(0))
