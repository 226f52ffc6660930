"""Folders and tables as people have them: which files are pictures, which are classes, which labels are labels."""

import os
import pickle
import warnings
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
import torchvision
from pyarrow import parquet
from test_pictures import encoded

from zoo.data import sharding, shards
from zoo.data.clips import ClipData, find_videos
from zoo.data.images import ImageData
from zoo.data.readers import read, serving, together

PNG = encoded(np.full((4, 4), 100, np.uint8))


def put(root, *files):
    """Files of a folder; a name that ends in / is an empty folder."""
    for name in files:
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_bytes(PNG if path.suffix in (".png", ".jfif") else b"text")
    return root


def counts(source, **args):
    """Split → images of each class, None of those without one."""
    found = read(str(source), **args)
    return {
        role: [int((items.labels == c).sum()) for c in range(len(items.classes))] if items.labelled else None
        for role, items in found.items()
    }


def classes(source, **args):
    (names,) = {tuple(items.classes) for items in read(str(source), **args).values()}
    return list(names)


def silent(call, *args, **more):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return call(*args, **more)


# Folders


def test_hidden_and_system_folders_are_no_classes_and_hidden_files_are_counted(tmp_path):
    put(tmp_path, *(f"{s}/{c}/{i}.png" for s in ("train", "test") for c in ("cat", "dog") for i in range(3)))
    assert silent(counts, tmp_path) == {"train": [3, 3], "test": [3, 3]}
    strange = (".ipynb_checkpoints", "__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information")
    put(tmp_path, *(f"train/{name}/0.png" for name in strange))
    put(tmp_path, "train/cat/._0.png", "train/cat/Thumbs.db", "train/dog/desktop.ini", "train/dog/@eaDir/0.png")
    with pytest.warns(UserWarning, match=r"is read without hidden files and folders \(9\)$") as said:
        assert counts(tmp_path) == {"train": [3, 3], "test": [3, 3]}
    assert len(said) == 1
    assert classes(tmp_path) == ["cat", "dog"]


def test_class_folders_beside_what_a_mac_packs_are_all_training(tmp_path):
    put(tmp_path, "cat/0.png", "dog/0.png", "__MACOSX/cat/._0.png")
    assert counts(tmp_path) == {"train": [1, 1]}


def test_what_is_left_out_of_a_folder_is_said_in_one_line_with_counts(tmp_path):
    put(tmp_path, "train/cat/0.png", "train/dog/", "train/7.png", "train/cat/a.txt", "train/cat/b.txt", "train/cat/c")
    put(tmp_path, "test/cat/0.png", "test/zebra/0.png", "test/zebra/1.png", "test/cat/0.heix")
    os.symlink(tmp_path / "nowhere.png", tmp_path / "train/cat/1.png")
    with pytest.warns(UserWarning, match="is read without") as said:
        assert counts(tmp_path) == {"train": [1], "test": [1]}
    (line,) = (str(w.message) for w in said)
    assert line.removeprefix(f"{tmp_path} is read without ").split("), ") == [
        "classes that training lacks (1: test/zebra 2",
        "empty classes (1: train/dog",
        "images beside the class folders (1",
        "links to nothing (1",
        "files without suffix (1",
        "other kinds of file (3: .txt 2, .heix 1)",
    ]


def test_links_are_followed_and_one_without_end_is_refused(tmp_path):
    put(tmp_path, "in/train/cat/0.png", "in/train/dog/0.png", "else/1.png", "else/2.png")
    os.symlink(tmp_path / "else", tmp_path / "in/train/dog/more")
    os.symlink(tmp_path / "in/train", tmp_path / "in/test")
    assert counts(tmp_path / "in") == {"train": [1, 3], "test": [1, 3]}
    os.symlink(tmp_path / "in", tmp_path / "in/train/dog/more/again")
    with pytest.raises(ValueError, match=r"again is a link to \S+/in, in which it lies.*point it elsewhere"):
        read(str(tmp_path / "in"))


def test_classes_that_are_numbers_stand_in_the_order_of_numbers(tmp_path):
    put(tmp_path / "a", *(f"train/{i}/0.png" for i in range(12)))
    assert classes(tmp_path / "a") == [str(i) for i in range(12)]
    put(tmp_path / "b", *(f"train/{name}/0.png" for name in ("10", "9", "x")))
    assert classes(tmp_path / "b") == ["10", "9", "x"]


