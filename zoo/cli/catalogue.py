"""`zoo ls`, `zoo info`, `zoo runs`, `zoo cp`: what there is. Facts alone; torch where a repository is asked."""

import json
import math
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from zoo import recipe, registry
from zoo.cli.flags import MODEL, PICTURES, check_output, check_place, new_parser

RUNS = Path("runs")
EMPTY: tuple[Any, ...] = (None, False, (), [], {}, "")  # what `zoo info` leaves out


def ls(argv: list[str]) -> None:
    parser = new_parser("ls", "What ships, and how much more there is; with a pattern or a flag, all that matches.")
    parser.add_argument("pattern", nargs="?", help="shell pattern of names, 'bilinear*'")
    parser.add_argument("--all", action="store_true", help="every model, all weights and recipes")
    parser.add_argument("--pretrained", action="store_true", help="weights only")
    parser.add_argument("--licence", choices=("permissive", "any"), help="of the weights")
    parser.add_argument("--recipes", action="store_true", help="recipes only")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    pattern = args.pattern or "*"
    matches = _matching(pattern)
    weights = [] if args.recipes else [w for w in matches if args.licence != "permissive" or w.permissive]
    archs = [] if args.pretrained or args.recipes else registry.list_models(pattern)
    names = (
        recipe.list_recipes(pattern) if args.recipes or not (args.pretrained or args.licence == "permissive") else []
    )
    if not (archs or weights or names):
        raise ValueError(f"nothing matches {pattern!r}{registry.suggest(pattern, _names())}; `zoo ls --all` lists all")
    if args.json:
        rows = {"archs": archs, "weights": [asdict(w) for w in weights], "recipes": names}
        print(json.dumps(rows, ensure_ascii=False))
    elif args.pattern or args.all or args.pretrained or args.licence or args.recipes:
        _listing(archs, weights, names)
    else:
        print("\n".join(_screen()))


def matching(pattern: str) -> list[registry.Weights]:
    """The records whose name or arch matches a shell pattern.

    Raises:
        ValueError: there is none.
    """
    if not (found := _matching(pattern)):
        near = registry.suggest(pattern, [*registry.records(), *(w.arch for w in registry.records().values())])
        raise ValueError(f"no weights match {pattern!r}{near}; `zoo ls --pretrained` lists all")
    return found


def _matching(pattern: str) -> list[registry.Weights]:
    names, archs = registry.list_weights(pattern), registry.list_models(pattern)
    return [w for w in registry.records().values() if w.name in names or w.arch in archs]


def _listing(archs: list[str], weights: list[registry.Weights], recipes: list[str]) -> None:
    for title, lines in (
        ("archs", [(a, registry.summary(a)) for a in archs]),
        ("weights", [(w.name, _figures(w)) for w in weights]),
        ("recipes", [(n, recipe.about(n)) for n in recipes]),
    ):
        if lines:
            width = max(len(name) for name, _ in lines)
            print(title)
            for name, text in lines:
                print(f"  {name:<{width}} {text}")


def _screen() -> Iterator[str]:
    """What ships first, then a line a family, then recipes: one screen."""
    here = [w for w in registry.records().values() if w.embedded]
    width = max(len(w.name) for w in here)
    yield "weights that ship with the package: zoo show NAME, zoo eval NAME, zoo info NAME"
    for w in here:
        yield f"  {w.name:<{width}} {_best(w)}" + ("" if w.folder else f", not here: pip install {w.distribution}")
    yield "families"
    recipes = recipe.list_recipes()
    for family in registry.families():
        facts = registry.facts(family)
        more = sum(not w.embedded for w in facts.weights)
        own = sum(name.startswith(f"{family}/") for name in recipes)
        yield f"  {family:<9} {len(facts.archs):>2} archs, {more:>2} weights to fetch, {own:>2} recipes  {facts.title}"
    for name in (name for name in recipes if "/" not in name):
        yield f"your own pictures: zoo fit {name} --data FOLDER"
    first = next(iter(registry.families()))
    yield f"all: zoo ls --all; {len(recipes)} recipes: zoo ls --recipes; one family's: zoo ls '{first}*'"


def _best(w: registry.Weights) -> str:
    """The first figure of weights, and what it was measured on, in a few words."""
    if not w.metrics:
        return ""
    best = w.metrics[0]
    return f"{' '.join(filter(None, (best.name, f'{best.value:g}', best.unit)))} on {best.data.partition(',')[0]}"


