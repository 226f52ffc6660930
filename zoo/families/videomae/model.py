"""Masked autoencoders of video: VideoMAE (Tong et al. 2022, arXiv 2203.12602), its V2 with dual masking (Wang et al.
2023, arXiv 2303.16727) and MAE-ST (Feichtenhofer et al. 2022, arXiv 2205.09113).

B clips · F frames · C channels · H W sides, P patch side in pixels · U frames of a cube ("tubelet") · S = HW/P² places,
G = F/U steps · N = GS cubes, K of them kept, M predicted · D width of the encoder, E of the decoder · T class tokens
"""

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.nn.checkpointing import recompute
from zoo.nn.checks import check_dense, check_floats, check_images, check_ints, check_least, sides
from zoo.nn.embed import gather_rows
from zoo.nn.protocols import PIXELS, Input
from zoo.nn.vit import Block

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TARGETS = ("norm_pixel", "pixel")
DECODE = ("all", "running_cell", "running_cell_hidden")


class VideoMAEOutput(NamedTuple):
    """What a training step gives."""

    loss: Tensor  # ()
    pred: Tensor  # (B, M, outputs), in the units of the target
    ids_keep: Tensor  # (B, K) int64, cubes the encoder saw
    ids_pred: Tensor  # (B, M) int64, cubes that were predicted


class Reconstruction(NamedTuple):
    """Clips, each (B, F, C, H, W) in [0, 1]."""

    masked: Tensor  # hidden cubes are grey
    predicted: Tensor  # every cube as the decoder draws it
    pasted: Tensor  # the prediction where cubes were hidden, the clip where they were seen


class CubeEmbed(nn.Module):
    """A linear map of each cube, kept as the convolution that it is equal to."""

    def __init__(self, channels: int, tubelet: int, patch_size: int, dim: int):
        super().__init__()
        size = (tubelet, patch_size, patch_size)
        self.proj = nn.Conv3d(channels, dim, size, size)

    def forward(self, cubes: Tensor) -> Tensor:
        weight = self.proj.weight.permute(0, 2, 3, 4, 1).flatten(1)  # (D, UP²C), the order of cubify
        return F.linear(cubes.to(weight.dtype), weight, self.proj.bias)  # (B, K, D)


class Separable(nn.Module):
    """MAE-ST's learned positions: a table of places plus a table of steps, and one for the class token."""

    def __init__(self, steps: int, places: int, dim: int):
        super().__init__()
        self.spatial = nn.Parameter(torch.zeros(1, places, dim))
        self.temporal = nn.Parameter(torch.zeros(1, steps, dim))
        self.cls = nn.Parameter(torch.zeros(1, 1, dim))

    def forward(self) -> Tensor:
        return (self.temporal[:, :, None] + self.spatial[:, None]).flatten(1, 2)[0]  # (N, dim)


