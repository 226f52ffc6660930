"""Verbs that run a model over data: `zoo eval`, `zoo show`, `zoo sample`."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zoo.cli.flags import (
    PICTURES,
    at_least_one,
    check_folder,
    check_output,
    model_and_source,
    new_parser,
    output_flags,
    reading_flags,
    running_flags,
)

WORST = 10  # classes that `zoo eval` prints
EVALUATED = ("figures.json", "confusion.png", "worst.png")  # what `zoo eval -o` writes


def evaluate(argv: list[str]) -> None:
    parser = new_parser("eval", "The family's own figures on a test set; the last line is JSON.")
    default = " (default: a run's own data and split, else the shipped sample)"
    others = "; of latents the folder that `zoo latents` wrote; or class:PACKAGE.MODULE.DATAMODULE"
    model_and_source(parser, default + others, needed=False)
    parser.add_argument("--data", help="the same, as it was given before")
    running_flags(parser, "default: 1000 samples, or 64 clips")
    output_flags(parser, "a folder: figures.json, and of a classifier confusion.png and worst.png", required=False)
    parser.add_argument(
        "--class-map", help="classes of the data that the model calls otherwise: zero=0,one=1, or a JSON file"
    )
    parser.add_argument("--by-number", action="store_true", help="compare numbers of classes, not their names")
    reading = reading_flags(parser)
    args = parser.parse_args(argv)
    source = args.source if len(args.source) > 1 else next(iter(args.source), None)
    if args.data is not None:
        if source is not None:
            raise ValueError(f"two sources, {' '.join(args.source)} and --data {args.data}; give the first alone")
        print(f"zoo eval: --data is no longer needed: zoo eval {args.model} {args.data}", file=sys.stderr)
    if args.output is not None:
        check_folder(args.output, args.force, _foreign)
    from zoo.report import figures as report

    how = {"class_map": args.class_map, "by_number": args.by_number, "reading": reading(args)}
    where = {"device": args.device, "precision": args.precision, "drawn": args.output is not None}
    figures, pictures = report.measured(args.model, source or args.data, args.batch_size, **how, **where)
    if "trained_on" in figures:
        print(_trained_on(figures))
    for line in _lines(figures):
        print(line)
    print(json.dumps(figures), flush=True)  # what was computed is said, whether or not it can be written down
    if args.output is not None:
        report.keep(figures, pictures, args.output)


def _foreign(folder: Path) -> str | None:
    """Why a folder may not be replaced: `zoo eval` did not write it, or not all of it."""
    names = {path.name for path in folder.iterdir()}
    if more := sorted(names - set(EVALUATED)):
        return f"it holds {more[0]}, which zoo eval did not write"
    return None if EVALUATED[0] in names else f"it has no {EVALUATED[0]}"


def _lines(figures: dict[str, Any]) -> Iterator[str]:
    """Figures for a person: an interval behind its share, the worst classes alone, why there is no figure."""
    notes, beside = figures.get("notes", {}), ("notes", "per_class")
    lines = {key: value for key, value in figures.items() if key not in beside and not key.endswith("_interval")}
    wide = max(26, *map(len, lines))
    for key, value in lines.items():
        shown = "–" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
        if interval := figures.get(f"{key}_interval"):
            shown += f"  [{interval[0]:.4f}, {interval[1]:.4f}]"
        yield f"{key:<{wide}} {shown}" + (f"  ({notes[key]})" if key in notes else "")
    classes = figures.get("per_class", {})
    worst = sorted(classes.items(), key=lambda item: (item[1]["accuracy"], item[0]))[:WORST]
    if worst:
        yield "accuracy of each class" if len(classes) <= WORST else f"the {WORST} worst of {len(classes)} classes"
    for name, of in worst:
        low, high = of["accuracy_interval"]
        yield f"  {name:<24} {of['accuracy']:.4f}  [{low:.4f}, {high:.4f}]  of {of['count']}"


def _trained_on(figures: dict[str, Any]) -> str:
    count = figures["trained_on"]
    if count is None:
        return f"how many were trained on is {figures['notes']['trained_on']}"
    what = "videos" if "videos" in figures else "pictures"
    return f"{count} of {figures[what]} {what} were trained on"


def show(argv: list[str]) -> None:
    parser = new_parser("show", "A picture of what the model does.")
    others = "; video files or a folder of them, .npy files of latents or activations; of what holds many up to eight "
    default = "are drawn (default: a run's own validation pictures, else the model's own figure)"
    model_and_source(parser, others + default, needed=False)
    output_flags(parser, "a PNG; of clips also a GIF", Path("zoo.png"))
    running_flags(parser, "of the data that a model's own figure is computed of (default: 1000 samples, or 64 clips)")
    reading = reading_flags(parser)
    args = parser.parse_args(argv)
    check_output(args.output, args.force, (*PICTURES, ".gif"))
    from zoo.report import figures as report

    how = {"device": args.device, "precision": args.precision, "batch_size": args.batch_size}
    print(report.show(args.model, args.source, args.output, reading(args), **how))


def sample(argv: list[str]) -> None:
    parser = new_parser("sample", "Draw what a generative model draws, a row for each class.")
    parser.allow_abbrev = False
    parser.epilog = "A model has flags of its own besides: `zoo sample NAME --help` lists them."
    parser.add_argument("name", help="arch.tag, checkpoint folder, hf://org/name, or a run's directory; comes first")
    output_flags(parser, "a picture, .png")
    running_flags(parser, batch_size=None)
    parser.add_argument("--classes", default="", help="numbers, names or any, with commas between; default: the first")
    parser.add_argument("--each", type=at_least_one, metavar="N", default=8, help="images of a class")
    parser.add_argument("--seed", type=int, default=0)
    if not argv or argv[0].startswith("-"):
        parser.parse_known_args(argv)
        raise ValueError(f"NAME comes first: zoo sample NAME {' '.join(argv)}")
    from zoo.report import figures as report
    from zoo.report import sampling

    sampling.add_flags(parser, argv[0])
    parser.epilog = None
    known, unknown = parser.parse_known_args(argv)
    check_output(known.output, known.force, PICTURES)
    how = vars(known)
    name, output, classes, each, seed, _ = (how.pop(k) for k in ("name", "output", "classes", "each", "seed", "force"))
    how |= {flag.removeprefix("--").partition("=")[0]: None for flag in unknown if flag.startswith("--")}
    labels = [c.strip() for c in classes.split(",") if c.strip()]
    print(report.draw(name, output, labels, each, seed, **how))
