"""What a model makes of all samples of a source, as a table: `predict` classes, `embed` features, `codes`.

N samples · B of a batch · O classes · D numbers of a feature · T tokens that belong to no place
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo import __version__
from zoo.data.classes import count_classes, names_of
from zoo.data.mapping import BATCH, Batch, Listing, listed, mapped
from zoo.data.transforms import transform
from zoo.data.writing import Columns, check_format, writing
from zoo.metrics.probes import pooled_features
from zoo.nn.checks import check_least
from zoo.nn.frozen import fingerprint
from zoo.nn.protocols import Classifies, HasCodes, HasFeatures, HasTokens, Network
from zoo.nn.vit import ViT
from zoo.redact import redact
from zoo.report.running import running

PREDICTIONS, FEATURES = (".csv", ".json", ".parquet"), (".parquet", ".npy")  # formats of tables
POOLS = ("mean", "cls", "none")
FORMAT = "latentzoo features 1"
DIGITS = 6  # of a score
Labels = Callable[[Batch], dict[str, list[str | None]]]


def predict(
    model: Network,
    sources: str | Sequence[str],
    output: Path,
    top_k: int = 1,
    split: str | None = None,
    bad: str = "refuse",
    reading: Mapping[str, Any] | None = None,
    name: str = "",
    **how: Any,
) -> int:
    """Write the class of each sample of a source, by name, with its score: how likely the model holds it to be.

    Columns: `path`, `class`, `score`, of the next likely ones `class_2`, `score_2`, …; `label`, where the source has
    classes. In JSON the likely ones stand in a list `top` besides.

    Args:
        model: a classifier, on any device.
        sources, split, reading: as `zoo.data.mapping.listed`.
        output: a .csv, .json or .parquet file.
        top_k: so many classes of each sample.
        bad: as `zoo.data.mapping.mapped`.
        name: of the weights, for whoever reads the file; by default what the model remembers.
        how: device, precision, batch_size.

    Returns:
        How many samples were predicted.

    Raises:
        ValueError: no classifier, more classes than it has, another format, nothing to read or damaged.
        OSError: the disk is full; what was there before is untouched.
    """
    if not isinstance(model, Classifies):
        raise ValueError(
            f"{_name(model)} tells no classes apart; `zoo embed` writes its features, `zoo fit finetune_folder` makes "
            "a classifier of one's own pictures"
        )
    count = count_classes(model)
    check_least(1, top_k=top_k)
    if top_k > count:
        raise ValueError(f"--top-k {top_k}, allowed 1 to {count}, the classes of {_name(model)}")
    check_format(output, PREDICTIONS)
    classes = names_of(model)
    if not classes:
        classes = [f"class_{c}" for c in range(count)]
        warnings.warn(
            f"{_name(model)} has no names of its {count} classes; they are called class_0 to class_{count - 1}",
            stacklevel=2,
        )
    listing = listed(sources, model, split, reading)
    labels = _labels(listing)

    def rows(batch: Batch) -> Columns:
        scores, found = model(batch.samples).float().softmax(-1).topk(top_k)  # (B, top_k) each
        columns: dict[str, list[Any]] = {"path": batch.names}
        for k in range(top_k):
            rank = f"_{k + 1}" if k else ""
            columns[f"class{rank}"] = [classes[c] for c in found[:, k].tolist()]
            columns[f"score{rank}"] = [round(score, DIGITS) for score in scores[:, k].tolist()]
        if top_k > 1 and output.suffix.lower() == ".json":
            columns = {name: columns[name] for name in ("path", "class", "score")} | {
                "top": [
                    [{"class": classes[c], "score": round(score, DIGITS)} for c, score in zip(*pair)]
                    for pair in zip(found.tolist(), scores.tolist())
                ]
            }
        return columns | labels(batch)

    about = _about(model, name, listing, split, reading) | {"format": "latentzoo predictions 1", "classes": classes}
    return _write(model, listing, output, rows, about, bad, **how)


def embed(
    model: Network,
    sources: str | Sequence[str],
    output: Path,
    pool: str = "mean",
    layer: int | None = None,
    split: str | None = None,
    bad: str = "refuse",
    reading: Mapping[str, Any] | None = None,
    name: str = "",
    **how: Any,
) -> int:
    """Write the features of each sample of a source.

    Columns: `path`, `label` (its class by name, where the source has any), `embedding`, float32. Of a .npy file, which
    holds the embeddings alone, FILE.npy.json has the others. The file says which model made it of what.

    Args:
        model: one that HasFeatures, on any device.
        sources, split, reading: as `zoo.data.mapping.listed`.
        output: a .parquet or .npy file.
        pool: "mean" of the tokens that belong to a place, or of a map's places, (D,); "cls", the first class token,
            (D,); "none", all that there is: tokens (T + N, D), class tokens first, a map (D, h, w) or a vector.
        layer: of a vision transformer, the block after which tokens are taken, as they come, counted from 0 or from
            the end, -1; None takes what the model gives as features.
        bad: as `zoo.data.mapping.mapped`.
        name: of the weights, for whoever reads the file; by default what the model remembers.
        how: device, precision, batch_size.

    Returns:
        How many samples were embedded.

    Raises:
        ValueError: a model without features, layers or class tokens, another format, nothing to read or damaged.
        OSError: the disk is full; what was there before is untouched.
    """
    check_format(output, FEATURES)
    features = features_by(model, pool, layer)
    listing = listed(sources, model, split, reading)
    labels = _labels(listing, always=True)
    about = _about(model, name, listing, split, reading) | {"format": FORMAT, "layer": layer, "pool": pool}

    def rows(batch: Batch) -> Columns:
        x = features(batch.samples).float()  # (B, …)
        about["shape"] = list(x.shape[1:])
        return {"path": batch.names, **labels(batch), "embedding": x}

    return _write(model, listing, output, rows, about, bad, **how)


def codes(
    model: Network,
    sources: str | Sequence[str],
    output: Path,
    split: str | None = None,
    bad: str = "refuse",
    reading: Mapping[str, Any] | None = None,
    name: str = "",
    **how: Any,
) -> int:
    """Write the codes of each sample of a source, int32, for models whose latents are discrete.

    Columns: `path`, `label`, `codes`; the file says their shape and of how many they are, as `embed`'s does.

    Args:
        model: one that HasCodes, on any device.
        sources, split, bad, reading, name, how: as `embed`'s.
        output: a .parquet or .npy file.

    Returns:
        How many samples were encoded.

    Raises:
        ValueError: a model without codes, another format, nothing to read or damaged.
        OSError: the disk is full; what was there before is untouched.
    """
    if not isinstance(model, HasCodes) or not model.count_codes():
        raise ValueError(f"{_name(model)} has no codes; `zoo latents` writes latents, `zoo embed` features")
    check_format(output, FEATURES)
    listing = listed(sources, model, split, reading)
    labels = _labels(listing, always=True)
    about = _about(model, name, listing, split, reading) | {"format": "latentzoo codes 1", "codes": model.count_codes()}

    def rows(batch: Batch) -> Columns:
        z = model.encode(batch.samples).int()  # (B, …)
        about["shape"] = list(z.shape[1:])
        return {"path": batch.names, **labels(batch), "codes": z}

    return _write(model, listing, output, rows, about, bad, **how)


def features_by(model: Network, pool: str = "mean", layer: int | None = None) -> Callable[[Tensor], Tensor]:
    """What makes features of samples (B, …); see `embed`.

    Raises:
        ValueError: a model without features, layers or class tokens; a layer that is not there.
    """
    if not isinstance(model, HasFeatures):
        raise ValueError(f"{_name(model)} has no features; `zoo info` says what it is for")
    if pool not in POOLS:
        raise ValueError(f"--pool {pool}, allowed {', '.join(POOLS)}")
    prefix = model.num_cls_tokens if isinstance(model, HasTokens) else 0
    if pool == "cls" and not prefix:
        raise ValueError(f"--pool cls: {_name(model)} has no class token; take --pool mean or none")
    if layer is None:

        def features(x: Tensor) -> Tensor:
            if pool == "mean":
                return pooled_features(model, x)  # (B, D)
            whole = model.forward_features(x)  # (B, T + N, D), (B, D, h, w) or (B, D)
            return whole[:, 0] if pool == "cls" else whole  # (B, D) or as it is

        return features
    if not isinstance(model, ViT):
        raise ValueError(f"--layer {layer}: {_name(model)} has no layers to choose from; leave it out")
    depth = len(model.blocks)
    if not -depth <= layer < depth:
        raise ValueError(f"--layer {layer}, allowed {-depth} to {depth - 1}, {_name(model)} has {depth} blocks")
    trunk, block = model, model.blocks[layer]

    def after(x: Tensor) -> Tensor:
        held: list[Tensor] = []
        hook = block.register_forward_hook(lambda module, given, made: held.append(made))
        try:
            trunk.forward_features(x)
        finally:
            hook.remove()
        (tokens,) = held  # (B, T + N, D)
        return {"cls": lambda: tokens[:, 0], "none": lambda: tokens, "mean": lambda: tokens[:, prefix:].mean(1)}[pool]()

    return after


def _labels(listing: Listing, always: bool = False) -> Labels:
    """What gives the column of labels, by name; none where nothing is labelled, unless always."""

    def labels(batch: Batch) -> dict[str, list[str | None]]:
        if not listing.labelled and not always:
            return {}
        return {"label": [listing.classes[y] if y >= 0 else None for y in batch.labels.tolist()]}

    return labels


def _about(
    model: Network, name: str, listing: Listing, split: str | None, reading: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What a table says of how it came about."""
    about: dict[str, Any] = {
        "model": redact(name or _name(model)),
        "arch": model.zoo_config["arch"],
        "fingerprint": fingerprint(model),
        "source": listing.source,
        "split": split,
        "reading": {key: value for key, value in (reading or {}).items() if value is not None},
        "version": __version__,
    }
    if model.takes.kind != "latent":
        read = transform(model, value_range=about["reading"].get("value_range"))
        about["transform"] = {"channels": read.channels, "size": list(read.size), "crop_pct": read.crop_pct}
    return about


def _name(model: Network) -> str:
    name: str = model.zoo_config.get("name", model.zoo_config["arch"])
    return name


@torch.no_grad()
def _write(
    model: Network,
    listing: Listing,
    output: Path,
    rows: Callable[[Batch], Columns],
    about: dict[str, Any],
    bad: str,
    device: str = "auto",
    precision: str = "32",
    batch_size: int | None = None,
) -> int:
    check_least(1, batch_size=batch_size)
    batch_size, count = batch_size or BATCH.get(model.takes.kind, 64), 0
    with running(model.eval(), device, precision) as place, writing(output, about) as write:
        for batch in mapped(listing, place, batch_size, bad):
            write(rows(batch))
            count += len(batch.names)
    return count
