"""Where verbs write: refused before anything is computed, whole or not at all, and never over what is not theirs."""

import contextlib
import json
import os
import resource
import shutil
import signal
import sys
from pathlib import Path

import huggingface_hub as hf
import pytest
import torch
from PIL import Image

import zoo
from zoo import cli, hub
from zoo.report import figures, history, plots

DIGITS, LATENTS, DRAWS = "bilinear_d256.mnist", "dcae_tiny_f8c4.tiny_imagenet", "vqprior_tiny.mnist"


def say(capsys, *argv):
    """Status, stdout and stderr of a command."""
    capsys.readouterr()
    status = cli.main(list(map(str, argv)))
    return status, *capsys.readouterr()


def refused(capsys, *argv):
    """What a command says that is refused: one line."""
    status, out, err = say(capsys, *argv)
    assert (status, out, err.count("\n")) == (2, "", 1), err
    return err


@contextlib.contextmanager
def full_disk(most):
    """No file gets longer than so many bytes."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # a cut .pyc would stay
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
        sys.dont_write_bytecode = bytecode


@pytest.fixture
def photos(tmp_path):
    for name in ("zero/a", "zero/b", "one/a", "one/b"):
        file = tmp_path / "photos" / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (70, 70), "red" if "zero" in name else "blue").save(file)
    return tmp_path / "photos"


@pytest.fixture
def idle(monkeypatch):
    """No model is loaded: what is wrong is seen before."""

    def load(*args, **how):
        raise AssertionError("a model was loaded")

    for place in (hub, figures.hub):
        monkeypatch.setattr(place, "load", load)


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def writers(photos, out):
    """Verb → a command that writes to `out`, without its suffix."""
    return {
        "predict": ["predict", DIGITS, photos, "-o", f"{out}.csv"],
        "embed": ["embed", DIGITS, photos, "-o", f"{out}.npy"],
        "codes": ["codes", DIGITS, photos, "-o", f"{out}.npy"],
        "similar": ["similar", "gone.npy", photos / "one/a.png", "-o", f"{out}.png"],
        "show": ["show", DIGITS, photos, "-o", f"{out}.png"],
        "sample": ["sample", DRAWS, "-o", f"{out}.png"],
        "runs": ["runs", photos, "-o", f"{out}.png"],
        "eval": ["eval", DIGITS, photos, "-o", out],
        "latents": ["latents", LATENTS, photos, "-o", out],
        "shard": ["shard", photos, "-o", out],
        "export": ["export", DIGITS, "-o", out],
        "push": ["push", DIGITS, "me/mine", "-o", out],
        "convert": ["convert", photos / "gone.safetensors", "bilinear_d256", "-o", out],
    }


# Places


@pytest.mark.parametrize("verb", writers(Path(), Path()))
def test_a_place_that_cannot_be_written_to_is_refused_at_once(verb, capsys, idle, photos, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    before = contents(tmp_path)
    for out in (tmp_path / "file" / "out", tmp_path / "file" / "deep" / "out"):
        err = refused(capsys, *writers(photos, out)[verb])
        assert f"{out}" in err
        assert f"cannot be written, {tmp_path / 'file'} is a file; give another -o" in err
    monkeypatch.setattr(os, "access", lambda place, mode: False)
    err = refused(capsys, *writers(photos, tmp_path / "new" / "out")[verb])
    assert f"cannot be written, {tmp_path} is read-only or somebody else's; give another -o" in err
    assert contents(tmp_path) == before


def test_a_recipe_or_a_manifest_is_not_written_where_nothing_can_be(capsys, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda place, mode: False)
    assert "is read-only or somebody else's; give another FILE" in refused(
        capsys, "cp", "bilinear/mnist", tmp_path / "x"
    )
    assert "is read-only or somebody else's; give another -o" in refused(capsys, "shard", "--index", photos)


@pytest.mark.parametrize("verb", ["show", "sample", "runs"])
@pytest.mark.parametrize("suffix", ["", ".txt", ".csv"])
def test_a_picture_of_no_format_is_refused_at_once(verb, suffix, capsys, idle, photos, tmp_path):
    argv = writers(photos, "")[verb][:-1]
    (tmp_path / "out.png").write_text("mine")
    err = refused(capsys, *argv, tmp_path / f"out{suffix}")
    assert f"-o {tmp_path / 'out'}{suffix} is of no format that is known; give a name that ends in .png, .jpg" in err
    assert (".gif" in err) == (verb == "show")
    assert (tmp_path / "out.png").read_text() == "mine"
    folder = tmp_path / "folder.png"
    folder.mkdir()
    assert f"-o {folder} is a folder; give a file" in refused(capsys, *argv, folder, "--force")


def test_a_suffix_may_be_written_large(capsys, tmp_path):
    assert say(capsys, "show", DIGITS, "-o", tmp_path / "a.JPG")[0] == 0
    assert Image.open(tmp_path / "a.JPG").format == "JPEG"
    assert "draws no moving picture" in refused(capsys, "show", DIGITS, "-o", tmp_path / "a.GIF")


# What is somebody else's


def test_a_model_that_is_measured_is_written_over_nothing_else(capsys, photos, tmp_path):
    argv = ["latents", LATENTS, photos, "-o", tmp_path / "latents", "--batch-size", 2, "--measure"]
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "config.json").write_text('{"model_type": "vit"}')
    for place in (photos, tmp_path / "theirs"):
        before = contents(place)
        assert f"{place} exists; give another --measure" in refused(capsys, *argv, place)
        assert f"{place} is not replaced: it h" in refused(capsys, *argv, place, "--force")
        assert contents(place) == before
    assert "hold both the latents and the model" in refused(capsys, *argv, tmp_path / "latents")
    model = hub.save(zoo.create("bilinear_d64"), tmp_path / "model")
    assert "or --force to replace it" in refused(capsys, *argv, model)
    assert say(capsys, *argv, model, "--force")[0] == 0
    assert zoo.load(str(model)).zoo_config["arch"] == LATENTS.partition(".")[0]


def test_latents_as_they_were_given_before_do_not_replace_what_is_no_latents(capsys, photos):
    before = contents(photos)
    assert "is not replaced: it holds no latents" in say(capsys, "latents", LATENTS, photos, "--data", photos)[2]
    assert contents(photos) == before


def test_figures_are_not_written_among_other_files(capsys, idle, photos, tmp_path):
    (tmp_path / "drawn").mkdir()
    (tmp_path / "drawn" / "worst.png").write_text("mine")
    for place, said in (
        (photos, "it holds one, which zoo eval did not write"),
        (tmp_path / "drawn", "it has no figur"),
    ):
        before = contents(place)
        assert f"{place} exists; give another -o ({said}" in refused(capsys, "eval", DIGITS, "-o", place)
        assert f"{place} is not replaced: {said}" in refused(capsys, "eval", DIGITS, "-o", place, "--force")
        assert contents(place) == before


def test_figures_of_another_model_take_the_place_of_all_that_was_there(tmp_path):
    fig = plots.plt.figure()
    figures.keep({"accuracy": 1.0}, {"confusion.png": fig, "worst.png": fig}, tmp_path)
    assert len(contents(tmp_path)) == 3
    figures.keep({"psnr": 30.0}, {}, tmp_path)
    assert {k: json.loads(v) for k, v in contents(tmp_path).items()} == {"figures.json": {"psnr": 30.0}}


# Full disks


def test_a_full_disk_leaves_the_old_picture(capsys, tmp_path):
    (tmp_path / "old.png").write_text("mine")
    with full_disk(1000):
        err = refused(capsys, "show", DIGITS, "-o", tmp_path / "old.png", "--force")
        with pytest.raises(OSError, match=r"old\.gif: .*nothing in it was changed"):
            plots.write_gif(torch.rand(4, 3, 64, 64), tmp_path / "old.gif")
    assert f"cannot write {tmp_path / 'old.png'}: File too large; nothing in it was changed" in err
    assert contents(tmp_path) == {"old.png": b"mine"}
    plots.write_gif(torch.rand(4, 3, 64, 64), tmp_path / "old.gif")
    assert Image.open(tmp_path / "old.gif").n_frames == 4


def test_figures_are_said_though_the_disk_is_full(capsys, tmp_path):
    out = tmp_path / "out"
    assert say(capsys, "eval", DIGITS, "-o", out)[0] == 0
    before = contents(out)
    with full_disk(1000):
        status, said, err = say(capsys, "eval", DIGITS, "-o", out, "--force")
    assert (status, err.splitlines()[-1].startswith("zoo eval: cannot write")) == (2, True)
    assert json.loads(said.splitlines()[-1]) == json.loads(before["figures.json"])
    assert contents(out) == before


def test_a_full_disk_leaves_no_half_of_a_recipe(capsys, tmp_path):
    with full_disk(100):
        err = refused(capsys, "cp", "mae/cifar10_finetune_cpu", tmp_path / "mine.yaml")
    assert f"cannot write {tmp_path / 'mine.yaml'}: File too large" in err
    assert not contents(tmp_path)


def test_a_full_disk_leaves_the_old_latents_and_shards(capsys, photos, tmp_path):
    latents, shards = tmp_path / "latents", tmp_path / "shards"
    for argv in (["latents", LATENTS, photos, "-o", latents], ["shard", photos, "-o", shards]):
        assert say(capsys, *argv)[0] == 0
        before = contents(argv[-1])
        with full_disk(300):
            status, _, err = say(capsys, *argv, "--force")
        assert (status, contents(argv[-1])) == (2, before)
        assert f"cannot write {argv[-1]}/t" in err


# Numbers


@pytest.mark.parametrize("value", ["0", "-1", "x"])
@pytest.mark.parametrize(
    ("verb", "flag"),
    [
        *((verb, "--batch-size") for verb in ("predict", "embed", "codes", "similar", "show", "eval", "latents")),
        *(("predict", "--top-k"), ("similar", "--count"), ("sample", "--each"), ("latents", "--image-size")),
        *(("shard", "--image-size"), ("shard", "--samples-per-shard")),
    ],
)
def test_a_count_or_size_below_one_is_refused_by_its_flag(verb, flag, value, capsys, idle, photos, tmp_path):
    err = refused(capsys, *writers(photos, tmp_path / "out")[verb], flag, value)
    assert err == f"zoo {verb}: {flag}: {value}, expected a whole number of at least 1\n"


def test_what_is_missing_or_unknown_is_one_line_that_names_the_help(capsys):
    assert "the following arguments are required: name; zoo info --help" in refused(capsys, "info")
    assert "unrecognized arguments: --nonsense; zoo eval --help" in refused(capsys, "eval", DIGITS, "--nonsense")


@pytest.mark.parametrize("text", ["[1]", "3", "{bad", "null"])
def test_keywords_of_an_arch_are_a_json_object(text, capsys, photos, tmp_path):
    err = refused(capsys, *writers(photos, tmp_path / "out")["convert"], "--args", text)
    assert f"--args: {text}, expected a JSON object of keywords" in err


# Checkpoints


def test_a_checkpoint_that_names_other_classes_than_it_has_is_not_given(capsys, tmp_path):
    model = zoo.create("mae_vit_tiny_classifier", num_classes=3, image_size=32, patch_size=8)
    given, out = hub.save(model, tmp_path / "given"), tmp_path / "out"
    config = json.loads((given / "config.json").read_text())
    (given / "config.json").write_text(json.dumps(config | {"classes": ["cat", "dog"]}))
    for argv in (["push", given, "me/mine", "-o", out], ["export", given, "-o", out]):
        assert "has 3 classes and the names of 2" in refused(capsys, *argv)
        assert not out.exists()
    model.zoo_config["classes"] = ["cat", "dog"]
    with pytest.raises(ValueError, match="has 3 classes and the names of 2"):
        zoo.save(model, out)
    model.zoo_config["classes"] = ["cat", "dog", "frog"]
    zoo.save(model, out)


class Unreachable(Exception):
    """As the Hub's client raises it, of whichever library it has."""


