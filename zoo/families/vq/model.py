"""Autoencoders with a discrete bottleneck: VQ-VAE (van den Oord et al. 2017) and QLAE (Hsu et al. 2023).

B images · C H W channels and sides in pixels · h w the grid of codes · D width of a code · L latents · K codes
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.families.vq.prior import CodePrior
from zoo.families.vq.quantize import FSQ, BinaryQuantizer, QuantizeOutput, ScalarCodebooks, VectorQuantizer, VQOutput
from zoo.families.vq.vqgan import VQGAN
from zoo.nn.checks import check_dense, check_floats, check_images, check_ints, check_least, sides
from zoo.nn.protocols import PIXELS, Input

BOTTLENECKS = ("qlae", "none", "vae", "vq")


class VQVAE(nn.Module):
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
            8]}`); K and D are given above, for "fsq" both by its levels, for "lfq" and "bsq" K by D.
        variance: of the training set's pixels in [0, 1]; CIFAR-10's.

    Raises:
        ValueError: sides that do not halve, an unknown quantiser.
    """

    kind = "image"

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
        height, width_px = sides(image_size)
        if not 1 <= downsamplings < 32 or height % 2**downsamplings or width_px % 2**downsamplings:
            raise ValueError(
                f"image_size={image_size} does not halve {downsamplings} times; use a multiple of {2**downsamplings}"
            )
        self.takes = Input(self.kind, (channels, height, width_px), PIXELS)
        self.factor, self.variance = 2**downsamplings, variance
        self.quantizer = _quantizer(quantizer, codebook_size, code_dim, quantizer_args or {})
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
        quantized = self.quantizer(_last(self.forward_features(x)), update=update)
        recon = self._decode(quantized.z_q)  # (B, C, H, W)
        losses = {"reconstruction": (recon - x).square().mean() / self.variance} | quantized.losses
        return VQOutput(sum(losses.values()), recon, quantized.indices, losses, quantized.stats)

    def forward_features(self, x: Tensor) -> Tensor:
        """What is about to be quantised: images (B, C, H, W) → (B, D, h, w)."""
        check_images(x, *self.takes.shape, values=not self.training)
        return self.encoder((x - 0.5).to(self.encoder[0].weight.dtype))  # (B, D, h, w)

    def encode(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) → indices (B, h, w) int64."""
        return self.quantizer.encode(_last(self.forward_features(x)))

    def decode(self, indices: Tensor) -> Tensor:
        """Indices (B, h, w) int64 → images (B, C, H, W), clamped to [0, 1]."""
        check_ints(indices, "indices", ("B", "h", "w"), 0, self.quantizer.codebook_size, "encode gives them")
        return self._decode(self.quantizer.decode(indices)).clamp(0, 1)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) → the same after the bottleneck, clamped to [0, 1]."""
        return self.decode(self.encode(x))

    def _decode(self, q: Tensor) -> Tensor:
        return self.decoder(q.movedim(-1, 1).to(self.decoder[0].weight.dtype)) + 0.5  # (B, C, H, W)


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


