"""Masked autoencoders (He et al. 2021, arXiv 2111.06377): hide most patches, encode the rest, predict what is hidden.

B images · C channels · H W sides, P patch side in pixels · N = HW/P² patches, K of them kept, M predicted
T class tokens · D width of the encoder, E of the decoder. Encoder tensors are named as in timm's VisionTransformer.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.nn.checkpointing import recompute
from zoo.nn.checks import check_floats, check_images, check_ints, check_least, sides
from zoo.nn.embed import gather_rows, patchify, sincos, unpatchify
from zoo.nn.protocols import PIXELS, Input
from zoo.nn.vit import Block

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TARGETS = ("norm_pixel", "pixel")


class MAEOutput(NamedTuple):
    """What a training step gives."""

    loss: Tensor  # ()
    pred: Tensor  # (B, M, P²C), in the units of the target
    ids_keep: Tensor  # (B, K) int64, patches the encoder saw
    ids_pred: Tensor  # (B, M) int64, patches that were predicted


class Reconstruction(NamedTuple):
    """Pictures, each (B, C, H, W) in [0, 1]."""

    masked: Tensor  # hidden patches are grey
    predicted: Tensor  # every patch as the decoder draws it
    pasted: Tensor  # the prediction where patches were hidden, the image where they were seen


class PatchEmbed(nn.Module):
    """A linear map of each patch, kept as the convolution that it is equal to."""

    def __init__(self, channels: int, patch_size: int, dim: int):
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, patch_size, patch_size)

    def forward(self, patches: Tensor) -> Tensor:
        weight = self.proj.weight.permute(0, 2, 3, 1).flatten(1)  # (D, P²C), the order of patchify
        return F.linear(patches.to(weight.dtype), weight, self.proj.bias)  # (B, K, D)


class ViT(nn.Module):
    """The trunk that the autoencoder and the classifier share (Dosovitskiy et al. 2021)."""

    kind = "image"

    fixed_by_training = ("target", "mean", "std")  # what training fixes, not to be had otherwise by asking

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
        drop_path: float,
        learn_positions: bool,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
    ):
        super().__init__()
        check_least(1, channels=channels)
        height, width = sides(image_size)
        if height % patch_size or width % patch_size or min(height, width) < patch_size:
            raise ValueError(f"image_size is {height}×{width} px, {_no_multiple(height, width, patch_size)}")
        if num_cls_tokens < 1:
            raise ValueError(f"num_cls_tokens={num_cls_tokens}, at least 1 is needed")
        self.takes = Input(self.kind, (channels, height, width), PIXELS)
        self.patch_size, self.grid = patch_size, (height // patch_size, width // patch_size)
        self.num_patches, self.num_cls_tokens = self.grid[0] * self.grid[1], num_cls_tokens
        self.grad_checkpointing = False
        for name, value, rgb in (("mean", mean, IMAGENET_MEAN), ("std", std, IMAGENET_STD)):
            value = value or (rgb if channels == 3 else (0.5,) * channels)
            if len(value) != channels:
                raise ValueError(f"{name} has {len(value)} values for {channels} channels; give one each")
            self.register_buffer(name, torch.tensor(value).reshape(-1, 1, 1))  # (C, 1, 1)
        self.patch_embed = PatchEmbed(channels, patch_size, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, num_cls_tokens, dim))
        table = positions(dim, *self.grid, num_cls_tokens)
        if learn_positions:
            self.pos_embed = nn.Parameter(table)
        else:
            self.register_buffer("pos_embed", table)
        self.blocks = nn.ModuleList(  # rates are linear in the depth
            Block(dim, heads, mlp_ratio, drop_path * i / max(1, depth - 1)) for i in range(depth)
        )

    def patches(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] → patches (B, N, P²C) of mean 0 and deviation 1 over the training data."""
        c, height, width = self.takes.shape
        if isinstance(x, Tensor) and x.ndim == 4 and (x.shape[2] % self.patch_size or x.shape[3] % self.patch_size):
            raise ValueError(f"images are {x.shape[2]}×{x.shape[3]} px, {_no_multiple(*x.shape[2:], self.patch_size)}")
        check_images(x, c, height, width, values=not self.training)
        return patchify((x - self.mean) / self.std, self.patch_size)  # (B, N, P²C)

    def embed(self, patches: Tensor, ids: Tensor | None = None) -> Tensor:
        """Patches (B, K, P²C), which ones (B, K) or None for all in raster order → tokens (B, T + K, D)."""
        count, values = self.num_patches if ids is None else "K", self.takes.shape[0] * self.patch_size**2
        check_floats(patches, "patches", ("B", count, values), "patches(images) makes them")
        if ids is not None and not self.training:  # there they are the model's own, and nothing waits for them
            check_ints(ids, "ids", patches.shape[:2], 0, self.num_patches, "places of the patches, in raster order")
        t, x = self.num_cls_tokens, self.patch_embed(patches)  # (B, K, D)
        table = self.pos_embed[0, t:]  # (N, D)
        x = x + (table if ids is None else table[ids])
        cls = self.cls_token + self.pos_embed[:, :t]  # (1, T, D)
        return torch.cat([cls.expand(len(x), -1, -1), x], dim=1)  # (B, T + K, D)

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
        given = range(-indices, 0) if isinstance(indices, int) else range(depth) if indices is None else indices
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(f"output_fmt={output_fmt!r}, allowed NCHW and NLC")
        fit = isinstance(given, Sequence) and all(isinstance(i, int) and -depth <= i < depth for i in given)
        if not fit or not given:
            raise ValueError(f"indices={indices!r}, allowed {-depth} to {depth - 1}, the model has {depth} blocks")
        wanted = [i % depth for i in given]
        tokens, found = self.embed(self.patches(x)), {}
        for i, block in enumerate(self.blocks[: max(wanted) + 1]):
            tokens = block(tokens)
            if i in wanted:
                found[i] = self.norm(tokens) if norm else tokens  # (B, T + N, D)
        maps = [found[i][:, t:] for i in wanted]  # (B, N, D)
        if output_fmt == "NCHW":
            maps = [m.mT.unflatten(2, self.grid) for m in maps]  # (B, D, H/P, W/P)
        return list(zip(maps, (found[i][:, :t] for i in wanted))) if return_prefix_tokens else maps

    def adapt_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A checkpoint's tensors, with the position tables of another grid made over for this one."""
        return state

    def _run(self, blocks: nn.ModuleList, x: Tensor) -> Tensor:
        for block in blocks:
            saving = self.grad_checkpointing and self.training
            x = recompute(block, x) if saving else block(x)
        return x