@pytest.mark.parametrize("call", ["create_repo", "create_commit"])
def test_a_hub_that_cannot_be_reached_is_said_in_a_line(call, capsys, monkeypatch):
    def unreachable(*args, **how):
        raise Unreachable("[Errno 111] Connection\nrefused")

    monkeypatch.setattr(hf.HfApi, "create_repo", lambda *args, **how: None)
    monkeypatch.setattr(hf.HfApi, call, unreachable)
    err = refused(capsys, "push", DIGITS, "me/mine")
    assert "me/mine was not pushed to https://huggingface.co ([Errno 111] Connection refused); mend the" in err
    assert "give -o FOLDER" in err


# Runs


@pytest.fixture
def runs(tmp_path):
    """Folders of two recipes' runs, each with a checkpoint of its own."""
    for place, arch in {"a/1": "bilinear_d64", "a/2": "bilinear_d256", "b/1": "bilinear_d64"}.items():
        run = tmp_path / "runs" / place
        (run / "checkpoints").mkdir(parents=True)
        (run / "environment.json").write_text("{}")
        model = zoo.create(arch)
        state = {f"model.{key}": value for key, value in model.state_dict().items()}
        torch.save({"zoo": model.zoo_config, "state_dict": state}, run / "checkpoints" / "last.ckpt")
    return tmp_path / "runs"


