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
Column = tuple[str, str, str]  # title, key of a row, format


def table(*columns: Column) -> Callable[[Rows], str]:
    """A line a row, with an empty cell where it lacks a key."""

    def lines(rows: Rows) -> str:
        cells = [[form.format(row[key]) if key in row else "" for _, key, form in columns] for row in rows]
        return markdown([title for title, _, _ in columns], cells)

    return lines


def race(rows: Rows) -> str:
    """Ours and theirs, the median ratio and its range over the rounds; below, what has no ratio."""
    head = ["what", "ours", "theirs", "ours over theirs", "of the rounds"]
    raced = [row for row in rows if "ratio_range" in row]
    cells = [
        [
            row["name"],
            f"{number(row['ours'])} {row['unit']}",
            f"{number(row['theirs'])} {row['unit']}",
            f"{row['ratio']:.2f}",
            f"{row['ratio_range'][0]:.2f} to {row['ratio_range'][1]:.2f}",
        ]
        for row in raced
    ]
    peaks = [row for row in rows if "tiled_gb" in row]
    said = [f"{r['name']}: {r['tiled_gb']:.2f} GB, of the whole {r['whole_gb']:.2f} GB." for r in peaks]
    return "\n\n".join([markdown(head, cells), *said])


def number(value: float) -> str:
    """Three digits that say something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def markdown(head: list[str], cells: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *cells))


NAME = ("what", "name", "{}")
BLOCKS: dict[str, Callable[[Rows], str]] = {
    **dict.fromkeys(("loader", "train", "shards", "mae", "videomae", "vqvae", "dcae"), race),
    "load": table(
        NAME,
        ("seconds", "seconds", "{:.2f}"),
        ("over reading it", "of_reading", "{:.2f}"),
        ("memory over its size", "memory_of_size", "{:.2f}"),
    ),
    "plans": table(
        ("recipe", "name", "`{}`"),
        ("batch a device", "batch", "{}"),
        ("precision", "precision", "{}"),
        ("trained", "trained", "{:,}"),
        ("weights, gradients, optimiser, average, GB", "state_gb", "{:.1f}"),
        ("activations, GB", "activations_gb", "{:.1f}"),
        ("made again, GB", "again_gb", "{:.1f}"),
        ("GFLOP an image", "gflop_an_image", "{:,.0f}"),
        ("images/s", "images_per_second", "{:,.0f}"),
    ),
    "estimate": table(
        ("training", "name", "{}"),
        ("estimate, GB", "estimate_gb", "{:.2f}"),
        ("measured, GB", "measured_gb", "{:.2f}"),
        ("ratio", "ratio", "{:.2f}"),
    ),
    "fuzz": table(
        ("damaged", "name", "{}"),
        ("cases", "cases", "{:,}"),
        ("refused in a line", "refused", "{:,}"),
        ("loaded", "loaded", "{:,}"),
        ("failed", "failed", "{:,}"),
        ("slowest, s", "slowest_s", "{:.2f}"),
        ("most memory, torch with it, MB", "peak_MB", "{:,.0f}"),
    ),
    "accidents": table(
        ("recipe", "name", "{}"),
        ("kills", "kills", "{}"),
        ("before the first checkpoint", "before_first", "{}"),
        ("while one was written", "while_writing", "{}"),
        ("resumed", "resumed", "{}"),
        ("steps compared", "steps", "{}"),
        ("differences", "different", "{}"),
    ),
    "samples": table(
        ("digits", "name", "{}"),
        ("how many", "images", "{:,}"),
        ("read as what they are meant to be", "accuracy", "{:.1%}"),
    ),
    "probe": table(
        ("weights", "name", "`{}`"),
        ("side, px", "px", "{}"),
        ("latent floats", "floats", "{:,}"),
        ("PSNR, dB", "psnr", "{:.2f}"),
        ("accuracy, mean over places", "pooled", "{:.1%}"),
        ("all latents", "whole", "{:.1%}"),
    ),
}


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
    threads = f"{machine['threads']} thread{'s' * (machine['threads'] != 1)}"
    where = f"{machine['cpu']}, {machine['cores']} cores, {threads}, load {machine['load']:g}"
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