class Decoder(nn.Module):
    """A small transformer over the encoded patches and one mask token per hidden patch (§3)."""

    def __init__(self, grid: tuple[int, int], cls: int, dim: int, width: int, depth: int, heads: int, outputs: int):
        super().__init__()
        self.embed = nn.Linear(dim, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("pos_embed", positions(width, *grid, cls))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, 1e-6)
        self.pred = nn.Linear(width, outputs)

    def tokens(self, latent: Tensor, ids_keep: Tensor, ids_pred: Tensor) -> Tensor:
        """Attention does not see the order of its tokens, so the mask tokens just follow: nothing is unshuffled."""
        t = latent.shape[1] - ids_keep.shape[1]
        table = self.pos_embed[0, t:]  # (N, E)
        seen = self.embed(latent)  # (B, T + K, E)
        seen = torch.cat([seen[:, :t] + self.pos_embed[:, :t], seen[:, t:] + table[ids_keep]], dim=1)
        hidden = self.mask_token + table[ids_pred]  # (B, M, E)
        return torch.cat([seen, hidden.to(seen.dtype)], dim=1)  # (B, T + K + M, E)

    def head(self, x: Tensor) -> Tensor:
        return self.pred(self.norm(x))  # (B, M, P²C)


class MAE(ViT):
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
        super().__init__(
            *(image_size, patch_size, channels, dim, depth, heads, mlp_ratio, num_cls_tokens),
            **{"drop_path": 0.0, "learn_positions": False, "mean": mean, "std": std},
        )
        if mask not in MASKS:
            raise ValueError(f"mask={mask!r}, allowed {', '.join(MASKS)}")
        if target not in TARGETS:
            raise ValueError(f"target={target!r}, allowed {', '.join(TARGETS)}")
        if not 0 < decode <= 1:
            raise ValueError(f"decode={decode}, allowed above 0 up to 1; 1 predicts every hidden patch")
        self.mask, self.mask_cell, self.target_kind, self.decode = mask, mask_cell, target, decode
        self.num_keep = kept(self.grid, mask_ratio, mask, mask_cell)  # K
        self.norm = nn.LayerNorm(dim, 1e-6)
        self.decoder = None
        if decoder_depth:
            outputs = patch_size**2 * channels
            self.decoder = Decoder(self.grid, num_cls_tokens, dim, decoder_dim, decoder_depth, decoder_heads, outputs)
            nn.init.normal_(self.decoder.mask_token, std=0.02)
        nn.init.normal_(self.cls_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.view(dim, -1))  # as the linear map that it is

    def forward(self, x: Tensor, order: Tensor | None = None) -> MAEOutput:
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
        count = max(1, int(self.decode * hidden)) if self.training else hidden
        ids_keep, ids_pred = order[:, : self.num_keep], order[:, self.num_keep :][:, :count]  # (B, K), (B, M)
        latent = self.encode(gather_rows(patches, ids_keep), ids_keep)  # (B, T + K, D)
        pred = self._decode(latent, ids_keep, ids_pred)[:, -count:]  # (B, M, E)
        pred = self.decoder.head(pred)  # (B, M, P²C)
        loss = (pred - self.target(gather_rows(patches, ids_pred))).square().mean()
        return MAEOutput(loss, pred, ids_keep, ids_pred)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] → normalised tokens (B, T + N, D), class tokens first, nothing masked."""
        return self.encode(self.patches(x))

    def encode(self, patches: Tensor, ids: Tensor | None = None) -> Tensor:
        """Patches (B, K, P²C) at positions ids (B, K), None for all → tokens (B, T + K, D)."""
        return self.norm(self._run(self.blocks, self.embed(patches, ids)))

    def draw(self, batch: int, device: torch.device | str = "cpu") -> Tensor:
        """A random order of the patches for each image, (B, N) int64: the first K are kept."""
        options = {"cell": self.mask_cell} if self.mask == "cell" else {}
        order = MASKS[self.mask](batch, *self.grid, self.num_keep, device, **options)  # (B, N)
        if self.decode < 1 and self.mask != "random":  # which of the hidden ones are predicted must be chance
            tail = order[:, self.num_keep :]
            tail = tail.gather(1, torch.rand(tail.shape, device=device).argsort(1))
            order = torch.cat([order[:, : self.num_keep], tail], dim=1)
        return order

    def target(self, patches: Tensor) -> Tensor:
        """What is to be predicted of patches (B, M, P²C), float32 or better: flat patches have no variance to spare."""
        patches = patches.to(torch.promote_types(patches.dtype, torch.float32))
        return norm_pixel(patches) if self.target_kind == "norm_pixel" else patches

    def _order(self, x: Tensor, order: Tensor | None) -> Tensor:
        """The given one, or one that is drawn."""
        if order is None:
            return self.draw(len(x), x.device)
        n = self.num_patches
        return check_ints(order, "order", (len(x), n), 0, n, "draw(B) makes one")  # (B, N)

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
        if statistics not in ("own", "visible"):
            raise ValueError(f"statistics={statistics!r}, allowed own and visible")
        patches, k = self.patches(x), self.num_keep  # (B, N, P²C)
        order = self._order(x, order)  # (B, N)
        ids_keep, ids_pred = order[:, :k], order[:, k:]  # (B, K), (B, M)
        seen = gather_rows(patches, ids_keep)  # (B, K, P²C)
        every = self._decode(self.encode(seen, ids_keep), ids_keep, ids_pred)[:, self.num_cls_tokens :]
        pred = gather_rows(self.decoder.head(every), order.argsort(1)).to(patches.dtype)  # (B, N, P²C)
        if self.target_kind == "norm_pixel":
            source = patches if statistics == "own" else seen
            mean, var = source.mean(-1, keepdim=True), source.var(-1, keepdim=True)  # (B, N or K, 1)
            if statistics == "visible":
                mean, var = mean.mean(1, keepdim=True), var.mean(1, keepdim=True)  # (B, 1, 1)
            pred = pred * (var + 1e-6).sqrt() + mean
        hidden = torch.ones_like(order, dtype=torch.bool).scatter(1, ids_keep, False)[:, :, None]  # (B, N, 1)
        return Reconstruction(
            self._pixels(patches.masked_fill(hidden, 0)).where(~self._pixels(hidden, raw=True), 0.5),
            self._pixels(pred),
            self._pixels(torch.where(hidden, pred, patches)),
        )

    def adapt_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Fixed positions follow from the grid alone; an encoder asked for alone leaves the decoder behind."""
        if self.decoder is None:
            state = {k: v for k, v in state.items() if not k.startswith("decoder.")}
        tables = {"pos_embed": self.blocks[0].norm1.normalized_shape[0]} if "pos_embed" in state else {}
        if self.decoder is not None and "decoder.pos_embed" in state:
            tables["decoder.pos_embed"] = self.decoder.norm.normalized_shape[0]
        own = {
            key: positions(dim, *self.grid, self.num_cls_tokens)
            for key, dim in tables.items()
            if state[key].shape[1] != self.num_patches + self.num_cls_tokens and state[key].shape[2] == dim
        }
        return state | own

    def _decode(self, latent: Tensor, ids_keep: Tensor, ids_pred: Tensor) -> Tensor:
        if self.decoder is None:
            raise ValueError(
                "this MAE is an encoder without a decoder (decoder_depth=0): it gives forward_features, but neither "
                "trains nor reconstructs; take weights of kind full, `zoo ls 'mae*' --pretrained` tells which"
            )
        return self._run(self.decoder.blocks, self.decoder.tokens(latent, ids_keep, ids_pred))  # (B, T + K + M, E)

    def _pixels(self, patches: Tensor, raw: bool = False) -> Tensor:
        _, height, width = self.takes.shape
        if raw:
            return unpatchify(
                patches.expand(-1, -1, self.patch_size**2), self.patch_size, height, width
            )  # (B, 1, H, W)
        x = unpatchify(patches, self.patch_size, height, width)  # (B, C, H, W)
        return (x * self.std + self.mean).clamp(0, 1)


