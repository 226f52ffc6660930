"""Families that other distributions bring: listed without an import, left out where they fail or clash."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FACTS = """
TITLE = "Identity"
PAPER = "nobody"
ARCHS = {"identity_one": "1 number to itself, 1 parameter"}
PUBLIC = {"Identity": "model"}
"""
MODEL = """
from torch import nn
from zoo.nn.protocols import Input

class Identity(nn.Module):
    kind = "activation"

    def __init__(self, dim: int = 1):
        super().__init__()
        self.takes, self.scale = Input(self.kind, (dim,)), nn.Parameter(nn.init.ones_(nn.Linear(1, 1).weight))

def identity_one(**args) -> Identity:
    return Identity(**args)
"""


def distribution(site, family="identity", package=None, facts=FACTS, model=MODEL, init="", name=None):
    """A distribution as pip would leave it in a folder: a package and what it says of its entry points."""
    package = package or f"{family}_family"
    (site / package / "recipes").mkdir(parents=True)
    for file, text in {"facts.py": facts, "model.py": model, "__init__.py": init, "card.md": "Mind."}.items():
        (site / package / file).write_text(text)
    (site / package / "recipes" / "smoke.yaml").write_text("# Seconds: an identity.\n")
    info = site / f"{name or package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name or package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[latentzoo.families]\n{family} = {package}\n")
    return site


def python(site, code, command=(sys.executable,)):
    """What a fresh Python that sees the site prints: JSON in its last line, and stderr."""
    env = os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}"}
    done = subprocess.run([*command, "-c", code], capture_output=True, text=True, env=env, cwd=site)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


LIST = """
import json, sys
from zoo import cli, recipe, registry
cli.main(["ls"])
print(json.dumps({
    "archs": registry.list_models(), "weights": registry.list_weights(), "recipes": recipe.list_recipes(),
    "public": dict(registry.public()), "families": list(registry.families()),
    "imported": sorted({m.split(".")[0] for m in sys.modules}),
}))
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    return python(tmp_path_factory.mktemp("nothing"), LIST)[0]


def test_a_family_is_listed_without_importing_its_package(tmp_path, house):
    listed, said = python(distribution(tmp_path, init="raise SystemExit('imported')"), LIST)
    assert listed["archs"] == [*house["archs"], "identity_one"]
    assert set(listed["recipes"]) == {*house["recipes"], "identity/smoke"}
    assert listed["public"] == house["public"] | {"Identity": "identity_family.model"}
    assert not {"identity_family", "torch"} & set(listed["imported"])
    assert not said


def test_a_family_is_made_by_name_saved_and_loaded(tmp_path, preloaded):
    code = """
import json, zoo
model = zoo.create("identity_one", dim=3)
zoo.save(model, "folder")
again = zoo.load("folder")
print(json.dumps([type(again) is zoo.Identity, again.takes.shape, again.zoo_config, open("folder/README.md").read()]))
"""
    (same, shape, config, card), _ = python(distribution(tmp_path), code, preloaded)
    assert same
    assert shape == [3]
    assert config == {"arch": "identity_one", "args": {"dim": 3}, "distribution": "identity_family"}
    assert "Mind." in card


