"""The command line as a user types it."""

import json
import os
import pickle
import re
import subprocess
import sys
import tarfile
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import SafetensorError
from torch.utils.data import DataLoader

from zoo import cli, registry

ROOT = Path(__file__).parents[1]


def run(capsys, *argv):
    status = cli.main(list(argv))
    out, err = capsys.readouterr()
    return status, out, err


def test_ls_shows_models_weights_and_recipes(capsys):
    status, out, _ = run(capsys, "ls", "--all")
    assert status == 0
    for word in ("bilinear_d256.mnist", "bilinear/smoke", "bilinear_d512_l3"):
        assert word in out


def test_ls_filters_and_speaks_json(capsys):
    _, out, _ = run(capsys, "ls", "*.mnist_noise", "--pretrained", "--licence", "permissive", "--json")
    (weights,) = json.loads(out)["weights"]
    assert weights["name"] == "bilinear_d256.mnist_noise"
    assert json.loads(out)["archs"] == []


def test_info_states_metrics_licence_hash_and_command(capsys):
    _, out, _ = run(capsys, "info", "bilinear_d256.mnist")
    for word in ("97.73 %", "Apache-2.0", "90708f83", "zoo fit bilinear/mnist", "CC BY-SA 3.0", "cpu"):
        assert word in out


def test_info_names_the_classes_that_the_checkpoint_states(capsys):
    _, out, _ = run(capsys, "info", "ditdh_tiny.tiny_imagenet", "--json")
    classes = json.loads(out)["classes"]
    assert len(classes) == 200
    assert (classes[0], classes[-1]) == ("goldfish", "acorn")
    assert "goldfish, European fire salamander" in run(capsys, "info", "ditdh_tiny.tiny_imagenet")[1]
    assert json.loads(run(capsys, "info", "vqvae_conv_small.mnist", "--json")[1])["classes"] == []
    assert json.loads(run(capsys, "info", "vqgan_f16.amused_256", "--json")[1])["classes"] == []


def test_eval_ends_with_json(capsys):
    status, out, _ = run(capsys, "eval", "bilinear_d256.mnist")
    figures = json.loads(out.splitlines()[-1])
    assert status == 0
    assert figures["images"] == 1000
    assert figures["data"] == "samples/mnist"
    assert figures["accuracy"] == pytest.approx(0.973, abs=1e-9)
    assert abs(figures["accuracy_15_eigenvectors"] - figures["accuracy"]) < 0.005


def test_show_draws_the_weights_and_explains_an_image(capsys, tmp_path):
    Image.new("L", (40, 50), 30).save(tmp_path / "digit.png")
    assert run(capsys, "show", "bilinear_d256.mnist", "-o", str(tmp_path / "a" / "weights.png"))[0] == 0
    assert (
        run(capsys, "show", "bilinear_d256.mnist", str(tmp_path / "digit.png"), "-o", str(tmp_path / "why.png"))[0] == 0
    )
    assert Image.open(tmp_path / "a" / "weights.png").width > 500
    assert Image.open(tmp_path / "why.png").width > 500


def test_verify_checks_all_that_ship(capsys):
    status, out, _ = run(capsys, "verify")
    assert status == 0
    assert out.count("golden: ok") == sum(w.embedded for w in registry.records().values())


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["evla"], "no verb 'evla', did you mean eval"),
        (["ls", "biliner_d256"], "nothing matches 'biliner_d256', did you mean bilinear_d256"),
        (["info", "bilinear_d256.mnst"], "it has bilinear_d256.mnist, bilinear_d256.mnist_noise"),
        (["eval", "bilinear_d256.mnist", "./nowhere"], "no folder ./nowhere"),
        (["show", "bilinear_d256.mnist", "nothing.png"], "nothing.png"),
        (["export", "nowhere/run", "nowhere/out"], "no folder nowhere/run"),
        (["cp", "bilinear/mnits", "x.yaml"], "did you mean bilinear/mnist"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(capsys, argv, message):
    status, _, err = run(capsys, *argv)
    assert status == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_a_file_that_is_no_image_is_named(capsys, tmp_path):
    (tmp_path / "text.png").write_text("hello")
    status, _, err = run(capsys, "show", "bilinear_d256.mnist", str(tmp_path / "text.png"))
    assert status == 2
    assert "text.png cannot be decoded" in err


def refuse(monkeypatch, error):
    """`zoo ls` raises this."""

    def raises(argv):
        raise error

    monkeypatch.setitem(cli.VERBS, "ls", raises)


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ValueError("lr=-1, allowed above 0; give one"), 2, "zoo ls: lr=-1, allowed above 0; give one"),
        (ValueError("nothing\n  fits"), 2, "zoo ls: nothing fits"),
        (ValueError("mean"), 2, "zoo ls: ValueError: mean"),
        (PermissionError(13, "Permission denied", "x"), 2, "zoo ls: [Errno 13] Permission denied: 'x'"),
        (TimeoutError(), 2, "zoo ls: TimeoutError"),
        (ModuleNotFoundError("", name="h5py"), 2, "zoo ls: it needs h5py, which is not installed; pip install h5py"),
        (
            ModuleNotFoundError("", name="yaml.nodes"),
            2,
            "zoo ls: it needs yaml, which is not installed; pip install la",
        ),
        (ModuleNotFoundError("No module named 'zoo.x'", name="zoo.x"), 1, "ModuleNotFoundError: No module named 'zoo"),
        (KeyError("train"), 1, "zoo ls: KeyError: 'train'"),
        (RuntimeError("Error(s) in loading:\n\tMissing key(s): 'a'"), 1, "RuntimeError: Error(s) in loading: Missing"),
        (TypeError("f() takes 1 argument"), 1, "zoo ls: TypeError: f() takes 1 argument"),
        (pickle.PicklingError("Can't pickle <lambda>"), 1, "zoo ls: PicklingError: Can't pickle <lambda>"),
        (tarfile.ReadError("not a tar"), 1, "zoo ls: ReadError: not a tar"),
        (SafetensorError("header too large"), 1, "zoo ls: SafetensorError: header too large"),
        (torch.OutOfMemoryError("CUDA out of memory."), 1, "CUDA out of memory.; lower --data.batch_size or set"),
        (RuntimeError("frame\n" * 2000), 1, "…; ZOO_DEBUG=1"),
    ],
)
def test_any_exception_is_one_line_and_what_nobody_foresaw_says_how_to_see_more(
    capsys, monkeypatch, error, status, said
):
    refuse(monkeypatch, error)
    code, out, err = run(capsys, "ls")
    assert (code, out) == (status, "")
    assert said in err
    assert err.count("\n") == 1
    assert len(err) < 600
    assert ("ZOO_DEBUG=1 shows the whole trace" in err) == (status == 1)


