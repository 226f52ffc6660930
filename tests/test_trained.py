"""`zoo eval RUN PICTURES` says how many of the pictures the run was trained on."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import zoo
from zoo import cli
from zoo.data import clips, readers, trained
from zoo.data.images import ImageData
from zoo.data.readers import Items
from zoo.data.trained import changed, noted, trained_on
from zoo.report import figures
from zoo.report.runs import datamodule
from zoo.train.keys import as_begun


def picture(place, seed):
    place.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)).save(place)


@pytest.fixture
def folder(tmp_path):
    """40 pictures of two classes."""
    for k in range(40):
        picture(tmp_path / "photos" / ("cat" if k % 2 else "dog") / f"{k}.png", k)
    return tmp_path / "photos"


def run(tmp_path, source, reader="zoo.ImageData", **args):
    place = tmp_path / "run"
    (place / "checkpoints").mkdir(parents=True, exist_ok=True)
    (place / "checkpoints" / "last.ckpt").touch()
    recipe = {"data": {"class_path": reader, "init_args": {"source": str(source), **args}}}
    (place / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return str(place)


def others(tmp_path, paths, new=5):
    """A test set of some pictures under other names, and of new ones."""
    place = tmp_path / "mine"
    shutil.rmtree(place, ignore_errors=True)
    for k, path in enumerate(paths):
        (place / "test" / "pet").mkdir(parents=True, exist_ok=True)
        (place / "train" / "pet").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place / "test" / "pet" / f"a{k}.png")
    for k in range(new):
        picture(place / "test" / "pet" / f"b{k}.png", 1000 + k)
    picture(place / "train" / "pet" / "c.png", 2000)
    return str(place)


def test_pictures_are_known_by_what_is_in_them(tmp_path, folder):
    mine = others(tmp_path, sorted(folder.rglob("*.png"))[:7])
    assert trained_on(run(tmp_path, folder), mine) == {"trained_on": 7, "pictures": 12}
    assert trained_on(f"{run(tmp_path, folder)}/checkpoints/last.ckpt", mine)["trained_on"] == 7
    assert trained_on(str(tmp_path), mine)["trained_on"] == 7  # the newest run of a recipe's


@pytest.mark.parametrize("stratify", [True, False, None])
def test_what_was_held_out_was_not_trained_on(tmp_path, folder, stratify):
    how = {"val_fraction": 0.3, "limit": 11, "seed": 5}
    data = ImageData(str(folder), **how, stratify=bool(stratify))
    held, kept = data.encoded("val"), data.encoded("train")
    assert (len(held), len(kept)) == (12, 11)
    place = run(tmp_path, folder, **how, **({} if stratify is None else {"stratify": stratify}))  # None: an older run
    assert trained_on(place, others(tmp_path, held)) == {"trained_on": 0, "pictures": 17}
    assert trained_on(place, others(tmp_path, [*kept, held[0]])) == {"trained_on": 11, "pictures": 17}


def test_parquet_and_arrays_are_compared(tmp_path, monkeypatch):
    place = run(tmp_path, "samples/mnist", "zoo.data.images.ImageData", val_fraction=0.5)
    assert trained_on(place, "samples/mnist") == {"trained_on": 0, "pictures": 1000}
    encoded = ImageData("samples/mnist").encoded("train")[:30]
    pixels = np.stack([trained.decode(item, 1, "") for item in encoded])
    arrays = {"test": Items(pixels, np.zeros(30, np.int64), ["0"], "torchvision:MNIST")}
    items = ImageData._items
    monkeypatch.setattr(ImageData, "_items", lambda self: arrays if "tor" in self.hparams.source else items(self))
    assert trained_on(run(tmp_path, "samples/mnist"), "torchvision:MNIST") == {"trained_on": 30, "pictures": 30}


@pytest.mark.parametrize(
    ("source", "reader", "reason"),
    [
        ("shards:https://host/data", "zoo.ImageData", "shards:https://host/data is not read again"),
        ("org/name", "zoo.ImageData", "org/name is not read again"),
        ("torchvision:MNIST", "zoo.ImageData", "torchvision:MNIST is not read again"),
        ("/nowhere/photos", "zoo.ImageData", "/nowhere/photos is not read again"),
        ("rendered", "zoo.FactorData", "what zoo.FactorData reads is not compared"),
        ("x", "os.system", "what os.system reads is not compared"),
        ("sprites", "zoo.ClipData", "sprites is not read again"),
    ],
)
def test_what_costs_too_much_is_said_and_nothing_is_imported(tmp_path, folder, source, reader, reason):
    found = trained_on(run(tmp_path, source, reader), str(folder))
    assert found["trained_on"] is None
    assert found["notes"]["trained_on"].startswith(f"unknown: {reason}")


def test_videos_are_not_decoded_to_be_compared(tmp_path, monkeypatch):
    for name in ("train/a.mp4", "train/b.mp4", "test/c.mp4"):
        (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "videos" / name).write_bytes(name[-5:].encode())
    shutil.copy(tmp_path / "videos" / "train" / "a.mp4", tmp_path / "videos" / "test")
    monkeypatch.setattr(clips, "check_frames", None)
    videos = tmp_path / "videos"
    place = run(tmp_path, videos, "zoo.ClipData", bad="skip")
    assert trained_on(place, str(videos)) == {"trained_on": 1, "videos": 2}
    place = run(tmp_path, videos, "zoo.ClipData", bad="skip", limit=1)
    assert "is damaged is not looked for again" in trained_on(place, str(videos))["notes"]["trained_on"]


def test_a_large_table_is_not_read_by_the_way(tmp_path, folder, monkeypatch):
    shutil.copytree(readers.SAMPLES / "mnist", tmp_path / "table")
    mine = others(tmp_path, [])
    assert trained_on(run(tmp_path, tmp_path / "table"), mine)["trained_on"] == 0
    monkeypatch.setattr(trained, "MOST", 1000)
    said = trained_on(run(tmp_path, tmp_path / "table"), mine)["notes"]["trained_on"]
    assert "table is not read again for this" in said


def test_what_is_no_run_is_not_compared(tmp_path, folder):
    for name in ("bilinear_d256.mnist", str(tmp_path), "hf://org/name"):
        assert trained_on(name, str(folder)) == {}


def test_eval_says_it(tmp_path, capsys):
    argv = ["bilinear/finetune", "--trainer.max_epochs", "1", "--run", str(tmp_path / "r"), "--data.limit", "200"]
    assert cli.main(["fit", *argv, "--trainer.enable_progress_bar", "false"]) == 0
    capsys.readouterr()
    assert cli.main(["eval", str(tmp_path / "r"), "samples/mnist"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert "0 of 1000 pictures were trained on" in out
    figures = json.loads(out[-1])
    assert (figures["trained_on"], figures["pictures"]) == (0, 1000)
    assert cli.main(["eval", str(tmp_path / "r"), "--data", "samples/mnist"]) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines()[-1] == out[-1]
    assert f"--data is no longer needed: zoo eval {tmp_path / 'r'} samples/mnist" in shown.err
    assert cli.main(["eval", "bilinear_d256.mnist", "samples/mnist", "--data", "x"]) == 2
    assert "two sources" in capsys.readouterr().err


def test_what_a_run_held_out_is_not_known_once_its_folder_has_changed(tmp_path, folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = Path(run(tmp_path, "photos", val_fraction=0.3, stratify=True))
    (place / "environment.json").write_text(json.dumps({"data": noted(ImageData("photos", val_fraction=0.3))}))
    data = datamodule(place)
    assert data.hparams.source == "photos"
    assert changed(place, data) == ""
    assert trained_on(str(place), data, "val") == {"trained_on": 0, "pictures": 12}
    (tmp_path / "elsewhere" / "photos" / "cat").mkdir(parents=True)
    picture(tmp_path / "elsewhere" / "photos" / "cat" / "0.png", 0)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert datamodule(place).hparams.source == str(folder)  # and not the folder of that name that is here
    assert as_begun(place / "recipe.yaml", []) == [f'--data.source="{folder}"']
    picture(folder / "cat" / "new.png", 99)
    again = datamodule(place)
    assert changed(place, again).startswith(f"{folder} holds other samples than when {place} began")
    found = trained_on(str(place), again, "val")
    assert found["trained_on"] is None
    assert found["notes"]["trained_on"].startswith(f"unknown: {folder} holds other samples")
    with pytest.raises(ValueError, match=r"holds other samples .*; name what it is measured on: zoo eval .* SOURCE"):
        figures._own(str(place), place, zoo.create("bilinear_d64", channels=3, image_size=8), again)
    shutil.rmtree(folder)
    with pytest.raises(ValueError, match=rf"no folder {folder}.*; name what it is measured on: zoo eval .* SOURCE"):
        figures._own(str(place), place, zoo.create("bilinear_d64", channels=3, image_size=8), datamodule(place))
