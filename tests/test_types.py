"""What a type checker sees: the package without an error, README's blocks, and a misspelt method."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LEFT = 0  # errors in zoo/; may only fall, from 959 at first
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
DOORS = """
import torch

import zoo
from zoo.families.bilinear import decompose

images = torch.rand(2, 3, 32, 32)
reveal_type(zoo.load("mae_vit_tiny.cifar10").forward_features(images))
reveal_type(zoo.load("somewhere/else", zoo.VQVAE))
reveal_type(zoo.load("somewhere/else").takes.shape)
reveal_type(zoo.create("ditdh_tiny"))
reveal_type(zoo.convert({}, "vqgan_f16"))
reveal_type(zoo.LitDCAE("dcae_tiny_f8c4").model)
reveal_type(decompose(images).values)
zoo.load("mae_vit_tiny.cifar10").forward_featurs(images)
zoo.load("mae_vit_tiny.cifar10").zoo_confg["arch"]
zoo.lod("mae_vit_tiny.cifar10")
"""
SEEN = (
    "torch._tensor.Tensor",
    "zoo.families.vq.model.VQVAE",
    "tuple[int, ...]",
    "zoo.families.rae.dit.DiTDH",
    "zoo.families.vq.vqgan.VQGAN",
    "zoo.families.dcae.model.DCAE",
    "torch._tensor.Tensor",
)


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> list[str]:
    """mypy's lines for the package, each block of the README, and the doors, in one run."""
    folder = tmp_path_factory.mktemp("types")
    files = [folder / "doors.py", *(folder / f"readme_{i}.py" for i in range(len(BLOCKS)))]
    for file, code in zip(files, [DOORS, *BLOCKS], strict=True):
        file.write_text(code, encoding="utf-8")
    argv = [sys.executable, "-m", "mypy", "--no-error-summary", "--cache-dir", str(folder / "cache"), "zoo"]
    done = subprocess.run([*argv, *map(str, files)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    return [line.replace(f"{folder}/", "") for line in done.stdout.splitlines()]


def errors(report: list[str], start: str) -> list[str]:
    return [line for line in report if line.startswith(start) and ": error:" in line]


def test_the_package_checks(report):
    found = errors(report, "zoo/")
    assert len(found) == LEFT, "\n".join(found)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_of_the_readme_checks(report, number):
    assert not errors(report, f"readme_{number}.py")


def test_doors_say_which_class_they_give_and_a_misspelt_name_is_an_error(report):
    revealed = [line.split('"')[1] for line in report if line.startswith("doors.py") and "Revealed type" in line]
    assert revealed == list(SEEN)
    wrong = {int(line.split(":")[1]) for line in errors(report, "doors.py")}
    last = len(DOORS.splitlines())
    assert wrong == {last - 2, last - 1, last}
