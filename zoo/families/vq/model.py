"""VQ-VAE (van den Oord et al. 2017), and the sizes of every network of this family.

B images · C H W channels and sides in pixels · h w the grid of codes · D width of a code · K codes
"""

from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from zoo.families.vq.prior import CodePrior
from zoo.families.vq.qlae import LatentAutoencoder
from zoo.families.vq.quantize import QUANTIZERS, VQOutput
from zoo.families.vq.vqgan import VQGAN
from zoo.nn.checks import check_images, check_ints, check_least, sides
from zoo.nn.protocols import PIXELS, Input, Kind, Network


class VQVAE(Network):
    """The convolutional VQ-VAE of the authors' CIFAR-10 example (van den Oord et al. 2017, §4.1).

    `loss = mean (x̂ - x)² / variance + losses of the quantiser`; an error of 1 is that of the mean grey.

    Args:
        image_size: side in pixels, or (height, width).
        channels: C.
        width: channels of every feature map.
        res_blocks, res_width: residual blocks of each half, and the width inside them.
        downsamplings: halvings of the sides before the quantiser.
        codebook_size: K.
        code_dim: D.
        quantizer: "vq", "fsq", "lfq" or "bsq".
        quantizer_args: keywords of that quantiser (`{"metric": "cosine", "gradient": "rotation"}`, `{"levels": [8, 8,
            8]}`). The levels of "fsq" say both K and D; D says K of "lfq" and "bsq".
        variance: of the training set's pixels in [0, 1]; CIFAR-10's.

    Raises:
        ValueError: sides that do not halve, an unknown quantiser.
    """

    kind: ClassVar[Kind] = "image"

    def __init__(
        self,
        image_size: int | tuple[int, int] = 32,
        channels: int = 3,
        width: int = 128,
        res_blocks: int = 2,
        res_width: int = 32,
        downsamplings: int = 2,
        codebook_size: int = 512,
        code_dim: int = 64,
        quantizer: str = "vq",
        quantizer_args: dict[str, Any] | None = None,
        variance: float = 0.0632,
    ):
        super().__init__()
        check_least(2, width=width)
        check_least(1, channels=channels, res_width=res_width)
        if quantizer not in QUANTIZERS:
            raise ValueError(f"quantizer={quantizer!r}, allowed {', '.join(QUANTIZERS)}")
        height, width_px = sides(image_size)
        if not 1 <= downsamplings < 32 or height % 2**downsamplings or width_px % 2**downsamplings:
            raise ValueError(
                f"image_size={image_size} does not halve {downsamplings} times; use a multiple of {2**downsamplings}"
            )
        self.takes = Input(self.kind, (channels, height, width_px), PIXELS)
        self.factor, self.variance = 2**downsamplings, variance
        self.quantizer = QUANTIZERS[quantizer](codebook_size, code_dim, **quantizer_args or {})
        half = width // 2
        down = [nn.Conv2d(channels, half, 4, 2, 1)]
        down += [nn.Conv2d(half if i == 0 else width, width, 4, 2, 1) for i in range(downsamplings - 1)]
        last = half if downsamplings == 1 else width
        self.encoder = nn.Sequential(
            *(layer for conv in down for layer in (conv, nn.ReLU())),
            nn.Conv2d(last, width, 3, padding=1),
            Residuals(width, res_blocks, res_width),
            nn.Conv2d(width, self.quantizer.code_dim, 1),
        )
        up = [nn.ConvTranspose2d(width, width, 4, 2, 1) for _ in range(downsamplings - 2)]
        up += [nn.ConvTranspose2d(width, half, 4, 2, 1)] * (downsamplings > 1)
        self.decoder = nn.Sequential(
            nn.Conv2d(self.quantizer.code_dim, width, 3, padding=1),
            Residuals(width, res_blocks, res_width),
            *(layer for conv in up for layer in (conv, nn.ReLU())),
            nn.ConvTranspose2d(half if downsamplings > 1 else width, channels, 4, 2, 1),
        )

    def forward(self, x: Tensor, update: bool | None = None) -> VQOutput:
        """Images (B, C, H, W), float pixels in [0, 1] → loss, reconstruction and codes.

        Args:
            update: of the quantiser: False for all but the last of accumulated batches.

        Raises:
            ValueError: another size, channel count or dtype; in eval mode also NaN or pixels outside [0, 1].
        """
        quantized = self.quantizer(self.forward_features(x).movedim(1, -1), update=update)
        recon = self._decode(quantized.z_q)  # (B, C, H, W)
        losses = {"reconstruction": (recon - x).square().mean() / self.variance} | quantized.losses
        return VQOutput(sum(losses.values()), recon, quantized.indices, losses, quantized.stats)

    def forward_features(self, x: Tensor) -> Tensor:
        """What is about to be quantised: images (B, C, H, W) → (B, D, h, w)."""
        check_images(x, self.takes, values=not self.training)
        return self.encoder((x - 0.5).to(next(self.encoder.parameters()).dtype))  # (B, D, h, w)

    def encode(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) → indices (B, h, w) int64."""
        return self.quantizer.encode(self.forward_features(x).movedim(1, -1))

    def decode(self, indices: Tensor) -> Tensor:
        """Indices (B, h, w) int64 → images (B, C, H, W), clamped to [0, 1]."""
        check_ints(indices, "indices", ("B", "h", "w"), 0, self.quantizer.codebook_size, "encode gives them")
        return self._decode(self.quantizer.decode(indices)).clamp(0, 1)

    def count_codes(self) -> int:
        """K."""
        return self.quantizer.codebook_size

    def reconstruct(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) → the same after the bottleneck, clamped to [0, 1]."""
        return self.decode(self.encode(x))

    def _decode(self, q: Tensor) -> Tensor:
        return self.decoder(q.movedim(-1, 1).to(next(self.decoder.parameters()).dtype)) + 0.5  # (B, C, H, W)


