"""torch and safetensors alone load and run every checkpoint that ships: the same bits as beside everything else."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from bare import forward, outputs

import zoo
from zoo import registry

ROOT = Path(__file__).parents[1]


def bare(paths: list[Path | str], file: Path, *more: Path) -> dict:
    """What tests/bare.py gives, of which this process's packages are left out but a few."""
    elsewhere = [p for p in sys.path if p and not Path(p, "zoo", "__init__.py").exists()]
    command = [sys.executable, "-I", "-S", Path(__file__).with_name("bare.py")]
    done = subprocess.run(
        [*command, json.dumps([*map(str, paths), *elsewhere]), file, *more], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return torch.load(file, weights_only=True)


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return len(a) == len(b) and all(map(same, a, b)) if isinstance(a, tuple) else a == b


# What a bare installation says where a package is missing, and of which.
TOLD = {
    "preprocess": "preprocess needs numpy",
    "transform": "zoo.transform needs numpy",
    "ImageData": "zoo.ImageData needs lightning",
    "LitAutoencoder": "zoo.LitAutoencoder needs lightning",
    "fit bilinear/smoke": "zoo fit: it needs lightning",
    "cache ls": "zoo cache: it needs numpy",
}


def test_every_checkpoint_runs_on_torch_and_safetensors_alone(tmp_path):
    found = bare([ROOT], tmp_path / "found.pt")
    said = {what: line.rstrip("\n") for what, line in found.pop("told").items()}
    mend = "which is not installed; pip install latentzoo brings all that it needs"
    assert said == {what: f"{needs}, {mend}" for what, needs in TOLD.items()}
    assert same(found.pop("saved"), dict(zoo.load("bilinear_d256.mnist").state_dict()))
    assert found.keys() == {name for name, record in registry.records().items() if record.embedded}
    for name in found:
        wanted = outputs(zoo.load(name))
        assert found[name].keys() == wanted.keys()
        for what in wanted:
            assert same(wanted[what], found[name][what]), f"{what} of {name}"


@pytest.mark.long
def test_torch_hub_runs_a_repository_of_which_the_larger_weights_are_left_out(tmp_path, monkeypatch):
    """GitHub's archive, in whose only folder the files lie, but `weights/` and what else is not exported."""
    archive = tmp_path / "main.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("latentzoo-zoo-0123456/", "")
        for file in (ROOT / "hubconf.py", *(ROOT / "zoo").rglob("*"), *(ROOT / "recipes").rglob("*")):
            if file.is_file() and file.suffix != ".pyc":
                packed.write(file, Path("latentzoo-zoo-0123456") / file.relative_to(ROOT))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    found = bare([], tmp_path / "found.pt", archive)
    assert sorted(found.pop("list")) == sorted(zoo.list_models())
    said = found.pop("help")
    assert "28×28 grey → 10 logits" in said
    assert "'mnist', 'mnist_noise'" in said
    assert "bilinear_d256.mnist" in found
    assert all(same(forward(zoo.load(name)), got) for name, got in found.items())
