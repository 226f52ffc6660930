"""Masked autoencoders of video: VideoMAE (Tong et al. 2022, arXiv 2203.12602), its V2 with dual masking (Wang et al.
2023, arXiv 2303.16727) and MAE-ST (Feichtenhofer et al. 2022, arXiv 2205.09113), which is in spacetime.py.

B clips · F frames · C channels · H W sides, P patch side in pixels · U frames of a cube ("tubelet") · S = HW/P² places,
G = F/U steps · N = GS cubes, K of them kept, M predicted · D width of the encoder, E of the decoder · T class tokens

A new way to hide is a row of masks.py, a new thing to predict a row of targets.py.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.families.videomae.masks import DECODE, MASKS, check_decode, num_kept
from zoo.families.videomae.spacetime import SpaceTimeMAE
from zoo.families.videomae.targets import TARGETS
from zoo.families.videomae.trunk import MaskedVideo, VideoViT, sinusoid
from zoo.nn.checks import check_among
from zoo.nn.embed import gather_rows
from zoo.nn.masked import MaskDecoder
from zoo.nn.vit import ViTClassifier, init_linear, new_head


class Decoder(MaskDecoder):
    """VideoMAE's: fixed positions, no class token (§3.3)."""

    pos_embed: Tensor

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
        super().__init__(dim, width, depth, heads, outputs, mlp_ratio, key_bias=False, embed_bias=False)
        self.register_buffer("pos_embed", sinusoid(width, math.prod(grid))[None])  # (1, N, E)

    def tokens(self, latent: Tensor, ids_keep: Tensor, ids_pred: Tensor) -> Tensor:
        table = self.pos_embed[0]  # (N, E)
        seen = self.embed(latent)  # (B, K, E)
        hidden = self.mask_token + table[ids_pred]  # (B, M, E)
        return torch.cat([seen + table[ids_keep], hidden.to(seen.dtype)], dim=1)  # (B, K + M, E)


class VideoMAE(MaskedVideo):
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

    no_decay = ("decoder.mask_token",)

    decoder: Decoder | None

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
        cube = (tubelet, patch_size)
        super().__init__(frames, image_size, channels, cube, dim, depth, heads, mlp_ratio, mean, std)
        check_among(MASKS, mask=mask)
        check_among(DECODE, decode=decode)
        check_among(TARGETS, target=target)
        check_decode(decode, self.grid, mask)
        self.mask, self.decode_kind, self.target_kind = mask, decode, target
        self.num_keep = num_kept(self.grid, mask_ratio, mask)  # K
        self.decoder = None
        if decoder_depth:
            self.decoder = Decoder(
                self.grid, dim, decoder_dim, decoder_depth, decoder_heads, self.patch_values, mlp_ratio
            )
        self._initialise()

    def target(self, cubes: Tensor, ids: Tensor) -> Tensor:
        """What is to be predicted of cubes (B, N, UP²C) in [0, 1] at ids (B, M), (B, M, UP²C), float32 or better."""
        x = gather_rows(cubes, ids)  # (B, M, UP²C)
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        return TARGETS[self.target_kind].of(x, self.takes.channels)  # (B, M, UP²C)

    def shown(self, cubes: Tensor) -> Tensor:
        """The part of cubes (B, N, UP²C) that is predicted, (B, N, UP²C): all of it."""
        return cubes

    def _ids_pred(self, order: Tensor) -> Tensor:
        """Evaluation predicts all that is hidden, training what `decode` says."""
        decode = DECODE[self.decode_kind if self.training else "all"]
        return decode.ids(order, self.num_keep, self.grid)  # (B, M)

    def _mean(self, error: Tensor, ids_keep: Tensor, ids_pred: Tensor) -> Tensor:
        if not self.training or not DECODE[self.decode_kind].sees:
            return error.mean()  # ()
        hidden = error.new_ones(len(error), self.num_cubes).scatter(1, ids_keep, 0).gather(1, ids_pred)  # (B, M)
        return (error * hidden).sum() / hidden.sum()  # ()

    def _pixels(self, pred: Tensor, cubes: Tensor, ids: Tensor | None) -> Tensor:
        return TARGETS[self.target_kind].undo(pred, cubes, ids, self.takes.channels)  # (B, N, UP²C)