def _figures(w: registry.Weights) -> str:
    figure = f"{_best(w)}, " if w.metrics else ""
    size = f"{w.size / 1e6:.1f} MB, " if w.size else ""
    classifier = w.arch in registry.facts(registry.family_of(w.arch)).starts  # its encoder is all that was pretrained
    encoder = "encoder only, " if w.kind == "encoder" and not classifier else ""
    return f"{figure}{encoder}{size}{w.licence}{', ' * w.embedded}{_ships(w)}"


def _ships(w: registry.Weights) -> str:
    """Which distribution brings weights that ship; "" for those that are fetched."""
    if w.distribution != registry.MORE:
        return "in the package" * w.embedded
    return f"in {w.distribution}" + ("" if w.folder else f", not installed: pip install {w.distribution}")


def info(argv: list[str]) -> None:
    parser = new_parser("info", "All that is known of an arch, weights, a recipe, a run or a checkpoint folder.")
    parser.add_argument("name", help=f"an arch, a recipe or its file, {MODEL}")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    row = _about(args.name)
    if args.json:
        print(json.dumps(_finite(row), ensure_ascii=False))
        return
    metrics, commands = row.pop("metrics", ()), row.pop("next", ())
    if isinstance(row.get("trained"), dict):  # what the recipe stated is there for `stale`
        row["trained"] = {key: value for key, value in row["trained"].items() if key != "stated"}
    row = {key: value for key, value in (_in_words(row) if "run" in row else row).items() if value not in EMPTY}
    width = max(11, *map(len, row))
    for key, value in row.items():
        print(f"{key:<{width}} {_line(key, value)}")
    for m in map(registry.metric_of, metrics):
        at = f", at commit {m.commit[:12]}" if m.commit else ""
        mark = " (stale)" if str(row.get("stale", "")).startswith("yes") else ""
        print(f"{'metric':<{width}} {m.name} {m} on {m.where}: {m.protocol}{at}{mark}")
    for command in commands:
        print(f"{'next':<{width}} {command}")


def _line(key: str, value: Any) -> str:
    if isinstance(value, dict):
        value = [f"{k}={v}" for k, v in value.items()]
    if key in ("classes", "recipes") and len(value) > 20:
        value = [f"{len(value)}: {', '.join(value[:5])}, …"]
    if not isinstance(value, tuple | list):
        return str(value)
    return ("; " if any(", " in str(each) for each in value) else ", ").join(map(str, value))


def _about(name: str) -> dict[str, Any]:
    """What is known of a name or place; "next" are commands that go on from there.

    Raises:
        ValueError: it is nothing that is known; the nearest names of all kinds are told.
    """
    place = Path(name)
    if name in registry.archs():
        return _about_arch(name)
    if name in registry.records():
        record = registry.weights_info(name)
        folder = record.folder if record.embedded else None
        stale = _stale(_config(folder)) if folder else None
        row = asdict(record) | {"classes": record.classes, "ships": _ships(record), "stale": stale}
        del row["class_names"]
        return row | {"next": _uses(name)}
    if name in recipe.list_recipes() or place.suffix in (".yaml", ".yml"):
        return _about_recipe(name)
    if name.startswith("hf://"):
        from zoo.hub.places import hub_folder

        return _about_folder(hub_folder(name)[0], name)
    if (place / "config.json").is_file():
        return _about_folder(place, name)
    if place.is_dir() or (place.suffix == ".ckpt" and place.is_file()):
        return _about_run(place)
    if "/" not in name and name.partition(".")[0] in registry.archs():
        registry.weights_info(name)  # which says what tags there are
    raise ValueError(
        f"no arch, weights, recipe, run or folder {name!r}{registry.suggest(name, [*_names(), *_runs()])}; "
        "`zoo ls --all` and `zoo runs` list them"
    )


def _names() -> list[str]:
    return [*registry.list_models(), *registry.list_weights(), *recipe.list_recipes()]


def _runs() -> list[str]:
    from zoo.report import history

    return list(map(str, history.find([RUNS]))) if any(RUNS.glob("*/*")) else []