class MAEClassifier(ViT):
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
            *(image_size, patch_size, channels, dim, depth, heads, mlp_ratio, num_cls_tokens),
            **{"drop_path": drop_path, "learn_positions": True, "mean": mean, "std": std},
        )
        if pool not in ("avg", "token"):
            raise ValueError(f"pool={pool!r}, allowed avg and token")
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path={drop_path}, allowed 0 to below 1")
        self.pool = pool
        self.norm = nn.LayerNorm(dim, 1e-6) if pool == "token" else nn.Identity()
        self.fc_norm = nn.LayerNorm(dim, 1e-6) if pool == "avg" else nn.Identity()
        self.head_norm = nn.BatchNorm1d(dim, affine=False, eps=1e-6) if head_norm else nn.Identity()
        nn.init.normal_(self.cls_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.view(dim, -1))
        self.head = nn.Linear(dim, num_classes)
        self.reset_head(num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] → logits (B, num_classes)."""
        return self.head(self.head_norm(self.pooled(x)))

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] → tokens (B, T + N, D), class tokens first; normed if pool is "token"."""
        return self.norm(self._run(self.blocks, self.embed(self.patches(x))))

    def pooled(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] → what the head reads, (B, D)."""
        x = self.forward_features(x)  # (B, T + N, D)
        return self.fc_norm(x[:, self.num_cls_tokens :].mean(1) if self.pool == "avg" else x[:, 0])  # (B, D)

    def reset_head(self, num_classes: int) -> None:
        """A new head for other classes, nearly zero as the paper's code starts it; everything before it stays."""
        self.head = nn.Linear(self.head.in_features, num_classes).to(self.head.weight)
        nn.init.trunc_normal_(self.head.weight, std=0.01 if isinstance(self.head_norm, nn.BatchNorm1d) else 2e-5)
        nn.init.zeros_(self.head.bias)

    def start_from(self, state: dict[str, Tensor]) -> None:
        """Take an autoencoder's encoder, every tensor of it; what only the classifier has stays as it is.

        Positions of another grid are interpolated. With `pool="avg"` the encoder's own norm is left out, as published.

        Raises:
            ValueError: a tensor is missing, left over or misshapen.
        """
        state = self.adapt_state({k: v for k, v in state.items() if not k.startswith("decoder.")})
        own = self.state_dict()
        fresh = [k for k in own if k.startswith(("fc_norm.", "head.", "head_norm."))]
        needed = [k for k in own if k not in fresh]
        dropped = ("norm.weight", "norm.bias") if self.pool == "avg" else ()
        extra = [k for k in state if k not in needed and k not in dropped]
        wrong = [k for k in needed if k not in state or state[k].shape != own[k].shape]
        if extra or wrong:
            raise ValueError(
                f"these weights are no encoder of this classifier: {len(wrong)} tensors missing or misshapen "
                f"({', '.join(wrong[:1]) or 'none'} first), {len(extra)} unexpected ({', '.join(extra[:1]) or 'none'} "
                "first); sizes, patch and channels must agree"
            )
        kept = {k: own[k] for k in fresh} | {k: state[k].to(own[k].dtype) for k in needed}
        self.load_state_dict(kept, strict=True)

    def adapt_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Learned positions of a square grid are interpolated to this one, bicubic, not antialiased, as published."""
        t, table = self.num_cls_tokens, state.get("pos_embed")
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

    def group_matcher(self, coarse: bool = False) -> dict:
        """How timm's layer-wise decay counts: the stem is 0, block i is i + 1, the rest comes last."""
        return {"stem": r"^cls_token|^pos_embed|^patch_embed", "blocks": r"^blocks\.(\d+)"}


