"""`zoo fit` on real runs: resume, run directories, provenance, typos, signals, full disks."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from conftest import losses

from zoo import cli, hub, recipe
from zoo.data.batches import Batches
from zoo.data.images import ImageData
from zoo.train import fit, keys, parallel
from zoo.train.callbacks import LAST
from zoo.train.classify import LitClassifier
from zoo.train.parse import parse

ROOT = Path(__file__).parents[1]
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
# Noise in the model draws from torch's random state at every step: a resume that does not restore it is seen.
NOISY = ["--model.arch_args", '{"image_size": 16, "num_classes": 4, "noise": 0.3}', "--trainer.log_every_n_steps", "1"]


def train(tmp_path, *argv):
    """Run in this process; returns the run's directory."""
    before = set(tmp_path.glob("*/*"))  # runs lie under RECIPE/TIME
    assert fit.fit([*argv, "--runs", str(tmp_path), *QUIET]) == 0
    (run,) = set(tmp_path.glob("*/*")) - before
    return run


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return train(tmp_path_factory.mktemp("undisturbed"), "bilinear/smoke", *NOISY)


def test_a_run_writes_down_what_ran(undisturbed):
    recipe = yaml.safe_load((undisturbed / "recipe.yaml").read_text())
    assert recipe["model"]["init_args"]["arch_args"]["noise"] == 0.3
    environment = json.loads((undisturbed / "environment.json").read_text())
    assert environment["torch"] == torch.__version__
    assert environment["recipe"] == "bilinear/smoke"
    if (ROOT / ".git").exists():
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
        assert environment["commit"].removesuffix("-dirty") == head
    metrics = json.loads((undisturbed / "metrics.json").read_text())
    assert {"test/acc", "val/acc", "train/loss"} <= metrics["metrics"].keys()
    assert metrics["metrics"]["test/acc"] > 0.9
    assert list((undisturbed / "logs" / "tensorboard").glob("events*"))
    assert (undisturbed / "checkpoints" / "last.ckpt").is_file()


def test_the_same_recipe_gives_the_same_losses_in_a_directory_of_its_own(tmp_path, undisturbed):
    first = train(tmp_path, "bilinear/smoke", *NOISY)
    second = train(tmp_path, "bilinear/smoke", *NOISY)
    assert first != second
    assert losses(first) == losses(second) == losses(undisturbed)


def test_a_figure_is_compared_with_the_run_that_the_recipe_describes(tmp_path, capsys):
    text = recipe.recipe_path("bilinear/smoke").read_text(encoding="utf-8")
    expected = 'expect: {metric: test/acc, value: 0.99, about: "here"}'
    mine = tmp_path / "mine.yaml"
    mine.write_text(re.sub("^expect: .*$", expected, text, flags=re.MULTILINE), encoding="utf-8")
    same = train(tmp_path / "a", str(mine), "--trainer.log_every_n_steps", "3", "--seed_everything", "0")
    assert "expected     test/acc 0.99 (here)\n" in capsys.readouterr().out
    assert json.loads((same / "metrics.json").read_text())["expect"]["value"] == 0.99
    for change in (["--model.lr", "0.002"], ["--data.seed", "1"], ["--trainer.max_epochs", "1"]):
        other = train(tmp_path / "b", str(mine), *change)
        said = f"expected     nothing known: the run has another {change[0].removeprefix('--')} than the recipe\n"
        assert said in capsys.readouterr().out
        assert json.loads((other / "metrics.json").read_text())["expect"] is None
    assert fit.fit(["--resume", str(other), "--trainer.max_epochs", "2", *QUIET]) == 0
    assert "expected     nothing known: the run has another beginning than the recipe\n" in capsys.readouterr().out


@pytest.mark.parametrize(("reached", "verdict"), [([0.98, 1.0], "within"), ([0.2, 0.4], "outside")])
def test_a_figure_of_another_seed_is_held_against_a_range(tmp_path, capsys, reached, verdict):
    text = recipe.recipe_path("bilinear/smoke").read_text(encoding="utf-8")
    expected = f'expect: {{metric: test/acc, value: 0.99, range: {reached}, about: "seeds 0, 1"}}'
    mine = tmp_path / "mine.yaml"
    mine.write_text(re.sub("^expect: .*$", expected, text, flags=re.MULTILINE), encoding="utf-8")
    run = train(tmp_path / "a", str(mine), "--seed_everything", "7", "--data.seed", "7")
    assert f"expected     test/acc 0.99 (seeds 0, 1)\ncompared     {verdict} " in capsys.readouterr().out
    assert json.loads((run / "metrics.json").read_text())["expect"]["range"] == reached
    train(tmp_path / "b", str(mine), "--seed_everything", "7", "--model.lr", "0.002")
    printed = capsys.readouterr().out
    assert "nothing known: the run has another model.lr than the recipe\n" in printed
    assert "compared" not in printed


