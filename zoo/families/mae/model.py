"""Masked autoencoders (He et al. 2021, arXiv 2111.06377): hide most patches, encode the rest, predict what is hidden.

B images · C channels · H W sides, P patch side in pixels · N = HW/P² patches, K of them kept, M predicted
T class tokens · D width of the encoder, E of the decoder. Encoder tensors are named as in timm's VisionTransformer.

A new way to hide is a row of masks.py, a new thing to predict a row of targets.py.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.families.mae.masks import MASKS, num_kept
from zoo.families.mae.targets import TARGETS
from zoo.nn.checks import check_among, check_images, check_least, sides
from zoo.nn.embed import check_multiple, gather_rows, patchify, pixel_statistics, sincos, unpatchify
from zoo.nn.masked import MaskDecoder, MaskedAutoencoder, MaskedOutput, Reconstruction
from zoo.nn.protocols import PIXELS, Input
from zoo.nn.vit import ViT, ViTClassifier, init_linear, new_head


class ImageViT(ViT):
    """The trunk that the autoencoder and the classifier share (Dosovitskiy et al. 2021)."""

    kind = "image"

    fixed_by_training = ("target", "mean", "std")
    learn_positions = False

    grid: tuple[int, int]
    mean: Tensor
    std: Tensor
    pos_embed: Tensor

    def __init__(
        self,
        image_size: int | Sequence[int],
        patch_size: int,
        channels: int,
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
        num_cls_tokens: int,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        drop_path: float = 0.0,
    ):
        check_least(1, channels=channels, patch_size=patch_size)
        height, width = sides(image_size)
        check_multiple("image_size is", height, width, patch_size)
        if num_cls_tokens < 1:
            raise ValueError(f"num_cls_tokens={num_cls_tokens}, at least 1 is needed")
        takes = Input(self.kind, (channels, height, width), PIXELS)
        super().__init__(takes, (patch_size, patch_size), dim, depth, heads, mlp_ratio, drop_path)
        self.patch_size, self.num_cls_tokens = patch_size, num_cls_tokens
        for name, values in pixel_statistics(channels, mean, std):
            self.register_buffer(name, values.reshape(-1, 1, 1))  # (C, 1, 1)
        self.cls_token = nn.Parameter(torch.zeros(1, num_cls_tokens, dim))
        table = positions(dim, *self.grid, num_cls_tokens)  # (1, T + N, D)
        if self.learn_positions:
            self.pos_embed = nn.Parameter(table)
        else:
            self.register_buffer("pos_embed", table)

    def patches(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] → patches (B, N, P²C) of mean 0 and deviation 1 over the training data."""
        if isinstance(x, Tensor) and x.ndim == 4 and x.shape[1] == self.takes.channels and 0 not in x.shape[2:]:
            check_multiple("images are", x.shape[2], x.shape[3], self.patch_size)
        check_images(x, self.takes, values=not self.training)
        return patchify((x - self.mean) / self.std, self.patch_size)  # (B, N, P²C)

    def tables(self) -> tuple[Tensor, Tensor]:
        t = self.num_cls_tokens
        return self.cls_token + self.pos_embed[:, :t], self.pos_embed[0, t:]  # (1, T, D), (N, D)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] → tokens (B, T + N, D), class tokens first, nothing masked.

        They are normalised, but for those of a classifier whose pool is "avg".
        """
        return self.encode(self.patches(x))  # (B, T + N, D)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        output_fmt: str = "NCHW",
    ) -> list[Tensor] | list[tuple[Tensor, Tensor]]:
        """Features after chosen blocks, nothing masked; timm's arguments.

        Args:
            x: images (B, C, H, W) in [0, 1].
            indices: blocks, negative from the end; an int takes the last so many, None all.
            return_prefix_tokens: pair each with its class tokens (B, T, D).
            norm: apply the final norm to each.
            output_fmt: "NCHW", (B, D, H/P, W/P), or "NLC", (B, N, D).

        Raises:
            ValueError: no such block or format, bad images.
        """
        depth, t = len(self.blocks), self.num_cls_tokens
        asked = range(-indices, 0) if isinstance(indices, int) else range(depth) if indices is None else indices
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(f"output_fmt={output_fmt!r}, allowed NCHW and NLC")
        exist = isinstance(asked, Sequence) and all(isinstance(i, int) and -depth <= i < depth for i in asked)
        if not exist or not asked:
            raise ValueError(f"indices={indices!r}, allowed {-depth} to {depth - 1}, the model has {depth} blocks")
        places = [i % depth for i in asked]
        tokens, after = self.embed(self.patches(x)), {}
        for i, block in enumerate(self.blocks[: max(places) + 1]):
            tokens = block(tokens)
            if i in places:
                after[i] = self.norm(tokens) if norm else tokens  # (B, T + N, D)
        maps = [after[i][:, t:] for i in places]  # (B, N, D)
        if output_fmt == "NCHW":
            maps = [m.mT.unflatten(2, self.grid) for m in maps]  # (B, D, H/P, W/P)
        return list(zip(maps, (after[i][:, :t] for i in places))) if return_prefix_tokens else maps


class Decoder(MaskDecoder):
    """Over all that the encoder gives, its class tokens too, with fixed positions (§3)."""

    pos_embed: Tensor

    def __init__(
        self, grid: tuple[int, int], num_cls_tokens: int, dim: int, width: int, depth: int, heads: int, outputs: int
    ):
        super().__init__(dim, width, depth, heads, outputs)
        self.register_buffer("pos_embed", positions(width, *grid, num_cls_tokens))

    def tokens(self, latent: Tensor, ids_keep: Tensor, ids_pred: Tensor) -> Tensor:
        t = latent.shape[1] - ids_keep.shape[1]
        table = self.pos_embed[0, t:]  # (N, E)
        seen = self.embed(latent)  # (B, T + K, E)
        seen = torch.cat([seen[:, :t] + self.pos_embed[:, :t], seen[:, t:] + table[ids_keep]], dim=1)  # (B, T + K, E)
        hidden = self.mask_token + table[ids_pred]  # (B, M, E)
        return torch.cat([seen, hidden.to(seen.dtype)], dim=1)  # (B, T + K + M, E)


class MAE(MaskedAutoencoder, ImageViT):
    """The masked autoencoder. `forward` masks; `forward_features` never does.

    Args:
        image_size: side in pixels, or (height, width); multiples of the patch.
        patch_size: P.
        channels: C.
        dim, depth, heads, mlp_ratio: of the encoder.
        decoder_dim, decoder_depth, decoder_heads: of the decoder; `decoder_depth=0` is an encoder alone, which neither
            trains nor reconstructs.
        mask_ratio: share of the patches that is hidden, strictly between 0 and 1.
        mask: "random" (§3), "block" (BEiT, Bao et al. 2022), "grid" (§4.1), "cell" (Pixio) or "color" (ColorMAE,
            Hinojosa et al. 2024).
        mask_cell: side, in patches, of what "cell" hides as a whole.
        target: "norm_pixel", each patch with its own mean and deviation taken out over its P²C values, or "pixel".
        decode: share of the hidden patches that is predicted in training; the rest costs nothing.
        num_cls_tokens: T.
        mean, std: of the training data in [0, 1], one value a channel; None is ImageNet's for 3 channels, else 0.5.

    Raises:
        ValueError: sizes that do not divide, a ratio that hides nothing or everything, an unknown mask or target.
    """

    decoder: Decoder | None

    def __init__(
        self,
        image_size: int | Sequence[int] = 224,
        patch_size: int = 16,
        channels: int = 3,
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        mlp_ratio: float = 4.0,
        decoder_dim: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
        mask_ratio: float = 0.75,
        mask: str = "random",
        mask_cell: int = 4,
        target: str = "norm_pixel",
        decode: float = 1.0,
        num_cls_tokens: int = 1,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ):
        super().__init__(image_size, patch_size, channels, dim, depth, heads, mlp_ratio, num_cls_tokens, mean, std)
        check_among(MASKS, mask=mask)
        check_among(TARGETS, target=target)
        if not 0 < decode <= 1:
            raise ValueError(f"decode={decode}, allowed above 0 up to 1; 1 predicts every hidden patch")
        self.mask, self.mask_cell, self.target_kind, self.decode_share = mask, mask_cell, target, decode
        self.num_keep = num_kept(self.grid, mask_ratio, mask, mask_cell)  # K
        self.decoder = None
        if decoder_depth:
            self.decoder = Decoder(
                self.grid, num_cls_tokens, dim, decoder_dim, decoder_depth, decoder_heads, self.patch_values
            )
            nn.init.normal_(self.decoder.mask_token, std=0.02)
        nn.init.normal_(self.cls_token, std=0.02)
        init_linear(self)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.view(dim, -1))  # as the linear map that it is

    def forward(self, x: Tensor, order: Tensor | None = None) -> MaskedOutput:
        """Mask, encode, predict: the training step, `loss = mean((pred - target)²)` over what was hidden (§3).

        Args:
            x: images (B, C, H, W) in [0, 1].
            order: (B, N) int64, the patches in the order they are kept, the first K are; None draws one.

        Raises:
            ValueError: bad images, or a model without a decoder.
        """
        patches = self.patches(x)  # (B, N, P²C)
        order = self._order(x, order)  # (B, N)
        hidden = self.num_patches - self.num_keep
        count = max(1, int(self.decode_share * hidden)) if self.training else hidden  # M
        ids_keep, ids_pred = order[:, : self.num_keep], order[:, self.num_keep :][:, :count]  # (B, K), (B, M)
        pred = self._predict(patches, ids_keep, ids_pred, count)  # (B, M, P²C)
        loss = (pred - self.target(gather_rows(patches, ids_pred))).square().mean()
        return MaskedOutput(loss, pred, ids_keep, ids_pred)

    def draw(self, batch: int, device: torch.device | str = "cpu") -> Tensor:
        """A random order of the patches for each image, (B, N) int64: the first K are kept."""
        mask = MASKS[self.mask]
        order = mask.order(batch, self.grid, self.num_keep, device, self.mask_cell)  # (B, N)
        if self.decode_share < 1 and not mask.shuffled:  # chance chooses which of the hidden ones are predicted
            tail = order[:, self.num_keep :]  # (B, N - K)
            tail = tail.gather(1, torch.rand(tail.shape, device=device).argsort(1))
            order = torch.cat([order[:, : self.num_keep], tail], dim=1)  # (B, N)
        return order

    def target(self, patches: Tensor) -> Tensor:
        """What is to be predicted of patches (B, M, P²C), float32 or better: flat patches have no variance to spare."""
        patches = patches.to(torch.promote_types(patches.dtype, torch.float32))
        return TARGETS[self.target_kind].of(patches, self.takes.channels)  # (B, M, P²C)

    @torch.no_grad()
    def reconstruct(self, x: Tensor, order: Tensor | None = None, statistics: str = "own") -> Reconstruction:
        """Pictures of what the model makes of images whose patches are hidden.

        A `norm_pixel` model predicts patches without their mean and deviation. They are put back from `statistics`:
        "own" takes them from the hidden patch itself, as the paper's figures do, so that the picture knows a little of
        the answer; "visible" takes the average of the patches that were seen. A `pixel` model needs neither.

        Args:
            x: images (B, C, H, W) in [0, 1].
            order: as in `forward`.

        Raises:
            ValueError: unknown statistics, bad images, or a model without a decoder.
        """
        return self._reconstruct(self.patches(x), self._order(x, order), statistics)

    def shown(self, patches: Tensor) -> Tensor:
        """Patches (B, N, P²C) as pixels, in [0, 1] again."""
        values = patches.unflatten(-1, (-1, self.takes.channels))  # (B, N, P², C)
        return (values * self.std.flatten() + self.mean.flatten()).flatten(2)  # (B, N, P²C)

    def adapt_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Fixed positions follow from the grid alone; an encoder that is asked for alone leaves the decoder behind."""
        state = super().adapt_state(state)
        tables: dict[str, Tensor] = {"pos_embed": self.pos_embed}
        if self.decoder is not None:
            tables["decoder.pos_embed"] = self.decoder.pos_embed
        own = {
            key: positions(table.shape[2], *self.grid, self.num_cls_tokens)
            for key, table in tables.items()
            if key in state and state[key].shape[1] != table.shape[1] and state[key].shape[2] == table.shape[2]
        }
        return state | own

    def _pixels(self, pred: Tensor, patches: Tensor, ids: Tensor | None) -> Tensor:
        return self.shown(TARGETS[self.target_kind].undo(pred, patches, ids, self.takes.channels))  # (B, N, P²C)

    def _picture(self, pixels: Tensor) -> Tensor:
        return unpatchify(pixels, self.patch_size, *self.takes.size)  # (B, C, H, W)