def positions(dim: int, height: int, width: int, cls: int) -> Tensor:
    """The fixed table, (1, T + N, dim): class tokens stand nowhere, at zero."""
    return torch.cat([torch.zeros(cls, dim), sincos(dim, height, width)])[None]


def norm_pixel(patches: Tensor, eps: float = 1e-6) -> Tensor:
    """`(t - mean) / √(var + eps)` over all values of a patch, colours together, unbiased (§3, "normalised pixels")."""
    mean, var = patches.mean(-1, keepdim=True), patches.var(-1, keepdim=True)  # (B, M, 1)
    return (patches - mean) / (var + eps).sqrt()


# Masks: an order of the patches for each image, (B, N) int64, of which the first `keep` are kept. The counts are
# constants, everything is made on the device, nothing waits for a number to come back.


def random_mask(b: int, h: int, w: int, keep: int, device: torch.device | str) -> Tensor:
    """Uniform without replacement (§3): one draw of (B, N), the official code's."""
    return torch.rand(b, h * w, device=device).argsort(1)


def block_mask(b: int, h: int, w: int, keep: int, device: torch.device | str, rectangles: int = 24) -> Tensor:
    """Rectangles of 8 to 40 % of the area and aspect 0.3 to 1/0.3, one after another until enough is hidden.

    Bao et al. 2022 (BEiT), algorithm 1; the last rectangle is trimmed by chance, so that the count is exact.
    """
    area = torch.empty(b, rectangles, device=device).uniform_(0.08, 0.4) * h * w  # (B, R)
    aspect = torch.empty(b, rectangles, device=device).uniform_(math.log(0.3), -math.log(0.3)).exp()  # (B, R)
    inside = []
    for side, length in ((h, (area * aspect).sqrt()), (w, (area / aspect).sqrt())):
        length = length.round().clamp(1, side)  # (B, R)
        start = (torch.rand(b, rectangles, device=device) * (side - length + 1)).floor()  # (B, R)
        at = torch.arange(side, device=device) - start[..., None]  # (B, R, side)
        inside.append((at >= 0) & (at < length[..., None]))
    covered = (inside[0][..., :, None] & inside[1][..., None, :]).flatten(2)  # (B, R, N)
    first = torch.where(covered.any(1), covered.int().argmax(1), rectangles)  # (B, N), which rectangle hides a patch
    return (first + torch.rand(b, h * w, device=device)).argsort(1, descending=True)