def test_a_resolved_recipe_is_a_recipe(tmp_path, undisturbed):
    again = train(tmp_path, str(undisturbed / "recipe.yaml"))
    assert losses(again) == losses(undisturbed)


def test_one_epoch_and_one_more_are_two_to_the_last_bit(tmp_path):
    constant = [*NOISY, "--model.min_lr", "0.01"]  # a schedule that does not know how long the run is
    whole = train(tmp_path / "whole", "bilinear/smoke", *constant)
    run = train(tmp_path / "parts", "bilinear/smoke", *constant, "--trainer.max_epochs", "1")
    assert len(losses(run)) == 10
    assert fit.fit(["--resume", str(run), "--trainer.max_epochs", "2"]) == 0
    assert losses(run) == losses(whole)


def test_the_command_line_wins_on_resume(tmp_path):
    run = train(tmp_path, "bilinear/smoke")
    argv = ["--resume", str(run), "--trainer.max_epochs", "4", "--model.lr", "0.002", "--model.weight_decay", "0.3"]
    assert fit.fit([*argv, *QUIET]) == 0
    checkpoint = hub.read_pickle(run / LAST)
    (group,) = checkpoint["optimizer_states"][0]["param_groups"]
    assert group["weight_decay"] == 0.3
    assert group["initial_lr"] == 0.002
    assert checkpoint["hyper_parameters"]["lr"] == 0.002
    assert checkpoint["epoch"] == 3
    assert yaml.safe_load((run / "recipe.yaml").read_text())["model"]["init_args"]["lr"] == 0.002
    assert len(json.loads((run / "environment.json").read_text())["commands"]) == 2


def test_the_same_command_begins_a_run_and_goes_on_with_it(tmp_path, undisturbed, capsys, preloaded):
    argv = ["fit", "bilinear/smoke", *NOISY, *QUIET, "--run", str(tmp_path / "mine")]
    script = f"""
import os
from zoo import cli
from zoo.train.callbacks import RunState
late = RunState.on_train_batch_start
def dies(self, trainer, module, batch, index):
    late(self, trainer, module, batch, index)
    if trainer.global_step == 13:
        os._exit(9)
RunState.on_train_batch_start = dies
cli.main({[*argv, "--save_steps", "3"]!r})
"""
    done = subprocess.run([*preloaded, "-c", script], env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 9
    assert cli.main([*argv, "--save_steps", "3"]) == 0
    assert losses(tmp_path / "mine") == losses(undisturbed)
    assert cli.main(["fit", "mae/smoke", "--run", str(tmp_path / "mine")]) == 2
    assert "mine is a run of bilinear/smoke, not of mae/smoke; give another --run" in capsys.readouterr().err


LONGER = ["bilinear/smoke", *NOISY, *QUIET, "--data.num_images", "19200", "--trainer.max_epochs", "2"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return losses(train(tmp_path_factory.mktemp("whole"), *LONGER))


@pytest.mark.long
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_a_checkpoint_that_resumes_exactly(tmp_path, signum, whole):
    command = [sys.executable, "-m", "zoo.cli", "fit", *LONGER, "--runs", str(tmp_path / "stopped")]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("stopped/*/*/logs/version_0/metrics.csv")):  # written first after 100 steps
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signum)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signum, out
    (run,) = tmp_path.glob("stopped/*/*")
    assert f"go on with: zoo fit --resume {run}" in out
    stopped_at = hub.read_pickle(run / LAST)["global_step"]
    assert 0 < stopped_at < 600
    assert stopped_at != 300  # in mid-epoch
    assert fit.fit(["--resume", str(run)]) == 0
    assert len(whole) == 600
    assert losses(run) == whole


