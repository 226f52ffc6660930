"""QLAE (Hsu et al. 2023), and its baselines: one network whose bottleneck is an image's few latents.

B images · C H W channels and sides in pixels · h w the coarsest grid · L latents · K codes of D numbers
"""

import math
from collections.abc import Iterator
from functools import reduce
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.families.vq.quantize import QuantizeOutput, Quantizer, ScalarCodebooks, VectorQuantizer, VQOutput
from zoo.nn.checks import check_dense, check_floats, check_images, check_ints, check_least
from zoo.nn.protocols import PIXELS, Input, Kind, Network

BOTTLENECKS = ("qlae", "none", "vae", "vq")


class LatentAutoencoder(Network):
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

    kind: ClassVar[Kind] = "image"

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
        self.quantizer: Quantizer | None = None
        if bottleneck == "qlae":
            self.quantizer = ScalarCodebooks(latents, values, shared, learned)
        elif bottleneck == "vq":
            self.quantizer = VectorQuantizer(codebook_size, code_dim, update="grad")
        self.numbers = latents * (code_dim if bottleneck == "vq" else 1)  # what the decoder reads
        grid, widths = image_size // 16, [width, 2 * width, 4 * width, 8 * width]
        layers: list[nn.Module] = []
        for width_in, width_out, kernel, stride in _convolutions(channels, widths):
            layers += [
                nn.Conv2d(width_in, width_out, kernel, stride, 1, bias=False),
                nn.GroupNorm(width_out, width_out, 1e-6),
                nn.LeakyReLU(0.2),
            ]
        self.encoder = nn.Sequential(
            *layers,
            nn.Flatten(),
            *_dense(widths[-1] * grid**2, 256),
            nn.Linear(256, self.numbers * (2 if bottleneck == "vae" else 1)),
        )
        self.mapping = nn.Sequential(*_dense(self.numbers, 256))
        self.constant = nn.Parameter(torch.full((widths[-1], grid, grid), 0.1))
        self.blocks = nn.ModuleList(
            StyleBlock(width_in, width_out, kernel, stride, 256)
            for width_in, width_out, kernel, stride in _convolutions(widths[-1], widths[::-1])
        )
        self.to_pixels = nn.Conv2d(width, channels, 3, padding=1, bias=False)

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
        return VQOutput(reduce(torch.add, losses.values()), logits.sigmoid(), out.indices, losses, out.stats)

    def forward_features(self, x: Tensor) -> Tensor:
        """The latents of images (B, C, H, W), as the decoder reads them: (B, L), of "vq" (B, L·D)."""
        return self._squeeze(self._encode(x), None).z_q  # (B, L)

    def encode(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) → indices (B, L) int64, or latents (B, L) where the bottleneck has no codes."""
        out = self._squeeze(self._encode(x), None)
        return out.z_q if self.quantizer is None else out.indices

    def count_codes(self) -> int:
        """Values of a latent, or K; 0 where the bottleneck has no codes."""
        return 0 if self.quantizer is None else self.quantizer.codebook_size

    def decode(self, latents: Tensor) -> Tensor:
        """Indices (B, L) int64, or latents as `forward_features` gives them → images (B, C, H, W) in [0, 1]."""
        check_dense(latents, "latents")
        if latents.dtype == torch.int64 and self.quantizer is not None:
            check_ints(latents, "indices", ("B", self.latents), 0, self.quantizer.codebook_size, "encode gives them")
            latents = self.quantizer.decode(latents).flatten(1)  # (B, L) or (B, L·D)
        check_floats(latents, "latents", ("B", self.numbers), "forward_features gives them, encode int64 indices")
        return self._decode(latents.to(self.constant.dtype)).sigmoid()

    def reconstruct(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) → the same after the bottleneck, in [0, 1]."""
        return self.decode(self.forward_features(x))

    def _encode(self, x: Tensor) -> Tensor:
        check_images(x, self.takes, values=not self.training)
        return self.encoder(x.to(self.constant.dtype))

    def _squeeze(self, z: Tensor, update: bool | None) -> QuantizeOutput:
        """Through the bottleneck, as one vector for the decoder."""
        if self.quantizer is not None:
            if self.bottleneck == "vq":
                z = z.reshape(z.shape[0], self.latents, self.code_dim)  # (B, L, D)
            out = self.quantizer(z, update=update)
            return out._replace(z_q=out.z_q.flatten(1))  # (B, L) or (B, L·D)
        none = torch.empty(z.shape[0], 0, dtype=torch.int64, device=z.device)
        if self.bottleneck == "none":
            return QuantizeOutput(z, none, {}, {})
        mean, log_variance = z.chunk(2, 1)  # (B, L) twice
        kl = kl_divergence(mean, log_variance)
        if self.training:
            mean = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        return QuantizeOutput(mean, none, {"kl": self.beta / math.prod(self.takes.shape) * kl}, {"nats": kl.detach()})

    def _decode(self, z: Tensor) -> Tensor:
        style = self.mapping(z)  # (B, 256)
        x = self.constant.expand(z.shape[0], -1, -1, -1)  # (B, 256, h, w)
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


def _convolutions(width_in: int, widths: list[int]) -> Iterator[tuple[int, int, int, int]]:
    """Channels in and out, kernel, stride of three convolutions a level; the last of a level changes the sides."""
    for width in widths:
        for kernel, stride in ((3, 1), (3, 1), (4, 2)):
            yield width_in, width, kernel, stride
            width_in = width


def _dense(width_in: int, width: int) -> list[nn.Module]:
    return [nn.Linear(width_in, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
