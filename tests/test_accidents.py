"""Training that is stopped, killed or broken: what goes on does so to the last bit, and nothing half-written loads."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import zoo
from benchmarks.accidents import LIGHTER, SMALL, differences, losses, same
from zoo import cli, fit, hub, recipe
from zoo.data.images import Batches

ROOT = Path(__file__).parents[1]
SMOKE = recipe.list_recipes("*smoke*")
LIGHT = LIGHTER | {
    "rae/ditdh_smoke": ["--data.num_images", "384"],
    "videomae/smoke": ["--trainer.limit_val_batches", "1", "--trainer.limit_test_batches", "1"],
}


@pytest.fixture
def accident(monkeypatch):
    """What happens, once, as the loader is asked for a training batch: {(epoch, batch): what}."""
    planned, iterate = {}, Batches.__iter__

    def watched(self):
        epoch, step = self.epoch, self.start
        for batch in iterate(self):
            if self.shuffle:
                planned.pop((epoch, step), lambda: None)()
            step += 1
            yield batch

    monkeypatch.setattr(Batches, "__iter__", watched)
    return planned


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def broken():
    raise OSError("the disk is gone")


def train(folder, name, *argv):
    """Run in this process; returns the exit status and the run's directory."""
    status = fit.fit([name, *SMALL, *LIGHT.get(name, ()), *argv, "--runs", str(folder)])
    (run,) = folder.glob("*/*")
    return status, run


HARDER = [
    ("bilinear/smoke", "--trainer.accumulate_grad_batches", "3", "--save_steps", "1"),
    ("bilinear/smoke", "--trainer.val_check_interval", "2", "--save_steps", "1"),
    ("bilinear/smoke", "--trainer.max_steps", "17"),
    ("vq/smoke", "--trainer.accumulate_grad_batches", "2", "--save_steps", "1"),
    ("vq/vqgan_smoke", "--model.accumulate", "2", "--save_steps", "1"),
]


@pytest.mark.parametrize("argv", [(name,) for name in SMOKE] + HARDER, ids=" ".join)
def test_every_family_goes_on_exactly_after_a_signal_and_after_a_failure(argv, tmp_path, accident):
    _, whole = train(tmp_path / "whole", *argv)
    accident[0, 2] = terminate
    status, run = train(tmp_path / "parts", *argv)
    assert status == 128 + signal.SIGTERM
    first = hub.read_checkpoint(run / fit.LAST)
    assert first["epoch"] == 0
    accident[1, 4] = broken
    with pytest.raises(OSError, match="the disk is gone"):
        fit.fit(["--resume", str(run)])
    second = hub.read_checkpoint(run / fit.LAST)
    assert second["global_step"] > first["global_step"]
    assert second["epoch"] == 1  # of an epoch that was not through
    assert fit.fit(["--resume", str(run)]) == 0
    steps, different = differences(run, whole)
    assert steps == len(losses(whole)) >= 6
    assert not different
    assert not accident
    assert not [p for p in run.rglob(".*") if p.is_file()]


def test_killed_processes_go_on_exactly(tmp_path):
    command = [sys.executable, "-m", "benchmarks.accidents", "--family", "bilinear", "--kills", "6", "--seed", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kills 6" in done.stdout
    assert "different 0" in done.stdout


def test_a_run_killed_before_its_first_checkpoint_begins_again_and_says_so(tmp_path, capsys, accident):
    _, whole = train(tmp_path / "whole", "bilinear/smoke")
    accident[0, 1] = broken
    with pytest.raises(OSError, match="the disk is gone"):
        train(tmp_path / "parts", "bilinear/smoke")
    (run,) = tmp_path.glob("parts/*/*")
    (run / "checkpoints").mkdir(exist_ok=True)
    (run / "checkpoints" / ".last.ckpt.123.part").write_bytes(b"half")
    assert not (run / fit.LAST).exists()
    assert fit.fit(["--resume", str(run)]) == 0
    assert f"{run} was stopped before its first checkpoint: it begins again" in capsys.readouterr().out
    assert not differences(run, whole)[1]
    assert not list(run.rglob("*.part"))


def test_a_directory_that_never_became_a_run_is_refused(tmp_path, capsys):
    assert cli.main(["fit", "--resume", str(tmp_path)]) == 2
    assert "it needs recipe.yaml" in capsys.readouterr().err


def test_a_run_killed_in_its_test_has_its_figures_in_the_end(tmp_path):
    _, run = train(tmp_path, "bilinear/smoke")
    figures = json.loads((run / "metrics.json").read_text())["metrics"]
    (run / "metrics.json").unlink()
    assert fit.fit(["--resume", str(run)]) == 0
    assert json.loads((run / "metrics.json").read_text())["metrics"] == figures


def test_a_damaged_checkpoint_is_refused_by_whatever_reads_it(tmp_path, capsys):
    _, run = train(tmp_path, "bilinear/smoke", "--trainer.max_epochs", "1")
    path, draw = run / fit.LAST, random.Random(0)
    whole, kept = path.read_bytes(), hub.read_checkpoint(path)
    for size in (0, 1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="damaged"):
            zoo.load(str(run))
        with pytest.raises(ValueError, match="damaged"):
            zoo.export(run, tmp_path / "folder")
    for _ in range(300):
        at, bit = draw.randrange(len(whole)), 1 << draw.randrange(8)
        path.write_bytes(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
        try:
            found = hub.read_checkpoint(path)
        except ValueError:
            continue
        assert same(found, kept)  # the bit was of no consequence: padding, or a date
    path.write_bytes(whole[: len(whole) // 2])
    capsys.readouterr()
    assert cli.main(["fit", "--resume", str(run)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("zoo fit:")]
    assert f"{path} is damaged" in line
    assert f"begin again with: zoo fit {run / 'recipe.yaml'}" in line


def test_an_unfinished_checkpoint_beside_the_run_is_never_taken(tmp_path):
    _, run = train(tmp_path, "bilinear/smoke", "--trainer.max_epochs", "1")
    os.replace(run / fit.LAST, run / "checkpoints" / ".last.ckpt.1.part")
    with pytest.raises(FileNotFoundError, match=r"holds neither best\*\.ckpt nor last\.ckpt"):
        zoo.load(str(run))