@pytest.mark.parametrize(("size", "left", "counts"), [(16, 24, "images"), (100, 4, "batches"), (640, 1, "images")])
def test_a_run_goes_on_with_another_batch_size_and_sees_no_picture_twice(tmp_path, monkeypatch, size, left, counts):
    shown, every = [], Batches.__iter__

    def watched(self):
        for k, batch in enumerate(every(self)):
            if self.shuffle and "--resume" not in argv and k == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            if self.shuffle:
                shown.append([image.numpy().tobytes() for image in batch[0]])
            yield batch

    monkeypatch.setattr(Batches, "__iter__", watched)
    argv = ["bilinear/smoke", "--run", str(tmp_path / "run"), *QUIET]
    assert fit.fit(argv) == 128 + signal.SIGTERM
    del shown[4:]  # a fifth was fetched, and not trained on
    last = tmp_path / "run" / LAST
    checkpoint = hub.read_pickle(last)
    assert checkpoint["batches"] == {"epoch": 0, "images": 256}
    if counts == "batches":  # as older checkpoints
        checkpoint["batches"] = {"epoch": 0, "done": 4}
        torch.save(checkpoint, last)
    argv = ["--resume", str(tmp_path / "run"), "--data.batch_size", str(size), *QUIET]
    assert fit.fit(argv) == 0
    whole = 640 // size
    first, second = shown[: 4 + left], shown[4 + left :]
    assert [len(second), *map(len, second)] == [whole, *[size] * whole]
    pictures = [picture for batch in first for picture in batch]
    assert len(set(pictures)) == len(pictures) == 640
    assert hub.read_pickle(last)["global_step"] == 4 + left + whole


def test_a_run_that_held_out_without_looking_at_classes_keeps_its_split(tmp_path, monkeypatch):
    held, setup = [], ImageData.setup

    def watched(self, stage=None):
        setup(self, stage)
        held.append(self.splits["val"][0].array.sum().item())

    argv = ["bilinear/finetune", "--data.val_fraction", "0.1", "--trainer.max_epochs", "1", *QUIET]
    run = train(tmp_path, *argv, "--data.stratify", "false")
    other = train(tmp_path, *argv)
    for place in (run, other):
        recipe = yaml.safe_load((place / "recipe.yaml").read_text())
        if place == run:
            del recipe["data"]["init_args"]["stratify"]  # as it was written before there was the keyword
            (place / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.setattr(ImageData, "setup", watched)
    for place, stratify in ((run, False), (other, True)):
        before = ImageData("samples/mnist", val_fraction=0.1, stratify=stratify)
        before.setup("fit")
        assert fit.fit(["--resume", str(place), "--trainer.max_epochs", "2", *QUIET]) == 0
        assert held[1] == held[0]
        assert yaml.safe_load((place / "recipe.yaml").read_text())["data"]["init_args"]["stratify"] is stratify
        held.clear()


def test_a_checkpoint_loads_as_plain_tensors_and_plain_arguments(undisturbed):
    checkpoint = hub.read_pickle(undisturbed / LAST)
    assert checkpoint["hyper_parameters"]["arch"] == "bilinear_d64"
    assert not [k for k in checkpoint["hyper_parameters"] if k.startswith("_")]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["bilinear/smok"], "no recipe 'bilinear/smok', did you mean bilinear/smoke"),
        (["bilinear/smoke", "--model.lrr", "1"], "lrr.*did you mean lr"),
        (["bilinear/smoke", "--trainer.max_epoch", "1"], "max_epoch.*did you mean max_epochs"),
        (["bilinear/smoke", "--data.batchsize", "1"], "batchsize.*did you mean batch_size"),
        (["bilinear/smoke", "--model.lr", "fast"], "lr is 'fast', expected float$"),
        (["--resume", "nowhere"], "nowhere is no run to resume"),
    ],
)
def test_a_typo_is_refused_in_one_line_with_the_nearest_name(argv, message, capsys, tmp_path):
    import re

    assert cli.main(["fit", *argv, *([] if "--resume" in argv else ["--runs", str(tmp_path)])]) == 2
    err = capsys.readouterr().err.strip().splitlines()[-1]
    assert err.startswith("zoo fit: ")
    assert len(err) < 600
    assert re.search(message, err), err
    assert not list(tmp_path.iterdir())


REFUSED = [
    (["--model.num_classes", "3"], 2, "the data has 4 classes, the model 3"),
    (["--model.lr", "-1"], 2, "allowed above 0"),
    (
        ["--trainer.max_epochs", "-1"],
        2,
        "max_epochs=-1, max_steps=-1: the step size follows a schedule that needs an",
    ),
    (["--trainer.strategy", "ddp_spawn", "--trainer.devices", "2"], 2, "give ddp, which begins the command once for"),
    (["--trainer.val_check_interval", "999"], 2, "val_check_interval"),
]


