"""Nothing runs out of a file, nothing is fetched unasked, nothing secret is written down."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import zoo
from zoo import cli, hub
from zoo.data.latents import LatentData
from zoo.redact import redact
from zoo.train import fit

ROOT = Path(__file__).parents[1]
SOURCES = [p for d in ("zoo", "benchmarks") for p in (ROOT / d).rglob("*.py")] + [ROOT / "hubconf.py"]


# Code


def unsafe(tree: ast.AST) -> list[str]:
    """Calls that run what a file says, and imports that lead to them."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] + [getattr(node, "module", None) or ""]
            found += [n for n in names if n.split(".")[0] in ("pickle", "cPickle", "dill", "cloudpickle", "joblib")]
        if not isinstance(node, ast.Call):
            continue
        called, given = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
        safe_only = called == "torch.load" or called.endswith(("load_from_checkpoint", "load_state_dict_from_url"))
        if safe_only and given.get("weights_only") != "True":
            found.append(called)
        if called == "np.load" and given.get("allow_pickle") != "False":
            found.append(called)
        if called == "torch.hub.load" and given.get("source") != "'local'":
            found.append(called)
        if called in ("exec", "eval", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "os.system"):
            found.append(called)
        if given.get("ckpt_path", "None") != "None" and given.get("weights_only") != "True":
            found.append(f"{called}(ckpt_path=…)")
        if given.get("allow_pickle") == "True" or given.get("shell") == "True" or "trust_remote_code" in given:
            found.append(called)
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_line_runs_what_a_file_says(path):
    allowed = ["exec"] if path.name == "hubconf.py" else []  # makes functions of the registry's own names
    assert [u for u in unsafe(ast.parse(path.read_text())) if u not in allowed] == []


def test_the_search_finds_what_it_is_for():
    bad = "import pickle\ntorch.load(f)\nnp.load(f)\neval(x)\ntrainer.fit(m, ckpt_path=p)\nyaml.load(f)"
    assert len(unsafe(ast.parse(bad))) == 6


# Hostile pickles


class Hostile:
    """Unpickling it makes a file."""

    def __init__(self, sentinel):
        self.sentinel = sentinel

    def __reduce__(self):
        return os.mkdir, (str(self.sentinel),)


@pytest.fixture
def hostile(tmp_path):
    """A sentinel that must not appear, and a place with a hostile pickle under every name that a door looks for."""
    sentinel, place = tmp_path / "ran", tmp_path / "place"
    run = place / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "recipe.yaml").write_text((ROOT / "recipes/bilinear/smoke.yaml").read_text())
    (run / "environment.json").write_text('{"recipe": "bilinear/smoke"}')
    zoo.save(zoo.create("bilinear_d64"), place / "folder")
    for name in ("run/checkpoints/last.ckpt", "folder/model.safetensors", "x.ckpt", "x.pt", "x.npz", "x.npy"):
        torch.save({"state_dict": Hostile(sentinel), "zoo": {"arch": "bilinear_d64", "args": {}}}, place / name)
    return sentinel, place


DOORS = ["run", "x.ckpt", "folder", "folder/model.safetensors"]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    "verb", ["verify", "eval", "show", "export", "push", "latents", "sample", "predict", "embed", "codes"]
)
def test_a_hostile_pickle_runs_through_no_verb(hostile, capsys, verb, door):
    sentinel, place = hostile
    rest = {
        "export": [str(place / "out")],
        "show": ["-o", str(place / "x.png")],
        "sample": ["-o", str(place / "x.png")],
        "push": ["org/name", "--dry-run", str(place / "out")],
        "latents": ["samples/mnist", "-o", str(place / "out")],
        "predict": ["samples/mnist", "-o", str(place / "x.csv")],
        "embed": ["samples/mnist", "-o", str(place / "x.parquet")],
        "codes": ["samples/mnist", "-o", str(place / "x.parquet")],
    }.get(verb, [])
    assert cli.main([verb, str(place / door), *rest]) == (1 if verb == "verify" else 2)
    assert capsys.readouterr().err.strip().count("\n") == 0
    assert not sentinel.exists()


@pytest.mark.parametrize(
    "door",
    [
        lambda p: zoo.load(str(p / "x.ckpt")),
        lambda p: zoo.create("bilinear_d64", str(p / "folder")),
        lambda p: zoo.create("bilinear_d64", str(p / "run")),
        lambda p: zoo.convert(p / "x.pt", "bilinear_d64"),
        lambda p: zoo.convert(p / "folder", "bilinear_d64"),
        lambda p: zoo.create("vqprior_tiny", tokenizer=str(p / "x.ckpt")).tokenizer,
        lambda p: zoo.create("ditdh_tiny", autoencoder=str(p / "x.ckpt")).autoencoder,
        lambda p: LatentData(str(p / "folder"), encoder=str(p / "x.ckpt")),
        lambda p: torch.hub.load(str(ROOT), "bilinear_d64", source="local", weights=str(p / "x.ckpt")),
    ],
)
def test_a_hostile_pickle_runs_through_no_door(hostile, door):
    sentinel, place = hostile
    with pytest.raises((ValueError, OSError)):
        door(place)
    assert not sentinel.exists()


