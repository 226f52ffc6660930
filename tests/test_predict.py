"""`zoo predict`: the class of each picture as a table, whatever its file is like; and how tables are written."""

import contextlib
import csv
import errno
import json
import os
import re
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet

import zoo
from zoo import cli, hub
from zoo.data import mapping, writing
from zoo.data.images import ImageData
from zoo.data.mapping import listed, mapped
from zoo.report import tables

ROOT = Path(__file__).parents[1]
DIGITS = "bilinear_d256.mnist"
AWKWARD = [
    "a b.png",
    "line\nbreak.png",
    "carriage\rreturn.png",
    'quote",.png',
    "ñandú 鳥 🐦.png",
    " lead.png",
    "=1+1.png",
]


def digit(seed: int, size: tuple[int, int] = (28, 28)) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 255, (7, 7), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.NEAREST)


def folder(root: Path, *names: str) -> Path:
    for i, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        digit(i).save(path)
    return root


def run(capsys, *argv):
    status = cli.main([str(arg) for arg in argv])
    out, err = capsys.readouterr()
    return status, out, err


def rows(file: Path) -> list[dict]:
    if file.suffix == ".csv":
        with open(file, newline="", encoding="utf-8") as opened:
            return [dict(row) for row in csv.DictReader(opened)]
    if file.suffix == ".json":
        return json.loads(file.read_text(encoding="utf-8"))
    return parquet.read_table(file).to_pylist()


def test_every_picture_of_a_folder_gets_its_class_by_name_in_order(capsys, tmp_path):
    source = folder(tmp_path / "in", "3/b.png", "3/a.png", "7/c.png")
    status, out, _ = run(capsys, "predict", DIGITS, source, "-o", tmp_path / "out.csv", "--top-k", 3)
    assert (status, out) == (0, f"3 rows in {tmp_path / 'out.csv'}\n")
    found = rows(tmp_path / "out.csv")
    assert list(found[0]) == ["path", "class", "score", "class_2", "score_2", "class_3", "score_3", "label"]
    assert [(row["path"], row["label"]) for row in found] == [("3/a.png", "3"), ("3/b.png", "3"), ("7/c.png", "7")]
    model = zoo.load(DIGITS)
    data = ImageData(str(source), 28, 1)
    x, _ = data.on_after_batch_transfer(next(iter(data.in_order("all", 9))), 0)
    with torch.no_grad():
        scores, classes = model(x).softmax(1).topk(3)
    for row, score, label in zip(found, scores.tolist(), classes.tolist()):
        assert [row["class"], row["class_2"], row["class_3"]] == [str(c) for c in label]
        assert [float(row[f"score{k}"]) for k in ("", "_2", "_3")] == pytest.approx(score, abs=2e-6)


@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
def test_awkward_names_come_back_as_they_are(tmp_path, kind):
    source = folder(tmp_path / "in", *AWKWARD)
    output = tmp_path / f"out.{kind}"
    assert tables.predict(zoo.load(DIGITS), str(source), output) == len(AWKWARD)
    assert sorted(row["path"] for row in rows(output)) == sorted(AWKWARD)
    assert "label" not in rows(output)[0]  # nothing is labelled


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' names are text")
def test_a_name_that_is_no_text_is_spelled_out(tmp_path):
    folder(tmp_path / "in", "ok.png")
    os.rename(tmp_path / "in/ok.png", os.fsencode(tmp_path / "in") + b"/\xff.png")
    for kind in ("csv", "json", "parquet"):
        tables.predict(zoo.load(DIGITS), str(tmp_path / "in"), tmp_path / f"out.{kind}")
        assert rows(tmp_path / f"out.{kind}")[0]["path"] == "\\udcff.png"


def test_the_likely_classes_are_a_list_in_json_and_numbers_in_parquet(tmp_path):
    source = folder(tmp_path / "in", "0/a.png")
    for kind in ("json", "parquet"):
        tables.predict(zoo.load(DIGITS), str(source), tmp_path / f"out.{kind}", top_k=2)
    (nested,), (flat,) = rows(tmp_path / "out.json"), rows(tmp_path / "out.parquet")
    assert list(nested) == ["path", "class", "score", "top", "label"]
    assert nested["top"] == [
        {"class": flat["class"], "score": flat["score"]},
        {"class": flat["class_2"], "score": flat["score_2"]},
    ]
    assert isinstance(flat["score"], float)


