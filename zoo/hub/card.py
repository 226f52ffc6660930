"""The words that travel with weights: the README of a checkpoint folder, and MODEL_CARD.md.

`python -m zoo.hub` writes MODEL_CARD.md and the cards of the embedded checkpoints again; a test compares.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from zoo import registry
from zoo.hub.files import CARD, PICTURE, read_config
from zoo.hub.make import model_class
from zoo.hub.places import embedded_folder
from zoo.nn.protocols import PIXELS, Classifies, HasFeatures, Input, Samples, can
from zoo.registry import Metric, Weights

MADE = "written by `python -m zoo.hub`"
PLACEHOLDER = "hf://ORG/NAME"  # in the card of a folder that is not published yet
TASKS = {"image": "image", "clip": "video"}  # kind of input -> how the Hub's names of tasks begin
NAMED = {"image": "pictures", "clip": "videos"}  # kind of input -> what a data set of them holds
TYPES = {"acc": "accuracy", "knn": "accuracy"}  # last name of a figure -> the Hub's name of the metric
WORDS = {  # key of a figure -> what a reader calls it, where the key with spaces would not say it
    "accuracy_top5": "top-5 accuracy",
    "accuracy_15_eigenvectors": "accuracy of 15 eigenvectors a class",
    "fine_tuned_accuracy": "accuracy when fine-tuned",
    "linear_probe_accuracy": "accuracy of a linear probe",
    "knn_accuracy": "accuracy of 20 nearest neighbours",
    **{"psnr": "PSNR", "ssim": "SSIM", "l1": "mean absolute error", "lpips": "LPIPS", "rfid": "rFID", "fid": "FID"},
    "error": "squared error over variance",
    **{"usage": "codes in use", "perplexity": "perplexity of the codes"},
    **{"infom": "InfoM", "infoe": "InfoE", "infoc": "InfoC"},
    "read_as_asked": "drawn images read as what was asked for",
    "read_as_asked_guided": "the same under guidance",
}
SPLITS = {"val": "validation"}
CLASSES = 20  # that a card names; of more, the first few
LICENCES = (  # that the Hub has names for: docs/hub/repositories-licenses.md of huggingface/hub-docs at 008d54d
    *("afl-3.0", "agpl-3.0", "apache-2.0", "artistic-2.0", "bigcode-openrail-m", "bigscience-bloom-rail-1.0"),
    *("bigscience-openrail-m", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "bsl-1.0", "c-uda"),
    *("cc", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0"),
    *("cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0"),
    *("cc-by-nd-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0"),
    *("cdla-sharing-1.0", "creativeml-openrail-m", "deepfloyd-if-license", "ecl-2.0", "epl-1.0", "epl-2.0"),
    *("etalab-2.0", "eupl-1.1", "gemma", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "isc", "lgpl", "lgpl-2.1"),
    *("lgpl-3.0", "lgpl-lr", "llama2", "lppl-1.3c", "mit", "mpl-2.0", "ms-pl", "ncsa", "odbl", "odc-by"),
    *("ofl-1.1", "openrail", "openrail++", "osl-3.0", "other", "pddl", "postgresql", "unknown", "unlicense"),
    *("wtfpl", "zlib"),
)
VALUES = {"latent": "normalised latents"}  # kind of input -> its values, where "activations" would not say it


def task(arch: str) -> str:
    """The Hub's name for what a model does, by what its class takes and can do."""
    model = model_class(arch)
    what = TASKS.get(model.kind)
    if can(model, Samples):
        return "unconditional-image-generation"
    if can(model, Classifies) and what is not None:
        return f"{what}-classification"
    return "image-feature-extraction" if what == "image" else "feature-extraction"


def describe_input(takes: Input) -> dict[str, Any]:
    """What config.json says of a model's input."""
    limits = None if takes.range is None else list(takes.range)
    return {"kind": takes.kind, "shape": list(takes.shape), "layout": takes.layout, "range": limits}


def licence(name: str) -> dict[str, Any]:
    """What a card's front matter says of a licence: the Hub's own name, or `other` and SPDX's.

    Raises:
        ValueError: neither the Hub nor SPDX knows it.
    """
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    if name.lower() in LICENCES:
        return _licence(name)
    try:
        spdx = canonicalize_license_expression(name)
    except InvalidLicenseExpression as error:
        near = registry.suggest(name.lower(), LICENCES)
        raise ValueError(
            f"no licence {name!r}{near}; give an identifier of SPDX or of the Hub: mit, cc-by-4.0"
        ) from error
    return _licence(re.sub("-(only|or-later)$", "", spdx))


