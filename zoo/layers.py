"""What every family uses unchanged.

B images of a batch · C channels · H W height and width in pixels · P patch side in pixels · N tokens · K of them kept
D width
"""

import contextlib
import math
import numbers
import reprlib
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)  # what arithmetic is made for


def check_images(x: Tensor, channels: int, height: int | None, width: int | None, values: bool = True) -> None:
    """Refuse what is not a batch of images with float pixels in [0, 1].

    Any of FLOATS passes: a model shifts and scales pixels in the precision they come in, and casts them where they
    first meet a weight.

    Args:
        x: images, (B, C, H, W).
        height, width: in px; None takes any.
        values: also look at the pixels for NaN and the range. That reads a number back from the device, so models
            ask for it in eval mode only, and a compiled graph never does.

    Raises:
        ValueError: wrong rank, channels, size, dtype, or pixels that are NaN or outside [0, 1].
    """
    check_dense(x, "images")
    if x.ndim != 4:
        raise ValueError(
            f"images are {tuple(x.shape)}, expected (B, {channels}, {height or 'H'}, {width or 'W'}); "
            "a single image needs x[None]"
        )
    if x.shape[1] != channels:
        raise ValueError(
            f"images have {x.shape[1]} channels, this model takes {channels}; "
            + (
                "convert to grey, x.mean(1, keepdim=True)"
                if channels == 1
                else "repeat grey ones, x.expand(-1, 3, -1, -1)"
            )
        )
    if 0 in x.shape[2:]:
        raise ValueError(
            f"images are {x.shape[2]}×{x.shape[3]} px, expected at least one pixel; look where they are cut"
        )
    if height is not None and x.shape[2:] != (height, width):
        raise ValueError(
            f"images are {x.shape[2]}×{x.shape[3]} px, this model takes {height}×{width}; "
            f"resize them, or create the model with image_size={max(x.shape[2:])}"
        )
    if x.dtype not in FLOATS:
        scale = "" if x.is_floating_point() else " / 255"
        raise ValueError(f"images are {x.dtype}, expected float pixels in [0, 1]; pass x.float(){scale}")
    if values and not torch.compiler.is_compiling() and x.numel():
        low, high = (v.item() for v in x.aminmax())
        if low != low or high != high:
            raise ValueError("images hold NaN, expected pixels in [0, 1]; look for the first NaN where they are read")
        if low < -1e-3 or high > 1 + 1e-3:
            raise ValueError(
                f"pixels span [{low:.3g}, {high:.3g}], expected [0, 1]; "
                + ("divide by 255" if high > 2 else "the model normalises by itself: undo your mean and std")
            )


def check_dense(x: Tensor, what: str) -> None:
    """Refuse arrays, lists, None and sparse tensors."""
    if not isinstance(x, Tensor) or x.layout != torch.strided:
        given = f"a {x.layout} tensor" if isinstance(x, Tensor) else f"a {type(x).__name__}"
        raise ValueError(f"{what} are {given}, expected a dense tensor; torch.as_tensor makes one of an array")


def check_floats(x: Tensor, what: str, shape: Sequence[int | str], hint: str) -> Tensor:
    """x itself, where it is a dense tensor of any of FLOATS and of such a shape.

    Args:
        what: what it is, in messages.
        shape: a word is an axis of any length, a first "…" any axes.
        hint: what to do next.

    Raises:
        ValueError: anything else.
    """
    return _check(x, what, shape, FLOATS, hint)


def check_ints(
    x: Tensor, what: str, shape: Sequence[int | str], low: int, high: int, hint: str, wait: bool = False
) -> Tensor:
    """The same of int64, at least `low` and below `high`.

    Args:
        wait: look at entries on any device, and wait for it; else on a CPU only. A compiled graph never does.
    """
    _check(x, what, shape, (torch.int64,), hint)
    if (wait or x.device.type == "cpu") and not torch.compiler.is_compiling() and x.numel():
        least, most = (v.item() for v in x.aminmax())
        if least < low or most >= high:
            raise ValueError(f"{what} span {least} to {most}, allowed {low} to {high - 1}; {hint}")
    return x


def _check(x: Tensor, what: str, shape: Sequence[int | str], dtypes: tuple[torch.dtype, ...], hint: str) -> Tensor:
    check_dense(x, what)
    if x.dtype not in dtypes:
        raise ValueError(f"{what} are {x.dtype}, expected {'floats' if dtypes == FLOATS else 'int64'}; {hint}")
    last = shape[1:] if shape[0] == "…" else shape
    sides = x.shape[x.ndim - len(last) :] if shape[0] == "…" else x.shape
    if len(sides) != len(last) or any(not isinstance(n, str) and n != side for n, side in zip(last, sides)):
        raise ValueError(f"{what} are {tuple(x.shape)}, expected ({', '.join(map(str, shape))}); {hint}")
    return x


