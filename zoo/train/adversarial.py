"""What sharpens reconstructions: discriminators, the hinge losses, their adaptive weight, a perceptual distance.

B images · C H W channels and sides in px · h w the discriminator's grid of patches
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.nn.frozen import weights_are_random
from zoo.train import parallel


class PatchDiscriminator(nn.Module):
    """Real or not, patch by patch (Isola et al. 2017, 6.1.2; Esser et al. 2021): (B, C, H, W) → logits (B, 1, h, w).

    Args:
        channels: C.
        width: feature maps of the first layer; they double up to eight times that.
        layers: that halve the sides.
    """

    def __init__(self, channels: int = 3, width: int = 64, layers: int = 3):
        super().__init__()
        blocks = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        before = width
        for i in range(1, layers + 1):
            after = width * min(2**i, 8)
            blocks += [nn.Conv2d(before, after, 4, 2 if i < layers else 1, 1, bias=False)]
            blocks += [nn.BatchNorm2d(after), nn.LeakyReLU(0.2)]
            before = after
        self.layers = nn.Sequential(*blocks, nn.Conv2d(before, 1, 4, 1, 1))
        for module in self.modules():  # as published: N(0, 0.02), scales of norms N(1, 0.02)
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] → logits (B, 1, h, w), above 0 for real."""
        return self.layers(x)


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """`½ (mean max(0, 1 - D(x)) + mean max(0, 1 + D(x̂)))` (Lim and Ye 2017)."""
    return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2


def generator_loss(fake: Tensor) -> Tensor:
    """`-mean D(x̂)`."""
    return -fake.mean()


class TokenDiscriminator(nn.Module):
    """Real or not, by what a frozen vision transformer sees (Sauer et al. 2023, §3.2): (B, 3, H, W) → logits (B, T·N).

    A small head looks at the tokens of each of T depths. The transformer is injected and is in no state dict.

    Args:
        tokens: images (B, 3, H, W) in [0, 1] → T maps of tokens (B, N, D), with gradients.
        dim: D.
        taps: T.
        kernel: tokens in a row that a head's middle sees.
    """

    def __init__(self, tokens: Callable[[Tensor], Sequence[Tensor]], dim: int, taps: int, kernel: int = 9):
        super().__init__()
        self.tokens = [tokens]  # in a list: no submodule
        self.heads = nn.ModuleList(TokenHead(dim, kernel) for _ in range(taps))

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] → logits (B, T·N), above 0 for real."""
        maps = self.tokens[0]((x + 1) / 2)  # T of (B, N, D)
        return torch.cat([head(m.mT) for head, m in zip(self.heads, maps)], 1)


class TokenHead(nn.Module):
    """Tokens (B, D, N) → logits (B, N). Norms are of a sample alone, the row of tokens is a ring."""

    def __init__(self, dim: int, kernel: int):
        super().__init__()
        self.first = _spectral(dim, dim, 1)
        self.middle = _spectral(dim, dim, kernel)
        self.last = nn.utils.parametrizations.spectral_norm(nn.Conv1d(dim, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)  # (B, D, N)
        x = (x + self.middle(x)) * 0.5**0.5
        return self.last(x)[:, 0]  # (B, N)


def _spectral(before: int, after: int, kernel: int) -> nn.Sequential:
    conv = nn.Conv1d(before, after, kernel, padding=kernel // 2, padding_mode="circular")
    norm = nn.InstanceNorm1d(after, affine=True)
    return nn.Sequential(nn.utils.parametrizations.spectral_norm(conv), norm, nn.LeakyReLU(0.2))


def differentiable_augment(x: Tensor, shift: float = 0.125) -> Tensor:
    """Brightness, saturation, contrast and place of each image, at random, with gradients (Zhao et al. 2020, §3.2).

    Args:
        x: images (B, C, H, W) in [-1, 1].
        shift: largest, in shares of a side; what is uncovered is 0.
    """
    b, _, height, width = x.shape
    bright, saturated, contrast = torch.rand(3, b, 1, 1, 1, device=x.device, dtype=x.dtype)  # (B, 1, 1, 1) each
    x = x + bright - 0.5
    grey = x.mean(1, keepdim=True)  # (B, 1, H, W)
    x = (x - grey) * 2 * saturated + grey
    mean = x.mean((1, 2, 3), keepdim=True)  # (B, 1, 1, 1)
    x = (x - mean) * (contrast + 0.5) + mean
    rows, columns = (_shifted(b, side, int(side * shift + 0.5), x.device) for side in (height, width))  # (B, H), (B, W)
    padded = F.pad(x, (1, 1, 1, 1)).permute(0, 2, 3, 1)  # (B, H + 2, W + 2, C)
    images = torch.arange(b, device=x.device)[:, None, None]
    return padded[images, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)  # (B, C, H, W)


def _shifted(b: int, side: int, most: int, device: torch.device) -> Tensor:
    """Places in a row with one zero on either side, moved by up to `most`: (B, side)."""
    moved = torch.arange(side, device=device) + torch.randint(-most, most + 1, (b, 1), device=device)
    return (moved + 1).clamp(0, side + 1)


def adaptive_weight(
    reconstruction: Tensor, adversarial: Tensor, last: Tensor, largest: float = 1e4, eps: float = 1e-4
) -> Tensor:
    """`‖∇ reconstruction‖ / (‖∇ adversarial‖ + eps)` at the last layer's weight (Esser et al. 2021, equation 7).

    The gradients are those of the joined batch of all processes.
    """
    grads = [torch.autograd.grad(loss, last, retain_graph=True)[0] for loss in (reconstruction, adversarial)]
    precise = torch.promote_types(last.dtype, torch.float32)
    of_reconstruction, of_adversarial = parallel.mean(torch.stack(grads).to(precise)).flatten(1).norm(dim=1)
    return (of_reconstruction / (of_adversarial + eps)).clamp(0, largest).detach()


class Perceptual:
    """LPIPS (Zhang et al. 2018) on VGG-16, torchmetrics'; no module of its owner, so that no checkpoint holds VGG.

    Raises:
        ValueError: VGG's weights are neither cached nor to be had.
    """

    def __init__(self) -> None:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity, _NoTrainLpips

        if weights_are_random():
            self.network = _NoTrainLpips(net="vgg", pnet_rand=True)
            return
        try:
            self.network = LearnedPerceptualImagePatchSimilarity("vgg").net.eval().requires_grad_(False)
        except OSError as error:
            raise ValueError(
                f"LPIPS needs torchvision's VGG-16, which cannot be had: {error}; put vgg16-397923af.pth into "
                "$TORCH_HOME/hub/checkpoints, or set perceptual_weight to 0"
            ) from error

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Mean distance of images (B, 3, H, W) in [-1, 1]."""
        self.network = self.network.to(a.device)
        return self.network(a, b).mean()