def folder_card(config: dict[str, Any]) -> str:
    """A Hub model card for a checkpoint folder: front matter with evaluation results, then `card.md` and the facts.

    Args:
        config: the folder's config.json; where it is a record, or names one, the record's facts are told too.
    """
    from huggingface_hub import EvalResult, ModelCardData

    arch = config["arch"]
    family = registry.family_of(arch)
    facts = registry.facts(family)
    record = registry.record_of(config) or registry.records().get(config.get("name", ""))
    metrics = record.metrics if record else tuple(map(registry.metric_of, config.get("metrics", ())))
    trained = config.get("trained") or {}
    title = record.name if record else arch
    data = record.data if record else _hub_id(trained.get("data"))
    parent = config.get("parent") or ""
    front = ModelCardData(
        model_name=title,
        library_name="latentzoo",
        pipeline_tag=task(arch),
        datasets=[data] if data else None,
        base_model=parent.removeprefix("hf://").partition("@")[0] if parent.startswith("hf://") else None,
        tags=[family, "pytorch", "lightning"],
        eval_results=[
            EvalResult(
                task_type=task(arch),
                dataset_type=m.data if record else data or "imagefolder",
                dataset_name=m.data,
                dataset_split=SPLITS.get(split, split) or SPLITS.get(m.split, m.split) or None,
                metric_type=TYPES.get(kind, kind),
                metric_value=m.value,
                metric_name=m.name,
            )
            for m in metrics
            for split, _, kind in [m.name.rpartition("/")]
        ]
        or None,
        **_licence(record.licence if record else config.get("licence") or "unknown"),
    )
    body = [
        f"---\n{front.to_yaml()}\n---",
        f"# {title}",
        f"{registry.summary(arch)}. {facts.paper}.{_made_with(config['args'])}",
        *([f"![What `zoo show` draws of it]({PICTURE})"] if config.get("picture") == PICTURE else []),
        f"```python\n{snippet(config)}\n```",
        warning(family),
    ]
    if trained:
        body.append(f"## Trained\n{_trained(trained, config)}")
    if classes := config.get("classes"):
        body.append(f"## Classes\n{_classes(classes)}")
    if metrics:
        body.append("## Measured\n" + table(("metric", "value", "data", "protocol"), map(_metric_row, metrics)))
    if record:
        body.append("## Facts\n" + table(("", ""), _facts(record)))
    return "\n\n".join(body) + "\n"


def _licence(name: str) -> dict[str, Any]:
    name = name.lower()
    return {"license": name} if name in LICENCES else {"license": "other", "license_name": name}


def _hub_id(place: str | None) -> str | None:
    """A data set of the Hub; None of what ships here, of torchvision's and of what is made as it goes."""
    return place if place and place.count("/") == 1 and not place.startswith("samples/") else None


def _trained(trained: dict[str, Any], config: dict[str, Any]) -> str:
    """What is told of a run: its recipe, its data, what it began from."""
    differs = ", ".join(f"`{key}={value}`" for key, value in trained.get("differs", {}).items())
    recipe = f"By the recipe `{trained['recipe']}`" if trained.get("recipe") else "By a recipe of one's own"
    rows = [f"{recipe}{f' with {differs}' if differs else ''}, on {data_name(trained, config)}."]
    held = {split: count for split, count in trained.get("samples", {}).items() if split != "train"}
    if trained.get("samples", {}).get("train") and held:
        counts = ", ".join(f"{count:,} {split}" for split, count in held.items())
        rows.append(f"{trained['samples']['train']:,} of them were trained on; not trained on: {counts}.")
    if parent := config.get("parent"):
        record = registry.records().get(parent)
        terms = f", which are under {record.licence}; their data: {record.data_terms}" if record else ""
        rows.append(f"It began from the weights {parent}{terms}.")
    return " ".join(rows)


def data_name(trained: dict[str, Any], config: dict[str, Any]) -> str:
    """The name of a run's data, or of a folder that nobody else has, what is in it."""
    if trained.get("data"):
        return str(trained["data"])
    what = NAMED.get(config["input"]["kind"], "samples")
    count = sum(trained.get("samples", {}).values())
    classes = len(config.get("classes") or ())
    return f"a folder of {f'{count:,} ' if count else ''}{what}{f' in {classes} classes' if classes else ''}"


def _classes(names: list[str]) -> str:
    shown = names if len(names) <= CLASSES else names[:CLASSES]
    more = f", and {len(names) - len(shown)} more in config.json" if len(shown) < len(names) else ""
    return f"{len(names)}, in the order of the outputs: {', '.join(shown)}{more}."


def model_card() -> str:
    """MODEL_CARD.md: one row a record."""
    parts = [
        "# Model card of the zoo",
        f"<!-- {MADE}; edit facts.py, or release weights -->",
        "One row a checkpoint. What goes in and comes out, what not to use it for, and how each figure was measured "
        "stands on the page of its family; `zoo info NAME` says all that is known. Images enter as float pixels in "
        "[0, 1], (B, C, H, W), clips as (B, F, C, H, W); each model normalises inside, with buffers that travel with "
        "its weights.",
        "A pin is the sha256 of the file, or the commit of its repository; where a publisher states neither, it is "
        "taken when the file is first loaded, and held to from then on ([weights](docs/weights.md)). Figures of files "
        "that others publish are as their publishers state them.",
    ]
    for family in (f.name for f in registry.families().values() if f.ours):
        facts = registry.facts(family)
        parts.append(f"## [{facts.title}]({page(family).as_posix()})")
        head = ("weights", "figure", "size", "licence", "data", "place", "pin")
        parts.append(f"<!-- records: {MADE} -->\n{table(head, map(_row, facts.weights))}\n<!-- /records -->")
    return "\n\n".join(parts) + "\n"


