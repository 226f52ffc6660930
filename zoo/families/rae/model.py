"""RAE (Zheng et al. 2025, arXiv:2510.11690): latents are the tokens of a frozen encoder, a transformer decodes them.

B images of a batch · H W sides in pixels · C channels of a token · h w the grid of tokens · N = h·w · P the decoder's
patch side · D its width
"""

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from zoo.families.rae.dit import DiTDH
from zoo.nn.checkpointing import recompute
from zoo.nn.checks import check_floats, check_images, check_least
from zoo.nn.embed import sincos, unpatchify
from zoo.nn.frozen import Freezable, Frozen
from zoo.nn.protocols import PIXELS, Input, Kind, Network
from zoo.nn.vit import Block

if TYPE_CHECKING:
    from zoo.families.rae.encoder import FrozenEncoder

NOISES = ("uniform", "normal")


class RAEOutput(NamedTuple):
    """What a training pass gives."""

    loss: Tensor  # (), mean |x̂ - x|, pixels in [0, 1]
    recon: Tensor  # (B, 3, H, W), not clamped
    latents: Tensor  # (B, C, h, w), before the noise


class RAE(Network):
    """A decoder for a frozen encoder (§3), and the statistics of its latents.

    The encoder is part of the model by name and hash, not by weight: it is loaded when images first go in, stays
    frozen, and is in no state dict.

    Args:
        image_size: side in px of the images that come out.
        encoder: `timm:MODEL.TAG`, or weights of this zoo by name or place.
        encoder_hash: how the sha256 of its weights begins; "" takes it as it is.
        encoder_size: side in px that the encoder sees.
        layers: of the encoder's last blocks, summed (RAEv2); 1 is the published model.
        latent_channels: C, the encoder's width.
        grid: side of the encoder's grid of tokens, h = w.
        dim, depth, heads, hidden: of the decoder.
        noise: τ of the noise on the latents in training, so that a diffusion model's errors decode well (§4.3).
        noise_kind: σ of a sample is "uniform", τ·U(0, 1), as in the authors' code, or "normal", |N(0, τ²)|, as written.
        per_position: statistics of each channel at each place, as published, not of each channel.
        mean, std: of pixels, as the encoder takes them: the decoder's output is shifted by them.

    Raises:
        ValueError: an image size that the grid does not divide, an unknown kind of noise.
    """

    kind: ClassVar[Kind] = "image"
    latent_mean: Tensor
    latent_std: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        image_size: int = 256,
        encoder: str = "timm:vit_base_patch14_reg4_dinov2.lvd142m",
        encoder_hash: str = "",
        encoder_size: int = 224,
        layers: int = 1,
        latent_channels: int = 768,
        grid: int = 16,
        dim: int = 1152,
        depth: int = 28,
        heads: int = 16,
        hidden: int = 4096,
        noise: float = 0.8,
        noise_kind: str = "uniform",
        per_position: bool = True,
        mean: tuple[float, ...] = (0.485, 0.456, 0.406),
        std: tuple[float, ...] = (0.229, 0.224, 0.225),
    ):
        super().__init__()
        check_least(1, image_size=image_size, encoder_size=encoder_size, grid=grid)
        if len(mean) != 3 or len(std) != 3:
            raise ValueError(f"mean={mean}, std={std}: one value for each of 3 channels")
        if image_size % grid:
            raise ValueError(f"image_size={image_size} is no multiple of grid={grid}")
        if noise_kind not in NOISES:
            raise ValueError(f"noise_kind={noise_kind!r}, allowed {', '.join(NOISES)}")
        self.takes, self.grid = Input(self.kind, (3, image_size, image_size), PIXELS), grid
        self.encoder_size, self.layers = encoder_size, layers
        self.noise, self.noise_kind = noise, noise_kind
        self._encoder = Frozen("encoder", encoder, encoder_hash, partial(_load, self), _vit)
        self.decoder = Decoder(latent_channels, grid, image_size // grid, dim, depth, heads, hidden)
        shape = (latent_channels, grid, grid) if per_position else (latent_channels, 1, 1)
        self.register_buffer("latent_mean", torch.zeros(shape))
        self.register_buffer("latent_std", torch.ones(shape))
        self._pixels = {"mean": mean, "std": std}
        for name, value in self._pixels.items():
            self.register_buffer(name, torch.tensor(value).reshape(-1, 1, 1))  # (3, 1, 1)

    @property
    def latent_channels(self) -> int:
        return len(self.latent_mean)

    @property
    def grad_checkpointing(self) -> bool:
        """Keep no activations inside the decoder's blocks."""
        return self.decoder.grad_checkpointing

    @grad_checkpointing.setter
    def grad_checkpointing(self, on: bool) -> None:
        self.decoder.grad_checkpointing = on

    @property
    def measured(self) -> bool:
        """Whether the statistics are of any latents."""
        return not (self.latent_std == 1).all()

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w)."""
        return self.latent_channels, self.grid, self.grid

    @property
    def encoder(self) -> "FrozenEncoder":
        """The frozen encoder, on this model's device and in its precision.

        Raises:
            ValueError: its weights are not those that this decoder was trained with, or its tokens have another shape.
        """
        return self._encoder().to(self.latent_mean)

    def adapt_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Adds what follows from the arguments: positions, and pixels' mean and deviation where a file has none.

        An encoder that came along in a foreign file is put in its place, every tensor of it.
        """
        tensors = {k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")}
        if tensors:
            from zoo.families.rae.encoder import from_tensors

            self._encoder.network = from_tensors(self._encoder.name, tensors, self.encoder_size, self.layers)
            _check_encoder(self, self._encoder.network)
        state.setdefault("decoder.pos_embed", positions(self.decoder.embed.out_features, self.grid))
        for name, value in self._pixels.items():
            state.setdefault(name, torch.tensor(value).reshape(-1, 1, 1))
        return {k: v for k, v in state.items() if not k.startswith("encoder.")}

    def forward(self, x: Tensor) -> RAEOutput:
        """Images (B, 3, H, W), float pixels in [0, 1] → mean |x̂ - x|, reconstructions, latents; noisy in train mode.

        The perceptual and the adversarial terms need other networks: see LitRAE.
        """
        z = self.encode(x)  # (B, C, h, w)
        recon = self.decode_unclamped(self.add_noise(z) if self.training and self.noise else z)  # (B, 3, H, W)
        return RAEOutput((recon - x).abs().mean(), recon, z)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) → tokens (B, C, h, w), each of unit variance; `normalise` is for diffusion."""
        check_images(x, self.takes, values=not self.training)
        return self.encoder(x.to(self.latent_mean.dtype))  # (B, C, h, w)

    forward_features = encode

    def decode(self, z: Tensor) -> Tensor:
        """Tokens (B, C, h, w) → images (B, 3, H, W), clamped to [0, 1]."""
        return self.decode_unclamped(z).clamp(0, 1)

    def decode_unclamped(self, z: Tensor) -> Tensor:
        """As `decode`, for losses."""
        return self.decoder(self._latents(z).to(self.decoder.embed.weight.dtype)) * self.std + self.mean  # (B, 3, H, W)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) → the same after the latents, without noise."""
        return self.decode(self.encode(x))

    def add_noise(self, z: Tensor) -> Tensor:
        """`z + σ ε`, of each sample another σ, before any normalisation (§4.3)."""
        check_floats(z, "latents", ("B", self.latent_channels, "h", "w"), "another encoder made them")
        draw = torch.rand if self.noise_kind == "uniform" else torch.randn
        sigma = self.noise * draw(z.shape[0], 1, 1, 1, device=z.device, dtype=z.dtype).abs()  # (B, 1, 1, 1)
        return z + sigma * torch.randn_like(z)  # (B, C, h, w)

    def normalise(self, z: Tensor) -> Tensor:
        """Latents → about mean 0 and deviation 1, as diffusion wants them."""
        return (self._latents(z) - self.latent_mean) / self.latent_std  # (B, C, h, w)

    def denormalise(self, z: Tensor) -> Tensor:
        """The inverse of `normalise`."""
        return self._latents(z) * self.latent_std + self.latent_mean  # (B, C, h, w)

    def _latents(self, z: Tensor) -> Tensor:
        return check_floats(z, "latents", ("B", *self.latent_shape), "another encoder made them")


