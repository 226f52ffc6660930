"""MAE-ST (Feichtenhofer et al. 2022, arXiv 2205.09113): masks that know neither space nor time, learned positions.

B clips · F frames · C channels · H W sides, P patch side in pixels · U frames of a cube · G = F/U steps
N cubes, K of them kept, M predicted · E width of the decoder
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo.families.videomae.masks import MASKS, num_kept
from zoo.families.videomae.targets import SPACE_TIME
from zoo.families.videomae.trunk import MaskedVideo, Separable, cubify, uncubify
from zoo.nn.checks import check_among
from zoo.nn.embed import gather_rows
from zoo.nn.masked import MaskDecoder


class SpaceTimeDecoder(MaskDecoder):
    """Learned separable positions and a class token of its own; the encoder's is left behind."""

    positions: Separable

    def __init__(self, grid: tuple[int, int, int], dim: int, width: int, depth: int, heads: int, outputs: int):
        super().__init__(dim, width, depth, heads, outputs, positions=Separable(grid, width))

    def tokens(self, latent: Tensor, ids_keep: Tensor, ids_pred: Tensor) -> Tensor:
        table = self.positions()  # (N, E)
        seen = self.embed(latent[:, 1:])  # (B, K, E)
        cls = (self.cls_token + self.positions.cls).expand(seen.shape[0], -1, -1)  # (B, 1, E)
        hidden = self.mask_token + table[ids_pred]  # (B, M, E)
        parts = [cls.to(seen.dtype), seen + table[ids_keep], hidden.to(seen.dtype)]
        return torch.cat(parts, dim=1)  # (B, 1 + K + M, E)


class SpaceTimeMAE(MaskedVideo):
    """MAE-ST: masks that know neither space nor time, learned separable positions, some frames predicted.

    `forward` masks; `forward_features` never does.

    Args:
        pred_frames: how many frames of the clip are predicted, evenly spread; a multiple of F/U.
        Others as in VideoMAE; `mean` and `std` are 0.45 and 0.225 for 3 channels.
    """

    decoder: SpaceTimeDecoder | None

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
        mean, std = mean or [0.45] * channels, std or [0.225] * channels
        cube = (tubelet, patch_size)
        super().__init__(frames, image_size, channels, cube, dim, depth, heads, mlp_ratio, mean, std, separable=True)
        if not 0 < pred_frames <= frames or pred_frames % self.grid[0]:
            raise ValueError(f"pred_frames={pred_frames}, allowed multiples of {self.grid[0]} up to {frames}")
        check_among(MASKS, mask=mask)
        check_among(SPACE_TIME, target=target)
        self.mask, self.target_kind, self.pred_frames = mask, target, pred_frames
        self.num_keep = num_kept(self.grid, mask_ratio, mask)  # K
        self.decoder = None
        if decoder_depth:
            outputs = pred_frames // self.grid[0] * patch_size**2 * channels
            self.decoder = SpaceTimeDecoder(self.grid, dim, decoder_dim, decoder_depth, decoder_heads, outputs)
        self._initialise()
        learned = [self.cls_token, *self.positions.parameters()]
        if self.decoder is not None:
            learned += [self.decoder.cls_token, self.decoder.mask_token, *self.decoder.positions.parameters()]
        for parameter in learned:
            nn.init.trunc_normal_(parameter, std=0.02)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.view(dim, -1))

    def target(self, cubes: Tensor, ids: Tensor) -> Tensor:
        """The predicted frames of cubes (B, N, UP²C) at ids (B, M), normalised over all values of a cube together."""
        x = self.normalise(gather_rows(self.shown(cubes), ids))  # (B, M, outputs)
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        return SPACE_TIME[self.target_kind].of(x, self.takes.channels)  # (B, M, outputs)

    def shown(self, cubes: Tensor) -> Tensor:
        """The frames of cubes (B, N, UP²C) that are predicted, evenly spread, (B, N, outputs)."""
        frames, c, height, width = self.takes.shape
        clip = uncubify(cubes, frames, c, height, width, self.tubelet, self.patch_size)  # (B, F, C, H, W)
        index = torch.linspace(0, frames - 1, self.pred_frames).long()
        return cubify(clip[:, index.to(cubes.device)], self.pred_frames // self.grid[0], self.patch_size)

    def _pixels(self, pred: Tensor, cubes: Tensor, ids: Tensor | None) -> Tensor:
        c, shown = self.takes.channels, self.normalise(self.shown(cubes))  # (B, N, outputs)
        pred = SPACE_TIME[self.target_kind].undo(pred, shown, ids, c)
        return (pred.unflatten(-1, (-1, c)) * self.std + self.mean).flatten(2)  # (B, N, outputs)
