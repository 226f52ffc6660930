"""Files, and lists of files: one picture, several, CSV, TSV and JSONL with classes and splits, metadata of a folder."""

import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from test_sources import PNG, classes, counts, put, rows, silent

from zoo.data.readers import read

NAMES = ("a b.png", "ünï/ç.png", "two\nlines.png", 'quo"te, comma.png')  # as people have them


def listed(path, *lines, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding=encoding)
    return str(path)


def found(source, **args):
    """Split → (name, class) of each picture."""
    return {
        role: [(name, items.classes[y] if y >= 0 else None) for name, y in zip(items.names, items.labels)]
        for role, items in silent(read, source, **args).items()
    }


# Files


def test_one_picture_and_several_are_sources(tmp_path):
    put(tmp_path, "a b.png", "more/ü.png")
    paths = [tmp_path / "a b.png", tmp_path / "more/ü.png"]
    for one in (str(paths[0]), paths[0], [paths[0]], [str(paths[0])]):
        assert found(one) == {"train": [("a b.png", None)]}
    several = read(paths)["train"]
    assert (several.images, several.names, several.source) == (paths, [str(p) for p in paths], "2 files")
    assert several.labels.tolist() == [-1, -1]


def test_one_parquet_file_is_a_source(tmp_path):
    parquet.write_table(rows([0, 1]), tmp_path / "pets.parquet")
    parquet.write_table(rows([0, 1]), tmp_path / "test-00000-of-00001.parquet")
    assert counts(tmp_path / "pets.parquet") == {"train": [1, 1]}
    assert counts(tmp_path / "test-00000-of-00001.parquet") == {"test": [1, 1]}


@pytest.mark.parametrize("column", ["path", "image", "File_Name"])
def test_a_table_may_hold_paths(tmp_path, column):
    put(tmp_path, "cats/1.png", "dogs/1.png")
    table = pa.table({column: ["cats/1.png", "dogs/1.png"], "label": ["cat", "dog"]})
    parquet.write_table(table, tmp_path / "x.parquet")
    assert found(str(tmp_path / "x.parquet")) == {"train": [("cats/1.png", "cat"), ("dogs/1.png", "dog")]}


@pytest.mark.parametrize(
    ("source", "error", "said"),
    [
        (["a.png", "pets"], ValueError, r"pets is a folder, expected a picture; give that folder alone"),
        (["a.png", "b.png"], FileNotFoundError, r"no file \S+b\.png; give pictures that are there"),
        (["a.png", "notes.txt"], ValueError, r"notes\.txt is no picture; expected one with a suffix that Pillow"),
        ("notes.txt", ValueError, r"notes\.txt is no picture.* alone a parquet file or a list of pictures, \.csv"),
        ("b.csv", FileNotFoundError, r"no file \S+b\.csv; give a folder of class folders"),
        ([], ValueError, "no picture is given"),
    ],
)
def test_what_is_no_picture_is_refused_by_name(tmp_path, source, error, said):
    put(tmp_path, "a.png", "pets/cat/0.png", "notes.txt")
    place = str(tmp_path / source) if isinstance(source, str) else [tmp_path / name for name in source]
    with pytest.raises(error, match=said):
        read(place)


@pytest.mark.parametrize("name", ["nowhere/", "nowhere/b.csv", "nowhere/b.jpg", "nowhere"])
def test_a_place_that_is_not_there_is_not_looked_for_on_the_hub(name):
    with pytest.raises(FileNotFoundError, match=f"no (folder|file) {name}; give"):
        read(name)


# Lists


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_csv_names_pictures_with_their_classes_and_splits(tmp_path, delimiter, encoding):
    put(tmp_path, "in/1.png", "in/2.png", "in/3.png")
    lines = ("File,Class,Split,note", "in/1.png,dog,train,x", "in/2.png,cat,Train,", "in/3.png,dog,validation,y")
    source = listed(tmp_path / "pets.csv", *(line.replace(",", delimiter) for line in lines), encoding=encoding)
    assert found(source) == {"train": [("in/1.png", "dog"), ("in/2.png", "cat")], "val": [("in/3.png", "dog")]}
    assert classes(source) == ["cat", "dog"]
    assert found(source, label_column="")["val"] == [("in/3.png", None)]


