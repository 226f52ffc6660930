"""Verbs that run a model over data: `zoo eval`, `zoo show`, `zoo sample`, `zoo latents`."""

import json
import sys
from pathlib import Path
from typing import Any

from zoo.cli.flags import new_parser, reading_flags


def evaluate(argv: list[str]) -> None:
    parser = new_parser("eval", "The family's own figures on a test set; the last line is JSON.")
    parser.add_argument("name", help="arch.tag, checkpoint folder, hf://org/name, or a run's directory")
    parser.add_argument(
        "source",
        nargs="?",
        help="as ImageData's: folder, Hub id, torchvision:NAME (default: the shipped sample); of latents the folder "
        "that `zoo latents` wrote; or class:PACKAGE.MODULE.DATAMODULE",
    )
    parser.add_argument("--data", help="the same, as it was given before")
    parser.add_argument("--batch-size", type=int, help="default: 1000 samples, or 64 clips")
    parser.add_argument(
        "--class-map", help="classes of the data that the model calls otherwise: zero=0,one=1, or a JSON file"
    )
    parser.add_argument("--by-number", action="store_true", help="compare numbers of classes, not their names")
    reading = reading_flags(parser)
    args = parser.parse_args(argv)
    if args.data is not None:
        if args.source is not None:
            raise ValueError(f"two sources, {args.source} and --data {args.data}; give the first alone")
        print(f"zoo eval: --data is no longer needed: zoo eval {args.name} {args.data}", file=sys.stderr)
    from zoo.report import figures as report

    how = {"class_map": args.class_map, "by_number": args.by_number, "reading": reading(args)}
    figures = report.evaluate(args.name, args.source or args.data, args.batch_size, **how)
    if "trained_on" in figures:
        print(_trained_on(figures))
    for key, value in figures.items():
        print(f"{key:<26} {value:.4f}" if isinstance(value, float) else f"{key:<26} {value}")
    print(json.dumps(figures))


def _trained_on(figures: dict[str, Any]) -> str:
    count = figures["trained_on"]
    if isinstance(count, str):
        return f"how many were trained on is {count}"
    what = "videos" if "videos" in figures else "pictures"
    return f"{count} of {figures[what]} {what} were trained on"


def show(argv: list[str]) -> None:
    parser = new_parser("show", "A picture of what the model does.")
    parser.add_argument("name", help="arch.tag, checkpoint folder, hf://org/name, or a run's directory")
    parser.add_argument(
        "images",
        nargs="*",
        type=Path,
        help="image or video files, .npy files of latents or activations; without them the model's own figure is drawn",
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("zoo.png"), help="a PNG; of clips also a GIF")
    reading = reading_flags(parser, columns=False)
    args = parser.parse_args(argv)
    from zoo.report import figures as report

    print(report.show(args.name, args.images, args.output, reading(args)))


def sample(argv: list[str]) -> None:
    parser = new_parser("sample", "Draw what a generative model draws, a row for each class.")
    parser.allow_abbrev = False
    parser.epilog = "A model has flags of its own besides: `zoo sample NAME --help` lists them."
    parser.add_argument("name", help="arch.tag, checkpoint folder, hf://org/name, or a run's directory; comes first")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.png")
    parser.add_argument("--classes", default="", help="numbers, names or any, with commas between; default: the first")
    parser.add_argument("--each", type=int, default=8, help="images of a class")
    parser.add_argument("--seed", type=int, default=0)
    if not argv or argv[0].startswith("-"):
        parser.parse_known_args(argv)
        raise ValueError(f"NAME comes first: zoo sample NAME {' '.join(argv)}")
    from zoo.report import figures as report
    from zoo.report import sampling

    sampling.add_flags(parser, argv[0])
    parser.epilog = None
    known, unknown = parser.parse_known_args(argv)
    how = vars(known)
    name, output, classes, each, seed = (how.pop(k) for k in ("name", "output", "classes", "each", "seed"))
    how |= {flag.removeprefix("--").partition("=")[0]: None for flag in unknown if flag.startswith("--")}
    labels = [c.strip() for c in classes.split(",") if c.strip()]
    print(report.draw(name, output, labels, each, seed, **how))


def latents(argv: list[str]) -> None:
    parser = new_parser("latents", "A data set through an encoder, once: a folder that a diffusion recipe reads.")
    parser.add_argument("name", help="arch.tag, checkpoint folder, hf://org/name, or a run's directory")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", required=True, help="as ImageData's source: folder, Hub id, torchvision:NAME")
    parser.add_argument("--image-size", type=int, help="in px; default: the model's")
    parser.add_argument("--flip", action="store_true", help="training images mirrored too")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--measure", metavar="FOLDER", help="first take mean and deviation of them, and save the model")
    reading = reading_flags(parser)
    args = parser.parse_args(argv)
    from zoo import hub
    from zoo.data.images import ImageData
    from zoo.data.latents import measure, write

    model = hub.load(args.name)
    if model.takes.kind != "image":
        raise ValueError(f"{args.name} takes {model.takes.kind}s; latents are written of images")
    data = ImageData(args.data, args.image_size or model.takes.size[0], model.takes.channels, **reading(args))
    if args.measure:
        measure(model, data, args.batch_size)
        model.zoo_config.pop("name", None)
        print(hub.save(model, args.measure))
    print(write(model, data, args.folder, args.flip, args.batch_size, args.measure or args.name))
