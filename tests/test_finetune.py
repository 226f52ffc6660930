"""`zoo fit finetune_folder`: a folder of pictures in, the better of a probe and fine-tuning out."""

import csv
import json
import re
import signal

import lightning as L
import numpy as np
import pytest
import torch
from conftest import losses
from PIL import Image
from torch.utils.data import DataLoader

import zoo
from zoo import cli, hub
from zoo.data.batches import fitting_batch
from zoo.data.images import ImageData
from zoo.report import history
from zoo.train import finetune
from zoo.train.callbacks import LAST
from zoo.train.finetune import LitFinetune, fitting_epochs

COLOURS = {"blue": (40, 60, 220), "green": (40, 200, 60), "red": (220, 40, 40)}
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]


def draw(folder, each=8, colours=COLOURS, noise=30):
    """Class folders of squares of nearly one colour, of several sizes."""
    rng = np.random.default_rng(0)
    for name, rgb in colours.items():
        (folder / name).mkdir(parents=True)
        for i in range(each):
            pixels = np.array(rgb) + rng.integers(-noise, noise + 1, (20 + i, 24, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("photos") / "photos")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A tiny autoencoder that nobody trained."""
    torch.manual_seed(0)
    decoder = {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}
    model = zoo.create("mae_vit_tiny", image_size=16, patch_size=8, dim=16, depth=1, heads=2, **decoder)
    return str(zoo.save(model, tmp_path_factory.mktemp("encoder") / "encoder"))


def fit(run, photos, encoder, *flags):
    argv = ["fit", "finetune_folder", "--data", str(photos), "--model.weights", encoder, "--run", str(run)]
    status = cli.main([*argv, "--trainer.max_epochs", "2", *QUIET, *flags])
    return status, json.loads((run / "metrics.json").read_text()) if status == 0 else {}


def column(run, name, beside=None):
    """What a run has logged of a figure, in order, where it has logged another one beside it."""
    files = sorted((run / "logs").glob("version_*/metrics.csv"))
    rows = [row for file in files for row in csv.DictReader(file.read_text().splitlines())]
    return [float(row[name]) for row in rows if row.get(name) and row.get(beside or name)]


@pytest.fixture(scope="module")
def done(tmp_path_factory, photos, encoder):
    """A run of two epochs."""
    run = tmp_path_factory.mktemp("done") / "run"
    status, measured = fit(run, photos, encoder)
    assert status == 0
    return run, measured


def test_the_classes_are_the_folders_and_the_figure_is_of_what_was_held_out(done, photos, capsys):
    run, measured = done
    model = zoo.load(str(run))
    assert model.zoo_config["classes"] == ["blue", "green", "red"]
    assert model.head.out_features == 3
    assert measured["recipe"] == "finetune_folder"
    assert measured["split"] == "val"
    assert {"val/acc", "val/loss", "val/probe_acc", "train/loss"} <= measured["metrics"].keys()
    assert not [name for name in measured["metrics"] if name.startswith("test/")]
    data = ImageData(str(photos), 16, 3, keep_test=True)
    data.setup("fit")
    assert [len(data.splits[split][1]) for split in ("train", "val")] == [21, 3]
    logits = torch.cat([model(data.on_after_batch_transfer(b, 0)[0]) for b in data.in_order("val", 8)])
    accuracy = (logits.argmax(1) == data.splits["val"][1]).float().mean().item()
    assert measured["metrics"]["val/acc"] == pytest.approx(accuracy)
    assert cli.main(["eval", str(run), str(photos)]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["accuracy"] >= 0


def test_every_epoch_is_logged_though_it_has_two_steps(done):
    run, _ = done
    assert len(column(run, "val/acc", beside="val/probe_acc")) == 2  # the kept one's figure comes after
    assert len(column(run, "train/loss")) == 2


def test_the_probe_is_kept_where_no_epoch_is_better(tmp_path, photos, encoder, capsys):
    status, measured = fit(tmp_path / "run", photos, encoder, "--model.lr", "1e-9")
    assert status == 0
    assert "kept: the probe: val/acc " in capsys.readouterr().out
    assert measured["metrics"]["val/acc"] == measured["metrics"]["val/probe_acc"]
    assert measured["metrics"]["kept_epochs"] == 0
    kept, start = zoo.load(str(tmp_path / "run")).state_dict(), hub.load(encoder).state_dict()
    assert torch.equal(kept["blocks.0.attn.qkv.weight"], start["blocks.0.attn.qkv.weight"])  # nothing was learned there
    assert kept["head.weight"].abs().max() > 0.01  # where a head begins at 2e-5


def test_the_last_of_the_best_epochs_is_kept_where_it_is_better_than_the_probe(
    tmp_path, photos, encoder, capsys, monkeypatch
):
    right = finetune.linear_head

    def wrong(*args):
        weight, bias = right(*args)
        return -weight, -bias

    monkeypatch.setattr(finetune, "linear_head", wrong)
    flags = ["--model.lr", "0.05", "--model.layer_decay", "1.0", "--trainer.max_epochs", "6"]
    status, measured = fit(tmp_path / "run", photos, encoder, *flags)
    assert status == 0
    accuracies = column(tmp_path / "run", "val/acc", beside="val/probe_acc")
    best = max(accuracies)
    epoch = max(i for i, accuracy in enumerate(accuracies) if accuracy == best)
    assert best > measured["metrics"]["val/probe_acc"]
    said = rf"^kept: fine-tuned for {epoch + 1} epochs: val/acc {best:.4f}; the probe had 0\.\d{{4}}$"
    assert re.search(said, capsys.readouterr().out, re.M)
    known = history.read(tmp_path / "run")
    assert (known["best_epoch"], known["best"]) == (epoch + 1, measured["metrics"]["val/acc"])
    assert measured["metrics"]["val/acc"] == pytest.approx(best)
    checkpoint = hub.read_pickle(tmp_path / "run" / LAST)
    kept = zoo.load(str(tmp_path / "run")).state_dict()
    last = all(torch.equal(kept[k.removeprefix("model.")], v) for k, v in checkpoint["state_dict"].items())
    assert last == (epoch == 5)


def test_an_interrupted_run_goes_on_exactly_and_keeps_its_probe(tmp_path, photos, encoder, monkeypatch):
    step, flags = LitFinetune.training_step, ["--data.batch_size", "4", "--trainer.log_every_n_steps", "1"]
    assert fit(tmp_path / "whole", photos, encoder, *flags)[0] == 0

    def interrupted(self, batch, index):
        if self.current_epoch == 1 and index == 2:
            signal.raise_signal(signal.SIGTERM)
        return step(self, batch, index)

    monkeypatch.setattr(LitFinetune, "training_step", interrupted)
    assert fit(tmp_path / "parts", photos, encoder, *flags)[0] == 128 + signal.SIGTERM
    assert zoo.load(str(tmp_path / "parts")).zoo_config["classes"]  # what was kept so far
    monkeypatch.setattr(LitFinetune, "training_step", step)
    monkeypatch.setattr(finetune, "linear_head", None)  # it was fitted before
    assert fit(tmp_path / "parts", photos, encoder, *flags)[0] == 0
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    whole, parts = (json.loads((tmp_path / n / "metrics.json").read_text())["metrics"] for n in ("whole", "parts"))
    assert parts == whole
    one, other = (zoo.load(str(tmp_path / name)).state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(tensor, other[key]) for key, tensor in one.items())


def test_a_run_does_not_go_on_with_other_classes(done, tmp_path, encoder, capsys):
    run, _ = done
    other = draw(tmp_path / "other", colours={"blue": (0, 0, 255), "green": (0, 255, 0), "yellow": (255, 255, 0)})
    assert cli.main(["fit", "--resume", str(run), "--data", str(other), "--trainer.max_epochs", "3", *QUIET]) == 2
    said = capsys.readouterr().err
    assert "the run began with 3 classes, blue, green, red; the data has 3 now, blue, green, yellow" in said


def test_a_test_split_is_never_chosen_by(tmp_path, encoder):
    draw(tmp_path / "photos" / "train", each=10)
    draw(tmp_path / "photos" / "test", each=4, noise=5)
    status, measured = fit(tmp_path / "run", tmp_path / "photos", encoder, "--trainer.max_epochs", "1")
    assert status == 0
    assert measured["split"] == "test"
    assert {"val/acc", "test/acc"} <= measured["metrics"].keys()
    data = ImageData(str(tmp_path / "photos"), 16, 3, keep_test=True)
    data.setup("fit")
    assert data.served["val"] == "val"
    assert [len(data.splits[split][1]) for split in ("train", "val")] == [27, 3]
    draw(tmp_path / "photos" / "val", each=2)
    own = ImageData(str(tmp_path / "photos"), 16, 3, keep_test=True)
    own.setup("fit")
    assert [len(own.splits[split][1]) for split in ("train", "val")] == [30, 6]


def test_a_test_split_does_not_stand_in_where_nothing_is_held_out(tmp_path):
    for split in ("train", "test"):
        draw(tmp_path / split, each=2)
    with pytest.raises(ValueError, match=r"its test split is not to choose by; leave data.val_fraction out"):
        ImageData(str(tmp_path), 16, 3, keep_test=True, val_fraction=0.0).setup("fit")


@pytest.mark.parametrize(("count", "batch"), [(20, 8), (100, 8), (252, 16), (500, 32), (1000, 64), (100_000, 64)])
def test_the_batch_fits_the_set(count, batch):
    assert fitting_batch(count) == batch


@pytest.mark.parametrize(("steps", "epochs"), [(2, 60), (15, 30), (78, 10), (0, 60), (float("inf"), 60)])
def test_the_epochs_fit_the_steps(steps, epochs):
    assert fitting_epochs(steps) == epochs


def test_a_trainer_without_an_end_gets_one_from_the_data(photos, encoder):
    class Look(L.Callback):
        def on_train_batch_start(self, trainer, module, batch, index):
            self.epochs, trainer.should_stop = trainer.max_epochs, True

    look = Look()
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(max_epochs=-1, callbacks=[look], accelerator="cpu", **quiet)
    data = ImageData(str(photos), 16, 3, batch_size=None, keep_test=True)
    trainer.fit(LitFinetune(weights=encoder), data)
    assert look.epochs == 60  # of two steps each


@pytest.mark.parametrize(("names", "said"), [(["blue"], "has one class, blue"), ([], "has no classes")])
def test_less_than_two_classes_are_refused_with_what_to_do(names, said, tmp_path, encoder, capsys):
    folder = draw(tmp_path / "photos", colours={name: COLOURS[name] for name in names} or {"": COLOURS["red"]})
    assert fit(tmp_path / "run", folder, encoder)[0] == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert f"{folder} {said}; to tell classes apart takes two: put the pictures in folders by class" in message
    assert not (tmp_path / "run").exists()


def test_another_number_of_classes_than_the_datas_is_refused(tmp_path, photos, encoder, capsys):
    assert fit(tmp_path / "run", photos, encoder, "--model.num_classes", "7")[0] == 2
    assert "has 3 classes, not model.num_classes=7; leave that out" in capsys.readouterr().err


def test_a_classifier_of_other_classes_is_a_start_too_and_pictures_come_as_it_takes_them(tmp_path, photos):
    status, _ = fit(tmp_path / "run", photos, "bilinear_d256.mnist", "--trainer.max_epochs", "1")  # it has no layers
    assert status == 0
    model = zoo.load(str(tmp_path / "run"))
    assert model.takes.shape == (1, 28, 28)
    assert model.zoo_config["classes"] == ["blue", "green", "red"]


def test_weights_from_which_no_classifier_starts_are_refused_with_those_that_do(capsys):
    with pytest.raises(ValueError, match=r"holds vqvae_conv_small, .* these do: .*mae_vit_tiny.tiny_imagenet"):
        LitFinetune(weights="vqvae_conv_small.mnist")
    with pytest.raises(ValueError, match="weights=None and no arch"):
        LitFinetune(weights=None)


def test_a_checkpoint_makes_the_module_again(done):
    run, _ = done
    again = LitFinetune.load_from_checkpoint(run / LAST, weights_only=True)
    assert again.model.zoo_config["classes"] == ["blue", "green", "red"]
    assert again.kept is not None


def test_loaders_without_classes_are_trained_on_without_a_probe(encoder):
    lit = LitFinetune(weights=encoder, num_classes=3)
    batches = DataLoader([(torch.rand(3, 16, 16), i % 3) for i in range(6)], 3)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    L.Trainer(max_epochs=2, accelerator="cpu", **quiet).fit(lit, batches, batches)
    assert lit.probe_acc is None
    assert lit.kept.epoch in (0, 1)


def test_a_folder_in_a_recipes_place_names_the_command(photos, done, capsys):
    assert cli.main(["fit", str(photos)]) == 2
    assert f"zoo fit finetune_folder --data {photos}" in capsys.readouterr().err
    assert cli.main(["fit", str(done[0])]) == 2
    assert f"zoo fit --resume {done[0]}" in capsys.readouterr().err


def test_it_is_listed_first_copied_described_and_validated(photos, encoder, tmp_path, capsys):
    assert cli.main(["ls", "--recipes"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[0] == "finetune_folder"
    assert cli.main(["cp", "finetune_folder", str(tmp_path / "mine.yaml")]) == 0
    assert cli.main(["fit", str(tmp_path / "mine.yaml"), "--data", str(photos), "--help"]) == 0
    described = capsys.readouterr().out
    assert str(photos)[:20] in described
    assert "probe_decay" in described
    assert cli.main(["validate", "finetune_folder", "--data", str(photos), "--model.weights", encoder]) == 0
    assert "finetune_folder is valid" in capsys.readouterr().out


def test_without_data_it_says_which_flag_gives_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["fit", "finetune_folder", *QUIET]) == 2
    assert "--data" in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_a_class_of_one_picture_each_is_refused_and_no_epochs_are_none(tmp_path, encoder, photos, capsys):
    few = draw(tmp_path / "few", each=1)
    status, _ = fit(tmp_path / "run", few, encoder)
    assert status == 2
    err = capsys.readouterr().err
    assert f"{few}: no class of the pictures that are held out is among those that are trained on; add pictures" in err
    assert not (tmp_path / "run").exists()
    status, measured = fit(tmp_path / "none", photos, encoder, "--trainer.max_epochs", "0")
    assert status == 0
    assert measured["samples"] == {"train": 21, "val": 3}
