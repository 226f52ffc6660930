"""Tables of pictures: parquet files, or what the library datasets reads of the Hub.

A row holds an encoded picture, or where one lies, and the number or the name of its class. A split is labelled in every
row or in none. Labels are looked at once, here, and a wrong one is named by file and row.
"""

import importlib.util
import json
import re
import tempfile
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from zoo.data import cache
from zoo.data.folders import SPLITS, Left, files_under, in_order
from zoo.data.pictures import Found, suffixes
from zoo.registry import suggest

LABELS = ("label", "labels", "class")  # columns that hold classes where nothing says which does
PATHS = ("image", "img", "path", "file", "filename", "file_name", "filepath", "file_path", "image_path")  # of pictures
WANTS_LIBRARY = "pip install 'latentzoo[datasets]'"
MOST_CLASSES = 100_000  # of labels that are numbers without names
NONE = -1  # the label of what has none


class Part(NamedTuple):
    """Rows of a split: a parquet file, or a split of the Hub."""

    name: str
    schema: Any  # pyarrow's, with what the library datasets notes of the columns
    read: Callable[[list[str]], Any]  # some columns, as pyarrow's table
    short: str  # what it is called in its source
    folders: tuple[Path, ...] = ()  # where the paths in it may begin
    lines: Sequence[int] | None = None  # of a text file, where each row begins

    def row(self, number: int) -> str:
        """What a row is called, "row 5", of a text file "line 7"."""
        return f"row {number}" if self.lines is None else f"line {self.lines[number]}"

    @property
    def features(self) -> dict[str, dict[str, Any]]:
        """Column → what datasets notes of it, {"_type": "ClassLabel", "names": …}."""
        noted = json.loads((self.schema.metadata or {}).get(b"huggingface", b"{}"))
        return noted.get("info", {}).get("features", {})


class Row(NamedTuple):
    """Where a picture was found: `path` is what its row calls it, and `key` is the same of rows that name one file."""

    part: Part
    number: int
    path: str | None
    key: Hashable


class Table(NamedTuple):
    """Pictures, labels and ids by split, and the names of the classes of all; none where no split is labelled."""

    splits: dict[str, tuple[list[Any], np.ndarray, list[str]]]
    classes: list[str]


def find(root: Path) -> dict[str, list[Path]]:
    """The parquet files of each split of a folder; none where it is no table.

    It is one if it holds parquet named for a split, train-00000-of-00002.parquet or data/test.parquet, or parquet and
    no pictures. Else a parquet file lies beside pictures by chance.

    Raises:
        ValueError: a split in two places, which are two data sets.
    """
    files = sorted(files_under(root, {".parquet"}, Left()))
    named = [f for f in files if f.parent in (root, root / "data") and _role(Path(f.name))]
    if not named and (not files or files_under(root, suffixes(), Left())):
        return {}
    found: dict[str, list[Path]] = {}
    places: dict[str, Path] = {}
    for file in named or files:
        role, place = _role(file.relative_to(root)) or ("", Path())
        if places.setdefault(role, place) != place:
            raise ValueError(
                f"{root} has a {role} split in {places[role]} and in {place}, so it holds several data sets; give the "
                "folder of one"
            )
        found.setdefault(role, []).append(file)
    others = found.pop("", [])
    if found and (left := len(files) - sum(map(len, found.values()))):
        warnings.warn(f"{root} is read without {left} parquet files that name no split", stacklevel=2)
    return found or {"train": others}


def beside(root: Path, parts: dict[str, list[Part]]) -> bool:
    """Whether tables hold no pictures and lie beside some: they are lists of labels or the like, and that is said."""
    every = [part for some in parts.values() for part in some]
    if any(map(_fitting, every)) or not files_under(root, suffixes(), Left()):
        return False
    names = ", ".join(Path(part.name).name for part in every[:3]) + (", …" if len(every) > 3 else "")
    warnings.warn(
        f"{root} is read without {len(every)} parquet files that hold no pictures: {names}; image_column names a "
        "column of paths",
        stacklevel=2,
    )
    return True


