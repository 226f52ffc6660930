"""DC-AE (Chen et al. 2024, arXiv:2410.10733) and 1.5 (2025): images to few, deep latents and back.

Nothing is random and nothing regularises the latents: this is an autoencoder, not a VAE.

B images of a batch · C channels · H W sides in pixels · D channels of a map h × w · c channels of the latent · f = 2^n
from pixels to latents · N = h · w
"""

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.families.dcae.blocks import HEAD, Fuses
from zoo.families.dcae.stages import Decoder, Encoder, Stage
from zoo.nn.checkpointing import Checkpointed
from zoo.nn.checks import check_floats, check_images, check_least, check_types, sides
from zoo.nn.protocols import PIXELS, Input, Kind, Network
from zoo.nn.tiles import tiled

SHORTCUTS = ("grouped", "isotropic", "none")


class DCAEOutput(NamedTuple):
    """What a training pass gives."""

    loss: Tensor  # (), mean |x̂ - x|, pixels in [0, 1]
    recon: Tensor  # (B, C, H, W), not clamped
    latents: Tensor  # (B, c, H/f, W/f)


class DCAE(Checkpointed, Network):
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
        low_rank: a matrix on the latents whose nuclear norm training can hold down (Mazumder et al. 2023, LoRAE).
        latent_scale: where the publisher states one, what a diffusion model multiplies latents by.

    Raises:
        ValueError: sides that are no multiple of f, widths that shortcuts or heads do not divide, an unknown choice.
    """

    kind: ClassVar[Kind] = "image"
    latent_mean: Tensor
    latent_std: Tensor
    measured = True  # the statistics: by training, or as the publisher's one scale

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
        stages = _stages(widths, encoder_depths, encoder_attention, scales)
        self.encoder = Encoder(channels, latent_channels, stages, strided, shortcut, at_latent, stem)
        self.low_rank = nn.Conv2d(latent_channels, latent_channels, 1, bias=False) if low_rank else None
        stages = _stages(widths, decoder_depths, decoder_attention, scales, batchnorm_stages)
        self.decoder = Decoder(channels, latent_channels, stages, interpolate, shortcut, at_latent, head_act)
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
        check_images(x, self.takes, any_size=True, values=not self.training)
        if not x.shape[0]:  # torch's pixel_unshuffle gets the channels of none wrong
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
        check_images(x, self.takes, any_size=True, values=False)
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
            if isinstance(module, Fuses):
                module.fuse()
        if dtype is None and _fast_bfloat16(self.latent_mean.device):
            dtype = torch.bfloat16
        vars(model).pop("zoo_config", None)  # no arch has these tensors
        return model.to(dtype=dtype).to(memory_format=torch.channels_last)

    def decode_unclamped(self, z: Tensor) -> Tensor:
        """As `decode`, for losses."""
        self._check_latents(z)
        if not z.numel():
            raise ValueError(f"latents are {tuple(z.shape)}, expected at least one; leave empty batches out")
        z = z.to(self.decoder.stem.weight.dtype).contiguous(memory_format=torch.channels_last)
        return (self.decoder(z) + 1) / 2  # (B, C, f·h, f·w)

    def _check_latents(self, z: Tensor) -> None:
        check_floats(z, "latents", ("B", self.latent_channels, "h", "w"), "another variant made them")


def mask_channels(z: Tensor, keep: int) -> Tensor:
    """Latents (B, c, h, w) with all but the first `keep` channels zero (Chen et al. 2025, DC-AE 1.5, §3.2).

    Raises:
        ValueError: more channels than there are, or none.
    """
    if not 1 <= keep <= z.shape[1]:
        raise ValueError(f"keep={keep}, allowed 1 to {z.shape[1]} channels")
    return F.pad(z[:, :keep], (0, 0, 0, 0, 0, z.shape[1] - keep))  # (B, c, h, w)


def _stages(
    widths: Sequence[int],
    depths: Sequence[int],
    attention: Sequence[int],
    scales: Sequence[int],
    batchnorm_stages: int = 0,
) -> list[Stage]:
    return [
        Stage(width, depth, i in attention, tuple(scales), i < batchnorm_stages)
        for i, (width, depth) in enumerate(zip(widths, depths))
    ]


def _fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):  # torch 2.6 does not tell: float32 stays
        return False
    features = torch.cpu.get_capabilities()
    return bool(features.get("avx512_bf16") or features.get("amx_bf16"))


def _check_choices(shortcut: str, stem: str, head_act: str) -> None:
    for name, choice, allowed in (
        ("shortcut", shortcut, SHORTCUTS),
        ("stem", stem, ("conv", "haar")),
        ("head_act", head_act, ("relu", "silu")),
    ):
        if choice not in allowed:
            raise ValueError(f"{name}={choice!r}, allowed {', '.join(allowed)}")


def _check_stages(
    widths: Sequence[int],
    encoder_depths: Sequence[int],
    decoder_depths: Sequence[int],
    encoder_attention: Sequence[int],
    decoder_attention: Sequence[int],
) -> None:
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


def _check_sides(shape: Sequence[int], factor: int) -> None:
    if any(side % factor for side in shape):
        near = "×".join(str(max(factor, round(side / factor) * factor)) for side in shape)
        raise ValueError(
            f"images are {shape[0]}×{shape[1]} px, no multiples of {factor}, the side of a latent; resize to {near}"
        )


# Archs


def dcae_f32c32(**args: Any) -> DCAE:
    """As published, in and mix."""
    return DCAE(**args)


def dcae_f64c128(**args: Any) -> DCAE:
    """One stage more."""
    return DCAE(**_deeper(1) | {"latent_channels": 128} | args)


def dcae_f128c512(**args: Any) -> DCAE:
    """Two stages more."""
    return DCAE(**_deeper(2) | {"latent_channels": 512} | args)


def dcae_f32c32_sana(**args: Any) -> DCAE:
    """Sana's (Xie et al. 2024), 1.0 and 1.1."""
    return DCAE(**SANA | args)


