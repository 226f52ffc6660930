"""Whether publishers still have the files that records name, asked without fetching them."""

from collections.abc import Iterator

from zoo.hub import lock
from zoo.hub.fetch import Answer, Published, ask
from zoo.hub.places import published
from zoo.registry import Weights


def answers(record: Weights) -> Iterator[tuple[Published, Answer | Exception]]:
    """Each file of a record that is published elsewhere, with what its publisher says of it, or with what is wrong.

    What a record or a lock file states of size and sha256 is compared where the publisher says it too.
    """
    for i, file in enumerate(published(record)):
        stated = (record.sha256, record.size) if i == 0 else ("", 0)
        try:
            yield file, _compared(file, ask(file), *stated)
        except (ValueError, OSError) as error:
            yield file, error


def _compared(file: Published, answer: Answer, sha256: str, size: int) -> Answer:
    """The answer, unless it is about another file than was recorded or pinned."""
    found = lock.find(file.address)
    pin = found[0] if found else None
    for stated in (sha256, pin.sha256 if pin else ""):
        if answer.sha256 and not answer.sha256.startswith(stated):
            raise ValueError(f"{file.address} has sha256 {answer.sha256[:12]}… now, {stated[:12]}… was recorded")
    for bytes_ in (size, pin.size if pin else 0):
        if answer.size is not None and bytes_ and answer.size != bytes_:
            raise ValueError(f"{file.address} has {answer.size:,} bytes now, {bytes_:,} were recorded")
    return answer