def local(root: Path, files: dict[str, list[Path]]) -> dict[str, list[Part]]:
    """The parts of each split of parquet files.

    Raises:
        ValueError: a damaged file.
    """
    return {
        role: [opened(path, str(path), path.relative_to(root).as_posix(), (path.parent, root)) for path in some]
        for role, some in files.items()
    }


def opened(path: Path, name: str, short: str, folders: tuple[Path, ...] = (), cure: str = "get it again") -> Part:
    """A parquet file as a part.

    Args:
        cure: what to do about a damaged one.

    Raises:
        ValueError: it is one.
    """
    import pyarrow as pa
    from pyarrow import parquet

    def read(columns: list[str]) -> Any:
        with parquet.ParquetFile(path) as file:  # not left open: a data set may have thousands
            return file.read(columns)

    try:
        with parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{name} is no parquet file, or a damaged one ({error}); {cure}") from error
    return Part(name, schema, read, short, folders)


def has_library() -> bool:
    """Whether the library datasets is here, the extra latentzoo[datasets]."""
    return importlib.util.find_spec("datasets") is not None


def library(source: str, repo: str, config: str | None, commit: str, kind: str) -> tuple[dict[str, list[Part]], bool]:
    """The parts of each split of a data set of the Hub as the library datasets reads it, and whether their classes are
    names of folders.

    Args:
        repo, config, commit: which one.
        kind: what it is made of, for messages.

    Raises:
        FileNotFoundError: no such data set.
        ConnectionError: not cached, and no network.
        OSError: the cache cannot be written.
        ValueError: the library is not here; it cannot read it; none of the splits is one for training, validation or
            test.
    """
    if not has_library():
        raise ValueError(
            f"{source} is made of {kind} files, and the Hub has no whole conversion of them to parquet; to read them, "
            f"{WANTS_LIBRARY}"
        )
    import datasets

    try:
        sets = datasets.load_dataset(repo, config, revision=commit)
    except datasets.exceptions.DatasetNotFoundError as error:
        raise FileNotFoundError(f"no Hub data set {source!r}; is the name right, is it private?") from error
    except (ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(f"the library datasets cannot read {source}: {' '.join(str(error).split())}") from error
    except Exception as error:  # the client of HTTP has exceptions of its own, which change with its version
        place = Path(datasets.config.HF_DATASETS_CACHE)
        with cache.writing(place, "set HF_HOME to a folder that can be"):
            place.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=place).close()
        raise ConnectionError(
            f"{source} is not cached and the Hub cannot be reached ({error}); load it once online, or give a folder"
        ) from error
    parts = {}
    for role, names in SPLITS.items():
        name = next((n for n in names if n in sets), None)
        if name is not None:
            table = sets[name].with_format("arrow")[:]
            parts[role] = [Part(f"{name} of {source}", table.schema, table.select, role)]
    if not parts:
        raise ValueError(f"{source} has the splits {', '.join(sets)}; expected some of train, validation, test")
    return parts, any(s.info.builder_name == "imagefolder" for s in sets.values())


def read(
    parts: dict[str, list[Part]],
    source: str,
    image_column: str | None = None,
    label_column: str | None = None,
    in_folders: bool = False,
) -> Table:
    """The pictures and the labels of all rows.

    Args:
        parts: of each split.
        image_column, label_column: None looks for them; "" reads without labels.
        in_folders: the classes are names of folders, which stand in the order of numbers where they are numbers.

    Raises:
        ValueError: no such column, a split without rows, a row without a picture, a label that is none beside others
            that are.
        FileNotFoundError: a row names a picture that is not there, or cannot be fetched.
    """
    parts = {role: _filled(some) for role, some in parts.items()}
    every = [part for some in parts.values() for part in some]
    image, label = _image_column(every, source, image_column), _label_column(every, source, label_column)
    pictures: dict[str, list[Any]] = {role: [] for role in parts}
    labels: dict[str, list[np.ndarray]] = {role: [] for role in parts}
    rows: dict[str, list[Row]] = {role: [] for role in parts}
    for role, some in parts.items():
        for part in some:
            wanted = [c for c in (image, label) if c is not None and c in part.schema.names]
            if image not in wanted:
                raise ValueError(f"{part.name} has no column {image!r}; it has {', '.join(part.schema.names)}")
            table = part.read(wanted)
            found, where = _pictures(part, table.column(image), image)
            pictures[role] += found
            rows[role] += where
            values = np.full(table.num_rows, NONE)
            labels[role].append(_values(part, table.column(label), label) if label in wanted else values)
    numbers, classes = _numbered(parts, labels, label or "")
    if in_folders and classes != in_order(classes):
        place = np.array([in_order(classes).index(name) for name in classes])
        numbers = {role: np.where(y < 0, y, place[y]) for role, y in numbers.items()}
        classes = in_order(classes)
    names = _named([row for role in parts for row in rows[role]])
    called: dict[str, list[str]] = {}
    for role in parts:
        called[role], names = names[: len(rows[role])], names[len(rows[role]) :]
    return Table({role: (pictures[role], numbers[role], called[role]) for role in parts}, classes)


