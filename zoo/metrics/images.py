"""Figures of pictures, pixels in [0, 1]."""

from torch import Tensor


def psnr(error: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of mean squared errors of pixels in [0, 1], of any shape; 100 dB at most.

    `-10 log10(error)`. The mean over samples of their ratios is not the ratio of their mean error: whoever calls says
    which it is.
    """
    return -10 * error.clamp(min=1e-10).log10()