def _about_arch(name: str) -> dict[str, Any]:
    uses = re.compile(rf"^\s*arch: {re.escape(name)}\s*(#.*)?$", re.MULTILINE)
    recipes = [r for r in recipe.list_recipes() if uses.search(recipe.recipe_path(r).read_text(encoding="utf-8"))]
    weights = registry.list_weights(f"{name}.*")
    row = {"arch": name, "family": registry.family_of(name), "summary": registry.summary(name)}
    following = [f"zoo info {weights[0]}"] if weights else []
    following.append(f"zoo fit {recipes[0]}" if recipes else f"zoo ls '{row['family']}/*'")
    return row | {"weights": weights, "recipes": recipes, "next": following}


def _about_recipe(name: str) -> dict[str, Any]:
    """What a recipe trains and on what, as it stands there."""
    from zoo.report import history

    path = recipe.recipe_path(name)
    said = recipe.read_yaml(path)
    flat, trainer = recipe.flat(said), said["trainer"]
    lines = path.read_text(encoding="utf-8").splitlines()
    typed = [re.split(r" {2,}", line.lstrip("# "))[0] for line in lines[1:4] if line.lstrip("# ").startswith("zoo fit")]
    expect = said.get("expect") or {}
    rate = {key: flat[f"model.{key}"] for key in ("lr", "base_lr", "weight_decay") if f"model.{key}" in flat}
    batch, steps = flat.get("data.batch_size"), trainer.get("accumulate_grad_batches", 1)
    expected = expect.get("value")
    figure = "not measured" if expected is None else f"{expect['metric']} {history.told(expect['metric'], expected)}"
    return {
        "recipe": name,
        "about": recipe.about(name) if lines and lines[0].startswith("#") else "",
        "trains": flat["model"],
        "arch": flat.get("model.arch"),
        "arch_args": {
            key.removeprefix("model.arch_args."): v for key, v in flat.items() if key.startswith("model.arch_args.")
        },
        "weights": flat.get("model.weights"),
        "data": f"{flat['data']} {flat.get('data.source', '')}".strip(),
        "image_size": flat.get("data.image_size"),
        "epochs": None if trainer.get("max_epochs") == -1 else trainer.get("max_epochs"),
        "steps": trainer.get("max_steps"),
        "batch": f"{batch} × {steps} accumulated" if steps != 1 else batch,
        "optimiser": rate,
        "expected": f"{figure} ({expect['about']})" if expect.get("about") else figure,
        "command": typed[0] if typed else f"zoo fit {name}",
        "next": [f"zoo validate {name}", f"zoo validate {name} --estimate", f"zoo cp {name} mine.yaml"],
    }


def _about_run(place: Path) -> dict[str, Any]:
    """What a run came to; of a folder of runs, the newest."""
    from zoo.report import history

    run = recipe.newest_run(place) or place
    try:
        (run, *others) = history.find([run])
    except ValueError as error:
        raise ValueError(
            f"{place} is neither a run nor a checkpoint folder; of pictures: zoo show MODEL {place}; "
            "`zoo runs` lists runs"
        ) from error
    if others:
        raise ValueError(f"{place} holds {1 + len(others)} runs; zoo runs {place} lists them")
    known = history.read(run)
    following = [f"zoo eval {run}", f"zoo predict {run} PICTURES -o out.csv", f"zoo export {run} -o FOLDER"]
    if known["checkpoint"] is None:
        following = []
    if known["status"] == "unfinished":
        following.insert(0, f"zoo fit --resume {run}")
    return known | {"next": following}


def _in_words(known: dict[str, Any]) -> dict[str, Any]:
    """What is known of a run, for people: figures with units, what is done of what was planned."""
    from zoo.report import history

    figure, epoch = known["figure"], known["best_epoch"]
    best = None if epoch is None else f"{history.told(figure, known['best'])} after {epoch} epoch{'s' * (epoch != 1)}"
    expect = known["expect"] or {}
    return {
        "run": known["run"],
        "status": ": ".join(filter(None, (known["status"], known["fault"]))),
        "recipe": known["recipe"],
        "differs": known["differs"],
        "data": known["data"],
        "samples": known["samples"],
        "classes": known["classes"],
        "epochs": history.progress(known).replace("/", " of "),
        "last": figure and f"{figure} {history.told(figure, known['last'])}",
        "best": best and f"{figure} {best}",
        "tested on": known["split"] and f"its {known['split']} split",
        "figures": {key: history.told(key, value) for key, value in known["figures"].items()},
        "expected": (expected := expect.get("value")) is not None
        and f"{expect['metric']} {history.told(expect['metric'], expected)} by the recipe as it stands",
        "seconds": known["seconds"],
        "checkpoint": known["checkpoint"],
    }


