"""Every recipe that ships: it parses against the real classes; the smoke recipes train, resume, export and load."""

import json
import re
from pathlib import Path
from pkgutil import resolve_name

import datasets
import pytest
import torch
from conftest import read, tiny_flags
from PIL import Image

import zoo
from zoo import hub, recipe, registry
from zoo.data.images import ImageData
from zoo.data.latents import write
from zoo.report.history import rises
from zoo.train import fit
from zoo.train.keys import keys_of
from zoo.train.parse import parse

ROOT = Path(__file__).parents[1]
ALL = recipe.list_recipes()
SMOKE = [name for name in ALL if name.endswith("smoke")]
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]


def test_the_list_is_what_lies_there():
    files = [p for p in (ROOT / "recipes").rglob("*") if p.is_file()]
    assert len(ALL) == len(files) >= 6
    assert all(p.suffix == ".yaml" for p in files)
    for family in registry.families():
        assert f"{family}/smoke" in ALL


@pytest.mark.parametrize("name", ALL)
def test_it_parses_and_builds_and_says_what_it_is(name, tmp_path):
    overrides = ["--trainer.default_root_dir", str(tmp_path), *tiny_flags(name)]
    if "folder" in read(name)["data"]["init_args"]:  # of latents that somebody would have to write first
        config = {
            "format": "latentzoo latents 1",
            "encoder": "",
            "fingerprint": "",
            "mean": [0],
            "std": [1],
            "classes": [],
            "train": {},
            "test": {},
        }
        (tmp_path / "config.json").write_text(json.dumps(config))
        overrides += ["--data.folder", str(tmp_path)]
    built = parse(recipe.recipe_path(name), overrides)
    assert built.config["expect"]["metric"].startswith("test/")
    assert len(recipe.about(name)) > 20
    *frames, channels, height, width = built.model.model.takes.shape
    with torch.no_grad():
        assert len(built.model(torch.rand(2, *frames, channels, height, width))) == 2
    size = built.datamodule.hparams
    assert (size.get("channels", channels), size.get("image_size", height)) == (channels, height)
    assert not frames or [size["frames"]] == frames


@pytest.mark.parametrize("name", [name for name in ALL if "arch" in read(name)["model"]["init_args"]])
def test_its_data_are_of_the_size_of_its_model(name):
    model, data = (read(name)[part]["init_args"] for part in ("model", "data"))
    record = registry.records().get(model.get("weights"))
    args = (record.args if record and record.arch == model["arch"] else {}) | model.get("arch_args", {})
    with torch.device("meta"):
        *frames, channels, height, _ = zoo.create(model["arch"], **args).takes.shape
    assert data.get("image_size", height) == height
    assert data.get("channels", channels) == channels
    assert not frames or data["frames"] == frames[0]


@pytest.mark.parametrize("name", SMOKE)
def test_smoke_trains_resumes_exports_and_loads(name, tmp_path):
    assert fit.fit([name, "--runs", str(tmp_path / "runs"), *QUIET]) == 0
    (run,) = (tmp_path / "runs").glob("*/*")
    ended, expect = json.loads((run / "metrics.json").read_text()), read(name)["expect"]
    assert ended["expect"] == expect
    figure, floor = ended["metrics"][expect["metric"]], expect["value"]
    assert figure >= floor if rises(expect["metric"]) else figure <= floor
    assert fit.fit(["--resume", str(run), "--trainer.max_epochs", "3", *QUIET]) == 0
    model = zoo.load(str(zoo.export(run, tmp_path / "folder")))
    again = zoo.load(str(zoo.export(run, tmp_path / "again"))).state_dict()
    assert all(torch.equal(tensor, again[key]) for key, tensor in model.state_dict().items())
    assert expect["metric"] in (tmp_path / "folder" / "README.md").read_text()


@pytest.mark.parametrize("name", SMOKE)
def test_a_smoke_recipe_trains_the_small_model_of_its_family(name):
    args = read(name)["model"]["init_args"]
    own = {key: value for key, value in args["arch_args"].items() if key != "num_classes"}
    assert own.items() <= hub.tiny(args["arch"]).items()


# A LightningModule and a DataModule -> a recipe of both; what smoke recipes do not train is trained a step.


def pair(name):
    return tuple(read(name)[part]["class_path"] for part in ("model", "data"))


PAIRS = {pair(name): name for name in reversed(ALL) if pair(name) not in map(pair, SMOKE)}


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """DataModule -> flags that give it a few samples that lie here."""
    folder = tmp_path_factory.mktemp("own")
    for split in ("train", "val", "test"):
        for i in range(8):
            file = folder / "images" / split / "ab"[i % 2] / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (64, 64), (30 * i, 80, 255 - 30 * i)).save(file)
    images = ImageData(str(folder / "images"), 64, 3)
    write(zoo.load("rae_mae_vit_tiny.tiny_imagenet"), images, folder / "latents")
    return {
        "zoo.ImageData": {"source": folder / "images"},
        "zoo.ClipData": {"source": "sprites", "limit": 1},
        "zoo.FactorData": {"num_images": 8, "num_test": 8},
        "zoo.LatentData": {"folder": folder / "latents"},
    }


