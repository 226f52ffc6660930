"""Frozen encoders by name: timm's vision transformers, or an autoencoder of this zoo.

B images of a batch · C channels of a token · h w the grid of tokens
"""

from collections.abc import Iterator, Mapping, Sequence, Sized
from functools import reduce
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.hub.fetch import Published, fetch
from zoo.nn.frozen import Freezable, weights_are_random
from zoo.nn.protocols import Input

TIMM = "timm:"


@runtime_checkable
class VisionTransformer(Freezable, Protocol):
    """Gives the tokens after any of its blocks, as timm's do."""

    if TYPE_CHECKING:
        blocks: Sized
        norm: nn.LayerNorm

    def forward_intermediates(self, x: Tensor, indices: int | Sequence[int] | None = None, **how: Any) -> list[Any]: ...


@runtime_checkable
class OwnTransformer(VisionTransformer, Protocol):
    """One of this zoo, which normalises pixels itself."""

    takes: Input


class PatchEmbed(Protocol):
    """timm's: (height, width) of the images in pixels, and of the grid of patches."""

    img_size: tuple[int, int]
    grid_size: tuple[int, int]


@runtime_checkable
class TimmTransformer(VisionTransformer, Protocol):
    """One of timm."""

    if TYPE_CHECKING:
        patch_embed: PatchEmbed
        num_prefix_tokens: int  # class and register tokens
        pretrained_cfg: dict[str, Any]

    def modules(self) -> Iterator[nn.Module]: ...

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> object: ...


