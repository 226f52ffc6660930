"""Verbs that run a model over all of a source and write what comes out: `zoo predict`, `embed`, `similar`, …"""

import argparse
import json
import sys
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
from zoo.cli.giving import foreign_checkpoint

SPLITS = ("train", "val", "test")
FAISS = """\
to search many with faiss: \
x = np.stack(pq.read_table({file!r})["embedding"].to_numpy()); faiss.normalize_L2(x); \
index = faiss.IndexFlatIP(x.shape[1]); index.add(x)"""
FAISS_NPY = """\
to search many with faiss: \
x = np.load({file!r}); faiss.normalize_L2(x); index = faiss.IndexFlatIP(x.shape[1]); index.add(x)"""


def predict(argv: list[str]) -> None:
    parser = new_parser("predict", "The class of each picture by name, and how likely it is, as a table.")
    take = _table_flags(parser, "predictions: .csv, .json or .parquet")
    parser.add_argument(
        "--top-k", type=at_least_one, default=1, metavar="K", help="so many classes of each picture (default 1)"
    )
    args = parser.parse_args(argv)
    from zoo.report import tables

    model, how = take(args, tables.PREDICTIONS)
    count = tables.predict(model, args.source, args.output, args.top_k, **how)
    print(_done(count, args.output))


def embed(argv: list[str]) -> None:
    parser = new_parser("embed", "The features of each picture, for neighbours, probes and plots of one's own.")
    take = _table_flags(parser, "features: .parquet or .npy")
    parser.add_argument(
        "--pool", default="mean", help="mean of the tokens that belong to a place (default), cls, or none: all tokens"
    )
    parser.add_argument(
        "--layer", type=int, metavar="N", help="of a transformer, the block after which to take them, from 0 or from -1"
    )
    args = parser.parse_args(argv)
    from zoo.report import tables

    model, how = take(args, tables.FEATURES)
    count = tables.embed(model, args.source, args.output, args.pool, args.layer, **how)
    print(_done(count, args.output))


def codes(argv: list[str]) -> None:
    parser = new_parser("codes", "The codes of each picture, of a model whose latents are discrete.")
    take = _table_flags(parser, "codes: .parquet or .npy")
    args = parser.parse_args(argv)
    from zoo.report import tables

    model, how = take(args, tables.FEATURES)
    count = tables.codes(model, args.source, args.output, **how)
    print(_done(count, args.output))


def similar(argv: list[str]) -> None:
    parser = new_parser("similar", "The pictures of a file of features that are nearest to others: exact, by cosine.")
    parser.add_argument("features", type=Path, help="what `zoo embed` wrote, .parquet or .npy")
    parser.add_argument("query", nargs="+", help="pictures")
    output_flags(parser, "a picture of them, .png; with --json it may be left out", required=False)
    parser.add_argument(
        "--count", type=at_least_one, default=8, metavar="N", help="neighbours of each query (default 8)"
    )
    parser.add_argument("--json", action="store_true", help="print the neighbours as JSON")
    parser.add_argument("--model", help="where the model lies now that wrote the features; another is refused")
    parser.add_argument("--pictures", metavar="FOLDER", help="where the pictures lie now whose features these are")
    running_flags(parser, "queries at a time")
    args = parser.parse_args(argv)
    if args.output is None and not args.json:
        raise ValueError("no picture to write; give -o SHEET.png, or --json to have the neighbours printed alone")
    if args.output is not None:
        check_output(args.output, args.force, PICTURES)
    from zoo.report import neighbours, plots

    how = {"device": args.device, "precision": args.precision, "batch_size": args.batch_size}
    model = neighbours.writer(args.features, args.model)
    found = neighbours.similar(args.features, args.query, args.count, model, **how)
    if args.output is not None:
        plots.write(neighbours.sheet(args.features, args.query, found, model, args.pictures, **how), args.output)
    if args.json:
        rows = [
            {"query": query, "neighbours": [neighbour._asdict() for neighbour in row]}
            for query, row in zip(args.query, found)
        ]
        print(json.dumps(rows, ensure_ascii=False))
        return
    for query, row in zip(args.query, found):
        print(query)
        for neighbour in row:
            print(f"  {neighbour.similarity:6.3f}  {neighbour.path}{f'  {neighbour.label}' if neighbour.label else ''}")
    print(args.output)
    line = FAISS_NPY if args.features.suffix.lower() == ".npy" else FAISS
    print(line.format(file=str(args.features)))


