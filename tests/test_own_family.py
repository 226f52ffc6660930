"""A family in somebody's own distribution, tests/fixtures/*_site, does all that the house's families do."""

import configparser
import importlib
import json
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
FIXTURES = ROOT / "tests" / "fixtures"
SITES = {"ksparse": "ksparse_1000", "topk": "topk_64_x4"}  # family → its arch

# Every verb, one after the other, as a user types them; what it left behind is read afterwards.
SCRIPT = """
import contextlib, io, json, sys
import torch
import zoo
from zoo import cli, registry
from zoo.hub import model_class, tiny

family, arch, root = sys.argv[1:]
done = {}

def run(name, *argv):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.main([str(a) for a in argv])
    done[name] = {"status": status, "out": out.getvalue(), "err": err.getvalue()}

QUIET = "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"
run("ls", "ls", f"{family}*")
run("info", "info", arch)
run("help", "fit", f"{family}/smoke", "--help")
run("validate", "validate", f"{family}/smoke", *QUIET)
run("estimate", "validate", f"{family}/smoke", "--estimate")
run("fit", "fit", f"{family}/smoke", "--run", "run", *QUIET)
run("resume", "fit", "--resume", "run", "--trainer.max_epochs", "3", *QUIET)
run("export", "export", "run", "folder")
run("onnx", "export", "folder", "onnx", "--to", "onnx")
run("eval", "eval", "folder")
run("show", "show", "folder", "-o", "shown.png")
run("push", "push", "folder", "someone/something", "--dry-run", "pushed")
run("verify", "verify", "folder")
run("convert", "convert", "folder/model.safetensors", arch, "converted")

model, again = zoo.load("folder"), zoo.load("pushed")
x = torch.rand(2, *model.takes.shape)
hub = torch.hub.load(root, arch, source="local", weights="folder")
done["models"] = {
    "class": type(model).__name__,
    "public": getattr(zoo, type(model).__name__) is type(model),
    "created": type(zoo.create(arch, k=3)) is type(model),
    "small": sum(p.numel() for p in zoo.create(arch, **tiny(arch)).parameters()) < 200_000,
    "all small": {model_class(a).__name__ for a in registry.facts(family).archs} == {*registry.facts(family).tiny},
    "shape": list(model.reconstruct(x).shape) == list(x.shape),
    "kept": (model.encode(x) != 0).sum().item(),
    "pushed": torch.equal(again.reconstruct(x), model.reconstruct(x)),
    "hub": torch.equal(hub.eval().reconstruct(x), model.reconstruct(x)),
}
print(json.dumps(done))
"""


@pytest.fixture(scope="module", params=SITES)
def done(request, tmp_path_factory, preloaded):
    """What each verb said of a family, and the folder that it was said in."""
    family, folder = request.param, tmp_path_factory.mktemp(request.param)
    env = os.environ | {"PYTHONPATH": f"{FIXTURES / f'{family}_site'}{os.pathsep}{ROOT}"}
    command = [*preloaded, "-c", SCRIPT, family, SITES[family], str(ROOT)]
    ran = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1]) | {"family": family, "folder": folder}


@pytest.mark.parametrize(
    ("verb", "said"),
    [
        ("ls", "{family}/smoke"),
        ("info", "{arch}"),
        ("help", "--model.arch_args.KEY  {arch}: "),
        ("validate", "{family}/smoke is valid"),
        ("estimate", '"flops_per_step"'),
        ("fit", "test/loss"),
        ("resume", "test/loss"),
        ("export", "folder"),
        ("onnx", "onnx"),
        ("eval", '"split": "test"'),
        ("show", "shown.png"),
        ("push", "pushed"),
        ("verify", "strict: ok"),
    ],
)
def test_every_verb_takes_it(done, verb, said):
    assert done[verb]["status"] == 0, done[verb]["err"]
    assert said.format(family=done["family"], arch=SITES[done["family"]]) in done[verb]["out"]


def test_what_it_has_not_is_said_in_a_line(done):
    assert done["convert"]["status"] == 2
    assert f"no foreign dialect of {SITES[done['family']]} is known" in done["convert"]["err"]


def test_it_trains_goes_on_and_is_measured(done):
    first, then = (float(done[verb]["out"].partition("test/loss")[2].split()[0]) for verb in ("fit", "resume"))
    assert then < first
    figures = json.loads(done["eval"]["out"].splitlines()[-1])
    assert figures[{"ksparse": "psnr", "topk": "explained"}[done["family"]]] > 0.3
    assert figures["images" if done["family"] == "ksparse" else "activations"] >= 1000


def test_its_checkpoints_say_what_goes_in_and_travel(done):
    config = json.loads((done["folder"] / "pushed" / "config.json").read_text())
    kind, shape = {"ksparse": ("image", [1, 28, 28]), "topk": ("activation", [64])}[done["family"]]
    assert (config["input"]["kind"], config["input"]["shape"]) == (kind, shape)
    card = (FIXTURES / f"{done['family']}_site" / f"zoo_{done['family']}" / "card.md").read_text().strip()
    assert card in (done["folder"] / "pushed" / "README.md").read_text()
    assert Image.open(done["folder"] / "shown.png").width > 500


def test_python_and_torch_hub_have_it_by_name(done):
    models = done["models"]
    assert models.pop("class") == {"ksparse": "KSparse", "topk": "TopK"}[done["family"]]
    assert models.pop("kept") == {"ksparse": 16, "topk": 8}[done["family"]]  # k of each of two samples
    assert all(models.values()), models


DOCS = ["CONTRIBUTING.md", "docs/own-family.md"]


@pytest.mark.parametrize("page", DOCS)
def test_what_a_page_quotes_stands_in_the_file_that_it_names(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    quotes = re.findall(r"`(tests/fixtures/\S+)`[^\n]*:\n\n```\w+\n(.*?)\n```", text, re.DOTALL)
    assert len(quotes) >= 3
    for file, quote in quotes:
        whole = (ROOT / file).read_text(encoding="utf-8")
        assert quote in whole, f"{page} quotes {file} otherwise than it is"
        assert file.startswith("tests/fixtures/topk") or quote == whole.rstrip()


def test_the_family_that_is_quoted_is_as_short_as_is_said():
    folder = FIXTURES / "ksparse_site" / "zoo_ksparse"
    paths = [path for path in folder.rglob("*") if path.suffix in (".py", ".md", ".yaml") and path.stem != "__init__"]
    files = {path.relative_to(folder).as_posix(): len(path.read_text().splitlines()) for path in paths}
    assert set(files) == {"model.py", "facts.py", "card.md", "recipes/smoke.yaml"}
    assert sum(files.values()) <= 110


def test_every_name_that_a_family_may_rely_on_is_there():
    rows = re.findall(r"^\| `(zoo[\w.]*)` \| (.*) \|$", (ROOT / DOCS[1]).read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) >= 10
    for module, names in rows:
        module = module.replace("NAME", "mae")
        for name in re.findall(r"`(\w+)`", names):
            assert hasattr(importlib.import_module(module), name), f"{module} has no {name}"


def test_the_fixture_is_what_pip_makes_of_its_project_file():
    (info,) = (FIXTURES / "ksparse_site").glob("*.dist-info")
    project = tomllib.loads((FIXTURES / "ksparse_site" / "pyproject.toml").read_text())["project"]
    entries = configparser.ConfigParser()
    entries.read(info / "entry_points.txt")
    assert {group: dict(entries[group]) for group in entries.sections()} == project["entry-points"]
    assert f"Requires-Dist: {project['dependencies'][0]}" in (info / "METADATA").read_text()
