"""Cards that tell the truth: what a user's own run publishes, as the Hub's own parser reads it."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from PIL import Image

import zoo
from zoo import cli, hub, registry
from zoo.hub import front
from zoo.hub.card import folder_card, licence
from zoo.train import fit

QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
CLASSES = ("cats & dogs", "houses", "trees")


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A run on a folder of 24 pictures in three classes, six of which are held out, by a recipe of one's own."""
    root = tmp_path_factory.mktemp("of somebody")
    for label, name in enumerate(CLASSES):
        (root / "private photos" / name).mkdir(parents=True)
        for i in range(8):
            Image.new("L", (16, 16), 80 * label + i).save(root / "private photos" / name / f"{i}.png")
    recipe = yaml.safe_load((Path(__file__).parents[1] / "recipes/bilinear/smoke.yaml").read_text())
    recipe["model"]["init_args"]["arch_args"] = {"image_size": 16, "num_classes": 3}
    given = {"source": str(root / "private photos"), "batch_size": 9, "val_fraction": 0.25, "num_workers": 0}
    recipe |= {"data": {"class_path": "zoo.ImageData", "init_args": given}, "expect": None}
    (root / "mine.yaml").write_text(yaml.safe_dump(recipe))
    assert fit.fit([str(root / "mine.yaml"), "--run", str(root / "run"), *QUIET]) == 0
    return root


@pytest.fixture(scope="module")
def pushed(own):
    """What would be published of the run."""
    zoo.push(own / "run", "someone/houses", dry_run=own / "pushed")
    return own / "pushed"


