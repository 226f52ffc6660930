"""Activations that are made again in the backward pass instead of being kept."""

import contextlib
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from zoo.nn.protocols import Recomputes


class _Autoencoder(Protocol):
    @property
    def encoder(self) -> Recomputes: ...

    @property
    def decoder(self) -> Recomputes: ...


class Checkpointed:
    """For a model whose `encoder` and `decoder` can make activations again: one switch for both."""

    @property
    def grad_checkpointing(self: _Autoencoder) -> bool:
        """Keep no activations inside blocks."""
        return self.encoder.grad_checkpointing

    @grad_checkpointing.setter
    def grad_checkpointing(self: _Autoencoder, on: bool) -> None:
        self.encoder.grad_checkpointing = self.decoder.grad_checkpointing = on


def recompute(block: nn.Module, *inputs: Tensor) -> Any:
    """`block(*inputs)`, whose activations are made again in the backward pass, not kept (Chen et al. 2016)."""
    if not torch.is_grad_enabled():
        return block(*inputs)
    counted = [b for m in block.modules() if isinstance(m, nn.BatchNorm2d) and m.training for b in m.buffers()]
    if not counted or torch.compiler.is_compiling():  # a compiled graph changes no buffer a second time
        return checkpoint(block, *inputs, use_reentrant=False)
    again = _Unchanged(counted)
    return checkpoint(block, *inputs, use_reentrant=False, context_fn=lambda: (contextlib.nullcontext(), again))


class _Unchanged:
    """Running statistics come out as they went in; a graph may be gone through more than once."""

    def __init__(self, buffers: list[Tensor]):
        self.buffers = buffers

    def __enter__(self) -> None:
        self.before = [b.clone() for b in self.buffers]

    def __exit__(self, *_: object) -> None:
        for b, value in zip(self.buffers, self.before):
            b.copy_(value)
