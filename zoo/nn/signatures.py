"""What a function or a class takes, read from its signature and from the Args of its docstring."""

import inspect
import re
import typing
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
    parameters = keywords(of) if isinstance(of, type) else inspect.signature(of).parameters
    about: dict[str, str] = {}
    for each in of.__mro__ if isinstance(of, type) else (of,):
        about = explained(each) | about
    return {
        name: Argument(_written(p.annotation), p.default, about.get(name, ""))
        for name, p in parameters.items()
        if p.kind not in VARIADIC and name != "self"
    }


def keywords(kind: type) -> dict[str, inspect.Parameter]:
    """What a class's constructor takes by name: its own keywords, and through `**common` those of its parents.

    Of a keyword that several declare, the first in the order of resolution counts. Annotations are types, not text.
    """
    parameters: dict[str, inspect.Parameter] = {}
    for each in kind.__mro__:
        constructor = vars(each).get("__init__")
        if constructor is None:
            continue
        _, *own = inspect.signature(constructor).parameters.values()
        hints = typing.get_type_hints(constructor)
        for p in own:
            if p.kind not in VARIADIC:
                parameters.setdefault(p.name, p.replace(annotation=hints.get(p.name, Any)))
        if all(p.kind is not p.VAR_KEYWORD for p in own):
            break
    return parameters


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
