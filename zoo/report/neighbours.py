"""`zoo similar`: which pictures of a file of features are nearest to others, by the cosine of the features.

N pictures · Q queries · D numbers of a feature · K neighbours
"""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from zoo.data.mapping import BATCH, Listing, listed, mapped
from zoo.data.pictures import decode, suffixes
from zoo.data.transforms import transform
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
# How far the features of a picture may lie from those that a file has of it, as a share of their length: half precision
# moves them by less than a hundredth, two photographs lie further apart.
APART = 0.02


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
    """A picture like another: what it is called, the cosine of their features, its class, and its row in the file."""

    path: str
    similarity: float
    label: str | None
    row: int


def similar(
    file: Path, queries: Sequence[str], count: int = 8, model: Network | str | None = None, **how: Any
) -> list[list[Neighbour]]:
    """The pictures of a file of features that are nearest to each query, the nearest first: exact, none is left out.

    Args:
        file: what `zoo embed` wrote.
        queries: pictures; they are read and embedded as those of the file were.
        count: neighbours of each.
        model: as `writer` gives it, or where the model lies now that the file was written by; another is refused.
        how: device, precision, batch_size.

    Raises:
        ValueError: no file of features, tokens instead of features, another model, or a query that is no picture.
        FileNotFoundError: no such file, model or query.
    """
    check_least(1, count=count)
    _check_queries(queries)
    features = read(file)
    network = writer(file, model) if model is None or isinstance(model, str) else model
    listing = listed(queries, network, reading={"value_range": _range(features)})
    scores, places = nearest(features.chunks(), _embedded(network, features, listing, **how), count)  # (Q, K) each
    return [
        [
            Neighbour(path, round(score, 6), label, row)
            for score, row, (path, label) in zip(some.tolist(), rows.tolist(), features.rows(rows.tolist()))
        ]
        for some, rows in zip(scores, places)
    ]


def _check_queries(queries: Sequence[str]) -> None:
    for query in queries:
        path = Path(query).expanduser()
        if path.is_dir():
            raise ValueError(f"{query} is a folder; give pictures, such as {path / '*.png'}")
        if not path.is_file():
            raise FileNotFoundError(f"no picture {query}; give pictures that are there")
        if path.suffix.lower() not in suffixes():
            raise ValueError(f"{query} is no picture; give some with a suffix that Pillow knows, .jpg, .png, …")


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


def writer(file: Path, name: str | None = None) -> Network:
    """The model that wrote a file of features.

    Args:
        name: where it lies now; None is where it was.

    Raises:
        ValueError: no such file or model, or another one.
    """
    features = read(file)
    stated, wanted = features.about["model"], features.about["fingerprint"]
    try:
        model = hub.load(name or stated)
    except (OSError, ValueError) as error:
        if name is not None:
            raise
        raise ValueError(f"{error}. {file} was written by {stated}; say with --model where it is now") from error
    if (found := fingerprint(model)) != wanted:
        raise ValueError(
            f"{file} was written by {stated} with the fingerprint {wanted[:12]}, {name or stated} has "
            f"{found[:12]}; give that model with --model, or embed the pictures again"
        )
    return model


@torch.no_grad()
def _embedded(
    model: Network,
    features: Features,
    listing: Listing,
    device: str = "auto",
    precision: str = "32",
    batch_size: int | None = None,
) -> Tensor:
    """Features of pictures as those of a file were made, (N, D)."""
    check_least(1, batch_size=batch_size)
    about = features.about
    if model.takes.kind != "image":
        raise ValueError(f"{features.file} holds features of {model.takes.kind}s; pictures are compared with pictures")
    make = features_by(model, about["pool"], about["layer"])
    with running(model, device, precision) as place:
        batches = mapped(listing, place, batch_size or BATCH["image"])
        return torch.cat([make(batch.samples).float().cpu() for batch in batches])


def _range(features: Features) -> tuple[float, float] | None:
    low_high = features.about["reading"].get("value_range")
    return None if low_high is None else (low_high[0], low_high[1])


# The sheet


