"""Every block of the README runs as it stands, and what is generated is up to date."""

import multiprocessing
import os
import re
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```(python|bash)\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def test_there_are_blocks():
    assert len(BLOCKS) == 15


PYTHON = [code for language, code in BLOCKS if language == "python"]
BASH = [code for language, code in BLOCKS if language == "bash" and "make demo" not in code]


@pytest.fixture
def checkout(tmp_path):
    """A folder that looks like a checkout, and is written to instead."""
    (tmp_path / "hubconf.py").write_text((ROOT / "hubconf.py").read_text())
    (tmp_path / "zoo").symlink_to(ROOT / "zoo")
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
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
    for target in ("demo", "test", "bench"):
        assert f"\n{target}:" in makefile


def test_every_generated_file_is_what_the_registry_says():
    # Not above: the blocks' processes import this file, and are to import zoo themselves.
    from zoo.hub import card, stubs

    for path, text in (card.refresh() | stubs.refresh()).items():
        assert (ROOT / path).read_text(encoding="utf-8") == text, f"{path} is stale: run python -m zoo.hub"
