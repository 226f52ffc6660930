"""The `zoo` command. Nothing heavy is imported before a verb needs it: `zoo ls` answers without torch."""

import argparse
import builtins
import errno
import io
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from zoo import __version__, recipe, registry
from zoo.redact import redact

HELP = """\
zoo ls ['mae*'] [--pretrained] [--licence permissive] [--recipes] [--json]
                                    what there is: models, weights, recipes
zoo info NAME [--json]              metrics and their protocol, licence, sha256, recipe, command, cost
zoo cp RECIPE FILE                  a recipe of one's own
zoo validate RECIPE|FILE [--…]      parse it, build it, run one batch, print the shapes; --estimate: memory and time
zoo fit RECIPE|FILE [--model.lr 1e-4 …]
zoo fit --resume RUN [--…]          pretrain, fine-tune; resume exactly
zoo eval NAME|FOLDER|RUN [SOURCE]
                                    the family's own figures, classes by name; the last line is JSON
zoo show NAME|FOLDER|RUN [IMAGE …] -o FILE.png
                                    a picture of what the model does
zoo sample NAME|FOLDER|RUN [--classes 3,7 --steps 50 --guidance 1.5] -o FILE.png
                                    what a generative model draws, class by class
zoo export RUN|CKPT|NAME FOLDER [--to safetensors|timm|diffusers|onnx] [--half]
zoo push FOLDER|NAME ORG/NAME [--dry-run FOLDER]
                                    publish on the Hugging Face Hub, or write what would be published
zoo verify NAME                     hash, strict load, golden outputs
zoo convert FILE ARCH FOLDER [--take model|ema] [--stats FILE] [--args JSON]
                                    somebody else's checkpoint into a folder of ours; what was taken is said
zoo latents NAME FOLDER --data SOURCE [--flip]
                                    a data set through an encoder, once, for a diffusion recipe
zoo shard SOURCE FOLDER [--image-size N]
zoo shard --index PLACE [FOLDER]    a data set as tar files to stream, or a manifest of tar files that are there
zoo cache ls
zoo cache prune --older-than DAYS | --size 20GB | --all
                                    decoded images that stay on the disk

NAME is arch.tag (`zoo ls --pretrained`), a checkpoint folder, or hf://org/name@revision."""

TRACE = "Traceback (most recent call last):"
LONGEST = 400  # of what an unexpected error says
NEXT = {  # what to do about errors of others, by their type
    "OutOfMemoryError": "lower --data.batch_size or set --model.grad_checkpointing true; ",
    "MemoryError": "lower --data.batch_size or the image size; ",
    "ModuleNotFoundError": "install that package; ",
}


def main(argv: list[str] | None = None) -> int:
    """Run a verb; 0 when it worked.

    What stops it is one line on stderr. 2: what was asked cannot be done. 1: any other error, whose trace `ZOO_DEBUG=1`
    shows. 128 + signal: a signal ended it, or nobody read what it prints, and nothing is said.
    """
    argv = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):  # a file or pipe on Windows would be cp1252, which lacks → and ×
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    verb = argv[0] if argv else "--help"
    try:
        status = _run(verb, argv[1:])
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception as error:
        if _unread(error):
            return 128 + 13  # SIGPIPE, which Windows does not name
        if os.environ.get("ZOO_DEBUG"):
            import traceback

            print(redact(traceback.format_exc()), file=sys.stderr)
        said, status = explain(error)
        print(redact(f"zoo {verb}: {said}"), file=sys.stderr)
        return status


def _run(verb: str, rest: list[str]) -> int:
    if verb in ("-h", "--help", "help"):
        print(HELP)
    elif verb == "--version":
        print(__version__)
    elif verb in VERBS:
        return VERBS[verb](rest) or 0
    else:
        print(f"zoo: no verb {verb!r}{registry.suggest(verb, VERBS)}; zoo --help lists them", file=sys.stderr)
        return 2
    return 0


def explain(error: Exception) -> tuple[str, int]:
    """What an exception says, in one line, and the exit status that it makes.

    ValueErrors and OSErrors are 2 and say what to do next by themselves. Any other is 1, with its type, where it was
    raised and how to see more.
    """
    kind, said = type(error), str(error)
    trace = said.rpartition(TRACE)[2] if TRACE in said else ""  # of a DataLoader's worker, or of another process
    if found := re.search(r"^(?:\w+\.)*(\w+)(?:: |$)", trace, re.MULTILINE):  # what was raised there
        named = getattr(builtins, found[1], None)
        kind = named if isinstance(named, type) else type(found[1], (Exception,), {})
        said = trace[found.end() :]
    said = " ".join(said.split())
    expected = issubclass(kind, ValueError | OSError)
    if not expected or issubclass(kind, UnicodeError) or " " not in said:
        said = f"{kind.__name__}: {said}" if said else kind.__name__
    if expected:
        return said, 2
    said = said if len(said) <= LONGEST else f"{said[:LONGEST].rstrip()}…"
    advice = NEXT.get(kind.__name__, "")
    return f"{said}{_place(error)}; {advice}ZOO_DEBUG=1 shows the whole trace", 1