@pytest.mark.parametrize(("flags", "status", "message"), REFUSED)
def test_what_is_refused_leaves_no_directory(flags, status, message, tmp_path, capsys):
    assert cli.main(["fit", "bilinear/smoke", *flags, *QUIET, "--runs", str(tmp_path / "a" / "runs")]) == status
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("zoo fit: ")]
    assert len(said) == 1
    assert message in said[0]
    assert not list(tmp_path.iterdir())


def test_a_run_that_is_refused_stays_as_it_was(undisturbed, tmp_path, capsys):
    run = tmp_path / "mine"
    shutil.copytree(undisturbed, run)
    files = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    for flags, message in (
        (["--model.arch", "bilinear_d512_l3"], "2 missing (model.blocks.1.weight first), 3 of another shape"),
        (["--model.lr", "-1"], "allowed above 0"),
    ):
        assert cli.main(["fit", "--resume", str(run), "--trainer.max_epochs", "3", *flags, *QUIET]) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
        assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == files
        assert not list(run.glob("logs/version_1"))


def test_a_place_whose_first_attempt_failed_holds_the_logs_of_the_second_alone(tmp_path, capsys, monkeypatch):
    run, attempts = tmp_path / "mine", ["fit", "bilinear/smoke", *NOISY, *QUIET, "--run", str(tmp_path / "mine")]
    (run / "notes").mkdir(parents=True)  # somebody's own
    assert cli.main([*attempts, "--model.lr", "-1"]) == 2
    assert [p.name for p in run.iterdir()] == ["notes"]

    def breaks(self, batch, batch_idx):
        if batch_idx == 3:
            raise RuntimeError("the device is lost")
        return step(self, batch, batch_idx)

    step = LitClassifier.training_step
    monkeypatch.setattr(LitClassifier, "training_step", breaks)
    assert cli.main([*attempts, "--model.weight_decay", "0.1"]) == 1
    assert "RuntimeError: the device is lost (zoo/" in capsys.readouterr().err
    assert set(losses(run)) == {0, 1, 2}
    events = set(run.glob("logs/tensorboard/events*"))
    monkeypatch.setattr(LitClassifier, "training_step", step)
    assert cli.main(attempts) == 0
    assert "was stopped before its first checkpoint: it begins again" in capsys.readouterr().out
    assert [p.name for p in run.glob("logs/version_*")] == ["version_0"]
    assert events.isdisjoint(run.glob("logs/tensorboard/events*"))
    assert set(losses(run)) == set(range(20))


def test_a_run_with_nothing_left_to_train_says_so(undisturbed, tmp_path, capsys):
    shutil.copytree(undisturbed, tmp_path / "mine")
    assert cli.main(["fit", "--resume", str(tmp_path / "mine"), "--trainer.max_steps", "-1", *QUIET]) == 0
    out = capsys.readouterr().out
    assert "nothing was left to train with max_epochs=2, max_steps=-1, max_time=None: this is the test alone" in out
    assert "test/acc" in out


def test_ctrl_c_before_the_first_batch_is_quiet_and_leaves_nothing(tmp_path, capsys, monkeypatch):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(LitClassifier, "configure_optimizers", interrupted)
    handler = signal.getsignal(signal.SIGINT)
    try:
        assert cli.main(["fit", "bilinear/smoke", *QUIET, "--runs", str(tmp_path / "runs")]) == 130
    finally:
        signal.signal(signal.SIGINT, handler)  # which Lightning takes away for its shutdown
    assert "Traceback" not in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_typo_in_a_recipe_file_is_refused(tmp_path, capsys):
    text = (ROOT / "recipes" / "bilinear" / "smoke.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(text.replace("weight_decay", "weigth_decay"))
    assert cli.main(["fit", str(tmp_path / "mine.yaml"), "--runs", str(tmp_path)]) == 2
    assert "did you mean weight_decay" in capsys.readouterr().err


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, undisturbed, preloaded):
    path = tmp_path / "last.ckpt"
    path.write_bytes((undisturbed / LAST).read_bytes())
    script = f"""
import resource, signal, sys, torch
from zoo.train.callbacks import WriteAside
sys.dont_write_bytecode = True  # a cut .pyc would stay
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    WriteAside().save_checkpoint({{"state_dict": {{"w": torch.zeros(1_000_000)}}}}, {str(path)!r})
except OSError as error:
    print(error)
"""
    done = subprocess.run(
        [*preloaded, "-c", script], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert "the checkpoint before it is untouched" in done.stdout, done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]
    assert hub.read_pickle(path)["global_step"] == 20


