"""THIRD_PARTY.md: what ships that others made, and what shipped weights were trained on, in their records' words."""

import json
import re
from pathlib import Path

from zoo import registry

FILE = Path("THIRD_PARTY.md")
HEAD = """# What others made

Written by `python -m zoo.hub`. The code is Apache-2.0 (LICENSE). What follows ships beside it, and keeps the terms of
those who made it.
"""
WEIGHTS = """
## Weights that ship

Licence of the file; what it was trained on, and the terms of that. Weights that are fetched from their publishers are
not here: `zoo info NAME` states their terms.

| weights | licence | trained on | terms of the data |
|---|---|---|---|"""
OWN = "what this package ships or renders"


def refresh() -> dict[Path, str]:
    """What THIRD_PARTY.md should say, by file."""
    data = registry.HOUSE / "data"
    samples = [_sample(page) for page in sorted((data / "samples").glob("*/README.md"))]
    lists = [_classes(file) for file in sorted((data / "class_lists").glob("*.json"))]
    shipped = [w for w in registry.records().values() if w.embedded]
    rows = [f"| `{w.name}` | {w.licence} | {w.data or OWN} | {w.data_terms} |" for w in shipped]
    parts = [HEAD, "## Samples\n", *samples, "## Names of classes\n", *lists, WEIGHTS, *rows]
    return {FILE: "\n".join(parts) + "\n"}


def _sample(page: Path) -> str:
    """The README of a sample under a heading of its folder, without what the Hub reads."""
    text = re.sub(r"\A---\n.*?\n---\n", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.sub(r"\A\s*# (.*)", rf"### `zoo/data/samples/{page.parent.name}`: \1", text)


def _classes(file: Path) -> str:
    return f"- `zoo/data/class_lists/{file.name}`: {json.loads(file.read_text(encoding='utf-8'))['about']}"
