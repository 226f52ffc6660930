"""What every family uses unchanged.

B images of a batch, C channels, H height and W width in pixels.
"""

import torch
from torch import Tensor


def check_images(x: Tensor, channels: int, height: int, width: int, values: bool = True) -> None:
    """Refuse what is not a batch of images with float pixels in [0, 1].

    Args:
        x: images, (B, C, H, W).
        values: also look at the pixels for NaN and the range. That reads a number back from the device, so models
            ask for it in eval mode only, and a compiled graph never does.

    Raises:
        ValueError: wrong rank, channels, size, dtype, or pixels that are NaN or outside [0, 1].
    """
    if x.ndim != 4:
        raise ValueError(
            f"images are {tuple(x.shape)}, expected (B, {channels}, {height}, {width}); a single image needs x[None]"
        )
    if x.shape[1] != channels:
        raise ValueError(
            f"images have {x.shape[1]} channels, this model takes {channels}; "
            + (
                "convert to grey, x.mean(1, keepdim=True)"
                if channels == 1
                else "repeat grey ones, x.expand(-1, 3, -1, -1)"
            )
        )
    if x.shape[2:] != (height, width):
        raise ValueError(
            f"images are {x.shape[2]}×{x.shape[3]} px, this model takes {height}×{width}; "
            f"resize them, or create the model with image_size={max(x.shape[2:])}"
        )
    if not x.is_floating_point():
        raise ValueError(f"images are {x.dtype}, expected float pixels in [0, 1]; pass x.float() / 255")
    if values and not torch.compiler.is_compiling() and x.numel():
        low, high = (v.item() for v in x.aminmax())
        if low != low or high != high:
            raise ValueError("images hold NaN, expected pixels in [0, 1]; look for the first NaN where they are read")
        if low < -1e-3 or high > 1 + 1e-3:
            raise ValueError(
                f"pixels span [{low:.3g}, {high:.3g}], expected [0, 1]; "
                + ("divide by 255" if high > 2 else "the model normalises by itself: undo your mean and std")
            )
