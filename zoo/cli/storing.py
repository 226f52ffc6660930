"""`zoo shard`, `zoo cache`: data sets on the disk."""

import sys
import time

from zoo.cli.flags import new_parser, reading_flags


def shard(argv: list[str]) -> None:
    parser = new_parser("shard", "A data set as WebDataset shards and a manifest, for --data.source shards:PLACE.")
    parser.add_argument("source", help="as ImageData's source, or a folder of videos; with --index, where shards lie")
    parser.add_argument("folder", nargs="?", help="where shards and manifest go; with --index, the manifest")
    parser.add_argument("--image-size", type=int, help="shorter side in px, to which larger images are reduced")
    parser.add_argument("--samples-per-shard", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="of the order of training samples")
    reading = reading_flags(parser)
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
