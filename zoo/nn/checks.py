"""What may go in: images, codes, latents, keywords; each refused in one line that says what is allowed.

B images of a batch · C channels · H W height and width in pixels
"""

import contextlib
import math
import numbers
import reprlib
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from zoo.nn.protocols import Input
from zoo.nn.signatures import keywords

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)  # what arithmetic is made for

_UNCHECKED: ContextVar[bool] = ContextVar("unchecked", default=False)


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
    """`with zoo.unchecked():` models take pixels outside [0, 1], and NaN; shape and dtype are still looked at.

    For gradient ascent on pixels, and for loops where a GPU should not wait: in eval mode a model reads the range of
    each batch back from the device. It holds for the thread or the task that entered it.
    """
    if torch.compiler.is_compiling():  # a compiled graph never looks
        yield
        return
    token = _UNCHECKED.set(True)
    try:
        yield
    finally:
        _UNCHECKED.reset(token)


def check_images(x: Tensor, takes: Input, any_size: bool = False, values: bool = True) -> None:
    """Refuse what is not a batch of images with float pixels in [0, 1].

    Any of FLOATS passes: a model shifts and scales pixels in the precision they come in, and casts them where they
    first meet a weight.

    Args:
        x: images, (B, C, H, W).
        takes: what the model takes, images or clips, whose frames x then holds.
        any_size: H and W may be others than those.
        values: also look at the pixels for NaN and the range. That reads a number back from the device, so models
            ask for it in eval mode only, and a compiled graph never does; nor does a block of `unchecked`.

    Raises:
        ValueError: wrong rank, channels, size, dtype, or pixels that are NaN or outside [0, 1].
    """
    check_dense(x, "images")
    channels, (height, width) = takes.channels, takes.size
    if x.ndim != 4:
        size = "H, W" if any_size else f"{height}, {width}"
        raise ValueError(f"images are {tuple(x.shape)}, expected (B, {channels}, {size}); a single image needs x[None]")
    if x.shape[1] != channels:
        raise ValueError(
            f"images have {x.shape[1]} channels, this model takes {channels}; "
            + (
                "they come before height and width, x.permute(0, 3, 1, 2)"
                if x.shape[3] == channels
                else "convert to grey, x.mean(1, keepdim=True)"
                if channels == 1
                else "repeat grey ones, x.expand(-1, 3, -1, -1)"
            )
        )
    if 0 in x.shape[2:]:
        raise ValueError(
            f"images are {x.shape[2]}×{x.shape[3]} px, expected at least one pixel; look where they are cut"
        )
    if not any_size and x.shape[2:] != (height, width):
        raise ValueError(
            f"images are {x.shape[2]}×{x.shape[3]} px, this model takes {height}×{width}; "
            f"resize them, or create the model with image_size={max(x.shape[2:])}"
        )
    if x.dtype not in FLOATS:
        scale = "" if x.is_floating_point() else " / 255"
        raise ValueError(f"images are {x.dtype}, expected float pixels in [0, 1]; pass x.float(){scale}")
    if values and not torch.compiler.is_compiling() and x.numel() and not _UNCHECKED.get():
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


def check_types(function: type[Any] | Callable[..., Any], args: Mapping[str, Any], name: str = "") -> None:
    """Refuse arguments of a function, or of a class's constructor, that are not what its annotations say.

    Args:
        args: by name, `locals()` at the start of it; JSON's lists pass for tuples.
        name: of the function in messages; "" is its own.

    Raises:
        ValueError: an argument of another type.
    """
    if isinstance(function, type):
        hints = {key: parameter.annotation for key, parameter in keywords(function).items()}
    else:
        hints = typing.get_type_hints(function)
    for key, hint in hints.items():
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


def check_among(options: Iterable[str], **words: str) -> None:
    """Refuse a word that is none of the options.

    Raises:
        ValueError: naming the first.
    """
    for key, word in words.items():
        if word not in options:
            raise ValueError(f"{key}={word!r}, allowed {', '.join(options)}")


def _is_a(value: Any, hint: Any) -> bool:
    """Whether a value out of JSON or from a caller is what an annotation says."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_is_a(value, h) for h in inner)
    if hint in (int, float):
        if isinstance(value, numbers.Integral):
            return not isinstance(value, bool) and -(2**63) <= int(value) < 2**63  # what a tensor holds
        return hint is float and isinstance(value, numbers.Real) and math.isfinite(value)
    if origin in (tuple, list, Sequence):
        fixed = origin is tuple and Ellipsis not in inner
        each = inner if fixed else inner[:1] * len(value) if isinstance(value, list | tuple) else ()
        return isinstance(value, list | tuple) and len(value) == len(each) and all(map(_is_a, value, each))
    if origin in (dict, Mapping) or hint in (dict, Mapping):
        return isinstance(value, Mapping)
    return isinstance(value, hint) if isinstance(hint, type) and hint is not Any else True


def sides(image_size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) of a side in pixels, or of both.

    Raises:
        ValueError: one is below 1.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    check_least(1, image_size=[height, width])
    return height, width