@pytest.mark.parametrize(
    "names", [("Train", "VAL", "Testing"), ("training", "valid", "eval"), ("train", "dev", "test")]
)
def test_splits_are_found_by_the_names_people_give_them(tmp_path, names):
    put(tmp_path, *(f"{name}/cat/{i}.png" for n, name in enumerate(names) for i in range(n + 1)))
    assert counts(tmp_path) == {"train": [1], "val": [2], "test": [3]}


def test_what_lies_beside_the_splits_is_said(tmp_path):
    put(tmp_path, "train/cat/0.png", "test/cat/0.png", "more/cat/0.png", "1.png")
    with pytest.warns(
        UserWarning,
        match=r"^\S+ is read without folders beside the splits' \(1: more\), images beside the splits' folders \(1",
    ):
        assert counts(tmp_path) == {"train": [1], "test": [1]}


def test_a_folder_with_a_test_set_alone_is_one(tmp_path):
    put(tmp_path, "test/cat/0.png", "test/dog/0.png")
    assert counts(tmp_path) == {"test": [1, 1]}
    data = ImageData(str(tmp_path), batch_size=2)
    data.setup("test")
    assert data.served["test"] == "test"
    for more in ({}, {"val_fraction": 0.1}):
        with pytest.raises(ValueError, match=r"has no train split, only test; add one, of a folder as train/ in it$"):
            ImageData(str(tmp_path), batch_size=2, **more).setup("fit")


def test_a_folder_in_a_folder_as_archives_unpack_is_that_folder(tmp_path):
    put(tmp_path, "flowers/train/rose/0.png", "flowers/train/lily/0.png", "flowers/val/rose/0.png")
    found = read(str(tmp_path))
    assert {role: items.names for role, items in found.items()} == {
        "train": ["flowers/train/lily/0.png", "flowers/train/rose/0.png"],
        "val": ["flowers/val/rose/0.png"],
    }
    put(tmp_path, "flowers/trams/0.png")
    assert classes(tmp_path) == ["flowers"]


def test_a_folder_can_be_read_without_labels_at_any_depth(tmp_path):
    put(tmp_path, "2024/05/a.png", "2024/b.png", "2025/c.png", "d.png")
    items = silent(read, str(tmp_path), label_column="")["train"]
    assert items.names == ["2024/05/a.png", "2024/b.png", "2025/c.png", "d.png"]
    assert (items.labelled, items.classes) == (False, [])
    with pytest.warns(UserWarning, match="images beside the class folders"):
        assert counts(tmp_path) == {"train": [2, 1]}


def test_a_class_may_be_called_test(tmp_path):
    put(tmp_path, "test/0.png", "good/0.png", "good/1.png")
    assert (classes(tmp_path), counts(tmp_path)) == (["good", "test"], {"train": [2, 1]})


def test_pictures_without_classes_are_read_without_labels(tmp_path):
    put(tmp_path / "flat", "b.png", "a.png", "readme.md")
    put(tmp_path / "splits", "train/0.png", "val/0.png", "val/1.png")
    put(tmp_path / "mixed", "train/cat/0.png", "train/dog/0.png", "val/ILSVRC2012_val_00000001.png")
    assert counts(tmp_path / "flat") == {"train": None}
    items = read(str(tmp_path / "flat"))["train"]
    assert ([p.name for p in items.images], items.labels.tolist(), items.classes) == (["a.png", "b.png"], [-1, -1], [])
    assert counts(tmp_path / "splits") == {"train": None, "val": None}
    assert counts(tmp_path / "mixed") == {"train": [1, 1], "val": None}
    data = ImageData(str(tmp_path / "splits"), batch_size=1)
    data.setup("fit")
    assert (data.classes, data.num_classes, data.labelled) == ([], 0, False)
    assert next(iter(data.train_dataloader()))[1].tolist() == [-1]


def test_a_folder_without_pictures_says_what_it_holds_instead(tmp_path):
    put(tmp_path, "train/cat/a.txt", "train/cat/.b.png", "test/cat/0.png")
    said = (
        r"train holds no images, only empty classes \(1: train/cat\), hidden files.*\(1\), other kinds.*\.txt 1\); exp"
    )
    with pytest.raises(ValueError, match=said):
        read(str(tmp_path))