def sheet(
    file: Path,
    queries: Sequence[str],
    found: Sequence[Sequence[Neighbour]],
    model: Network,
    pictures: str | None = None,
    **how: Any,
) -> Figure:
    """Each query with its neighbours beside it, and what they are called.

    Where the pictures are not at hand, of a stream or of the Hub, the frames are empty, which is said.

    Args:
        file: of features, which says where its pictures lie.
        found: what `similar` gave.
        model: the `writer` of the file.
        pictures: where they lie now.
        how: device, precision, batch_size.

    Raises:
        FileNotFoundError: a picture is not there.
        ValueError: one is not the picture that was embedded.
    """
    features = read(file)
    names = {neighbour.row: neighbour.path for row in found for neighbour in row}
    shown = dict(zip(names, drawn(features, model, names, pictures, **how)))
    columns = 1 + max(map(len, found))
    fig, axes = plt.subplots(
        len(found), columns, figsize=(1.7 * columns, 2.3 * len(found) + 0.3), squeeze=False, layout="constrained"
    )
    for ax in axes.flat:
        ax.axis("off")
    for row, query, neighbours in zip(axes, queries, found):
        plots.picture(row[0], _thumbnail(Path(query).expanduser(), query, _range(features)))
        row[0].set_title(f"query\n{plots.short(query, LETTERS)}", fontsize=7, color=plots.UP)
        for ax, neighbour in zip(row[1:], neighbours):
            picture = shown[neighbour.row]
            plots.picture(ax, torch.ones(3, SIDE, SIDE) if picture is None else picture)
            if picture is None:
                ax.axis("on")
                ax.spines[:].set_visible(True)
            lines = (f"{neighbour.similarity:.3f}", neighbour.path, neighbour.label or "")
            ax.set_title("\n".join(plots.short(line, LETTERS) for line in lines if line), fontsize=7)
    title = f"nearest of {file.name} to each query: cosine of the features of {features.about['model']}, 1 is the same"
    fig.suptitle(plots.short(title, len(title)), fontsize=9)
    return fig


def drawn(
    features: Features, model: Network, names: Mapping[int, str], pictures: str | None = None, **how: Any
) -> list[Tensor] | list[None]:
    """Pictures of rows of a file, small, (3, H, W) in [0, 1] each; None of all where they are not at hand.

    A name says little: another folder may have the same. So they are embedded again and compared with the file.

    Args:
        names: of rows, by their number.
        pictures: a folder that the names are relative to, instead of the source.
        how: device, precision, batch_size.

    Raises:
        FileNotFoundError: one is not there.
        ValueError: one is not the picture that was embedded.
    """
    called, source = [*names.values()], features.about["source"]
    items = _items(features, model, called, pictures)
    if items is None:
        return [None] * len(called)
    pixels = transform(model, value_range=_range(features)).pixels
    again = Listing(called, torch.full((len(called),), -1), [], source, lambda place: pixels(items[place]))
    stored = _rows(features, [*names])  # (N, D)
    apart = (_embedded(model, features, again, **how) - stored).norm(dim=1)  # (N,)
    for name, item, near in zip(called, items, (apart <= APART * stored.norm(dim=1)).tolist()):
        if not near:
            said = item if isinstance(item, Path) else f"{name} of {pictures or _said(source)}"
            raise ValueError(
                f"{said} is not the picture that was embedded; say with --pictures FOLDER where those of "
                f"{_said(source)} lie now"
            )
    return [_thumbnail(item, name, _range(features)) for item, name in zip(items, called)]


def _rows(features: Features, numbers: Sequence[int]) -> Tensor:
    """Rows of a file by number, (N, D)."""
    found: dict[int, Tensor] = {}
    at = 0
    for chunk in features.chunks():
        found |= {i: torch.from_numpy(chunk[i - at].copy()) for i in numbers if at <= i < at + len(chunk)}
        at += len(chunk)
    return torch.stack([found[i] for i in numbers]).float()


def _items(features: Features, model: Network, names: Sequence[str], pictures: str | None) -> list[Any] | None:
    """Pictures of a source by name, as it has them; None where it can be read by nobody here."""
    source, reading = features.about["source"], features.about["reading"]
    cure = f"say with --pictures FOLDER where those of {_said(source)} lie now"
    place = source if pictures is None else pictures
    one_by_one = isinstance(place, list) or (pictures is None and Path(place).suffix.lower() in suffixes())
    folder = Path() if one_by_one else Path(place).expanduser()
    files = [folder / name for name in names]
    if all(file.is_file() for file in files):
        return files
    try:
        if isinstance(place, str) and place.startswith("shards:"):
            raise ConnectionError(f"{place} is a stream, of which no picture is read by its name")
        # The names of a source are what `zoo embed` called them; of files that are no text they are not the files'.
        columns = {key: reading[key] for key in ("image_column", "label_column") if key in reading and pictures is None}
        listing = listed(place, model, reading=columns)
    except ConnectionError as error:
        warnings.warn(f"{error}; the sheet shows the names of its pictures in empty frames", stacklevel=4)
        return None
    except (OSError, ValueError) as error:
        raise FileNotFoundError(f"{error}; {cure}") from error
    assert listing.item is not None  # of a stream alone
    places = {name: i for i, name in enumerate(listing.names)}
    gone = next((name for name in names if name not in places), None)
    if gone is not None:
        raise FileNotFoundError(f"{_said(place)} has no {gone}; {cure}")
    return [listing.item(places[name]) for name in names]


def _said(source: str | list[str]) -> str:
    return source if isinstance(source, str) else ", ".join(source)


def _thumbnail(item: Any, name: str, value_range: tuple[float, float] | None) -> Tensor:
    from PIL import Image

    pixels = Image.fromarray(decode(item, 3, name, value_range))
    pixels.thumbnail((2 * SIDE, 2 * SIDE))
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1) / 255  # (3, H, W)