class Decoder(nn.Module):
    """A vision transformer from tokens to patches of pixels (§3.1): (B, C, h, w) → (B, 3, H, W), encoder-normalised."""

    pos_embed: Tensor

    def __init__(self, channels: int, grid: int, patch_size: int, dim: int, depth: int, heads: int, hidden: int):
        super().__init__()
        self.patch_size = patch_size
        self.embed = nn.Linear(channels, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.register_buffer("pos_embed", positions(dim, grid))  # (1, 1 + N, D)
        self.blocks = nn.ModuleList(Block(dim, heads, hidden / dim, eps=1e-12) for _ in range(depth))
        self.grad_checkpointing = False
        self.norm = nn.LayerNorm(dim, 1e-12)
        self.head = nn.Linear(dim, 3 * patch_size**2)
        self.apply(_init)

    def forward(self, z: Tensor) -> Tensor:
        h, w = z.shape[2:]
        x = self.embed(z.flatten(2).mT)  # (B, N, D)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1) + self.pos_embed  # (B, 1 + N, D)
        for block in self.blocks:
            x = recompute(block, x) if self.grad_checkpointing else block(x)  # (B, 1 + N, D)
        x = self.head(self.norm(x))[:, 1:]  # (B, N, 3P²)
        return unpatchify(x, self.patch_size, h * self.patch_size, w * self.patch_size)  # (B, 3, H, W)


def positions(dim: int, grid: int) -> Tensor:
    """Fixed positions of the class token, zero, and of a grid: (1, 1 + N, D)."""
    return torch.cat([torch.zeros(1, dim), sincos(dim, grid, grid)])[None]


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def _load(model: RAE) -> "FrozenEncoder":
    from zoo.families.rae.encoder import load

    encoder = load(model._encoder.name, model.encoder_size, model.layers)
    _check_encoder(model, encoder)
    return encoder


def _vit(encoder: "FrozenEncoder") -> Freezable:
    """What of an encoder is hashed."""
    return encoder.vit


def _check_encoder(model: RAE, encoder: nn.Module) -> None:
    blank = torch.zeros(1, 3, model.encoder_size, model.encoder_size, dtype=next(encoder.parameters()).dtype)
    shape = encoder(blank).shape[1:]
    if shape != (model.latent_channels, model.grid, model.grid):
        raise ValueError(
            f"{model._encoder.name} gives tokens {tuple(shape)} of {model.encoder_size} px, this decoder takes "
            f"{(model.latent_channels, model.grid, model.grid)}"
        )


# Archs


def rae_mae_vit_tiny(**args: Any) -> RAE:
    """For 64 px, on this zoo's masked autoencoder."""
    small: dict[str, Any] = {
        "image_size": 64,
        "encoder": "mae_vit_tiny.tiny_imagenet",
        "encoder_size": 64,
        "latent_channels": 192,
    }
    small |= {"grid": 8, "dim": 192, "depth": 6, "heads": 3, "hidden": 768}
    return RAE(**small | args)


def rae_vit_base(**args: Any) -> RAE:
    """The paper's ViT-B decoder."""
    return RAE(**{"dim": 768, "depth": 12, "heads": 12, "hidden": 3072} | args)


def rae_vit_large(**args: Any) -> RAE:
    """The paper's ViT-L decoder."""
    return RAE(**{"dim": 1024, "depth": 24, "heads": 16, "hidden": 4096} | args)


def rae_vit_xl(**args: Any) -> RAE:
    """The released ViT-XL decoder."""
    return RAE(**args)


def ditdh_tiny(**args: Any) -> DiTDH:
    """For the latents of rae_mae_vit_tiny."""
    small: dict[str, Any] = {
        "latent_channels": 192,
        "grid": 8,
        "num_classes": 200,
        "dim": (128, 256),
        "depth": (8, 2),
        "heads": (2, 4),
    }
    return DiTDH(**small | {"autoencoder": "rae_mae_vit_tiny.tiny_imagenet"} | args)


def ditdh_s(**args: Any) -> DiTDH:
    """DiT^DH-S, the weak model of autoguidance."""
    return DiTDH(**{"dim": (384, 2048), "depth": (12, 2), "heads": (6, 16)} | args)


def ditdh_xl(**args: Any) -> DiTDH:
    """DiT^DH-XL, the paper's."""
    return DiTDH(**args)
