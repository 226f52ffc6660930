"""Data sets of the Hub without the library datasets, which is the oracle here: the same splits, classes and rows."""

import io
import sys
import warnings
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
from huggingface_hub import constants
from publisher import Machine, publish, publishing
from pyarrow import parquet
from test_pictures import encoded

from zoo import cli
from zoo.data import tables
from zoo.data.images import ImageData
from zoo.data.readers import read
from zoo.hub import lock

FIRST, SECOND, CONVERTED = "1" * 40, "2" * 40, "c" * 40
SETS = "datasets/org/name"
NAMES = ["cat", "dog", "eel"]
SPLITS = {"train": "train", "validation": "val", "test": "test"}
NOTED = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": NAMES}}


def table(start: int, rows: int = 2, noted: bool = True) -> bytes:
    """A parquet file of pictures that are told apart by their grey, from `start` on, of classes in turn."""
    images = [{"bytes": encoded(np.full((2, 2), start + i, np.uint8)), "path": None} for i in range(rows)]
    made = pa.table({"image": images, "label": [(start + i) % 3 for i in range(rows)]})
    parquet.write_table(made.replace_schema_metadata(tables.described(NOTED) if noted else None), out := io.BytesIO())
    return out.getvalue()


def readme(head: str) -> bytes:
    return f"---\nlicense: mit\n{head}\n---\n# A data set\n---\n".encode()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub with org/name, of which `files` is the newest commit."""
    with publishing() as server:
        publish(server, monkeypatch)
        Machine(tmp_path / "here", monkeypatch).use()
        server.files_of = lambda commit=FIRST: server.repos.setdefault(SETS, {}).setdefault(commit, {})
        yield server


def quiet(source, **how):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read(source, **how)


def rows(items):
    """The encoded picture and the class of each row."""
    return [(bytes(image), items.classes[y]) for image, y in zip(items.images, items.labels)]


def expected(folder, config=None):
    """What the library reads of a folder, by role."""
    sets = datasets.load_dataset(str(folder), config, cache_dir=str(folder.parent / "oracle"))
    found = {}
    for name, some in sets.items():
        if name in SPLITS:
            names = some.features["label"].names
            some = some.cast_column("image", datasets.Image(decode=False))
            found[SPLITS[name]] = [(row["image"]["bytes"], names[row["label"]]) for row in some]
    return found


SHARDS = ("data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/test-00000-of-00001.parquet")
BY_SPLIT = """configs:
- config_name: default
  data_files:
  - split: train
    path: [a/*.parquet, b/2.parquet]
  - split: validation
    path: "b/[01].parquet"
"""
TWO = """configs:
- config_name: small
  data_files: small/*
- config_name: large
  default: true
  data_files: ["large/**/x-*.parquet", large/more.parquet]
- config_name: folder
  data_dir: inner
"""
LAYOUTS = {
    "shards in data": (SHARDS, "", None),
    "shards beside others": ((*SHARDS, "train.parquet", "data/extra-00000-of-00001.parquet"), "", None),
    "files by name": (("train.parquet", "val.parquet", "testing.parquet"), "", None),
    "files by a word of their name": (
        ("deep/my_train_1.parquet", "deep/my-eval.2.parquet", "a.valid.parquet"),
        "",
        None,
    ),
    "a word inside another is none": (("trains.parquet", "contest.parquet"), "", None),
    "folders": (("train/1.parquet", "train/0.parquet", "dev/0.parquet", "evaluation/0.parquet"), "", None),
    "folders in folders": (("x/split-train/a/0.parquet", "x/split-test 2/0.parquet", "y/train-1/b.parquet"), "", None),
    "folders before files": (("test/0.parquet", "train.parquet"), "", None),
    "no word": (("one.parquet", "in/two.parquet"), "", None),
    "hidden and packed": (
        ("train.parquet", ".x/train.parquet", "__MACOSX/train.parquet", "a/.train.parquet"),
        "",
        None,
    ),
    "a pattern": (
        ("a/0.parquet", "b/0.parquet", "c.parquet"),
        "configs:\n- {config_name: x, data_files: '*/0*'}",
        None,
    ),
    "patterns": (("a.parquet", "b.parquet", "c.parquet"), "configs:\n- {config_name: x, data_files: [b*, a*]}", None),
    "patterns by split": (("a/0.parquet", "b/0.parquet", "b/1.parquet", "b/2.parquet"), BY_SPLIT, None),
    "the default configuration": (
        ("small/0.parquet", "large/u/x-0.parquet", "large/more.parquet", "inner/0.parquet"),
        TWO,
        None,
    ),
    "a configuration": (
        ("small/0.parquet", "large/u/x-0.parquet", "large/more.parquet", "inner/test.parquet"),
        TWO,
        "small",
    ),
    "a folder": (("small/0.parquet", "inner/test.parquet", "inner/train.parquet", "large/more.parquet"), TWO, "folder"),
    "hidden, but named": ((".x/0.parquet", "y.parquet"), "configs:\n- {config_name: x, data_files: '.x/*'}", None),
    "beside other kinds": ((*SHARDS, "data/train-00000-of-00001.json", "LICENSE", "load.py"), "", None),
}  # files, the head of README.md, the configuration that is asked for


@pytest.mark.parametrize("layout", LAYOUTS)
def test_splits_classes_and_rows_are_those_of_the_library(layout, hub, tmp_path):
    names, head, config = LAYOUTS[layout]
    files = {name: table(10 * i) if name.endswith(".parquet") else b"{}" for i, name in enumerate(names)}
    files |= {"README.md": readme(head)} if head else {}
    for name, content in files.items():
        (tmp_path / "name" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "name" / name).write_bytes(content)
    hub.files_of().update(files)
    found = quiet("org/name" if config is None else f"org/name:{config}")
    assert {role: rows(items) for role, items in found.items()} == expected(tmp_path / "name", config)
    assert {tuple(items.classes) for items in found.values()} == {tuple(NAMES)}


INFO = """  features:
  - name: image
    dtype: image
  - name: label
    dtype:
      class_label:
        names: {'0': cat, '1': dog, '2': eel}
"""
INFOS = {
    "one": f"dataset_info:\n{INFO}",
    "of the configuration": "dataset_info:\n- config_name: other\n"
    + INFO.replace("cat", "no cat")
    + f"- config_name: x\n{INFO}configs:\n- {{config_name: x, data_files: '*'}}",
}


@pytest.mark.parametrize("head", INFOS.values(), ids=INFOS)
def test_classes_that_no_table_names_are_those_of_the_readme(head, hub, tmp_path):
    files = {"train.parquet": table(0, 3, noted=False), "README.md": readme(head)}
    (tmp_path / "name").mkdir()
    for name, content in files.items():
        (tmp_path / "name" / name).write_bytes(content)
    hub.files_of().update(files)
    assert {role: rows(items) for role, items in quiet("org/name").items()} == expected(tmp_path / "name")
    other = files | {"train.parquet": table(0, 3), "README.md": readme(head.replace("cat", "ape"))}
    hub.files_of(SECOND).update(other)
    assert quiet(f"org/name@{SECOND}")["train"].classes == NAMES  # a table's own note comes first


def test_what_holds_no_split_that_is_used_is_said(hub):
    hub.files_of().update({f"data/{s}-00000-of-00001.parquet": table(0) for s in ("train", "extra", "more")})
    quiet("org/name")
    with pytest.warns(UserWarning, match=r"^org/name is read without the splits extra, more$"):
        assert list(read("org/name")) == ["train"]


def test_neither_datasets_nor_pandas_is_needed(hub, monkeypatch):
    for module in ("datasets", "pandas"):
        monkeypatch.setitem(sys.modules, module, None)
    hub.files_of().update({"train.parquet": table(0, 6), "test.parquet": table(6, 4)})
    data = ImageData("org/name", batch_size=2)
    with pytest.warns(UserWarning, match="org/name is read at commit 111111111111 from now on"):
        data.setup()
    assert (data.classes, len(data.splits["test"][1])) == (NAMES, 4)


# Another form than parquet


def without_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)


def test_another_form_is_read_from_the_conversion_of_the_hub(hub, monkeypatch):
    without_library(monkeypatch)
    hub.files_of().update({f"{split}/{name}/0.jpg": b"" for split in ("train", "test") for name in NAMES})
    hub.files_of(CONVERTED).update(
        {f"default/{s}/000{i}.parquet": table(10 * i) for s, n in (("train", 2), ("test", 1)) for i in range(n)}
    )
    hub.heads[SETS] = {"refs/convert/parquet": CONVERTED}
    found = quiet("org/name")
    assert {role: len(items) for role, items in found.items()} == {"train": 4, "test": 2}
    assert found["train"].classes == NAMES
    with pytest.raises(ValueError, match=r"the Hub has no whole conversion of them to parquet"):  # it is of main
        quiet(f"org/name@{FIRST}")


def test_classes_of_converted_folders_stand_in_the_order_of_numbers(hub):
    names = sorted(map(str, range(11)))  # "10" after "1", as a conversion of folders has them
    images = [{"bytes": encoded(np.full((2, 2), i, np.uint8)), "path": None} for i in range(11)]
    made = pa.table({"image": images, "label": list(range(11))})
    noted = tables.described(NOTED | {"label": {"_type": "ClassLabel", "names": names}})
    parquet.write_table(made.replace_schema_metadata(noted), out := io.BytesIO())
    hub.files_of().update({f"{name}/0.png": b"" for name in names})
    hub.files_of(CONVERTED)["default/train/0000.parquet"] = out.getvalue()
    hub.heads[SETS] = {"refs/convert/parquet": CONVERTED}
    items = quiet("org/name")["train"]
    assert (items.classes, items.labels.tolist()) == ([*map(str, range(11))], [int(name) for name in names])


def test_a_configuration_of_the_conversion_is_asked_for_by_name(hub):
    hub.files_of()["name.py"] = b"a script, as data sets of old have them"
    hub.files_of(CONVERTED).update({f"{c}/train/0000.parquet": table(i) for i, c in enumerate(("fine", "coarse"))})
    hub.heads[SETS] = {"refs/convert/parquet": CONVERTED}
    assert rows(quiet("org/name:coarse")["train"])[0] == (encoded(np.full((2, 2), 1, np.uint8)), "dog")
    with pytest.raises(ValueError, match=r"has the configurations coarse, fine; give one, org/name:coarse$"):
        quiet("org/name")


@pytest.mark.parametrize("converted", [{}, {"default/partial-train/0000.parquet": table(0)}])
def test_a_form_that_is_not_converted_as_a_whole_names_the_extra_that_reads_it(converted, hub, monkeypatch, tmp_path):
    hub.files_of()["train.csv"] = b"image,label\n"
    if converted:
        hub.files_of(CONVERTED).update(converted)
        hub.heads[SETS] = {"refs/convert/parquet": CONVERTED}
    made = datasets.load_dataset(
        "parquet", data_files=[write(tmp_path / "t.parquet", table(0))], cache_dir=str(tmp_path)
    )
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **how: asked.append((args, how)) or made)
    items = quiet("org/name")["train"]
    assert rows(items) == [(encoded(np.full((2, 2), i, np.uint8)), NAMES[i]) for i in range(2)]
    assert asked == [(("org/name", None), {"revision": FIRST})]  # the commit that is pinned
    without_library(monkeypatch)
    said = r"made of \.csv files, .* no whole conversion of them to parquet; .* pip install 'latentzoo\[datasets\]'$"
    with pytest.raises(ValueError, match=said):
        quiet("org/name")


def write(path, content):
    path.write_bytes(content)
    return str(path)


def test_what_the_library_reads_is_read_as_a_local_folder_is(hub, tmp_path, monkeypatch):
    for split, name in ((s, str(i)) for s in ("train", "test") for i in range(11)):
        (tmp_path / "in" / split / name).mkdir(parents=True)
        write(tmp_path / "in" / split / name / "0.png", encoded(np.full((2, 2), int(name), np.uint8)))
        hub.files_of()[f"{split}/{name}/0.png"] = b""
    load = datasets.load_dataset
    made = load("imagefolder", data_dir=str(tmp_path / "in"), cache_dir=str(tmp_path / "cache"))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: made)
    local, remote = read(str(tmp_path / "in")), quiet("org/name")
    assert remote["test"].classes == local["test"].classes == [str(i) for i in range(11)]
    for role, items in remote.items():
        assert {(p.resolve(), int(y)) for p, y in zip(items.images, items.labels)} == {
            (p.resolve(), int(y)) for p, y in zip(local[role].images, local[role].labels)
        }


class Unreachable(Exception):
    """As the library's client of HTTP raises it."""


@pytest.mark.parametrize("kind", [OSError, Unreachable])
def test_a_cache_of_the_library_that_cannot_be_written_is_named(kind, hub, tmp_path, monkeypatch):
    def load(*_, **__):
        raise kind("no place for it")

    hub.files_of()["train.csv"] = b"image,label\n"
    monkeypatch.setattr(datasets, "load_dataset", load)
    write(tmp_path / "file", b"")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file" / "cache")
    with pytest.raises(
        OSError, match=r"the cache \S+/file/cache cannot be written: .*; set HF_HOME to a folder that c"
    ):
        quiet("org/name")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    with pytest.raises(ConnectionError, match="org/name is not cached and the Hub cannot be reached"):
        quiet("org/name")


# Pins, and machines without a network


def unreachable(monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    )


def test_a_data_set_stays_what_it_was_when_it_was_first_read(hub, tmp_path, monkeypatch):
    hub.files_of()["train.parquet"] = table(0)
    with pytest.warns(
        UserWarning, match=r"hf://datasets/org/name is read at commit 111111111111 from now on, as pinned"
    ):
        first = rows(read("org/name")["train"])
    hub.files_of(SECOND).update({"train.parquet": table(50), "test.parquet": table(60)})
    asked = len(hub.asked)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = read("org/name")
    assert ({role: rows(items) for role, items in again.items()}, len(hub.asked)) == ({"train": first}, asked)
    assert set(quiet("org/name@main")) == {"train", "test"}
    shared = lock.current()
    Machine(tmp_path / "there", monkeypatch).use(lock=shared)  # a colleague who has the lock file
    assert {role: rows(items) for role, items in quiet("org/name").items()} == {"train": first}
    shared.unlink()
    assert set(quiet("org/name")) == {"train", "test"}


def test_what_was_read_once_is_read_without_a_network(hub, monkeypatch):
    hub.files_of().update({"train.parquet": table(0), "README.md": readme("")})
    first = rows(quiet("org/name")["train"])
    unreachable(monkeypatch)
    assert rows(quiet("org/name")["train"]) == first
    with pytest.raises(
        ConnectionError, match=r"^hf://datasets/org/other is not in the cache .*; load it once online, or give"
    ):
        quiet("org/other")
    (link,) = Path(constants.HF_HUB_CACHE, "datasets--org--name").rglob("train.parquet")
    link.unlink()
    said = r"^hf://datasets/org/name@1{40} train\.parquet is not in the cache and the Hub cannot be reached"
    with pytest.raises(ConnectionError, match=said):
        quiet("org/name")


def test_places_that_cannot_be_written_are_named(hub, tmp_path, monkeypatch):
    hub.files_of()["train.parquet"] = table(0)
    write(tmp_path / "file", b"")
    monkeypatch.setenv("ZOO_LOCK", str(tmp_path / "file" / "lock.json"))
    with pytest.warns(
        UserWarning, match=r"hf://datasets/org/name is not pinned, .*set ZOO_LOCK and ZOO_CACHE to places"
    ):
        assert len(read("org/name")["train"]) == 2
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
    with pytest.raises(
        OSError, match=r"the cache \S+/file/hub cannot be written: .*; set HF_HOME to a folder that can be"
    ):
        quiet("org/name")


# What is refused


def refused(source, tmp_path, capsys):
    """The one line that the command line gives."""
    assert cli.main(["shard", source, "-o", str(tmp_path / "out")]) == 2
    (line,) = [text for text in capsys.readouterr().err.splitlines() if "from now on" not in text]
    return line


def no_image() -> bytes:
    parquet.write_table(pa.table({"text": ["a"], "label": [0]}), out := io.BytesIO())
    return out.getvalue()


ABSENT = """configs:
- config_name: x
  data_files:
  - {split: train, path: data/one.parquet}
  - {split: test, path: 'none/*.parquet'}
"""
OPEN = """configs:
- {config_name: one, data_files: a*}
- {config_name: two, data_files: b*}
"""
BAD = {
    "no data files": (
        {"README.md": readme(""), ".gitattributes": b""},
        "",
        "org/name has no data files; is it the right",
    ),
    "broken YAML": (
        {"README.md": readme("configs: [")},
        "",
        "README.md of org/name does not say how it is read, its hea",
    ),
    "a head of one word": ({"README.md": b"---\nword\n---\n"}, "", "its head is a str, expected keys and values"),
    "configurations that are none": (
        {"README.md": readme("configs: x")},
        "",
        "its configs is no list of such with a conf",
    ),
    "files that are absent": (
        {"README.md": readme(ABSENT), "data/one.parquet": table(0)},
        "",
        "names none/*.parquet for test, and no such data file is there",
    ),
    "two configurations": (
        {"README.md": readme(OPEN), "a.parquet": table(0), "b.parquet": table(0)},
        "",
        "org/name has the configurations one, two; give one, org/name:one",
    ),
    "an unknown configuration": ({"README.md": readme(OPEN)}, ":tow", "no configuration 'tow', did you mean"),
    "a configuration of none": (
        {"train.parquet": table(0)},
        ":fine",
        "org/name has no configurations; leave :fine out",
    ),
    "a split twice": (
        {"README.md": readme(ABSENT.replace("test", "train"))},
        "",
        "data_files of x has the split train twice",
    ),
    "a split without a path": (
        {"README.md": readme("configs: [{config_name: x, data_files: [{split: test}]}]")},
        "",
        "a path",
    ),
    "a pattern that is none": (
        {"README.md": readme("configs: [{config_name: x, data_files: '**.parquet'}]"), "a.parquet": table(0)},
        "",
        "'**.parquet' is no pattern of files",
    ),
    "no picture": (
        {"train.parquet": no_image()},
        "",
        "org/name has no image column among text, label; name it with --image-column",
    ),
    "no split that is used": (
        {"data/x-00000-of-00001.parquet": table(0)},
        "",
        "org/name has the splits x; expected some of",
    ),
    "damaged classes": (
        {"README.md": readme("dataset_info: {features: [{name: label, dtype: {class_label: {names: {a: b}}}}]}")}
        | {"train.parquet": table(0, noted=False)},
        "",
        "its dataset_info is damaged (ValueError",
    ),
    "a class without its number": (
        {
            "README.md": readme(
                "dataset_info: {features: [{name: label, dtype: {class_label: {names: {'0': a, '2': b}}}}]}"
            )
        }
        | {"train.parquet": table(0, noted=False)},
        "",
        "its dataset_info is damaged (KeyError 1)",
    ),
    "classes that are one word": (
        {"README.md": readme("dataset_info: {features: [{name: label, dtype: {class_label: {names: cat}}}]}")}
        | {"train.parquet": table(0, noted=False)},
        "",
        "its dataset_info is damaged (TypeError has the names 'cat'",
    ),
    "a date that is none": ({"README.md": readme("made: 2020-99-99")}, "", "its head is no YAML: month must be in"),
    "lists in lists": ({"README.md": readme("x: " + "[" * 5000)}, "", "its head is no YAML"),
    "a configuration twice": (
        {"README.md": readme("configs: [{config_name: x}, {config_name: x}]"), "train.parquet": table(0)},
        "",
        "has the config_name 'x', or has it twice",
    ),
    "no data_files": (
        {"README.md": readme("configs: [{config_name: x, data_files: []}]"), "train.parquet": table(0)},
        "",
        "data_files of x has [], expected a split and a path",
    ),
    "a list for a split": (
        {"README.md": readme("configs: [{config_name: x, data_files: [{split: [train], path: a}]}]")},
        "",
        "expected a split and a path",
    ),
    "a damaged table": (
        {"train.parquet": b"PAR1"},
        "",
        "train.parquet of org/name is no parquet file, or a damaged one",
    ),
    "no such revision": (
        {"train.parquet": table(0)},
        "@v9",
        "hf://datasets/org/name has no revision 'v9'; leave it out",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_read_is_refused_in_a_line(case, hub, tmp_path, capsys):
    files, after, said = BAD[case]
    hub.files_of().update(files)
    assert said in refused(f"org/name{after}", tmp_path, capsys)


def test_what_is_closed_absent_or_out_of_reach_is_refused_in_a_line(hub, tmp_path, capsys, monkeypatch):
    said = (
        "no folder org/none, and no repository or revision hf://datasets/org/none, or it is private and HF_TOKEN does"
    )
    assert said in refused("org/none", tmp_path, capsys)
    hub.files_of()["train.parquet"] = table(0)
    hub.gated.add(SETS)
    said = (
        f"hf://datasets/org/name@{FIRST} is open to who has accepted its terms; do so at {hub.url}/{SETS}, and set HF_"
    )
    assert said in refused("org/name", tmp_path, capsys)
    unreachable(monkeypatch)
    assert "hf://datasets/org/none is not in the cache and the Hub cannot be reached" in refused(
        "org/none", tmp_path, capsys
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "hf://datasets/org/none is not in the cache and the Hub cannot be reached" in refused(
        "org/none", tmp_path, capsys
    )
