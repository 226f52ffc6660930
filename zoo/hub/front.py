"""A card's front matter: YAML as PyYAML writes it, of text, numbers, lists and mappings; `zoo.save` needs no library.

The Hub's client makes the same of the same facts; it reads, and writes again, what is published.
"""

import math
import re
from collections.abc import Mapping, Sequence

Value = str | int | float | Sequence["Value"] | Mapping[str, "Value"]

# Text that is no number, date, truth or mark in YAML: words, or a count and words.
PLAIN = re.compile(
    r"(?!(?:true|false|yes|no|on|off|null|y|n)$)(?:[^\W\d_]|\d[\d,]* [^\W\d_])(?:[\w ,.()/%+×-]*[\w.)%+×])?", re.I
)


def yaml(value: Mapping[str, Value] | Sequence[Value]) -> str:
    """A mapping or list in lines, without the last line's end."""
    return "\n".join(_lines(value))


def _lines(value: Mapping[str, Value] | Sequence[Value]) -> list[str]:
    lines: list[str] = []
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if isinstance(inner, str | int | float):
                lines.append(f"{key}: {_scalar(inner)}")
            else:
                margin = "  " if isinstance(inner, Mapping) else ""
                lines += [f"{key}:", *(margin + line for line in _lines(inner))]
        return lines
    for inner in value:
        first, *rest = [_scalar(inner)] if isinstance(inner, str | int | float) else _lines(inner)
        lines += [f"- {first}", *(f"  {line}" for line in rest)]
    return lines


def _scalar(value: str | int | float) -> str:
    if isinstance(value, str):
        if PLAIN.fullmatch(value):
            return value
        return '"' + "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in value) + '"'
    if not math.isfinite(value):
        return f".{value}".replace(".-", "-.")
    number = repr(value)
    return number if "." in number or "e" not in number else number.replace("e", ".0e")