def _place(error: Exception) -> str:
    """The last line of this package that an exception came through."""
    here, place, trace = Path(__file__).parent, "", error.__traceback__
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if file.is_relative_to(here) and file != Path(__file__):
            place = f" (zoo/{file.relative_to(here).as_posix()}:{trace.tb_lineno})"
        trace = trace.tb_next
    return place


def _unread(error: Exception) -> bool:
    """Whether it says that stdout's reader has gone, `zoo ls | head`; what is left of the output then goes nowhere."""
    if not isinstance(error, OSError) or error.errno not in (errno.EPIPE, errno.EINVAL):  # the second is Windows'
        return False
    try:
        print(flush=True)  # another process or the network may have been meant
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more as it ends
        return True
    return False


def _ls(argv: list[str]) -> None:
    parser = _parser("ls", "List models, weights and recipes.")
    parser.add_argument("pattern", nargs="?", default="*", help="shell pattern of names, 'bilinear*'")
    parser.add_argument("--pretrained", action="store_true", help="weights only")
    parser.add_argument("--licence", choices=("permissive", "any"), default="any", help="of the weights")
    parser.add_argument("--recipes", action="store_true", help="recipes only")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    matches = [
        w
        for w in registry.records().values()
        if w.name in registry.list_weights(args.pattern) or w.arch in registry.list_models(args.pattern)
    ]
    weights = [w for w in matches if args.licence == "any" or w.permissive]
    archs = [] if args.pretrained or args.recipes else registry.list_models(args.pattern)
    names = recipe.list_recipes(args.pattern) if args.recipes or not (args.pretrained or args.licence != "any") else []
    if args.recipes:
        weights = []
    if not (archs or weights or names):
        known = [*registry.list_models(), *registry.list_weights(), *recipe.list_recipes()]
        raise ValueError(f"nothing matches {args.pattern!r}{registry.suggest(args.pattern, known)}; `zoo ls` lists all")
    if args.json:
        rows = {"archs": archs, "weights": [asdict(w) for w in weights], "recipes": names}
        print(json.dumps(rows, ensure_ascii=False))
        return
    for title, lines in (
        ("archs", [(a, registry.summary(a)) for a in archs]),
        ("weights", [(w.name, _figures(w)) for w in weights]),
        ("recipes", [(n, recipe.about(n)) for n in names]),
    ):
        if lines:
            width = max(len(name) for name, _ in lines)
            print(title)
            for name, text in lines:
                print(f"  {name:<{width}} {text}")


def _figures(w: registry.Weights) -> str:
    best = w.metrics[0] if w.metrics else None
    figure = f"{best.name} {best.value:g} {best.unit} on {best.data}, " if best else ""
    size = f"{w.size / 1e6:.1f} MB, " if w.size else ""
    classifier = w.arch in registry.facts(registry.family_of(w.arch)).starts  # its encoder is all that was pretrained
    encoder = "encoder only, " if w.kind == "encoder" and not classifier else ""
    return f"{figure}{encoder}{size}{w.licence}{', in the package' if w.embedded else ''}"


def _info(argv: list[str]) -> None:
    parser = _parser("info", "All that is known of an arch or of weights.")
    parser.add_argument("name", help="arch or arch.tag")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    if args.name in registry.archs():
        row = {"arch": args.name, "family": registry.family_of(args.name), "summary": registry.summary(args.name)}
        row["weights"] = registry.list_weights(f"{args.name}.*")
    else:
        record = registry.weights_info(args.name)
        row = asdict(record) | {"classes": record.classes}
    if args.json:
        print(json.dumps(row, ensure_ascii=False))
        return
    metrics = row.pop("metrics", ())
    for key, value in row.items():
        if key == "classes" and len(value) > 20:
            value = [f"{len(value)}: {', '.join(value[:5])}, …"]
        if value not in (None, (), {}, ""):
            print(f"{key:<11} {', '.join(map(str, value)) if isinstance(value, tuple | list) else value}")
    for m in metrics:
        print(f"{'metric':<11} {m['name']} {m['value']:g} {m['unit']} on {m['data']}: {m['protocol']}")


