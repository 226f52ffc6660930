"""Training that is stopped, killed or broken: what goes on does so to the last bit, and nothing half-written loads."""

import copy
import itertools
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import lightning as L
import pytest
from torch.nn import functional as F

import zoo
from benchmarks.accidents import SMALL, differences, losses, same
from zoo import cli, hub, recipe
from zoo.data.batches import Batches
from zoo.data.synthetic import RandomImages
from zoo.train import adversarial, fit
from zoo.train.callbacks import LAST
from zoo.train.parse import parse

ROOT = Path(__file__).parents[1]
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
SMOKE = recipe.list_recipes("*smoke*")


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
    status = fit.fit([name, *SMALL, *argv, "--runs", str(folder)])
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
    first = hub.read_checkpoint(run / LAST)
    assert first["epoch"] == 0
    accident[1, 4] = broken
    with pytest.raises(OSError, match="the disk is gone"):
        fit.fit(["--resume", str(run)])
    second = hub.read_checkpoint(run / LAST)
    assert second["global_step"] > first["global_step"]
    assert second["epoch"] == 1  # of an epoch that was not through
    assert fit.fit(["--resume", str(run)]) == 0
    steps, different = differences(run, whole)
    assert steps == len(losses(whole)) >= 6
    assert not different
    assert not accident
    assert not [p for p in run.rglob(".*") if p.is_file()]


def test_a_signal_in_the_batch_before_a_validation_waits_until_that_is_over(tmp_path, accident):
    accident[0, 3] = terminate
    status, run = train(tmp_path, "bilinear/smoke", "--trainer.val_check_interval", "2")
    assert status == 128 + signal.SIGTERM
    assert hub.read_checkpoint(run / LAST)["global_step"] == 5


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
    assert not (run / LAST).exists()
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
    path, draw = run / LAST, random.Random(0)
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
    os.replace(run / LAST, run / "checkpoints" / ".last.ckpt.1.part")
    with pytest.raises(FileNotFoundError, match=r"holds neither best\*\.ckpt nor last\.ckpt"):
        zoo.load(str(run))


@pytest.fixture
def poisoned(monkeypatch):
    """Training batches, (epoch, batch), whose pixels are not numbers."""
    batches, transfer = set(), RandomImages.on_after_batch_transfer

    def on_after_batch_transfer(self, batch, dataloader_idx):
        x, y = transfer(self, batch, dataloader_idx)
        stamp = batch[2]
        return (x * float("nan") if stamp and (stamp[1], stamp[2]) in batches else x), y

    monkeypatch.setattr(RandomImages, "on_after_batch_transfer", on_after_batch_transfer)
    return batches


class Watch(L.Callback):
    """Everything that training has changed, before the first batch and after each."""

    def __init__(self):
        self.states = []

    def on_train_start(self, trainer, module):
        optimizers = [o.state_dict()["state"] for o in trainer.optimizers]
        self.states.append(copy.deepcopy({"tensors": module.state_dict(), "optimizers": optimizers}))

    def on_train_batch_end(self, trainer, module, *_):
        self.on_train_start(trainer, module)


def watched(name, *argv):
    alone = ["--trainer.logger", "false", "--trainer.enable_checkpointing", "false"]
    built, watch = parse(recipe.recipe_path(name), [*QUIET, *argv, *alone]), Watch()
    built.trainer.callbacks.append(watch)
    return built, watch.states


def watch(name, *argv):
    built, states = watched(name, *argv)
    built.trainer.fit(built.model, built.datamodule)
    return built, states


def spoil(monkeypatch, where, function, call):
    """The so-many-th result of a function is infinite."""
    right, calls = getattr(where, function), []

    def spoilt(*args):
        calls.append(1)
        return right(*args) * (float("inf") if len(calls) == call else 1)

    monkeypatch.setattr(where, function, spoilt)


# mae/smoke stands for videomae's; the encoders of rae's and the prior's refuse such images.
@pytest.mark.parametrize("name", [n for n in SMOKE if n not in ("videomae/smoke", "vq/prior_smoke")])
def test_a_batch_without_a_finite_loss_is_left_out_and_leaves_nothing_behind(name, poisoned, monkeypatch):
    if name == "rae/smoke":
        spoil(monkeypatch, F, "l1_loss", call=4)
    else:
        poisoned.add((0, 3))
    short = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "6", "--trainer.limit_val_batches", "0"]
    with pytest.warns(UserWarning, match=r"the loss is (nan|inf) at step 3, batch 3 of epoch 0.*: left out, 1 of 2"):
        built, states = watch(name, *short, "--skip_nonfinite", "2")
    assert same(states[4], states[3])
    changed = [not same(a, b) for a, b in itertools.pairwise(states)]
    assert changed == [True, True, True, False, True, True]
    assert all(t.isfinite().all() for t in built.model.state_dict().values())
    assert built.model.skipped == built.trainer.callback_metrics["train/skipped"] == 1


def test_of_accumulated_batches_the_others_are_learned_from(poisoned):
    poisoned.update([(0, 1), (0, 2), (0, 3)])
    how = ["--trainer.accumulate_grad_batches", "2", "--skip_nonfinite", "3", "--trainer.max_epochs", "1"]
    _, states = watch("bilinear/smoke", *how)
    changed = [not same(a, b) for a, b in itertools.pairwise(states)]
    assert changed == [False, True, False, False, False, True, False, True, False, True]