def test_validate_builds_and_runs_one_batch_and_leaves_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["validate", "bilinear/smoke"]) == 0
    out = capsys.readouterr().out
    assert "(64, 1, 16, 16) torch.float32" in out
    assert "bilinear/smoke is valid" in out
    assert not list(tmp_path.iterdir())


def test_validate_takes_recipes_with_a_discriminator(capsys):
    sprites = ["--data.source", "samples/sprites", "--data.batch_size", "8", "--trainer.precision", "32"]
    phase = ["dcae/tiny_imagenet_f8_phase3", "--model.weights", "tiny_imagenet"]
    assert cli.main(["validate", *phase, *sprites]) == 0
    assert "learning rate 0.0002" in capsys.readouterr().out


def test_cp_gives_a_recipe_of_ones_own_and_never_overwrites(tmp_path, capsys):
    assert cli.main(["cp", "bilinear/smoke", str(tmp_path / "mine.yaml")]) == 0
    assert cli.main(["cp", "bilinear/smoke", str(tmp_path / "mine.yaml")]) == 2
    assert "exists; give another name" in capsys.readouterr().err


def test_a_model_handed_over_in_eval_mode_trains_in_train_mode():
    import lightning as L

    from zoo.data.synthetic import RandomImages
    from zoo.train.classify import LitClassifier

    lit = LitClassifier("bilinear_d64", arch_args={"image_size": 16, "num_classes": 4})
    lit.model.eval()
    seen = []
    lit.model.register_forward_hook(lambda module, *_: seen.append(module.training))
    trainer = L.Trainer(max_steps=1, limit_val_batches=0, logger=False, enable_checkpointing=False)
    trainer.fit(lit, RandomImages((1, 16, 16), 64, 64))
    assert seen == [True]


@pytest.mark.parametrize("recipe", ["bilinear/smoke", "rae/ditdh_smoke"])
@pytest.mark.parametrize(("algorithm", "function"), [("norm", "clip_grad_norm_"), ("value", "clip_grad_value_")])
def test_gradients_are_clipped_under_mixed_precision(recipe, algorithm, function, tmp_path, monkeypatch):
    clip, largest = getattr(torch.nn.utils, function), []

    def spy(parameters, value):
        clip(parameters, value)
        grads = torch.stack([p.grad.norm() if algorithm == "norm" else p.grad.abs().max() for p in parameters])
        largest.append((grads.norm() if algorithm == "norm" else grads.max()).item())

    monkeypatch.setattr(torch.nn.utils, function, spy)
    how = ["--trainer.gradient_clip_val", "0.01", "--trainer.gradient_clip_algorithm", algorithm]
    train(tmp_path, recipe, "--trainer.precision", "bf16-mixed", "--trainer.max_epochs", "1", *how)
    assert largest
    assert max(largest) <= 0.0101


def test_a_loss_that_is_not_finite_names_the_batch_and_the_last_checkpoint(tmp_path, capsys, monkeypatch):
    from zoo.data.batches import Batches
    from zoo.train.classify import LitClassifier

    step, seen = LitClassifier.training_step, []

    def broken(self, batch, batch_idx):
        loss = step(self, batch, batch_idx)
        return loss * float("nan") if self.current_epoch == 1 and batch_idx == 3 else loss

    iterate = Batches.__iter__

    def spy(self):
        for x, y, stamp in iterate(self):
            seen.append((self.epoch, self.shuffle, y))
            yield x, y, stamp

    monkeypatch.setattr(LitClassifier, "training_step", broken)
    monkeypatch.setattr(Batches, "__iter__", spy)
    with pytest.raises(ValueError, match="the loss is nan at step") as raised:
        train(tmp_path, "bilinear/finetune", "--trainer.max_epochs", "2", "--data.batch_size", "200")
    said = str(raised.value)
    assert "batch 3 of epoch 1, images [" in said
    assert (next(tmp_path.glob("*/*")) / "checkpoints").as_posix() in said
    named = json.loads("[" + said.partition("images [")[2].partition("]")[0] + "]")
    labels = [y for epoch, shuffle, y in seen if shuffle and epoch == 1][3]
    from zoo.data.images import ImageData

    data = ImageData("samples/mnist")
    data.setup()
    assert torch.equal(data.splits["train"][1][named], labels)