def _filled(parts: Sequence[Part]) -> list[Part]:
    """Those of a split that have rows: one without may not even know what its columns hold."""
    filled = [part for part in parts if part.read([]).num_rows]
    if not filled:
        names = ", ".join(part.name for part in parts)
        raise ValueError(f"{names} has no rows; write one for each picture, or leave that file out")
    return filled


def numbers(parts: dict[str, list[Part]], column: str) -> tuple[dict[str, np.ndarray], list[str]]:
    """Labels of all rows as class numbers, and the names of the classes; refused as `read` does."""
    labels = {
        role: [_values(part, part.read([column]).column(column), column) for part in some]
        for role, some in parts.items()
    }
    return _numbered(parts, labels, column)


def noted(column: str, classes: list[str]) -> dict[str, str]:
    """A table's metadata that says how the classes of a column are called, as the library datasets writes it."""
    return described({column: {"_type": "ClassLabel", "names": classes}})


def described(features: Mapping[str, Any]) -> dict[str, str]:
    """A table's metadata that says what its columns hold, as the library datasets writes it."""
    return {"huggingface": json.dumps({"info": {"features": features}})}


# Columns


def _role(path: Path) -> tuple[str, Path] | None:
    """The split that a file's name or the nearest folder's is for, and in which folder that name stands."""
    found = ((split_of(place.name), place.parent) for place in (path, *path.parents))
    return next(((role, folder) for role, folder in found if role is not None), None)