def dcae_f32c32_lite(**args: Any) -> DCAE:
    """DC-AE-Lite: Sana's encoder, a decoder of convolutions alone."""
    return DCAE(**SANA | LITE | args)


def dcae15_f32c128(**args: Any) -> DCAE:
    """DC-AE 1.5 (Chen et al. 2025): convolutions alone, no shortcuts at the latents."""
    return DCAE(**_deeper(0) | ONE_FIVE | args)


def dcae15_f64c128(**args: Any) -> DCAE:
    """The same with one stage more."""
    return DCAE(
        **ONE_FIVE
        | {"widths": (128, 256, 512, 512, 1024, 1024, 1024)}
        | {"encoder_depths": (0, 5, 10, 4, 4, 4, 4), "decoder_depths": (0, 5, 10, 4, 4, 4, 4)}
        | args
    )


def dcae_tiny_f4c4(**args: Any) -> DCAE:
    """For 32 px."""
    return DCAE(**_tiny(3, 4) | {"image_size": 32} | args)


def dcae_tiny_f8c4(**args: Any) -> DCAE:
    """For 64 px."""
    return DCAE(**_tiny(4, 4) | args)


def dcae_tiny_f16c16(**args: Any) -> DCAE:
    """For 64 px, as many floats."""
    return DCAE(**_tiny(5, 16) | args)


def dcae_tiny_f32c64(**args: Any) -> DCAE:
    """For 64 px, as many floats."""
    return DCAE(**_tiny(6, 64) | args)


SANA: dict[str, Any] = {
    "encoder_depths": (2, 2, 2, 3, 3, 3),
    "decoder_depths": (3, 3, 3, 3, 3, 3),
    "scales": (5,),
    "strided": True,
    "interpolate": True,
    "batchnorm_stages": 0,
}
LITE: dict[str, Any] = {
    "decoder_depths": (0, 3, 5, 4, 4, 4),
    "decoder_attention": (),
    "interpolate": False,
    "head_act": "silu",
}
ONE_FIVE: dict[str, Any] = {
    "latent_channels": 128,
    "encoder_depths": (0, 5, 10, 4, 4, 4),
    "decoder_depths": (0, 5, 10, 4, 4, 4),
    "encoder_attention": (),
    "decoder_attention": (),
    "batchnorm_stages": 0,
    "head_act": "silu",
    "latent_shortcut": False,
}


def _deeper(stages: int) -> dict[str, Any]:
    return {
        "widths": (128, 256, 512, 512, 1024, 1024, *(2048,) * stages),
        "encoder_depths": (0, 4, 8, 2, 2, 2, *(2,) * stages),
        "decoder_depths": (0, 5, 10, 2, 2, 2, *(2,) * stages),
        "encoder_attention": tuple(range(3, 6 + stages)),
        "decoder_attention": tuple(range(3, 6 + stages)),
    }


def _tiny(stages: int, latents: int) -> dict[str, Any]:
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