class FrozenEncoder(nn.Module):
    """Patch tokens of a vision transformer as a map, each of unit variance: the last norm without scale and shift.

    Class and register tokens are dropped. With `layers`, the last so many blocks' outputs are normalised and summed
    (RAEv2, 2026, which keeps more of the image).

    Args:
        vit: timm's, or one of this zoo.
        image_size: side in px that it sees; images of another size are resized, bicubic.
        mean, std: of pixels; its input is (pixels - mean) / std. None where it normalises them itself.
        layers: number of last blocks whose outputs are summed.
    """

    mean: Tensor  # unless the transformer normalises
    std: Tensor

    def __init__(
        self,
        vit: VisionTransformer,
        image_size: int,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        layers: int = 1,
    ):
        super().__init__()
        if not 1 <= layers <= len(vit.blocks):
            raise ValueError(f"layers={layers}, allowed 1 to {len(vit.blocks)}, the encoder's blocks")
        self.vit, self.image_size, self.layers, self.eps = vit, image_size, layers, vit.norm.eps
        self.normalises = mean is None
        if mean is not None:
            self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)  # (3, 1, 1)
            self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)  # (3, 1, 1)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "FrozenEncoder":
        """Stays in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] → (B, C, h, w)."""
        maps = self.intermediates(x, self.layers, output_fmt="NCHW")  # `layers` of (B, C, h, w)
        return reduce(torch.add, (normalised(m, self.eps) for m in maps))  # (B, C, h, w)

    def taps(self, x: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """With gradients: patch tokens of images (B, 3, H, W) in [0, 1] after some blocks, and the normed last ones.

        A class token is added to each (StyleGAN-T, Sauer et al. 2023): (B, N, C) each, one more than `blocks`.
        """
        blocks = [*blocks, len(self.vit.blocks) - 1]
        pairs = self.intermediates(x, blocks, output_fmt="NLC", return_prefix_tokens=True)
        maps = [m + p[:, :1] if p.shape[1] else m for m, p in pairs]  # (B, N, C) each
        patches, prefix = pairs[-1]
        last = self.vit.norm(torch.cat([prefix, patches], 1))  # (B, T + N, C)
        t = prefix.shape[1]
        return [*maps[:-1], last[:, t:] + last[:, :1] if t else last]

    def intermediates(self, x: Tensor, blocks: int | Sequence[int], **how: Any) -> list[Any]:
        """What chosen blocks give for images (B, 3, H, W) in [0, 1], resized and normalised."""
        if x.shape[2:] != (self.image_size, self.image_size):
            x = F.interpolate(x, size=(self.image_size, self.image_size), mode="bicubic")  # (B, 3, S, S)
        how |= {"indices": blocks, "norm": False}
        if self.normalises:
            x = x + (x.clamp(0, 1) - x).detach()  # its check refuses other pixels; gradients pass unchanged
            return self.vit.forward_intermediates(x, **how)
        return self.vit.forward_intermediates((x - self.mean) / self.std, intermediates_only=True, **how)


def normalised(tokens: Tensor, eps: float) -> Tensor:
    """A map (B, C, h, w) whose every token has mean 0 and variance 1."""
    tokens = tokens.permute(0, 2, 3, 1)  # (B, h, w, C)
    return F.layer_norm(tokens, tokens.shape[-1:], eps=eps).permute(0, 3, 1, 2)  # (B, C, h, w)


def load(name: str, image_size: int | None = None, layers: int = 1) -> FrozenEncoder:
    """An encoder with its weights: `timm:MODEL.TAG`, or weights of this zoo by name or place.

    Args:
        image_size: side in px that it sees; None is what it was trained at.

    Raises:
        ValueError: no such model, or one without patch tokens.
        ConnectionError: its weights are not in the cache and cannot be had.
    """
    if name.startswith(TIMM):
        theirs = name.endswith(".mae") or "siglip" in name
        vit = create_timm(name, None if theirs else image_size, pretrained=True)
        if theirs and image_size not in (None, vit.patch_embed.img_size[0]):
            return from_tensors(name, vit.state_dict(), image_size, layers)  # timm would smooth its positions
        return _wrap_timm(name, vit, layers)
    own = _load_own(name)
    size = image_size or own.takes.shape[-1]
    if size != own.takes.shape[-1]:
        own = _load_own(name, image_size=size)
    return FrozenEncoder(own, size, layers=layers)


def _load_own(name: str, **args: Any) -> OwnTransformer:
    from zoo import hub

    vit = hub.load(name, **args)
    if not isinstance(vit, OwnTransformer) or vit.takes.kind != "image":
        raise ValueError(f"{name} has no patch tokens of images; give {TIMM}MODEL, or weights of `zoo ls 'mae*'`")
    return vit


def from_tensors(name: str, state: dict[str, Tensor], image_size: int, layers: int = 1) -> FrozenEncoder:
    """A timm encoder with tensors under timm's names; its table of positions is fitted to the image size.

    Raises:
        ValueError: a tensor missing, left over or misshapen.
    """
    vit = create_timm(name, image_size)
    own = vit.state_dict()
    for key in ("norm.weight", "norm.bias"):  # affine that a frozen encoder does without
        state.setdefault(key, own[key])
    prefix = 0 if "reg_token" in own else vit.num_prefix_tokens
    state["pos_embed"] = _fit(state["pos_embed"], prefix, vit.patch_embed.grid_size[0], "reg_token" in own)
    wrong = sorted(own.keys() ^ state.keys()) or [k for k in own if own[k].shape != state[k].shape]
    if wrong:
        raise ValueError(f"the encoder in the file is not {name}: {len(wrong)} tensors differ, {wrong[0]} first")
    vit.to(state["pos_embed"].dtype).load_state_dict(state)
    return _wrap_timm(name, vit, layers)


def _fit(table: Tensor, prefix: int, grid: int, smooth: bool) -> Tensor:
    """A table (1, prefix + n², C) for a grid of another side, as transformers fits it: it smooths DINOv2's alone."""
    first, table = table[:, :prefix], table[:, prefix:]  # (1, prefix, C), (1, n², C)
    side = int(table.shape[1] ** 0.5)
    if side == grid:
        return torch.cat([first, table], 1)  # (1, prefix + n², C)
    table = table.reshape(1, side, side, -1).permute(0, 3, 1, 2)  # (1, C, n, n)
    table = F.interpolate(table, size=(grid, grid), mode="bicubic", antialias=smooth)  # (1, C, grid, grid)
    return torch.cat([first, table.flatten(2).mT], 1)  # (1, prefix + grid², C)


def create_timm(name: str, image_size: int | None, pretrained: bool = False) -> TimmTransformer:
    """timm's model for `timm:MODEL.TAG`, without a head."""
    import timm

    model = name.removeprefix(TIMM)
    options: dict[str, Any] = {"num_classes": 0} | ({"img_size": image_size} if image_size else {})
    if "siglip" in model:
        options["global_pool"] = ""  # its pooling has parameters of its own
    if pretrained and not weights_are_random():
        options |= {"pretrained": True, "pretrained_cfg_overlay": _published(name)}
    try:
        vit = timm.create_model(model, **options)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"timm has no model {model!r}: {error}") from error
    if not isinstance(vit, TimmTransformer):
        raise ValueError(f"timm's {model} has no patch tokens; take a vision transformer")
    return vit


def _published(name: str) -> dict[str, Any]:
    """What timm takes instead of fetching a model's weights itself: their file, pinned as a record's is."""
    import timm

    try:
        config = timm.get_pretrained_cfg(name.removeprefix(TIMM))
    except RuntimeError:
        config = None
    if config is None:
        return {}  # no such model, or tag of one: timm says so as it makes it
    if not config.hf_hub_id:
        raise ValueError(f"timm keeps {name} on its authors' server, unpinned; take a model of its Hub")
    file = Published(config.hf_hub_filename or "model.safetensors", config.hf_hub_id)
    return {"file": str(fetch(file, name)), "custom_load": False}


def _wrap_timm(name: str, vit: TimmTransformer, layers: int) -> FrozenEncoder:
    if name.endswith(".mae"):  # transformers', with which the released decoders were trained, has another ε than timm's
        for module in vit.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = 1e-12
    height, width = vit.patch_embed.img_size
    if height != width:
        raise ValueError(f"the encoder sees {height}×{width} px, a square is needed")
    return FrozenEncoder(vit, height, vit.pretrained_cfg["mean"], vit.pretrained_cfg["std"], layers)