def test_videos_are_listed_as_pictures_are(tmp_path):
    put(tmp_path, "Train/10/a.mp4", "Train/9/b.AVI", "Train/9/._b.avi", "Train/.cache/c.mp4", "test/9/d.mov")
    with pytest.warns(UserWarning, match=r"hidden files and folders \(2\)"):
        splits, names = find_videos(tmp_path)
    assert names == ["9", "10"]
    found = {role: ([p.name for p in paths], labels) for role, (paths, labels) in splits.items()}
    assert found == {"train": (["b.AVI", "a.mp4"], [0, 1]), "test": (["d.mov"], [0])}
    put(tmp_path / "flat", "a.mp4", "b.mp4")
    data = ClipData(str(tmp_path / "flat"), val_fraction=0.5)
    data.setup("fit")
    assert (data.classes, data.labelled) == ([], False)


def test_a_list_of_videos_has_classes_in_all_lines_or_in_none(tmp_path):
    put(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "train.csv").write_text("a.mp4 0\nb.mp4 1\n")
    (tmp_path / "test.csv").write_text("a.mp4 -1\nb.mp4 -1\n")
    (tmp_path / "val.csv").write_text("a.mp4 0\n")
    data = ClipData(str(tmp_path))
    with pytest.warns(UserWarning, match=r"test of .* has no labels; val serves as test"):
        data.setup()
    assert (data.classes, data.labelled, data.served["test"]) == (["0", "1"], True, "val")
    data = ClipData(str(tmp_path))
    with pytest.warns(UserWarning, match=r"test of .* has no labels; val serves as test"):
        data.setup("fit")
    data.setup("test")  # as a Trainer asks, after the training
    assert (data.splits["test"][1].tolist(), data.served["test"]) == ([0], "val")
    assert [p.name for p in data.encoded("test")] == ["a.mp4"]  # of val.csv, not both of test.csv
    (tmp_path / "train.csv").write_text("a.mp4 0\n\nb.mp4 -1\n")
    with pytest.raises(ValueError, match=r"train\.csv line 3 has the label -1, and so have 1 of 2 lines"):
        find_videos(tmp_path)


# Tables


def rows(labels, images=None, names=None, kind=None):
    """A table of pictures, one for each label; with names as the library datasets notes a ClassLabel."""
    images = images or [{"bytes": PNG, "path": f"{i}.png"} for i in range(len(labels))]
    table = pa.table({"image": images, "label": pa.array(labels, kind)})
    if names:
        noted = (
            '{"info": {"features": {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": NAMES}}}}'
        )
        table = table.replace_schema_metadata({"huggingface": noted.replace("NAMES", str(names).replace("'", '"'))})
    return table


def table(root, **splits):
    root.mkdir(parents=True, exist_ok=True)
    for name, content in splits.items():
        content = content if isinstance(content, pa.Table) else rows(content)
        parquet.write_table(content, root / f"{name}-00000-of-00001.parquet")
    return root


def test_all_splits_share_the_classes_of_all(tmp_path):
    table(tmp_path, train=[0, 1, 2, 3], test=[1, 0])
    assert (classes(tmp_path), counts(tmp_path)) == (
        ["0", "1", "2", "3"],
        {"train": [1, 1, 1, 1], "test": [1, 1, 0, 0]},
    )
    data = ImageData(str(tmp_path), batch_size=2)
    data.setup()
    assert data.num_classes == 4


@pytest.mark.parametrize(
    ("labels", "kind", "names", "expected"),
    [
        (["dog", "cat", "dog"], None, ["cat", "dog"], [1, 0, 1]),
        (["10", "9", "10"], None, ["9", "10"], [1, 0, 1]),
        (["b", "a", "b"], pa.dictionary(pa.int8(), pa.string()), ["a", "b"], [1, 0, 1]),
        ([True, False, True], None, ["0", "1"], [1, 0, 1]),
        ([1.0, 0.0, 1.0], None, ["0", "1"], [1, 0, 1]),
        ([1, 0, 1], pa.uint8(), ["0", "1"], [1, 0, 1]),
    ],
)
def test_labels_may_be_names_or_numbers_of_any_kind(tmp_path, labels, kind, names, expected):
    items = read(str(table(tmp_path, train=rows(labels, kind=kind), test=rows(labels[:1], kind=kind))))
    assert (items["train"].labels.tolist(), items["train"].classes) == (expected, names)
    assert (items["test"].labels.tolist(), items["test"].classes) == (expected[:1], names)
    assert items["train"].labels.dtype == np.int64