def test_how_a_picture_is_stored_changes_nothing(tmp_path):
    """Turned by EXIF, transparent, with 16 bits: the prediction is that of ImageData's pixels."""
    source, plain = tmp_path / "in", digit(1, (36, 28))
    source.mkdir()
    plain.save(source / "0 plain.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    plain.transpose(Image.Transpose.ROTATE_90).save(source / "1 turned.png", exif=exif)
    clear = Image.merge("LA", (plain, Image.new("L", plain.size, 255)))
    clear.save(source / "2 opaque.png")
    Image.fromarray(np.asarray(plain).astype(np.uint16) * 257).save(source / "3 deep.png")
    Image.new("LA", (28, 28), (0, 0)).save(source / "4 clear.png")
    tables.predict(zoo.load(DIGITS), str(source), tmp_path / "out.json", top_k=10)
    found = {row.pop("path"): row for row in rows(tmp_path / "out.json")}
    assert found["0 plain.png"] == found["1 turned.png"] == found["2 opaque.png"] == found["3 deep.png"]
    with torch.no_grad():
        white = zoo.load(DIGITS)(torch.ones(1, 1, 28, 28)).softmax(1).max().item()
    assert found["4 clear.png"]["score"] == pytest.approx(white, abs=2e-6)
    tables.predict(zoo.load(DIGITS), str(source), tmp_path / "dim.json", reading={"value_range": (0, 2**16 * 4)})
    dim = {row["path"]: row["score"] for row in rows(tmp_path / "dim.json")}
    assert dim["3 deep.png"] != found["3 deep.png"]["score"]
    assert dim["0 plain.png"] == found["0 plain.png"]["score"]


def test_a_model_without_names_of_its_classes_numbers_them_and_says_so(tmp_path):
    model = zoo.create("bilinear_d64").eval()
    source = folder(tmp_path / "in", "a.png")
    with pytest.warns(UserWarning, match=r"bilinear_d64 has no names of its 10 classes; .* class_0 to class_9"):
        tables.predict(model, str(source), tmp_path / "out.json", top_k=10)
    (row,) = rows(tmp_path / "out.json")
    assert {c["class"] for c in row["top"]} == {f"class_{c}" for c in range(10)}


def test_pictures_and_folders_may_be_mixed(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder(tmp_path, "x.png", "y.png", "dir/1/z.png", "more/1/w.png", "more/0/v.png")
    status, *_ = run(capsys, "predict", DIGITS, "y.png", "x.png", "dir/", "more", "-o", "out.csv")
    assert status == 0
    found = [(row["path"], row["label"]) for row in rows(tmp_path / "out.csv")]
    assert found == [("y.png", ""), ("x.png", ""), ("dir/1/z.png", "1"), ("more/0/v.png", "0"), ("more/1/w.png", "1")]
    run(capsys, "predict", DIGITS, "dir", "-o", "one.csv")
    assert rows(tmp_path / "one.csv")[0]["class"] == rows(tmp_path / "out.csv")[2]["class"]


def test_one_split_alone_can_be_asked_for(capsys, tmp_path):
    source = folder(tmp_path / "in", "train/0/a.png", "test/0/b.png", "test/0/c.png")
    run(capsys, "predict", DIGITS, source, "--split", "test", "-o", tmp_path / "out.csv")
    assert [row["path"] for row in rows(tmp_path / "out.csv")] == ["test/0/b.png", "test/0/c.png"]
    status, _, err = run(capsys, "predict", DIGITS, source, "--split", "val", "-o", tmp_path / "other.csv")
    assert status == 2
    assert "has no val split, only train, test; leave --split out" in err


# Bad input


def test_a_damaged_picture_is_named_or_left_out_with_a_count(capsys, tmp_path):
    source = folder(tmp_path / "in", *(f"{i}.png" for i in range(9)))
    for name in ("0.png", "5.png"):
        (source / name).write_bytes((source / name).read_bytes()[:50])
    output = tmp_path / "out.csv"
    status, _, err = run(capsys, "predict", DIGITS, source, "-o", output, "--batch-size", 2)
    assert (status, output.exists()) == (2, False)
    assert "0.png cannot be decoded" in err
    assert err.endswith("; get it again, or leave such pictures out with --bad skip\n")
    status, out, err = run(capsys, "predict", DIGITS, source, "-o", output, "--batch-size", 1, "--bad", "skip")
    assert (status, out) == (0, f"7 rows in {output}\n")
    assert re.fullmatch(r"warning: 2 of 9 pictures are left out: \S+0\.png cannot .*; \S+5\.png cannot .*\n", err)
    assert "skip" not in err
    assert [row["path"] for row in rows(output)] == [f"{i}.png" for i in range(9) if i not in (0, 5)]
    for file in source.iterdir():
        file.write_bytes(b"no picture")
    status, _, err = run(capsys, "predict", DIGITS, source, "-o", tmp_path / "none.csv", "--bad", "skip")
    assert status == 2
    assert "none of 9 pictures can be read" in err
    assert not [p for p in tmp_path.iterdir() if "none" in p.name]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (
            ["mae_vit_tiny.cifar10", "in", "-o", "out.csv"],
            "tells no classes apart; `zoo embed`.*zoo fit finetune_folder",
        ),
        ([DIGITS, "in", "-o", "out.xlsx"], "out.xlsx is of no format.*ends in .csv, .json, .parquet"),
        ([DIGITS, "in", "-o", "in"], "-o in is of no format"),
        ([DIGITS, "in", "-o", "dir.csv", "--force"], "dir.csv is a folder; give a file, dir.csv/out.csv"),
        ([DIGITS, "in", "-o", "there.csv"], "there.csv exists; give another -o, or --force"),
        ([DIGITS, "in", "-o", "out.csv", "--top-k", "11"], "--top-k 11, allowed 1 to 10"),
        ([DIGITS, "in", "-o", "out.csv", "--top-k", "0"], "--top-k: 0, expected"),
        ([DIGITS, "in", "-o", "out.csv", "--batch-size", "0"], "--batch-size: 0, expected"),
        ([DIGITS, "in", "-o", "out.csv", "--device", "cuda:99"], "--device cuda:99"),
        ([DIGITS, "gone.png", "-o", "out.csv"], "gone.png"),
        (["videomae_vit_tiny.sprites", "in", "-o", "out.csv"], "tells no classes apart"),
    ],
)
def test_bad_input_is_named_in_a_line(capsys, tmp_path, monkeypatch, argv, said):
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "in", "a.png")
    (tmp_path / "there.csv").write_text("mine")
    (tmp_path / "dir.csv").mkdir()
    before = sorted(p.name for p in tmp_path.rglob("*"))
    status, out, err = run(capsys, "predict", *argv)
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert re.search(said, err), err
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


