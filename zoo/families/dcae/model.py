"""DC-AE (Chen et al. 2024, arXiv:2410.10733) and 1.5 (2025): images to few, deep latents and back.

Nothing is random and nothing regularises the latents: this is an autoencoder, not a VAE.

B images of a batch · C channels · H W sides in pixels · D channels of a map h × w · c channels of the latent · f = 2^n
from pixels to latents · N = h · w
"""

import copy
from itertools import pairwise, product
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.nn.checkpointing import Checkpointed, recompute
from zoo.nn.checks import check_floats, check_images, check_least, check_types, sides
from zoo.nn.protocols import PIXELS, Input
from zoo.nn.tiles import tiled

SHORTCUTS = ("grouped", "isotropic", "none")
HEAD = 32  # channels of a head
EPS = 1e-5  # of the RMS norms


class DCAEOutput(NamedTuple):
    """What a training pass gives."""

    loss: Tensor  # (), mean |x̂ - x|, pixels in [0, 1]
    recon: Tensor  # (B, C, H, W), not clamped
    latents: Tensor  # (B, c, H/f, W/f)


class DCAE(Checkpointed, nn.Module):
    """Convolutions near the pixels, linear attention near the latents, and shortcuts that reshape space into channels.

    Any image whose sides are multiples of f = 2^(stages - 1) goes through; `image_size` is what it was trained at.

    Args:
        image_size: side in pixels, or (height, width).
        channels: C.
        latent_channels: c.
        widths: D of each stage, the finest first; a stage after the first halves the sides.
        encoder_depths, decoder_depths: blocks of each stage. 0 at the first leaves full resolution to one convolution.
        encoder_attention, decoder_attention: stages whose blocks attend; all others convolve.
        scales: kernels of attention's further, locally mixed queries, keys and values: (5,) in Sana's.
        strided: halve by strided convolutions, not by moving pixels into channels (Sana's).
        interpolate: double by repeating pixels, not by moving channels into pixels (Sana's).
        batchnorm_stages: so many of the decoder's finest stages have batch norm and ReLU (as published, 3).
        head_act: before the decoder's last convolution, "relu" or "silu".
        shortcut: residual autoencoding (§3.2): "grouped" as published, whose averages of two join neighbours along one
            axis only; "isotropic", which turns the axis with every other channel; "none" leaves them all out.
        latent_shortcut: also around the convolutions to and from the latent; 1.5 has none there.
        stem: "conv", or "haar": the first halving is a Haar transform (Sadat et al. 2024, LiteVAE, §4.1).
        low_rank: a matrix on the latents whose nuclear norm training can hold down (Mounayer et al. 2023, LoRAE).
        latent_scale: where the publisher states one, what a diffusion model multiplies latents by.

    Raises:
        ValueError: sides that are no multiple of f, widths that shortcuts or heads do not divide, an unknown choice.
    """

    kind = "image"

    def __init__(
        self,
        image_size: int | tuple[int, int] = 256,
        channels: int = 3,
        latent_channels: int = 32,
        widths: tuple[int, ...] = (128, 256, 512, 512, 1024, 1024),
        encoder_depths: tuple[int, ...] = (0, 4, 8, 2, 2, 2),
        decoder_depths: tuple[int, ...] = (0, 5, 10, 2, 2, 2),
        encoder_attention: tuple[int, ...] = (3, 4, 5),
        decoder_attention: tuple[int, ...] = (3, 4, 5),
        scales: tuple[int, ...] = (),
        strided: bool = False,
        interpolate: bool = False,
        batchnorm_stages: int = 3,
        head_act: str = "relu",
        shortcut: str = "grouped",
        latent_shortcut: bool = True,
        stem: str = "conv",
        low_rank: bool = False,
        latent_scale: float = 1.0,
    ):
        super().__init__()
        check_least(1, channels=channels, latent_channels=latent_channels, widths=widths)
        _check_choices(shortcut, stem, head_act)
        _check_stages(widths, encoder_depths, decoder_depths, encoder_attention, decoder_attention)
        if latent_shortcut and shortcut != "none" and widths[-1] % latent_channels:
            raise ValueError(f"latent_channels={latent_channels} do not divide the last width, {widths[-1]}")
        self.takes = Input(self.kind, (channels, *sides(image_size)), PIXELS)
        self.factor = 2 ** (len(widths) - 1)
        _check_sides(self.takes.shape[1:], self.factor)
        at_latent = latent_shortcut and shortcut != "none"
        self.encoder = Encoder(
            channels, latent_channels, widths, encoder_depths, encoder_attention, scales, strided, shortcut, at_latent,
            stem,
        )  # fmt: skip
        self.low_rank = nn.Conv2d(latent_channels, latent_channels, 1, bias=False) if low_rank else None
        self.decoder = Decoder(
            channels, latent_channels, widths, decoder_depths, decoder_attention, scales, interpolate, shortcut,
            at_latent, batchnorm_stages, head_act,
        )  # fmt: skip
        self.register_buffer("latent_mean", torch.zeros(latent_channels))
        self.register_buffer("latent_std", torch.full((latent_channels,), 1 / latent_scale))

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(c, h, w) of an image of the model's size."""
        return self.latent_channels, *(side // self.factor for side in self.takes.shape[1:])

    @property
    def latent_channels(self) -> int:
        return len(self.latent_mean)

    def forward(self, x: Tensor) -> DCAEOutput:
        """Images (B, C, H, W), float pixels in [0, 1] → mean |x̂ - x|, reconstructions, latents.

        The perceptual and the adversarial terms need other networks: see LitDCAE.
        """
        z = self.encode(x)  # (B, c, H/f, W/f)
        recon = self.decode_unclamped(z)  # (B, C, H, W)
        return DCAEOutput((recon - x).abs().mean(), recon, z)

    def encode(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) → latents (B, c, H/f, W/f), as the decoder takes them; `normalise` is for diffusion.

        Raises:
            ValueError: sides that are no multiple of f, channels, dtype; in eval mode NaN or pixels outside [0, 1].
        """
        check_images(x, self.takes.shape[0], None, None, values=not self.training)
        if not len(x):  # torch's pixel_unshuffle gets the channels of none wrong
            raise ValueError(f"images are {tuple(x.shape)}, expected at least one; leave empty batches out")
        _check_sides(x.shape[2:], self.factor)
        x = (2 * x - 1).to(self.encoder.head.weight.dtype)
        z = self.encoder(x.contiguous(memory_format=torch.channels_last))  # (B, c, H/f, W/f)
        return z if self.low_rank is None else self.low_rank(z)  # (B, c, H/f, W/f)

    forward_features = encode

    def decode(self, z: Tensor) -> Tensor:
        """Latents (B, c, h, w) → images (B, C, f·h, f·w), clamped to [0, 1].

        Raises:
            ValueError: other channels, or float16 that overflows on the way.
        """
        x = self.decode_unclamped(z)  # (B, C, f·h, f·w)
        if x.dtype == torch.float16 and not torch.compiler.is_compiling() and not x.isfinite().all():
            raise ValueError("float16 overflows in this decoder; use bfloat16 or float32")
        return x.clamp(0, 1)

    def reconstruct(self, x: Tensor, keep: int | None = None) -> Tensor:
        """Images (B, C, H, W) → the same after the latents, of which the first `keep` channels count."""
        z = self.encode(x)
        return self.decode(z if keep is None else mask_channels(z, keep))

    def normalise(self, z: Tensor) -> Tensor:
        """Latents → about mean 0 and deviation 1, channel by channel, as diffusion wants them."""
        self._check_latents(z)
        return (z - self.latent_mean[:, None, None]) / self.latent_std[:, None, None]

    def denormalise(self, z: Tensor) -> Tensor:
        """The inverse of `normalise`."""
        self._check_latents(z)
        return z * self.latent_std[:, None, None] + self.latent_mean[:, None, None]

    def encode_tiled(self, x: Tensor, tile: int = 512, overlap: int = 128, batch_size: int = 1) -> Tensor:
        """As `encode`, in overlapping square tiles of so many pixels: memory does not grow with the image.

        Attention sees a tile only, so that latents differ a little from those of the whole.
        """
        check_types(DCAE.encode_tiled, locals())
        check_images(x, self.takes.shape[0], None, None, values=False)
        if tile % self.factor or overlap % self.factor:
            raise ValueError(f"tile={tile}, overlap={overlap}: no multiples of {self.factor}, the side of a latent")
        return tiled(self.encode, x, tile, overlap, (1, self.factor), batch_size)

    def decode_tiled(self, z: Tensor, tile: int = 16, overlap: int = 4, batch_size: int = 1) -> Tensor:
        """As `decode`, in overlapping square tiles of so many latents."""
        check_types(DCAE.decode_tiled, locals())
        self._check_latents(z)
        return tiled(self.decode, z, tile, overlap, (self.factor, 1), batch_size)

    @torch.no_grad()
    def fused(self, dtype: torch.dtype | None = None) -> "DCAE":
        """A copy for inference alone, the same function with fewer products: batch norms and shortcuts are folded.

        Args:
            dtype: of weights and activations; None is bfloat16 where the machine multiplies it fast, else as they are.
        """
        model = copy.deepcopy(self).eval().requires_grad_(False)
        for module in list(model.modules()):
            if hasattr(module, "fuse"):
                module.fuse()
        if dtype is None and _fast_bfloat16(self.latent_mean.device):
            dtype = torch.bfloat16
        vars(model).pop("zoo_config", None)  # no arch has these tensors
        return model.to(dtype=dtype, memory_format=torch.channels_last)

    def decode_unclamped(self, z: Tensor) -> Tensor:
        """As `decode`, for losses."""
        self._check_latents(z)
        if not z.numel():
            raise ValueError(f"latents are {tuple(z.shape)}, expected at least one; leave empty batches out")
        z = z.to(self.decoder.stem.weight.dtype).contiguous(memory_format=torch.channels_last)
        return (self.decoder(z) + 1) / 2  # (B, C, f·h, f·w)

    def _check_latents(self, z: Tensor) -> None:
        check_floats(z, "latents", ("B", self.latent_channels, "h", "w"), "another variant made them")


class Encoder(nn.Module):
    """Images (B, C, H, W) in [-1, 1] → latents (B, c, H/f, W/f)."""

    def __init__(self, channels, latents, widths, depths, attention, scales, strided, shortcut, at_latent, stem):
        super().__init__()
        if stem == "haar":
            if depths[0]:
                raise ValueError(f"stem='haar' halves the sides: the first stage has no blocks, not {depths[0]}")
            self.stem = HaarStem(channels, widths[1])
        elif depths[0]:
            self.stem = nn.Conv2d(channels, widths[0], 3, padding=1)
        else:
            self.stem = Down(channels, widths[1], strided, "none")
        self.stages = nn.ModuleList()
        for i, (width, depth) in enumerate(zip(widths, depths)):
            stage = nn.Module()
            stage.blocks = nn.ModuleList(
                AttentionBlock(width, scales) if i in attention else ResBlock(width) for _ in range(depth)
            )
            stage.down = Down(width, widths[i + 1], strided, shortcut) if depth and i < len(widths) - 1 else None
            self.stages.append(stage)
        self.head = LatentHead(widths[-1], latents, at_latent)
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)  # (B, D, H, W), or of half the sides
        for stage in self.stages:
            x = _through(stage.blocks, x, self.grad_checkpointing)  # (B, D, h, w)
            if stage.down is not None:
                x = stage.down(x)  # (B, D', h/2, w/2)
        return self.head(x)  # (B, c, H/f, W/f)


class Decoder(nn.Module):
    """Latents (B, c, h, w) → images (B, C, f·h, f·w) in [-1, 1]."""

    def __init__(
        self, channels, latents, widths, depths, attention, scales, interpolate, shortcut, at_latent, batchnorms,
        head_act,
    ):  # fmt: skip
        super().__init__()
        self.stem = LatentStem(latents, widths[-1], at_latent)
        self.stages = nn.ModuleList()
        for i, (width, depth) in enumerate(zip(widths, depths)):
            stage = nn.Module()
            stage.up = Up(widths[i + 1], width, interpolate, shortcut) if depth and i < len(widths) - 1 else None
            stage.blocks = nn.ModuleList(
                AttentionBlock(width, scales) if i in attention else ResBlock(width, i < batchnorms)
                for _ in range(depth)
            )
            self.stages.append(stage)
        self.norm = RMSNorm2d(widths[0] if depths[0] else widths[1])
        self.act = F.relu if head_act == "relu" else F.silu
        if depths[0]:
            self.head = nn.Conv2d(widths[0], channels, 3, padding=1)
        else:
            self.head = Up(widths[1], channels, interpolate, "none")
        self.grad_checkpointing = False

    def forward(self, z: Tensor) -> Tensor:
        x = self.stem(z)  # (B, D, h, w)
        for stage in reversed(self.stages):
            if stage.up is not None:
                x = stage.up(x)  # (B, D', 2h, 2w)
            x = _through(stage.blocks, x, self.grad_checkpointing)  # (B, D, h, w)
        return self.head(self.act(self.norm(x)))  # (B, C, f·h, f·w)


# Blocks: there is no norm before anything, each branch ends in one.


class ResBlock(nn.Module):
    """`x + norm(conv(act(conv x)))`, with batch norm and ReLU or RMS norm and SiLU."""

    def __init__(self, width: int, batchnorm: bool = False):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.act = F.relu if batchnorm else F.silu
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width) if batchnorm else RMSNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.conv2(self.act(self.conv1(x))))  # (B, D, h, w)

    def fuse(self) -> None:
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv2, self.norm = nn.utils.fuse_conv_bn_eval(self.conv2, self.norm), nn.Identity()


class AttentionBlock(nn.Module):
    """Linear attention for what is far, a gated depthwise convolution for what is near (Cai et al. 2023)."""

    def __init__(self, width: int, scales: tuple[int, ...]):
        super().__init__()
        self.attn = LinearAttention(width, scales)
        self.ffn = GatedConv(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x)  # (B, D, h, w)
        return x + self.ffn(x)  # (B, D, h, w)


class LinearAttention(nn.Module):
    """`φ(q) Σ φ(k)ᵀ v / φ(q) Σ φ(k)ᵀ` with φ = ReLU (Cai et al. 2023, §3.1), then a 1×1 convolution and a norm.

    Rows of `qkv` lie head by head, as q, k, v of 32 channels each: so every released file has them.
    """

    def __init__(self, width: int, scales: tuple[int, ...]):
        super().__init__()
        self.qkv = nn.Conv2d(width, 3 * width, 1, bias=False)
        self.aggreg = nn.ModuleList(LocalMixing(3 * width, scale) for scale in scales)
        self.proj = nn.Conv2d(width * (1 + len(scales)), width, 1, bias=False)
        self.norm = RMSNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        qkv = self.qkv(x)  # (B, 3D, h, w)
        if self.aggreg:
            qkv = torch.cat([qkv, *(mix(qkv) for mix in self.aggreg)], 1)  # (B, 3D·(1 + scales), h, w)
        q, k, v = qkv.permute(0, 2, 3, 1).reshape(b, h * w, -1, 3 * HEAD).transpose(1, 2).split(HEAD, -1)
        y = attend_linearly(q, k, v)  # (B, heads, N, 32)
        y = y.transpose(1, 2).reshape(b, h, w, -1).permute(0, 3, 1, 2)  # (B, D·(1 + scales), h, w)
        return self.norm(self.proj(y))  # (B, D, h, w)


class LocalMixing(nn.Module):
    """Queries, keys and values of a neighbourhood: a depthwise convolution, then 1×1 in groups of 32."""

    def __init__(self, width: int, kernel: int):
        super().__init__()
        self.dw = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width, bias=False)
        self.pw = nn.Conv2d(width, width, 1, groups=width // HEAD, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.pw(self.dw(x))  # (B, 3D, h, w)


class GatedConv(nn.Module):
    """1×1, depthwise 3×3, a gate, 1×1, norm; four times as wide inside (GLUMBConv)."""

    def __init__(self, width: int):
        super().__init__()
        self.inverted = nn.Conv2d(width, 8 * width, 1)
        self.depthwise = nn.Conv2d(8 * width, 8 * width, 3, padding=1, groups=8 * width)
        self.point = nn.Conv2d(4 * width, width, 1, bias=False)
        self.norm = RMSNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.depthwise(F.silu(self.inverted(x))).chunk(2, 1)  # (B, 4D, h, w) each
        return self.norm(self.point(x * F.silu(gate)))  # (B, D, h, w)


class Down(nn.Module):
    """Halves the sides: pixels move into channels after a convolution, beside the mean of groups of them."""

    def __init__(self, width_in: int, width: int, strided: bool, shortcut: str):
        super().__init__()
        self.strided, self.shortcut, self.width = strided, shortcut, width
        self.conv = nn.Conv2d(width_in, width if strided else width // 4, 3, 2 if strided else 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)  # (B, D', h/2, w/2), or (B, D'/4, h, w)
        if not self.strided:
            y = F.pixel_unshuffle(y, 2)  # (B, D', h/2, w/2)
        if self.shortcut == "none":
            return y
        if x.shape[1] == self.width:
            return y + F.avg_pool2d(x, 2)  # (B, D', h/2, w/2)
        moved = F.pixel_unshuffle(x, 2)  # (B, 4D, h/2, w/2)
        if self.shortcut == "isotropic":
            moved = _turn(moved)
        return y + moved.unflatten(1, (self.width, -1)).mean(2)  # (B, D', h/2, w/2)


class Up(nn.Module):
    """Doubles the sides: channels move into pixels after a convolution, beside the input's channels, repeated."""

    def __init__(self, width_in: int, width: int, interpolate: bool, shortcut: str):
        super().__init__()
        self.interpolate, self.shortcut, self.repeats = interpolate, shortcut, 4 * width // width_in
        self.conv = nn.Conv2d(width_in, width if interpolate else 4 * width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if self.interpolate:
            y = self.conv(F.interpolate(x, scale_factor=2.0))  # (B, D', 2h, 2w)
            return y if self.shortcut == "none" else y + F.pixel_shuffle(self._repeated(x), 2)  # (B, D', 2h, 2w)
        y = self.conv(x)  # (B, 4D', h, w)
        if self.shortcut != "none":
            y = y + self._repeated(x)  # (B, 4D', h, w)
        return F.pixel_shuffle(y, 2)  # (B, D', 2h, 2w)

    def _repeated(self, x: Tensor) -> Tensor:
        y = x.repeat_interleave(self.repeats, 1)  # (B, 4D', h, w)
        return _turn(y) if self.shortcut == "isotropic" else y

    def fuse(self) -> None:
        """The shortcut into the middle of the kernel; repeated pixels into kernels that see each once."""
        width_in = self.conv.in_channels
        channels = torch.eye(width_in, dtype=self.conv.weight.dtype)[:, :, None, None]  # (D, D, 1, 1)
        repeated = self._repeated(channels)[:, :, 0, 0].T if self.shortcut != "none" else 0  # (4D', D)
        if self.interpolate:
            self.conv = DoublingConv(self.conv, repeated)
        else:
            self.conv.weight[:, :, 1, 1] += repeated
        self.interpolate, self.shortcut = False, "none"


class DoublingConv(nn.Module):
    """3×3 over an image whose pixels are repeated twice along each axis, as four kernels of 2×2 over the image itself.

    Of the 3×3 pixels around a repeated one, only 2×2 differ, and which these are depends on its row's and column's
    parity: the kernel's weights on equal pixels are summed. 16 products instead of 36.
    """

    def __init__(self, conv: nn.Conv2d, shortcut: Tensor | int):
        super().__init__()
        rows = conv.weight.new_tensor([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])  # (parity, 2, 3)
        kernels = torch.einsum("aik,bjl,odkl->oabdij", rows, rows, conv.weight)  # (D', 2, 2, D, 2, 2)
        middle = kernels.new_zeros(kernels.shape)
        for a, b in product(range(2), range(2)):  # the pixel itself lies at 1 - parity
            if isinstance(shortcut, Tensor):
                middle[:, a, b, :, 1 - a, 1 - b] = shortcut.unflatten(0, (-1, 2, 2))[:, a, b]
        self.weight = nn.Parameter((kernels + middle).flatten(0, 2), requires_grad=False)  # (4D', D, 2, 2)
        self.bias = nn.Parameter(conv.bias.repeat_interleave(4), requires_grad=False)  # (4D',)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        y = F.conv2d(x, self.weight, self.bias, padding=1)  # (B, 4D', h + 1, w + 1)
        y = y.unflatten(1, (-1, 2, 2))  # (B, D', 2, 2, h + 1, w + 1)
        parts = [y[:, :, i, j, i : i + h, j : j + w] for i, j in product(range(2), range(2))]  # (B, D', h, w) each
        return torch.stack(parts, 2).flatten(1, 2)  # (B, 4D', h, w)


class LatentHead(nn.Conv2d):
    """A convolution to the latents, beside the mean of consecutive channels."""

    def __init__(self, width: int, latents: int, shortcut: bool):
        super().__init__(width, latents, 3, padding=1)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        z = super().forward(x)  # (B, c, h, w)
        return z + x.unflatten(1, (len(self.weight), -1)).mean(2) if self.shortcut else z  # (B, c, h, w)

    def fuse(self) -> None:
        if self.shortcut:
            group = self.in_channels // self.out_channels
            mean = torch.eye(self.out_channels).repeat_interleave(group, 1) / group  # (c, D)
            self.weight[:, :, 1, 1] += mean.to(self.weight)
            self.shortcut = False


class LatentStem(nn.Conv2d):
    """A convolution of the latents, beside their repetition."""

    def __init__(self, latents: int, width: int, shortcut: bool):
        super().__init__(latents, width, 3, padding=1)
        self.shortcut = shortcut

    def forward(self, z: Tensor) -> Tensor:
        x = super().forward(z)  # (B, D, h, w)
        return x + z.repeat_interleave(len(self.weight) // z.shape[1], 1) if self.shortcut else x  # (B, D, h, w)

    def fuse(self) -> None:
        if self.shortcut:
            repeats = self.out_channels // self.in_channels
            self.weight[:, :, 1, 1] += torch.eye(self.in_channels).repeat_interleave(repeats, 0).to(self.weight)
            self.shortcut = False


class HaarStem(nn.Module):
    """A Haar transform, which halves the sides and loses nothing, then a convolution (Sadat et al. 2024, §4.1)."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.conv = nn.Conv2d(4 * channels, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(haar(x))  # (B, D, H/2, W/2)


class RMSNorm2d(nn.Module):
    """Divides each place by the root mean square of its channels, then scale and shift (RMSNorm with a bias)."""

    def __init__(self, width: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)  # (B, h, w, D)
        weight, bias = self.weight, self.bias
        if x.device.type == "cpu" and not torch.compiler.is_compiling():
            x = CPURMSNorm.apply(x.contiguous(), weight, bias)  # (B, h, w, D)
        else:  # the fused kernel wants one dtype
            y = F.rms_norm(x, weight.shape, weight.to(x.dtype), EPS).to(x.dtype)  # autocast gives float32
            x = y + bias.to(x.dtype)  # (B, h, w, D)
        return x.permute(0, 3, 1, 2)  # (B, D, h, w)


class CPURMSNorm(torch.autograd.Function):
    """`x / √(mean x² + ε) · weight + bias` over the last axis.

    torch's own has no kernel for a CPU (2.15): its backward pass takes 3 to 8 times as long as this one, which takes
    layer norm's with a mean of zero, and adds what that subtracts: the mean of the gradient.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        exact = torch.promote_types(x.dtype, torch.float32)
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=exact)  # (..., 1)
        scale = (norm.square() / x.shape[-1] + EPS).rsqrt()  # (..., 1)
        ctx.save_for_backward(x, weight, scale)
        y = x * scale  # (..., D), at least float32
        return torch.addcmul(bias, y, weight, out=y).to(x.dtype)  # (..., D)

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight, scale = ctx.saved_tensors
        of_norm = torch.ops.aten.native_layer_norm_backward
        dx, dweight, dbias = of_norm(
            dy.contiguous(), x, weight.shape, torch.zeros_like(scale), scale, weight, weight, [True] * 3
        )
        with torch.autocast("cpu", enabled=False):
            mean = dy.to(weight.dtype) @ weight / x.shape[-1]  # (...)
        return dx.add_(mean[..., None] * scale), dweight, dbias  # (..., D), (D,), (D,)


def attend_linearly(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`φ(q) Σ φ(k)ᵀ v / (φ(q) Σ φ(k)ᵀ)`, φ = ReLU, of (B, heads, N, 32) each; sums in float32 whatever the autocast."""
    dtype, exact = q.dtype, torch.promote_types(q.dtype, torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        q, k, v = F.relu(q).to(exact), F.relu(k).to(exact), v.to(exact)  # (B, heads, N, 32) each
        y = q @ (k.mT @ v)  # (B, heads, N, 32)
        return (y / (q @ k.sum(2)[..., None] + 1e-15)).to(dtype)  # (B, heads, N, 32)


def haar(x: Tensor) -> Tensor:
    """The orthonormal Haar transform: (B, C, H, W) → (B, 4C, H/2, W/2), of each channel mean, and details."""
    signs = x.new_tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
    y = F.pixel_unshuffle(x, 2).unflatten(1, (-1, 4))  # (B, C, 4, H/2, W/2)
    return torch.einsum("sp,bcphw->bcshw", signs, y).flatten(1, 2)  # (B, 4C, H/2, W/2)


def mask_channels(z: Tensor, keep: int) -> Tensor:
    """Latents (B, c, h, w) with all but the first `keep` channels zero (Chen et al. 2025, DC-AE 1.5, §3.2).

    Raises:
        ValueError: more channels than there are, or none.
    """
    if not 1 <= keep <= z.shape[1]:
        raise ValueError(f"keep={keep}, allowed 1 to {z.shape[1]} channels")
    return F.pad(z[:, :keep], (0, 0, 0, 0, 0, z.shape[1] - keep))  # (B, c, h, w)


def _turn(moved: Tensor) -> Tensor:
    """Channels (D, row, column) of moved pixels: rows and columns change places in every other D."""
    y = moved.unflatten(1, (-1, 2, 2, 2))  # (B, D/2, 2, 2, 2, h, w)
    return torch.stack([y[:, :, 0], y[:, :, 1].transpose(2, 3)], 2).flatten(1, 4)  # (B, 4D, h, w)


def _through(blocks: nn.ModuleList, x: Tensor, grad_checkpointing: bool) -> Tensor:
    for block in blocks:
        x = recompute(block, x) if grad_checkpointing else block(x)
    return x


def _fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    has = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def _check_choices(shortcut: str, stem: str, head_act: str) -> None:
    for name, given, allowed in (
        ("shortcut", shortcut, SHORTCUTS),
        ("stem", stem, ("conv", "haar")),
        ("head_act", head_act, ("relu", "silu")),
    ):
        if given not in allowed:
            raise ValueError(f"{name}={given!r}, allowed {', '.join(allowed)}")


def _check_stages(widths, encoder_depths, decoder_depths, encoder_attention, decoder_attention) -> None:
    count = len(widths)
    if not len(encoder_depths) == len(decoder_depths) == count > 1:
        raise ValueError(
            f"widths={tuple(widths)}, encoder_depths={tuple(encoder_depths)}, decoder_depths={tuple(decoder_depths)}: "
            "one of each for each stage, of at least two"
        )
    for name, depths in (("encoder_depths", encoder_depths), ("decoder_depths", decoder_depths)):
        if 0 in depths[1:]:
            raise ValueError(f"{name}={tuple(depths)}: only the first stage may have no blocks")
    for stage in {*encoder_attention, *decoder_attention}:
        if not 0 <= stage < count:
            raise ValueError(f"attention in stage {stage}, allowed 0 to {count - 1}, the coarsest")
        if widths[stage] % HEAD:
            raise ValueError(f"stage {stage} is {widths[stage]} wide, attention needs a multiple of {HEAD}")
    for a, b in pairwise(widths):
        if b % 4 or 4 * a % b or 4 * b % a:
            raise ValueError(
                f"widths {a} and {b}: the second must be a multiple of 4, and each must divide four times the other"
            )


def _check_sides(shape: torch.Size | tuple[int, int], factor: int) -> None:
    if any(side % factor for side in shape):
        near = "×".join(str(max(factor, round(side / factor) * factor)) for side in shape)
        raise ValueError(
            f"images are {shape[0]}×{shape[1]} px, no multiples of {factor}, the side of a latent; resize to {near}"
        )


# Archs


def dcae_f32c32(**args) -> DCAE:
    """As published, in and mix."""
    return DCAE(**args)


def dcae_f64c128(**args) -> DCAE:
    """One stage more."""
    return DCAE(**_deeper(1) | {"latent_channels": 128} | args)


def dcae_f128c512(**args) -> DCAE:
    """Two stages more."""
    return DCAE(**_deeper(2) | {"latent_channels": 512} | args)


def dcae_f32c32_sana(**args) -> DCAE:
    """Sana's (Xie et al. 2024), 1.0 and 1.1."""
    return DCAE(**SANA | args)


def dcae_f32c32_lite(**args) -> DCAE:
    """DC-AE-Lite: Sana's encoder, a decoder of convolutions alone."""
    return DCAE(**SANA | LITE | args)


def dcae15_f32c128(**args) -> DCAE:
    """DC-AE 1.5 (Chen et al. 2025): convolutions alone, no shortcuts at the latents."""
    return DCAE(**_deeper(0) | ONE_FIVE | args)


def dcae15_f64c128(**args) -> DCAE:
    """The same with one stage more."""
    return DCAE(
        **ONE_FIVE
        | {"widths": (128, 256, 512, 512, 1024, 1024, 1024)}
        | {"encoder_depths": (0, 5, 10, 4, 4, 4, 4), "decoder_depths": (0, 5, 10, 4, 4, 4, 4)}
        | args
    )


def dcae_tiny_f4c4(**args) -> DCAE:
    """For 32 px."""
    return DCAE(**_tiny(3, 4) | {"image_size": 32} | args)


def dcae_tiny_f8c4(**args) -> DCAE:
    """For 64 px."""
    return DCAE(**_tiny(4, 4) | args)


def dcae_tiny_f16c16(**args) -> DCAE:
    """For 64 px, as many floats."""
    return DCAE(**_tiny(5, 16) | args)


def dcae_tiny_f32c64(**args) -> DCAE:
    """For 64 px, as many floats."""
    return DCAE(**_tiny(6, 64) | args)


SANA = {
    "encoder_depths": (2, 2, 2, 3, 3, 3),
    "decoder_depths": (3, 3, 3, 3, 3, 3),
    "scales": (5,),
    "strided": True,
    "interpolate": True,
    "batchnorm_stages": 0,
}
LITE = {
    "decoder_depths": (0, 3, 5, 4, 4, 4),
    "decoder_attention": (),
    "interpolate": False,
    "head_act": "silu",
}
ONE_FIVE = {
    "latent_channels": 128,
    "encoder_depths": (0, 5, 10, 4, 4, 4),
    "decoder_depths": (0, 5, 10, 4, 4, 4),
    "encoder_attention": (),
    "decoder_attention": (),
    "batchnorm_stages": 0,
    "head_act": "silu",
    "latent_shortcut": False,
}


def _deeper(stages: int) -> dict:
    return {
        "widths": (128, 256, 512, 512, 1024, 1024, *(2048,) * stages),
        "encoder_depths": (0, 4, 8, 2, 2, 2, *(2,) * stages),
        "decoder_depths": (0, 5, 10, 2, 2, 2, *(2,) * stages),
        "encoder_attention": tuple(range(3, 6 + stages)),
        "decoder_attention": tuple(range(3, 6 + stages)),
    }


def _tiny(stages: int, latents: int) -> dict:
    return {
        "image_size": 64,
        "latent_channels": latents,
        "widths": (32, 64, *(128,) * (stages - 2)),
        "encoder_depths": (0, *(1,) * (stages - 1)),
        "decoder_depths": (0, *(1,) * (stages - 1)),
        "encoder_attention": tuple(range(3, stages)),
        "decoder_attention": tuple(range(3, stages)),
        "batchnorm_stages": 0,
        "head_act": "silu",
    }