class VideoViT(nn.Module):
    """The trunk that autoencoders and classifiers share: a transformer over cubes of a clip.

    With `separable`, MAE-ST's: learned positions, a class token, a bias on the keys. Without, VideoMAE's: a fixed table
    over the flat index of a cube, no class token, a key bias that is zero and stays zero.
    """

    kind = "clip"

    fixed_by_training = ("target", "mean", "std", "tubelet", "separable")

    def __init__(
        self,
        frames: int,
        image_size: int | Sequence[int],
        tubelet: int,
        patch_size: int,
        channels: int,
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
        drop_path: float,
        separable: bool,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
    ):
        super().__init__()
        check_least(1, channels=channels)
        height, width = sides(image_size)
        if frames < tubelet or frames % tubelet:
            near = max(tubelet, round(frames / tubelet) * tubelet)
            raise ValueError(f"frames={frames} is not a multiple of tubelet={tubelet}; take {near} frames")
        if height % patch_size or width % patch_size or min(height, width) < patch_size:
            near = "×".join(str(max(patch_size, round(s / patch_size) * patch_size)) for s in (height, width))
            raise ValueError(
                f"image_size is {height}×{width} px, not a multiple of patch={patch_size}; resize to {near}"
            )
        self.takes = Input(self.kind, (frames, channels, height, width), PIXELS)
        self.tubelet, self.patch_size, self.separable = tubelet, patch_size, separable
        self.grid = (frames // tubelet, height // patch_size, width // patch_size)  # (G, H/P, W/P)
        self.num_places, self.num_cubes = self.grid[1] * self.grid[2], math.prod(self.grid)
        self.num_cls_tokens, self.grad_checkpointing = int(separable), False
        for name, value, rgb in (("mean", mean, IMAGENET_MEAN), ("std", std, IMAGENET_STD)):
            value = value or (rgb if channels == 3 else (0.5,) * channels)
            if len(value) != channels:
                raise ValueError(f"{name} has {len(value)} values for {channels} channels; give one each")
            self.register_buffer(name, torch.tensor(value))  # (C,)
        self.patch_embed = CubeEmbed(channels, tubelet, patch_size, dim)
        if separable:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
            self.positions = Separable(self.grid[0], self.num_places, dim)
        else:
            self.register_buffer("pos_embed", sinusoid(dim, self.num_cubes)[None])  # (1, N, D)
            self.register_buffer("pos_grid", torch.tensor(self.grid))  # what the table was made for
        self.blocks = nn.ModuleList(  # rates are linear in the depth
            Block(dim, heads, mlp_ratio, drop_path * i / max(1, depth - 1), key_bias=separable) for i in range(depth)
        )
        self.norm: nn.Module = nn.LayerNorm(dim, 1e-6)

    def cubes(self, x: Tensor) -> Tensor:
        """Clips (B, F, C, H, W) in [0, 1] → cubes (B, N, UP²C), still in [0, 1]."""
        check_clips(x, *self.takes.shape, values=not self.training)
        return cubify(x, self.tubelet, self.patch_size)  # (B, N, UP²C)

    def normalise(self, cubes: Tensor) -> Tensor:
        """Cubes in [0, 1] → mean 0 and deviation 1 over the training data."""
        x = cubes.unflatten(-1, (-1, len(self.mean)))  # (B, K, UP², C)
        return ((x - self.mean) / self.std).flatten(2)  # (B, K, UP²C)

    def encode(self, cubes: Tensor, ids: Tensor | None = None) -> Tensor:
        """Cubes (B, K, UP²C) in [0, 1] at positions ids (B, K), None for all → tokens (B, T + K, D)."""
        count, values = self.num_cubes if ids is None else "K", self.tubelet * self.patch_size**2 * len(self.mean)
        check_floats(cubes, "cubes", ("B", count, values), "cubes(clips) makes them")
        if ids is not None:
            check_ints(
                ids, "ids", cubes.shape[:2], 0, self.num_cubes, "places of the cubes, step by step in raster order"
            )
        x = self.patch_embed(self.normalise(cubes))  # (B, K, D)
        table = self.positions() if self.separable else self.pos_embed[0]  # (N, D)
        x = x + (table if ids is None else table[ids])
        if self.separable:
            cls = self.cls_token + self.positions.cls  # (1, 1, D)
            x = torch.cat([cls.expand(len(x), -1, -1), x], dim=1)  # (B, 1 + K, D)
        return self.norm(self._run(self.blocks, x))  # (B, T + K, D)

    def forward_features(self, x: Tensor) -> Tensor:
        """Clips (B, F, C, H, W) in [0, 1] → tokens (B, T + N, D), step by step in raster order, nothing masked."""
        return self.encode(self.cubes(x))

    def adapt_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A checkpoint's tensors, with the positions of another grid made over for this one.

        One rule: tables are resampled on the grid they were trained on, linearly in time and in space, with a warning,
        for features then are not what was measured.
        """
        if self.separable:
            keys = [k for k in ("positions.", "decoder.positions.") if f"{k}spatial" in state]
            changed = {}
            for key in keys:
                spatial, temporal = state[f"{key}spatial"], state[f"{key}temporal"]
                side = math.isqrt(spatial.shape[1])
                if spatial.shape[1] != self.num_places and side**2 == spatial.shape[1]:
                    plane = spatial.reshape(1, 1, side, side, -1)
                    changed[f"{key}spatial"] = resample(plane, (1, *self.grid[1:]))
                if temporal.shape[1] != self.grid[0]:
                    line = temporal.reshape(1, -1, 1, 1, temporal.shape[2])
                    changed[f"{key}temporal"] = resample(line, (self.grid[0], 1, 1))
        else:
            given = tuple(state["pos_grid"].tolist()) if "pos_grid" in state else self.grid
            if given == self.grid:
                return state
            tables = {k: state[k] for k in ("pos_embed", "decoder.pos_embed") if k in state}
            changed = {k: resample(t.reshape(1, *given, -1), self.grid) for k, t in tables.items()}
            changed["pos_grid"] = torch.tensor(self.grid)
        if changed:
            grid = "×".join(map(str, self.grid))
            warnings.warn(
                f"positions were trained for another grid than {grid} cubes: resampled linearly", stacklevel=4
            )
        return state | changed

    def _run(self, blocks: nn.ModuleList, x: Tensor) -> Tensor:
        for block in blocks:
            saving = self.grad_checkpointing and self.training
            x = recompute(block, x) if saving else block(x)
        return x


class Decoder(nn.Module):
    """VideoMAE's: a narrow transformer over the encoded cubes and one mask token per cube to predict (§3.3)."""

    def __init__(
        self,
        grid: tuple[int, int, int],
        dim: int,
        width: int,
        depth: int,
        heads: int,
        outputs: int,
        mlp_ratio: float = 4.0,
    ):
        super().__init__()
        self.embed = nn.Linear(dim, width, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("pos_embed", sinusoid(width, math.prod(grid))[None])  # (1, N, E)
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio, key_bias=False) for _ in range(depth))
        self.norm = nn.LayerNorm(width, 1e-6)
        self.pred = nn.Linear(width, outputs)

    def tokens(self, latent: Tensor, ids_keep: Tensor, ids_pred: Tensor) -> Tensor:
        """Attention does not see the order of its tokens, so the mask tokens just follow."""
        table = self.pos_embed[0]  # (N, E)
        seen = self.embed(latent)  # (B, K, E)
        hidden = self.mask_token + table[ids_pred]  # (B, M, E)
        return torch.cat([seen + table[ids_keep], hidden.to(seen.dtype)], dim=1)  # (B, K + M, E)

    def head(self, x: Tensor) -> Tensor:
        return self.pred(self.norm(x))  # (B, M, UP²C)