def test_a_folder_of_runs_is_its_newest_run_to_every_verb_and_of_several_recipes_one_is_to_be_named(
    capsys, runs, photos, tmp_path
):
    predict = ["predict", runs, photos, "-o", tmp_path / "out.csv"]
    for argv in (["info", runs], predict, ["eval", runs], ["export", runs, "-o", tmp_path / "out"]):
        err = refused(capsys, *argv)
        assert f"{runs} holds runs of 2 recipes, {runs / 'a'}, {runs / 'b'}; name one of them" in err
    shutil.rmtree(runs / "b")
    for place in (runs, runs / "a", runs / "a" / "2"):
        assert json.loads(say(capsys, "info", place, "--json")[1])["run"] == str(runs / "a" / "2")
        assert zoo.load(str(place)).zoo_config["arch"] == "bilinear_d256"
    status, _, err = say(capsys, *predict)
    assert status == 0, err


def test_the_figures_at_the_end_of_a_run_without_a_test_set_end_no_epoch(capsys, tmp_path):
    run = tmp_path / "run"
    log = run / "logs" / "version_0" / "metrics.csv"
    log.parent.mkdir(parents=True)
    (run / "checkpoints").mkdir()
    (run / "environment.json").write_text("{}")
    recipe = "model: {class_path: zoo.LitMAE}\ndata: {class_path: zoo.ImageData}\ntrainer: {max_epochs: 1}\n"
    (run / "recipe.yaml").write_text(recipe)
    log.write_text("epoch,step,train/loss,val/acc\n0,5,0.9,\n0,5,,0.5\n1,6,,0.75\n")
    measured = {"split": "val", "metrics": {"val/acc": 0.75}, "seconds": 1}
    (run / "metrics.json").write_text(json.dumps(measured))
    assert "epochs      1 of 1\n" in say(capsys, "info", run)[1]
    (line,) = [line for line in say(capsys, "runs", run)[1].splitlines() if str(run) in line]
    assert "  1/1  " in line
    known = history.read(run)
    assert (known["best_epoch"], known["figures"]) == (1, {"val/acc": 0.75})
    log.write_text(log.read_text() + "1,11,,0.8\n")  # gone on with: the end of a second epoch
    assert history.read(run)["epochs"] == 2
