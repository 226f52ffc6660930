"""`zoo show MODEL SOURCE…`: files, folders and runs, with a scale, a truth and a caption that can be read."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from zoo.data.images import ImageData
from zoo.report.runs import datamodule


def picture(place: Path, seed: int, size: tuple[int, int] = (24, 32)) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)).save(place)
    return place


@pytest.fixture
def photos(tmp_path):
    """20 pictures of two classes, without splits."""
    for k in range(20):
        picture(tmp_path / "my photos" / ("ça" if k % 2 else "dog") / f"{k:02}.png", k)
    return tmp_path / "my photos"


def run_of(place: Path, source: object, reader: str = "zoo.ImageData", **args: object) -> Path:
    """What `zoo fit` leaves of a run, as far as its data is asked for."""
    (place / "checkpoints").mkdir(parents=True)
    (place / "checkpoints" / "last.ckpt").touch()
    recipe = {"data": {"class_path": reader, "init_args": {"source": str(source), **args}}}
    (place / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return place


def test_a_runs_data_is_made_again_as_it_was(tmp_path, photos):
    how = {"val_fraction": 0.3, "seed": 5, "image_size": 8, "channels": 1}
    held = ImageData(str(photos), **how).encoded("val")
    place = run_of(tmp_path / "runs" / "one", photos, **how, stratify=True)
    for given in (place, place / "checkpoints" / "last.ckpt", place.parent):
        data = datamodule(given)
        assert isinstance(data, ImageData)
        assert data.encoded("val") == held
    data.setup("fit")
    assert data.input_shape == (1, 8, 8)
    assert datamodule(photos) is None


def test_a_keyword_newer_than_the_run_means_what_the_run_did(tmp_path, photos):
    how = {"val_fraction": 0.3, "seed": 5}
    data = datamodule(run_of(tmp_path / "old", photos, **how))
    assert data.hparams.stratify is False
    assert data.encoded("val") == ImageData(str(photos), **how, stratify=False).encoded("val")


@pytest.mark.parametrize(
    ("reader", "args", "said"),
    [
        ("zoo.ImageDatum", {}, "ImageDatum"),
        ("nowhere.Data", {}, "nowhere"),
        ("zoo.ImageData", {"sizes": 3}, "sizes"),
        ("argparse.Namespace", {}, "no DataModule"),
    ],
)
def test_a_runs_data_that_cannot_be_made_is_said_with_its_recipe(tmp_path, photos, reader, args, said):
    place = run_of(tmp_path / "run", photos, reader, **args)
    with pytest.raises(ValueError, match=f"recipe.yaml: .*{said}.*; name a source"):
        datamodule(place)
