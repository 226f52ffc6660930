"""What several processes must agree on: averages, gathered rows, batch norms, sharded parameters.

Each function changes nothing where there is one process; Lightning and torch.distributed do all the rest. With W
processes of batch B, process r holds samples r, r + W, r + 2 W, … of the joined batch.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F

from zoo.nn.protocols import Network

BUCKET = 25_000_000  # gradients averaged in one go
METHODS = ("encode", "decode", "decode_unclamped", "reconstruct", "forward_features", "sample_latents")


def world() -> tuple[int, int]:
    """(rank, processes)."""
    joined = dist.is_available() and dist.is_initialized()
    return (dist.get_rank(), dist.get_world_size()) if joined else (0, 1)


def total(x: Tensor) -> Tensor:
    """The sum over processes; no gradient passes."""
    x = x.detach().clone(memory_format=torch.contiguous_format)
    if world()[1] > 1:
        dist.all_reduce(x)
    return x


def mean(x: Tensor) -> Tensor:
    """The average over processes; no gradient passes."""
    return total(x) / world()[1]


def gather(thing: Any) -> list[Any]:
    """A plain Python object of each process, in the order of ranks."""
    _, size = world()
    if size == 1:
        return [thing]
    things: list[Any] = [None] * size
    dist.all_gather_object(things, thing)
    return things


def rows(x: Tensor) -> Tensor:
    """Rows (n, …) of each process, in the order of one process: (N, …). Processes may hold one row more than others."""
    _, size = world()
    if size == 1:
        return x
    counts = torch.tensor(gather(len(x)))  # (W,)
    padded = F.pad(x.flatten(1) if x.ndim > 1 else x[:, None], (0, 0, 0, int(counts.max()) - len(x))).contiguous()
    parts = [torch.empty_like(padded) for _ in range(size)]
    dist.all_gather(parts, padded)
    place = torch.cat([torch.arange(n) * size + r for r, n in enumerate(counts.tolist())])  # (N,)
    joined = torch.cat([part[:n] for part, n in zip(parts, counts.tolist())])[place.argsort().to(x.device)]
    return joined.reshape(-1, *x.shape[1:])  # (N, …)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Gradients of the joined batch, for whoever calls backward by hand; what FSDP shards has them already."""
    _, size = world()
    if size == 1:
        return
    grads = [p.grad for p in parameters if p.grad is not None and not _is_sharded(p)]
    while grads:
        bucket = [grads.pop()]
        while grads and grads[-1].dtype == bucket[0].dtype and sum(map(Tensor.numel, bucket)) < BUCKET:
            bucket.append(grads.pop())
        flat = torch.cat([g.flatten() for g in bucket])
        dist.all_reduce(flat)
        for grad, average in zip(bucket, (flat / size).split([g.numel() for g in bucket])):
            grad.copy_(average.view_as(grad))


@contextlib.contextmanager
def by_hand(strategy: Any) -> Iterator[None]:
    """Inside, DDP leaves gradients alone: it counts on one backward pass a step that reaches all parameters."""
    blocked = getattr(strategy, "block_backward_sync", contextlib.nullcontext)
    with blocked():
        yield


class JoinedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """A BatchNorm whose statistics are the joined batch's, on a CPU, which nn.SyncBatchNorm refuses."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def _check_input_dim(self, x: Tensor) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or world()[1] == 1:
            return super().forward(x)
        from torch.distributed.nn.functional import all_reduce  # with gradients

        dims = [d for d in range(x.ndim) if d != 1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        count = all_reduce(x.new_tensor(float(x.numel() // x.shape[1])))
        average = all_reduce(x.sum(dims)) / count  # (C,)
        centred = x - average.view(shape)
        variance = all_reduce(centred.square().sum(dims)) / count  # (C,)
        with torch.no_grad():
            self.num_batches_tracked += 1
            share = self.momentum if self.momentum is not None else 1 / self.num_batches_tracked.item()
            self.running_mean.lerp_(average.detach(), share)
            self.running_var.lerp_(variance.detach() * count / (count - 1), share)
        y = centred * (variance + self.eps).rsqrt().view(shape)
        return y if self.weight is None else y * self.weight.view(shape) + self.bias.view(shape)


class JoinBatchNorms(TorchSyncBatchNorm):
    """What the Trainer's `sync_batchnorm` asks for, also where there is no GPU."""

    def apply(self, model: nn.Module) -> nn.Module:
        if isinstance(model, L.LightningModule) and model.trainer.strategy.root_device.type != "cpu":
            return super().apply(model)
        for module in list(model.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.modules.batchnorm._BatchNorm) and not isinstance(child, JoinedBatchNorm):
                    joined = JoinedBatchNorm(child.num_features, child.eps, child.momentum, child.affine)
                    joined.__dict__.update(child.__dict__)
                    setattr(module, name, joined)
        return model


def shard(model: nn.Module, mesh: Any, keep: bool = True) -> None:
    """FSDP2: each block's parameters lie in pieces and are whole while the block runs; the others while the model runs.

    Blocks are what stands in a ModuleList and has a forward of its own.

    Args:
        keep: leave what is in no block whole from the forward to the backward pass.
    """
    from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

    if isinstance(model, FSDPModule):
        return
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()  # FSDP takes no other, channels_last among them
    for block in _blocks(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=not keep)
    inside: list[nn.Module] = []  # the model, while its own forward runs and has made it whole
    model.register_forward_pre_hook(lambda *_: inside.append(model))
    model.register_forward_hook(lambda *_: inside.clear(), always_call=True)
    for name in METHODS:
        if callable(getattr(model, name, None)):
            within = getattr(model, name)
            register_fsdp_forward_method(model, name)
            setattr(model, name, _either(within, getattr(model, name), inside))


def _either(within: Callable, outside: Callable, inside: list) -> Callable:
    """FSDP's wrapper of a method, but not within forward: there it would let go of the parameters too early."""
    return lambda *args, **kwargs: (within if inside else outside)(*args, **kwargs)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        for part in child if isinstance(child, nn.ModuleList) else ():
            if type(part).forward is not nn.Module.forward:
                yield part
            else:
                yield from _blocks(part)
        if not isinstance(child, nn.ModuleList):
            yield from _blocks(child)


def _is_sharded(p: Tensor) -> bool:
    return hasattr(p, "full_tensor")


class Sharded(L.LightningModule):
    """The Trainer's ModelParallelStrategy shards `model`, and its moving average likewise.

    A discriminator stays whole on every process.
    """

    model: Network

    def configure_model(self) -> None:
        if self.device_mesh is None:
            return
        if getattr(self.hparams, "compile", False):
            raise ValueError("a model compiled into one graph cannot be sharded; set model.compile to false")
        layer_sync = getattr(self.trainer.strategy, "_layer_sync", None)  # no public name has it
        if layer_sync is not None:  # which this strategy leaves to others
            layer_sync.apply(self)
        shard(self.model, self.device_mesh["data_parallel"])
        average = getattr(self, "average", None)
        if average is not None:
            shard(average.module, self.device_mesh["data_parallel"], keep=False)