class MAEClassifier(ViTClassifier, ImageViT):
    """The encoder with a head, to be fine-tuned or probed (§4; A.1 and A.2 of the paper).

    Args:
        image_size, patch_size, channels, dim, depth, heads, mlp_ratio, num_cls_tokens, mean, std: as in MAE.
        num_classes: outputs.
        pool: "avg", a fresh norm of the mean patch token (fine-tuning), or "token", the encoder's norm of the first
            class token (the paper's linear probe).
        head_norm: normalise features over the batch before the head, without parameters (the probe's BatchNorm).
        drop_path: rate of the last block, growing linearly from 0.

    Raises:
        ValueError: sizes that do not divide, an unknown pooling.
    """

    no_decay = ("cls_token", "pos_embed")  # these have two axes or more, and are no matrices
    learn_positions = True

    def __init__(
        self,
        image_size: int | Sequence[int] = 224,
        patch_size: int = 16,
        channels: int = 3,
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        mlp_ratio: float = 4.0,
        num_classes: int = 1000,
        pool: str = "avg",
        head_norm: bool = False,
        drop_path: float = 0.0,
        num_cls_tokens: int = 1,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ):
        super().__init__(
            image_size, patch_size, channels, dim, depth, heads, mlp_ratio, num_cls_tokens, mean, std, drop_path
        )
        if pool not in ("avg", "token"):
            raise ValueError(f"pool={pool!r}, allowed avg and token")
        self.pool = pool
        if pool == "avg":
            self.norm = nn.Identity()
        self.fc_norm = nn.LayerNorm(dim, 1e-6) if pool == "avg" else nn.Identity()
        self.head_norm = nn.BatchNorm1d(dim, affine=False, eps=1e-6) if head_norm else nn.Identity()
        nn.init.normal_(self.cls_token, std=0.02)
        init_linear(self)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.view(dim, -1))
        self.head = nn.Linear(dim, num_classes)
        self.reset_head(num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] → logits (B, num_classes)."""
        return self.head(self.head_norm(self.pooled(x)))  # (B, num_classes)

    def pooled(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] → what the head reads, (B, D)."""
        x = self.forward_features(x)  # (B, T + N, D)
        return self.fc_norm(x[:, self.num_cls_tokens :].mean(1) if self.pool == "avg" else x[:, 0])  # (B, D)

    def reset_head(self, num_classes: int) -> None:
        """A new head for other classes, nearly zero as the paper's code starts it; everything before it stays."""
        std = 0.01 if isinstance(self.head_norm, nn.BatchNorm1d) else 2e-5
        self.head = new_head(self.head.in_features, num_classes, std, self.head.weight)

    def start_from(self, state: dict[str, Tensor]) -> None:
        """Take an autoencoder's encoder, every tensor of it; what only the classifier has stays as it is.

        Positions of another grid are interpolated. With `pool="avg"` the encoder's own norm is left out, as published.

        Raises:
            ValueError: a tensor is missing, left over or misshapen.
        """
        left_out = ("decoder.", "norm.") if self.pool == "avg" else "decoder."
        state = self.adapt_state({k: v for k, v in state.items() if not k.startswith(left_out)})
        self.take_encoder(state, fresh=("fc_norm.", "head.", "head_norm."))

    def adapt_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Learned positions of a square grid are interpolated to this one, bicubic, not antialiased, as published."""
        t, table = self.num_cls_tokens, state.get("pos_embed")  # (1, T + N, D)
        if table is None or table.ndim != 3 or table.shape[1] == t + self.num_patches:
            return state
        side = math.isqrt(table.shape[1] - t)
        if side * side != table.shape[1] - t:
            raise ValueError(
                f"positions of {table.shape[1] - t} patches are of no square grid; load them at their size"
            )
        plane = table[:, t:].reshape(1, side, side, -1).permute(0, 3, 1, 2)  # (1, D, side, side)
        plane = F.interpolate(plane, self.grid, mode="bicubic", align_corners=False)  # (1, D, H/P, W/P)
        return state | {"pos_embed": torch.cat([table[:, :t], plane.flatten(2).mT], dim=1)}


def positions(dim: int, height: int, width: int, cls: int) -> Tensor:
    """The fixed table, (1, T + N, dim): class tokens stand nowhere, at zero."""
    return torch.cat([torch.zeros(cls, dim), sincos(dim, height, width)])[None]


# Sizes. B, L and H are the paper's, with its decoder; tiny and small get a decoder that is no larger than they are.

TINY = {"dim": 192, "depth": 12, "heads": 3}
SMALL = {"dim": 384, "depth": 12, "heads": 6}
BASE = {"dim": 768, "depth": 12, "heads": 12}
LARGE = {"dim": 1024, "depth": 24, "heads": 16}
HUGE = {"dim": 1280, "depth": 32, "heads": 16, "patch_size": 14}


def _decoder(dim: int, depth: int, heads: int) -> dict[str, int]:
    return {"decoder_dim": dim, "decoder_depth": depth, "decoder_heads": heads}


def mae_vit_tiny(**args: Any) -> MAE:
    """ViT-Ti (Touvron et al. 2021), decoder of 4 blocks as wide as the encoder."""
    return MAE(**TINY | _decoder(192, 4, 3) | args)


def mae_vit_small(**args: Any) -> MAE:
    """ViT-S, decoder of 4 blocks of half its width."""
    return MAE(**SMALL | _decoder(192, 4, 3) | args)


def mae_vit_base(**args: Any) -> MAE:
    """ViT-B/16 as published."""
    return MAE(**BASE | args)


def mae_vit_large(**args: Any) -> MAE:
    """ViT-L/16 as published."""
    return MAE(**LARGE | args)


def mae_vit_huge(**args: Any) -> MAE:
    """ViT-H/14 as published."""
    return MAE(**HUGE | args)


def mae_vit_tiny_fast(**args: Any) -> MAE:
    """ViT-Ti that predicts half of what is hidden, decoder of 2 blocks."""
    return MAE(**TINY | _decoder(128, 2, 4) | {"decode": 0.5} | args)


def mae_vit_small_fast(**args: Any) -> MAE:
    """ViT-S that predicts half of what is hidden, decoder of 2 blocks."""
    return MAE(**SMALL | _decoder(192, 2, 3) | {"decode": 0.5} | args)


def mae_vit_base_fast(**args: Any) -> MAE:
    """ViT-B/16 that predicts half of what is hidden with a decoder of half its width."""
    return MAE(**BASE | _decoder(384, 4, 6) | {"decode": 0.5} | args)


def mae_vit_tiny_classifier(**args: Any) -> MAEClassifier:
    """ViT-Ti with a head."""
    return MAEClassifier(**TINY | args)


def mae_vit_small_classifier(**args: Any) -> MAEClassifier:
    """ViT-S with a head."""
    return MAEClassifier(**SMALL | args)


def mae_vit_base_classifier(**args: Any) -> MAEClassifier:
    """ViT-B/16 with a head."""
    return MAEClassifier(**BASE | args)


def mae_vit_large_classifier(**args: Any) -> MAEClassifier:
    """ViT-L/16 with a head."""
    return MAEClassifier(**LARGE | args)


def mae_vit_huge_classifier(**args: Any) -> MAEClassifier:
    """ViT-H/14 with a head."""
    return MAEClassifier(**HUGE | args)