@pytest.mark.parametrize(
    "nothing",
    [
        rows([-1, -1]),
        rows([None, None], kind=pa.int64()),
        rows([None, None]),
        rows([None, -1]),
        rows([0, 0]).drop_columns("label"),
    ],
)
def test_a_split_without_labels_is_no_test(tmp_path, nothing):
    table(tmp_path, train=rows([0, 1], names=["cat", "dog"]), validation=[1, 0], test=nothing)
    items = read(str(tmp_path))
    assert items["test"].labels.tolist() == [-1, -1]
    assert (items["test"].labelled, items["test"].classes) == (False, ["cat", "dog"])
    data = ImageData(str(tmp_path), batch_size=2)
    silent(data.setup, "fit")
    with pytest.warns(UserWarning, match=r"^test of \S+ has no labels; val serves as test$"):
        data.setup("test")
    assert (data.splits["test"][1].tolist(), data.served["test"], data.labelled) == ([1, 0], "val", True)
    data = ImageData(str(tmp_path), batch_size=2)
    with pytest.warns(UserWarning, match="val serves as test"):
        data.setup("test")
    data.setup("fit")
    assert (data.splits["test"][1].tolist(), data.served["test"]) == ([1, 0], "val")


def test_who_serves_as_validation_and_test():
    yes, no = True, False
    assert serving({"train": yes, "test": yes}, "x", ()) == {"train": "train", "test": "test", "val": "test"}
    assert serving({"train": yes, "val": yes}, "x", ()) == {"train": "train", "val": "val", "test": "val"}
    with pytest.warns(UserWarning, match="val of x has no labels; test serves as val"):
        assert serving({"train": yes, "val": no, "test": yes}, "x", ("val",))["val"] == "test"
    for labelled in ({"train": no, "val": no, "test": no}, {"train": yes, "val": no, "test": no}):
        assert silent(serving, labelled, "x", ("val", "test")) == {role: role for role in labelled}


@pytest.mark.parametrize(
    ("train", "said"),
    [
        (
            rows([0, None, 1, None]),
            r"row 1 of \S+train-00000-of-00001\.parquet has the label null .*have 2 of 4 rows of tra",
        ),
        (rows([0, 1, -1, 1]), r"row 2 of \S+ has the label -1 in column 'label', none of the classes 0 to 1"),
        (rows([0, -2]), r"row 1 of \S+ has the label -2"),
        (
            rows([0, 5], names=["cat", "dog"]),
            r"row 1 of \S+ has the label 5 in column 'label', none of the classes 0 to 1",
        ),
        (
            rows([0.0, 1.5, 0.5]),
            r"row 1 of \S+ has the label 1\.5 in column 'label', 2 of 3 rows are so; expected whole",
        ),
        (
            rows([[0], [1]]),
            r"column 'label' of \S+ is list<element: int64>, row 0 is \[0\]; expected a number or a name",
        ),
        (rows(["cat", None]), r"row 1 of \S+ has the label null"),
        (rows([0, 10**9]), r"row 1 of \S+ has the label 1000000000 in column 'label', of 2 rows; that is no class"),
    ],
)
def test_a_label_that_is_none_is_named_by_file_and_row(tmp_path, train, said):
    with pytest.raises(ValueError, match=said):
        read(str(table(tmp_path, train=train)))
    assert silent(counts, tmp_path, label_column="") == {"train": None}


def test_names_in_one_split_and_numbers_in_another_are_refused(tmp_path):
    table(tmp_path, train=["cat", "dog"], test=[0, 1])
    with pytest.raises(ValueError, match=r"'label' holds names, but numbers in \S+test-00000-of-00001\.parquet"):
        read(str(tmp_path))


def test_a_table_without_a_label_column_says_so_and_has_none(tmp_path):
    table(tmp_path, train=rows([0, 1]).rename_columns(["image", "quality"]))
    with pytest.warns(UserWarning, match="has no label column among image, quality and is read without labels"):
        assert counts(tmp_path) == {"train": None}
    assert counts(tmp_path, label_column="quality") == {"train": [1, 1]}
    table(tmp_path, train=rows([0, 1]).drop_columns("label"))
    assert silent(counts, tmp_path) == {"train": None}