@pytest.mark.parametrize("argv", [["--resume", "{}/run"], ["bilinear/smoke", "--model.weights", "{}/x.ckpt"]])
def test_training_does_not_run_a_hostile_pickle(hostile, monkeypatch, argv):
    sentinel, place = hostile
    monkeypatch.chdir(place)
    with pytest.raises(Exception, match=r"(?i)weights.only|plain tensors"):
        fit.fit([a.format(place) for a in argv])
    assert not sentinel.exists()


def test_a_recipe_runs_no_python_tag(tmp_path, capsys):
    sentinel = tmp_path / "ran"
    (tmp_path / "x.yaml").write_text(f"model: !!python/object/apply:os.mkdir ['{sentinel}']\n")
    assert cli.main(["validate", str(tmp_path / "x.yaml")]) == 2
    assert not sentinel.exists()


@pytest.mark.parametrize(
    "name", ["hf://../../x", "hf://a/b@../../c", "hf://a/..", "hf://a/b@x/../y", "hf://a/b@..\\c", "hf:///x"]
)
def test_no_path_hides_in_a_hub_name(name):
    with pytest.raises(ValueError, match=r"is not|no revision"):
        zoo.load(name)


# The network


def test_what_is_embedded_touches_no_network(preloaded):
    script = """
import socket, sys
seen = []
def refuse(*args, **_):
    seen.append(args); raise OSError("network touched")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse
import zoo, importlib, pkgutil
from zoo import cli, hub, registry
for name in registry.records():
    if registry.records()[name].embedded:
        hub.golden_output(zoo.load(name)); assert cli.main(["info", name]) == 0
assert cli.main(["ls"]) == 0 and cli.main(["eval", "bilinear_d256.mnist"]) == 0
for module in pkgutil.walk_packages(zoo.__path__, "zoo."): importlib.import_module(module.name)
for arch in zoo.list_models(): zoo.create(arch, **hub.tiny(arch))
print("seen", seen)
"""
    done = subprocess.run([*preloaded, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "seen []"


# Secrets


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("https://me:s3cret@host/a.tar", "https://***@host/a.tar"),
        ("--x=s3://key:s3cret@bucket/a b", "--x=s3://***@bucket/a b"),
        ("https://host/a?token=s3cret&page=2", "https://host/a?token=***&page=2"),
        ("https://host/a?X-Amz-Signature=s3cret", "https://host/a?X-Amz-Signature=***"),
        ("with hf_abcdefGHIJKL0123", "with ***"),
        ("hf://org/name@main samples/mnist --model.lr 1e-4", "hf://org/name@main samples/mnist --model.lr 1e-4"),
    ],
)
def test_secrets_are_hidden_and_nothing_else(text, said):
    assert redact(text) == said


def test_no_secret_is_in_anything_a_run_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "of-the-environment-0123")
    about = "https://me:of-the-address@host/a?token=of-the-query of-the-environment-0123 hf_ofTheHub0123456789"
    data = "{'class_path': 'zoo.RandomImages', 'init_args': {'shape': [1, 16, 16], 'num_images': 128}}"
    argv = ["bilinear/smoke", "--runs", str(tmp_path), "--trainer.max_epochs", "1", "--data", data]
    argv += ["--expect", str({"metric": "test/acc", "value": None, "about": about})]
    monkeypatch.setattr(sys, "argv", ["zoo", "fit", *argv])
    assert fit.fit(argv) == 0
    (run,) = tmp_path.glob("*/*")
    zoo.export(run, tmp_path / "out")
    cli.main(["push", str(tmp_path / "out"), "org/x", "--dry-run", str(tmp_path / "dry")])
    for file in tmp_path.rglob("*"):
        for secret in (b"of-the-address", b"of-the-query", b"of-the-environment", b"ofTheHub"):
            assert not file.is_file() or secret not in file.read_bytes(), file
    resolved = yaml.safe_load((run / "recipe.yaml").read_text())
    assert resolved["expect"]["about"] == "https://***@host/a?token=*** *** ***"
    resolved["data"] = {"class_path": "zoo.ImageData", "init_args": {"source": "https://***@host/a"}}
    (run / "recipe.yaml").write_text(yaml.safe_dump(resolved))
    with pytest.raises(ValueError, match="secret was not written down; give it again"):
        fit.fit(["--resume", str(run)])


def test_an_error_message_hides_what_was_typed(capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "of-the-environment-0123")
    assert cli.main(["eval", "bilinear_d256.mnist", "--data", "https://me:s3cret@host/a/of-the-environment-0123"]) == 2
    said = capsys.readouterr().err
    assert "https://***@host/a/***" in said
    assert hub.CONFIG not in said
