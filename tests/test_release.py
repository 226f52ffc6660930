"""`zoo release`: runs become weights whose config.json is the whole record, refused in a line where they do not."""

import dataclasses
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

import zoo
from zoo import cli, hub, recipe, registry
from zoo.hub import index
from zoo.nn.frozen import fingerprint
from zoo.report import figures
from zoo.train import fit

QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
NAME = "bilinear_d64.smoke"


def train(run, *more, name="bilinear/smoke"):
    argv = ["fit", name, "--run", str(run), *more, *QUIET]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["zoo", *argv])  # as a run notes it
        assert cli.main(argv) == 0
    return str(run)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two seeds of the smoke recipe, one epoch each: neither is perfect."""
    root = tmp_path_factory.mktemp("runs")
    few = ("--trainer.max_epochs", "1", "--model.lr", "1e-3")
    return [train(root / str(seed), "--seed_everything", str(seed), *few) for seed in (3, 4)]


@pytest.fixture
def house(tmp_path, monkeypatch):
    """The house's checkpoints, where a test may add one."""
    place = tmp_path / "checkpoints"
    place.mkdir()
    for path in (path for folder in registry.families()["mae"].checkpoints for path in folder.iterdir()):
        shutil.copy(path, place) if path.is_file() else (place / path.name).symlink_to(path)
    there = registry._house
    monkeypatch.setattr(registry, "_house", lambda: [dataclasses.replace(f, checkpoints=(place,)) for f in there()])
    registry.forget()
    yield place
    monkeypatch.undo()
    registry.forget()


