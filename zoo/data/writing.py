"""Tables of what a model makes of samples: rows are written as they come, to csv, json, parquet or npy.

A table is written aside and renamed, so what has its name is whole. N rows · B of them at a time
"""

import contextlib
import csv
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from torch import Tensor

from zoo.hub.files import write_aside

KEY = "latentzoo"  # of a parquet file's metadata, where what is said of the whole table stands
GROUP = 16 << 20  # bytes of a parquet file's rows that are held until they are written together
Columns = Mapping[str, Sequence[Any] | Tensor]  # of B rows: text, numbers, None; or a tensor (B, …)
Write = Callable[[Columns], None]
Aside = Callable[[str], Path]  # a file's name → where it is written first


def check_format(output: Path, formats: Collection[str]) -> None:
    """Refuse an output whose format is not known, before anything is computed for it.

    Raises:
        ValueError: another suffix than those of `formats`, or a folder is there.
    """
    if output.suffix.lower() not in formats:
        raise ValueError(f"-o {output} is of no format that is known; give a name that ends in {', '.join(formats)}")
    if output.is_dir():
        raise ValueError(f"-o {output} is a folder; give a file, {output / ('out' + next(iter(formats)))}")


def beside(output: Path) -> Path:
    """Where the names of an npy file's rows and what is said of it stand."""
    return output.with_name(f"{output.name}.json")


@contextlib.contextmanager
def writing(output: Path, about: Mapping[str, Any] | None = None) -> Iterator[Write]:
    """Gives what takes the columns of some rows, the same columns each time; afterwards the table is at `output`.

    - .csv: a header and a line of each row; None is empty.
    - .json: a list with an object of each row.
    - .parquet: a column of each; a tensor's rows lie flat, as lists of one length.
    - .npy: the tensor alone, (N, …); `FILE.npy.json` holds the other columns and `about`.

    Args:
        about: what is to be said of the table; parquet has it under "latentzoo" in its metadata, csv and json not.

    Raises:
        OSError: the disk is full; what was there before is untouched.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    kind = output.suffix.lower()
    with write_aside(output.parent) as aside, FORMATS[kind](aside, output.name, about or {}) as write:
        yield write


def text(name: str) -> str:
    """A name as UTF-8 has it: bytes of a file's name that are no text are spelled out."""
    return name.encode("utf-8", "backslashreplace").decode()


@contextlib.contextmanager
def _csv(aside: Aside, name: str, about: Mapping[str, Any]) -> Iterator[Write]:
    with open(aside(name), "w", newline="", encoding="utf-8") as file:
        plain = csv.writer(file, lineterminator="\n")
        quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)  # "\r" alone else stands bare
        begun = False

        def write(columns: Columns) -> None:
            nonlocal begun
            if not begun:
                plain.writerow(columns)
            begun = True
            for row in zip(*columns.values(), strict=True):
                (quoted if any("\r" in str(value) for value in row) else plain).writerow(row)

        yield write


@contextlib.contextmanager
def _json(aside: Aside, name: str, about: Mapping[str, Any]) -> Iterator[Write]:
    with open(aside(name), "w", encoding="utf-8") as file:
        before = "[\n"

        def write(columns: Columns) -> None:
            nonlocal before
            for row in zip(*columns.values(), strict=True):
                file.write(before + json.dumps(dict(zip(columns, row)), ensure_ascii=False))
                before = ",\n"

        yield write
        file.write("\n]\n" if before == ",\n" else "[]\n")


@contextlib.contextmanager
def _parquet(aside: Aside, name: str, about: Mapping[str, Any]) -> Iterator[Write]:
    import pyarrow as pa
    from pyarrow import parquet

    held: list[Any] = []  # tables that make the next group of rows
    writer: Any = None

    def flush() -> None:
        nonlocal writer
        if held:
            group = pa.concat_tables(held)
            if writer is None:
                said = {KEY: json.dumps(dict(about), ensure_ascii=False)}
                writer = parquet.ParquetWriter(aside(name), group.schema.with_metadata(said))
            writer.write_table(group)
            held.clear()

    def write(columns: Columns) -> None:
        held.append(pa.table({column: _column(values) for column, values in columns.items()}))
        if sum(table.nbytes for table in held) >= GROUP:
            flush()

    try:
        yield write
        flush()
    finally:
        if writer is not None:
            writer.close()


def _column(values: Sequence[Any] | Tensor) -> Any:
    import pyarrow as pa

    if isinstance(values, Tensor):
        flat = values.cpu().flatten(1).numpy()  # (B, D)
        return pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1])
    nothing = all(value is None or isinstance(value, str) for value in values)
    return pa.array(values, pa.string() if nothing else None)  # a column without any label is one of text too


@contextlib.contextmanager
def _npy(aside: Aside, name: str, about: Mapping[str, Any]) -> Iterator[Write]:
    others: dict[str, list[Any]] = {}
    with growing(aside(name)) as grow:

        def write(columns: Columns) -> None:
            for column, values in columns.items():
                if isinstance(values, Tensor):
                    grow(values)
                else:
                    others.setdefault(column, []).extend(values)

        yield write
    said = {**about, **others}
    with open(aside(beside(Path(name)).name), "w", encoding="utf-8") as file:
        json.dump(said, file, ensure_ascii=False, indent=1)


@contextlib.contextmanager
def growing(path: Path) -> Iterator[Callable[[Tensor], None]]:
    """An npy file to whose end rows (B, …) are written; how many they are is put into its header afterwards."""
    with open(path, "wb") as file:
        count, about = 0, {"descr": "", "shape": (), "fortran_order": False}

        def header(file: BinaryIO) -> None:
            file.seek(0)  # numpy leaves room for a first axis of any length
            np.lib.format.write_array_header_1_0(file, about)

        def grow(rows: Tensor) -> None:
            nonlocal count
            array = np.ascontiguousarray(rows.cpu().numpy())
            if not count:
                about.update(descr=np.lib.format.dtype_to_descr(array.dtype), shape=(0, *array.shape[1:]))
                header(file)
            file.write(array.data)
            count += len(array)
            about["shape"] = (count, *array.shape[1:])

        yield grow
        header(file)


FORMATS: dict[str, Callable[[Aside, str, Mapping[str, Any]], contextlib.AbstractContextManager[Write]]] = {
    ".csv": _csv,
    ".json": _json,
    ".parquet": _parquet,
    ".npy": _npy,
}
