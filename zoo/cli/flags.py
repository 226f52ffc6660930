"""Flags and parsers that several verbs share.

A verb that runs a model over data is `zoo VERB MODEL SOURCE… -o OUT`.
"""

import argparse
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NoReturn

MODEL = "arch.tag, a run, a checkpoint folder, or hf://org/name"
SOURCE = "a folder, pictures, a CSV, JSONL or parquet, a Hub id, torchvision:NAME, samples/NAME, shards:PLACE"
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".pdf", ".svg")  # what a figure is written as


class Parser(argparse.ArgumentParser):
    """A parser that says what is wrong as any other error is said, in a line without the usage before it."""

    def error(self, message: str) -> NoReturn:
        told = message.removeprefix("argument ")  # which begins with the flag that is to be mended
        raise ValueError(told if told != message else f"{message}; {self.prog} --help lists what it takes")


def new_parser(verb: str, description: str) -> argparse.ArgumentParser:
    return Parser(f"zoo {verb}", description=description)


def at_least_one(text: str) -> int:
    """A count or a size on the command line: 0 and less are no other word for the default."""
    try:
        count = int(text)
    except ValueError:
        count = 0
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text}, expected a whole number of at least 1")
    return count


def model_and_source(parser: argparse.ArgumentParser, more: str = "", needed: bool = True) -> None:
    """`MODEL SOURCE…`, read as `model` and the list `source`.

    Args:
        more: what else a source may be, and what is taken without one.
        needed: at least one source has to be given.
    """
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    parser.add_argument("source", nargs="+" if needed else "*", metavar="SOURCE", help=SOURCE + more)


def running_flags(parser: argparse.ArgumentParser, batch_size: str | None = "samples at a time") -> None:
    """`--device`, `--precision`, `--batch-size`; without the last where nothing is read in batches."""
    parser.add_argument("--device", default="auto", help="auto (a GPU where there is one), cpu, cuda, cuda:N or mps")
    parser.add_argument("--precision", default="32", help="32, or bf16 or 16 for mixed precision")
    if batch_size is not None:
        parser.add_argument("--batch-size", type=at_least_one, metavar="N", help=batch_size)


def output_flags(
    parser: argparse.ArgumentParser, what: str, default: Path | None = None, required: bool = True
) -> None:
    """`-o OUT` and `--force`; `check_output` refuses what is there.

    Args:
        required: where there is no default; else without -o nothing is written.
    """
    where = f" (default: {default})" if default else ""
    needed = required and default is None
    parser.add_argument("-o", "--output", type=Path, default=default, required=needed, help=f"{what}{where}")
    parser.add_argument("--force", action="store_true", help="replace an output that is there")


def check_output(output: Path, force: bool, formats: Collection[str] = ()) -> Path:
    """The place of an output file, before anything is computed for it.

    Args:
        formats: suffixes that its name may have; none: any.

    Raises:
        ValueError: another format, something is there and is not to be replaced, or nothing can be written there.
    """
    if formats:
        from zoo.data.writing import check_format

        check_format(output, formats)
    if output.exists() and not force:
        raise ValueError(f"{output} exists; give another -o, or --force to replace it")
    check_place(output, output.parent)
    return output


def check_place(output: Path, folder: Path, flag: str = "-o") -> None:
    """That the folder of an output can be written to, or made.

    Args:
        flag: that another place is given with.

    Raises:
        ValueError: the nearest folder that is there is none, or is not ours to write to.
    """
    there = next((place for place in (folder, *folder.parents) if os.path.exists(place)), Path())
    if not there.is_dir():
        raise ValueError(f"{output} cannot be written, {there} is a file; give another {flag}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"{output} cannot be written, {there} is read-only or somebody else's; give another {flag}")


def folder_flags(parser: argparse.ArgumentParser, what: str) -> None:
    """An output that is a folder: `-o FOLDER`, or the last word, as it was given before; and `--force`.

    Such a verb parses with `parse_intermixed_args`: the last word may follow a flag.
    """
    parser.add_argument("folder", nargs="?", type=Path, help="the same as -o")
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help=what)
    parser.add_argument("--force", action="store_true", help="replace a folder of the zoo's own that is there")


def output_folder(args: argparse.Namespace, again: str) -> Path:
    """The one place that was given for a folder.

    Args:
        again: the command up to its output, for what is said.

    Raises:
        ValueError: none, or two.
    """
    given = [folder for folder in (args.folder, args.output) if folder is not None]
    if len(given) != 1:
        problem = f"two outputs, {given[0]} and -o {given[1]}" if given else "no output"
        raise ValueError(f"{problem}; give one: {again} -o FOLDER")
    folder: Path = given[0]
    return folder


def check_folder(folder: Path, force: bool, ours: Callable[[Path], str | None], flag: str = "-o") -> None:
    """Before anything is computed for a folder: what lies there stays, unless it is the zoo's own and is to go.

    Args:
        ours: says why a folder may not be replaced; None where it may.
        flag: that another folder is given with.

    Raises:
        ValueError: there is something, which is not to be replaced, or is somebody else's; or nothing can be written.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        reason = ours(folder) if folder.is_dir() else "it is a file"
        if not force:
            more = ", or --force to replace it" if reason is None else f" ({reason})"
            raise ValueError(f"{folder} exists; give another {flag}{more}")
        if reason is not None:
            raise ValueError(f"{folder} is not replaced: {reason}; remove it yourself, or give another {flag}")
    check_place(folder, folder, flag)


def reading_flags(
    parser: argparse.ArgumentParser, columns: bool = True
) -> Callable[[argparse.Namespace], dict[str, Any]]:
    """Flags that say how pictures are read, and what takes those that were given as keywords of ImageData."""
    keys = ["bad", "value_range"]
    parser.add_argument(
        "--bad", choices=("refuse", "skip"), help="a damaged picture stops all (default), or is left out with a count"
    )
    parser.add_argument(
        "--value-range",
        type=_range,
        metavar="LOW,HIGH",
        help="of pictures with more than 8 bits, the values that are black and white; --value-range=-1,1",
    )
    for what in ("image", "label") if columns else ():
        keys.append(f"{what}_column")
        parser.add_argument(f"--{what}-column", metavar="NAME", help="of a table, where there is more than one")
    return lambda args: {key: value for key in keys if (value := getattr(args, key)) is not None}


def _range(text: str) -> tuple[float, float]:
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}, expected two numbers with a comma between, 0,4095") from None
    return low, high
