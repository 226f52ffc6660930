"""`zoo export`, `zoo push`, `zoo verify`, `zoo convert`: models in and out."""

import json
from pathlib import Path

from zoo import registry
from zoo.cli.flags import new_parser


def export(argv: list[str]) -> None:
    parser = new_parser("export", "A run, a Lightning checkpoint or a name → a folder to give away.")
    parser.add_argument("ckpt", help="run directory, .ckpt file, arch.tag or checkpoint folder")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--to", default="safetensors", help="safetensors (default), timm, diffusers or onnx")
    parser.add_argument("--half", action="store_true", help="store float16, half the size")
    args = parser.parse_args(argv)
    from zoo import hub

    print(hub.export(args.ckpt, args.folder, args.to, args.half))


def push(argv: list[str]) -> None:
    parser = new_parser("push", "Publish a checkpoint folder on the Hugging Face Hub, in one commit.")
    parser.add_argument("folder", help="checkpoint folder or arch.tag")
    parser.add_argument("repo", help="org/name; a bare name goes under $ZOO_HUB_ORG")
    parser.add_argument("--dry-run", metavar="FOLDER", help="write what would be pushed here instead")
    args = parser.parse_args(argv)
    from zoo import hub

    print(hub.push(args.folder, args.repo, args.dry_run))


def verify(argv: list[str]) -> None:
    parser = new_parser("verify", "Hash, strict load and golden outputs.")
    parser.add_argument(
        "names", nargs="*", help="arch.tag, folder or hf://org/name; none: all that ship with the package"
    )
    args = parser.parse_args(argv)
    from zoo import hub

    for name in args.names or [w.name for w in registry.records().values() if w.embedded]:
        print("  ".join(f"{k}: {v}" for k, v in hub.verify(name).items()))


def convert(argv: list[str]) -> None:
    parser = new_parser("convert", "Somebody else's checkpoint → a folder of ours.")
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
