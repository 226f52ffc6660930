"""Every block of the README and of the families' pages runs as it stands, and what is generated is up to date."""

import multiprocessing
import os
import re
import subprocess
import sys
import traceback
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs" / "families").glob("*.md"))]
BLOCK = re.compile(r"```(python|bash)\n(.*?)```", re.DOTALL)
BLOCKS = [
    pytest.param(language, code, id=f"{page.stem}-{i}")
    for page in PAGES
    for i, (language, code) in enumerate(BLOCK.findall(page.read_text(encoding="utf-8")))
]
PYTHON = [pytest.param(p.values[1], id=p.id) for p in BLOCKS if p.values[0] == "python"]
BASH = [pytest.param(p.values[1], id=p.id) for p in BLOCKS if p.values[0] == "bash"]


def test_the_first_page_is_short_and_each_page_is_found():
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 250
    assert len(text.encode()) < 15_000
    assert len(BLOCKS) >= 15
    for page in (ROOT / "docs").rglob("*.md"):
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page} points at {target}"
    for target in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (ROOT / target).exists(), f"README.md points at {target}"


@pytest.fixture
def checkout(tmp_path):
    """A folder that looks like a checkout and is written to instead, and pictures of two kinds, as people have them."""
    from PIL import Image

    (tmp_path / "hubconf.py").write_text((ROOT / "hubconf.py").read_text())
    (tmp_path / "zoo").symlink_to(ROOT / "zoo")
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    rng = np.random.default_rng(0)
    for place in (*(f"photos/{name}/{i}.jpg" for name in ("cat", "dog") for i in range(4)), "new/query.jpg"):
        file = tmp_path / place
        file.parent.mkdir(parents=True, exist_ok=True)
        colour = (200, 60, 60) if "cat" in place else (60, 60, 200)
        noise = rng.integers(-40, 40, (48, 64, 3))
        Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(file)
    return tmp_path


@pytest.fixture(scope="module")
def processes():
    """New processes that have imported torch and Lightning already, which is most of what a block costs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "lightning", "torchvision", "torchmetrics", "timm"])
    return context


def execute(code, folder):
    os.chdir(folder)
    sys.path.insert(0, "")
    with open("output", "w") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
        try:
            exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
        except BaseException:
            traceback.print_exc()
            os._exit(1)


@pytest.mark.parametrize("code", PYTHON)
def test_python_block_runs(code, checkout, processes):
    process = processes.Process(target=execute, args=(code, checkout))
    process.start()
    process.join()
    assert process.exitcode == 0, (checkout / "output").read_text()


@pytest.mark.parametrize("code", BASH)
def test_bash_block_runs(code, checkout):
    # The `zoo` command of this very checkout, whatever is installed beside it.
    command = checkout / "bin" / "zoo"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m zoo.cli "$@"\n')
    command.chmod(0o755)
    env = os.environ | {"PYTHONPATH": str(ROOT), "PATH": f"{command.parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-ec", code], cwd=checkout, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in ("demo", "test", "test-all", "bench"):
        assert f"\n{target}:" in makefile


def test_every_generated_file_is_what_the_registry_says():
    # Not above: the blocks' processes import this file, and are to import zoo themselves.
    from zoo.hub import card, index, pages, readme, stubs

    made = [part.refresh() for part in (index, card, pages, stubs, readme)]
    for path, text in (item for each in made for item in each.items()):
        assert (ROOT / path).read_text(encoding="utf-8") == text, f"{path} is stale: run python -m zoo.hub"