def split_of(name: str) -> str | None:
    """The split that a file or a folder is named for, "train-00000-of-00002.parquet"."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((role for word in words for role, names in SPLITS.items() if word in names), None)


def _image_column(parts: Sequence[Part], source: str, name: str | None) -> str:
    first = parts[0]
    fitting = sorted(_fitting(first), key=lambda n: n not in ("image", "img")) or _plain(first)
    return _pick(name, fitting, first.schema.names, "image", source)


def _fitting(part: Part) -> list[str]:
    """The columns that hold pictures."""
    noted = [n for n, f in part.features.items() if f.get("_type") == "Image"]
    return noted + [f.name for f in part.schema if re.match(r"struct<.*\bbytes: ", str(f.type))]


def _plain(part: Part) -> list[str]:
    """The columns that hold bytes or text, of which only the name, or that there is no other, says that it is one."""
    raw = [f.name for f in part.schema if str(f.type) in ("binary", "large_binary")]
    named = {f.name.lower(): f.name for f in part.schema if f.name in raw or str(f.type) in ("string", "large_string")}
    return [named[name] for name in PATHS if name in named] or (raw if len(raw) == 1 else [])


def _label_column(parts: Sequence[Part], source: str, name: str | None) -> str | None:
    if name == "":
        return None
    columns = list(dict.fromkeys(n for part in parts for n in part.schema.names))
    fitting = [n for part in parts for n, f in part.features.items() if f.get("_type") == "ClassLabel"]
    fitting += [n for n in columns if n.lower() in LABELS]
    if name is None and not fitting:
        if len(columns) > 1:
            there = ", ".join(columns)
            warnings.warn(
                f"{source} has no label column among {there} and is read without labels; label_column names one",
                stacklevel=2,
            )
        return None
    return _pick(name, fitting, columns, "label", source)


def _pick(name: str | None, fitting: Sequence[str], columns: Sequence[str], what: str, source: str) -> str:
    if name is not None and name not in columns:
        raise ValueError(f"{source} has no column {name!r}{suggest(name, columns)}; it has {', '.join(columns)}")
    if name is None and not fitting:
        raise ValueError(f"{source} has no {what} column among {', '.join(columns)}; name it with {what}_column")
    return name or fitting[0]


def _pictures(part: Part, column: Any, name: str) -> tuple[list[Any], list[Row]]:
    """Encoded pictures or paths of all rows, and where each was found."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind, nothing = column.type, [None] * len(column)
    if pa.types.is_struct(kind):
        data, paths = (
            pc.struct_field(column, key).to_pylist() if kind.get_field_index(key) >= 0 else nothing
            for key in ("bytes", "path")
        )
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        data, paths = column.to_pylist(), nothing
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        data, paths = nothing, column.to_pylist()
    else:
        raise ValueError(f"column {name!r} of {part.name} is {kind}, expected encoded pictures or paths of them")
    out: list[Any] = []
    empty, missing = [], []
    for row, (encoded, path) in enumerate(zip(data, paths)):
        place = f"{part.row(row)} of {part.name}{f' ({path})' if path else ''}"
        if encoded is not None:
            out.append(Found(encoded, place))
        elif not path:
            empty.append(row)
        elif (picture := _lying(path, part, place)) is not None:
            out.append(picture)
        else:
            missing.append(place)
    if empty:
        rows = ", ".join(map(part.row, empty[:5])) + (", …" if len(empty) > 5 else "")
        raise ValueError(
            f"{part.name} has no picture in {rows}, {len(empty)} of {len(data)} rows; fill them, or "
            "write the table without them"
        )
    if missing:
        more = f" (so do {len(missing)} of {len(data)} rows)" if len(missing) > 1 else ""
        begin = f", relative to {part.folders[0]}" if part.folders else ""
        raise FileNotFoundError(f"{missing[0]} names a picture that is not there{more}; put it there{begin}")
    where: list[Row] = []
    for row, (item, encoded, path) in enumerate(zip(out, data, paths)):
        own = encoded is not None
        key: Hashable = (part.name, row) if own else item if isinstance(item, Path) else path  # a URL's is fetched
        where.append(Row(part, row, path and _short(path, part), key))
    return out, where


def _named(rows: Sequence[Row]) -> list[str]:
    """What pictures are called: as their rows call them, or "row 5".

    Pictures that share a name become "row 5 (same.png)", and where files have such rows in common, "FILE/row 5". Rows
    that name one file are one picture, and keep its name.
    """
    names = [row.path or row.part.row(row.number) for row in rows]
    shared = _shared([(row.part.short, name) for row, name in zip(rows, names)], rows)
    names = [
        f"{row.part.row(row.number)} ({name})" if (row.part.short, name) in shared else name
        for row, name in zip(rows, names)
    ]
    return [f"{row.part.short}/{name}" for row, name in zip(rows, names)] if _shared(names, rows) else names


def _shared(names: Sequence[Hashable], rows: Sequence[Row]) -> set[Hashable]:
    """The names that several pictures have."""
    first: dict[Hashable, Hashable] = {}
    return {name for name, row in zip(names, rows) if first.setdefault(name, row.key) != row.key}


def _lying(path: str, part: Part, place: str) -> Any:
    """A picture that a row names; None where it is not there."""
    if "://" in path:
        from zoo.data import remote

        try:
            return Found(remote.read(path), place)
        except Exception as error:  # each protocol raises its own
            # Of a server that is not there fsspec says the address alone.
            why = error if isinstance(error, ValueError) else error.__cause__ or error
            raise FileNotFoundError(
                f"{place} cannot be fetched ({why}); mend the row, or get the picture and name its file there"
            ) from error
    return next((folder / path for folder in (*part.folders, Path()) if (folder / path).is_file()), None)


def _short(path: str, part: Part) -> str:
    """What a picture is called that a row names: relative to the table; of one that lies elsewhere, folder and name."""
    if "://" in path or not Path(path).is_absolute():
        return path
    folder = next((folder for folder in part.folders if Path(path).is_relative_to(folder)), None)
    return Path(path).relative_to(folder).as_posix() if folder else "/".join(Path(path).parts[-2:])


