"""Seeded random images with a class that can be learned; for tests and smoke recipes."""

import math

import numpy as np
import torch
from lightning.fabric.utilities.data import AttributeDict
from torch import Tensor

from zoo.data.batches import Batches, DataModule
from zoo.data.pixels import Pixels
from zoo.data.readers import Items
from zoo.nn.checks import check_least, check_types


class RandomImages(DataModule):
    """Noise images whose class is their brightest quadrant, 0 to 3 row by row; batches as ImageData's.

    Args:
        shape: (C, H, W) of an image.
        num_images: in each of train, val and test, which differ.
        batch_size: images of a batch.
        seed: of the images and their order.
    """

    hparams: AttributeDict  # the arguments, by name

    def __init__(
        self, shape: tuple[int, int, int] = (1, 28, 28), num_images: int = 1024, batch_size: int = 128, seed: int = 0
    ):
        check_types(RandomImages, locals())
        super().__init__()
        check_least(1, shape=shape, num_images=num_images, batch_size=batch_size)
        check_least(0, seed=seed)
        if shape[0] > 4:
            raise ValueError(f"shape={shape}, allowed (C, H, W) with 1 to 4 channels, which Pillow reads")
        if num_images * math.prod(shape) > 2**32:
            raise ValueError(f"num_images={num_images} of shape={shape} are over 4 GB in memory; give fewer or smaller")
        self.save_hyperparameters()
        self.classes = ["top left", "top right", "bottom left", "bottom right"]

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return tuple(self.hparams.shape)

    def train_dataloader(self) -> Batches:
        return self._batches(0, shuffle=True)

    def val_dataloader(self) -> Batches:
        return self._batches(1, shuffle=False)

    def test_dataloader(self) -> Batches:
        return self._batches(2, shuffle=False)

    def on_after_batch_transfer(
        self, batch: tuple[Tensor, Tensor, object], dataloader_idx: int
    ) -> tuple[Tensor, Tensor]:
        """uint8 (B, C, H, W) → float in [0, 1]."""
        x, y, _ = batch
        return x.to(torch.float32).div_(255), y

    def _batches(self, split: int, shuffle: bool) -> Batches:
        h = self.hparams
        c, height, width = h.shape
        rng = np.random.default_rng((h.seed, split))
        labels = rng.integers(0, 4, h.num_images)
        images = rng.integers(0, 128, (h.num_images, height, width, c), dtype=np.uint8)
        for image, label in zip(images, labels):
            top, left = label // 2 * (height // 2), label % 2 * (width // 2)
            image[top : top + height // 2, left : left + width // 2] += 64
        pixels = Pixels(Items(images, labels, self.classes, "random images"), None, c)
        pixels.array = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())  # (N, C, H, W)
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return Batches(pixels, torch.from_numpy(labels), h.batch_size, shuffle, h.seed, rank, world)
