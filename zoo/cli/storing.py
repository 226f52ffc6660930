"""`zoo shard`, `zoo cache`: data sets on the disk."""

import contextlib
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from zoo import registry
from zoo.cli.flags import (
    at_least_one,
    check_folder,
    check_place,
    folder_flags,
    new_parser,
    output_folder,
    reading_flags,
)

PART = r"\.\d+\.part"  # what a killed `zoo shard` has left in its folder


def shard(argv: list[str]) -> None:
    parser = new_parser("shard", "A data set as WebDataset shards and a manifest, for --data.source shards:PLACE.")
    parser.add_argument("source", help="as ImageData's source, or a folder of videos; with --index, where shards lie")
    folder_flags(parser, "where shards and manifest go; with --index, the manifest")
    parser.add_argument(
        "--image-size", type=at_least_one, metavar="N", help="shorter side in px, to which larger images are reduced"
    )
    parser.add_argument("--samples-per-shard", type=at_least_one, metavar="N", default=1000)
    parser.add_argument("--seed", type=int, default=0, help="of the order of training samples")
    reading = reading_flags(parser)
    parser.add_argument("--index", action="store_true", help="write only the manifest, of *.tar that are there")
    args = parser.parse_intermixed_args(argv)
    from zoo.data import sharding

    if args.index:
        given = args.folder or args.output
        folder = None if given is None else output_folder(args, f"zoo shard --index {args.source}")
        if "://" not in args.source or folder is not None:
            check_place(Path(folder or args.source), Path(folder or args.source))
        for path in sharding.index(args.source, folder, args.force):
            print(path, flush=True)
        return
    folder = output_folder(args, f"zoo shard {args.source}")
    check_folder(folder, args.force, _foreign)
    how = args.image_size, args.samples_per_shard, args.seed
    with replacing(folder) as aside:
        for written in sharding.write(args.source, aside, *how, **reading(args)):
            print(folder / written.name, flush=True)


def _foreign(folder: Path) -> str | None:
    """Why a folder may not be replaced: it is not of `zoo shard`, or holds more than that writes."""
    names = {path.name for path in folder.iterdir() if not re.fullmatch(PART, path.name)}
    if more := sorted(name for name in names if not re.fullmatch(r"manifest\.json|(train|val|test)-\d{5}\.tar", name)):
        return f"it holds {more[0]}, which is not of the zoo"
    if names and "manifest.json" not in names:
        return "it has no manifest.json, so its shards may be somebody else's"
    return None


@contextlib.contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Where to write instead of in a folder: all of it takes the old one's place, or, where writing fails, none."""
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    aside = folder / f".{os.getpid()}.part"
    aside.mkdir(parents=True)
    try:
        yield aside
        for path in set(folder.iterdir()) - {aside}:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in sorted(aside.iterdir(), key=lambda path: path.suffix == ".json"):  # the manifest makes it whole
            path.rename(folder / path.name)
    except OSError as error:
        if str(aside) not in str(error):
            raise
        raise OSError(str(error).replace(str(aside), str(folder))) from error  # the place that was asked for
    finally:
        shutil.rmtree(aside)
        with contextlib.suppress(OSError):  # it holds something
            for place in made:
                place.rmdir()


def cache(argv: list[str]) -> None:
    parser = new_parser("cache", "Decoded images that stay on the disk, in $ZOO_CACHE, by default ~/.cache/latentzoo.")
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
    print(f"{_megabytes(sum(copy.bytes for copy in shown))} {verb} {registry.cache_folder() / 'images'}")
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
