"""`python -m benchmarks.pages`: the tables of docs that show results are written again, each between its marks.

A page says `<!-- measured: NAME -->` and `<!-- /measured -->`; what stands between is benchmarks/results/NAME.json as
`BLOCKS[NAME]` lays it out, and below it who measured that when on what. Nothing is imported but JSON.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
MARKS = re.compile(r"(<!-- measured: ([\w-]+) -->\n).*?(<!-- /measured -->)", re.DOTALL)
Rows = list[dict[str, Any]]

BLOCKS: dict[str, Callable[[Rows], str]] = {}


def pages() -> Iterator[Path]:
    """The files that may show results, from the top of the checkout."""
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        yield path.relative_to(ROOT)


def refresh() -> dict[Path, str]:
    """What each page should say, by file."""
    texts = {path: (ROOT / path).read_text(encoding="utf-8") for path in pages()}
    return {path: MARKS.sub(lambda found: f"{found[1]}{block(found[2])}\n{found[3]}", s) for path, s in texts.items()}


def block(name: str) -> str:
    """The table of a result, and how it came about.

    Raises:
        ValueError: nobody lays it out, or there is no such result.
    """
    file = RESULTS / f"{name}.json"
    if name not in BLOCKS or not file.is_file():
        known = ", ".join(sorted(BLOCKS.keys() & {path.stem for path in RESULTS.glob("*.json")}))
        raise ValueError(f"no result {name!r} with a table of its own in benchmarks/pages.py; there are {known}")
    record = json.loads(file.read_text(encoding="utf-8"))
    return f"{BLOCKS[name](record['results'])}\n\n{source(record)}"


def source(record: dict[str, Any]) -> str:
    """One line: command, machine, versions, commit, day."""
    machine = record["machine"]
    where = f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, load {machine['load']:g}"
    if machine["device"] != "cpu":
        where = f"{machine['device']}, {where}"
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return f"`{record['command']}`, {record['date']}, commit {record['commit'][:10]}: {where}; {versions}."


def write() -> None:
    """Write all pages again."""
    for path, text in refresh().items():
        (ROOT / path).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