def test_a_run_is_exported_and_what_is_published_loads_and_tells_no_place_of_this_machine(own, pushed):
    assert {p.name for p in pushed.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    assert zoo.load(str(pushed)).zoo_config["classes"] == list(CLASSES)
    for file in pushed.iterdir():
        for told in (str(own), own.name, "private photos", "mine.yaml", str(Path.home())):
            assert told.encode() not in file.read_bytes(), file


def test_the_card_of_a_run_states_split_percent_pictures_and_classes(own, pushed):
    card = ModelCard.load(pushed / "README.md", ignore_metadata_errors=False)
    measured = json.loads((own / "run" / "metrics.json").read_text())["metrics"]
    assert card.data.license == "unknown"
    assert (card.data.datasets, card.data.library_name) == (None, "latentzoo")
    accuracy = next(r for r in card.data.eval_results if r.metric_name == "val/acc")
    assert (accuracy.metric_type, accuracy.dataset_split) == ("accuracy", "validation")
    assert accuracy.metric_value == pytest.approx(100 * measured["val/acc"], abs=0.01)
    assert accuracy.dataset_name == "a folder of 24 pictures in 3 classes, val split (6)"
    assert not [r for r in card.data.eval_results if "test" in r.metric_name]
    assert f"| val/acc | {accuracy.metric_value:g} % |" in card.text
    assert "3, in the order of the outputs: cats & dogs, houses, trees." in card.text
    assert "18 of them were trained on; not trained on: 6 val." in card.text
    assert "the weights may have been chosen by this figure" in card.text
    assert 'zoo.load("hf://someone/houses")' in card.text
    assert "ORG/NAME" not in card.text


def shown(card: Path) -> str:
    """The lines of Python in a card."""
    return re.search(r"```python\n(.*?)```", card.read_text(encoding="utf-8"), re.DOTALL)[1]


def test_the_lines_of_a_runs_card_run_as_they_stand(pushed, capsys, monkeypatch):
    monkeypatch.setattr(zoo, "load", lambda name, load=zoo.load: load(name.replace("hf://someone/houses", str(pushed))))
    exec(shown(pushed / "README.md"), {})
    assert capsys.readouterr().out.partition(" tensor")[0] in CLASSES


@pytest.mark.parametrize("name", [w.name for w in registry.records().values() if w.embedded])
def test_the_lines_of_each_shipped_card_run_as_they_stand(name, monkeypatch):
    folder = registry.weights_info(name).folder
    monkeypatch.setattr(zoo, "load", lambda place, load=zoo.load: load(place.replace("hf://ORG/NAME", str(folder))))
    exec(shown(folder / "README.md"), {})


@pytest.mark.parametrize("name", [w.name for w in registry.records().values() if w.embedded])
def test_the_hubs_own_parser_reads_each_shipped_card(name):
    card = ModelCard.load(registry.weights_info(name).folder / "README.md", ignore_metadata_errors=False)
    assert card.data.license == registry.weights_info(name).licence.lower()
    assert all(isinstance(r.metric_value, int | float) for r in card.data.eval_results or ())


@pytest.mark.parametrize(
    ("given", "stated"),
    [
        ("MIT", {"license": "mit"}),
        ("CC-BY-4.0", {"license": "cc-by-4.0"}),
        ("llama2", {"license": "llama2"}),
        ("GPL-3.0-or-later", {"license": "gpl-3.0"}),
        ("CECILL-2.1", {"license": "other", "license_name": "cecill-2.1"}),
    ],
)
def test_a_licence_is_the_hubs_or_spdxs(given, stated):
    assert licence(given) == stated


def test_a_licence_that_nobody_knows_is_refused_before_anything_is_written(own, capsys):
    out = str(own / "refused")
    for argv in (["export", str(own / "run"), "-o", out], ["push", str(own / "run"), "me/mine", "-o", out]):
        assert cli.main([*argv, "--licence", "apache2"]) == 2
        assert "no licence 'apache2', did you mean apache-2.0" in capsys.readouterr().err
    assert not Path(out).exists()


def test_a_licence_is_stated_by_export_and_by_push(own, capsys):
    folder, dry = own / "licensed", own / "dry"
    assert cli.main(["export", str(own / "run"), "-o", str(folder), "--licence", "CC-BY-4.0"]) == 0
    assert ModelCard.load(folder / "README.md").data.license == "cc-by-4.0"
    assert cli.main(["push", str(folder), "me/mine", "-o", str(dry)]) == 0
    assert ModelCard.load(dry / "README.md").data.license == "cc-by-4.0"
    assert cli.main(["push", str(folder), "me/mine", "-o", str(dry), "--licence", "mit", "--force"]) == 0
    assert ModelCard.load(dry / "README.md").data.license == "mit"
    assert hub.read_config(dry)["licence"] == "mit"
    capsys.readouterr()


def test_a_card_that_its_owner_wrote_is_published_as_it_is(own, tmp_path):
    folder = shutil.copytree(own / "pushed", tmp_path / "folder")
    (folder / "README.md").write_text("# Mine\nhf://ORG/NAME is what it is.\n")
    out = Path(zoo.push(folder, "me/mine", dry_run=tmp_path / "dry"))
    card = ModelCard.load(out / "README.md")
    assert card.text.strip() == "# Mine\nhf://me/mine is what it is."
    assert card.data.license == "unknown"


def test_a_card_that_tells_of_a_place_here_is_not_published(own, pushed, tmp_path):
    folder = shutil.copytree(pushed, tmp_path / "folder")
    with open(folder / "README.md", "a") as card:
        card.write(f"\nTrained on {own / 'run'}.\n")
    with pytest.raises(ValueError, match=rf"README.md tells of {re.escape(str(own / 'run'))}, a place of this machine"):
        zoo.push(folder, "me/mine", dry_run=tmp_path / "dry")
    assert not (tmp_path / "dry").exists()


def test_what_began_from_a_run_does_not_tell_where_that_lay(own, tmp_path, monkeypatch):
    monkeypatch.chdir(own)
    model = zoo.create("bilinear_d64", image_size=16, num_classes=3)
    model.zoo_config["parent"] = "runs/secret"
    assert "runs/secret" not in (zoo.save(model, tmp_path) / "config.json").read_text()
    model.zoo_config["parent"] = "hf://org/name@main"
    assert ModelCard.load(zoo.save(model, tmp_path) / "README.md").data.base_model == "org/name"


def test_weights_of_another_licence_that_a_run_began_from_are_told(tmp_path):
    config = hub.read_config(registry.weights_info("bilinear_d256.mnist").folder)
    config = {k: v for k, v in config.items() if k != "name"} | {
        "parent": "mae_vit_base.in1k",
        "trained": {"data": "x"},
    }
    assert "began from the weights mae_vit_base.in1k, which are under CC-BY-NC-4.0" in folder_card(config)


def test_a_model_that_needs_another_of_this_machine_is_not_published(own, tmp_path):
    config = json.loads((own / "pushed" / "config.json").read_text())
    config["args"]["autoencoder"] = str(own / "run")
    with pytest.raises(
        ValueError, match=r"bilinear_d64 needs its autoencoder, .*/run, which nobody else has; push that"
    ):
        zoo.hub.give.refuse_private(config, {})


def test_a_run_from_before_its_data_were_noted_tells_only_data_of_the_shipped_recipe(own, tmp_path):
    run = shutil.copytree(own / "run", tmp_path / "run")
    environment = json.loads((run / "environment.json").read_text())
    environment = {k: v for k, v in environment.items() if k != "data"} | {"recipe": "bilinear/cifar10"}
    (run / "environment.json").write_text(json.dumps(environment))
    measured = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps({k: v for k, v in measured.items() if k != "samples"}))
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    for source, told in (("me/secret", "a folder of pictures in 3 classes"), ("uoft-cs/cifar10", "uoft-cs/cifar10")):
        recipe["data"]["init_args"]["source"] = source
        (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        config = hub.read_config(zoo.export(run, tmp_path / "out"))
        assert config["metrics"][0]["data"] == f"{told}, val split"
        assert "me/secret" not in json.dumps(config)


def test_front_matter_is_read_as_what_it_was_whatever_a_name_looks_like():
    texts = [
        "",
        "yes",
        "N",
        "null",
        "nan",
        "~",
        "1",
        "1.5",
        "1e3",
        "0x1f",
        "1_000",
        "12e03",
        "2001-12-14",
        "1:30",
        "=",
        "<<",
    ]
    texts += [
        "a: b",
        "a:",
        "# x",
        "a #b",
        "- x",
        "x -",
        "[a]",
        "{a}",
        "&a",
        "*a",
        "!a",
        "|",
        ">",
        "%x",
        "@a",
        "`a`",
        "a ",
        " a",
    ]
    texts += [
        "a\nb",
        "a\tb",
        "'",
        '"',
        "\\",
        "ü × 3",
        "12 apples",
        "1,000 drawn",
        "1,000",
        "\u2028",
        "😀: \x85",
        "\x07",
        "org/name",
    ]
    numbers = [0, -3, 1.5, 1e-5, 1e16, float("inf"), float("-inf")]
    told = {
        "a": texts,
        "b": {"c": numbers, "d": [{"e": text, "f": [text, number]} for text in texts for number in numbers]},
    }
    assert yaml.safe_load(front.yaml(told)) == told
    assert yaml.safe_load(front.yaml({"a": float("nan")}))["a"] != 0
    plain = {"tags": ["vq", "1,000 drawn digits", "MNIST test"], "model-index": [{"name": "a.b", "results": [1.5]}]}
    assert front.yaml(plain) == yaml.safe_dump(plain, sort_keys=False).strip()