def check_types(function: Callable, args: Mapping[str, Any], name: str = "") -> None:
    """Refuse arguments of a function, or of a class's constructor, that are not what its annotations say.

    Args:
        args: by name, `locals()` at the start of it; JSON's lists pass for tuples.
        name: of the function in messages; "" is its own.

    Raises:
        ValueError: an argument of another type.
    """
    for key, hint in typing.get_type_hints(function.__init__ if isinstance(function, type) else function).items():
        if key in args and not _is_a(args[key], hint):
            name, expected = name or function.__name__, hint.__name__ if isinstance(hint, type) else hint
            raise ValueError(f"{name} takes no {key}={reprlib.repr(args[key])}; expected {expected}")


def check_least(least: int, **counts: int | Sequence[int] | None) -> None:
    """Refuse a count, or one of several, below `least`; None passes.

    Raises:
        ValueError: naming the first.
    """
    for key, value in counts.items():
        if value is not None and min(value if isinstance(value, Sequence) else [value]) < least:
            raise ValueError(f"{key}={value}, must be at least {least}")


def _is_a(value: Any, hint: Any) -> bool:
    """Whether a value out of JSON or from a caller is what an annotation says."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_is_a(value, h) for h in inner)
    if hint in (int, float):
        if isinstance(value, numbers.Integral):
            return not isinstance(value, bool) and -(2**63) <= value < 2**63  # what a tensor holds
        return hint is float and isinstance(value, numbers.Real) and math.isfinite(value)
    if origin in (tuple, list, Sequence):
        fixed = origin is tuple and Ellipsis not in inner
        each = inner if fixed else inner[:1] * len(value) if isinstance(value, list | tuple) else ()
        return isinstance(value, list | tuple) and len(value) == len(each) and all(map(_is_a, value, each))
    if origin in (dict, Mapping) or hint in (dict, Mapping):
        return isinstance(value, Mapping)
    return isinstance(value, hint) if isinstance(hint, type) else True


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, §3.2): one matrix makes q, k and v. timm's tensor names.

    Args:
        key_bias: without, the keys' third of the bias is read as zero and gets no gradient. It moves all of a query's
            scores alike, which a softmax does not see.

    Raises:
        ValueError: a width that the heads do not divide.
    """

    def __init__(self, dim: int, heads: int, key_bias: bool = True):
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(
                f"dim={dim} is no multiple of heads={heads}; give others, or another decoder_dim or decoder_heads"
            )
        self.heads, self.key_bias = heads, key_bias
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        bias = self.qkv.bias
        if not self.key_bias:
            of_q, of_k, of_v = bias.chunk(3)
            bias = torch.cat([of_q, torch.zeros_like(of_k), of_v])  # (3D,)
        qkv = F.linear(x, self.qkv.weight, bias).reshape(b, n, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, N, D/heads) each
        x = attend(q, k, v)  # (B, heads, N, D/heads)
        return self.proj(x.transpose(1, 2).reshape(b, n, d))  # (B, N, D)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`softmax(q kᵀ / √D) v` of (B, heads, N, D) each, by whichever way is fastest.

    That is torch's fused kernel, but for bfloat16 gradients on a CPU, where it takes 2 to 5 times as long (2.15): there
    short sequences take plain products, and long ones ChunkedAttention.
    """
    if q.device.type != "cpu" or q.dtype != torch.bfloat16 or not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q, k, v)  # (B, heads, N, D)
    if q.shape[2] > 256 and not torch.compiler.is_compiling():
        return ChunkedAttention.apply(q, k, v)  # (B, heads, N, D)
    return (q * q.shape[-1] ** -0.5 @ k.mT).softmax(-1).to(v.dtype) @ v  # (B, heads, N, D)


class ChunkedAttention(torch.autograd.Function):
    """Attention a few heads and 512 queries at a time, so that the scores stay in the processor's cache.

    No scores are kept: the backward pass makes them again (Dao et al. 2022, §3.1). Keys are not cut, a row of scores is
    whole.
    """

    QUERIES = 512

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        shape = q.shape
        q, k, v = (x.flatten(0, 1) for x in (q * shape[-1] ** -0.5, k, v))  # (B·heads, N, D) each
        ctx.save_for_backward(q, k, v)
        y = torch.empty_like(v)
        for qs, ks, vs, ys in _by_heads(q, k, v, y):
            for qc, yc in _by_queries(qs, ys):
                yc.copy_((qc @ ks.mT).softmax(-1) @ vs)  # (threads, 512, D)
        return y.reshape(shape)  # (B, heads, N, D)

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = ctx.saved_tensors
        dq, dk, dv = (torch.zeros_like(x, dtype=torch.float32) for x in (q, k, v))  # sums over chunks: not in bfloat16
        for qs, ks, vs, dys, dqs, dks, dvs in _by_heads(q, k, v, dy.flatten(0, 1), dq, dk, dv):
            for qc, dyc, dqc in _by_queries(qs, dys, dqs):
                p = (qc @ ks.mT).softmax(-1)  # (threads, 512, N)
                ds = torch._softmax_backward_data(dyc @ vs.mT, p, -1, p.dtype)  # (threads, 512, N)
                dqc.copy_(ds @ ks)  # (threads, 512, D)
                dks += ds.mT @ qc  # (threads, N, D)
                dvs += p.mT @ dyc  # (threads, N, D)
        dq *= q.shape[-1] ** -0.5
        return tuple(g.to(q.dtype).reshape(dy.shape) for g in (dq, dk, dv))  # (B, heads, N, D) each


def _by_heads(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(x.split(max(2, torch.get_num_threads())) for x in tensors))  # (threads, N, D) each


def _by_queries(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(x.split(ChunkedAttention.QUERIES, 1) for x in tensors))  # (threads, 512, D) each


class Mlp(nn.Module):
    """Two matrices with a GELU between, the exact one."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """A pre-norm transformer block (Dosovitskiy et al. 2021, §3.1).

    Args:
        drop_path: probability with which a sample skips each of the two residual branches, in training.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        eps: float = 1e-6,
        key_bias: bool = True,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps)
        self.attn = Attention(dim, heads, key_bias)
        self.norm2 = nn.LayerNorm(dim, eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._drop(self.attn(self.norm1(x)))
        return x + self._drop(self.mlp(self.norm2(x)))

    def _drop(self, x: Tensor) -> Tensor:
        if not self.training or not self.drop_path:
            return x
        keep = 1 - self.drop_path
        return x * (torch.rand(len(x), 1, 1, device=x.device) < keep).to(x.dtype) / keep


class Checkpointed:
    """For a model whose `encoder` and `decoder` can make activations again: one switch for both."""

    @property
    def grad_checkpointing(self) -> bool:
        """Keep no activations inside blocks."""
        return self.encoder.grad_checkpointing

    @grad_checkpointing.setter
    def grad_checkpointing(self, on: bool) -> None:
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


def patchify(x: Tensor, p: int) -> Tensor:
    """Images (B, C, H, W) → patches (B, N, P²C), row by row; within one: row, column, channel, the channel fastest."""
    b, c, h, w = x.shape
    x = x.reshape(b, c, h // p, p, w // p, p).permute(0, 2, 4, 3, 5, 1)  # (B, H/P, W/P, P, P, C)
    return x.flatten(1, 2).flatten(2)  # (B, N, P²C)


def unpatchify(x: Tensor, p: int, height: int, width: int) -> Tensor:
    """Patches (B, N, P²C) → images (B, C, H, W), the inverse of `patchify`."""
    x = (
        x.unflatten(1, (height // p, width // p)).unflatten(3, (p, p, x.shape[2] // p**2)).permute(0, 5, 1, 3, 2, 4)
    )  # (B, C, H/P, P, W/P, P)
    return x.flatten(4, 5).flatten(2, 3)  # (B, C, H, W)


def take(x: Tensor, ids: Tensor) -> Tensor:
    """Rows of each sample: x (B, N, D), ids (B, K) int64 → (B, K, D); no index of width D is made."""
    b, n, d = x.shape
    start = torch.arange(b, device=x.device)[:, None] * n  # (B, 1)
    return x.reshape(b * n, d)[ids + start]  # (B, K, D)


def sincos(dim: int, height: int, width: int) -> Tensor:
    """Fixed positions of a grid, (height·width, dim), float32 (He et al. 2021, A.1; Vaswani et al. 2017, §3.5).

    The first half of the channels holds the column, the second the row, each as all sines, then all cosines: the order
    that every released MAE was trained with.
    """
    if dim % 4:
        raise ValueError(f"dim={dim}, positions of a grid need a multiple of 4")
    omega = 10000 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim / 4))  # (dim/4,)
    rows, columns = torch.meshgrid(
        torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64), indexing="ij"
    )
    halves = [axis.reshape(-1, 1) * omega for axis in (columns, rows)]  # (height·width, dim/4) each
    return torch.cat([f(a) for a in halves for f in (torch.sin, torch.cos)], dim=1).float()  # (height·width, dim)


def sides(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a side in pixels, or of both.

    Raises:
        ValueError: one is below 1.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    check_least(1, image_size=[height, width])
    return height, width
