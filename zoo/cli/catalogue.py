"""`zoo ls`, `zoo info`, `zoo cp`: what there is. Facts alone, without torch."""

import json
from dataclasses import asdict
from pathlib import Path

from zoo import recipe, registry
from zoo.cli.flags import new_parser


def ls(argv: list[str]) -> None:
    parser = new_parser("ls", "List models, weights and recipes.")
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


def info(argv: list[str]) -> None:
    parser = new_parser("info", "All that is known of an arch or of weights.")
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


def cp(argv: list[str]) -> None:
    parser = new_parser("cp", "Copy a recipe to make it one's own.")
    parser.add_argument("recipe")
    parser.add_argument("file", type=Path)
    args = parser.parse_args(argv)
    print(recipe.copy_recipe(args.recipe, args.file))
