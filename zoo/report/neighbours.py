"""`zoo similar`: which pictures of a file of features are nearest to others, by the cosine of the features.

N pictures · Q queries · D numbers of a feature · K neighbours
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from zoo import hub
from zoo.data import readers
from zoo.data.mapping import BATCH, listed, mapped
from zoo.data.pictures import decode, suffixes
from zoo.data.writing import KEY, beside
from zoo.nn.checks import check_least
from zoo.nn.frozen import fingerprint
from zoo.nn.protocols import Network
from zoo.report import plots
from zoo.report.running import running
from zoo.report.tables import FORMAT, features_by

ROWS = 65_536  # of features that are compared at a time
SIDE = 256  # px of the shorter side of a picture that is drawn, at most
LETTERS = 28  # of a name that is drawn, at most


@dataclass(frozen=True)
class Features:
    """A file that `zoo embed` wrote, unread.

    Args:
        about: what it says of itself.
        chunks: (n, D) float32 each, in the order of the rows.
        rows: numbers of rows → names and labels, None where there is none.
    """

    file: Path
    about: dict[str, Any]
    chunks: Callable[[], Iterator[np.ndarray]]
    rows: Callable[[Sequence[int]], list[tuple[str, str | None]]]


class Neighbour(NamedTuple):
    """A picture like another: what it is called, the cosine of their features, its class."""

    path: str
    similarity: float
    label: str | None


def similar(
    file: Path, queries: Sequence[str], count: int = 8, model: str | None = None, **how: Any
) -> list[list[Neighbour]]:
    """The pictures of a file of features that are nearest to each query, the nearest first: exact, none is left out.

    Args:
        file: what `zoo embed` wrote.
        queries: pictures; they are read and embedded as those of the file were.
        count: neighbours of each.
        model: where the model lies now that the file was written by; another is refused.
        how: device, precision, batch_size.

    Raises:
        ValueError: no file of features, tokens instead of features, or another model.
        FileNotFoundError: no such file, model or query.
    """
    check_least(1, count=count)
    features = read(file)
    network = _model(features, model)
    embedded = _embedded(network, features, queries, **how)  # (Q, D)
    scores, places = nearest(features.chunks(), embedded, count)  # (Q, K) each
    return [
        [Neighbour(path, round(s, 6), label) for s, (path, label) in zip(some.tolist(), features.rows(row.tolist()))]
        for some, row in zip(scores, places)
    ]


def nearest(chunks: Iterator[np.ndarray], queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest cosines of queries (Q, D) with rows of chunks (n, D), and which rows these are, (Q, K) each.

    K is `count`, or N where there are fewer rows.
    """
    queries = F.normalize(queries.float(), dim=1)  # (Q, D)
    scores, places = queries.new_empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.int64)
    at = 0
    for chunk in chunks:
        rows = F.normalize(torch.from_numpy(np.array(chunk, np.float32)), dim=1)  # (n, D)
        scores = torch.cat([scores, queries @ rows.T], 1)  # (Q, K + n)
        here = torch.arange(at, at + len(rows)).expand(len(queries), -1)  # (Q, n)
        places = torch.cat([places, here], 1)  # (Q, K + n)
        scores, order = scores.topk(min(count, scores.shape[1]))  # (Q, K) each
        places, at = places.gather(1, order), at + len(rows)  # (Q, K)
    return scores, places


def read(file: Path) -> Features:
    """A file of features, .parquet, or .npy with what stands beside it.

    Raises:
        FileNotFoundError: it is not there, or what stands beside it is not.
        ValueError: it holds no features, or tokens of each picture instead of one feature.
    """
    if not file.is_file():
        raise FileNotFoundError(f"no file {file}; `zoo embed MODEL SOURCE -o {file}` writes one")
    features = _npy(file) if file.suffix.lower() == ".npy" else _parquet(file)
    if features.about.get("format") != FORMAT:
        raise ValueError(f"{file} holds no features of `zoo embed`; write some with `zoo embed MODEL SOURCE -o FILE`")
    if len(features.about["shape"]) != 1:
        shape = "×".join(map(str, features.about["shape"]))
        raise ValueError(f"{file} holds {shape} numbers of each picture; embed them with --pool mean or cls")
    return features


def _parquet(file: Path) -> Features:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        schema = parquet.read_schema(file)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{file} is no parquet file, or a damaged one ({error}); write it again") from error
    about = json.loads((schema.metadata or {}).get(KEY.encode(), b"{}"))

    def chunks() -> Iterator[np.ndarray]:
        with parquet.ParquetFile(file) as opened:
            for batch in opened.iter_batches(ROWS, columns=["embedding"]):
                column = batch.column(0)
                yield column.flatten().to_numpy().reshape(len(column), -1)  # (n, D)

    def rows(places: Sequence[int]) -> list[tuple[str, str | None]]:
        table = parquet.read_table(file, columns=["path", "label"]).take(places)
        return list(zip(table["path"].to_pylist(), table["label"].to_pylist()))

    return Features(file, about, chunks, rows)


def _npy(file: Path) -> Features:
    said = beside(file)
    if not said.is_file():
        raise FileNotFoundError(f"{file} has no {said.name} beside it, which says what it holds; write it again")
    about = json.loads(said.read_text(encoding="utf-8"))
    array = np.load(file, mmap_mode="r", allow_pickle=False)
    paths, labels = about.pop("path", ()), about.pop("label", ())
    if len(array) != len(paths):
        raise ValueError(f"{file} holds {len(array)} rows, {said.name} {len(paths)}; write both again")

    def chunks() -> Iterator[np.ndarray]:
        for at in range(0, len(array), ROWS):
            yield np.array(array[at : at + ROWS])  # (n, D)

    return Features(file, about, chunks, lambda places: [(paths[i], labels[i]) for i in places])


