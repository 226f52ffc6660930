"""`zoo validate RECIPE --estimate`: the memory and the time that a recipe takes, before a machine is rented.

A step of the recipe's own LightningModule goes through Lightning's own fit on torch's meta device, where tensors have
shapes and no values: nothing is read, fetched or computed, whatever the size. Counted are

- the bytes of parameters, gradients, optimiser state and moving average;
- activations: what autograd keeps for the backward pass, each storage once, at the most; where blocks are made again,
  what is kept between them, and inside the largest of them;
- floating-point operations of products, convolutions and attention, two for a multiplication and an addition, in the
  forward pass, the backward pass, and whatever is made again.

Not counted: what kernels need while they run, CUDA's context, fragments of its allocator, what torch.compile saves.
Attention is a fused kernel's: no scores are kept.
"""

import argparse
import contextlib
import json
import logging
import math
import pkgutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Literal, NamedTuple
from unittest import mock

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from zoo import recipe
from zoo.data.latents import ImageLatentData
from zoo.nn.checks import check_least
from zoo.nn.frozen import Frozen, random_weights
from zoo.nn.protocols import HasLatents, Input, Network, Recomputes
from zoo.registry import suggest
from zoo.train import parse
from zoo.train.adversarial import Perceptual

# Dense TFLOP/s by data sheet: of bfloat16 and float16; of float32 convolutions, which torch computes in TF32; and of
# float32 matrices, which it does not.
KINDS = ("half", "tf32", "float32")
Peaks = tuple[float, float, float]
DEVICES: dict[str, Peaks] = {
    "h100": (989, 495, 67),
    "h200": (989, 495, 67),
    "a100": (312, 156, 19.5),
    "b200": (2250, 1125, 80),
}
# What comes last in an adversarial training is counted from the first step. No graph is compiled of shapes.
LATE = {"disc_start": 0, "disc_warmup": 0, "compile": False}
# Training images, or videos, of the data sets that everybody counts alike.
SIZES = {
    "ILSVRC/imagenet-1k": 1_281_167,
    "ylecun/mnist": 60_000,
    "torchvision:MNIST": 60_000,
    "torchvision:FashionMNIST": 60_000,
    "uoft-cs/cifar10": 50_000,
    "torchvision:CIFAR10": 50_000,
    "zh-plus/tiny-imagenet": 100_000,
}
Precision = Literal["32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true"]
PRECISIONS: dict[str, Precision] = {
    "32-true": "32-true",
    "bf16-mixed": "bf16-mixed",
    "16-mixed": "16-mixed",
    "bf16-true": "bf16-true",
    "16-true": "16-true",
    "64-true": "64-true",
    "32": "32-true",
    "bf16": "bf16-mixed",
    "16": "16-mixed",
    "64": "64-true",
}
# What CUDA's autocast computes in half precision, and what in float32; the rest takes what it gets.
HALVED = "linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d matmul __matmul__ __rmatmul__"
HALVED += " mm mv bmm addmm addmv addbmm baddbmm multi_dot einsum prelu scaled_dot_product_attention"
RAISED = "pow __pow__ __rpow__ exp expm1 log log10 log1p log2 rsqrt reciprocal softmax log_softmax softplus logsumexp"
RAISED += " sum prod cumsum cumprod norm vector_norm matrix_norm normalize layer_norm group_norm rms_norm renorm dist"
RAISED += " cdist vecdot cosine_similarity cross_entropy nll_loss kl_div mse_loss l1_loss smooth_l1_loss huber_loss"
RAISED += " binary_cross_entropy_with_logits interpolate"

aten = torch.ops.aten


def main(argv: list[str]) -> int:
    """Print what a recipe takes: a table, and JSON in the last line."""
    parser = argparse.ArgumentParser("zoo validate --estimate", description="Memory and time of a recipe.")
    parser.add_argument("recipe")
    parser.add_argument("--estimate", action="store_true")
    parser.add_argument("--utilisation", default="0.4")
    parser.add_argument("--device", default="h100")
    parser.add_argument("--tflops")
    parser.add_argument("--images")
    args, overrides = parser.parse_known_args(argv)
    if args.device not in DEVICES:
        raise ValueError(
            f"--device {args.device}{suggest(args.device, DEVICES)}; allowed {', '.join(DEVICES)}, or give --tflops"
        )
    share = _number("--utilisation", args.utilisation, 1)
    peaks = DEVICES[args.device] if args.tflops is None else _peaks(args.tflops)
    images = None if args.images is None else int(_number("--images", args.images))
    figures = estimate(args.recipe, overrides)
    figures |= speed(figures, share, peaks, images)
    print(table(figures))
    print(json.dumps(figures))
    return 0