def refused(capsys, *argv):
    """The one line that a command ends with."""
    assert cli.main([str(a) for a in argv]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_runs_become_weights_that_load_verify_and_tell_what_is_known(runs, house, capsys):
    assert cli.main(["release", *runs, NAME, "--licence", "CC-BY-4.0"]) == 0
    out = capsys.readouterr().out
    assert "stored as float16: accuracy of it is " in out
    files = {"config.json", "model.safetensors", "README.md", "picture.png"}
    assert {p.name for p in (house / NAME).iterdir()} == files

    record, environment = zoo.weights_info(NAME), json.loads(Path(runs[0], "environment.json").read_text())
    assert record.sha256 == hub.hash_file(house / NAME / "model.safetensors")
    assert (record.licence, record.data) == ("CC-BY-4.0", None)
    assert record.data_terms == "made by RandomImages, of no data set"
    assert (record.recipe, record.commit, record.kind) == ("bilinear/smoke", environment["commit"], "full")
    assert record.command.startswith("zoo fit bilinear/smoke --seed_everything 3 --trainer.max_epochs 1 ")
    assert " --run" not in record.command
    assert record.hardware
    assert record.wall_time.endswith(" s")
    best = record.metrics[0]
    each = [figures.evaluate(run) for run in runs]
    assert (best.name, best.unit, best.data, best.split) == ("accuracy", "%", "RandomImages", each[0]["split"])
    assert (best.seeds, best.images) == ((3, 4), each[0]["images"])
    assert best.value == pytest.approx(100 * each[0]["accuracy"], abs=0.01)
    assert best.mean == pytest.approx(50 * sum(f["accuracy"] for f in each), abs=0.01)
    assert best.range == pytest.approx(tuple(sorted(100 * f["accuracy"] for f in each)), abs=0.01)
    assert best.interval[0] < best.value < best.interval[1]
    assert best.commit == fit.commit()

    model, run = zoo.load(NAME), zoo.load(runs[0])
    for key, tensor in run.state_dict().items():
        assert torch.equal(model.state_dict()[key], tensor.half().float() if tensor.is_floating_point() else tensor)
    assert hub.verify(NAME) == {"name": NAME, "sha256": "ok", "strict": "ok", "golden": "ok"}
    assert cli.main(["ls"]) == cli.main(["info", NAME]) == 0
    out = capsys.readouterr().out
    assert f"{NAME} " in out
    assert "seeds 3, 4" in out
    card = ModelCard.load(house / NAME / "README.md")
    assert card.data.license == "cc-by-4.0"
    assert "picture.png" in card.text
    assert registry.read_records((house,)) == tuple(sorted(registry.shipped((house,)), key=lambda w: w.name))


def test_a_tag_that_stands_is_not_replaced_by_force_either(runs, house, capsys):
    said = refused(capsys, "release", *runs, "bilinear_d256.mnist", "--force")
    assert "bilinear_d256.mnist stands, and a tag never changes; release it under another: " in said
    out = house.parent / "mine"
    assert cli.main(["release", runs[0], NAME, "-o", str(out)]) == 0
    assert "its licence is unknown" in capsys.readouterr().out
    before = {p: p.read_bytes() for p in out.iterdir()}
    assert f"{NAME} stands" in refused(capsys, "release", *runs, NAME, "-o", out, "--force")
    assert {p: p.read_bytes() for p in out.iterdir()} == before
    assert NAME not in registry.records()  # it lies elsewhere, and is loaded from there
    assert hub.verify(str(out))["golden"] == "ok"


def test_an_export_is_replaced_by_force_and_somebody_elses_folder_never(runs, tmp_path, capsys):
    out = tmp_path / "out"
    zoo.export(runs[0], out)
    assert "or --force to replace it" in refused(capsys, "release", runs[0], NAME, "-o", out)
    assert cli.main(["release", runs[0], NAME, "-o", str(out), "--force"]) == 0
    assert hub.read_config(out)["name"] == NAME
    capsys.readouterr()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    assert "holds cat.jpg" in refused(capsys, "release", runs[0], NAME, "-o", tmp_path / "photos", "--force")


@pytest.mark.parametrize("text", [None, "null", '{"metrics": null}', '{"metrics": {"test/acc": null}}'])
def test_a_run_without_figures_is_refused(text, runs, tmp_path, capsys):
    run = shutil.copytree(runs[0], tmp_path / "run")
    (run / "metrics.json").unlink()
    if text is not None:
        (run / "metrics.json").write_text(text)
    said = refused(capsys, "release", run, NAME, "-o", tmp_path / "out")
    assert "metrics.json is no mapping" in said if text == "null" else "has no figures: metrics.json is missing" in said
    assert not (tmp_path / "out").exists()


def changed(run, to, **keys):
    """A copy of a run whose recipe says something else."""
    run = shutil.copytree(run, to)
    said = yaml.safe_load((run / "recipe.yaml").read_text())
    said["model"]["init_args"] |= keys
    (run / "recipe.yaml").write_text(yaml.safe_dump(said))
    return run


def test_runs_that_do_not_belong_together_are_refused(runs, tmp_path, capsys):
    out = ["-o", tmp_path / "out"]
    assert "not bilinear_d256; it is released as bilinear_d64.TAG" in refused(
        capsys, "release", runs[0], "bilinear_d256.x", *out
    )
    assert "seed 3 is there twice" in refused(capsys, "release", runs[0], runs[0], NAME, *out)
    other = changed(runs[1], tmp_path / "lr", lr=0.5)
    assert "have another model.lr; mean and range are of one recipe" in refused(
        capsys, "release", runs[0], other, NAME, *out
    )
    environment = json.loads((other / "environment.json").read_text()) | {"recipe": "bilinear/mnist"}
    (other / "environment.json").write_text(json.dumps(environment))
    assert "is a run of bilinear/smoke, " in refused(capsys, "release", runs[0], other, NAME, *out)
    assert "did you mean bilinear_d64" in refused(capsys, "release", runs[0], "bilinear_d65.x", *out)
    assert "is no arch.tag" in refused(capsys, "release", runs[0], "bilinear_d64", *out)
    assert "no folder" in refused(capsys, "release", tmp_path / "none", NAME, *out)
    assert not (tmp_path / "out").exists()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_figures_that_float16_moves_out_of_their_interval_keep_float32(runs, tmp_path, monkeypatch, capsys):
    measure = figures.evaluate

    def worse(name, *given, run=None, **how):
        found = measure(name, *given, run=run, **how)
        return found if run is None else found | {"accuracy": 0.0}

    monkeypatch.setattr(figures, "evaluate", worse)
    assert cli.main(["release", runs[0], NAME, "-o", str(tmp_path / "out")]) == 0
    assert "stored as float32: accuracy of float16 is 0.0, outside of float32's interval [" in capsys.readouterr().out
    monkeypatch.undo()
    model, run = zoo.load(str(tmp_path / "out")), zoo.load(runs[0])
    assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in run.state_dict().items())
    best = hub.read_config(tmp_path / "out")["metrics"][0]
    assert best["value"] == pytest.approx(100 * measure(runs[0])["accuracy"], abs=0.01)
    assert best["protocol"].startswith("the stored float32 weights")
    assert "mean" not in best


def test_a_network_that_another_record_knows_by_hash_keeps_float32(runs, tmp_path, monkeypatch, capsys):
    digest = fingerprint(zoo.load(runs[0]))[:16]
    record = zoo.weights_info("bilinear_d256.mnist")
    owner = dataclasses.replace(record, name="bilinear_d64.owner", args={"x_hash": digest})
    monkeypatch.setattr(registry, "records", lambda: {owner.name: owner})
    assert cli.main(["release", runs[0], NAME, "-o", str(tmp_path / "out")]) == 0
    assert "stored as float32: bilinear_d64.owner names the float32 file by its hash" in capsys.readouterr().out