# Labels


def _values(part: Part, column: Any, name: str) -> np.ndarray:
    """Labels of a part: numbers, -1 where there is none, int64; or names, None where there is none, objects."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if pa.types.is_null(kind):
        return np.full(len(column), NONE)
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return column.cast(pa.int64()).fill_null(NONE).to_numpy()
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return np.array([None if name in ("", str(NONE)) else name for name in column.to_pylist()], dtype=object)
    if pa.types.is_floating(kind):
        values = column.cast(pa.float64()).to_numpy()
        values = np.where(np.isnan(values), NONE, values)
        broken = np.flatnonzero(values != np.round(values))
        if len(broken):
            raise ValueError(
                f"{part.row(broken[0])} of {part.name} has the label {values[broken[0]]:g} in column {name!r}, "
                f"{len(broken)} of {len(values)} rows are so; expected whole numbers, or name another column with "
                "label_column"
            )
        return values.astype(np.int64)
    raise ValueError(
        f"column {name!r} of {part.name} is {kind}, row 0 is {str(column[0].as_py())[:40]}; expected a number or a "
        'name in each row: name such a column with label_column, or read without labels with label_column=""'
    )


def _numbered(
    parts: dict[str, list[Part]], labels: dict[str, list[np.ndarray]], name: str
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Labels as class numbers by split, and the names of the classes."""
    every = [(part, values) for role, some in parts.items() for part, values in zip(some, labels[role])]
    words = {word for _, values in every if values.dtype == object for word in values} - {None}
    classes = in_order(words) if words else _noted([part for part, _ in every], name)
    number = {word: i for i, word in enumerate(classes or ())} | {None: NONE}
    for part, values in every:
        if words and values.dtype != object and (values != NONE).any():
            raise ValueError(f"column {name!r} holds names, but numbers in {part.name}; write one of them throughout")
    numbers = {
        role: [np.array([number[w] for w in v], np.int64) if v.dtype == object else v for v in some]
        for role, some in labels.items()
    }
    if classes is None:
        classes = _counted([both for role in parts for both in zip(parts[role], numbers[role])], name)
    labelled = False
    for role, some in parts.items():
        bad = [(values < 0) | (values >= len(classes)) for values in numbers[role]]
        if all((values == NONE).all() for values in numbers[role]):
            continue
        labelled = True
        for part, wrong in zip(some, bad):
            if wrong.any():
                row, count = int(wrong.argmax()), sum(int(w.sum()) for w in bad)
                value = part.read([name]).column(name)[row].as_py()
                said = "null" if value in (None, "") else repr(value)
                raise ValueError(
                    f"{part.row(row)} of {part.name} has the label {said} in column {name!r}, none of the classes 0 to "
                    f"{len(classes) - 1}; so have {count} of {sum(map(len, bad))} rows of {role}. A split has labels "
                    'in all rows or, null or -1, in none: mend them, or read without labels, label_column=""'
                )
    return {role: np.concatenate(some) for role, some in numbers.items()}, classes if labelled else []


def _noted(parts: Sequence[Part], name: str) -> list[str] | None:
    """The names of the classes that the library datasets notes; the same in all parts that note any."""
    first, classes = parts[0], None
    for part in parts:
        names = part.features.get(name, {}).get("names")
        if names and classes and names != classes:
            raise ValueError(f"{first.name} and {part.name} name other classes in column {name!r}; write one list")
        if names and not classes:
            first, classes = part, names
    return classes


def _counted(every: Sequence[tuple[Part, np.ndarray]], name: str) -> list[str]:
    """Names of classes that are only numbers: as many as the largest label needs."""
    part, values = max(every, key=lambda both: max(both[1], default=NONE))
    count, rows = int(max(values, default=NONE)) + 1, sum(len(v) for _, v in every)
    if count > max(MOST_CLASSES, rows):
        raise ValueError(
            f"{part.row(int(values.argmax()))} of {part.name} has the label {count - 1} in column {name!r}, of {rows} "
            "rows; that is no class: name another column with label_column"
        )
    return [str(c) for c in range(count)]
