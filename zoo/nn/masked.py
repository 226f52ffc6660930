"""What masked autoencoders of images and of clips share: the decoder, the order of patches, pictures.

B samples · N patches, K of them kept, M predicted · V values of a patch · D width of the encoder, E of the decoder
T class tokens
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zoo.nn.checks import check_ints
from zoo.nn.embed import gather_rows
from zoo.nn.vit import Block, ViT


class MaskedOutput(NamedTuple):
    """What a training step gives."""

    loss: Tensor  # ()
    pred: Tensor  # (B, M, outputs), in the units of the target
    ids_keep: Tensor  # (B, K) int64, patches that the encoder saw
    ids_pred: Tensor  # (B, M) int64, patches that were predicted


class Reconstruction(NamedTuple):
    """Pictures in [0, 1], (B, C, H, W) of images, (B, F, C, H, W) of clips."""

    masked: Tensor  # hidden patches are grey
    predicted: Tensor  # every patch as the decoder draws it
    pasted: Tensor  # the prediction where patches were hidden, the sample where they were seen


class Target(NamedTuple):
    """A row of a table of targets: what is predicted of patches, and the way back from predictions."""

    of: Callable[[Tensor, int], Tensor]
    """(patches (B, M, V), channels) → targets (B, M, outputs)."""

    undo: Callable[[Tensor, Tensor, Tensor | None, int], Tensor]
    """(predictions (B, N, outputs), patches (B, N, V), ids, channels) → patches (B, N, V).

    What the target took out of a patch is put back from that patch itself, or, where ids (B, K) are given, as its
    average over the patches that they name.
    """


def norm_pixel(patches: Tensor, channels: int, eps: float = 1e-6) -> Tensor:
    """`(t - mean) / √(var + eps)` over all values of a patch, colours together, unbiased (He et al. 2021, §3)."""
    mean, var = patches.mean(-1, keepdim=True), patches.var(-1, keepdim=True)  # (B, M, 1)
    return (patches - mean) / (var + eps).sqrt()


PIXEL = Target(lambda patches, channels: patches, lambda pred, patches, ids, channels: pred)


class MaskDecoder(nn.Module):
    """A small transformer over the encoded patches and one mask token for each patch to predict; a child places them.

    Args:
        dim: D.
        width, depth, heads, mlp_ratio, key_bias: of the blocks; E is the width.
        outputs: values that are predicted of a patch.
        embed_bias: whether the map from D to E has a bias.
        positions: where they are learned by a module of their own, beside a class token; else a child adds what it has.
    """

    def __init__(
        self,
        dim: int,
        width: int,
        depth: int,
        heads: int,
        outputs: int,
        mlp_ratio: float = 4.0,
        key_bias: bool = True,
        embed_bias: bool = True,
        positions: nn.Module | None = None,
    ):
        super().__init__()
        self.embed = nn.Linear(dim, width, bias=embed_bias)
        if positions is not None:
            self.cls_token, self.positions = nn.Parameter(torch.zeros(1, 1, width)), positions
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio, key_bias=key_bias) for _ in range(depth))
        self.norm = nn.LayerNorm(width, 1e-6)
        self.pred = nn.Linear(width, outputs)

    def tokens(self, latent: Tensor, ids_keep: Tensor, ids_pred: Tensor) -> Tensor:
        """Tokens (B, T + K, D) of the patches ids_keep (B, K) → (B, any + K + M, E), those of ids_pred (B, M) last.

        Attention does not see the order of its tokens, so the mask tokens just follow: nothing is unshuffled.
        """
        raise NotImplementedError

    def head(self, x: Tensor) -> Tensor:
        return self.pred(self.norm(x))  # (B, M, outputs)


class MaskedAutoencoder(ViT):
    """Order, prediction and pictures, of any trunk. A child masks, states its loss, and knows its pixels."""

    decoder: MaskDecoder | None
    num_keep: int  # K

    def draw(self, batch: int, device: torch.device | str = "cpu") -> Tensor:
        """A random order of the patches for each sample, (B, N) int64: the first K are kept."""
        raise NotImplementedError

    def reconstruct(self, x: Tensor, order: Tensor | None = None, statistics: str = "own") -> Reconstruction:
        """Pictures of samples, of which an order (B, N) says what is hidden, see `_reconstruct`."""
        raise NotImplementedError

    def shown(self, patches: Tensor) -> Tensor:
        """What is predicted of patches (B, N, V), as pixels in [0, 1], (B, N, outputs)."""
        raise NotImplementedError

    def adapt_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """An encoder that is asked for alone leaves the decoder behind; positions as the trunk's."""
        if self.decoder is None:
            state = {k: v for k, v in state.items() if not k.startswith("decoder.")}
        return super().adapt_state(state)

    def _pixels(self, pred: Tensor, patches: Tensor, ids: Tensor | None) -> Tensor:
        """Predictions (B, N, outputs) as pixels, by the target's `undo`."""
        raise NotImplementedError

    def _picture(self, pixels: Tensor) -> Tensor:
        """Pixels (B, N, outputs) in their places, (B, …, C, H, W)."""
        raise NotImplementedError

    def _order(self, x: Tensor, order: Tensor | None) -> Tensor:
        """An order that a caller gives is checked; without one, one is drawn."""
        if order is None:
            return self.draw(x.shape[0], x.device)  # (B, N)
        n = self.num_patches
        return check_ints(order, "order", (x.shape[0], n), 0, n, "draw(B) makes one")  # (B, N)

    def _predict(self, patches: Tensor, ids_keep: Tensor, ids_pred: Tensor, count: int) -> Tensor:
        """The patches ids_keep (B, K) go through the encoder, the decoder predicts: (B, count, outputs).

        The decoder's last M tokens are the patches ids_pred (B, M), the K before them the kept ones: a count of M gives
        what a loss needs, and N a whole picture.

        Raises:
            ValueError: a model without a decoder.
        """
        if self.decoder is None:
            raise ValueError(
                "this model is an encoder without a decoder (decoder_depth=0): it gives forward_features, but neither "
                "trains nor reconstructs; take weights of kind full, `zoo ls --pretrained` tells which"
            )
        latent = self.encode(gather_rows(patches, ids_keep), ids_keep)  # (B, T + K, D)
        tokens = self._run(self.decoder.blocks, self.decoder.tokens(latent, ids_keep, ids_pred))  # (B, any + K + M, E)
        return self.decoder.head(tokens[:, -count:])  # (B, count, outputs)

    def _reconstruct(self, patches: Tensor, order: Tensor, statistics: str) -> Reconstruction:
        """Pictures of patches (B, N, V), of which the first K of the order (B, N) are kept.

        Raises:
            ValueError: unknown statistics, or a model without a decoder.
        """
        if statistics not in ("own", "visible"):
            raise ValueError(f"statistics={statistics!r}, allowed own and visible")
        ids_keep, ids_pred = order[:, : self.num_keep], order[:, self.num_keep :]  # (B, K), (B, N - K)
        pred = self._predict(patches, ids_keep, ids_pred, self.num_patches)  # (B, N, outputs), in the given order
        pred = gather_rows(pred, order.argsort(1)).to(patches.dtype)  # (B, N, outputs), in raster order
        pred = self._pixels(pred, patches, ids_keep if statistics == "visible" else None)
        seen = self.shown(patches)  # (B, N, outputs)
        hidden = torch.ones_like(order, dtype=torch.bool).scatter(1, ids_keep, False)[:, :, None]  # (B, N, 1)
        pixels = (seen.masked_fill(hidden, 0.5), pred, torch.where(hidden, pred, seen))
        return Reconstruction(*(self._picture(p).clamp(0, 1) for p in pixels))