def test_a_folder_that_was_edited_by_hand_is_refused_by_name(runs, house, capsys):
    assert cli.main(["release", runs[0], NAME]) == 0
    capsys.readouterr()
    file = house / NAME / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"weights": config["weights"] | {"sha256": "0" * 64}}))
    with pytest.raises(ValueError, match=rf"{NAME}/config.json has another sha256 than the record of {NAME}"):
        zoo.load(NAME)
    with pytest.raises(ValueError, match="expected 000000000000…"):
        zoo.load(str(file.parent))
    file.write_text(json.dumps(config | {"licence": "MIT"}))
    with pytest.raises(ValueError, match="has another licence than the record"):
        zoo.load(NAME)


def test_an_index_that_is_stale_is_found_and_a_damaged_one_is_an_error_of_one_line(house, capsys):
    assert index.text((house,)) == (house / "index.json").read_text(encoding="utf-8")
    told = json.loads((house / "index.json").read_text(encoding="utf-8"))
    told["bilinear_d256.mnist"]["hardware"] = "a typewriter"
    (house / "index.json").write_text(json.dumps(told))
    assert index.text((house,)) != (house / "index.json").read_text(encoding="utf-8")
    (house / "index.json").write_text("{")
    registry.forget()
    assert "index.json is no index of records" in refused(capsys, "ls")
    (house / "index.json").unlink()
    registry.forget()
    assert zoo.weights_info("bilinear_d256.mnist").hardware == "cpu (2 cores)"


def test_listing_reads_the_index_and_no_folder(house, monkeypatch, capsys):
    read, opened = Path.read_text, []
    monkeypatch.setattr(Path, "read_text", lambda path, **how: opened.append(path) or read(path, **how))
    assert cli.main(["ls"]) == 0
    assert [p.name for p in opened if p.is_relative_to(house)] == ["index.json"]
    capsys.readouterr()


def test_info_says_whether_the_recipe_still_is_what_it_was(runs, house, tmp_path, monkeypatch, capsys):
    assert cli.main(["release", runs[0], NAME]) == 0
    assert cli.main(["info", "bilinear_d256.mnist"]) == 0
    assert "not known: the record keeps no recipe" in capsys.readouterr().out
    assert cli.main(["info", NAME]) == 0
    out = capsys.readouterr().out
    assert "no: bilinear/smoke says today what it said then" in out
    assert "(stale)" not in out
    text = recipe.recipe_path("bilinear/smoke").read_text().replace("weight_decay: 0.01", "weight_decay: 0.02")
    (tmp_path / "smoke.yaml").write_text(text)
    monkeypatch.setattr(recipe, "recipe_path", lambda name: tmp_path / "smoke.yaml")
    for name in (NAME, str(house / NAME)):
        assert cli.main(["info", name]) == 0
        out = capsys.readouterr().out
        assert "yes: bilinear/smoke has another model.weight_decay today" in out
        assert "(stale)" in out


