"""VQGAN's autoencoder (Esser et al. 2021), which LlamaGen's tokenisers (Sun et al. 2024) and diffusers' VQModel share.

Tensor names are taming's: levels count from the finest. The discriminator and the losses against it are in training.

B images · C H W channels and sides in pixels · h w the grid of codes, H/f and W/f · D width of a code · E channels
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from zoo.families.vq.quantize import VectorQuantizer, VQOutput
from zoo.nn.checkpointing import Checkpointed, recompute
from zoo.nn.checks import check_images, check_ints, check_least, sides
from zoo.nn.protocols import PIXELS, Input, Kind, Network


class VQGAN(Checkpointed, Network):
    """Convolutional encoder and decoder around a vector quantiser (Esser et al. 2021, §3.1, table 7).

    Any image whose sides are multiples of f = 2^(levels - 1) goes through; `image_size` is what it was trained at.

    Args:
        image_size: side in pixels, or (height, width).
        channels: C.
        width: E of the finest level.
        mults: E of each level over `width`; a level after the first halves the sides.
        res_blocks: of each level of the encoder; the decoder has one more.
        attention: levels with self-attention after each block, counted from the finest.
        mid_attention: self-attention between the two middle blocks.
        z_channels: what the encoder gives, before a 1×1 convolution to D.
        codebook_size, code_dim: K and D.
        metric: "l2", or "cosine" (LlamaGen).
        legacy_beta: β on the codebook loss, as every released taming model was trained.
        mean, std: what the network sees is (pixels - mean) / std: [-1, 1], or [0, 1] with 0 and 1 (aMUSEd).

    Raises:
        ValueError: sides that are no multiple of f, or a level that is not there.
    """

    kind: ClassVar[Kind] = "image"

    def __init__(
        self,
        image_size: int | tuple[int, int] = 256,
        channels: int = 3,
        width: int = 128,
        mults: tuple[int, ...] = (1, 1, 2, 2, 4),
        res_blocks: int = 2,
        attention: tuple[int, ...] = (4,),
        mid_attention: bool = True,
        z_channels: int = 256,
        codebook_size: int = 1024,
        code_dim: int = 256,
        metric: str = "l2",
        legacy_beta: bool = False,
        mean: float = 0.5,
        std: float = 0.5,
    ):
        super().__init__()
        check_least(1, channels=channels, width=width, mults=mults)
        if any(not 0 <= level < len(mults) for level in attention):
            raise ValueError(f"attention={tuple(attention)}, allowed levels are 0 to {len(mults) - 1}, the coarsest")
        self.takes = Input(self.kind, (channels, *sides(image_size)), PIXELS)
        self.mean, self.std = mean, std
        self.factor = 2 ** (len(mults) - 1)
        _check_sides(self.takes.shape[1:], self.factor)
        self.encoder = Encoder(channels, width, mults, res_blocks, attention, mid_attention, z_channels)
        self.quant_conv = nn.Conv2d(z_channels, code_dim, 1)
        self.quantizer = VectorQuantizer(codebook_size, code_dim, "grad", metric, legacy_beta=legacy_beta)
        self.post_quant_conv = nn.Conv2d(code_dim, z_channels, 1)
        self.decoder = Decoder(channels, width, mults, res_blocks, attention, mid_attention, z_channels)

    def forward(self, x: Tensor, update: bool | None = None) -> VQOutput:
        """Images (B, C, H, W), float pixels in [0, 1] → reconstruction, codes, `mean |x̂ - x|` and the codes' losses.

        The perceptual and the adversarial terms need other networks: see LitVQGAN.

        Raises:
            ValueError: sides that are no multiple of f, channels, dtype; in eval mode NaN or pixels outside [0, 1].
        """
        out = self.quantizer(self.forward_features(x).movedim(1, -1), update=update)
        recon = self._decode(out.z_q)  # (B, C, H, W)
        losses = {"reconstruction": (recon - x).abs().mean()} | out.losses
        return VQOutput(sum(losses.values()), recon, out.indices, losses, out.stats)

    def forward_features(self, x: Tensor) -> Tensor:
        """What is about to be quantised: images (B, C, H, W) → (B, D, h, w)."""
        check_images(x, self.takes, any_size=True, values=not self.training)
        _check_sides(x.shape[2:], self.factor)
        x = ((x - self.mean) / self.std).to(self.encoder.conv_in.weight.dtype)
        return self.quant_conv(self.encoder(x))  # (B, D, h, w)

    def encode(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) → indices (B, h, w) int64."""
        return self.quantizer.encode(self.forward_features(x).movedim(1, -1))

    def decode(self, indices: Tensor) -> Tensor:
        """Indices (B, h, w) int64 → images (B, C, H, W), clamped to [0, 1]."""
        check_ints(indices, "indices", ("B", "h", "w"), 0, self.quantizer.codebook_size, "encode gives them")
        return self._decode(self.quantizer.decode(indices)).clamp(0, 1)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) → the same after the codes, clamped to [0, 1]."""
        return self.decode(self.encode(x))

    def count_codes(self) -> int:
        """K."""
        return self.quantizer.codebook_size

    def _decode(self, q: Tensor) -> Tensor:
        q = q.movedim(-1, 1).to(self.post_quant_conv.weight.dtype)  # (B, D, h, w)
        return self.decoder(self.post_quant_conv(q)) * self.std + self.mean  # (B, C, H, W)


class Encoder(nn.Module):
    """Images (B, C, H, W), about [-1, 1] → (B, z, h, w)."""

    def __init__(
        self,
        channels: int,
        width: int,
        mults: Sequence[int],
        res_blocks: int,
        attention: Sequence[int],
        mid_attention: bool,
        z_channels: int,
    ):
        super().__init__()
        self.conv_in = nn.Conv2d(channels, width, 3, padding=1)
        self.down = nn.ModuleList()
        widths = [width * mult for mult in mults]
        for i, (width_in, width_out) in enumerate(pairwise([width, *widths])):
            level = Level([width_in, *[width_out] * res_blocks], i in attention)
            if i < len(mults) - 1:
                level.downsample = Downsample(width_out)
            self.down.append(level)
        self.mid = Middle(widths[-1], mid_attention)
        self.norm_out = _norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], z_channels, 3, padding=1)
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)  # (B, E, H, W)
        for level in self.down:
            x = level(x, self.grad_checkpointing)  # (B, E', H/2, W/2), of the last level (B, E', H, W)
        x = self.mid(x, self.grad_checkpointing)
        return self.conv_out(F.silu(self.norm_out(x)))  # (B, z, h, w)


class Decoder(nn.Module):
    """Codes (B, z, h, w) → images (B, C, H, W), about [-1, 1]."""

    def __init__(
        self,
        channels: int,
        width: int,
        mults: Sequence[int],
        res_blocks: int,
        attention: Sequence[int],
        mid_attention: bool,
        z_channels: int,
    ):
        super().__init__()
        widths = [width * mult for mult in mults]
        self.conv_in = nn.Conv2d(z_channels, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1], mid_attention)
        levels = []
        for i in reversed(range(len(mults))):
            width_in = widths[min(i + 1, len(mults) - 1)]  # of the coarser level before it
            level = Level([width_in, *[widths[i]] * (res_blocks + 1)], i in attention)
            if i:
                level.upsample = Upsample(widths[i])
            levels.append(level)
        self.up = nn.ModuleList(reversed(levels))  # from the finest level, as the encoder's
        self.norm_out = _norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], channels, 3, padding=1)
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid(self.conv_in(x), self.grad_checkpointing)  # (B, E, h, w)
        for level in reversed(self.up):
            x = level(x, self.grad_checkpointing)  # (B, E', 2h, 2w), of the finest level (B, E', h, w)
        return self.conv_out(F.silu(self.norm_out(x)))  # (B, C, H, W)


class Level(nn.Module):
    """The blocks of one resolution, then the way to the next where there is one: down or up."""

    def __init__(self, widths: Sequence[int], attention: bool):
        super().__init__()
        self.block = nn.ModuleList(ResnetBlock(a, b) for a, b in pairwise(widths))
        self.attn = nn.ModuleList(AttentionBlock(width) for width in widths[1:] if attention)
        self.downsample: Downsample | None = None
        self.upsample: Upsample | None = None

    def forward(self, x: Tensor, grad_checkpointing: bool) -> Tensor:
        for i, block in enumerate(self.block):
            for part in (block, *self.attn[i : i + 1]):
                x = recompute(part, x) if grad_checkpointing else part(x)  # (B, E, H, W)
        for resample in (self.downsample, self.upsample):
            x = x if resample is None else resample(x)  # (B, E, H/2, W/2) or (B, E, 2H, 2W)
        return x


class Middle(nn.Module):
    """Two blocks at the coarsest level, with or without self-attention between them."""

    def __init__(self, width: int, attention: bool):
        super().__init__()
        self.block_1, self.block_2 = ResnetBlock(width, width), ResnetBlock(width, width)
        self.attn_1 = AttentionBlock(width) if attention else None

    def forward(self, x: Tensor, grad_checkpointing: bool) -> Tensor:
        for part in (self.block_1, self.attn_1, self.block_2):
            if part is not None:
                x = recompute(part, x) if grad_checkpointing else part(x)  # (B, E, h, w)
        return x


class ResnetBlock(nn.Module):
    """Norm, SiLU, convolution, twice, beside the input or a 1×1 convolution of it."""

    def __init__(self, width_in: int, width: int):
        super().__init__()
        self.norm1, self.conv1 = _norm(width_in), nn.Conv2d(width_in, width, 3, padding=1)
        self.norm2, self.conv2 = _norm(width), nn.Conv2d(width, width, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(width_in, width, 1) if width_in != width else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))  # (B, E', H, W)
        return y + (x if self.nin_shortcut is None else self.nin_shortcut(x))


class AttentionBlock(nn.Module):
    """Self-attention over all places, one head as wide as the map."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = _norm(width)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        q, k, v = (f(y).flatten(2).mT[:, None] for f in (self.q, self.k, self.v))  # (B, 1, h·w, E) each
        y = F.scaled_dot_product_attention(q, k, v)[:, 0].mT  # (B, E, h·w)
        return x + self.proj_out(y.reshape(x.shape))


class Downsample(nn.Module):
    """Halves the sides; zeros stand to the right and below only, as in the authors' code."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # (B, E, H/2, W/2)


class Upsample(nn.Module):
    """Doubles the sides by repetition, then a convolution."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))  # (B, E, 2H, 2W)


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, width, 1e-6)


def _check_sides(shape: Sequence[int], factor: int) -> None:
    if any(side % factor for side in shape):
        near = "×".join(str(max(factor, round(side / factor) * factor)) for side in shape)
        raise ValueError(
            f"images are {shape[0]}×{shape[1]} px, no multiples of {factor}, the side of a code; resize to {near}"
        )