def grid_mask(b: int, h: int, w: int, keep: int, device: torch.device | str) -> Tensor:
    """One of every 2×2 patches is kept, the same one all over an image, drawn per image (§4.1, "grid")."""
    place = torch.randint(4, (b, 1), device=device)  # (B, 1)
    row, column = torch.arange(h * w, device=device) // w, torch.arange(h * w, device=device) % w  # (N,)
    hidden = (row % 2 * 2 + column % 2) != place  # (B, N)
    return (hidden + torch.rand(b, h * w, device=device)).argsort(1)


def cell_mask(b: int, h: int, w: int, keep: int, device: torch.device | str, cell: int = 4) -> Tensor:
    """Cells of `cell`×`cell` patches are kept or hidden as a whole (Pixio, Yang et al. 2025)."""
    draw = torch.rand(b, h // cell * (w // cell), device=device).argsort(1).argsort(1)  # (B, cells), ranks
    rank = draw.reshape(b, h // cell, 1, w // cell, 1).expand(-1, -1, cell, -1, cell).reshape(b, h * w)  # (B, N)
    return (rank + torch.rand(b, h * w, device=device)).argsort(1)


def color_mask(
    b: int, h: int, w: int, keep: int, device: torch.device | str, low: float = 2, high: float = 0.5
) -> Tensor:
    """The peaks of green noise, white noise less its fine and its coarse part, are hidden (ColorMAE, Hinojosa 2024).

    Args:
        low, high: standard deviations, in patches, of the two Gaussian filters whose difference is the band.
    """
    radius = math.ceil(3 * low)
    noise = torch.randn(b, 1, h + 2 * radius, w + 2 * radius, device=device)  # (B, 1, h + 2r, w + 2r)
    at = torch.arange(-radius, radius + 1, device=device, dtype=noise.dtype)
    bands = []
    for sigma in (high, low):
        kernel = (-0.5 * (at / sigma) ** 2).exp()
        kernel = kernel / kernel.sum()  # (2r + 1,)
        bands.append(F.conv2d(F.conv2d(noise, kernel[None, None, None]), kernel[None, None, :, None]))  # (B, 1, h, w)
    return (bands[0] - bands[1]).flatten(1).argsort(1)


MASKS = {"random": random_mask, "block": block_mask, "grid": grid_mask, "cell": cell_mask, "color": color_mask}


def kept(grid: tuple[int, int], ratio: float, mask: str, cell: int) -> int:
    """How many patches stay, K; the official rounding, down.

    Raises:
        ValueError: none or all of them would, or the mask cannot hide this share of this grid.
    """
    h, w = grid
    if not 0 < ratio < 1 or not 1 <= int(h * w * (1 - ratio)) < h * w:
        raise ValueError(
            f"mask_ratio={ratio} of {h * w} patches keeps {int(h * w * (1 - ratio))}; some must be hidden and some "
            "kept, 0.75 is the paper's. To see all of an image use forward_features"
        )
    keep = int(h * w * (1 - ratio))
    if mask == "grid" and (h % 2 or w % 2 or keep * 4 != h * w):
        raise ValueError(
            f"mask='grid' hides 3 of 4 patches of an even grid, given {ratio} of {h}×{w}; use mask='random'"
        )
    if mask == "cell":
        if h % cell or w % cell or keep < cell**2:
            raise ValueError(
                f"mask='cell' needs sides that are multiples of mask_cell={cell}, and a cell to keep; "
                f"the grid is {h}×{w}, {keep} patches are kept"
            )
        keep -= keep % cell**2
    return keep


def _no_multiple(height: int, width: int, p: int) -> str:
    near = "×".join(str(max(p, round(side / p) * p)) for side in (height, width))
    return f"not a multiple of patch={p}; resize to {near}"


# Sizes. B, L and H are the paper's, with its decoder; tiny and small get a decoder that is no larger than they are.

TINY = {"dim": 192, "depth": 12, "heads": 3}
SMALL = {"dim": 384, "depth": 12, "heads": 6}
BASE = {"dim": 768, "depth": 12, "heads": 12}
LARGE = {"dim": 1024, "depth": 24, "heads": 16}
HUGE = {"dim": 1280, "depth": 32, "heads": 16, "patch_size": 14}


def _decoder(dim: int, depth: int, heads: int) -> dict[str, int]:
    return {"decoder_dim": dim, "decoder_depth": depth, "decoder_heads": heads}


def mae_vit_tiny(**args) -> MAE:
    """ViT-Ti (Touvron et al. 2021), decoder of 4 blocks as wide as the encoder."""
    return MAE(**TINY | _decoder(192, 4, 3) | args)


def mae_vit_small(**args) -> MAE:
    """ViT-S, decoder of 4 blocks of half its width."""
    return MAE(**SMALL | _decoder(192, 4, 3) | args)


def mae_vit_base(**args) -> MAE:
    """ViT-B/16 as published."""
    return MAE(**BASE | args)


def mae_vit_large(**args) -> MAE:
    """ViT-L/16 as published."""
    return MAE(**LARGE | args)


def mae_vit_huge(**args) -> MAE:
    """ViT-H/14 as published."""
    return MAE(**HUGE | args)


def mae_vit_tiny_fast(**args) -> MAE:
    """ViT-Ti that predicts half of what is hidden, decoder of 2 blocks."""
    return MAE(**TINY | _decoder(128, 2, 4) | {"decode": 0.5} | args)


def mae_vit_small_fast(**args) -> MAE:
    """ViT-S that predicts half of what is hidden, decoder of 2 blocks."""
    return MAE(**SMALL | _decoder(192, 2, 3) | {"decode": 0.5} | args)


def mae_vit_base_fast(**args) -> MAE:
    """ViT-B/16 that predicts half of what is hidden with a decoder of half its width."""
    return MAE(**BASE | _decoder(384, 4, 6) | {"decode": 0.5} | args)


def mae_vit_tiny_classifier(**args) -> MAEClassifier:
    """ViT-Ti with a head."""
    return MAEClassifier(**TINY | args)


def mae_vit_small_classifier(**args) -> MAEClassifier:
    """ViT-S with a head."""
    return MAEClassifier(**SMALL | args)


def mae_vit_base_classifier(**args) -> MAEClassifier:
    """ViT-B/16 with a head."""
    return MAEClassifier(**BASE | args)


def mae_vit_large_classifier(**args) -> MAEClassifier:
    """ViT-L/16 with a head."""
    return MAEClassifier(**LARGE | args)


def mae_vit_huge_classifier(**args) -> MAEClassifier:
    """ViT-H/14 with a head."""
    return MAEClassifier(**HUGE | args)