def test_names_may_hold_spaces_newlines_quotes_and_any_letters(tmp_path):
    put(tmp_path, *NAMES)
    quoted = [name.replace('"', '""') for name in NAMES]
    table = listed(tmp_path / "a.csv", "path,label", *(f'"{name}",{i}' for i, name in enumerate(quoted)))
    lines = listed(tmp_path / "b.jsonl", *(json.dumps({"path": n, "label": i}) for i, n in enumerate(NAMES)))
    expected = {"train": [(name, str(i)) for i, name in enumerate(NAMES)]}
    assert found(table) == found(lines) == expected
    (tmp_path / NAMES[3]).unlink()
    with pytest.raises(FileNotFoundError, match=r'^line 6 of \S+a\.csv \(quo"te, comma\.png\) names a picture that is'):
        read(table)  # the third name takes two lines


def test_a_list_may_do_without_labels_splits_and_heading(tmp_path):
    put(tmp_path, "1.png", "2.png")
    assert found(listed(tmp_path / "a.csv", "path", "1.png", "2.png")) == {"train": [("1.png", None), ("2.png", None)]}
    assert found(listed(tmp_path / "b.csv", "1.png", "2.png")) == {"train": [("1.png", None), ("2.png", None)]}
    both = {"train": [("1.png", "cat"), ("2.png", "dog")]}
    assert found(listed(tmp_path / "c.csv", "1.png,cat", "2.png,dog")) == both
    assert found(listed(tmp_path / "d.csv", "cat;1.png", "dog;2.png")) == both
    assert found(listed(tmp_path / "e.tsv", "file\tlabels", "1.png\tcat", "2.png\tdog")) == both
    unlabelled = listed(tmp_path / "f.csv", "path,label", "1.png,", "2.png,-1")
    assert found(unlabelled) == {"train": [("1.png", None), ("2.png", None)]}
    with pytest.warns(UserWarning, match=r"no label column among path, species and is read without labels"):
        read(listed(tmp_path / "g.csv", "path,species", "1.png,cat", "2.png,dog"))
    assert found(str(tmp_path / "g.csv"), label_column="species") == both


def test_a_list_without_splits_may_be_named_for_one_or_its_folders_may(tmp_path):
    put(tmp_path, "train/1.png", "Valid/1.png", "3.png")
    lines = ("path,label", "train/1.png,a", "Valid/1.png,b")
    assert found(listed(tmp_path / "all.csv", *lines)) == {
        "train": [("train/1.png", "a")],
        "val": [("Valid/1.png", "b")],
    }
    assert list(found(listed(tmp_path / "test.csv", *lines))) == ["test"]
    assert list(found(listed(tmp_path / "all.csv", *lines, "3.png,b"))) == ["train"]


def test_numbers_are_names_of_classes_that_stand_in_the_order_of_numbers(tmp_path):
    put(tmp_path, "1.png")
    numbers = [10, 9, 1001]
    source = listed(tmp_path / "a.jsonl", *(json.dumps({"image": "1.png", "label": n}) for n in numbers))
    assert classes(source) == ["9", "10", "1001"]
    assert read(source)["train"].labels.tolist() == [1, 0, 2]


@pytest.mark.parametrize(
    ("file", "lines", "said"),
    [
        ("a.csv", ["path,label"], r"a\.csv has no rows"),
        (
            "a.csv",
            ["path,label", "1.png,x,y"],
            r"line 2 of \S+ has 3 values, expected 2, path, label; put what holds a",
        ),
        (
            "a.csv",
            ["path,split", "1.png,train", "1.png,holdout"],
            r"line 3 of \S+ has the split 'holdout', 1 of 2 rows",
        ),
        ("a.csv", ["path,label", "1.png,x", "1.png,"], r"line 3 of \S+ has the label null"),
        ("a.csv", ["name,label", "x,y"], r"has no image column among name, label; name it with image_column"),
        ("a.csv", ["path", '"1.png'], r"a\.csv is no csv in UTF-8"),
        ("a.jsonl", ['{"path": "1.png"}', "{path}"], r"line 2 of \S+ is no JSON .*; write an object on each"),
        ("a.jsonl", ["[1]"], r"line 1 of \S+ is \[1\]; write an object on each"),
        (
            "a.jsonl",
            ['{"path": "1.png", "label": [1, 2]}'],
            r"column 'label' of \S+ is list<.*expected a number or a name",
        ),
        ("a.jsonl", ['{"path": "1.png"}', '{"label": "x"}'], r"has no picture in line 2, 1 of 2 rows"),
    ],
)
def test_a_list_that_cannot_be_read_is_refused_by_line(tmp_path, file, lines, said):
    put(tmp_path, "1.png")
    with pytest.raises(ValueError, match=said):
        read(listed(tmp_path / file, *lines))