def test_weights_that_began_from_others_name_them(runs, house, tmp_path, capsys):
    began = train(tmp_path / "began", "--model.weights", runs[0], "--trainer.max_epochs", "1")
    assert cli.main(["release", began, NAME, "-o", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "config.json").read_text()
    assert str(tmp_path) not in text
    assert runs[0] not in text
    capsys.readouterr()


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """The k-sparse family of another distribution, installed for this process."""
    site = shutil.copytree(Path(__file__).parent / "fixtures" / "ksparse_site", tmp_path / "site")
    monkeypatch.syspath_prepend(str(site))
    registry.forget()
    yield site / "zoo_ksparse" / "checkpoints"
    monkeypatch.undo()
    for name in [name for name in sys.modules if name.partition(".")[0] == "zoo_ksparse"]:
        del sys.modules[name]
    registry.forget()


def test_a_family_of_another_distribution_is_released_into_its_own_folder(plugin, tmp_path, capsys):
    run = train(tmp_path / "run", "--data.num_images", "64", name="ksparse/smoke")
    capsys.readouterr()
    inside = registry.HOUSE / "checkpoints" / "ksparse_1000.x"
    said = refused(capsys, "release", run, "ksparse_1000.x", "-o", inside)
    assert "ksparse_1000 is of zoo_ksparse (distribution latentzoo-ksparse), and weights of it ship with that" in said
    assert not inside.exists()
    assert cli.main(["release", run, "ksparse_1000.x"]) == 0
    assert "stored as float16: psnr of it is " in capsys.readouterr().out
    assert zoo.weights_info("ksparse_1000.x").folder == plugin / "ksparse_1000.x"
    assert hub.verify("ksparse_1000.x")["golden"] == "ok"
    (plugin / "index.json").unlink()  # it is read from its config.json then
    registry.forget()
    assert zoo.weights_info("ksparse_1000.x").metrics[0].name == "psnr"
    assert zoo.load("ksparse_1000.x").takes.shape == (1, 28, 28)


def test_a_folder_of_another_name_than_its_record_is_no_checkpoint_of_a_family(plugin, capsys):
    (plugin / "ksparse_1000.y").mkdir(parents=True)
    record = {"name": "ksparse_1000.x", "args": {}, "licence": "MIT", "data_terms": "none", "metrics": []}
    record |= {"arch": "ksparse_1000", "weights": {"file": "model.safetensors", "sha256": "0" * 64, "size": 1}}
    file = plugin / "ksparse_1000.y" / "config.json"
    for config, said in (
        (record, "says that it is ksparse_1000.x; a checkpoint's folder is named as it is"),
        (record | {"metrics": [{"name": "psnr"}]}, "(the record of ksparse_1000.x is not whole: TypeError"),
    ):
        file.write_text(json.dumps(config))
        registry.forget()
        assert "ksparse" not in registry.families()  # left out, with one line
        with pytest.raises(ValueError, match=re.escape(said)):
            registry.read_records((plugin,))


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda told: {}, "it has none"),
        (
            lambda told: told | {"bilinear_d256.mnist": told["bilinear_d256.mnist"] | {"licence": None}},
            "licence is None",
        ),
        (
            lambda told: told | {"bilinear_d256.mnist": told["bilinear_d256.mnist"] | {"metrics": [{"value": "x"}]}},
            "missing",
        ),
    ],
    ids=["empty", "no licence", "half a figure"],
)
def test_an_index_that_says_what_no_record_can_is_one_line_of_every_verb(house, capsys, edit, said):
    index_file = house / "index.json"
    index_file.write_text(json.dumps(edit(json.loads(index_file.read_text(encoding="utf-8")))))
    for verb in (["ls"], ["info", "bilinear_d256.mnist"], ["verify"]):
        registry.forget()
        line = refused(capsys, *verb)
        assert "index.json is no index of records" in line
        assert said in line


def test_a_damaged_index_is_written_again(house, tmp_path, monkeypatch):
    whole = (house / "index.json").read_text(encoding="utf-8")
    (house / "index.json").write_text("<<<<<<< HEAD")
    registry.forget()
    monkeypatch.setattr(registry, "house_checkpoints", lambda: (house,))
    assert list(index.refresh().values()) == [whole]


def test_a_record_without_its_terms_is_no_shipped_one(house):
    file = house / "bilinear_d256.mnist" / "config.json"
    (house / "bilinear_d256.mnist").unlink()
    shutil.copytree(registry.HOUSE / "checkpoints" / "bilinear_d256.mnist", house / "bilinear_d256.mnist")
    config = json.loads(file.read_text(encoding="utf-8"))
    del config["licence"]
    file.write_text(json.dumps(config | {"classes": list("abcdefghij")}))
    with pytest.raises(ValueError, match=r"than the record of bilinear_d256\.mnist: it was edited"):
        zoo.load("bilinear_d256.mnist")


@pytest.mark.parametrize("text", ["{", "[]", "\x00"])
def test_info_of_a_folder_that_cannot_be_read_says_what_its_record_does(house, capsys, text):
    (house / "bilinear_d256.mnist").unlink()
    (house / "bilinear_d256.mnist").mkdir()
    (house / "bilinear_d256.mnist" / "config.json").write_text(text)
    assert cli.main(["info", "bilinear_d256.mnist"]) == 0
    assert "stale       not known" in capsys.readouterr().out


def test_verify_of_all_fails_where_a_shipped_checkpoint_lacks_its_tensors(house, capsys, monkeypatch):
    name = "bilinear_d256.mnist"
    shutil.copytree(house / name, house / "copy", ignore=shutil.ignore_patterns("*.safetensors"))
    (house / name).unlink()
    (house / "copy").rename(house / name)
    known = {name: zoo.weights_info(name)}
    monkeypatch.setattr(registry, "records", lambda: known)
    assert cli.main(["verify"]) == 1
    assert f"{name}/model.safetensors is not there; get it again: pip install" in capsys.readouterr().out