def test_classes_that_training_lacks_are_predicted_evaluated_and_shown(capsys, tmp_path):
    source, output = folder(tmp_path / "in", "train/1/a.png", "train/2/b.png", "val/1/c.png", "val/7/d.png"), "out.json"
    argv = ["-o", tmp_path / output, "--force"]
    assert run(capsys, "predict", DIGITS, source, *argv) == (0, f"4 rows in {tmp_path / output}\n", "")
    named = [(row["path"], row["label"]) for row in rows(tmp_path / output)]
    assert named[2:] == [("val/1/c.png", "1"), ("val/7/d.png", "7")]
    (tmp_path / "in/train/1/a.png").rename(tmp_path / "in/train/2/a.png")
    (tmp_path / "in/val/1/c.png").unlink()  # now no class of val is one of train
    assert run(capsys, "predict", DIGITS, source, *argv)[0] == 0
    assert [row["label"] for row in rows(tmp_path / output)] == ["2", "2", "7"]
    status, out, _ = run(capsys, "eval", DIGITS, source)
    figures = json.loads(out.splitlines()[-1])
    assert (status, figures["split"], figures["images"], set(figures["per_class"])) == (0, "val", 1, {"7"})
    assert run(capsys, "show", DIGITS, source, "-o", tmp_path / "x.png")[0] == 0


