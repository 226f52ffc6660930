"""What sharpens reconstructions: a patch discriminator, the hinge losses, their adaptive weight, a perceptual distance.

B images · C H W channels and sides in px · h w the discriminator's grid of patches
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last: Tensor, largest: float = 1e4) -> Tensor:
    """`‖∇ reconstruction‖ / (‖∇ adversarial‖ + 1e-4)` at the last layer's weight (Esser et al. 2021, equation 7)."""
    of_reconstruction, of_adversarial = (
        torch.autograd.grad(loss, last, retain_graph=True)[0].float().norm() for loss in (reconstruction, adversarial)
    )
    return (of_reconstruction / (of_adversarial + 1e-4)).clamp(0, largest).detach()


class Perceptual:
    """LPIPS (Zhang et al. 2018) on VGG-16, torchmetrics'; no module of its owner, so that no checkpoint holds VGG.

    Raises:
        ValueError: VGG's weights are neither cached nor to be had.
    """

    def __init__(self):
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

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
