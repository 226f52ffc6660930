"""The trunk over cubes of a clip that autoencoders and classifiers share, and what the autoencoders share beyond it.

B clips · F frames · C channels · H W sides, P patch side in pixels · U frames of a cube ("tubelet") · S = HW/P² places,
G = F/U steps · N = GS cubes, K of them kept, M predicted · D width of the encoder, E of the decoder · T class tokens
"""

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.families.videomae.masks import MASKS
from zoo.nn.checks import check_dense, check_images, check_least, sides
from zoo.nn.embed import check_multiple, pixel_statistics
from zoo.nn.masked import MaskedAutoencoder, MaskedOutput, Reconstruction
from zoo.nn.protocols import PIXELS, Input
from zoo.nn.vit import ViT, init_linear


class Separable(nn.Module):
    """MAE-ST's learned positions: a table of places plus a table of steps, and one for the class token."""

    def __init__(self, grid: tuple[int, int, int], dim: int):
        super().__init__()
        self.spatial = nn.Parameter(torch.zeros(1, grid[1] * grid[2], dim))
        self.temporal = nn.Parameter(torch.zeros(1, grid[0], dim))
        self.cls = nn.Parameter(torch.zeros(1, 1, dim))

    def forward(self) -> Tensor:
        return (self.temporal[:, :, None] + self.spatial[:, None]).flatten(1, 2)[0]  # (N, dim)