@pytest.mark.parametrize("name", PAIRS.values())
def test_each_pair_of_a_training_and_its_data_takes_a_step(name, own, tmp_path):
    model, data = pair(name)
    known = {part: keys_of(resolve_name(kind)) for part, kind in (("model", model), ("data", data))}
    step = {
        "model": {"num_classes": 9 if data == "zoo.ClipData" else 2, "warmup_epochs": 0},
        "data": {"batch_size": 4, "eval_batch_size": 4, "num_workers": 0},
        "trainer": {"max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 0, "accumulate_grad_batches": 1}
        | {"devices": 1, "accelerator": "cpu", "precision": "32-true", "logger": "false"}
        | {"enable_checkpointing": "false", "default_root_dir": tmp_path},
    }
    step = {part: {k: v for k, v in of.items() if k in known.get(part, of)} for part, of in step.items()}
    step["data"] |= own[data]
    flags = [f"--{part}.{key}={value}" for part, of in step.items() for key, value in of.items()]
    built = parse(recipe.recipe_path(name), [*tiny_flags(name), *flags, *QUIET])
    before = {key: p.clone() for key, p in built.model.model.named_parameters()}
    built.trainer.fit(built.model, built.datamodule)
    assert built.trainer.callback_metrics["train/loss"].isfinite()
    assert any(not torch.equal(p, before[key]) for key, p in built.model.model.named_parameters())


# ImageNet as the Hub has it: train and validation are labelled, every label of the test split is -1.


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """Eight grey pictures a split, of two of the thousand classes."""
    folder = tmp_path_factory.mktemp("imagenet")
    names = datasets.ClassLabel(names=list(registry.class_list("imagenet1k").names))
    features = datasets.Features({"image": datasets.Image(), "label": names})
    for split, labels in (("train", [0, 207] * 4), ("validation", [0, 207] * 4), ("test", [-1] * 8)):
        pictures = [Image.new("RGB", (32, 32), (20 * i, 80, 255 - 20 * i)) for i in range(8)]
        table = datasets.Dataset.from_dict({"image": pictures, "label": labels}, features)
        table.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


TINY_VIT = {"image_size": 32, "patch_size": 8, "dim": 16, "depth": 1, "heads": 2}
TINY_DECODER = {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}


@pytest.mark.parametrize("name", [name for name in ALL if name.startswith("mae/in1k_")])
def test_a_recipe_of_imagenet_ends_with_its_figures(name, imagenet, tmp_path, capsys):
    args = read(name)["model"]["init_args"]
    pretrains = "pretrain" in name
    tiny = args.get("arch_args", {}) | TINY_VIT | (TINY_DECODER if pretrains else {})
    own = {
        "model": {"arch_args": json.dumps(tiny), "compile": "false"} | ({} if pretrains else {"weights": "null"}),
        "data": {"source": imagenet, "image_size": 32, "batch_size": 4, "eval_batch_size": 4, "num_workers": 0},
        "trainer": {"max_epochs": 1, "devices": 1, "accelerator": "cpu", "precision": "32-true", "logger": "false"}
        | {"accumulate_grad_batches": 1, "check_val_every_n_epoch": 1},
    }
    flags = [f"--{part}.{key}={value}" for part, values in own.items() for key, value in values.items()]
    assert fit.fit([name, *flags, *QUIET, "--run", str(tmp_path / "run")]) == 0
    measured = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert {"val/loss", "val/knn" if pretrains else "val/acc"} <= measured["metrics"].keys()
    assert not [key for key in measured["metrics"] if key.startswith("test/")]  # nothing was tested
    assert (measured["split"], measured["expect"]) == ("val", None)
    printed = capsys.readouterr().out
    assert "has no test set with labels: these are of its val split" in printed
    if read(name)["expect"]["value"] is not None:
        assert re.search(
            r"^expected +nothing known: the run has another .*max_epochs, .* than the recipe$", printed, re.M
        )
    exported = hub.read_config(hub.export(tmp_path / "run", tmp_path / "out"))
    assert [m["name"] for m in exported["metrics"]] == [k for k in measured["metrics"] if k.startswith("val/")]
    (data,) = {m["data"] for m in exported["metrics"]}
    assert re.fullmatch(r"a folder of \d+ pictures( in 1000 classes)?, val split \(\d+\)", data)
    assert len(exported.get("classes", ())) == (0 if pretrains else 1000)
