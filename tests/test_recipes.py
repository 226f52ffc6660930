"""Every recipe that ships: it parses against the real classes; the smoke recipes train, resume, export and load."""

import json
import re
from pathlib import Path

import datasets
import pytest
import torch
import yaml
from conftest import LIGHT, narrow
from PIL import Image

import zoo
from zoo import hub, recipe, registry
from zoo.train import fit
from zoo.train.parse import parse

ROOT = Path(__file__).parents[1]
ALL = recipe.list_recipes()
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]


def test_the_list_is_what_lies_there():
    files = [p for p in (ROOT / "recipes").rglob("*") if p.is_file()]
    assert len(ALL) == len(files) >= 6
    assert all(p.suffix == ".yaml" for p in files)
    for family in registry.families():
        assert f"{family}/smoke" in ALL


def read(name):
    return yaml.safe_load(recipe.recipe_path(name).read_text())


def affordable(name):
    """What makes a recipe buildable anywhere at once: no download, one block of a large network, no compiler."""
    args = read(name)["model"]["init_args"]
    if "arch" not in args:
        return []  # follows from weights that ship
    found = registry.records().get(f"{args['arch']}.{args.get('weights')}") or registry.records().get(
        args.get("weights")
    )
    large = int(re.search(r"([\d,]+) parameters", registry.summary(args["arch"]))[1].replace(",", "")) > 20_000_000
    smaller = narrow(args["arch"]) if registry.family_of(args["arch"]) == "dcae" else {"depth": 1}
    smaller = {"width": 32} if "width" in hub.keywords(args["arch"]) else smaller
    smaller = {"depth": "[1,1]"} if "autoencoder" in args else smaller
    fetched = str(args.get("arch_args", {}).get("encoder", "")).startswith("timm:")
    shipped = {"encoder": "mae_vit_tiny.tiny_imagenet", "encoder_size": 64, "latent_channels": 192, "grid": 8}
    smaller |= shipped if fetched else {}
    return [
        *(["--model.weights", "null"] if args.get("weights") and not (found and found.embedded) else []),
        *(["--model.phase", "1"] if args.get("phase", 1) > 1 else []),  # the others need the weights of the one before
        *(f"--model.arch_args.{k}={v}" for k, v in smaller.items() if large and k != "image_size"),
        *(["--model.perceptual_weight", "0"] if "perceptual_weight" in args else []),
        *(["--model.compile", "false"] if args.get("compile") else []),
        *(["--model.disc_backbone", "mae_vit_tiny.tiny_imagenet"] if "disc_backbone" in args else []),
        *(["--model.autoencoder", "rae_mae_vit_tiny.tiny_imagenet"] if "autoencoder" in args else []),
        *(["--model.arch_args.quantizer_args.init", "uniform"] if "kmeans" in str(args.get("arch_args")) else []),
    ]


@pytest.mark.parametrize("name", ALL)
def test_it_parses_and_builds_and_says_what_it_is(name, tmp_path):
    overrides = ["--trainer.default_root_dir", str(tmp_path), *affordable(name)]
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


@pytest.mark.parametrize("name", [n for n in ALL if n.endswith("/smoke")])
def test_smoke_trains_resumes_exports_and_loads(name, tmp_path):
    assert fit.fit([name, *LIGHT.get(name, ()), "--runs", str(tmp_path / "runs"), *QUIET]) == 0
    (run,) = (tmp_path / "runs").glob("*/*")
    assert fit.fit(["--resume", str(run), "--trainer.max_epochs", "3", *QUIET]) == 0
    model = zoo.load(str(zoo.export(run, tmp_path / "folder")))
    again = zoo.load(str(zoo.export(run, tmp_path / "again"))).state_dict()
    assert all(torch.equal(tensor, again[key]) for key, tensor in model.state_dict().items())
    assert read(name)["expect"]["metric"] in (tmp_path / "folder" / "README.md").read_text()


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
