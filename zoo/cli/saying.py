"""What a command says when something stops it, or is worth a warning: one line on stderr, in its own flags."""

import builtins
import contextlib
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from zoo import registry
from zoo.redact import redact

TRACE = "Traceback (most recent call last):"
LONGEST = 400  # of what an unexpected error says
NEXT = {  # what to do about errors of others, by their type
    "OutOfMemoryError": "lower --data.batch_size or set --model.grad_checkpointing true; ",
    "MemoryError": "lower --data.batch_size or the image size; ",
}
# Keywords of the readers, as messages name them, with their value: bad='skip', value_range=(0, 4095), label_column.
KEYWORDS = re.compile(
    r"""(?<![\w./\\'"-])(?:(bad)(?==)|(image_column|label_column|value_range)(?![\w./\\:'"-]))"""
    r"""(?:=('[^']*'|"[^"]*"|\([^)]*\)))?"""
)
FITTING = ("fit", "validate")  # verbs whose flags are the DataModule's keywords
READING = ("eval", "show", "predict", "embed", "codes", "latents", "shard")  # verbs with `reading_flags`


def explain(error: Exception) -> tuple[str, int]:
    """What an exception says, in one line, and the exit status that it makes.

    ValueErrors and OSErrors are 2 and say what to do next by themselves, as is a package that is not installed. Any
    other is 1, with its type, where it was raised and how to see more.
    """
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.partition(".")[0] != "zoo":
        return f"it {registry.missing(error.name)}", 2
    kind, said = type(error), str(error)
    trace = said.rpartition(TRACE)[2] if TRACE in said else ""  # of a DataLoader's worker, or of another process
    if found := re.search(r"^(?:\w+\.)*(\w+)(?:: |$)", trace, re.MULTILINE):  # what was raised there
        if found[1] != kind.__name__:  # a worker's error is made again as its type
            named = getattr(builtins, found[1], None)
            kind = named if isinstance(named, type) else type(found[1], (Exception,), {})
        said = trace[found.end() :]
    said = " ".join(said.split())
    expected = issubclass(kind, ValueError | OSError)
    if not expected or issubclass(kind, UnicodeError) or " " not in said:
        said = f"{kind.__name__}: {said}" if said else kind.__name__
    if expected:
        return said, 2
    said = said if len(said) <= LONGEST else f"{said[:LONGEST].rstrip()}…"
    advice = NEXT.get(kind.__name__, "")
    return f"{said}{_place(error)}; {advice}ZOO_DEBUG=1 shows the whole trace", 1


def say(verb: str, said: str, kind: str | None = None, file: TextIO | None = None) -> None:
    """Print what stops a verb, or a `kind` of remark: no password of an address, Python's keywords as its flags."""
    print(redact(f"{kind or f'zoo {verb}'}: {in_flags(verb, said)}"), file=file or sys.stderr)


def in_flags(verb: str, said: str) -> str:
    """A message with the readers' keywords spelt as flags of a verb: bad='skip' as --bad skip or --data.bad skip."""

    def flag(found: re.Match[str]) -> str:
        key, value = found[1] or found[2], found[3] or ""
        if value.startswith("("):
            value = value.strip("()").replace(" ", "")
            value = f"[{value}]" if verb in FITTING else value.upper()
        elif value[1:-1]:
            value = value[1:-1]
        name = f"--data.{key}" if verb in FITTING else f"--{key.replace('_', '-')}"
        return f"{name} {value}" if value else name

    return KEYWORDS.sub(flag, said) if verb in (*FITTING, *READING) else said


@contextlib.contextmanager
def plainly(verb: str) -> Iterator[None]:
    """Warnings said in one line each: the line of code that gives one helps nobody who typed a command."""

    def show(
        message: Warning | str,
        category: type,
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        say(verb, " ".join(str(message).split()), "warning", file)

    before = warnings.showwarning
    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before


def _place(error: Exception) -> str:
    """The last line of this package that an exception came through."""
    here, place, trace = Path(__file__).parents[1], "", error.__traceback__
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if file.is_relative_to(here) and not file.is_relative_to(Path(__file__).parent):
            place = f" (zoo/{file.relative_to(here).as_posix()}:{trace.tb_lineno})"
        trace = trace.tb_next
    return place