def test_missing_pictures_are_named_by_line_with_how_many_they_are(tmp_path):
    put(tmp_path, "1.png")
    source = listed(tmp_path / "a.csv", "path,label", "1.png,x", "2.png,y", "3.png,x")
    with pytest.raises(
        FileNotFoundError, match=r"^line 3 of \S+a\.csv \(2\.png\) names a picture .* \(so do 2 of 3 row"
    ):
        read(source)


def test_a_picture_that_cannot_be_fetched_is_named_by_line(tmp_path):
    source = listed(tmp_path / "a.csv", "path,label", "http://127.0.0.1:9/x.png,cat")
    with pytest.raises(
        FileNotFoundError, match=r"^line 2 of \S+a\.csv \(http://127\.0\.0\.1:9/x\.png\) cannot be fetched \(.*\); mend"
    ):
        read(source)


def test_text_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes("path,label\nü.png,x\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"a\.csv is no csv in UTF-8 .*; write it anew"):
        read(str(tmp_path / "a.csv"))


# Metadata


@pytest.mark.parametrize("jsonl", [False, True])
def test_the_metadata_of_a_folder_tells_classes_and_splits(tmp_path, jsonl):
    put(tmp_path, "train/1.png", "train/2.png", "test/1.png")
    for split, told in (("train", [("1.png", "dog"), ("2.png", "cat")]), ("test", [("1.png", "dog")])):
        if jsonl:
            text = [json.dumps({"file_name": name, "label": label}) for name, label in told]
        else:
            text = ["file_name,label", *(f"{name},{label}" for name, label in told)]
        listed(tmp_path / split / f"metadata.{'jsonl' if jsonl else 'csv'}", *text)
    source = str(tmp_path)
    assert {role: [label for _, label in some] for role, some in found(source).items()} == {
        "train": ["dog", "cat"],
        "test": ["dog"],
    }
    assert [n for some in found(source).values() for n, _ in some] == ["train/1.png", "train/2.png", "test/1.png"]
    put(tmp_path, "test/2.png")
    with pytest.warns(UserWarning, match="is read without 1 pictures that its metadata does not list"):
        assert counts(source) == {"train": [1, 1], "test": [0, 1]}


def test_metadata_that_tells_no_class_leaves_a_folder_as_it_is(tmp_path):
    put(tmp_path, "cat/1.png", "dog/1.png")
    listed(tmp_path / "metadata.csv", "file_name,text", "cat/1.png,a cat", "dog/1.png,a dog")
    assert counts(tmp_path) == {"train": [1, 1]}
    listed(tmp_path / "metadata.csv", "file_name,label", "cat/1.png,Felis", "dog/1.png,Canis")
    assert found(str(tmp_path)) == {"train": [("cat/1.png", "Felis"), ("dog/1.png", "Canis")]}


def test_rows_of_bytes_and_paths_are_read_alike(tmp_path):
    images = [{"bytes": PNG, "path": "x.png"}, {"bytes": None, "path": str(tmp_path / "y.png")}]
    put(tmp_path, "y.png")
    parquet.write_table(rows([0, 1], images), tmp_path / "t.parquet")
    parquet.write_table(pa.table({"image": [PNG, PNG], "label": [0, 1]}), tmp_path / "raw.parquet")
    assert found(str(tmp_path / "t.parquet")) == {"train": [("x.png", "0"), ("y.png", "1")]}
    items = read(str(tmp_path / "raw.parquet"))["train"]
    assert [bytes(image) for image in items.images] == [PNG, PNG]
    assert np.array_equal(items.labels, [0, 1])