def test_the_image_column_is_found_by_what_it_holds(tmp_path):
    both = (
        rows([0, 1])
        .append_column("mask", pa.array([{"bytes": b"no", "path": ""}] * 2))
        .select(["mask", "image", "label"])
    )
    items = read(str(table(tmp_path, train=both)))["train"]
    assert bytes(items.images[0]) == PNG
    plain = rows([0, 1], [PNG, PNG]).rename_columns(["png", "label"])
    table(tmp_path, train=plain)
    assert counts(tmp_path) == {"train": [1, 1]}
    table(tmp_path, train=plain.append_column("mask", pa.array([b"no"] * 2)))
    with pytest.raises(ValueError, match="has no image column among png, label, mask; name it with image_column"):
        read(str(tmp_path))
    assert counts(tmp_path, image_column="png") == {"train": [1, 1]}


def test_a_damaged_picture_is_named_by_file_row_and_path_also_after_a_draw(tmp_path):
    images = [{"bytes": PNG if i != 5 else b"", "path": f"p/{i}.png"} for i in range(8)]
    table(tmp_path, train=rows([0, 1] * 4, images), test=[0, 1])
    said = r"row 5 of \S+train-00000-of-00001\.parquet \(p/5\.png\) cannot be decoded \(it is empty\); get it again"
    for more in ({}, {"val_fraction": 0.25, "seed": 2}):
        with pytest.raises(ValueError, match=said):
            ImageData(str(tmp_path), batch_size=2, cache="memory", image_size=4, **more).setup("fit")
    items = read(str(tmp_path))["train"]
    assert str(pickle.loads(pickle.dumps(items.take(np.array([5])))).images[0]).endswith("(p/5.png)")


def test_rows_may_name_a_picture_relative_to_the_data(tmp_path):
    put(tmp_path, "images/0.png", "elsewhere/1.png")
    images = [{"bytes": None, "path": "images/0.png"}, {"bytes": None, "path": str(tmp_path / "elsewhere/1.png")}]
    table(tmp_path, train=rows([0, 1], images))
    assert [p.name for p in read(str(tmp_path))["train"].images] == ["0.png", "1.png"]
    table(tmp_path, train=rows([0, 1], ["images/0.png", "images/7.png"]))
    said = rf"row 1 of \S+ \(images/7\.png\) names a picture that is not there; put it there, relative to {tmp_path}"
    with pytest.raises(FileNotFoundError, match=said):
        read(str(tmp_path), image_column="image")
    table(tmp_path, train=rows([0, 1, 0], [{"bytes": PNG, "path": ""}, None, {"bytes": None, "path": None}]))
    with pytest.raises(ValueError, match=r"parquet has no picture in row 1, row 2, 2 of 3 rows; fill them"):
        read(str(tmp_path))


def test_a_stray_table_turns_no_picture_folder_into_one(tmp_path):
    put(tmp_path, *(f"{s}/{c}/0.png" for s in ("train", "test") for c in ("cat", "dog")))
    (tmp_path / "meta").mkdir()
    for stray in ("meta/index.parquet", "train/metadata.parquet", "index.parquet"):
        (tmp_path / stray).write_bytes(b"PAR1")
    assert classes(tmp_path) == ["cat", "dog"]
    parquet.write_table(pa.table({"file": ["cat/0.png"], "label": [0]}), tmp_path / "train_labels.parquet")
    with pytest.warns(
        UserWarning, match=r"without 1 parquet files that hold no pictures: train_labels\.parquet; image"
    ):
        assert classes(tmp_path) == ["cat", "dog"]
    (tmp_path / "train_labels.parquet").unlink()
    table(tmp_path / "data", train=[0, 1])  # one that is named for a split is meant
    assert classes(tmp_path) == ["0", "1"]


def test_tables_of_two_data_sets_are_not_mixed(tmp_path):
    table(tmp_path / "fine", train=[0, 1])
    table(tmp_path / "coarse", train=[0, 0])
    with pytest.raises(
        ValueError, match=r"train split in coarse and in fine, so it holds several data sets; give the fol"
    ):
        read(str(tmp_path))
    assert counts(tmp_path / "fine") == {"train": [1, 1]}


