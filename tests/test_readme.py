"""Every block of the README runs as it stands, and what is generated is up to date."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from zoo.card import refresh

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```(python|bash)\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def test_there_are_blocks():
    assert len(BLOCKS) == 15


@pytest.mark.parametrize(("language", "code"), [b for b in BLOCKS if "make demo" not in b[1]])
def test_block_runs(language, code, tmp_path):
    (tmp_path / "hubconf.py").write_text((ROOT / "hubconf.py").read_text())
    (tmp_path / "zoo").symlink_to(ROOT / "zoo")
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    # The `zoo` command of this very checkout, whatever is installed beside it.
    command = tmp_path / "bin" / "zoo"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m zoo.cli "$@"\n')
    command.chmod(0o755)
    env = os.environ | {"PYTHONPATH": str(ROOT), "PATH": f"{command.parent}:{os.environ['PATH']}"}
    argv = [sys.executable, "-c", code] if language == "python" else ["bash", "-ec", code]
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in ("demo", "test", "bench"):
        assert f"\n{target}:" in makefile


def test_every_generated_file_is_what_the_registry_says():
    for path, text in refresh().items():
        assert (ROOT / path).read_text(encoding="utf-8") == text, f"{path} is stale: run python -m zoo.card"