def test_one_batch_too_many_stops_and_the_count_survives_a_resume(tmp_path, poisoned, accident, capsys):
    poisoned.update([(0, 1), (0, 4), (1, 5)])
    accident[1, 2] = broken
    with pytest.raises(OSError, match="the disk is gone"):
        train(tmp_path, "bilinear/smoke", "--skip_nonfinite", "2")
    (run,) = tmp_path.glob("*/*")
    assert cli.main(["fit", "--resume", str(run)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("zoo fit:")]
    assert "the loss is nan at step 15, batch 5 of epoch 1, images [" in line
    assert "2 batches were left out before" in line
    assert f"The last checkpoint is {run / LAST}" in line
    assert hub.read_checkpoint(run / LAST)["skipped"] == 2
    assert all(t.isfinite().all() for t in zoo.load(str(run)).state_dict().values())


LEARNS = {"vq/vqgan_smoke": 3, "rae/smoke": 0}  # the step from which a discriminator does


@pytest.mark.parametrize("name", LEARNS)
def test_where_only_a_discriminators_loss_is_not_finite_the_batch_is_left_out_whole(name, monkeypatch):
    spoil(monkeypatch, adversarial, "discriminator_loss", call=2)
    bad, short = LEARNS[name] + 1, ["--trainer.max_epochs", "1", "--trainer.limit_val_batches", "0"]
    said = rf"the loss is inf at step {bad}, batch {bad} of epoch 0.*: left out, 1 of 1"
    with pytest.warns(UserWarning, match=said):
        built, states = watch(name, *short, "--skip_nonfinite", "1")
    if name == "rae/smoke":  # whose decoder has learned by then, as published
        states = [{k: v for k, v in s["tensors"].items() if k.startswith("discriminator.")} for s in states]
    changed = [not same(a, b) for a, b in itertools.pairwise(states)]
    assert changed == [k != bad for k in range(6)]
    assert built.model.skipped == built.trainer.callback_metrics["train/skipped"] == 1


@pytest.mark.parametrize("name", LEARNS)
def test_a_discriminators_loss_stops_before_anything_is_learned_and_steps_are_optimiser_steps(name, monkeypatch):
    spoil(monkeypatch, adversarial, "discriminator_loss", call=2)
    built, states = watched(name, "--trainer.max_epochs", "1")
    bad = LEARNS[name] + 1
    with pytest.raises(ValueError, match=rf"the loss is inf at step {bad}, batch {bad} of epoch 0"):
        built.trainer.fit(built.model, built.datamodule)
    assert len(states) == bad + 1  # the last one as that batch began
    first = 1 if name == "rae/smoke" else 0  # whose decoder has learned by then, as published
    parameters = {k: p for k, p in built.model.named_parameters() if k.startswith("discriminator.") or not first}
    assert same(parameters, {k: states[-1]["tensors"][k] for k in parameters})
    assert same([o.state_dict()["state"] for o in built.trainer.optimizers][first:], states[-1]["optimizers"][first:])


def test_leaving_out_is_refused_where_the_module_cannot(tmp_path):
    text = recipe.recipe_path("bilinear/smoke").read_text()
    head, tail = text.partition("model:")[0], text.partition("data:")[2]
    own = "model: {class_path: lightning.pytorch.demos.boring_classes.BoringModel}\n"
    (tmp_path / "mine.yaml").write_text(f"{head}{own}data:{tail}")
    with pytest.raises(ValueError, match=r"BoringModel cannot leave batches out.*zoo\.train\.optim\.Guarded"):
        fit.fit([str(tmp_path / "mine.yaml"), "--skip_nonfinite", "1", "--runs", str(tmp_path / "runs")])
    assert not (tmp_path / "runs").exists()


def test_a_full_disk_leaves_logs_and_folders_as_they_were_and_is_told_in_a_line(tmp_path, preloaded):
    folder = zoo.save(zoo.create("bilinear_d64"), tmp_path / "folder")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    script = f"""
import resource, signal, sys, zoo
from zoo.cli import main
from zoo.train.callbacks import CSVLog
log = CSVLog({str(tmp_path)!r}, "logs")
for step in range(200):
    log.log_metrics({{"train/loss": 1 / (1 + step)}}, step)
    log.save()
sys.dont_write_bytecode = True  # a cut .pyc would stay
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_500, 1_500))
try:
    log.log_metrics({{"val/loss": 1.0}}, 200)
    log.save()
except OSError as error:
    print(error)
print(main(["export", "bilinear_d256.mnist", {str(folder)!r}, "--force"]))
print(main(["export", "mae_vit_tiny_classifier.cifar10", {str(folder)!r}, "--to", "timm", "--force"]))
print(main(["fit", "bilinear/smoke", "--runs", {str(tmp_path / "runs")!r}]))
"""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([*preloaded, "-c", script], capture_output=True, text=True, env=env)
    assert done.stdout.splitlines().count("2") == 3, done.stderr
    said = [done.stdout.splitlines()[0], *(line for line in done.stderr.splitlines() if line.startswith("zoo "))]
    assert len(said) == 4
    assert all("cannot write" in line and "nothing in it was changed" in line for line in said)
    (rows,) = tmp_path.glob("logs/version_0/metrics.csv")
    assert len(rows.read_text().splitlines()) == 201
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert not (tmp_path / "runs").exists()