def estimate(name: str, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """Parameters, bytes and operations of a recipe's training, on each of its devices.

    Args:
        name: of a recipe, or its file.
        overrides: as on the command line, `["--data.batch_size", "64"]`.

    Raises:
        ValueError: what the recipe's parser, its LightningModule or its DataModule refuses; a precision, or a class of
            either, for which nothing can be counted.
    """
    plan = resolve(name, overrides)
    with shapes() as count, _quiet():
        module = plan.module()
        _check(module, plan)
        again = plan.given.get("grad_checkpointing") if isinstance(_model(module), Recomputes) else None
        whole = _step(module, plan, count, again=False)
        step, other = whole, None
        if again is not None:
            parts = _step(module, plan, count, again=True)
            parts.kept += max((whole.inside[m] for m in parts.again), default=0)
            step, other = (parts, whole) if again else (whole, parts)
    train, b = plan.train, plan.data["batch_size"]
    optimizers = 1 if module.automatic_optimization else len(step.optimizers)  # by hand, Lightning counts all steps
    return {
        "recipe": name,
        "kind": _model(module).takes.kind,
        "module": plan.kind.__name__,
        "optimizer": " and ".join(dict.fromkeys(type(o).__name__ for o in step.optimizers)),
        "precision": plan.precision,
        **_memory(module, step, plan.world),
        "grad_checkpointing": again,
        "other_activation_bytes": other and other.kept,
        "other_flops_per_image": other and other.flops.total() / b,
        "flops_per_image": step.flops.total() / b,
        **{f"{k}_flops_per_image": step.flops[k] / b for k in KINDS},
        "batch": b,
        "devices": plan.world,
        "accumulate": train["accumulate_grad_batches"] * plan.given.get("accumulate", 1),
        "images": _known(plan.data),
        "repeats": plan.data.get("repeats", 1),
        "limit_train_batches": train["limit_train_batches"],
        "epochs": train["max_epochs"] if (train["max_epochs"] or -1) > 0 else None,
        "steps": train["max_steps"] / optimizers if train["max_steps"] > 0 else None,
    }


class Plan(NamedTuple):
    """A recipe, resolved."""

    kind: type[L.LightningModule]
    given: dict[str, Any]  # to it
    source: type[L.LightningDataModule]
    data: dict[str, Any]  # given to that one
    train: Any  # what the Trainer is given
    precision: Precision
    world: int  # devices of all nodes

    def module(self) -> L.LightningModule:
        """The recipe's, with what comes late in its training from the first step on."""
        return self.kind(**self.given | {k: v for k, v in LATE.items() if k in self.given})


def resolve(name: str, overrides: Iterable[str] = ()) -> Plan:
    """A recipe's classes and what they are given; errors as `estimate`'s."""
    with _quiet():
        config = parse.resolve(recipe.recipe_path(name), list(overrides))
    (kind, given), (source, data) = (_class(config[part]) for part in ("model", "data"))
    train = config["trainer"]
    precision, world = str(train["precision"] or "32-true"), _count(train["devices"]) * train["num_nodes"]
    if precision not in PRECISIONS:
        allowed = ", ".join(dict.fromkeys(PRECISIONS.values()))
        raise ValueError(f"precision={precision} has no estimate; allowed {allowed}")
    if "batch_size" not in data:
        raise ValueError(f"{source.__name__} has no batch_size, and an estimate needs one; name such an argument of it")
    if data["batch_size"] is None:
        raise ValueError(
            "batch_size=None follows the pictures, which an estimate does not read; give --data.batch_size"
        )
    check_least(
        1, batch_size=data["batch_size"], devices=world, accumulate_grad_batches=train["accumulate_grad_batches"]
    )
    with contextlib.suppress(FileNotFoundError):  # what is not there yet takes no less
        source(**data)
    return Plan(kind, given, source, data, train, PRECISIONS[precision], world)


def _check(module: L.LightningModule, plan: Plan) -> None:
    _model(module)
    if not module.automatic_optimization and plan.train["accumulate_grad_batches"] > 1:
        raise ValueError("this training accumulates by itself: give model.accumulate, not accumulate_grad_batches")


def _model(module: L.LightningModule) -> Network:
    """What a LightningModule trains.

    Raises:
        ValueError: it has no `model`, or one that does not say what it takes.
    """
    model: Any = getattr(module, "model", None)
    if not isinstance(getattr(model, "takes", None), Input):
        raise ValueError(f"{type(module).__name__} has no model that says what it `takes`, and an estimate needs one")
    return model


def _memory(module: L.LightningModule, step: "Watch", world: int) -> dict[str, int]:
    """Numbers of parameters, and bytes of one of so many devices."""
    optimised = {p for o in step.optimizers for group in o.param_groups for p in group["params"]}
    average = getattr(module, "average", None)
    copied = set() if average is None else {*average.parameters(), *average.buffers()}
    held = {t for n in (module, *_beside(module)) for t in (*n.parameters(), *n.buffers())} - copied
    state = {p: _bytes(s.values()) for o in step.optimizers for p, s in o.state.items()}
    sizes = {
        "parameter_bytes": _bytes(held),
        "gradient_bytes": _bytes(optimised),
        "optimizer_bytes": sum(state.values()),
        "average_bytes": _bytes(copied),
        "activation_bytes": step.kept,
    }
    total, own = sum(sizes.values()), set(_model(module).parameters())  # which FSDP2 shares, and no discriminator
    shared = _bytes(own) + _bytes(own & optimised) + sum(state.get(p, 0) for p in own) + sizes["average_bytes"]
    return {
        "trained": sum(p.numel() for p in optimised),
        "frozen": sum(t.numel() for t in held - optimised if isinstance(t, nn.Parameter)),
        **sizes,
        "total_bytes": total,
        "ddp_bytes": total + (sizes["gradient_bytes"] if world > 1 else 0),
        "fsdp_bytes": round(total - shared * (1 - 1 / world)),
    }


def speed(estimated: dict[str, Any], utilisation: float, peaks: Peaks, images: int | None = None) -> dict[str, Any]:
    """Images a second of all devices, and hours of the training where the number of its images is known.

    Args:
        estimated: what `estimate` gives.
        utilisation: share of the peak that a training reaches, above 0 up to 1.
        peaks: of a device in TFLOP/s, dense, for each of KINDS.
        images: images or videos of an epoch; None where the data set is one that everybody knows.
    """
    e = estimated
    seconds = sum(e[f"{k}_flops_per_image"] / peak for k, peak in zip(KINDS, peaks)) / 1e12 / utilisation
    rate, images = e["devices"] / seconds, images or e["images"]
    batch = e["batch"] * e["devices"]
    step, limit = batch * e["accumulate"], e["limit_train_batches"]
    ends = []  # images after which the training ends, by its epochs and by its steps
    if images and e["epochs"]:
        epoch = images * e["repeats"]
        epoch = min(epoch, limit * batch) if isinstance(limit, int) else epoch * (1.0 if limit is None else limit)
        ends.append(epoch * e["epochs"])
    if e["steps"]:
        ends.append(step * e["steps"])
    return {
        "utilisation": utilisation,
        "peak_tflops": dict(zip(KINDS, peaks)),
        "images_per_step": step,
        "flops_per_step": e["flops_per_image"] * step,
        "images_per_second": rate,
        "images": images,
        "hours": min(ends) / rate / 3600 if any(ends) else None,
    }


def table(figures: dict[str, Any]) -> str:
    """What `zoo validate --estimate` prints of an estimate with its speed."""
    f, again, n, kind = figures, figures["grad_checkpointing"], figures["devices"], figures["kind"]
    lines = [
        ("parameters", f"{f['trained']:,} trained, {f['frozen']:,} frozen: {_size(f['parameter_bytes'])} with buffers"),
        ("gradients", _size(f["gradient_bytes"])),
        ("optimiser", f"{_size(f['optimizer_bytes'])}, {f['optimizer']}"),
        ("moving average", _size(f["average_bytes"])),
        ("activations", f"{_size(f['activation_bytes'])} of {f['batch']} {kind}s, {f['precision']}"),
        ("a device", f"{_size(f['total_bytes'])}, the sum; kernels need some more while they run"),
    ]
    if again is not None:
        total = f["total_bytes"] - f["activation_bytes"] + f["other_activation_bytes"]
        more = f["other_flops_per_image"] / f["flops_per_image"] - 1
        instead = f"{_size(total)}, activations {_size(f['other_activation_bytes'])}, {more:+.0%} operations"
        lines.append((f"grad_checkpointing {str(not again).lower()}", instead))
    if n > 1:
        lines.append((f"of {n}, DDP", f"{_size(f['ddp_bytes'])} each, gradients twice for the exchange"))
        lines.append((f"of {n}, FSDP2", f"{_size(f['fsdp_bytes'])} each, and the block that is whole"))
    each, step = f["flops_per_image"] / 1e9, f["flops_per_step"] / 1e12
    peaks = ", ".join(f"{f['peak_tflops'][k]:g} ({k})" for k in KINDS if f[f"{k}_flops_per_image"])
    rate = f"{f['images_per_second']:,.0f}, at {f['utilisation']:.0%} of {peaks} TFLOP/s"
    lines += [
        ("a step", f"{f['images_per_step']:,} {kind}s: {f['batch']} × {n} devices × {f['accumulate']} batches"),
        ("operations", f"{each:,.4g} GFLOP of each, {step:,.4g} TFLOP a step"),
        (f"{kind}s a second", f"{rate} on each device" if n > 1 else rate),
        ("hours", "unknown; give --images N, of an epoch" if f["hours"] is None else f"{f['hours']:,.3g}"),
    ]
    return "\n".join(f"{key:<24} {value}" for key, value in lines)


@contextlib.contextmanager
def shapes() -> "Iterator[Count]":
    """Inside, tensors have shapes and no values, and networks are made at random, whatever weights are named."""
    with random_weights(), torch.device("meta"), Count() as count:
        yield count


class Casts(TorchFunctionMode):
    """CUDA's autocast and its fused kernels, neither of which torch has for tensors without values.

    Args:
        half: what products are computed in; None leaves dtypes alone.
        count: of operations.
    """

    def __init__(self, half: torch.dtype | None, count: "Count"):
        super().__init__()
        halved, raised = (dict.fromkeys(names.split(), to) for names, to in ((HALVED, half), (RAISED, torch.float32)))
        self.dtypes = halved | raised if half else {}
        self.enabled, self.count = True, count

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        dtype = self.dtypes.get(name)
        if dtype is not None and self.enabled:
            cast = partial(tree_map_only, Tensor, lambda t: t.to(dtype) if t.is_floating_point() else t)
            args, kwargs = cast(args), cast(kwargs)
        if name == "scaled_dot_product_attention":
            return Attention.apply(self.count, kwargs.get("is_causal", False), *args[:3])
        if name == "conv2d" and args[1].is_contiguous(memory_format=torch.channels_last):  # as kernels then give it
            return func(*args, **kwargs).contiguous(memory_format=torch.channels_last)
        if name == "rms_norm" and hasattr(aten, "_fused_rms_norm"):
            return aten._fused_rms_norm(*args, **kwargs)[0]
        return func(*args, **kwargs)

    @contextlib.contextmanager
    def autocast(self, device_type: str = "meta", enabled: bool = True, **_: Any) -> Iterator[None]:
        """In the place of torch's."""
        before, self.enabled = self.enabled, enabled
        try:
            yield
        finally:
            self.enabled = before


class Attention(torch.autograd.Function):
    """Keeps what a fused kernel does: q, k, v, the output, and a float32 a query."""

    @staticmethod
    def forward(ctx: Any, count: "Count", causal: bool, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        b, heads, n, _ = q.shape
        y = q.new_empty(b, n, heads, v.shape[-1]).transpose(1, 2)  # (B, heads, N, D), as it lies
        ctx.save_for_backward(q, k, v, y, q.new_empty(q.shape[:-1], dtype=torch.float32))
        flops = 2 * q.shape[:-1].numel() * k.shape[-2] * (q.shape[-1] + v.shape[-1])
        ctx.count, ctx.flops = count, flops // 2 if causal else flops
        count.add(ctx.flops, q)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[None, None, Tensor, Tensor, Tensor]:
        ctx.count.add(5 * ctx.flops // 2, dy)  # the scores again, and four products
        dq, dk, dv = map(torch.empty_like, ctx.saved_tensors[:3])
        return None, None, dq, dk, dv


class Count(TorchDispatchMode):
    """Counts operations, by KINDS. A value that the code asks for is 1, or True."""

    def __init__(self) -> None:
        super().__init__()
        self.flops: Counter[str] = Counter()

    def add(self, flops: int, x: Tensor, convolved: bool = False) -> None:
        """Operations on x and the like of it."""
        half = x.dtype.itemsize < 4
        self.flops["half" if half else "tf32" if convolved and x.dtype == torch.float32 else "float32"] += flops

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is aten._local_scalar_dense.default and args[0].is_meta:
            return args[0].dtype == torch.bool or 1
        kwargs = kwargs or {}
        if func is aten._to_copy.default and "device" in kwargs:
            kwargs["device"] = torch.device("meta")  # which nothing can leave
        out = func(*args, **kwargs)
        kind = func._overloadpacket
        if kind in FLOPS:
            self.add(FLOPS[kind](*args, out=out), args[0], kind in (aten.convolution, aten.convolution_backward))
        return out


def _product(a: Tensor, b: Tensor, **_: Any) -> int:
    return 2 * a.numel() * b.shape[-1]


def _convolution(x: Tensor, weight: Tensor, transposed: bool, y: Tensor) -> int:
    return 2 * len(x) * (x if transposed else y).shape[2:].numel() * weight.numel()


FLOPS: dict[Any, Callable[..., int]] = {
    aten.mm: _product,
    aten.bmm: _product,
    aten.addmm: lambda _, a, b, out: _product(a, b),
    aten.baddbmm: lambda _, a, b, out: _product(a, b),
    aten.convolution: lambda x, w, *args, out: _convolution(x, w, args[4], out),
    # Those of the input and those of the weight each cost as much as the forward pass.
    aten.convolution_backward: lambda dy, x, w, *args, out: sum(args[-1][:2]) * _convolution(x, w, args[4], dy),
}


class Watch(Callback):
    """What a step keeps for its backward pass, in bytes, and inside which modules; and which ones run again."""

    def __init__(self, casts: Casts):
        self.casts, self.modes = casts, contextlib.ExitStack()
        self.held: set[int] = set()  # storages of parameters and buffers
        self.keepers: Counter[int] = Counter()  # of each storage
        self.now = self.kept = 0  # bytes, and the most of them
        self.before: list[int] = []  # of each module that runs
        self.inside: dict[nn.Module, int] = {}
        self.again: set[nn.Module] = set()
        self.backward = False
        self.flops: Counter[str] = Counter()
        self.optimizers: list[Optimizer] = []

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        networks, self.optimizers = (module, *_beside(module)), trainer.optimizers
        self.held = {_key(t) for n in networks for t in (*n.parameters(), *n.buffers())}
        for group in (g for o in trainer.optimizers for g in o.param_groups if "fused" in g):
            group["fused"] = False  # no kernel fuses what has no values

    def on_before_backward(self, trainer: L.Trainer, module: L.LightningModule, loss: Tensor) -> None:
        self.backward = True

    def on_after_backward(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.backward = False

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        enter = register_module_forward_pre_hook(self._enter)
        leave = register_module_forward_hook(self._leave, always_call=True)  # torch stops a block when it has enough
        try:
            with self.casts, saved_tensors_hooks(lambda t: Keeper(t, self), lambda keeper: keeper.tensor):
                yield
        finally:
            self.modes.close()
            enter.remove()
            leave.remove()

    def _enter(self, module: nn.Module, args: Any) -> None:
        if self.backward:
            self.again.add(module)
        self.before.append(self.now)
        if self.backward and len(self.before) == 1:  # inside Tensor.backward torch has left the mode
            self.modes.enter_context(self.casts)
            self.modes.enter_context(self.casts.autocast())

    def _leave(self, module: nn.Module, args: Any, out: Any) -> None:
        inside = self.now - self.before.pop()
        self.inside[module] = max(inside, self.inside.get(module, 0))
        if self.backward and not self.before:
            self.modes.close()


class Keeper:
    """A tensor that autograd keeps. It counts for as long as this object lives, once with others of its storage."""

    def __init__(self, tensor: Tensor, watch: Watch):
        self.tensor, self.watch, self.key = tensor, watch, _key(tensor)
        watch.keepers[self.key] += 1
        if watch.keepers[self.key] == 1 and self.key not in watch.held:
            watch.now += tensor.untyped_storage().nbytes()
            watch.kept = max(watch.kept, watch.now)

    def __del__(self) -> None:
        self.watch.keepers[self.key] -= 1
        if not self.watch.keepers[self.key] and self.key not in self.watch.held:
            self.watch.now -= self.tensor.untyped_storage().nbytes()


class Batches(list):
    """Batches of so many images."""

    def __init__(self, batches: list, batch_size: int):
        super().__init__(batches)
        self.batch_size = batch_size


def trainer(*callbacks: Callback, accelerator: str = "cpu", precision: Precision | None = None) -> L.Trainer:
    """Of one epoch on one device, which writes and shows nothing."""
    return L.Trainer(
        accelerator=accelerator,
        devices=1,
        precision=precision,
        max_epochs=1,
        callbacks=[*callbacks],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _step(module: L.LightningModule, plan: Plan, count: Count, again: bool) -> Watch:
    model = _model(module)
    if isinstance(model, Recomputes):
        model.grad_checkpointing = again
    half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(plan.precision)
    casts, count.flops = Casts(half, count), Counter()
    watch, batch = Watch(casts), _batch(module, plan)
    alone = trainer(watch, precision="32-true" if half else plan.precision)
    with watch.watching(), mock.patch.object(torch, "autocast", casts.autocast):
        alone.fit(module, Batches([batch], len(batch[1])))
    module.zero_grad()
    watch.flops = count.flops
    watch.kept += _bytes(tree_leaves(batch))
    return watch


def _class(part: Any) -> tuple[type, dict[str, Any]]:
    """Of a recipe's model or data: the class, and what it is given."""
    given = part.get("init_args")
    return pkgutil.resolve_name(part["class_path"]), {} if given is None else given.as_dict()


def _batch(module: L.LightningModule, plan: Plan) -> Any:
    """What a DataModule gives: samples that the model takes, images or clips at the recipe's size, and labels."""
    model, b, size = _model(module), plan.data["batch_size"], plan.data.get("image_size")
    shape = model.takes.shape
    if isinstance(size, int) and model.takes.kind in ("image", "clip"):
        shape = (*shape[:-2], size, size)
    x, y = torch.empty(b, *shape), torch.empty(b, dtype=torch.int64)
    if issubclass(plan.source, ImageLatentData) and isinstance(model, HasLatents):
        return [x, torch.empty(b, *model.latent_shape)], y
    return x, y


def _beside(module: nn.Module) -> list[nn.Module]:
    """Networks that a module runs and does not own, in its steps or to draw samples."""
    owners = [v for m in module.modules() for v in vars(m).values() if isinstance(v, Frozen | Perceptual)]
    return list(dict.fromkeys(v.network for v in owners if v.network is not None))


def _key(t: Tensor) -> int:
    return t.untyped_storage()._cdata


def _bytes(tensors: Iterable[Any]) -> int:
    return sum(t.nbytes for t in tensors if isinstance(t, Tensor))


def _count(devices: Any) -> int:
    """How many the Trainer's `devices` are; "auto" and -1 are one, as no machine is there to look at."""
    if isinstance(devices, str) and "," in devices:
        devices = [d for d in devices.split(",") if d.strip()]
    return len(devices) if isinstance(devices, list) else int(devices) if str(devices).isdigit() else 1


def _known(data: dict[str, Any]) -> int | None:
    count = data.get("num_images") or SIZES.get(str(data.get("source")))
    if count is None:
        return None
    held_out = round(count * (data.get("val_fraction") or 0))
    return min(count - held_out, data.get("limit") or count)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what Lightning says of a training, which this is not."""
    before = logging.root.manager.disable
    logging.disable()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(before)


def _peaks(text: str) -> Peaks:
    """TFLOP/s for each of KINDS; one number is for all."""
    numbers = [_number("--tflops", each) for each in text.split(",")]
    if len(numbers) not in (1, len(KINDS)):
        raise ValueError(f"--tflops {text}, allowed one number, or three: of {', '.join(KINDS)}")
    half, tf32, float32 = numbers * (len(KINDS) // len(numbers))
    return half, tf32, float32


def _number(flag: str, text: str, most: float = math.inf) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= most or value == math.inf:
        allowed = "a number above 0" if most == math.inf else f"above 0 up to {most:g}, a share of the peak"
        raise ValueError(f"{flag} {text}, allowed {allowed}")
    return value


def _size(count: float) -> str:
    return f"{count / 1e9:,.3g} GB" if count < 1e11 else f"{count / 1e9:,.0f} GB"