def _cp(argv: list[str]) -> None:
    parser = _parser("cp", "Copy a recipe to make it one's own.")
    parser.add_argument("recipe")
    parser.add_argument("file", type=Path)
    args = parser.parse_args(argv)
    print(recipe.copy_recipe(args.recipe, args.file))


def _fit(argv: list[str]) -> int:
    asks = {"-h", "--help"} & set(argv)
    if not argv or (asks and argv[0].startswith("-")):
        print(recipe.FIT_HELP)
        return 0
    from zoo.train import fit

    return fit.describe([a for a in argv if a not in asks]) if asks else fit.fit(argv)


def _validate(argv: list[str]) -> int:
    if not argv or "-h" in argv or "--help" in argv:
        print(recipe.VALIDATE_HELP)
        return 0
    if "--estimate" in argv:
        from zoo.train import estimate

        return estimate.main(argv)
    from zoo.train import fit

    return fit.validate(argv)


def _eval(argv: list[str]) -> None:
    parser = _parser("eval", "The family's own figures on a test set; the last line is JSON.")
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
    reading = _reading(parser)
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


def _show(argv: list[str]) -> None:
    parser = _parser("show", "A picture of what the model does.")
    parser.add_argument("name", help="arch.tag, checkpoint folder, hf://org/name, or a run's directory")
    parser.add_argument(
        "images",
        nargs="*",
        type=Path,
        help="image or video files, .npy files of latents or activations; without them the model's own figure is drawn",
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("zoo.png"), help="a PNG; of clips also a GIF")
    reading = _reading(parser, columns=False)
    args = parser.parse_args(argv)
    from zoo.report import figures as report

    print(report.show(args.name, args.images, args.output, reading(args)))


def _sample(argv: list[str]) -> None:
    parser = _parser("sample", "Draw what a generative model draws, a row for each class.")
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


def _export(argv: list[str]) -> None:
    parser = _parser("export", "A run, a Lightning checkpoint or a name → a folder to give away.")
    parser.add_argument("ckpt", help="run directory, .ckpt file, arch.tag or checkpoint folder")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--to", default="safetensors", help="safetensors (default), timm, diffusers or onnx")
    parser.add_argument("--half", action="store_true", help="store float16, half the size")
    args = parser.parse_args(argv)
    from zoo import hub

    print(hub.export(args.ckpt, args.folder, args.to, args.half))


def _push(argv: list[str]) -> None:
    parser = _parser("push", "Publish a checkpoint folder on the Hugging Face Hub, in one commit.")
    parser.add_argument("folder", help="checkpoint folder or arch.tag")
    parser.add_argument("repo", help="org/name; a bare name goes under $ZOO_HUB_ORG")
    parser.add_argument("--dry-run", metavar="FOLDER", help="write what would be pushed here instead")
    args = parser.parse_args(argv)
    from zoo import hub

    print(hub.push(args.folder, args.repo, args.dry_run))


def _verify(argv: list[str]) -> None:
    parser = _parser("verify", "Hash, strict load and golden outputs.")
    parser.add_argument(
        "names", nargs="*", help="arch.tag, folder or hf://org/name; none: all that ship with the package"
    )
    args = parser.parse_args(argv)
    from zoo import hub

    for name in args.names or [w.name for w in registry.records().values() if w.embedded]:
        print("  ".join(f"{k}: {v}" for k, v in hub.verify(name).items()))


def _convert(argv: list[str]) -> None:
    parser = _parser("convert", "Somebody else's checkpoint → a folder of ours.")
    parser.add_argument("file", help="safetensors or torch file, or a folder with one")
    parser.add_argument("arch")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--take", choices=("model", "ema"), help="the last weights, or their moving average")
    parser.add_argument("--stats", help="a file of further tensors: the stat.pt beside an RAE's decoder")
    parser.add_argument("--args", type=json.loads, default={}, help="keywords of the arch, '{\"image_size\": 32}'")
    args = parser.parse_args(argv)
    from zoo import hub
    from zoo.hub.foreign import convert

    print(hub.save(convert(args.file, args.arch, take=args.take, stats=args.stats, **args.args), args.folder))


def _latents(argv: list[str]) -> None:
    parser = _parser("latents", "A data set through an encoder, once: a folder that a diffusion recipe reads.")
    parser.add_argument("name", help="arch.tag, checkpoint folder, hf://org/name, or a run's directory")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", required=True, help="as ImageData's source: folder, Hub id, torchvision:NAME")
    parser.add_argument("--image-size", type=int, help="in px; default: the model's")
    parser.add_argument("--flip", action="store_true", help="training images mirrored too")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--measure", metavar="FOLDER", help="first take mean and deviation of them, and save the model")
    reading = _reading(parser)
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


