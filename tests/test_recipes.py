"""Every recipe that ships: it parses against the real classes; the smoke recipes train, resume, export and load."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from conftest import LIGHT, narrow

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