def test_the_line_of_an_unforeseen_error_names_the_place_in_this_package(capsys, monkeypatch):
    monkeypatch.setattr(registry, "families", lambda: None)
    status, _, err = run(capsys, "cp", "bilinear/smoke", "mine.yaml")
    assert status == 1
    assert re.search(r"AttributeError: .*\(zoo/recipe\.py:\d+\); ZOO_DEBUG=1", err), err


def test_debugging_shows_the_trace_without_secrets_and_then_the_line(capsys, monkeypatch):
    refuse(monkeypatch, RuntimeError("no answer from https://me:pass1234@host/x"))
    monkeypatch.setenv("ZOO_DEBUG", "1")
    status, _, err = run(capsys, "ls")
    assert status == 1
    assert "Traceback (most recent call last)" in err
    assert err.splitlines()[-1].startswith("zoo ls: RuntimeError: no answer from https://***@host/x")
    assert "pass1234" not in err


class Broken:
    """A data set whose samples raise."""

    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 2

    def __getitem__(self, i):
        raise self.error


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ValueError("a.png cannot be decoded:\nit is cut; get it again"), 2, "a.png cannot be decoded: it is cut; get"),
        (KeyError("label"), 1, "KeyError: 'label'; ZOO_DEBUG=1"),
        (FileNotFoundError(2, "No such file or directory", "a.png"), 2, "[Errno 2] No such file or directory: 'a.png'"),
    ],
)
def test_what_a_worker_raised_is_said_without_its_trace(capsys, monkeypatch, error, status, said):
    monkeypatch.setitem(cli.VERBS, "ls", lambda argv: list(DataLoader(Broken(error), num_workers=1)))
    code, _, err = run(capsys, "ls")
    assert code == status
    assert err.startswith(f"zoo ls: {said}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("verb", "said"),
    [
        (
            "predict",
            '--bad skip, --value-range LOW,HIGH, --label-column "", --image-column; unbad=1 data.bad a/bad.png bad.csv',
        ),
        (
            "fit",
            '--data.bad skip, --data.value_range [low,high], --data.label_column "", --data.image_column; '
            "unbad=1 data.bad a/bad.png bad.csv",
        ),
        (
            "similar",
            "bad='skip', value_range=(low, high), label_column=\"\", image_column; unbad=1 data.bad a/bad.png bad.csv",
        ),
    ],
)
def test_keywords_of_a_reader_are_said_as_flags_of_the_verb(capsys, monkeypatch, verb, said):
    words = "bad='skip', value_range=(low, high), label_column=\"\", image_column; unbad=1 data.bad a/bad.png bad.csv"

    def stop(argv):
        warnings.warn(words, stacklevel=1)
        raise ValueError(words)

    monkeypatch.setitem(cli.VERBS, verb, stop)
    assert run(capsys, verb) == (2, "", f"warning: {said}\nzoo {verb}: {said}\n")


def test_a_warning_is_one_line_without_code_and_ends_with_the_command(capsys, monkeypatch):
    monkeypatch.setitem(cli.VERBS, "ls", lambda argv: warnings.warn("a\nb at s3://me:secret@x/y", stacklevel=1))
    assert run(capsys, "ls") == (0, "", "warning: a b at s3://***@x/y\n")
    with pytest.warns(UserWarning, match="later"):
        warnings.warn("later", stacklevel=1)


def test_ctrl_c_is_quiet(capsys, monkeypatch):
    refuse(monkeypatch, KeyboardInterrupt())
    assert run(capsys, "ls") == (130, "", "")


def zoo_ls(**how):
    how["env"] = os.environ | {"PYTHONPATH": str(ROOT)} | how.get("env", {})
    return subprocess.Popen([sys.executable, "-m", "zoo.cli", "ls", "--all"], stderr=subprocess.PIPE, **how)


def test_a_pipe_that_nobody_reads_any_more_is_quiet():
    reads, writes = os.pipe()
    os.close(reads)
    listing = zoo_ls(stdout=writes)
    os.close(writes)
    assert listing.communicate()[1] == b""
    assert listing.returncode == 141


def test_a_full_disk_under_stdout_is_said():
    with open("/dev/full", "w") as full:
        listing = zoo_ls(stdout=full)
        said = listing.communicate()[1].decode()
    assert said.startswith("zoo ls: [Errno 28] No space left on device")
    assert listing.returncode == 2


def test_output_is_utf8_where_the_console_is_not():
    listing = zoo_ls(stdout=subprocess.PIPE, env={"PYTHONIOENCODING": "cp1252"})
    out, err = listing.communicate()
    assert (listing.returncode, err) == (0, b"")
    assert "→" in out.decode("utf-8")