class VideoViT(ViT):
    """A transformer over cubes of a clip.

    With `separable` it is MAE-ST's: learned positions, a class token, a bias on the keys. Without, it is VideoMAE's: a
    fixed table over the flat index of a cube, no class token, a key bias that is zero and stays zero.
    """

    kind = "clip"
    parts = "cubes"

    fixed_by_training = ("target", "mean", "std", "tubelet", "separable")

    grid: tuple[int, int, int]  # (G, H/P, W/P)
    mean: Tensor
    std: Tensor
    pos_embed: Tensor  # unless separable
    positions: Separable  # where separable

    def __init__(
        self,
        frames: int,
        image_size: int | Sequence[int],
        channels: int,
        cube: tuple[int, int],
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        separable: bool = False,
        drop_path: float = 0.0,
    ):
        tubelet, patch_size = cube
        check_least(1, channels=channels, tubelet=tubelet, patch_size=patch_size)
        height, width = sides(image_size)
        if frames < tubelet or frames % tubelet:
            near = max(tubelet, round(frames / tubelet) * tubelet)
            raise ValueError(f"frames={frames} is not a multiple of tubelet={tubelet}; take {near} frames")
        check_multiple("image_size is", height, width, patch_size)
        takes, patch = Input(self.kind, (frames, channels, height, width), PIXELS), (tubelet, patch_size, patch_size)
        grid = (frames // tubelet, height // patch_size, width // patch_size)
        positions = Separable(grid, dim) if separable else None
        super().__init__(takes, patch, dim, depth, heads, mlp_ratio, drop_path, separable, positions)
        self.tubelet, self.patch_size = tubelet, patch_size
        self.separable, self.num_cls_tokens = separable, int(separable)
        for name, values in pixel_statistics(channels, mean, std):
            self.register_buffer(name, values)  # (C,)
        if not separable:
            self.register_buffer("pos_embed", sinusoid(dim, self.num_cubes)[None])  # (1, N, D)
            self.register_buffer("pos_grid", torch.tensor(self.grid))  # what the table was made for

    @property
    def num_cubes(self) -> int:
        """N."""
        return self.num_patches

    def cubes(self, x: Tensor) -> Tensor:
        """Clips (B, F, C, H, W) in [0, 1] → cubes (B, N, UP²C), still in [0, 1]."""
        check_clips(x, self.takes, values=not self.training)
        return cubify(x, self.tubelet, self.patch_size)  # (B, N, UP²C)

    def normalise(self, cubes: Tensor) -> Tensor:
        """Cubes in [0, 1] → mean 0 and deviation 1 over the training data."""
        x = cubes.unflatten(-1, (-1, len(self.mean)))  # (B, K, UP², C)
        return ((x - self.mean) / self.std).flatten(2)  # (B, K, UP²C)

    def tables(self) -> tuple[Tensor | None, Tensor]:
        if self.separable:
            return self.cls_token + self.positions.cls, self.positions()  # (1, 1, D), (N, D)
        return None, self.pos_embed[0]  # (N, D)

    def forward_features(self, x: Tensor) -> Tensor:
        """Clips (B, F, C, H, W) in [0, 1] → tokens (B, T + N, D), step by step in raster order, nothing masked."""
        return self.encode(self.cubes(x))  # (B, T + N, D)

    def adapt_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A checkpoint's tensors, with the positions of another grid made over for this one.

        Tables are resampled on the grid they were trained on, linearly in time and in space, with a warning: features
        then are not what was measured.
        """
        resampled = self._separable_tables(state) if self.separable else self._fixed_tables(state)
        if resampled:
            grid = "×".join(map(str, self.grid))
            warnings.warn(
                f"positions were trained for another grid than {grid} cubes: resampled linearly", stacklevel=4
            )
        return state | resampled

    def _separable_tables(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        resampled = {}
        for key in (k for k in ("positions.", "decoder.positions.") if f"{k}spatial" in state):
            spatial, temporal = state[f"{key}spatial"], state[f"{key}temporal"]  # (1, S, D), (1, G, D)
            side = math.isqrt(spatial.shape[1])
            if spatial.shape[1] != self.grid[1] * self.grid[2] and side**2 == spatial.shape[1]:
                plane = spatial.reshape(1, 1, side, side, -1)  # (1, 1, side, side, D)
                resampled[f"{key}spatial"] = resample(plane, (1, *self.grid[1:]))
            if temporal.shape[1] != self.grid[0]:
                line = temporal.reshape(1, -1, 1, 1, temporal.shape[2])  # (1, G, 1, 1, D)
                resampled[f"{key}temporal"] = resample(line, (self.grid[0], 1, 1))
        return resampled

    def _fixed_tables(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        trained = tuple(state["pos_grid"].tolist()) if "pos_grid" in state else self.grid
        if trained == self.grid:
            return {}
        tables = {k: state[k] for k in ("pos_embed", "decoder.pos_embed") if k in state}  # (1, N, D) each
        resampled = {k: resample(t.reshape(1, *trained, -1), self.grid) for k, t in tables.items()}
        return resampled | {"pos_grid": torch.tensor(self.grid)}


class MaskedVideo(MaskedAutoencoder, VideoViT):
    """What VideoMAE and MAE-ST share: `forward` masks, `forward_features` never does. A child states its target."""

    mask: str  # of MASKS

    def forward(self, x: Tensor, order: Tensor | None = None) -> MaskedOutput:
        """Mask, encode, predict: `loss = mean((pred - target)²)` over hidden cubes (§3.1).

        Args:
            x: clips (B, F, C, H, W) in [0, 1].
            order: (B, N) int64, the cubes in the order they are kept, the first K are; None draws one.

        Raises:
            ValueError: bad clips, or a model without a decoder.
        """
        cubes = self.cubes(x)  # (B, N, UP²C)
        order = self._order(x, order)  # (B, N)
        ids_keep, ids_pred = order[:, : self.num_keep], self._ids_pred(order)  # (B, K), (B, M)
        pred = self._predict(cubes, ids_keep, ids_pred, ids_pred.shape[1])  # (B, M, outputs)
        error = F.mse_loss(pred, self.target(cubes, ids_pred), reduction="none").mean(-1)  # (B, M)
        return MaskedOutput(self._mean(error, ids_keep, ids_pred), pred, ids_keep, ids_pred)

    def draw(self, batch: int, device: torch.device | str = "cpu") -> Tensor:
        """A random order of the cubes for each clip, (B, N) int64: the first K are kept."""
        return MASKS[self.mask].order(batch, self.grid, self.num_keep, device)

    def target(self, cubes: Tensor, ids: Tensor) -> Tensor:
        """What is to be predicted of cubes (B, N, UP²C) in [0, 1] at ids (B, M): (B, M, outputs), float32 or better."""
        raise NotImplementedError

    @torch.no_grad()
    def reconstruct(self, x: Tensor, order: Tensor | None = None, statistics: str = "own") -> Reconstruction:
        """Pictures of what the model makes of clips whose cubes are hidden; arguments as the image model's.

        A `norm_pixel` model predicts cubes without their mean and deviation. They are put back from `statistics`: "own"
        takes them from the hidden cube itself, as the paper's figures do; "visible" takes the average of the cubes that
        were seen.

        Raises:
            ValueError: unknown statistics, bad clips, or a model without a decoder.
        """
        return self._reconstruct(self.cubes(x), self._order(x, order), statistics)

    def _ids_pred(self, order: Tensor) -> Tensor:
        """Which cubes are predicted, (B, M) int64."""
        return order[:, self.num_keep :]  # (B, N - K)

    def _mean(self, error: Tensor, ids_keep: Tensor, ids_pred: Tensor) -> Tensor:
        """The mean error, (), of cubes, (B, M)."""
        return error.mean()

    def _picture(self, pixels: Tensor) -> Tensor:
        _, c, height, width = self.takes.shape
        deep = pixels.shape[2] // (c * self.patch_size**2)  # frames of a cube that are shown
        return uncubify(pixels, deep * self.grid[0], c, height, width, deep, self.patch_size)

    def _initialise(self) -> None:
        """Xavier in every block; the embedding of the decoder and of the cubes as torch makes them, as published."""
        init_linear(self, spare=None if self.decoder is None else self.decoder.embed)
        if self.decoder is not None:
            nn.init.trunc_normal_(self.decoder.mask_token, std=0.02, a=-0.02, b=0.02)


def check_clips(x: Tensor, takes: Input, values: bool = True) -> None:
    """Refuse what is not a batch of clips with float pixels in [0, 1].

    Args:
        takes: what the model takes, of shape (F, C, H, W).
        values: as in `check_images`.

    Raises:
        ValueError: wrong rank, number of frames, channels, size, dtype, or pixels outside [0, 1].
    """
    check_dense(x, "clips")
    frames, channels, height, width = takes.shape
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
    check_images(x.flatten(0, 1), takes, values=values)


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
