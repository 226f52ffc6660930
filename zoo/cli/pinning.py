"""`zoo lock`, `zoo verify`, `zoo bundle`: what names stand for, on this machine and on others."""

import argparse
from pathlib import Path

from zoo import registry
from zoo.cli.catalogue import matching
from zoo.cli.flags import check_folder, new_parser, running_flags
from zoo.cli.storing import replacing
from zoo.redact import redact

RECORDS = "arch.tag or archs, or a shell pattern of them, 'mae*'"


def lock(argv: list[str]) -> None:
    parser = new_parser("lock", "Pin weights to what they are now, in a file to commit: later loads refuse others.")
    parser.add_argument("names", nargs="+", metavar="NAME", help=RECORDS)
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: $ZOO_LOCK, else the cache's")
    parser.add_argument("--update", action="store_true", help="pin what publishers have now, whatever was pinned")
    args = parser.parse_args(argv)
    records = _named(args.names)
    from zoo.hub import bundle
    from zoo.hub import lock as locks
    from zoo.hub.fetch import fetching

    path, count = args.output or locks.current(), 0
    locks.read(path)  # a damaged one is refused before anything is fetched
    for record in records:
        with fetching(path, args.update) as seen:
            bundle.load_whole(record.name)
        for one in dict.fromkeys(seen.came):
            commit = f"  commit {one.pin.commit}" if one.pin.commit else ""
            print(f"{one.owner}  {one.file.address}  sha256 {one.pin.sha256}{commit}  {one.said}", flush=True)
        if not seen.came:
            print(f"{record.name}  ships, pinned by its record: sha256 {record.sha256}", flush=True)
        count += len(seen.came)
    if count:
        print(f"{path}: commit it with your code, and set ZOO_LOCK to it")


def bundle(argv: list[str]) -> None:
    parser = new_parser("bundle", "Pack what a machine without a network needs to load weights, into a folder.")
    parser.add_argument("names", nargs="+", metavar="NAME", help=RECORDS)
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", required=True, help="set ZOO_CACHE to it there")
    parser.add_argument("--force", action="store_true", help="replace a bundle that is there")
    args = parser.parse_args(argv)
    records = _named(args.names)
    from zoo.hub import bundle
    from zoo.hub.fetch import fetching

    check_folder(args.output, args.force, bundle.foreign)
    with fetching() as seen:
        for record in records:
            bundle.load_whole(record.name)
    shipped = bundle.apart(seen.shipped.values())
    if not seen.came and not shipped:
        raise ValueError(f"nothing to pack: {', '.join(args.names)} ship with the package, which needs no network")
    with replacing(args.output) as aside:
        packed = bundle.pack(seen.came, shipped, aside)
    for one in packed:
        print(f"{one.owner}  {(args.output / one.file.packed).as_posix()}  {one.pin.size / 1e6:,.1f} MB")
    for record in shipped:
        place = args.output / registry.BUNDLED / record.name
        print(f"{record.name}  {place.as_posix()}  {record.size / 1e6:,.1f} MB")
    print(f"{args.output}: on the other machine set ZOO_CACHE to it")


def _named(patterns: list[str]) -> list[registry.Weights]:
    """The records that patterns name, each once."""
    return list({record.name: record for pattern in patterns for record in matching(pattern)}.values())


def verify(argv: list[str]) -> int:
    parser = new_parser("verify", "Hash, strict load and golden outputs; a line each, status 1 where one fails.")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="arch.tag, folder or hf://org/name; none: all that ship"
    )
    parser.add_argument("--all", action="store_true", help="all that ship or lie in the caches; nothing is fetched")
    parser.add_argument(
        "--links",
        action="store_true",
        help="ask publishers whether they still have each file as recorded; nothing is fetched (default: all records)",
    )
    parser.add_argument(
        "--eval",
        nargs="?",
        const="",
        metavar="SOURCE",
        help="run the published evaluation again, and say whether each figure stands (default: on its own data)",
    )
    running_flags(parser, "of --eval; default: 1000 samples, or 64 clips")
    args = parser.parse_args(argv)
    if args.all and args.names:
        raise ValueError(f"names and --all; give one: zoo verify {' '.join(args.names)}")
    if args.eval is not None and (args.all or not args.names):
        raise ValueError("--eval needs names, before it: zoo verify NAME --eval [SOURCE]")
    if args.links:
        if args.all or args.eval is not None:
            raise ValueError("--links fetches nothing, so it checks no content; give it without --all and --eval")
        return _linked(args.names)
    from zoo import hub
    from zoo.hub.fetch import fetching
    from zoo.hub.places import is_place

    for name in args.names:
        if not is_place(name):
            registry.weights_info(name)  # which says what there is, before anything is read
    known = registry.records()
    sound = True
    for name in args.names or [w.name for w in known.values() if args.all or w.embedded]:
        if not args.names and not _here(known[name]):
            get = f"pip install {known[name].distribution}" if known[name].embedded else "not fetched"
            print(f"name: {name}  not here, {get}")
            continue
        try:
            with fetching(offline=args.all):
                print("  ".join(f"{k}: {v}" for k, v in hub.verify(name).items()), flush=True)
        except (ValueError, OSError) as error:
            print(redact(f"name: {name}  failed: {' '.join(str(error).split())}"), flush=True)
            sound = False
            continue
        if args.eval is not None:
            sound = _stands(name, args) and sound
    return 0 if sound else 1


def _here(record: registry.Weights) -> bool:
    """Whether weights can be read without fetching anything."""
    from zoo.hub.fetch import is_here
    from zoo.hub.places import published

    return record.folder is not None if record.embedded else all(map(is_here, published(record)))


def _linked(patterns: list[str]) -> int:
    """Ask for each file of records that are published elsewhere; a line each, status 1 where one is not as recorded."""
    records = [r for r in (_named(patterns) if patterns else registry.records().values()) if not r.embedded]
    if not records:
        raise ValueError(f"{', '.join(patterns)} ship with the package: no publisher has them; leave --links out")
    from zoo.hub.links import answers

    sound = True
    for record in records:
        for file, answer in answers(record):
            said = f"name: {record.name}  file: {file.address}"
            if isinstance(answer, Exception):
                sound = False
                print(redact(f"{said}  failed: {' '.join(str(answer).split())}"), flush=True)
                continue
            size = "" if answer.size is None else f"  size: {answer.size}"
            commit = f"  commit: {answer.commit}" if answer.commit else ""
            print(redact(f"{said}{size}{commit}  there"), flush=True)
    return 0 if sound else 1


def _stands(name: str, args: argparse.Namespace) -> bool:
    """Whether all published figures of a name do; a line each."""
    from zoo.report import standing

    how = {"device": args.device, "precision": args.precision, "batch_size": args.batch_size}
    verdicts, data = standing.again(name, args.eval or None, **how)
    for v in verdicts:
        m = v.published
        said = f"{name}  {m.name} {m.value:g} {m.unit}".rstrip() + f" on {m.data}"
        if v.measured is None:
            print(f"{said}: not measured by zoo eval ({m.protocol})")
            continue
        holds = "stands" if v.stands else "does not stand"
        print(f"{said}: {v.measured:.6g} on {data}, {holds} within {v.interval}, {v.low:.6g} to {v.high:.6g}")
    return all(v.stands for v in verdicts)