@pytest.mark.parametrize("argv", [["predict", "-o", "out.csv"], ["eval"], ["show", "-o", "out.png"]])
def test_nothing_and_columns_of_nothing_are_refused_in_a_line(capsys, tmp_path, monkeypatch, argv):
    monkeypatch.chdir(tmp_path)
    parquet.write_table(pa.table({"image": pa.array([], pa.binary()), "label": []}), "none.parquet")
    folder(tmp_path / "in", "1/a.png")
    status, _, err = run(capsys, argv[0], DIGITS, "none.parquet", *argv[1:])
    assert (status, err) == (
        2,
        f"zoo {argv[0]}: none.parquet has no rows; write one for each picture, or leave that file out\n",
    )
    status, _, err = run(capsys, argv[0], DIGITS, "in", *argv[1:], "--image-column", "foo", "--label-column", "bar")
    assert (status, err) == (
        2,
        f"zoo {argv[0]}: in is no table and has no columns; leave --image-column foo and --label-column bar out\n",
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "none.parquet"]


def test_a_listing_of_nothing_is_refused(tmp_path, monkeypatch):
    nothing = mapping.Listing([], torch.empty(0, dtype=torch.int64), [], "in", lambda place: torch.empty(0))
    monkeypatch.setattr(mapping, "_images", lambda *args, **how: nothing)
    with pytest.raises(ValueError, match=r"^in holds no pictures; give a source that holds some"):
        listed("in", zoo.load(DIGITS))


def test_an_output_that_is_there_is_replaced_by_force_alone(capsys, tmp_path):
    source, output = folder(tmp_path / "in", "a.png"), tmp_path / "out.csv"
    output.write_text("mine")
    assert run(capsys, "predict", DIGITS, source, "-o", output)[0] == 2
    assert output.read_text() == "mine"
    assert run(capsys, "predict", DIGITS, source, "-o", output, "--force")[0] == 0
    assert len(rows(output)) == 1


# How tables are written


def test_a_few_batches_are_in_memory_at_a_time(tmp_path, monkeypatch):
    source = folder(tmp_path / "in", *(f"{i:03d}.png" for i in range(40)))
    read, alive, most = [], [], 0
    listing = listed(str(source), zoo.load(DIGITS))

    def counted(place):
        read.append(place)
        return listing.read(place)

    counting = mapping.Listing(**{**vars(listing), "read": counted})
    for done, batch in enumerate(mapped(counting, batch_size=2), 1):
        alive.append(weakref.ref(batch.samples))
        del batch
        most = max(most, sum(ref() is not None for ref in alive))
        assert len(read) <= 2 * (done + 1 + mapping.AHEAD)
    assert (len(alive), sorted(read)) == (20, list(range(40)))
    assert most <= 1


class Full:
    """A writer under which the disk fills after some rows."""

    def __init__(self, write, after):
        self.write, self.left = write, after

    def __call__(self, columns):
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.write(columns)


@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
def test_a_disk_that_fills_leaves_what_was_there(capsys, tmp_path, monkeypatch, kind):
    source, output = folder(tmp_path / "in", "a.png", "b.png", "c.png"), tmp_path / f"out.{kind}"
    output.write_text("mine")
    make = writing.FORMATS[f".{kind}"]

    def filling(*args):
        @contextlib.contextmanager
        def opened():
            with make(*args) as write:
                yield Full(write, 2)

        return opened()

    monkeypatch.setitem(writing.FORMATS, f".{kind}", filling)
    status, _, err = run(capsys, "predict", DIGITS, source, "-o", output, "--batch-size", 1, "--force")
    assert status == 2
    assert f"cannot write {tmp_path}" in err
    assert "nothing in it was changed" in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", output.name]
    assert output.read_text() == "mine"


def test_json_is_a_list_though_nothing_is_in_it(tmp_path):
    with writing.writing(tmp_path / "out.json"):
        pass
    assert rows(tmp_path / "out.json") == []


def test_a_predictor_and_its_flags_answer_without_torch():
    code = "import sys; from zoo.cli import main; main(['--help']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "False"
    for verb in ("predict", "embed", "similar", "codes", "latents"):
        assert f"zoo {verb} " in done.stdout


def test_a_run_of_ones_own_is_a_model(tmp_path):
    model = zoo.create("bilinear_d64", num_classes=2)
    model.zoo_config["classes"] = ["ñandú", "a\nb"]
    saved = hub.save(model, tmp_path / "model")
    source = folder(tmp_path / "in", *(f"{i}.png" for i in range(8)))
    assert cli.main(["predict", str(saved), str(source), "-o", str(tmp_path / "out.csv")]) == 0
    assert {row["class"] for row in rows(tmp_path / "out.csv")} <= {"ñandú", "a\nb"}