HERE = "of identity_family (distribution identity_family)"
SECOND = 'from zoo.registry import Weights\nWEIGHTS = [Weights("mae_vit_tiny.x", {}, "", 0, "MIT", "", ())]\n'


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"facts": "import nothing_of_that_name"}, "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ({"facts": "raise SystemExit(3)"}, "SystemExit: 3"),
        ({"facts": "def ("}, "SyntaxError"),
        ({"facts": FACTS.replace("TITLE", "TILE")}, "no attribute 'TITLE'"),
        (
            {"facts": FACTS.replace("identity_one", "mae_vit_tiny")},
            "mae_vit_tiny belongs to zoo.families.mae (dist",
        ),
        ({"facts": FACTS.replace('Identity":', 'VQVAE":')}, "the name VQVAE belongs to zoo.families.vq (distribution"),
        ({"facts": FACTS.replace('Identity":', 'ImageData":')}, "the name ImageData belongs to zoo"),
        ({"facts": FACTS + SECOND}, "its weights mae_vit_tiny.x are of no arch that it has"),
        (
            {"family": "mae", "package": "identity_family"},
            "the family mae belongs to zoo.families.mae (dist",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_family_that_fails_or_clashes_is_left_out_in_one_line(files, said, tmp_path, house):
    listed, err = python(distribution(tmp_path, **files), LIST)
    (line,) = err.strip().splitlines()
    assert HERE in line
    assert "is left out: " in line
    assert said in line
    assert {k: v for k, v in listed.items() if k != "imported"} == {k: v for k, v in house.items() if k != "imported"}


def test_a_package_that_is_not_there_is_left_out(tmp_path, house):
    distribution(tmp_path)
    (tmp_path / "identity_family" / "facts.py").unlink()
    listed, err = python(tmp_path, LIST)
    assert err.count("\n") == 1
    assert HERE in err
    assert listed["archs"] == house["archs"]


def test_of_two_that_clash_the_first_by_name_stays_and_both_are_named(tmp_path):
    distribution(tmp_path, name="aaa")
    distribution(tmp_path, "other", name="zzz", facts=FACTS.replace('Identity":', 'Other":'))
    listed, err = python(tmp_path, LIST)
    assert "identity" in listed["families"]
    assert "other" not in listed["families"]
    (line,) = err.strip().splitlines()
    assert "other_family (distribution zzz) is left out" in line
    assert "identity_one belongs to identity_family (distribution aaa)" in line


@pytest.mark.parametrize("files", [{"model": "import nothing_of_that_name"}, {"init": "1 / 0"}], ids=str)
def test_a_model_that_cannot_be_imported_is_an_error_of_one_line_when_it_is_asked_for(files, tmp_path, preloaded):
    code = """
import json
from zoo import cli
print(json.dumps([cli.main(["validate", "mine.yaml"]), cli.main(["info", "identity_one"])]))
"""
    (tmp_path / "mine.yaml").write_text(
        "model: {class_path: zoo.LitClassifier, init_args: {arch: identity_one}}\n"
        "data: {class_path: zoo.RandomImages}\ntrainer: {max_epochs: 1}\n"
    )
    (validate, info), err = python(distribution(tmp_path, **files), code, preloaded)
    assert (validate, info) == (2, 0)
    assert "Traceback" not in err
    assert "family identity of identity_family (distribution identity_family): identity_family.model cannot" in err


ATTEMPT = """
import json, zoo
try:
    said = type(({call})).__name__
except ValueError as error:
    said = str(error)
print(json.dumps(said))
"""


@pytest.mark.parametrize(
    ("change", "call", "message"),
    [
        (
            ("return Identity(**args)", "return None"),
            "zoo.create('identity_one')",
            "NoneType does not say what it takes",
        ),
        ((" -> Identity", ""), "zoo.create('identity_one')", "must be annotated with its class"),
        (("def identity_one", "def other"), "zoo.create('identity_one')", "has no function of that name"),
        (
            ("super().__init__()", "super().__init__(); self.mean = torch.zeros(1)"),
            "zoo.load(str(zoo.save(zoo.create('identity_one'), 'folder')))",
            "Identity: mean is in no state dict, so no file holds it; make it a persistent buffer",
        ),
    ],
)
def test_what_a_family_lacks_is_said_in_a_line(tmp_path, preloaded, change, call, message):
    model = MODEL.replace("from torch import nn", "import torch\nfrom torch import nn").replace(*change)
    said, _ = python(distribution(tmp_path, model=model), ATTEMPT.format(call=call), preloaded)
    assert message in said


def test_a_checkpoint_names_the_distribution_that_brings_its_arch(tmp_path, preloaded):
    save = "str(zoo.save(zoo.create('identity_one'), 'folder'))"
    site = distribution(tmp_path / "site", name="latentzoo-identity")
    assert python(site, ATTEMPT.format(call=save), preloaded)[0] == "str"
    folder = tmp_path / "site" / "folder"
    (tmp_path / "bare").mkdir()
    said, _ = python(tmp_path / "bare", ATTEMPT.format(call=f"zoo.load({str(folder)!r})"), preloaded)
    assert said == f"{folder}/config.json: no arch 'identity_one'; install latentzoo-identity, which brings it"
