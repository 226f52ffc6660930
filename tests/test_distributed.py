"""Two processes are one process with the joined batch, for every family; and `zoo fit` on two processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from pkgutil import resolve_name

import pytest
import torch
import two_processes
import yaml
from conftest import losses, read
from PIL import Image

import zoo
from zoo import cli, hub, recipe, registry
from zoo.data import sharding
from zoo.data.batches import Batches
from zoo.data.images import ImageData
from zoo.data.synthetic import RandomImages
from zoo.train import parallel
from zoo.train.callbacks import LAST

ROOT = Path(__file__).parents[1]
ENV = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
TWO = ["--trainer.devices", "2", "--trainer.accelerator", "cpu", "--trainer.log_every_n_steps", "1"]
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
PAIRS = [(name, "ddp") for name in two_processes.CASES] + [(name, "fsdp") for name in two_processes.SHARDED]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What each of two processes has in the end, {(family, strategy): {name: tensor}}."""
    file = tmp_path_factory.mktemp("two") / "found"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*torchrun, str(ROOT / "tests" / "two_processes.py"), str(file)], env=ENV, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return [torch.load(f"{file}.{rank}", weights_only=True) for rank in (0, 1)]


@pytest.fixture(scope="module")
def alone():
    """The same of one process."""
    found = {}
    return lambda name: found[name] if name in found else found.setdefault(name, two_processes.train(name))


def test_every_family_and_every_training_that_a_recipe_names_is_among_them():
    cases = [case()[0] for case in two_processes.CASES.values()]
    assert {registry.family_of(lit.model.zoo_config["arch"]) for lit in cases} == {*registry.families()}
    named = {resolve_name(read(name)["model"]["class_path"]) for name in recipe.list_recipes()}
    assert named - {type(lit) for lit in cases} == {zoo.LitFinetune}  # a LitClassifier that probes first


@pytest.mark.parametrize(("name", "strategy"), PAIRS)
def test_two_processes_equal_one_with_the_joined_batch(name, strategy, two, alone):
    one = alone(name)
    assert any(k.startswith("figure test/") for k in one)
    assert len(one["loss of each step"]) >= 6
    assert one["images of each step"].shape[1] == two_processes.JOINED
    for rank, found in enumerate(two):
        mine = found[name, strategy]
        if strategy == "ddp" or rank == 0:  # a whole state is gathered on the first
            assert mine.keys() == one.keys()
        for key, tensor in mine.items():
            scale = one[key].double().abs().max().item() if one[key].numel() else 0
            assert torch.allclose(tensor.double(), one[key].double(), rtol=0, atol=1e-9 * (1 + scale)), (rank, key)


def test_evaluation_sees_each_image_once_and_no_process_is_short_of_a_batch():
    data = RandomImages((1, 4, 4), 40, 4)
    pixels, labels = data.test_dataloader().pixels, data.test_dataloader().labels
    for count in (3, 7, 8, 9, 13, 40):
        for world in (2, 3):
            for size in (1, 4, 64):
                loaders = [Batches(pixels, labels[:count], size, False, 0, r, world) for r in range(world)]
                assert len({len(loader) for loader in loaders}) == 1
                seen = [[y.tolist() for _, y, _ in loader] for loader in loaders]
                assert all(batch for batches in seen for batch in batches)
                held = sorted(i for loader in loaders for k in range(len(loader)) for i in loader.indices(k))
                assert held == list(range(count))
    with pytest.raises(ValueError, match="2 images for 3 processes, each needs one; take fewer processes"):
        Batches(pixels, labels[:2], 4, False, 0, 0, 3)


def test_training_batches_of_two_processes_are_the_joined_batches():
    data = ImageData("samples/mnist", batch_size=10, seed=3)
    data.setup()
    pixels, labels = data.splits["train"]
    halves = [Batches(pixels, labels, 10, True, 3, rank, 2) for rank in (0, 1)]
    for k, (x, y, _) in zip(range(20), Batches(pixels, labels, 20, True, 3)):
        assert torch.equal(y[0::2], labels[halves[0].indices(k)])
        assert torch.equal(x[1::2], pixels.array[halves[1].indices(k)])


def test_alone_nothing_is_asked_of_others():
    x = torch.rand(3, 4)
    assert torch.equal(parallel.rows(x), x)
    assert torch.equal(parallel.mean(x), x)
    assert parallel.gather("a") == ["a"]
    norm = parallel.JoinBatchNorms().apply(torch.nn.Sequential(torch.nn.BatchNorm2d(4)))
    twin = torch.nn.BatchNorm2d(4)
    images = torch.rand(5, 4, 3, 3)
    assert torch.equal(norm(images), twin(images))
    assert torch.equal(norm[0].running_var, twin.running_var)