class VideoMAEClassifier(ViTClassifier, VideoViT):
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
        cube = (tubelet, patch_size)
        super().__init__(
            frames, image_size, channels, cube, dim, depth, heads, mlp_ratio, mean, std, separable, drop_path
        )
        # A norm over the mean of the tokens: VideoMAE's starts fresh, MAE-ST's is the encoder's own.
        self.norm, self.fc_norm = nn.Identity(), nn.LayerNorm(dim, 1e-6)
        self.head_norm = nn.BatchNorm1d(dim, affine=False, eps=1e-6) if head_norm else nn.Identity()
        self.head_drop = nn.Dropout(head_drop)
        init_linear(self, lambda weight: nn.init.trunc_normal_(weight, std=0.02))
        for name, p in self.named_parameters():
            if name in self.no_decay:
                nn.init.trunc_normal_(p, std=0.02)
        self.reset_head(num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Clips (B, F, C, H, W) in [0, 1] → logits (B, num_classes)."""
        return self.head(self.head_drop(self.head_norm(self.pooled(x))))  # (B, num_classes)

    def pooled(self, x: Tensor) -> Tensor:
        """Clips (B, F, C, H, W) in [0, 1] → what the head reads, (B, D)."""
        return self.fc_norm(self.forward_features(x)[:, self.num_cls_tokens :].mean(1))  # (B, D)

    def reset_head(self, num_classes: int) -> None:
        """A new head for other classes, nearly zero as the authors' code starts it; everything before it stays."""
        self.head = new_head(len(self.fc_norm.weight), num_classes, 2e-5, self.patch_embed.proj.weight)

    def start_from(self, state: dict[str, Tensor]) -> None:
        """Take an autoencoder's encoder, every tensor of it; what only the classifier has stays as it is.

        MAE-ST's norm becomes the head's; VideoMAE's is left out, as published.

        Raises:
            ValueError: a tensor is missing, left over or misshapen.
        """
        state = {k: v for k, v in state.items() if not k.startswith("decoder.")}
        norm = {f"fc_{k}": state.pop(k) for k in ("norm.weight", "norm.bias") if k in state}
        state = self.adapt_state(state | (norm if self.separable else {}))
        self.take_encoder(
            state, fresh=("head.", "head_norm.") if self.separable else ("head.", "head_norm.", "fc_norm.")
        )


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


def videomae_vit_tiny(**args: Any) -> VideoMAE:
    """ViT-Ti, decoder of half its width."""
    return VideoMAE(**TINY | _decoder(96, 4, 3) | args)


def videomae_vit_small(**args: Any) -> VideoMAE:
    """ViT-S/16 as published."""
    return VideoMAE(**SMALL | _decoder(192, 4, 3) | args)


def videomae_vit_base(**args: Any) -> VideoMAE:
    """ViT-B/16 as published."""
    return VideoMAE(**BASE | _decoder(384, 4, 6) | args)


def videomae_vit_large(**args: Any) -> VideoMAE:
    """ViT-L/16 as published."""
    return VideoMAE(**LARGE | _decoder(512, 12, 8) | args)


def videomae_vit_huge(**args: Any) -> VideoMAE:
    """ViT-H/16 as published."""
    return VideoMAE(**HUGE | _decoder(640, 12, 8) | args)


def videomae_v2_vit_small(**args: Any) -> VideoMAE:
    """ViT-S/16 with V2's dual masking."""
    return VideoMAE(**SMALL | _decoder(192, 4, 3) | V2 | args)


def videomae_v2_vit_base(**args: Any) -> VideoMAE:
    """ViT-B/16 of V2."""
    return VideoMAE(**BASE | _decoder(384, 4, 6) | V2 | args)


def videomae_v2_vit_large(**args: Any) -> VideoMAE:
    """ViT-L/16 of V2."""
    return VideoMAE(**LARGE | _decoder(512, 4, 8) | V2 | args)


def videomae_v2_vit_huge(**args: Any) -> VideoMAE:
    """ViT-H/16 of V2."""
    return VideoMAE(**HUGE | _decoder(512, 4, 8) | V2 | args)


def videomae_v2_vit_giant(**args: Any) -> VideoMAE:
    """ViT-g/14 of V2."""
    return VideoMAE(**GIANT | _decoder(512, 4, 8) | V2 | args)


def mae_st_vit_base(**args: Any) -> SpaceTimeMAE:
    """ViT-B/16 of MAE-ST."""
    return SpaceTimeMAE(**BASE | args)


def mae_st_vit_large(**args: Any) -> SpaceTimeMAE:
    """ViT-L/16 of MAE-ST."""
    return SpaceTimeMAE(**LARGE | args)


def mae_st_vit_huge(**args: Any) -> SpaceTimeMAE:
    """ViT-H/16 of MAE-ST."""
    return SpaceTimeMAE(**HUGE | args)


def videomae_vit_tiny_classifier(**args: Any) -> VideoMAEClassifier:
    """ViT-Ti with a head."""
    return VideoMAEClassifier(**TINY | args)


def videomae_vit_small_classifier(**args: Any) -> VideoMAEClassifier:
    """ViT-S/16 with a head."""
    return VideoMAEClassifier(**SMALL | args)


def videomae_vit_base_classifier(**args: Any) -> VideoMAEClassifier:
    """ViT-B/16 with a head."""
    return VideoMAEClassifier(**BASE | args)


def videomae_vit_large_classifier(**args: Any) -> VideoMAEClassifier:
    """ViT-L/16 with a head."""
    return VideoMAEClassifier(**LARGE | args)


def videomae_vit_huge_classifier(**args: Any) -> VideoMAEClassifier:
    """ViT-H/16 with a head."""
    return VideoMAEClassifier(**HUGE | args)


def videomae_v2_vit_giant_classifier(**args: Any) -> VideoMAEClassifier:
    """ViT-g/14 with a head."""
    return VideoMAEClassifier(**GIANT | args)


def mae_st_vit_base_classifier(**args: Any) -> VideoMAEClassifier:
    """ViT-B/16 of MAE-ST with a head."""
    return VideoMAEClassifier(**BASE | {"separable": True} | args)


def mae_st_vit_large_classifier(**args: Any) -> VideoMAEClassifier:
    """ViT-L/16 of MAE-ST with a head."""
    return VideoMAEClassifier(**LARGE | {"separable": True} | args)


def mae_st_vit_huge_classifier(**args: Any) -> VideoMAEClassifier:
    """ViT-H/16 of MAE-ST with a head."""
    return VideoMAEClassifier(**HUGE | {"separable": True} | args)
