"""How far a long piece of work is, on stderr: count, rate, time left. Nothing is said of what is over at once."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TextIO, TypeVar

AFTER = 2.0  # seconds before the first line
EVERY = {True: 0.5, False: 30.0}  # seconds between lines, of a terminal, where each replaces the last, and of a file
T = TypeVar("T")


class Progress:
    """Counts work that is done; a context, so that the last line is whole.

    Args:
        total: of the work; None where nobody knows.
        what: it is, "pictures".
        stream: where lines go.
        clock: seconds, ever rising.
    """

    def __init__(
        self,
        total: int | None,
        what: str,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.total, self.what, self.clock = total, what, clock
        self.stream = sys.stderr if stream is None else stream
        self.terminal = self.stream.isatty()
        self.begun, self.done, self.told = clock(), 0, 0
        self.due = self.begun + AFTER

    def add(self, count: int) -> None:
        """So many more are done."""
        self.done += count
        now = self.clock()
        if now >= self.due:
            self._say(now)
            self.due = now + EVERY[self.terminal]

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.told:
            if self.told != self.done:
                self._say(self.clock())
            if self.terminal:
                self.stream.write("\n")
                self.stream.flush()

    def _say(self, now: float) -> None:
        seconds = max(now - self.begun, 1e-9)
        rate = self.done / seconds
        of = "" if self.total is None else f" of {self.total:,}"
        left = "" if self.total is None or not rate else f", {_span((self.total - self.done) / rate)} left"
        fast = f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
        line = f"{self.done:,}{of} {self.what}, {fast} a second{left}"
        self.stream.write(f"\r\x1b[K{line}" if self.terminal else f"{line}\n")
        self.stream.flush()
        self.told = self.done


def shown(batches: Iterable[T], count: Callable[[T], int], total: int | None, what: str) -> Iterator[T]:
    """Batches as they come, counted on stderr by `count` of each."""
    with Progress(total, what) as progress:
        for batch in batches:
            yield batch
            progress.add(count(batch))


def _span(seconds: float) -> str:
    """15 as "15 s", 100 as "1 min 40 s", 7,300 as "2 h 1 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
