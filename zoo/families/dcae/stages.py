"""DC-AE's encoder and decoder: stages of blocks at one resolution each, from pixels to latents and back.

B images of a batch · C channels · H W sides in pixels · D channels of a map h × w, D' of the next · c channels of the
latent · f = 2^n from pixels to latents
"""

from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from zoo.families.dcae.blocks import (
    AttentionBlock,
    Down,
    HaarStem,
    LatentHead,
    LatentStem,
    ResBlock,
    RMSNorm2d,
    Up,
)
from zoo.nn.checkpointing import recompute


class Stage(NamedTuple):
    """One resolution of the encoder or decoder: how many blocks it has, and of which sort."""

    width: int  # D
    depth: int  # blocks
    attends: bool  # its blocks attend; else they convolve
    scales: tuple[int, ...] = ()  # kernels of attention's local mixing
    batchnorm: bool = False  # convolutions have batch norm and ReLU; else RMS norm and SiLU

    def blocks(self) -> nn.ModuleList:
        return nn.ModuleList(
            AttentionBlock(self.width, self.scales) if self.attends else ResBlock(self.width, self.batchnorm)
            for _ in range(self.depth)
        )


class Encoder(nn.Module):
    """Images (B, C, H, W) in [-1, 1] → latents (B, c, H/f, W/f)."""

    def __init__(
        self,
        channels: int,
        latent_channels: int,
        stages: Sequence[Stage],
        strided: bool,
        shortcut: str,
        latent_shortcut: bool,
        stem: str,
    ):
        super().__init__()
        first, second = stages[:2]
        self.stem: HaarStem | nn.Conv2d | Down
        if stem == "haar":
            if first.depth:
                raise ValueError(f"stem='haar' halves the sides: the first stage has no blocks, not {first.depth}")
            self.stem = HaarStem(channels, second.width)
        elif first.depth:
            self.stem = nn.Conv2d(channels, first.width, 3, padding=1)
        else:
            self.stem = Down(channels, second.width, strided, "none")
        self.stages = nn.ModuleList()
        for stage, coarser in zip_longest(stages, stages[1:]):
            blocks = stage.blocks()
            down = Down(stage.width, coarser.width, strided, shortcut) if coarser and stage.depth else None
            self.stages.append(EncoderStage(blocks, down))
        self.head = LatentHead(stages[-1].width, latent_channels, latent_shortcut)
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)  # (B, D, H, W), or of half the sides
        for stage in self.stages:
            x = stage(x, self.grad_checkpointing)  # (B, D', h/2, w/2), of the last (B, D, h, w)
        return self.head(x)  # (B, c, H/f, W/f)


class EncoderStage(nn.Module):
    """Blocks, then the way down to half the sides where there is one."""

    def __init__(self, blocks: nn.ModuleList, down: Down | None):
        super().__init__()
        self.blocks, self.down = blocks, down

    def forward(self, x: Tensor, grad_checkpointing: bool) -> Tensor:
        x = _through(self.blocks, x, grad_checkpointing)  # (B, D, h, w)
        return x if self.down is None else self.down(x)  # (B, D', h/2, w/2)


class Decoder(nn.Module):
    """Latents (B, c, h, w) → images (B, C, f·h, f·w) in [-1, 1]."""

    def __init__(
        self,
        channels: int,
        latent_channels: int,
        stages: Sequence[Stage],
        interpolate: bool,
        shortcut: str,
        latent_shortcut: bool,
        head_act: str,
    ):
        super().__init__()
        first, second = stages[:2]
        self.stem = LatentStem(latent_channels, stages[-1].width, latent_shortcut)
        self.stages = nn.ModuleList()
        for stage, coarser in zip_longest(stages, stages[1:]):
            up = Up(coarser.width, stage.width, interpolate, shortcut) if coarser and stage.depth else None
            self.stages.append(DecoderStage(up, stage.blocks()))
        finest = first if first.depth else second
        self.norm = RMSNorm2d(finest.width)
        self.act = F.relu if head_act == "relu" else F.silu
        self.head: nn.Conv2d | Up
        if first.depth:
            self.head = nn.Conv2d(first.width, channels, 3, padding=1)
        else:
            self.head = Up(second.width, channels, interpolate, "none")
        self.grad_checkpointing = False

    def forward(self, z: Tensor) -> Tensor:
        x = self.stem(z)  # (B, D, h, w)
        for stage in reversed(self.stages):
            x = stage(x, self.grad_checkpointing)  # (B, D', 2h, 2w), of the coarsest (B, D, h, w)
        return self.head(self.act(self.norm(x)))  # (B, C, f·h, f·w)


class DecoderStage(nn.Module):
    """The way up to twice the sides where there is one, then blocks."""

    def __init__(self, up: Up | None, blocks: nn.ModuleList):
        super().__init__()
        self.up, self.blocks = up, blocks

    def forward(self, x: Tensor, grad_checkpointing: bool) -> Tensor:
        x = x if self.up is None else self.up(x)  # (B, D', 2h, 2w)
        return _through(self.blocks, x, grad_checkpointing)  # (B, D', 2h, 2w)


def _through(blocks: nn.ModuleList, x: Tensor, grad_checkpointing: bool) -> Tensor:
    for block in blocks:
        x = recompute(block, x) if grad_checkpointing else block(x)  # (B, D, h, w)
    return x