# zoo fit


def start(argv, **how):
    command = [sys.executable, "-m", "zoo.cli", "fit", *argv]
    return subprocess.Popen(command, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **how)


def fit(*argv):
    process = start(argv)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    return out


@pytest.fixture(scope="module")
def long_run(tmp_path_factory):
    """A whole run by two processes, whose masks are drawn by each."""
    runs = tmp_path_factory.mktemp("runs")
    argv = ["mae/smoke", *TWO, *QUIET, "--data.num_images", "5120", "--trainer.max_epochs", "2"]
    return argv, fit(*argv, "--runs", str(runs)), runs


def test_one_directory_for_all_processes(long_run):
    _, out, runs = long_run
    (run,) = runs.glob("*/*")
    assert out.count(f"run {run}") == 1
    assert json.loads((run / "environment.json").read_text())["processes"] == 2
    assert yaml.safe_load((run / "recipe.yaml").read_text())["trainer"]["devices"] == "2"
    assert len(list((run / "logs").glob("version_*"))) == 1
    assert len(losses(run)) == 2 * 5120 // 2 // 64
    ranks = hub.read_pickle(run / LAST)["random"]
    assert not torch.equal(ranks[0]["torch"], ranks[1]["torch"])
    assert zoo.load(str(run)).zoo_config["arch"] == "mae_vit_tiny"


def test_a_signal_to_any_process_stops_all_and_resume_is_exact(long_run, tmp_path):
    argv, _, runs = long_run
    process = start([*argv, "--runs", str(tmp_path)])
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 200
    # In the second epoch, when a checkpoint is there: both processes train.
    while not list(tmp_path.glob(f"*/*/{LAST}")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    second = next(int(p) for p in children.read_text().split() if "fit" in Path(f"/proc/{p}/cmdline").read_text())
    os.kill(second, signal.SIGTERM)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, out
    (run,) = tmp_path.glob("*/*")
    assert out.count(f"go on with: zoo fit --resume {run}") == 1
    assert hub.read_pickle(run / LAST)["global_step"] % 40  # in mid-epoch
    fit("--resume", str(run))
    (whole,) = runs.glob("*/*")
    assert losses(run) == losses(whole)
    model, twin = zoo.load(str(run)).state_dict(), zoo.load(str(whole)).state_dict()
    assert all(torch.equal(tensor, twin[key]) for key, tensor in model.items())


def test_a_damaged_sample_ends_all_processes_in_a_line_each(tmp_path):
    for split in ("train", "val", "test"):
        for i in range(16):
            file = tmp_path / "images" / split / str(i % 2) / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (28, 28), i).save(file)
    list(sharding.write(str(tmp_path / "images"), tmp_path / "shards", samples=4))
    shard = tmp_path / "shards" / "train-00001.tar"
    shard.write_bytes(shard.read_bytes().replace(b"\x89PNG", b"\x89XXX", 1))
    data = ["--data.source", f"shards:{tmp_path / 'shards'}", "--data.batch_size", "4", "--data.lanes", "2"]
    data += ["--model.num_classes", "2"]
    process = start(["bilinear/mnist", *TWO, *QUIET, *data, "--runs", str(tmp_path / "runs")])
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 2, out
    assert "Traceback" not in out
    said = sorted(line for line in out.splitlines() if line.startswith("zoo fit: "))
    assert str(shard) in said[0]
    assert said[1:] == ["zoo fit: another process of this run has ended; what it says tells why"]


def test_what_both_processes_refuse_is_a_line_each_and_no_directory(tmp_path):
    process = start(["bilinear/smoke", *TWO, *QUIET, "--model.num_classes", "3", "--runs", str(tmp_path / "runs")])
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 2, out
    assert "Traceback" not in out
    said = [line for line in out.splitlines() if line.startswith("zoo fit: ")]
    assert said == ["zoo fit: the data has 4 classes, the model 3; set model.num_classes to 4"] * 2
    assert not list(tmp_path.iterdir())


def test_another_number_of_processes_is_refused(long_run, capsys):
    _, _, runs = long_run
    (run,) = runs.glob("*/*")
    argv = ["fit", "--resume", str(run), "--trainer.devices", "1", "--trainer.max_epochs", "3"]
    assert cli.main(argv) == 2
    assert "trained by 2 processes and cannot go on exactly with 1; give it as many" in capsys.readouterr().err
