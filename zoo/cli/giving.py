"""`zoo release`, `zoo export`, `zoo push`, `zoo convert`: models in and out."""

import argparse
import json
from pathlib import Path
from typing import Any

from zoo.cli.flags import MODEL, check_folder, folder_flags, new_parser, output_folder

LICENCE = "of the weights, SPDX's identifier or the Hub's, apache-2.0; without it the card says: unknown"
WRITES = {  # format -> files of an export
    "safetensors": {"config.json", "model.safetensors", "README.md", "picture.png"},
    "timm": {"model.safetensors"},
    "diffusers": {"config.json", "diffusion_pytorch_model.safetensors"},
    "onnx": {"model.onnx"},
}


def release(argv: list[str]) -> None:
    parser = new_parser("release", "Runs → weights of a name that stands: the first one's, with mean and range of all.")
    parser.add_argument("runs", nargs="+", metavar="RUN", type=Path, help="of one recipe, each of another seed")
    parser.add_argument("name", metavar="ARCH.TAG", help="the arch of the runs, and a new tag")
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="instead of among the family's checkpoints")
    parser.add_argument("--force", action="store_true", help="replace an export that lies there; never a name")
    parser.add_argument("--licence", metavar="ID", help=LICENCE)
    args = parser.parse_intermixed_args(argv)
    from zoo.report import release

    folder = release.destination(args.name, args.output)
    check_folder(folder, args.force, foreign_checkpoint)
    released = release.release(args.runs, args.name, folder, args.licence)
    print("\n".join([*released.said, str(released.folder)]))


def export(argv: list[str]) -> None:
    parser = new_parser("export", "A run, a Lightning checkpoint or a name → a folder to give away.")
    parser.add_argument("model", help=f"{MODEL}, or a .ckpt file")
    folder_flags(parser, "where to write")
    parser.add_argument("--to", default="safetensors", help="safetensors (default), timm, diffusers or onnx")
    parser.add_argument("--half", action="store_true", help="store float16, half the size")
    parser.add_argument("--licence", metavar="ID", help=LICENCE)
    args = parser.parse_intermixed_args(argv)
    folder = output_folder(args, f"zoo export {args.model}")
    check_folder(folder, args.force, lambda folder: foreign_checkpoint(folder, args.to))
    from zoo import hub

    print(hub.export(args.model, folder, args.to, args.half, args.licence))
    _tidy(folder, args.to)


def push(argv: list[str]) -> None:
    parser = new_parser("push", "Publish weights on the Hugging Face Hub, in one commit; a run is exported first.")
    parser.add_argument("model", help="a run, a .ckpt file, a checkpoint folder or arch.tag")
    parser.add_argument("repo", nargs="?", help="ORG/NAME; a bare name goes under $ZOO_HUB_ORG")
    parser.add_argument(
        "-o", "--output", "--dry-run", type=Path, metavar="FOLDER", help="write what would be pushed here instead"
    )
    parser.add_argument("--force", action="store_true", help="replace a folder of the zoo's own that is there")
    parser.add_argument("--licence", metavar="ID", help=LICENCE)
    args = parser.parse_intermixed_args(argv)
    if args.repo is None:
        raise ValueError(f"no repository; give one: zoo push {args.model} ORG/NAME, or with -o FOLDER to look first")
    if args.output is not None:
        check_folder(args.output, args.force, foreign_checkpoint)
    from zoo import hub

    print(hub.push(args.model, args.repo, args.output, args.licence))
    if args.output is not None:
        _tidy(args.output)


def convert(argv: list[str]) -> None:
    parser = new_parser("convert", "Somebody else's checkpoint → a folder of ours.")
    parser.add_argument("file", help="safetensors or torch file, or a folder with one")
    parser.add_argument("arch")
    folder_flags(parser, "where to write")
    parser.add_argument("--take", choices=("model", "ema"), help="the last weights, or their moving average")
    parser.add_argument("--stats", help="a file of further tensors: the stat.pt beside an RAE's decoder")
    parser.add_argument("--args", type=_keywords, default={}, help="keywords of the arch, '{\"image_size\": 32}'")
    args = parser.parse_intermixed_args(argv)
    folder = output_folder(args, f"zoo convert {args.file} {args.arch}")
    check_folder(folder, args.force, foreign_checkpoint)
    from zoo import hub
    from zoo.hub.foreign import convert

    print(hub.save(convert(args.file, args.arch, take=args.take, stats=args.stats, **args.args), folder))
    _tidy(folder)


def _keywords(text: str) -> dict[str, Any]:
    try:
        keywords = json.loads(text)
    except ValueError:
        keywords = None
    if not isinstance(keywords, dict):
        raise argparse.ArgumentTypeError(f"{text}, expected a JSON object of keywords, '{{\"image_size\": 32}}'")
    return keywords


def foreign_checkpoint(folder: Path, to: str = "safetensors") -> str | None:
    """Why a folder may not be replaced: it is no checkpoint of the zoo's, and holds more than an export writes."""
    names = {path.name for path in folder.iterdir()}
    if more := sorted(names - set().union(*WRITES.values())):
        return f"it holds {more[0]}, which is not of the zoo"
    if to != "safetensors" and names <= WRITES[to]:
        return None
    try:
        library = json.loads((folder / "config.json").read_text(encoding="utf-8"))["library"]
    except (OSError, ValueError, KeyError, TypeError):
        library = None
    return None if library == "latentzoo" else "it has no config.json of the zoo's own"


def _tidy(folder: Path, to: str = "safetensors") -> None:
    """Takes away what an export of another format had left in a folder that was replaced."""
    for path in folder.iterdir():
        if path.name in set().union(*WRITES.values()) - WRITES[to]:
            path.unlink()
