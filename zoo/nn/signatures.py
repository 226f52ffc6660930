"""What a function or a class takes, read from its signature and from the Args of its docstring."""

import inspect
import re
from collections.abc import Callable
from typing import Any, NamedTuple

REQUIRED = inspect.Parameter.empty
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Argument(NamedTuple):
    """One argument of a function, or of a class's constructor."""

    type: str  # as it is written, "float | None"; "" where nothing is written
    default: Any  # REQUIRED where there is none
    about: str  # what the docstring says of it, in one line; "" where it says nothing


def arguments(of: Callable[..., Any]) -> dict[str, Argument]:
    """What a function takes, by name; of a class, what its constructor takes and those of its parents.

    `self`, `*arguments` and `**keywords` are left out. A class's own constructor and docstring win over its parents'.
    """
    callables = [of]
    if isinstance(of, type):
        callables = [c for c in of.__mro__ if "__init__" in vars(c) and c is not object]
    parameters: dict[str, inspect.Parameter] = {}
    about: dict[str, str] = {}
    for each in callables:
        parameters = parameters | {k: p for k, p in inspect.signature(each).parameters.items() if k not in parameters}
        about = explained(each) | about
    return {
        name: Argument(_written(p.annotation), p.default, about.get(name, ""))
        for name, p in parameters.items()
        if p.kind not in VARIADIC and name != "self"
    }


def explained(of: Callable[..., Any]) -> dict[str, str]:
    """The Args of a docstring, argument → text in one line; "lr, base_lr: …" explains both."""
    block = re.search(r"^Args:\n((?:    .*\n?)+)", inspect.getdoc(of) or "", re.MULTILINE)
    entries = re.findall(r"^ {4}(\w[\w, ]*): ((?:.*\n?)(?: {8}.*\n?)*)", block[1] if block else "", re.MULTILINE)
    return {name: " ".join(text.split()) for names, text in entries for name in names.replace(" ", "").split(",")}


def _written(annotation: Any) -> str:
    if annotation is REQUIRED:
        return ""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return re.sub(r"\b[a-z_]\w*\.(?=[\w.]*\w)", "", text)  # collections.abc.Sequence[int] → Sequence[int]
