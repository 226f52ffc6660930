"""What is generated of the families' pages, docs/families/NAME.md, between its marks: prose, archs, figures.

The rest of a page is written by hand. A family that has no page gets one with this alone.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from zoo import registry
from zoo.hub.card import MADE, page, place, table, warning, words
from zoo.registry import Facts, Metric, Weights

MARKS = re.compile(r"(<!-- family: [^\n]*-->\n).*?(<!-- /family -->)", re.DOTALL)
EMPTY = f"<!-- family: {MADE} -->\n<!-- /family -->"


def refresh() -> dict[Path, str]:
    """What the pages should say, by file.

    Raises:
        ValueError: a page without the marks.
    """
    texts: dict[Path, str] = {}
    for family in (f.name for f in registry.families().values() if f.ours):
        path, facts = page(family), registry.facts(family)
        old = path.read_text(encoding="utf-8") if path.is_file() else f"# {facts.title}\n\n{EMPTY}\n"
        marks = MARKS.search(old)
        if marks is None:
            raise ValueError(f"{path} lacks the lines {EMPTY!r}: there goes what is generated of it")
        new = "\n\n".join(filter(None, _parts(family, facts)))
        texts[path] = f"{old[: marks.end(1)]}{new}\n{old[marks.start(2) :]}"
    return texts


def _parts(family: str, facts: Facts) -> Iterator[str]:
    yield "## What it is, and what it is not for"
    yield f"{facts.paper}."
    yield warning(family)
    if facts.picture:
        file, caption = facts.picture
        yield f"![{caption}]({Path(os.path.relpath(file, page(family).parent)).as_posix()})"
    yield "## Archs"
    yield table(("arch", "what goes in and comes out"), ((f"`{a}`", text) for a, text in facts.archs.items()))
    figures: dict[Metric, list[str]] = {}  # the files of one network in several layouts share theirs
    for weights in facts.weights:
        for metric in weights.metrics:
            figures.setdefault(metric, []).append(f"`{weights.name}`")
    if figures:
        yield "## Figures"
        yield "As the records have them. Licence, terms and place: [MODEL_CARD.md](../../MODEL_CARD.md)."
        yield table(
            ("weights", "figure", "", "measured on", "how"), (_figure(names, m) for m, names in figures.items())
        )
    ours = [weights for weights in facts.weights if not weights.foreign]
    if ours:
        yield "## How ours were trained"
        yield table(("weights", "by", "on", "took", "size, place"), map(_training, ours))


def _figure(names: list[str], m: Metric) -> tuple[str, ...]:
    commit = f"; commit {m.commit[:10]}" if m.commit else ""
    return ", ".join(names), words(m.name), str(m), m.where, m.protocol.replace("|", "\\|") + commit


def _training(w: Weights) -> tuple[str, ...]:
    began = f", from `{w.parent}`" if w.parent else ""
    took = ", ".join(part for part in (w.wall_time, w.hardware) if part)
    return f"`{w.name}`", f"`{w.command or w.recipe}`{began}", w.data or "", took, f"{w.size / 1e6:.2f} MB, {place(w)}"
