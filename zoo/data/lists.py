"""Lists of pictures: CSV, TSV and JSONL files whose rows name a picture, its class where it has one, and its split.

What a row says is read as text: a class is what is written, and "" or -1 is none. Paths begin where the list lies.
"""

import csv
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zoo.data.folders import SPLITS, Left, files_under
from zoo.data.pictures import suffixes
from zoo.data.tables import LABELS, PATHS, Part, split_of

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
DELIMITERS = ",;\t|"
SPLIT = ("split", "set")  # columns that hold the split of a row
METADATA = ("metadata.csv", "metadata.jsonl")  # of a folder, as the Hub's imagefolder has them
FILE_NAME = "file_name"  # their column of paths

ROLES = {name: role for role, names in SPLITS.items() for name in names}  # how a split is written → which it is

Rows = list[tuple[int, list[Any]]]  # of each the line on which it begins, and its values


def parts(path: Path, root: Path | None = None) -> dict[str, list[Part]]:
    """The rows of a list by split.

    A column `split` or `set` says which; else the name of the list does, else the first folder of the paths, where
    that of each names a split. What says nothing is training.

    Args:
        root: the folder of the source; by default that of the list.

    Raises:
        ValueError: no rows, no text of that kind, a row that is longer or shorter than the first, or an unknown split.
    """
    root = root or path.parent
    columns, rows = _read(path)
    if not rows:
        raise ValueError(f"{path} has no rows; expected one for each picture, with its path")
    return {
        role: [_part(path, root, columns, [rows[i] for i in some])]
        for role, some in _by_split(path, root, columns, rows).items()
    }


def of_folder(root: Path) -> dict[str, list[Part]]:
    """The rows of the metadata.csv or metadata.jsonl of a folder and of its splits' folders, where they tell classes.

    None where there are none, or they say no more than the folder does. Pictures that they leave out are counted.
    """
    folders = [root, *sorted(p for p in root.iterdir() if p.is_dir() and p.name.lower() in ROLES)]
    found: dict[str, list[Part]] = {}
    for file in (file for folder in folders for name in METADATA if (file := folder / name).is_file()):
        columns, _ = _read(file)
        if FILE_NAME in columns and any(name.lower() in (*LABELS, *SPLIT) for name in columns):
            for role, some in parts(file, root).items():
                found.setdefault(role, []).extend(some)
    if found:
        listed = sum(len(part.lines or ()) for some in found.values() for part in some)
        left = len(files_under(root, suffixes(), Left())) - listed
        if left > 0:
            warnings.warn(f"{root} is read without {left} pictures that its metadata does not list", stacklevel=3)
    return {role: found[role] for role in SPLITS if role in found}


def _read(path: Path) -> tuple[list[str], Rows]:
    """The names of the columns, and the rows."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() in (".jsonl", ".ndjson"):
                return _objects(path, file)
            return _fields(path, file)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no {path.suffix[1:]} in UTF-8 ({error}); write it anew") from error


def _fields(path: Path, file: Any) -> tuple[list[str], Rows]:
    first = file.readline()
    file.seek(0)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else _delimiter(first)
    reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True, strict=True)
    rows, line = [], 1
    for values in reader:
        if values:
            rows.append((line, values))
        line = reader.line_num + 1
    if not rows:
        return [], []
    columns = [name.strip() for name in rows[0][1]]
    # A list may have no heading: then its first row names a picture.
    shown = [Path(name).suffix.lower() in suffixes() for name in columns]
    if any(shown):
        others = {i: "label" for i in range(len(columns)) if i != shown.index(True)} if len(columns) == 2 else {}
        columns = ["path" if i == shown.index(True) else others.get(i, f"column {i}") for i in range(len(columns))]
    else:
        rows = rows[1:]
    for line, values in rows:
        if len(values) != len(columns):
            raise ValueError(
                f"line {line} of {path} has {len(values)} values, expected {len(columns)}, {', '.join(columns)}; put "
                f'what holds a {delimiter!r} into "…"'
            )
    return columns, rows


def _delimiter(heading: str) -> str:
    try:
        return csv.Sniffer().sniff(heading, DELIMITERS).delimiter
    except csv.Error:  # one column, or a heading in quotes
        return max(DELIMITERS, key=heading.count)


def _objects(path: Path, file: Iterator[str]) -> tuple[list[str], Rows]:
    found: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number} of {path} is no JSON ({error}); write an object on each") from error
        if not isinstance(row, dict):
            raise ValueError(f"line {number} of {path} is {line.strip()[:40]}; write an object on each")
        found.append((number, row))
    columns = list(dict.fromkeys(key for _, row in found for key in row))
    return columns, [(number, [row.get(key) for key in columns]) for number, row in found]


def _by_split(path: Path, root: Path, columns: list[str], rows: Rows) -> dict[str, list[int]]:
    """Role → the places of its rows."""
    place = next((i for i, name in enumerate(columns) if name.lower() in SPLIT), None)
    if place is not None:
        said = [str(values[place]).strip() for _, values in rows]
        roles = [ROLES.get(word.lower()) for word in said]
        if None in roles:
            bad = roles.index(None)
            raise ValueError(
                f"line {rows[bad][0]} of {path} has the {columns[place]} {said[bad]!r}, {roles.count(None)} of "
                f"{len(rows)} rows are so; allowed {', '.join(SPLITS)}"
            )
    else:
        whole = split_of(path.name) or (split_of(path.parent.name) if path.parent != root else None)
        column = next((i for i, name in enumerate(columns) if name.lower() in PATHS), None)
        firsts = [] if column is None else [Path(str(values[column])).parts for _, values in rows]
        roles = [ROLES.get(first[0].lower()) if len(first) > 1 else None for first in firsts]
        if whole or not roles or None in roles:
            roles = [whole or "train"] * len(rows)
    return {role: found for role in SPLITS if (found := [i for i, other in enumerate(roles) if other == role])}


def _part(path: Path, root: Path, columns: list[str], rows: Rows) -> Part:
    import pyarrow as pa

    above = path.parent.relative_to(root)
    if above != Path():  # metadata in a split's folder
        place = columns.index(FILE_NAME)
        rows = [(at, [*row[:place], (above / str(row[place])).as_posix(), *row[place + 1 :]]) for at, row in rows]
    told = {i: name for i, name in enumerate(columns) if name.lower() not in SPLIT}
    table = pa.table({name: _column([values[i] for _, values in rows]) for i, name in told.items()})
    return Part(str(path), table.schema, table.select, path.name, (root,), [line for line, _ in rows])


def _column(values: list[Any]) -> Any:
    """A column of text; one that holds lists or objects is a column of lists, which nobody takes for text."""
    import pyarrow as pa

    if any(isinstance(value, dict | list) for value in values):
        return pa.array([[json.dumps(value)] for value in values])
    return pa.array([None if value is None else str(value) for value in values], pa.string())
