"""Data sets of the Hub, "org/name", "org/name:CONFIG", "org/name@REVISION:CONFIG": which files are which split.

Parquet is read by the Hub's own rules (https://huggingface.co/docs/hub/datasets-data-files-configuration): `configs:`
at the head of README.md says which files make which split of which configuration; without it, names of files and
folders do. What is kept in another form is read from the Hub's own conversion to parquet, else by the library datasets.
Files come through `zoo.hub.fetch`, at the commit that the data set was first read at.
"""

import posixpath
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import yaml

from zoo.data import tables
from zoo.data.folders import SPLITS
from zoo.data.pictures import suffixes
from zoo.data.tables import Part
from zoo.hub.fetch import DATA, Listed, download, list_files
from zoo.hub.files import again
from zoo.registry import suggest

README, DEFAULT = "README.md", "default"
CONVERTED = "refs/convert/parquet"  # the branch in which the Hub keeps its conversion, CONFIG/SPLIT/0000.parquet
PARTIAL = "partial-"  # what it calls the first 5 GB of a larger split
NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[^:]+))?(:(?P<config>.+))?")

# Names as the Hub reads them: a keyword that stands between these, in a file's name or a folder's.
BETWEEN = "-._ 0-9"
SHARDED = re.compile(r"data/(?P<split>[^/]+)-\d{5}-of-\d{5}[^/]*\.[^/]*")
IN_FOLDERS = ("**/{0}/**", "**/{0}[{1}]*/**", "**/*[{1}]{0}/**", "**/*[{1}]{0}[{1}]*/**")
IN_FILES = ("**/{0}[{1}]*", "**/*[{1}]{0}[{1}]*")
NO_DATA = (README, "config.json", "dataset_info.json", "dataset_infos.json", "dummy_data.zip", "dataset_dict.json")
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # which tell of pictures beside them
# The suffixes of data beside those of pictures; of what is most frequent in a split the Hub takes it to be made.
TEXT = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".txt", ".xml")
PACKED = (".arrow", ".h5", ".hdf5", ".lance", ".parquet", ".tar", ".zip")
HEARD = (".flac", ".m4a", ".mp3", ".ogg", ".opus", ".wav", ".avi", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")


class Name(NamedTuple):
    """A data set as a source names it."""

    repo: str
    revision: str | None
    config: str | None


class Layout(NamedTuple):
    """The files of each split of a configuration; None where some lie elsewhere."""

    config: str
    splits: dict[str, list[str]] | None


def named(source: str) -> Name | None:
    """The data set of the Hub that a source names; None where it can be none."""
    match = NAME.fullmatch(source)
    return Name(**match.groupdict()) if match else None


def parts(source: str, name: Name) -> tuple[dict[str, list[Part]], bool]:
    """The parts of each split, and whether their classes are names of folders.

    Args:
        source: how `name` was written, for messages.

    Raises:
        FileNotFoundError: no such data set or revision, or it is closed to this user; README.md names absent files.
        ConnectionError: not cached, and no network.
        OSError: the cache cannot be written.
        ValueError: no data files, a README.md that cannot be read, no such configuration or several and none asked
            for, a form that is not read, none of the splits one for training, validation or test.
    """
    repo = f"{DATA}{name.repo}"
    try:
        listed = list_files(repo, name.revision)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no folder {source}, and {error}") from error
    front = {}
    if README in listed.files:
        text = download(repo, README, listed.commit).read_text(encoding="utf-8-sig", errors="replace")
        front = front_matter(text, source)
    config, splits = layout(listed.files, front, name.config, source)
    kinds = {kind_of(files) for files in splits.values()} if splits is not None else {"elsewhere"}
    if splits is not None and kinds == {".parquet"}:
        if name.config not in (None, config):
            raise ValueError(f"{source}: {name.repo} has no configurations; leave :{name.config} out")
        return _parts(source, repo, listed.commit, splits, features(front, config, source)), False
    # The Hub converts the newest commit alone.
    converted = None if name.revision else _converted(source, repo, name.config, config)
    if converted is None:
        kind = " and ".join(sorted(kind or "other" for kind in kinds))
        return tables.library(source, name.repo, name.config, listed.commit, kind)
    commit, splits = converted
    return _parts(source, repo, commit, splits, features(front, config, source)), bool(kinds & suffixes())


def front_matter(text: str, source: str) -> dict[str, Any]:
    """What stands between the lines `---` at the head of a README.md; nothing where there are none.

    Raises:
        ValueError: it is no YAML, or no mapping.
    """
    match = re.match(r"\s*---[ \t]*\r?\n(.*?)^---[ \t]*$", text, re.DOTALL | re.MULTILINE)
    if match is None:
        return {}
    try:
        held = yaml.safe_load(match[1]) or {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that is none, lists in lists in lists
        raise _unreadable(source, "its head is no YAML: " + " ".join(str(error).split())) from error
    if not isinstance(held, dict):
        raise _unreadable(source, f"its head is a {type(held).__name__}, expected keys and values")
    return held


def layout(files: Sequence[str], front: Mapping[str, Any], config: str | None, source: str) -> Layout:
    """The files of each split, in order, by what README.md says, else by names of files and folders.

    Args:
        files: all paths of the repository.
        front: what stands at the head of README.md.
        config: the configuration that is asked for; None is the only one, or the one that is marked as default.

    Raises:
        FileNotFoundError: README.md names files that are not there.
        ValueError: no such configuration, several and none asked for, no data files, a README.md that is damaged.
    """
    configs = _configs(front, source)
    if not configs:
        return Layout(DEFAULT, _by_name(files, source))
    chosen = _choose(list(configs), config, source, [c for c, said in configs.items() if said.get("default") is True])
    said = configs[chosen]
    folder = posixpath.normpath(str(said["data_dir"])) if said.get("data_dir") else ""
    inside = [file.removeprefix(f"{folder}/") for file in files if not folder or file.startswith(f"{folder}/")]
    if said.get("data_files") is None:
        splits = _by_name(inside, source)
    else:
        patterns = _patterns(said["data_files"], chosen, source)
        if any("://" in pattern for some in patterns.values() for pattern in some):
            return Layout(chosen, None)
        splits = {split: _matching(inside, some, source) for split, some in patterns.items()}
        for split, some in splits.items():
            if not some:
                raise FileNotFoundError(
                    f"{README} of {source} names {', '.join(patterns[split])} for {split}, and no such data file is "
                    "there; ask for another configuration, or tell its authors"
                )
    return Layout(chosen, {split: [posixpath.join(folder, file) for file in some] for split, some in splits.items()})


def kind_of(files: Iterable[str]) -> str:
    """The suffix of most data files, of as many parquet; "" where none is data."""
    known = {*TEXT, *PACKED, *HEARD, *suffixes()}
    count = Counter(
        (PurePosixPath(file).name not in METADATA, suffix)
        for file in files
        if (suffix := PurePosixPath(file).suffix.lower()) in known
    )
    (_, kind), _ = max(count.items(), key=lambda c: (c[0][0], c[1], c[0][1] == ".parquet"), default=((True, ""), 0))
    return kind


def features(front: Mapping[str, Any], config: str, source: str) -> dict[str, Any]:
    """Column → what the `dataset_info` of README.md says of it, as a parquet file's own note has it.

    Raises:
        ValueError: it is damaged.
    """
    info = front.get("dataset_info") or []
    entries = info if isinstance(info, list) else [info]
    noted: dict[str, Any] = {}
    try:
        of_config = [entry for entry in entries if entry.get("config_name", DEFAULT) == config]
        for column in (of_config or (entries if len(entries) == 1 else [{}]))[0].get("features") or ():
            kind = column.get("dtype")
            if kind == "image":
                noted[column["name"]] = {"_type": "Image"}
            elif isinstance(kind, dict) and (names := (kind.get("class_label") or {}).get("names")):
                if isinstance(names, dict):  # number → name
                    names = [{int(key): name for key, name in names.items()}[label] for label in range(len(names))]
                if not isinstance(names, list):
                    raise TypeError(f"has the names {names!r}")
                noted[column["name"]] = {"_type": "ClassLabel", "names": list(map(str, names))}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _unreadable(source, f"its dataset_info is damaged ({type(error).__name__} {error})") from error
    return noted


# Configurations


def _configs(front: Mapping[str, Any], source: str) -> dict[str, dict[str, Any]]:
    """Name → what README.md says of each configuration."""
    configs = front.get("configs") or []
    if not isinstance(configs, list) or not all(isinstance(c, dict) and "config_name" in c for c in configs):
        raise _unreadable(source, "its configs is no list of such with a config_name")
    names = [config["config_name"] for config in configs]
    if wrong := [name for name in names if not name or names.count(name) > 1]:
        raise _unreadable(source, f"its configs has the config_name {wrong[0]!r}, or has it twice")
    if wrong := [c["data_dir"] for c in configs if not isinstance(c.get("data_dir") or "", str)]:
        raise _unreadable(source, f"its data_dir is {wrong[0]!r}, expected a folder")
    return {str(config["config_name"]): config for config in configs}


def _choose(names: Sequence[str], asked: str | None, source: str, marked: Sequence[str] = ()) -> str:
    if asked is not None and asked not in names:
        raise ValueError(f"{source}: no configuration {asked!r}{suggest(asked, names)}; there are {', '.join(names)}")
    if asked is not None:
        return asked
    defaults = names if len(names) == 1 else [name for name in names if name == DEFAULT or name in marked]
    if len(defaults) != 1:
        several = (
            f"marks {', '.join(defaults)} as default" if defaults else f"has the configurations {', '.join(names)}"
        )
        raise ValueError(f"{source} {several}; give one, {source}:{(defaults or names)[0]}")
    return defaults[0]


def _patterns(said: Any, config: str, source: str) -> dict[str, list[str]]:
    """Split → patterns of what `data_files` says: a pattern, several, or such by split."""
    rows = said if isinstance(said, list) else [said]
    if not rows or not all(rows):
        raise _unreadable(source, f"data_files of {config} has {said!r}, expected a split and a path")
    if all(isinstance(row, str) for row in rows):
        return {"train": rows}
    patterns: dict[str, list[str]] = {}
    for row in rows:
        path = row.get("path") if isinstance(row, dict) else None
        some: list[Any] = path if isinstance(path, list) else [path]
        split = row.get("split") if isinstance(row, dict) else None
        paths = some and all(isinstance(pattern, str) and pattern for pattern in some)
        if not split or isinstance(split, list | dict) or not paths:
            raise _unreadable(source, f"data_files of {config} has {row!r}, expected a split and a path")
        if str(row["split"]) in patterns:
            raise _unreadable(source, f"data_files of {config} has the split {row['split']} twice")
        patterns[str(row["split"])] = some
    return patterns


def _unreadable(source: str, why: str) -> ValueError:
    return ValueError(f"{README} of {source} does not say how it is read, {why}; tell its authors, or get its files")


# Files


def _by_name(files: Sequence[str], source: str) -> dict[str, list[str]]:
    """The files of each split, by the first of these that fits any: shards in data/, folders' names, files' names.

    What names no split is training.
    """
    shards: dict[str, list[str]] = {}
    for file in _matching(files, ["data/*"], source):
        if match := SHARDED.fullmatch(file):
            shards.setdefault(match["split"], []).append(file)
    if shards:
        return shards
    for patterns in (IN_FOLDERS, IN_FILES):
        splits = {
            names[0]: _matching(files, [p.format(word, BETWEEN) for word in names for p in patterns], source)
            for names in SPLITS.values()
        }
        if any(splits.values()):
            return {split: some for split, some in splits.items() if some}
    if every := _matching(files, ["**"], source):
        return {"train": every}
    raise ValueError(f"{source} has no data files; is it the right one, or is it still empty?")


def _matching(files: Sequence[str], patterns: Iterable[str], source: str) -> list[str]:
    """The data files that fit any pattern, in the order of the patterns, each once.

    What is hidden, and folders such as __MACOSX, a pattern has to name.
    """
    from fsspec.utils import glob_translate

    found: dict[str, None] = {}
    for pattern in map(posixpath.normpath, patterns):
        try:
            fits = re.compile(glob_translate(pattern)).match
        except ValueError as error:
            raise _unreadable(source, f"{pattern!r} is no pattern of files ({error})") from error
        wanted = _aside(pattern)
        for file in sorted(files):
            name = posixpath.basename(file)
            if fits(file) and _aside(file) == wanted and (name not in NO_DATA or name == posixpath.basename(pattern)):
                found[file] = None
    return list(found)


def _aside(path: str) -> tuple[int, int]:
    """How many hidden parts and how many folders with "__" a path has."""
    *folders, name = path.split("/")
    return sum(part.startswith(".") for part in (*folders, name)), sum(part.startswith("__") for part in folders)


# Reading


def _parts(
    source: str, repo: str, commit: str, splits: Mapping[str, list[str]], noted: Mapping[str, Any]
) -> dict[str, list[Part]]:
    """The parquet files of the splits that are used, fetched; a note of README.md serves those that have none."""
    roles = {role: split for role, names in SPLITS.items() if (split := next((n for n in names if n in splits), None))}
    if not roles:
        raise ValueError(f"{source} has the splits {', '.join(splits)}; expected some of train, validation, test")
    if left := [split for split in splits if split not in roles.values()]:
        warnings.warn(f"{source} is read without the splits {', '.join(left)}", stacklevel=3)
    found: dict[str, list[Part]] = {}
    for role, split in roles.items():
        for file in (f for f in splits[split] if PurePosixPath(f).suffix.lower() == ".parquet"):
            path = download(repo, file, commit)
            part = tables.opened(path, f"{file} of {source}", file, cure=again(path))
            if noted and not part.features:
                part = part._replace(schema=part.schema.with_metadata(tables.described(noted)))
            found.setdefault(role, []).append(part)
    return found


def _converted(source: str, repo: str, asked: str | None, config: str) -> tuple[str, dict[str, list[str]]] | None:
    """The commit and the files of each split of the Hub's conversion; None where it has none of the whole."""
    try:
        listed: Listed = list_files(repo, CONVERTED)
    except FileNotFoundError:
        return None
    except ConnectionError:
        if tables.has_library():
            return None
        raise
    configs: dict[str, dict[str, list[str]]] = {}
    for file in listed.files:
        folders = file.split("/")
        if len(folders) == 3 and file.endswith(".parquet"):
            configs.setdefault(folders[0], {}).setdefault(folders[1], []).append(file)
    if not configs:
        return None
    if asked is None and config in configs:
        asked = config
    splits = configs[_choose(list(configs), asked, source)]
    return None if any(split.startswith(PARTIAL) for split in splits) else (listed.commit, splits)
