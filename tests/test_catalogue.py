"""What there is and how it is given away: `zoo ls`, `zoo info`, and where export, push and convert write."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import zoo
from zoo import cli, recipe, registry

ROOT = Path(__file__).parents[1]


def say(capsys, *argv):
    capsys.readouterr()
    status = cli.main(list(map(str, argv)))
    return status, *capsys.readouterr()


# zoo ls


def test_what_ships_comes_first_and_all_fits_a_screen(capsys):
    _, out, _ = say(capsys, "ls")
    lines = out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 100
    shipped = [w for w in registry.records().values() if w.embedded]
    for line, w in zip(lines[1:], shipped):
        assert line.split()[0] == w.name
        assert f"{w.metrics[0].name} {w.metrics[0].value:g}" in line
        assert f" on {w.metrics[0].data.partition(',')[0]}" in line
    for family in registry.families():
        count = len(recipe.list_recipes(f"{family}/*"))
        assert any(line.split()[0] == family and f"{count} recipes" in line for line in lines)
    assert "zoo ls --all" in out
    assert "zoo ls --recipes" in out


def test_the_recipe_for_ones_own_pictures_is_named_on_the_first_screen(capsys):
    assert "your own pictures: zoo fit finetune_folder --data FOLDER" in say(capsys, "ls")[1]


def test_a_pattern_or_a_flag_lists_all_that_matches(capsys):
    everything = say(capsys, "ls", "--all")[1]
    for name in (*registry.list_models(), *registry.list_weights(), *recipe.list_recipes()):
        assert f"\n  {name} " in everything
    for argv, there, not_there in (
        (["mae*"], "mae_vit_huge.in1k", "bilinear"),
        (["--recipes"], "vq/mnist_prior", "\n  vqprior_tiny "),
        (["--pretrained"], "mae_vit_huge.in1k", "vq/mnist_prior"),
        (["--licence", "permissive"], "\n  bilinear_d256.mnist ", "mae_vit_huge.in1k "),
    ):
        out = say(capsys, "ls", *argv)[1]
        assert there in out
        assert not_there not in out


# zoo info


def test_a_recipe_tells_what_it_trains(capsys):
    known = json.loads(say(capsys, "info", "mae/cifar10_finetune_cpu", "--json")[1])
    assert (known["trains"], known["arch"]) == ("LitClassifier", "mae_vit_tiny_classifier")
    assert (known["weights"], known["data"]) == ("mae_vit_tiny.cifar10", "ImageData uoft-cs/cifar10")
    assert (known["epochs"], known["batch"], known["arch_args"]["patch_size"]) == (5, 128, 4)
    assert known["expected"].startswith("test/acc 74.9 % (seed 0")
    assert known["command"] == "zoo fit mae/cifar10_finetune_cpu"
    assert "zoo cp mae/cifar10_finetune_cpu mine.yaml" in known["next"]


@pytest.mark.parametrize("name", recipe.list_recipes())
def test_every_recipe_can_be_told(name, capsys):
    status, out, err = say(capsys, "info", name)
    assert status == 0, err
    for key in ("trains", "data", "expected", "command     zoo fit "):
        assert f"\n{key}" in out


def test_a_recipe_of_ones_own_is_told_and_a_broken_one_is_a_line(tmp_path, capsys):
    mine = recipe.copy_recipe("bilinear/smoke", tmp_path / "mine.yaml")
    assert json.loads(say(capsys, "info", mine, "--json")[1])["arch"] == "bilinear_d64"
    mine.write_text("model: [")
    status, _, err = say(capsys, "info", mine)
    assert (status, err.count("\n"), "mine.yaml is no YAML" in err) == (2, 1, True)


def test_an_arch_names_the_recipes_that_train_it_and_the_next_command(capsys):
    known = json.loads(say(capsys, "info", "mae_vit_tiny_classifier", "--json")[1])
    assert "mae/cifar10_probe" in known["recipes"]
    assert known["next"] == ["zoo info mae_vit_tiny_classifier.cifar10", f"zoo fit {known['recipes'][0]}"]


def test_a_checkpoint_folder_is_told(tmp_path, capsys):
    folder = zoo.export("bilinear_d256.mnist", tmp_path / "folder", licence="MIT")
    _, out, _ = say(capsys, "info", folder)
    known = json.loads(say(capsys, "info", folder, "--json")[1])
    assert (known["arch"], known["licence"], known["classes"]) == ("bilinear_d256", "MIT", list("0123456789"))
    assert known["sha256"] in out
    assert f"zoo push {folder} ORG/NAME" in out
    (folder / "config.json").write_text('{"model_type": "vit"}')
    status, _, err = say(capsys, "info", folder)
    assert (status, err.count("\n")) == (2, 1)
    assert f"zoo convert {folder} ARCH -o FOLDER" in err


def test_a_repository_of_the_hub_is_told(tmp_path, capsys, monkeypatch):
    folder = zoo.save(zoo.create("bilinear_d64"), tmp_path / "folder")
    monkeypatch.setattr("zoo.hub.places.download", lambda repo, file, revision: folder / file)
    known = json.loads(say(capsys, "info", "hf://org/name", "--json")[1])
    assert (known["folder"], known["arch"], known["licence"]) == ("hf://org/name", "bilinear_d64", "unknown")
    assert "zoo show hf://org/name PICTURES -o shown.png" in known["next"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("bilinear/smok", "did you mean bilinear/smoke"),
        ("bilinear_d265", "did you mean bilinear_d256"),
        ("bilinear_d256.mnst", "it has bilinear_d256.mnist, bilinear_d256.mnist_noise"),
        ("runs/bilinear-smoke/2026121", "did you mean runs/bilinear-smoke/20261211"),
        ("photos", "zoo show MODEL photos"),
        ("runs", "runs holds runs of 2 recipes, runs/bilinear-smoke, runs/mine; name one of them"),
    ],
)
def test_what_is_nothing_that_is_known_is_a_line_with_the_nearest_names_of_any_kind(
    name, said, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "cats").mkdir(parents=True)
    for place in ("bilinear-smoke/20261211", "mine/20261212"):
        (tmp_path / "runs" / place / "checkpoints").mkdir(parents=True)
        (tmp_path / "runs" / place / "environment.json").write_text("{}")
    status, _, err = say(capsys, "info", name)
    assert (status, err.count("\n")) == (2, 1)
    assert said in err


# export, push, convert: where they write


@pytest.fixture
def theirs(tmp_path):
    """Somebody else's checkpoint, whose tensors are named as ours."""
    save_file(zoo.load("bilinear_d256.mnist").state_dict(), tmp_path / "theirs.safetensors")
    return tmp_path / "theirs.safetensors"