def _model(features: Features, name: str | None) -> Network:
    """The model that wrote a file."""
    stated, wanted = features.about["model"], features.about["fingerprint"]
    try:
        model = hub.load(name or stated)
    except (OSError, ValueError) as error:
        if name is not None:
            raise
        raise ValueError(
            f"{error}. {features.file} was written by {stated}; say with --model where it is now"
        ) from error
    if (found := fingerprint(model)) != wanted:
        raise ValueError(
            f"{features.file} was written by {stated} with the fingerprint {wanted[:12]}, {name or stated} has "
            f"{found[:12]}; give that model with --model, or embed the pictures again"
        )
    return model


@torch.no_grad()
def _embedded(
    model: Network,
    features: Features,
    queries: Sequence[str],
    device: str = "auto",
    precision: str = "32",
    batch_size: int | None = None,
) -> Tensor:
    """Features of pictures as those of a file were made, (Q, D)."""
    check_least(1, batch_size=batch_size)
    about = features.about
    if model.takes.kind != "image":
        raise ValueError(f"{features.file} holds features of {model.takes.kind}s; pictures are compared with pictures")
    make = features_by(model, about["pool"], about["layer"])
    value_range = about["reading"].get("value_range")
    listing = listed(queries, model, reading={"value_range": value_range and tuple(value_range)})
    with running(model, device, precision) as place:
        batches = mapped(listing, place, batch_size or BATCH["image"])
        return torch.cat([make(batch.samples).float().cpu() for batch in batches])


# The sheet


def sheet(
    file: Path, queries: Sequence[str], found: Sequence[Sequence[Neighbour]], pictures: str | None = None
) -> Figure:
    """Each query with its neighbours beside it, and what they are called.

    Args:
        file: of features, which says where its pictures lie.
        found: what `similar` gave.
        pictures: where they lie now.

    Raises:
        FileNotFoundError: a picture is not there.
    """
    about = read(file).about
    names = list(dict.fromkeys(neighbour.path for row in found for neighbour in row))
    shown = dict(zip(names, drawn(about, names, pictures)))
    columns = 1 + max(map(len, found))
    fig, axes = plt.subplots(
        len(found), columns, figsize=(1.7 * columns, 2.3 * len(found) + 0.3), squeeze=False, layout="constrained"
    )
    for ax in axes.flat:
        ax.axis("off")
    for row, query, neighbours in zip(axes, queries, found):
        plots.picture(row[0], _thumbnail(Path(query), query))
        row[0].set_title(f"query\n{_short(query)}", fontsize=7, color=plots.UP)
        for ax, neighbour in zip(row[1:], neighbours):
            plots.picture(ax, shown[neighbour.path])
            lines = (f"{neighbour.similarity:.3f}", _short(neighbour.path), _short(neighbour.label or ""))
            ax.set_title("\n".join(line for line in lines if line), fontsize=7)
    fig.suptitle(
        f"nearest of {file.name} to each query: cosine of the features of {about['model']}, 1 is the same", fontsize=9
    )
    return fig


def drawn(about: dict[str, Any], names: Sequence[str], pictures: str | None = None) -> list[Tensor]:
    """Pictures of a source by name, small, (3, H, W) in [0, 1] each.

    Args:
        about: of a file of features.
        pictures: a folder that the names are relative to, instead of the source.

    Raises:
        FileNotFoundError: one is not there.
    """
    reading = about["reading"]
    root = pictures if pictures is not None else about["source"]
    several = isinstance(root, list) or (pictures is None and Path(root).suffix.lower() in suffixes())
    folder = Path() if isinstance(root, list) or several else Path(root).expanduser()
    items: Sequence[Any] = [folder / name for name in names]
    if not all(item.is_file() for item in items):
        items = _of_source(root, names, reading) if isinstance(root, str) and pictures is None else items
    gone = next((item for item in items if isinstance(item, Path) and not item.is_file()), None)
    if gone is not None:
        raise FileNotFoundError(f"no picture {gone}; say with --pictures FOLDER where those of {root} lie now")
    return [_thumbnail(item, name, reading.get("value_range")) for item, name in zip(items, names)]


def _of_source(source: str, names: Sequence[str], reading: dict[str, Any]) -> list[Any]:
    """Pictures of a table or a set by name, as the source has them."""
    columns = {key: reading[key] for key in ("image_column", "label_column") if key in reading}
    try:
        items = readers.together(readers.read(source, **columns))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"{error}; say with --pictures FOLDER where the pictures of {source} lie now"
        ) from error
    place = {name: i for i, name in enumerate(items.names)}
    gone = next((name for name in names if name not in place), None)
    if gone is not None:
        raise FileNotFoundError(f"{source} has no {gone}; say with --pictures FOLDER where its pictures lie now")
    return [items.images[place[name]] for name in names]


def _thumbnail(item: Any, name: str, value_range: Any = None) -> Tensor:
    from PIL import Image

    pixels = Image.fromarray(decode(item, 3, name, value_range and tuple(value_range)))
    pixels.thumbnail((2 * SIDE, 2 * SIDE))
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1) / 255  # (3, H, W)


def _short(name: str) -> str:
    """A name's end, in one line."""
    name = " ".join(name.split())
    return name if len(name) <= LETTERS else f"…{name[1 - LETTERS :]}"