STUB = """
from lightning.pytorch.loggers import Logger


class Stub(Logger):
    name, version, figures, pictures = "stub", "0", set(), {}

    def log_metrics(self, metrics, step=None):
        self.figures.update(metrics)

    def log_hyperparams(self, params, *more, **others):
        pass

    def log_image(self, key, images, step=None, **more):
        self.pictures[key] = images[0].shape
"""


def test_another_logger_joins_those_that_are_there_and_pictures_go_where_they_are_taken(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tmp_path / "stub_logger.py").write_text(STUB)
    monkeypatch.syspath_prepend(tmp_path)
    run = train(tmp_path / "runs", "mae/smoke", "--trainer.max_epochs", "1", "--trainer.logger", "stub_logger.Stub")
    from stub_logger import Stub

    assert {"train/loss", "val/loss"} <= Stub.figures
    assert Stub.pictures["val/reconstruction"][0] == 3  # (C, H, W)
    assert losses(run)
    board = EventAccumulator(str(run / "logs" / "tensorboard"))
    board.Reload()
    assert "val/reconstruction" in board.Tags()["images"]


def test_an_epoch_shorter_than_the_interval_of_logging_is_logged_at_its_last_step(tmp_path):
    run = train(tmp_path, "bilinear/smoke", "--data.batch_size", "320", "--trainer.log_every_n_steps", "50")
    assert list(losses(run)) == [1, 3]  # two epochs of two steps


@pytest.mark.parametrize(
    ("name", "value", "flag"),
    [
        ("bilinear/mnist", "photos/", "--data.source=photos/"),
        ("bilinear/mnist", "files/list.jsonl", "--data.source=files/list.jsonl"),
        ("rae/in1k_ditdh_s", "latents", "--data.folder=latents"),
    ],
)
def test_data_is_short_for_what_the_recipes_datamodule_reads(name, value, flag):
    file = recipe.recipe_path(name)
    for given in (["--data", value], [f"--data={value}"]):
        assert keys.spelled_out(file, ["--seed_everything", "1", *given, "--data.seed", "3"]) == [
            *("--seed_everything", "1", flag, "--data.seed", "3")
        ]


def test_data_still_names_another_datamodule(capsys):
    file = recipe.recipe_path("bilinear/mnist")
    for value in ("zoo.RandomImages", "ImageData", "data.yaml", '{"class_path": "zoo.ImageData"}'):
        assert keys.spelled_out(file, ["--data", value]) == ["--data", value]
    assert cli.main(["fit", "bilinear/smoke", "--data", "photos/"]) == 2
    assert "its RandomImages makes its own samples and reads no --data photos/" in capsys.readouterr().err
    assert cli.main(["fit", "bilinear/mnist", "--data"]) == 2
    assert "--data without a value" in capsys.readouterr().err


def test_lightning_says_nothing_that_nobody_needs(tmp_path, preloaded):
    command = [*preloaded, "-m", "zoo.cli", "fit", "bilinear/smoke", "--trainer.max_epochs", "1", *QUIET]
    done = subprocess.run(
        [*command, "--runs", str(tmp_path)], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for line in (
        "Tip:",
        "weights_only",
        "Loading `train_dataloader`",
        "Seed set",
        "TPU",
        "logging interval",
        "workers",
    ):
        assert line not in done.stderr + done.stdout


@pytest.mark.parametrize(("asked", "kind"), [("true", parallel.JoinBatchNorms), ("false", type(None))])
def test_batch_norms_are_joined_on_a_cpu_where_the_trainer_is_told_to(asked, kind):
    overrides = ["--trainer.sync_batchnorm", asked, "--trainer.strategy", "ddp", "--trainer.devices", "2"]
    cli = parse(recipe.recipe_path("dcae/smoke"), overrides)
    assert isinstance(vars(cli.trainer.strategy)["_layer_sync"], kind)
    cli.model.trainer, cli.model.norm = cli.trainer, torch.nn.BatchNorm2d(4)
    assert isinstance(parallel.JoinBatchNorms().apply(cli.model).norm, parallel.JoinedBatchNorm)
