"""The flags of `zoo sample`: the keywords of the model's `sample`, with their types, defaults and explanations."""

import argparse
import types
import typing
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import nn

from zoo import hub
from zoo.hub.places import open_source
from zoo.nn.protocols import Network
from zoo.nn.signatures import REQUIRED, arguments
from zoo.registry import suggest

PLAIN = (int, float, str)


class Flag(NamedTuple):
    """A keyword of `sample` that a command line can give."""

    type: type  # of a value; a model is given by name
    length: int | None  # of a tuple; None is one value alone
    about: str

    @property
    def metavar(self) -> str | tuple[str, ...]:
        word = "NAME" if issubclass(self.type, nn.Module) else {int: "N", float: "X"}.get(self.type, "WORD")
        return word if self.length is None else (word,) * self.length


def class_of(name: str) -> type[Network]:
    """The class of a checkpoint; its tensors are not read. Errors as `zoo.load`'s."""
    return hub.model_class(open_source(name).config["arch"])


def flags(kind: type[nn.Module]) -> dict[str, Flag]:
    """Keyword → flag. What no command line can give is left out: labels, a generator, a list to be filled.

    A class without `sample` has none.
    """
    sample = getattr(kind, "sample", None)
    if sample is None:
        return {}
    takes, hints = {}, typing.get_type_hints(sample)
    for name, argument in arguments(sample).items():
        value, length = _of_one(hints.get(name))
        if argument.default is not REQUIRED and isinstance(value, type) and issubclass(value, (*PLAIN, nn.Module)):
            default = "" if argument.default is None else f" (default: {_words(argument.default)})"
            takes[name] = Flag(value, length, f"{argument.about}{default}")
    return takes


def add_flags(parser: argparse.ArgumentParser, name: str) -> None:
    """Make the flags of a model those of a parser; what is not given on the command line leaves no trace."""
    group = parser.add_argument_group(f"what {name} takes besides")
    for key, flag in flags(class_of(name)).items():
        group.add_argument(
            _flag(key),
            type=flag.type if flag.type in PLAIN else str,
            nargs=flag.length,
            metavar=flag.metavar,
            default=argparse.SUPPRESS,
            help=flag.about.replace("%", "%%"),
        )


def settle(name: str, model: Network, keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords as a model's `sample` takes them: another model that is given by name is loaded.

    Raises:
        ValueError: a keyword that it does not take, by the nearest flags and all there are; a model that draws
            something else.
    """
    known = flags(type(model))
    written = [_flag(key) for key in known]
    settled = dict(keywords)
    for key, value in keywords.items():
        if key.replace("-", "_") not in known:
            near = suggest(_flag(key), written)
            raise ValueError(f"{name} takes no {_flag(key)}{near}; it takes {', '.join(written)}")
        if isinstance(value, str) and issubclass(known[key].type, nn.Module):
            settled[key] = hub.load(value)
            if settled[key].takes != model.takes:
                raise ValueError(f"{value} draws {settled[key].takes.shape}, {name} {model.takes.shape}")
    return settled


def _flag(key: str) -> str:
    return f"--{key.replace('_', '-')}"


def _of_one(hint: Any) -> tuple[Any, int | None]:
    """The type of one value, and how many there are: `tuple[float, float] | None` → float, 2."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(h for h in typing.get_args(hint) if h is not types.NoneType)
    if typing.get_origin(hint) is tuple:
        return typing.get_args(hint)[0], len(typing.get_args(hint))
    return hint, None


def _words(default: Any) -> str:
    return " ".join(map(str, default)) if isinstance(default, tuple) else str(default)