def test_a_damaged_table_is_named(tmp_path):
    (tmp_path / "train.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"train\.parquet is no parquet file, or a damaged one .*; get it again"):
        read(str(tmp_path))


def test_labels_of_several_columns_begin_with_the_class(monkeypatch):
    def made(root, **how):
        targets = torch.tensor([[7, 2, 3], [1, 5, 6]])  # QMNIST's: the digit, who wrote it, …
        return SimpleNamespace(
            data=torch.zeros(2, 28, 28, dtype=torch.uint8), targets=targets, classes=list("0123456789")
        )

    monkeypatch.setattr(torchvision.datasets, "QMNIST", made)
    items = read("torchvision:QMNIST")["test"]
    assert (items.labels.tolist(), list(items.names)) == ([7, 1], ["test/0", "test/1"])


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"/file/sets cannot be written: .*; give torchvision:MNIST:FOLDER"):
        read(f"torchvision:MNIST:{tmp_path / 'file' / 'sets'}")


# Names


def test_pictures_are_called_by_where_they_lie_in_the_source(tmp_path):
    put(tmp_path / "a", "train/cat/1.png", "train/cat/deep/1.png", "train/dog/ü b.png", "test/cat/1.png")
    found = read(str(tmp_path / "a"))
    assert found["train"].names == ["train/cat/1.png", "train/cat/deep/1.png", "train/dog/ü b.png"]
    assert found["train"].take(np.array([2, 0])).names == ["train/dog/ü b.png", "train/cat/1.png"]
    every = together(found)
    assert list(every.names) == [*found["train"].names, "test/cat/1.png"]
    assert [str(path).endswith(name) for path, name in zip(every.images, every.names)] == [True] * 4
    assert every.labels.tolist() == [0, 0, 1, 0]
    assert together({"test": found["test"]}) is found["test"]


def test_rows_are_called_by_their_path_or_number_and_no_two_alike(tmp_path):
    put(tmp_path, "in/1.png", "elsewhere/1.png")
    paths = [None, "in/1.png", str(tmp_path / "in/1.png"), str(tmp_path.parent / "x/y/z.png")]
    images = [{"bytes": PNG, "path": path} for path in paths[:2]]
    assert read(str(table(tmp_path / "one", train=rows([0, 1], images))))["train"].names == ["row 0", "in/1.png"]
    images = [{"bytes": PNG, "path": path} for path in paths[2:]]
    assert read(str(table(tmp_path, train=rows([0, 1], images))))["train"].names == ["in/1.png", "y/z.png"]
    table(tmp_path / "two", train=[0, 1], test=rows([1], [{"bytes": PNG, "path": "0.png"}]))
    every = together(read(str(tmp_path / "two")))
    files = [f"{role}-00000-of-00001.parquet" for role in ("train", "test")]
    assert list(every.names) == [f"{files[0]}/0.png", f"{files[0]}/1.png", f"{files[1]}/0.png"]


def test_rows_of_one_path_are_told_apart_by_number_and_a_file_named_twice_is_one(tmp_path):
    same = [{"bytes": PNG, "path": "same.png"}, {"bytes": PNG, "path": "other.png"}, {"bytes": PNG, "path": "same.png"}]
    items = read(str(table(tmp_path / "one", train=rows([0, 1, 0], same))))["train"]
    assert items.names == ["row 0 (same.png)", "other.png", "row 2 (same.png)"]
    put(tmp_path, "a/x/1.png", "b/x/1.png")
    (tmp_path / "l.csv").write_text(f"path\na/x/1.png\nb/x/1.png\na/x/1.png\n{tmp_path}/a/x/1.png\n")
    assert read(str(tmp_path / "l.csv"))["train"].names == ["a/x/1.png", "b/x/1.png", "a/x/1.png", "a/x/1.png"]
    put(tmp_path, "else/a/x/1.png", "else/b/x/1.png")
    far = [tmp_path / "else" / name for name in ("a/x/1.png", "b/x/1.png")]
    (tmp_path / "in").mkdir()
    (tmp_path / "in/l.csv").write_text("path,split\n" + "".join(f"{p},{s}\n" for p, s in zip(far, ("train", "val"))))
    assert list(together(read(str(tmp_path / "in/l.csv"))).names) == ["line 2 (x/1.png)", "line 3 (x/1.png)"]