class LatentAutoencoder(nn.Module):
    """QLAE, and its baselines with the same network (Hsu et al. 2023, §3 and appendix C).

    An image becomes L numbers, each one of V learned values of its own. A decoder that is styled by them, layer after
    layer, and strong weight decay push each number towards one meaning.

    `loss = mean BCE(x, x̂) + losses of the bottleneck`.

    Args:
        image_size: side in pixels, a multiple of 16 from 32 on.
        channels: C.
        latents: L, the authors take twice the number of factors.
        width: channels of the finest level; the coarsest has eight times as many.
        bottleneck: "qlae"; "none", a plain autoencoder; "vae", Gaussian latents (Higgins et al. 2017); "vq", each
            latent a vector of one shared codebook.
        values: V of "qlae".
        shared: "qlae" with one set of values for all latents.
        learned: False, "qlae" with values that stay evenly spaced.
        beta: weight of the KL divergence of "vae", in the convention of sums over pixels and latents.
        codebook_size, code_dim: K and D of "vq".

    Raises:
        ValueError: another bottleneck, or sides that do not halve four times.
    """

    kind = "image"

    def __init__(
        self,
        image_size: int = 64,
        channels: int = 3,
        latents: int = 12,
        width: int = 32,
        bottleneck: str = "qlae",
        values: int = 10,
        shared: bool = False,
        learned: bool = True,
        beta: float = 1.0,
        codebook_size: int = 512,
        code_dim: int = 64,
    ):
        super().__init__()
        if bottleneck not in BOTTLENECKS:
            raise ValueError(f"bottleneck={bottleneck!r}, allowed {', '.join(BOTTLENECKS)}")
        check_least(1, channels=channels, width=width)
        if image_size % 16 or image_size < 32 or latents < 1:
            raise ValueError(f"image_size={image_size}, latents={latents}: a multiple of 16 from 32 on, and at least 1")
        self.takes = Input(self.kind, (channels, image_size, image_size), PIXELS)
        self.default_data = "rendered" if channels == 3 else None  # what `zoo eval` measures on unless it is told
        self.latents, self.bottleneck, self.beta, self.code_dim = latents, bottleneck, beta, code_dim
        self.quantizer = None
        if bottleneck == "qlae":
            self.quantizer = ScalarCodebooks(latents, values, shared, learned)
        elif bottleneck == "vq":
            self.quantizer = VectorQuantizer(codebook_size, code_dim, update="grad")
        numbers = latents * (code_dim if bottleneck == "vq" else 1)  # what the decoder reads
        grid, widths = image_size // 16, [width, 2 * width, 4 * width, 8 * width]
        convs, before = [], channels
        for width in widths:
            for kernel, stride in ((3, 1), (3, 1), (4, 2)):
                convs += [nn.Conv2d(before, width, kernel, stride, 1, bias=False)]
                convs += [nn.GroupNorm(width, width, 1e-6), nn.LeakyReLU(0.2)]
                before = width
        self.encoder = nn.Sequential(
            *convs,
            nn.Flatten(),
            *_dense(before * grid**2, 256),
            nn.Linear(256, numbers * (2 if bottleneck == "vae" else 1)),
        )
        self.mapping = nn.Sequential(*_dense(numbers, 256))
        self.constant = nn.Parameter(torch.full((before, grid, grid), 0.1))
        self.blocks = nn.ModuleList()
        for width in reversed(widths):
            for kernel, stride in ((3, 1), (3, 1), (4, 2)):
                self.blocks.append(StyleBlock(before, width, kernel, stride, 256))
                before = width
        self.to_pixels = nn.Conv2d(before, channels, 3, padding=1, bias=False)

    @property
    def no_decay(self) -> list[str]:
        """The values of the latents: only their losses move them."""
        return [f"quantizer.{n}" for n, _ in self.quantizer.named_parameters()] if self.quantizer is not None else []

    @property
    def decay_also(self) -> list[str]:
        """Scales of norms, which the authors decay with the weights."""
        return [f"encoder.{i}.weight" for i, m in enumerate(self.encoder) if isinstance(m, nn.GroupNorm)]

    def forward(self, x: Tensor, update: bool | None = None) -> VQOutput:
        """Images (B, C, H, W), float pixels in [0, 1] → loss, reconstruction and latents' indices (B, L).

        Without a quantiser the indices are empty.

        Raises:
            ValueError: another size, channel count or dtype; in eval mode also NaN or pixels outside [0, 1].
        """
        out = self._squeeze(self._encode(x), update)
        logits = self._decode(out.z_q)  # (B, C, H, W)
        losses = {"reconstruction": F.binary_cross_entropy_with_logits(logits, x.to(logits.dtype))} | out.losses
        return VQOutput(sum(losses.values()), logits.sigmoid(), out.indices, losses, out.stats)

    def forward_features(self, x: Tensor) -> Tensor:
        """The latents of images (B, C, H, W), as the decoder reads them: (B, L), of "vq" (B, L·D)."""
        return self._squeeze(self._encode(x), None).z_q  # (B, L)

    def encode(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) → indices (B, L) int64.

        Raises:
            ValueError: this bottleneck has no codes.
        """
        if self.quantizer is None:
            raise ValueError(f"bottleneck={self.bottleneck!r} has no codes; forward_features gives the latents")
        return self._squeeze(self._encode(x), None).indices

    def decode(self, latents: Tensor) -> Tensor:
        """Indices (B, L) int64, or latents as `forward_features` gives them → images (B, C, H, W) in [0, 1]."""
        check_dense(latents, "latents")
        if latents.dtype == torch.int64 and self.quantizer is not None:
            check_ints(latents, "indices", ("B", self.latents), 0, self.quantizer.codebook_size, "encode gives them")
            latents = self.quantizer.decode(latents).flatten(1)  # (B, L) or (B, L·D)
        first = self.mapping[0]
        check_floats(latents, "latents", ("B", first.in_features), "forward_features gives them, encode int64 indices")
        return self._decode(latents.to(first.weight.dtype)).sigmoid()

    def reconstruct(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) → the same after the bottleneck, in [0, 1]."""
        return self.decode(self.forward_features(x))

    def _encode(self, x: Tensor) -> Tensor:
        check_images(x, *self.takes.shape, values=not self.training)
        return self.encoder(x.to(self.encoder[0].weight.dtype))

    def _squeeze(self, z: Tensor, update: bool | None) -> QuantizeOutput:
        """Through the bottleneck, as one vector for the decoder."""
        if self.bottleneck == "qlae":
            return self.quantizer(z, update=update)
        if self.bottleneck == "vq":
            out = self.quantizer(z.reshape(len(z), self.latents, self.code_dim), update=update)
            return out._replace(z_q=out.z_q.flatten(1))  # (B, L·D)
        none = torch.empty(len(z), 0, dtype=torch.int64, device=z.device)
        if self.bottleneck == "none":
            return QuantizeOutput(z, none, {}, {})
        mean, log_variance = z.chunk(2, 1)  # (B, L) twice
        kl = kl_divergence(mean, log_variance)
        if self.training:
            mean = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        return QuantizeOutput(mean, none, {"kl": self.beta / math.prod(self.takes.shape) * kl}, {"nats": kl.detach()})

    def _decode(self, z: Tensor) -> Tensor:
        style = self.mapping(z)  # (B, 256)
        x = self.constant.expand(len(z), -1, -1, -1)  # (B, 256, h, w)
        for block in self.blocks:
            x = block(x, style)
        return self.to_pixels(x)  # (B, C, H, W)