class SpaceTimeDecoder(nn.Module):
    """MAE-ST's: learned separable positions and a class token of its own; the encoder's is left behind."""

    def __init__(self, grid: tuple[int, int, int], dim: int, width: int, depth: int, heads: int, outputs: int):
        super().__init__()
        self.embed = nn.Linear(dim, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = Separable(grid[0], grid[1] * grid[2], width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, 1e-6)
        self.pred = nn.Linear(width, outputs)

    def tokens(self, latent: Tensor, ids_keep: Tensor, ids_pred: Tensor) -> Tensor:
        table = self.positions()  # (N, E)
        seen = self.embed(latent[:, 1:])  # (B, K, E)
        cls = (self.cls_token + self.positions.cls).expand(len(seen), -1, -1)  # (B, 1, E)
        hidden = self.mask_token + table[ids_pred]  # (B, M, E)
        parts = [cls.to(seen.dtype), seen + table[ids_keep], hidden.to(seen.dtype)]
        return torch.cat(parts, dim=1)  # (B, 1 + K + M, E)

    def head(self, x: Tensor) -> Tensor:
        return self.pred(self.norm(x))  # (B, M, outputs)


class VideoMAE(VideoViT):
    """The masked autoencoder of video. `forward` masks; `forward_features` never does.

    Args:
        frames: F, a multiple of the tubelet.
        image_size: side in pixels, or (height, width); multiples of the patch.
        tubelet: U.
        patch_size: P.
        channels: C.
        dim, depth, heads, mlp_ratio: of the encoder; the decoder has the same mlp_ratio, as published.
        decoder_dim, decoder_depth, decoder_heads: of the decoder; `decoder_depth=0` is an encoder alone.
        mask_ratio: share of the cubes that is hidden, strictly between 0 and 1.
        mask: "tube", the same places in every step (§3.2); "random", cubes anywhere (MAE-ST); "frame", whole steps.
        decode: which hidden cubes are predicted in training: "all"; "running_cell", V2's half, with a mask token also
            where the encoder has seen the cube, as published; "running_cell_hidden", the same half without those.
        target: "norm_pixel", each colour of a cube with its own mean and deviation taken out, or "pixel", in [0, 1].
        mean, std: of the training data in [0, 1], one value a channel; None is ImageNet's for 3 channels, else 0.5.

    Raises:
        ValueError: sizes that do not divide, a ratio that hides nothing or everything, an unknown mask or target.
    """

    def __init__(
        self,
        frames: int = 16,
        image_size: int | Sequence[int] = 224,
        tubelet: int = 2,
        patch_size: int = 16,
        channels: int = 3,
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        mlp_ratio: float = 4.0,
        decoder_dim: int = 384,
        decoder_depth: int = 4,
        decoder_heads: int = 6,
        mask_ratio: float = 0.9,
        mask: str = "tube",
        decode: str = "all",
        target: str = "norm_pixel",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ):
        super().__init__(
            *(frames, image_size, tubelet, patch_size, channels, dim, depth, heads, mlp_ratio),
            **{"drop_path": 0.0, "separable": False, "mean": mean, "std": std},
        )
        outputs = tubelet * patch_size**2 * channels
        self._configure(mask_ratio, mask, decode, target)
        self.decoder = None
        if decoder_depth:
            self.decoder = Decoder(self.grid, dim, decoder_dim, decoder_depth, decoder_heads, outputs, mlp_ratio)
        self._initialise()

    def _configure(self, mask_ratio: float, mask: str, decode: str, target: str) -> None:
        if mask not in MASKS:
            raise ValueError(f"mask={mask!r}, allowed {', '.join(MASKS)}")
        if decode not in DECODE:
            raise ValueError(f"decode={decode!r}, allowed {', '.join(DECODE)}")
        if target not in TARGETS:
            raise ValueError(f"target={target!r}, allowed {', '.join(TARGETS)}")
        steps, height, width = self.grid
        if decode != "all" and (height % 2 or width % 2):
            raise ValueError(f"decode={decode!r} runs a cell of 2×2, the grid is {height}×{width}; take an even one")
        if decode == "running_cell_hidden" and (steps % 4 or mask != "tube"):
            raise ValueError(
                f"decode={decode!r} has a constant count for mask='tube' and steps in fours, given {mask!r} and {steps}"
                "; take decode='running_cell'"
            )
        self.mask, self.decode, self.target_kind = mask, decode, target
        self.num_keep = kept(self.grid, mask_ratio, mask)  # K

    def _initialise(self) -> None:
        """Xavier in every block; the embedding of the decoder and of the cubes as torch makes them, as published."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                if self.decoder is None or module is not self.decoder.embed:
                    nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if self.decoder is not None:
            nn.init.trunc_normal_(self.decoder.mask_token, std=0.02, a=-0.02, b=0.02)

    def forward(self, x: Tensor, order: Tensor | None = None) -> VideoMAEOutput:
        """Mask, encode, predict: `loss = mean((pred - target)²)` over hidden cubes (§3.1).

        Args:
            x: clips (B, F, C, H, W) in [0, 1].
            order: (B, N) int64, the cubes in the order they are kept, the first K are; None draws one.

        Raises:
            ValueError: bad clips, or a model without a decoder.
        """
        cubes = self.cubes(x)  # (B, N, UP²C)
        order = self._order(x, order)  # (B, N)
        ids_keep, ids_pred = order[:, : self.num_keep], order[:, self.num_keep :]  # (B, K), (B, N - K)
        if self.decode != "all" and self.training:
            ids_pred = self._running(ids_keep)  # (B, M)
        latent = self.encode(gather_rows(cubes, ids_keep), ids_keep)  # (B, T + K, D)
        pred = self._decode(latent, ids_keep, ids_pred)[:, -ids_pred.shape[1] :]  # (B, M, E)
        pred = self.decoder.head(pred)  # (B, M, outputs)
        error = F.mse_loss(pred, self.target(cubes, ids_pred), reduction="none").mean(-1)  # (B, M)
        if self.decode == "running_cell" and self.training:
            hidden = torch.ones_like(order, dtype=error.dtype).scatter(1, ids_keep, 0).gather(1, ids_pred)  # (B, M)
            return VideoMAEOutput((error * hidden).sum() / hidden.sum(), pred, ids_keep, ids_pred)
        return VideoMAEOutput(error.mean(), pred, ids_keep, ids_pred)

    def draw(self, batch: int, device: torch.device | str = "cpu") -> Tensor:
        """A random order of the cubes for each clip, (B, N) int64: the first K are kept."""
        return MASKS[self.mask](batch, self.grid, self.num_keep, device)

    def target(self, cubes: Tensor, ids: Tensor) -> Tensor:
        """What is to be predicted of cubes (B, N, UP²C) in [0, 1] at ids (B, M), (B, M, UP²C), float32 or better."""
        x = gather_rows(cubes, ids)  # (B, M, UP²C)
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        return norm_pixel(x, len(self.mean)) if self.target_kind == "norm_pixel" else x

    def _order(self, x: Tensor, order: Tensor | None) -> Tensor:
        """The given one, or one that is drawn."""
        if order is None:
            return self.draw(len(x), x.device)
        n = self.num_cubes
        return check_ints(order, "order", (len(x), n), 0, n, "draw(B) makes one")  # (B, N)

    @torch.no_grad()
    def reconstruct(self, x: Tensor, order: Tensor | None = None, statistics: str = "own") -> Reconstruction:
        """Pictures of what the model makes of clips whose cubes are hidden; arguments as the image model's.

        A `norm_pixel` model predicts cubes without their mean and deviation, a colour at a time. They are put back
        from `statistics`: "own" takes them from the hidden cube itself, as the paper's figures do; "visible" takes the
        average of the cubes that were seen.

        Raises:
            ValueError: unknown statistics, bad clips, or a model without a decoder.
        """
        if statistics not in ("own", "visible"):
            raise ValueError(f"statistics={statistics!r}, allowed own and visible")
        cubes, k = self.cubes(x), self.num_keep  # (B, N, UP²C)
        order = self._order(x, order)  # (B, N)
        ids_keep, ids_pred = order[:, :k], order[:, k:]  # (B, K), (B, N - K)
        latent = self.encode(gather_rows(cubes, ids_keep), ids_keep)  # (B, T + K, D)
        every = self._decode(latent, ids_keep, ids_pred)[:, -self.num_cubes :]  # (B, N, E)
        pred = gather_rows(self.decoder.head(every), order.argsort(1)).to(cubes.dtype)  # (B, N, outputs)
        shown = self.shown(cubes)  # (B, N, outputs)
        pred = self._pixels(pred, shown, ids_keep if statistics == "visible" else None)  # (B, N, outputs)
        hidden = torch.ones_like(order, dtype=torch.bool).scatter(1, ids_keep, False)[:, :, None]  # (B, N, 1)
        pictures = (shown.masked_fill(hidden, 0.5), pred, torch.where(hidden, pred, shown))
        _, c, height, width = self.takes.shape
        deep = shown.shape[2] // (c * self.patch_size**2)  # frames of a cube that are shown
        size = (deep * self.grid[0], c, height, width)
        return Reconstruction(*(uncubify(p, *size, deep, self.patch_size).clamp(0, 1) for p in pictures))

    def shown(self, cubes: Tensor) -> Tensor:
        """The part of cubes (B, N, UP²C) that is predicted, (B, N, outputs): all of it."""
        return cubes

    def _pixels(self, pred: Tensor, cubes: Tensor, ids_keep: Tensor | None) -> Tensor:
        """Predictions (B, N, UP²C) in [0, 1]."""
        if self.target_kind == "pixel":
            return pred
        c = len(self.mean)
        source = (cubes if ids_keep is None else gather_rows(cubes, ids_keep)).unflatten(
            -1, (-1, c)
        )  # (B, N or K, UP², C)
        mean, std = source.mean(-2, keepdim=True), source.var(-2, keepdim=True).sqrt()  # (B, N or K, 1, C)
        if ids_keep is not None:
            mean, std = mean.mean(1, keepdim=True), std.mean(1, keepdim=True)  # (B, 1, 1, C)
        return (pred.unflatten(-1, (-1, c)) * (std + 1e-6) + mean).flatten(2)  # (B, N, UP²C)

    def adapt_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.decoder is None:
            state = {k: v for k, v in state.items() if not k.startswith("decoder.")}
        return super().adapt_state(state)

    def _running(self, ids_keep: Tensor) -> Tensor:
        decoded = running_cell(len(ids_keep), self.grid, ids_keep.device)  # (B, N), half of them
        count = self.num_cubes // 2
        if self.decode == "running_cell_hidden":
            decoded = decoded.scatter(1, ids_keep, False)
            count -= self.num_keep // 2  # in four steps each place is decoded twice
        return decoded.int().sort(dim=1, descending=True, stable=True).indices[:, :count]  # (B, M)

    def _decode(self, latent: Tensor, ids_keep: Tensor, ids_pred: Tensor) -> Tensor:
        if self.decoder is None:
            raise ValueError(
                "this model is an encoder without a decoder (decoder_depth=0): it gives forward_features, but neither "
                "trains nor reconstructs; take weights of kind full, `zoo ls 'videomae*' --pretrained` tells which"
            )
        return self._run(self.decoder.blocks, self.decoder.tokens(latent, ids_keep, ids_pred))


class SpaceTimeMAE(VideoMAE):
    """MAE-ST: masks that know neither space nor time, learned separable positions, some frames predicted.

    Args:
        pred_frames: how many frames of the clip are predicted, evenly spread; a multiple of F/U.
        Others as in VideoMAE; `mean` and `std` are 0.45 and 0.225 for 3 channels.
    """

    def __init__(
        self,
        frames: int = 16,
        image_size: int | Sequence[int] = 224,
        tubelet: int = 2,
        patch_size: int = 16,
        channels: int = 3,
        dim: int = 1024,
        depth: int = 24,
        heads: int = 16,
        mlp_ratio: float = 4.0,
        decoder_dim: int = 512,
        decoder_depth: int = 4,
        decoder_heads: int = 16,
        mask_ratio: float = 0.9,
        mask: str = "random",
        target: str = "norm_pixel",
        pred_frames: int = 8,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ):
        VideoViT.__init__(
            self,
            *(frames, image_size, tubelet, patch_size, channels, dim, depth, heads, mlp_ratio),
            **{"drop_path": 0.0, "separable": True},
            **{"mean": mean or [0.45] * channels, "std": std or [0.225] * channels},
        )
        if not 0 < pred_frames <= frames or pred_frames % self.grid[0]:
            raise ValueError(f"pred_frames={pred_frames}, allowed multiples of {self.grid[0]} up to {frames}")
        self.pred_frames = pred_frames
        self._configure(mask_ratio, mask, "all", target)
        outputs = pred_frames // self.grid[0] * patch_size**2 * channels
        self.decoder = None
        if decoder_depth:
            self.decoder = SpaceTimeDecoder(self.grid, dim, decoder_dim, decoder_depth, decoder_heads, outputs)
        self._initialise()
        for name, p in self.named_parameters():
            if name.endswith(("cls_token", "mask_token", "spatial", "temporal", "positions.cls")):
                nn.init.trunc_normal_(p, std=0.02)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.view(dim, -1))

    def target(self, cubes: Tensor, ids: Tensor) -> Tensor:
        """The predicted frames of cubes (B, N, UP²C) at ids (B, M), normalised over all values of a cube together."""
        x = self.normalise(gather_rows(self.shown(cubes), ids))  # (B, M, outputs)
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.target_kind == "pixel":
            return x
        mean, var = x.mean(-1, keepdim=True), x.var(-1, keepdim=True)  # (B, M, 1)
        return (x - mean) / (var + 1e-6).sqrt()

    def shown(self, cubes: Tensor) -> Tensor:
        """The frames of cubes (B, N, UP²C) that are predicted, evenly spread, (B, N, outputs)."""
        clip = uncubify(cubes, *self.takes.shape, self.tubelet, self.patch_size)  # (B, F, C, H, W)
        index = torch.linspace(0, self.takes.shape[0] - 1, self.pred_frames).long()
        return cubify(clip[:, index.to(cubes.device)], self.pred_frames // self.grid[0], self.patch_size)

    def _pixels(self, pred: Tensor, cubes: Tensor, ids_keep: Tensor | None) -> Tensor:
        c = len(self.mean)
        if self.target_kind == "norm_pixel":
            source = self.normalise(cubes if ids_keep is None else gather_rows(cubes, ids_keep))  # (B, N or K, outputs)
            mean, std = source.mean(-1, keepdim=True), (source.var(-1, keepdim=True) + 1e-6).sqrt()  # (B, N or K, 1)
            if ids_keep is not None:
                mean, std = mean.mean(1, keepdim=True), std.mean(1, keepdim=True)  # (B, 1, 1)
            pred = pred * std + mean
        return (pred.unflatten(-1, (-1, c)) * self.std + self.mean).flatten(2)  # (B, N, outputs)


class VideoMAEClassifier(VideoViT):
    """The encoder with a head over the mean of its tokens, to be fine-tuned or probed.

    Args:
        separable: MAE-ST's trunk instead of VideoMAE's.
        num_classes: outputs; 0 for features alone.
        head_drop: dropout before the head.
        head_norm: normalise features over the batch before the head, without parameters (a probe's BatchNorm).
        drop_path: rate of the last block, growing linearly from 0.
        Others as in VideoMAE.
    """

    no_decay = ("cls_token", "positions.spatial", "positions.temporal", "positions.cls")

    def __init__(
        self,
        frames: int = 16,
        image_size: int | Sequence[int] = 224,
        tubelet: int = 2,
        patch_size: int = 16,
        channels: int = 3,
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        mlp_ratio: float = 4.0,
        num_classes: int = 400,
        head_drop: float = 0.0,
        head_norm: bool = False,
        drop_path: float = 0.0,
        separable: bool = False,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ):
        if separable:
            mean, std = mean or [0.45] * channels, std or [0.225] * channels
        super().__init__(
            *(frames, image_size, tubelet, patch_size, channels, dim, depth, heads, mlp_ratio),
            **{"drop_path": drop_path, "separable": separable, "mean": mean, "std": std},
        )
        # A norm over the mean of the tokens: VideoMAE's starts fresh, MAE-ST's is the encoder's own.
        self.norm, self.fc_norm = nn.Identity(), nn.LayerNorm(dim, 1e-6)
        self.head_norm = nn.BatchNorm1d(dim, affine=False, eps=1e-6) if head_norm else nn.Identity()
        self.head_drop = nn.Dropout(head_drop)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        for name, p in self.named_parameters():
            if name in self.no_decay:
                nn.init.trunc_normal_(p, std=0.02)
        self.reset_head(num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Clips (B, F, C, H, W) in [0, 1] → logits (B, num_classes)."""
        return self.head(self.head_drop(self.head_norm(self.pooled(x))))

    def pooled(self, x: Tensor) -> Tensor:
        """Clips (B, F, C, H, W) in [0, 1] → what the head reads, (B, D)."""
        return self.fc_norm(self.forward_features(x)[:, self.num_cls_tokens :].mean(1))  # (B, D)

    def reset_head(self, num_classes: int) -> None:
        """A new head for other classes, nearly zero as the authors' code starts it; everything before it stays."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Initializing zero-element")  # no classes, nothing to draw
            self.head = nn.Linear(len(self.fc_norm.weight), num_classes).to(self.patch_embed.proj.weight)
            nn.init.trunc_normal_(self.head.weight, std=0.02 * 0.001)
        nn.init.zeros_(self.head.bias)

    def start_from(self, state: dict[str, Tensor]) -> None:
        """Take an autoencoder's encoder, every tensor of it; what only the classifier has stays as it is.

        MAE-ST's norm becomes the head's; VideoMAE's is left out, as published.

        Raises:
            ValueError: a tensor is missing, left over or misshapen.
        """
        state = {k: v for k, v in state.items() if not k.startswith("decoder.")}
        norm = {k.replace("norm.", "fc_norm."): state.pop(k) for k in ("norm.weight", "norm.bias") if k in state}
        state = self.adapt_state(state | (norm if self.separable else {}))
        own = self.state_dict()
        fresh = ("head.", "head_norm.") if self.separable else ("head.", "head_norm.", "fc_norm.")
        needed = [k for k in own if not k.startswith(fresh)]
        extra = [k for k in state if k not in needed]
        wrong = [k for k in needed if k not in state or state[k].shape != own[k].shape]
        if extra or wrong:
            raise ValueError(
                f"these weights are no encoder of this classifier: {len(wrong)} tensors missing or misshapen "
                f"({', '.join(wrong[:1]) or 'none'} first), {len(extra)} unexpected ({', '.join(extra[:1]) or 'none'} "
                "first); sizes, patch and channels must agree"
            )
        self.load_state_dict(own | {k: state[k].to(own[k].dtype) for k in needed}, strict=True)

    def group_matcher(self, coarse: bool = False) -> dict:
        """How timm's layer-wise decay counts: the stem is 0, block i is i + 1, the rest comes last."""
        return {"stem": r"^cls_token|^positions|^patch_embed", "blocks": r"^blocks\.(\d+)"}


def check_clips(x: Tensor, frames: int, channels: int, height: int, width: int, values: bool = True) -> None:
    """Refuse what is not a batch of clips with float pixels in [0, 1].

    Raises:
        ValueError: wrong rank, number of frames, channels, size, dtype, or pixels outside [0, 1].
    """
    check_dense(x, "clips")
    if x.ndim != 5:
        raise ValueError(
            f"clips are {tuple(x.shape)}, expected (B, {frames}, {channels}, {height}, {width}); one clip needs x[None]"
        )
    if x.shape[1] == channels and x.shape[2] == frames and channels != frames:
        raise ValueError(f"clips are {tuple(x.shape)}, frames come before channels here; x.transpose(1, 2)")
    if x.shape[1] != frames:
        raise ValueError(
            f"clips have {x.shape[1]} frames, this model takes {frames}; sample {frames}, or create it with "
            f"frames={x.shape[1]}"
        )
    check_images(x.flatten(0, 1), channels, height, width, values)


def cubify(x: Tensor, u: int, p: int) -> Tensor:
    """Clips (B, F, C, H, W) → cubes (B, N, UP²C), step by step, row by row; in one the channel is the fastest."""
    b, f, c, h, w = x.shape
    x = x.reshape(b, f // u, u, c, h // p, p, w // p, p)  # (B, G, U, C, H/P, P, W/P, P)
    return x.permute(0, 1, 4, 6, 2, 5, 7, 3).flatten(1, 3).flatten(2)  # (B, N, UP²C)


def uncubify(x: Tensor, frames: int, channels: int, height: int, width: int, u: int, p: int) -> Tensor:
    """Cubes (B, N, UP²C) → clips (B, F, C, H, W), the inverse of `cubify`."""
    x = x.reshape(len(x), frames // u, height // p, width // p, u, p, p, channels)  # (B, G, H/P, W/P, U, P, P, C)
    return x.permute(0, 1, 4, 7, 2, 5, 3, 6).reshape(len(x), frames, channels, height, width)


def sinusoid(dim: int, length: int) -> Tensor:
    """The table of Vaswani et al. 2017 over a flat index, (length, dim): sines and cosines alternate."""
    if dim % 2:
        raise ValueError(f"dim={dim}, positions need an even number")
    omega = 10000 ** -(torch.arange(dim // 2, dtype=torch.float64) / (dim / 2))  # (dim/2,)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * omega  # (length, dim/2)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1).float()  # (length, dim)


def resample(table: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Positions (1, G, H/P, W/P, D) → (1, N', D) for another grid, trilinearly."""
    table = F.interpolate(table.movedim(-1, 1), grid, mode="trilinear", align_corners=False)  # (1, D, *grid)
    return table.flatten(2).mT  # (1, N', D)


def norm_pixel(cubes: Tensor, channels: int) -> Tensor:
    """`(t - mean) / (√var + 1e-6)` over each colour of a cube apart, unbiased (VideoMAE's target), (B, M, UP²C)."""
    x = cubes.unflatten(-1, (-1, channels))  # (B, M, UP², C)
    var, mean = torch.var_mean(x, -2, keepdim=True)  # (B, M, 1, C) each
    return (x - mean).div_(var.sqrt() + 1e-6).flatten(2)  # (B, M, UP²C)


# Masks: an order of the cubes for each clip, (B, N) int64, of which the first `keep` are kept. The counts are
# constants, everything is made on the device, nothing waits for a number to come back.


def tube_mask(b: int, grid: tuple[int, int, int], keep: int, device: torch.device | str) -> Tensor:
    """The same random places in every step (VideoMAE §3.2): what is hidden stays hidden."""
    steps, places = grid[0], grid[1] * grid[2]
    order = torch.rand(b, 1, places, device=device).argsort(2)  # (B, 1, S)
    order = order + places * torch.arange(steps, device=device)[:, None]  # (B, G, S)
    return torch.cat([part.flatten(1) for part in order.tensor_split([keep // steps], dim=2)], dim=1)  # (B, N)


def random_mask(b: int, grid: tuple[int, int, int], keep: int, device: torch.device | str) -> Tensor:
    """Uniform over all cubes, space and time alike (MAE-ST §3)."""
    return torch.rand(b, math.prod(grid), device=device).argsort(1)  # (B, N)


def frame_mask(b: int, grid: tuple[int, int, int], keep: int, device: torch.device | str) -> Tensor:
    """Whole steps are kept or hidden (VideoMAE's ablation)."""
    places = grid[1] * grid[2]
    order = torch.rand(b, grid[0], device=device).argsort(1)  # (B, G)
    return (order[:, :, None] * places + torch.arange(places, device=device)).flatten(1)  # (B, N)


MASKS = {"tube": tube_mask, "random": random_mask, "frame": frame_mask}


def kept(grid: tuple[int, int, int], ratio: float, mask: str) -> int:
    """How many cubes stay, K, with the official roundings.

    Raises:
        ValueError: none or all of them would.
    """
    steps, places = grid[0], grid[1] * grid[2]
    unit, count = {"tube": (steps, places), "frame": (places, steps), "random": (1, steps * places)}[mask]
    stay = int(count * (1 - ratio)) if mask == "random" else count - int(count * ratio)
    if not 0 < ratio < 1 or not 0 < stay < count:
        raise ValueError(
            f"mask_ratio={ratio} with mask={mask!r} keeps {stay} of {count}; some must be hidden and some kept, 0.9 is "
            "the papers'. To see all of a clip use forward_features"
        )
    return stay * unit


def running_cell(b: int, grid: tuple[int, int, int], device: torch.device | str) -> Tensor:
    """What V2's decoder predicts, (B, N) bool: two of each 2×2 places, one place further each step, from any start."""
    steps, height, width = grid
    start = torch.randint(4, (b, 1, 1), device=device)  # (B, 1, 1)
    step = torch.arange(steps, device=device)[:, None] + 1  # (G, 1)
    place = torch.arange(height * width, device=device)  # (S,)
    corner = place // width % 2 * 2 + place % width % 2  # (S,), which of its 2×2 a place is
    return ((corner - start - step) % 4 >= 2).flatten(1)  # (B, N)


# Sizes: VideoMAE's and V2's published encoders with their decoders, MAE-ST's; tiny is ours.

TINY = {"dim": 192, "depth": 12, "heads": 3}
SMALL = {"dim": 384, "depth": 12, "heads": 6}
BASE = {"dim": 768, "depth": 12, "heads": 12}
LARGE = {"dim": 1024, "depth": 24, "heads": 16}
HUGE = {"dim": 1280, "depth": 32, "heads": 16}
GIANT = {"dim": 1408, "depth": 40, "heads": 16, "mlp_ratio": 48 / 11, "patch_size": 14}


def _decoder(dim: int, depth: int, heads: int) -> dict[str, int]:
    return {"decoder_dim": dim, "decoder_depth": depth, "decoder_heads": heads}


V2 = {"decode": "running_cell"}


def videomae_vit_tiny(**args) -> VideoMAE:
    """ViT-Ti, decoder of half its width."""
    return VideoMAE(**TINY | _decoder(96, 4, 3) | args)


def videomae_vit_small(**args) -> VideoMAE:
    """ViT-S/16 as published."""
    return VideoMAE(**SMALL | _decoder(192, 4, 3) | args)


def videomae_vit_base(**args) -> VideoMAE:
    """ViT-B/16 as published."""
    return VideoMAE(**BASE | _decoder(384, 4, 6) | args)


def videomae_vit_large(**args) -> VideoMAE:
    """ViT-L/16 as published."""
    return VideoMAE(**LARGE | _decoder(512, 12, 8) | args)


def videomae_vit_huge(**args) -> VideoMAE:
    """ViT-H/16 as published."""
    return VideoMAE(**HUGE | _decoder(640, 12, 8) | args)


def videomae_v2_vit_small(**args) -> VideoMAE:
    """ViT-S/16 with V2's dual masking."""
    return VideoMAE(**SMALL | _decoder(192, 4, 3) | V2 | args)


def videomae_v2_vit_base(**args) -> VideoMAE:
    """ViT-B/16 of V2."""
    return VideoMAE(**BASE | _decoder(384, 4, 6) | V2 | args)


def videomae_v2_vit_large(**args) -> VideoMAE:
    """ViT-L/16 of V2."""
    return VideoMAE(**LARGE | _decoder(512, 4, 8) | V2 | args)


def videomae_v2_vit_huge(**args) -> VideoMAE:
    """ViT-H/16 of V2."""
    return VideoMAE(**HUGE | _decoder(512, 4, 8) | V2 | args)


def videomae_v2_vit_giant(**args) -> VideoMAE:
    """ViT-g/14 of V2."""
    return VideoMAE(**GIANT | _decoder(512, 4, 8) | V2 | args)


def mae_st_vit_base(**args) -> SpaceTimeMAE:
    """ViT-B/16 of MAE-ST."""
    return SpaceTimeMAE(**BASE | args)


def mae_st_vit_large(**args) -> SpaceTimeMAE:
    """ViT-L/16 of MAE-ST."""
    return SpaceTimeMAE(**LARGE | args)


def mae_st_vit_huge(**args) -> SpaceTimeMAE:
    """ViT-H/16 of MAE-ST."""
    return SpaceTimeMAE(**HUGE | args)


def videomae_vit_tiny_classifier(**args) -> VideoMAEClassifier:
    """ViT-Ti with a head."""
    return VideoMAEClassifier(**TINY | args)


def videomae_vit_small_classifier(**args) -> VideoMAEClassifier:
    """ViT-S/16 with a head."""
    return VideoMAEClassifier(**SMALL | args)


def videomae_vit_base_classifier(**args) -> VideoMAEClassifier:
    """ViT-B/16 with a head."""
    return VideoMAEClassifier(**BASE | args)


def videomae_vit_large_classifier(**args) -> VideoMAEClassifier:
    """ViT-L/16 with a head."""
    return VideoMAEClassifier(**LARGE | args)


def videomae_vit_huge_classifier(**args) -> VideoMAEClassifier:
    """ViT-H/16 with a head."""
    return VideoMAEClassifier(**HUGE | args)


def videomae_v2_vit_giant_classifier(**args) -> VideoMAEClassifier:
    """ViT-g/14 with a head."""
    return VideoMAEClassifier(**GIANT | args)


def mae_st_vit_base_classifier(**args) -> VideoMAEClassifier:
    """ViT-B/16 of MAE-ST with a head."""
    return VideoMAEClassifier(**BASE | {"separable": True} | args)


def mae_st_vit_large_classifier(**args) -> VideoMAEClassifier:
    """ViT-L/16 of MAE-ST with a head."""
    return VideoMAEClassifier(**LARGE | {"separable": True} | args)


def mae_st_vit_huge_classifier(**args) -> VideoMAEClassifier:
    """ViT-H/16 of MAE-ST with a head."""
    return VideoMAEClassifier(**HUGE | {"separable": True} | args)