@pytest.mark.parametrize("more", [{}, {"test": [0, 1]}])
def test_a_table_without_rows_is_refused_by_name(tmp_path, more):
    table(tmp_path, train=rows([], []), **more)
    with pytest.raises(ValueError, match=r"train-00000-of-00001\.parquet has no rows; write one for each picture"):
        read(str(tmp_path))
    table(tmp_path, train=[0, 1])
    parquet.write_table(rows([], []), tmp_path / "train-00001-of-00002.parquet")  # one file of a split may be empty
    if more:
        assert counts(tmp_path) == {"train": [1, 1], "test": [1, 1]}


def test_columns_of_what_has_none_are_refused(tmp_path):
    put(tmp_path, "cat/1.png", "dog/1.png")
    for source in (tmp_path, tmp_path / "cat/1.png", "torchvision:MNIST"):
        for column in ("image_column", "label_column"):
            with pytest.raises(ValueError, match=f"{source} is no table .*; leave {column}='foo' out"):
                read(str(source), **{column: "foo"})
    with pytest.raises(ValueError, match="leave image_column='foo' out"):
        ImageData(f"shards:{tmp_path}", image_column="foo").setup("test")
    assert not read(str(tmp_path), label_column="")["train"].labelled


def test_classes_that_training_lacks_are_read_where_nothing_is_trained(tmp_path):
    put(tmp_path, "train/dog/0.png", "train/cat/0.png", "val/ape/0.png", "val/cat/1.png", "val/ship/0.png")
    with pytest.warns(UserWarning, match=r"classes that training lacks \(2: val/ape 1, val/ship 1\)"):
        assert counts(tmp_path) == {"train": [1, 1], "val": [1, 0]}
    every = silent(read, str(tmp_path), every_class=True)
    assert every["train"].classes == every["val"].classes == ["cat", "dog", "ape", "ship"]  # training's numbers stay
    assert every["val"].labels.tolist() == [0, 2, 3]
    data = ImageData(str(tmp_path), batch_size=2)
    with pytest.warns(UserWarning, match="classes that training lacks"):
        data.setup("fit")
    assert (data.num_classes, len(data.splits["val"][1])) == (2, 1)


def test_a_split_of_other_classes_alone_is_said_to_be_so(tmp_path):
    put(tmp_path, "train/dog/0.png", "train/cat/0.png", "val/ape/0.png", "val/ship/0.png")
    with pytest.raises(
        ValueError, match=r"/val has the classes ape, ship, none of those of \S+/train, cat, dog; give both folders the"
    ):
        read(str(tmp_path))
    assert silent(counts, tmp_path, every_class=True) == {"train": [1, 1, 0, 0], "val": [0, 0, 1, 1]}


# Shards


def test_a_split_without_labels_is_one_in_shards_too(tmp_path):
    table(tmp_path / "in", train=rows([0, 1], names=["cat", "dog"]), validation=[1, 0], test=[-1, -1, -1])
    list(sharding.write(str(tmp_path / "in"), tmp_path / "out"))
    written = shards.find(str(tmp_path / "out"), "images")
    assert {role: some.labelled for role, some in written.items()} == {"train": True, "val": True, "test": False}
    samples = list(shards.read_shard(written["test"].shards[0], 3, 0))
    assert [(s.label, s.fault) for s in samples] == [(-1, "")] * 3
    before = (tmp_path / "out" / "manifest.json").read_text()
    (tmp_path / "out" / "manifest.json").unlink()
    list(sharding.index(str(tmp_path / "out")))
    again = shards.find(str(tmp_path / "out"), "images")
    assert {role: some.labelled for role, some in again.items()} == {"train": True, "val": True, "test": False}
    assert '"unlabelled": [\n  "test"\n ]' in before
    data = ImageData(f"shards:{tmp_path / 'out'}", batch_size=2, num_workers=0)
    with pytest.warns(UserWarning, match="test of .* has no labels; val serves as test"):
        data.setup("test")
    assert (data.served["test"], data.labelled) == ("val", True)


def test_shards_of_pictures_without_labels_are_read_as_such(tmp_path):
    put(tmp_path / "in", "train/0.png", "train/1.png", "val/0.png")
    list(sharding.write(str(tmp_path / "in"), tmp_path / "out"))
    data = ImageData(f"shards:{tmp_path / 'out'}", batch_size=2, num_workers=0)
    data.setup("fit")
    assert (data.classes, data.labelled) == ([], False)
    assert [y.tolist() for _, y, _ in data.train_dataloader()] == [[-1, -1]]