def _shard(argv: list[str]) -> None:
    parser = _parser("shard", "A data set as WebDataset shards and a manifest, for --data.source shards:PLACE.")
    parser.add_argument("source", help="as ImageData's source, or a folder of videos; with --index, where shards lie")
    parser.add_argument("folder", nargs="?", help="where shards and manifest go; with --index, the manifest")
    parser.add_argument("--image-size", type=int, help="shorter side in px, to which larger images are reduced")
    parser.add_argument("--samples-per-shard", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="of the order of training samples")
    reading = _reading(parser)
    parser.add_argument("--index", action="store_true", help="write only the manifest, of *.tar that are there")
    args = parser.parse_args(argv)
    if args.folder is None and not args.index:
        raise ValueError("no FOLDER for the shards; give one, or --index for shards that are there")
    from zoo.data import sharding

    how = args.image_size, args.samples_per_shard, args.seed
    written = (
        sharding.index(args.source, args.folder)
        if args.index
        else sharding.write(args.source, args.folder, *how, **reading(args))
    )
    for path in written:
        print(path, flush=True)


def _cache(argv: list[str]) -> None:
    parser = _parser("cache", "Decoded images that stay on the disk, in $ZOO_CACHE, by default ~/.cache/latentzoo.")
    parser.add_argument("what", choices=("ls", "prune"), help="list them, or remove some")
    parser.add_argument("--older-than", type=float, metavar="DAYS", help="prune: those not used for so long")
    parser.add_argument("--size", metavar="20GB", help="prune: those used longest ago, until the others fit in this")
    parser.add_argument("--all", action="store_true", help="prune: all")
    args = parser.parse_args(argv)
    from zoo.data import cache

    asked = args.older_than is not None or args.size is not None or args.all
    if asked == (args.what == "ls"):
        raise ValueError("prune takes --older-than DAYS, --size 20GB or --all; ls takes none of them")
    if args.what == "ls":
        (shown, left), verb = (cache.copies(), list[cache.Copy]()), "in"
    else:
        (shown, left), verb = cache.prune(args.older_than, _bytes(args.size), args.all), "freed in"
    for copy in shown:
        used = time.strftime("%Y-%m-%d", time.localtime(copy.used))
        print("  ".join([_megabytes(copy.bytes), used, str(copy.path), copy.geometry, copy.filled, copy.source]))
    print(f"{_megabytes(sum(copy.bytes for copy in shown))} {verb} {cache.root() / 'images'}")
    for copy in left:
        print(f"{copy.path} is in use, and was left", file=sys.stderr)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:>12,.1f} MB"


def _bytes(text: str | None) -> float | None:
    """Bytes of "20GB" or "500 MB"."""
    if text is None:
        return None
    number, unit = text[: len(text) - 2].strip(), text[-2:].upper()
    powers = {"MB": 1e6, "GB": 1e9, "TB": 1e12}
    try:
        size = float(number) * powers[unit]
    except (KeyError, ValueError):
        size = -1
    if not 0 <= size < float("inf"):
        raise ValueError(f"--size {text}, allowed a number of {', '.join(powers)}: 20GB")
    return size


def _reading(parser: argparse.ArgumentParser, columns: bool = True) -> Callable[[argparse.Namespace], dict[str, Any]]:
    """Flags that say how pictures are read, and what takes their values as keywords of ImageData."""
    keys = ["value_range"]
    parser.add_argument(
        "--value-range",
        type=_range,
        metavar="LOW,HIGH",
        help="of pictures with more than 8 bits, the values that are black and white; --value-range=-1,1",
    )
    for what in ("image", "label") if columns else ():
        keys.append(f"{what}_column")
        parser.add_argument(f"--{what}-column", metavar="NAME", help="of a table, where there is more than one")
    return lambda args: {key: getattr(args, key) for key in keys}


def _range(text: str) -> tuple[float, float]:
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}, expected two numbers with a comma between, 0,4095") from None
    return low, high


def _parser(verb: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(f"zoo {verb}", description=description)


VERBS: dict[str, Callable[[list[str]], int | None]] = {
    "ls": _ls,
    "info": _info,
    "cp": _cp,
    "validate": _validate,
    "fit": _fit,
    "eval": _eval,
    "show": _show,
    "sample": _sample,
    "export": _export,
    "push": _push,
    "verify": _verify,
    "convert": _convert,
    "latents": _latents,
    "shard": _shard,
    "cache": _cache,
}

if __name__ == "__main__":
    sys.exit(main())