class Residuals(nn.Module):
    """Residual blocks, ReLU before each of their two convolutions, and a last ReLU."""

    def __init__(self, width: int, blocks: int, inner: int):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.ReLU(), nn.Conv2d(width, inner, 3, padding=1), nn.ReLU(), nn.Conv2d(inner, width, 1))
            for _ in range(blocks)
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return F.relu(x)


# Sizes: the authors' CIFAR-10 network and two up; QLAE's one network and its baselines; priors; VQGANs.


def vqvae_conv_small(**args: Any) -> VQVAE:
    """128 wide, 8×8 codes of 32 px: the authors' CIFAR-10 example."""
    return VQVAE(**args)


def vqvae_conv_base(**args: Any) -> VQVAE:
    """256 wide, 16×16 codes of 64 px."""
    return VQVAE(**{"image_size": 64, "width": 256, "res_width": 64, "res_blocks": 4} | args)


def vqvae_conv_large(**args: Any) -> VQVAE:
    """256 wide, 32×32 codes of 256 px: three halvings."""
    wide: dict[str, Any] = {"image_size": 256, "width": 256, "res_width": 128, "res_blocks": 6, "downsamplings": 3}
    return VQVAE(**wide | {"codebook_size": 1024} | args)


def qlae_conv(**args: Any) -> LatentAutoencoder:
    """12 latents of 10 values each."""
    return LatentAutoencoder(**args)


def ae_conv(**args: Any) -> LatentAutoencoder:
    """QLAE's network with 12 plain numbers between."""
    return LatentAutoencoder(**{"bottleneck": "none"} | args)


def vae_conv(**args: Any) -> LatentAutoencoder:
    """QLAE's network as a (β-)VAE of 12 latents."""
    return LatentAutoencoder(**{"bottleneck": "vae"} | args)


def vqvae_conv_latents(**args: Any) -> LatentAutoencoder:
    """QLAE's network with 12 vectors of one codebook of 512."""
    return LatentAutoencoder(**{"bottleneck": "vq"} | args)


def vqprior_tiny(**args: Any) -> CodePrior:
    """192 wide, 6 blocks."""
    return CodePrior(**args)


def vqprior_small(**args: Any) -> CodePrior:
    """384 wide, 12 blocks."""
    return CodePrior(**{"dim": 384, "depth": 12, "heads": 6} | args)


def vqprior_base(**args: Any) -> CodePrior:
    """768 wide, 12 blocks: as wide and deep as LlamaGen's smallest."""
    return CodePrior(**{"dim": 768, "depth": 12, "heads": 12} | args)


def vqgan_f16(**args: Any) -> VQGAN:
    """16×16 codes of 256 px: the authors' ImageNet model."""
    return VQGAN(**args)


def vqgan_f8(**args: Any) -> VQGAN:
    """32×32 codes of 256 px: the latent diffusion models' (Rombach et al. 2022)."""
    small: dict[str, Any] = {
        "mults": (1, 2, 2, 4),
        "attention": (3,),
        "z_channels": 4,
        "codebook_size": 16384,
        "code_dim": 4,
    }
    return VQGAN(**small | args)


def vqgan_f4(**args: Any) -> VQGAN:
    """64×64 codes of 256 px: the latent diffusion models' (Rombach et al. 2022)."""
    fine: dict[str, Any] = {"mults": (1, 2, 4), "attention": (), "z_channels": 3, "codebook_size": 8192, "code_dim": 3}
    return VQGAN(**fine | args)


def llamagen_ds16(**args: Any) -> VQGAN:
    """16×16 codes of 256 px, 16,384 of unit length in eight dimensions (Sun et al. 2024)."""
    unit: dict[str, Any] = {"codebook_size": 16384, "code_dim": 8, "metric": "cosine"}
    return VQGAN(**unit | args)


def llamagen_ds8(**args: Any) -> VQGAN:
    """32×32 codes of 256 px, 16,384 of unit length in eight dimensions (Sun et al. 2024)."""
    fine: dict[str, Any] = {
        "mults": (1, 2, 2, 4),
        "attention": (3,),
        "codebook_size": 16384,
        "code_dim": 8,
        "metric": "cosine",
    }
    return VQGAN(**fine | args)