def _about_folder(folder: Path, name: str) -> dict[str, Any]:
    """What a checkpoint folder's config.json says."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        arch, args, weights = config["arch"], config["args"], config["weights"]
        row = {"folder": name, "arch": arch, "family": registry.archs().get(arch), "args": args}
        row |= {"sha256": weights["sha256"], "size": weights["size"]}
        record = registry.record_of(config) or registry.records().get(config.get("name") or "")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{name} holds no checkpoint of the zoo ({' '.join(str(error).split())} in config.json); of somebody "
            f"else's: zoo convert {name} ARCH -o FOLDER"
        ) from error
    row |= {key: config.get(key) for key in ("input", "classes", "parent", "trained", "version")}
    if not row["family"]:
        row["summary"] = "no family that is installed has this arch"
    elif not args:  # else input and classes tell more
        row["summary"] = registry.summary(arch)
    row["licence"] = config.get("licence") or (record.licence if record else "unknown")
    row["stale"] = _stale(config) if record else None
    row["metrics"] = registry.whole_figures(config)
    return row | {
        "next": _uses(name, " PICTURES") + ([] if name.startswith("hf://") else [f"zoo push {name} ORG/NAME"])
    }


def _config(folder: Path) -> dict[str, Any]:
    """What a folder's config.json says; nothing of one that cannot be read, which `zoo verify` refuses."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _stale(config: dict[str, Any]) -> str:
    """Whether the recipe of weights says something else today than it did, in words."""
    trained = config.get("trained")
    name, stated = (trained.get("recipe"), trained.get("stated")) if isinstance(trained, dict) else (None, None)
    if not isinstance(name, str) or not isinstance(stated, dict):
        return "not known: the record keeps no recipe to compare with today's"
    try:
        today = recipe.flat(recipe.read_yaml(recipe.recipe_path(name)))
    except (OSError, ValueError):
        return f"yes: there is no recipe {name} today"
    other = [k for k in {**stated, **today} if stated.get(k, ...) != today.get(k, ...) and not k.startswith("expect")]
    return f"yes: {name} has another {', '.join(other)} today" if other else f"no: {name} says today what it said then"


def _uses(name: str, source: str = "") -> list[str]:
    """What one does with weights, wherever they are; a source for those that may fit no sample which ships."""
    return [f"zoo show {name}{source} -o shown.png", f"zoo eval {name}{source}", f"zoo export {name} -o FOLDER"]


def runs(argv: list[str]) -> None:
    parser = new_parser("runs", "What runs have come to; with -o, the curves of their losses and figures.")
    parser.add_argument("places", nargs="*", type=Path, default=[RUNS], help="runs, or folders of them (default: runs)")
    parser.add_argument("--sort", default="newest", help="newest (default), recipe, data, epochs, last, best, seconds")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.png", help="draw the curves of these runs")
    parser.add_argument("--force", action="store_true", help="replace an output that is there")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    from zoo.report import history

    if args.output is not None:
        check_output(args.output, args.force, PICTURES)
    found = history.ordered([history.read(run) for run in history.find(args.places)], args.sort)
    if args.json:
        print(json.dumps(_finite(found), ensure_ascii=False))
    elif args.output is None:
        print(history.table(found))
    if args.output is not None:
        path = history.curves(found, args.output)
        print(path, file=sys.stderr if args.json else sys.stdout)


def _finite(value: Any) -> Any:
    """A value for JSON, which has no word for a figure that is not finite: None stands there."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return list(map(_finite, value))
    return None if isinstance(value, float) and not math.isfinite(value) else value


def cp(argv: list[str]) -> None:
    parser = new_parser("cp", "Copy a recipe to make it one's own.")
    parser.add_argument("recipe")
    parser.add_argument("file", type=Path)
    args = parser.parse_args(argv)
    recipe.recipe_path(args.recipe)  # or says that there is none
    check_place(args.file, args.file.parent, "FILE")
    print(recipe.copy_recipe(args.recipe, args.file))