def page(family: str) -> Path:
    """The page of a family of the house, from the top of the checkout."""
    return Path("docs", "families", f"{family}.md")


def warning(family: str) -> str:
    """A family's card.md; "" where it has none."""
    file = registry.families()[family].folder / "card.md"
    return file.read_text(encoding="utf-8").strip() if file.is_file() else ""


def headline(metric: Metric) -> str:
    """A figure in a few words, with what it was measured on."""
    return f"{words(metric.name)} {metric.value:g} {metric.unit}".strip() + f" ({metric.data})"


def words(name: str) -> str:
    """What a figure is called where nobody knows its key."""
    return WORDS.get(name, name.replace("_", " "))


def _row(w: Weights) -> tuple[str, ...]:
    return (
        f"`{w.name}`" + (f" ({w.kind})" if w.kind != "full" else ""),
        headline(w.metrics[0]) if w.metrics else "",
        f"{w.size / 1e6:.2f} MB" if w.size else "",
        w.licence,
        w.data_terms,
        place(w),
        _pin(w),
    )


def place(w: Weights) -> str:
    """Where a file is."""
    if w.embedded:
        return "ships"
    return f"[{urlsplit(w.url).netloc}]({w.url})" if w.url else f"`hf://{w.repo}`"


def _pin(w: Weights) -> str:
    if w.sha256:
        return f"`{w.sha256[:12]}`"
    return f"`@{w.revision[:12]}`" if w.revision else "at first load"


def _facts(w: Weights) -> list[tuple[str, str]]:
    rows = {
        "licence of the weights": w.licence,
        "training data": f"{w.data or '?'}, {w.data_terms}",
        "recipe": w.recipe and f"`{w.recipe}`",
        "command": w.command and f"`{w.command}`",
        "hardware": w.hardware,
        "wall time": w.wall_time,
        "commit": w.commit,
        "parent": w.parent,
        "kind": w.kind,
        "notes": w.notes,
    }
    return [(k, v) for k, v in rows.items() if v]


def _metric_row(m: Metric) -> tuple[str, ...]:
    return m.name, str(m), m.where, m.protocol


def _made_with(args: dict[str, Any]) -> str:
    """What these weights have otherwise than the arch by default."""
    differing = ", ".join(f"`{k}={v}`" for k, v in args.items() if v not in (None, {}, []))
    return f" That is the arch; these weights have {differing}." if differing else ""


def snippet(config: dict[str, Any]) -> str:
    """Lines that load a model and use it, and run as they stand."""
    model, stated = model_class(config["arch"]), config["input"]
    shape = ", ".join(map(str, stated["shape"]))
    lines = ["import torch", "import zoo", ""]
    lines.append(f'model = zoo.load("{PLACEHOLDER}")  # or this folder; hashed and loaded strictly')
    if can(model, Samples):
        return "\n".join([*lines, "drawn = model.sample(torch.tensor([-1]))  # labels (B,): -1 draws any class"])
    kind, pixels = stated["kind"], stated["range"] == list(PIXELS)
    values = "float pixels in [0, 1]" if pixels else VALUES.get(kind, f"{kind}s")
    read = {"image": 'model.preprocess("picture.jpg") → ', "clip": 'model.preprocess("video.mp4") → '}.get(kind, "")
    lines.append(f"{kind}s = torch.{'rand' if pixels else 'randn'}(1, {shape})  # yours: {read}(B, {shape}), {values}")
    if can(model, Classifies):
        lines.append(f"scores = model({kind}s).softmax(-1)  # (B, classes)")
        if config.get("classes"):
            lines.append('print(model.zoo_config["classes"][scores[0].argmax()], scores[0].max())')
    else:
        what = "forward_features" if can(model, HasFeatures) else "encode"
        lines.append(f"{'features' if can(model, HasFeatures) else 'latents'} = model.{what}({kind}s)")
    return "\n".join(lines)


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Rows of Markdown."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def refresh() -> dict[Path, str]:
    """What MODEL_CARD.md and the cards of the embedded checkpoints should say, by file."""
    texts = {Path("MODEL_CARD.md"): model_card()}
    for record in registry.records().values():
        if record.embedded and registry.home(record.arch).ours:
            folder = embedded_folder(record)
            texts[folder / CARD] = folder_card(read_config(folder))
    return texts