def commands(theirs):
    return {
        "export": ["export", "bilinear_d256.mnist"],
        "push": ["push", "bilinear_d256.mnist", "me/mine"],
        "onnx": ["export", "bilinear_d256.mnist", "--to", "onnx"],
    }


@pytest.mark.parametrize("verb", ["export", "push"])
def test_an_output_that_exists_is_refused_and_force_replaces_a_checkpoint(verb, theirs, tmp_path, capsys):
    argv, out = commands(theirs)[verb], tmp_path / "new" / "out"
    assert say(capsys, *argv, "-o", out)[0] == 0
    first = (out / "model.safetensors").read_bytes()
    zoo.save(zoo.create("bilinear_d64"), out)
    (out / "model.onnx").write_bytes(b"of another export")
    status, _, err = say(capsys, *argv, "-o", out)
    assert (status, f"{out} exists; give another -o, or --force to replace it" in err) == (2, True)
    assert say(capsys, *argv, "-o", out, "--force")[0] == 0
    assert (out / "model.safetensors").read_bytes() == first
    assert {p.name for p in out.iterdir()} == {"config.json", "model.safetensors", "README.md"}


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"thesis.tex": "mine"}, "it holds thesis.tex, which is not of the zoo"),
        ({"config.json": '{"model_type": "vit"}', "model.safetensors": "x", "README.md": "x"}, "no config.json of the"),
        ({"model.safetensors": "x"}, "no config.json of the zoo's own"),
    ],
)
@pytest.mark.parametrize("verb", ["export", "push"])
def test_a_folder_that_is_not_the_zoos_is_never_replaced(verb, files, said, theirs, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    for name, text in files.items():
        (out / name).write_text(text)
    for force in ([], ["--force"]):
        status, _, err = say(capsys, *commands(theirs)[verb], "-o", out, *force)
        assert (status, err.count("\n")) == (2, 1)
        assert said in err
    assert {p.name: p.read_text() for p in out.iterdir()} == files


def test_a_file_in_the_place_of_a_folder_is_refused(theirs, tmp_path, capsys):
    for force in ([], ["--force"]):
        status, _, err = say(capsys, *commands(theirs)["export"], "-o", theirs, *force)
        assert (status, "it is a file" in err) == (2, True)


def test_an_empty_folder_may_be_written_to(tmp_path, capsys):
    (tmp_path / "out").mkdir()
    assert say(capsys, "export", "bilinear_d256.mnist", "--half", tmp_path / "out")[0] == 0


@pytest.mark.parametrize(
    "argv",
    [["export", "bilinear_d256.mnist"], ["convert", "x.safetensors", "bilinear_d64"], ["shard", "samples/mnist"]],
)
def test_an_output_is_given_once_by_either_way(argv, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = say(capsys, *argv)
    assert (status, f"no output; give one: zoo {' '.join(argv)} -o FOLDER" in err) == (2, True)
    status, _, err = say(capsys, *argv, "a", "-o", "b")
    assert (status, "two outputs, a and -o b; give one" in err) == (2, True)
    assert not list(tmp_path.iterdir())


def test_convert_and_export_take_a_folder_in_either_place(tmp_path, capsys, monkeypatch):
    made = zoo.load("bilinear_d256.mnist")
    monkeypatch.setattr("zoo.hub.foreign.convert", lambda file, arch, **_: made)
    for i, out in enumerate(([tmp_path / "0"], ["-o", tmp_path / "1"])):
        assert say(capsys, "convert", "x.safetensors", "bilinear_d256", *out)[0] == 0
        assert torch.equal(zoo.load(str(tmp_path / str(i))).head.weight, made.head.weight)
        assert say(capsys, "convert", "x.safetensors", "bilinear_d256", *out)[0] == 2
        assert say(capsys, "convert", "x.safetensors", "bilinear_d256", *out, "--force")[0] == 0


def test_push_without_a_repository_or_to_none_says_what_to_type(tmp_path, capsys):
    status, _, err = say(capsys, "push", "bilinear_d256.mnist")
    assert (status, "zoo push bilinear_d256.mnist ORG/NAME" in err) == (2, True)
    for repo in ("a/b/c", "me/my model", "me/.."):
        status, _, err = say(capsys, "push", "bilinear_d256.mnist", "--dry-run", tmp_path / "dry", repo)
        assert (status, "is no name of a repository; give ORG/NAME" in err) == (2, True)
    assert not (tmp_path / "dry").exists()
    assert say(capsys, "push", "bilinear_d256.mnist", "hf://me/mine", "--dry-run", tmp_path / "dry")[0] == 0
    assert 'zoo.load("hf://me/mine")' in (tmp_path / "dry" / "README.md").read_text()


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("runs/nowhere", "`zoo runs` lists them"),
        ("photos", "zoo export RUN -o FOLDER"),
        ("mae_vit_base.in1k", "mae_vit_base.in1k is not ours to publish"),
        ("hf://org/name", "is on the Hub already"),
        ("bilinear_d64", "zoo info bilinear_d64"),
    ],
)
def test_what_cannot_be_pushed_names_the_next_command(place, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "cats").mkdir(parents=True)
    status, _, err = say(capsys, "push", place, "me/mine", "-o", "dry")
    assert (status, err.count("\n")) == (2, 1)
    assert said in err


def test_a_run_that_saved_nothing_yet_names_the_next_command(tmp_path, capsys):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    status, _, err = say(capsys, "push", tmp_path / "run", "me/mine", "-o", tmp_path / "dry")
    assert (status, f"zoo fit --resume {tmp_path / 'run'}" in err) == (2, True)
