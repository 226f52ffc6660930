"""Flags and parsers that several verbs share."""

import argparse
from collections.abc import Callable
from typing import Any


def reading_flags(
    parser: argparse.ArgumentParser, columns: bool = True
) -> Callable[[argparse.Namespace], dict[str, Any]]:
    """Flags that say how pictures are read, and what takes their values as keywords of ImageData."""
    keys = ["value_range"]
    parser.add_argument(
        "--value-range",
        type=_range,
        metavar="LOW,HIGH",
        help="of pictures with more than 8 bits, the values that are black and white; --value-range=-1,1",
    )
    for what in ("image", "label") if columns else ():
        keys.append(f"{what}_column")
        parser.add_argument(f"--{what}-column", metavar="NAME", help="of a table, where there is more than one")
    return lambda args: {key: getattr(args, key) for key in keys}


def _range(text: str) -> tuple[float, float]:
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}, expected two numbers with a comma between, 0,4095") from None
    return low, high


def new_parser(verb: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(f"zoo {verb}", description=description)