class StyleBlock(nn.Module):
    """Transposed convolution, leaky ReLU, instance norm, then scale and shift from the style, both ≥ 0."""

    def __init__(self, width_in: int, width_out: int, kernel: int, stride: int, style: int):
        super().__init__()
        self.conv = nn.ConvTranspose2d(width_in, width_out, kernel, stride, 1, bias=False)
        self.style = nn.Linear(style, 2 * width_out)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        x = F.leaky_relu(self.conv(x), 0.2)
        x = F.instance_norm(x, eps=1e-6)
        scale, shift = F.relu(self.style(style))[:, :, None, None].chunk(2, 1)  # (B, C, 1, 1) twice
        return x * scale + shift


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """`½ Σ_l (μ² + σ² - log σ² - 1)`, mean over the batch, in nats; (B, L) each (Kingma and Welling 2014, B)."""
    return 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum(1).mean()


def _dense(width_in: int, width: int) -> list[nn.Module]:
    return [nn.Linear(width_in, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]


def _last(x: Tensor) -> Tensor:
    return x.movedim(1, -1)  # (B, h, w, D)


def _quantizer(kind: str, codebook_size: int, code_dim: int, args: dict[str, Any]) -> nn.Module:
    if kind == "vq":
        return VectorQuantizer(codebook_size, code_dim, **args)
    if kind == "fsq":
        return FSQ(**args)
    if kind in ("lfq", "bsq"):
        return BinaryQuantizer(code_dim, spherical=kind == "bsq", **args)
    raise ValueError(f"quantizer={kind!r}, allowed vq, fsq, lfq, bsq")


# Sizes: the authors' CIFAR-10 network and two up; QLAE's network, one for all data sets, and its baselines.


def vqvae_conv_small(**args) -> VQVAE:
    """128 wide, 8×8 codes of 32 px: the authors' CIFAR-10 example."""
    return VQVAE(**args)


def vqvae_conv_base(**args) -> VQVAE:
    """256 wide, 16×16 codes of 64 px."""
    return VQVAE(**{"image_size": 64, "width": 256, "res_width": 64, "res_blocks": 4} | args)


def vqvae_conv_large(**args) -> VQVAE:
    """256 wide, 32×32 codes of 256 px: three halvings."""
    wide = {"image_size": 256, "width": 256, "res_width": 128, "res_blocks": 6, "downsamplings": 3}
    return VQVAE(**wide | {"codebook_size": 1024} | args)


def qlae_conv(**args) -> LatentAutoencoder:
    """12 latents of 10 values each."""
    return LatentAutoencoder(**args)


def ae_conv(**args) -> LatentAutoencoder:
    """QLAE's network with 12 plain numbers between."""
    return LatentAutoencoder(**{"bottleneck": "none"} | args)


def vae_conv(**args) -> LatentAutoencoder:
    """QLAE's network as a (β-)VAE of 12 latents."""
    return LatentAutoencoder(**{"bottleneck": "vae"} | args)


def vqvae_conv_latents(**args) -> LatentAutoencoder:
    """QLAE's network with 12 vectors of one codebook of 512."""
    return LatentAutoencoder(**{"bottleneck": "vq"} | args)


def vqprior_tiny(**args) -> CodePrior:
    """192 wide, 6 blocks."""
    return CodePrior(**args)


def vqprior_small(**args) -> CodePrior:
    """384 wide, 12 blocks."""
    return CodePrior(**{"dim": 384, "depth": 12, "heads": 6} | args)


def vqprior_base(**args) -> CodePrior:
    """768 wide, 12 blocks: as wide and deep as LlamaGen's smallest."""
    return CodePrior(**{"dim": 768, "depth": 12, "heads": 12} | args)


def vqgan_f16(**args) -> VQGAN:
    """16×16 codes of 256 px: the authors' ImageNet model."""
    return VQGAN(**args)


def vqgan_f8(**args) -> VQGAN:
    """32×32 codes of 256 px: the latent diffusion models' (Rombach et al. 2022)."""
    small = {"mults": (1, 2, 2, 4), "attention": (3,), "z_channels": 4, "codebook_size": 16384, "code_dim": 4}
    return VQGAN(**small | args)


def vqgan_f4(**args) -> VQGAN:
    """64×64 codes of 256 px: the latent diffusion models' (Rombach et al. 2022)."""
    fine = {"mults": (1, 2, 4), "attention": (), "z_channels": 3, "codebook_size": 8192, "code_dim": 3}
    return VQGAN(**fine | args)


def llamagen_ds16(**args) -> VQGAN:
    """16×16 codes of 256 px, 16,384 of unit length in eight dimensions (Sun et al. 2024)."""
    return VQGAN(**{"codebook_size": 16384, "code_dim": 8, "metric": "cosine"} | args)


def llamagen_ds8(**args) -> VQGAN:
    """32×32 codes of 256 px, 16,384 of unit length in eight dimensions (Sun et al. 2024)."""
    fine = {"mults": (1, 2, 2, 4), "attention": (3,), "codebook_size": 16384, "code_dim": 8, "metric": "cosine"}
    return VQGAN(**fine | args)
