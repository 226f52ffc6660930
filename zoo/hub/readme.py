"""The README's table of families, between its marks: a row each, of what the registry knows."""

import re
from pathlib import Path

from zoo import registry
from zoo.hub.card import headline, page

MARKS = re.compile(r"(<!-- families: [^\n]*-->\n).*?(<!-- /families -->)", re.DOTALL)
FILE = Path("README.md")


def refresh() -> dict[Path, str]:
    """What README.md should say, by file."""
    rows = [_row(family) for family in registry.families().values() if family.ours]
    lines = ["| family | archs | ships with the package | the first figure of its record |", "|---|---|---|---|", *rows]
    table = "\n".join(lines)
    return {FILE: MARKS.sub(lambda found: f"{found[1]}{table}\n{found[2]}", FILE.read_text(encoding="utf-8"))}


def _row(family: registry.Family) -> str:
    facts = registry.facts(family.name)
    others = [arch for arch in registry.archs() if arch not in facts.archs]
    archs = ", ".join(dict.fromkeys(f"`{_pattern(arch, others)}`" for arch in facts.archs))
    shipped = [weights for weights in facts.weights if weights.embedded]
    title = f"[{facts.title}]({page(family.name).as_posix()})"
    authors = re.match(r".*?\b\d{4}\b|", " ".join(facts.paper.split()))
    paper = f" ({authors[0]})" if authors and authors[0] else ""
    return f"| {title}{paper} | {archs} | {', '.join(f'`{w.name}`' for w in shipped)} | {_figure(shipped)} |"


def _pattern(arch: str, others: list[str]) -> str:
    """What an arch's name begins with and no arch of another family, "mae_vit_*"."""
    words = arch.split("_")
    starts = ("_".join(words[:count]) + "_" for count in range(1, len(words)))
    return next((f"{start}*" for start in starts if not any(name.startswith(start) for name in others)), arch)


def _figure(shipped: list[registry.Weights]) -> str:
    """The first figure of the first weights that have one."""
    measured = next((weights for weights in shipped if weights.metrics), None)
    return f"`{measured.name}`: {headline(measured.metrics[0])}" if measured else ""