def latents(argv: list[str]) -> None:
    parser = new_parser("latents", "A data set through an encoder, once: a folder that a diffusion recipe reads.")
    model_and_source(parser)
    output_flags(parser, "a folder", required=False)
    parser.add_argument("--data", metavar="SOURCE", help=argparse.SUPPRESS)  # NAME FOLDER --data SOURCE, as it was
    parser.add_argument("--image-size", type=at_least_one, metavar="N", help="in px; default: the model's")
    parser.add_argument("--flip", action="store_true", help="training images mirrored too")
    parser.add_argument(
        "--measure", type=Path, metavar="FOLDER", help="first take mean and deviation of them, and save the model"
    )
    running_flags(parser, "pictures at a time (default 64)")
    reading = reading_flags(parser)
    args = parser.parse_args(argv)
    if args.data is not None:
        if args.output is not None or len(args.source) > 1:
            raise ValueError(f"two sources, {args.source[0]} and --data {args.data}; give the first alone")
        now = f"zoo latents {args.model} {args.data} -o {args.source[0]}"
        print(f"zoo latents: --data is no longer needed: {now}", file=sys.stderr)
        args.output, args.source = Path(args.source[0]), [args.data]
    elif args.output is None:
        raise ValueError(f"no folder to write to; zoo latents {args.model} {' '.join(args.source)} -o FOLDER")
    from zoo import hub
    from zoo.data.images import ImageData
    from zoo.data.latents import foreign, measure, write
    from zoo.report.running import running

    # As it was given before, latents take the place of others without a word.
    check_folder(args.output, args.force or args.data is not None, foreign)
    if args.measure is not None:
        check_folder(args.measure, args.force, foreign_checkpoint, "--measure")
        if args.measure.resolve() == args.output.resolve():
            raise ValueError(f"{args.output} is to hold both the latents and the model; give another --measure")
    model = hub.load(args.model)
    if model.takes.kind != "image":
        raise ValueError(f"{args.model} takes {model.takes.kind}s; latents are written of images")
    source = args.source if len(args.source) > 1 else args.source[0]
    size = model.takes.size[0] if args.image_size is None else args.image_size
    data = ImageData(source, size, model.takes.channels, val_fraction=0.0, **reading(args))
    data.every_class = True  # all pictures are read; who trains on the latents takes those of training
    batch_size = 64 if args.batch_size is None else args.batch_size
    with running(model, args.device, args.precision):
        if args.measure:
            measure(model, data, batch_size)
            model.zoo_config.pop("name", None)
            print(hub.save(model, args.measure))
        print(write(model, data, args.output, args.flip, batch_size, str(args.measure or args.model)))


def _table_flags(parser: argparse.ArgumentParser, what: str) -> Any:
    """What verbs share that write a table, and what makes the model and keywords of their values."""
    model_and_source(parser)
    output_flags(parser, what)
    parser.add_argument("--split", choices=SPLITS, help="of the source, this split alone (default: all)")
    running_flags(parser)
    reading = reading_flags(parser)

    def take(args: argparse.Namespace, formats: tuple[str, ...]) -> tuple[Any, dict[str, Any]]:
        from zoo import hub
        from zoo.data.writing import beside

        check_output(args.output, args.force, formats)
        if args.output.suffix.lower() == ".npy":
            check_output(beside(args.output), args.force)
        how = {name: getattr(args, name) for name in ("split", "device", "precision", "batch_size")}
        read = reading(args)
        how["bad"] = read.pop("bad", "refuse")
        return hub.load(args.model), how | {"reading": read, "name": args.model}

    return take


def _done(count: int, output: Path) -> str:
    return f"{count:,} rows in {output}"
