"""What happens to training images: on their device as a batch, or one by one in a worker."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.data.seeds import mix, seeded


class Square:
    """The shorter side resized to one of `sides` px, and a place of `shape` cut out at random."""

    def __init__(self, shape: tuple[int, int], sides: tuple[int, int]):
        self.shape, self.sides = shape, sides

    def __call__(self, image: Any) -> Any:
        from torchvision.transforms import InterpolationMode, RandomCrop
        from torchvision.transforms.functional import resize

        side = int(torch.randint(self.sides[0], self.sides[1] + 1, ()))
        return RandomCrop(self.shape)(resize(image, side, InterpolationMode.BICUBIC))


class Change:
    """What happens to one training image in a worker: random crop, RandAugment; the same for the same seed.

    Args:
        crop: of the area, from and to, of a random resized crop; or of the shorter side in px, before a random crop.
    """

    def __init__(
        self, shape: tuple[int, int], crop: tuple[float, float] | tuple[int, int] | None, randaugment: str | None
    ):
        from torchvision.transforms import InterpolationMode, RandomResizedCrop

        self.crop: Any = None
        if crop is not None and crop[1] > 1:
            self.crop = Square(shape, (int(crop[0]), int(crop[1])))
        elif crop is not None:
            self.crop = RandomResizedCrop(tuple(shape), tuple(crop), interpolation=InterpolationMode.BICUBIC)
        self.shape, self.policy = shape, randaugment and policy(randaugment, min(shape))

    def __call__(self, pixels: np.ndarray, seed: int) -> Tensor:
        """Pixels (H, W, C) uint8 → (C, height, width) uint8."""
        from PIL import Image

        with seeded(seed):
            image = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
            image = self.crop(image) if self.crop else image
            image = self.policy(image) if self.policy else image
        changed = np.asarray(image).reshape(*self.shape, -1)
        return torch.from_numpy(changed.transpose(2, 0, 1).copy())  # (C, H, W)


def policy(description: str, side: int) -> Any:
    """timm's RandAugment of a description, for images of such a side in px."""
    from timm.data.auto_augment import rand_augment_transform

    # The bounds of its moves are in pixels; grey fills what they uncover.
    options = {"translate_const": int(0.45 * side), "img_mean": (124, 116, 104)}
    augment = rand_augment_transform(description, options)
    for op in augment.ops:
        if op.name.startswith("Posterize"):  # at full strength it asks for 0 bits, which Pillow 12 refuses
            op.level_fn = partial(_one_bit, op.level_fn)
    return augment


def _one_bit(level: Callable[..., tuple[int]], *args: Any) -> tuple[int]:
    return (max(1, level(*args)[0]),)


def augment(x: Tensor, crop: int, flip: bool, stamp: list[int]) -> Tensor:
    """Pad-and-crop and mirror a batch (B, C, H, W) on its device, image by image; the same for the same stamp."""
    generator = torch.Generator().manual_seed(mix(*stamp))
    b, _, h, w = x.shape
    if crop:
        shift = torch.randint(0, 2 * crop + 1, (2, b), generator=generator).to(x.device)
        rows = shift[0, :, None] + torch.arange(h, device=x.device)  # (B, H)
        columns = shift[1, :, None] + torch.arange(w, device=x.device)  # (B, W)
        images = torch.arange(b, device=x.device)[:, None, None]
        padded = F.pad(x, (crop,) * 4)  # (B, C, H + 2 crop, W + 2 crop)
        x = padded[images, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)  # (B, C, H, W)
    if flip:
        mirrored = torch.rand(b, generator=generator).to(x.device) < 0.5
        x = torch.where(mirrored[:, None, None, None], x.flip(-1), x)
    return x


def resized_crop(x: Tensor, scale: tuple[float, float], stamp: list[int]) -> Tensor:
    """A random rectangle of each image (B, C, H, W), float in [0, 1], resized to the whole (bicubic), on its device.

    One draw of area and aspect per image, cut to the image where it is too long: no loop of attempts.
    """
    generator = torch.Generator().manual_seed(mix("crop", *stamp))
    b, _, height, width = x.shape
    area, aspect, down, right = torch.rand(4, b, generator=generator)  # (B,) each
    area = scale[0] + (scale[1] - scale[0]) * area
    aspect = (4 / 3) ** (2 * aspect - 1)
    tall, wide = (area / aspect).sqrt().clamp(max=1), (area * aspect).sqrt().clamp(max=1)  # (B,) shares of a side
    zero = torch.zeros(b)
    centre = torch.stack([(2 * right - 1) * (1 - wide), (2 * down - 1) * (1 - tall)], dim=1)  # (B, 2), in [-1, 1]
    theta = torch.stack([torch.stack([wide, zero], 1), torch.stack([zero, tall], 1), centre], dim=2).to(x)  # (B, 2, 3)
    grid = F.affine_grid(theta, [b, 1, height, width], align_corners=False)  # (B, H, W, 2)
    return F.grid_sample(x, grid, "bicubic", "reflection", align_corners=False).clamp_(0, 1)


def erase(x: Tensor, probability: float, stamp: list[int]) -> Tensor:
    """Noise in a rectangle, 2 to 33 % of the area, of some images (B, C, H, W) in [0, 1], on their device."""
    generator = torch.Generator().manual_seed(mix("erase", *stamp))
    b, _, height, width = x.shape
    chance, area, aspect, down, right = torch.rand(5, b, generator=generator)  # (B,) each
    area, aspect = 0.02 + (1 / 3 - 0.02) * area, (1 / 0.3) ** (2 * aspect - 1)
    inside = torch.ones(b, 1, 1, dtype=torch.bool)
    for dim, side, share, at in ((1, height, (area * aspect).sqrt(), down), (2, width, (area / aspect).sqrt(), right)):
        length = (share.clamp(max=1) * side).round()  # (B,)
        place = torch.arange(side) - (at * (side - length + 1)).floor()[:, None]  # (B, side)
        inside = inside & ((place >= 0) & (place < length[:, None])).unsqueeze(3 - dim)  # (B, H or 1, W)
    inside = (inside & (chance < probability)[:, None, None]).to(x.device)[:, None]  # (B, 1, H, W)
    noise = torch.randn(x.shape, generator=generator).mul_(0.25).add_(0.5).clamp_(0, 1)
    return torch.where(inside, noise.to(x), x)
