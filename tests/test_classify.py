"""LitClassifier beyond the recipes, and the nearest-neighbour metric."""

from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo import cli
from zoo.data.images import ImageData
from zoo.metrics.probes import knn_accuracy
from zoo.report import figures as report
from zoo.train.classify import LitClassifier


def trainer(**args):
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return L.Trainer(**quiet | args)


TINY_CLIPS = {"frames": 4, "image_size": 16, "patch_size": 8, "dim": 16, "depth": 1, "heads": 2, "num_classes": 3}
FOLDER = str(Path(zoo.__file__).parent / "checkpoints" / "bilinear_d256.mnist")


@pytest.mark.parametrize("name", ["bilinear_d256.mnist", FOLDER])
def test_from_weights_goes_on_where_the_checkpoint_stands(name):
    lit = LitClassifier.from_weights(name, lr=1e-4)
    (found,) = trainer().test(lit, ImageData("samples/mnist", channels=1, batch_size=500), verbose=False)
    assert found["test/acc"] == pytest.approx(0.973, abs=1e-6)


def test_another_number_of_classes_gets_a_new_head_and_keeps_the_rest():
    lit = LitClassifier("bilinear_d256", weights="mnist", num_classes=3)
    assert lit(torch.rand(2, 1, 28, 28)).shape == (2, 3)
    assert torch.equal(lit.model.embed.weight, zoo.load("bilinear_d256.mnist").embed.weight)
    assert LitClassifier("bilinear_d64", num_classes=5)(torch.rand(2, 1, 28, 28)).shape == (2, 5)


def test_a_probe_trains_the_head_and_nothing_else():
    lit = LitClassifier("bilinear_d256", weights="mnist", probe=True, lr=1e-2)
    before = {k: v.clone() for k, v in lit.model.state_dict().items()}
    trainer(max_epochs=1, limit_val_batches=0).fit(lit, ImageData("samples/mnist", channels=1, batch_size=250))
    moved = {k for k, v in lit.model.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {"head.weight"}


def test_the_schedule_warms_up_linearly_and_ends_at_min_lr():
    lit = LitClassifier("bilinear_d64", lr=1.0, min_lr=0.1, warmup_epochs=1)
    seen = []

    class Watch(L.Callback):
        def on_train_batch_start(self, trainer, module, batch, index):
            seen.append(trainer.optimizers[0].param_groups[0]["lr"])

    data = ImageData("samples/mnist", channels=1, batch_size=250)
    run = trainer(max_epochs=3, limit_val_batches=0, callbacks=[Watch()])
    run.fit(lit, data)
    assert seen[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert seen[4:] == sorted(seen[4:], reverse=True)
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1)


def test_more_classes_than_outputs_are_refused_before_the_first_step():
    lit = LitClassifier("bilinear_d64", num_classes=5)
    with pytest.raises(ValueError, match=r"the data has 10 classes, the model 5; set model.num_classes to 10"):
        trainer(max_epochs=1).fit(lit, ImageData("samples/mnist", channels=1))
    with pytest.raises(ValueError, match="labels span 0 to 9, this model has 5 classes"):
        report.part(lit.model, "evaluate")(lit.model, report.batches(lit.model, "samples/mnist", 500))


def test_fewer_classes_than_outputs_are_refused_before_the_first_step(tmp_path, capsys):
    lit = LitClassifier("bilinear_d64")  # ten outputs
    with pytest.raises(ValueError, match=r"the data has 4 classes, the model 10; set model.num_classes to 4"):
        trainer(max_epochs=1).fit(lit, zoo.RandomImages())
    assert cli.main(["validate", "bilinear/smoke", "--model.arch_args", "{image_size: 16, num_classes: 5}"]) == 2
    assert "the data has 4 classes, the model 5; set model.num_classes to 4" in capsys.readouterr().err
    prior = zoo.LitPrior("vqprior_tiny", "vqvae_conv_small.mnist", num_classes=7)
    with pytest.raises(ValueError, match="the data has 4 classes, the model 7"):
        trainer(max_epochs=1).fit(prior, zoo.RandomImages())


@pytest.fixture
def turned(tmp_path):
    """The classifier of digits with its outputs, and their names, in another order."""
    model = zoo.load("bilinear_d256.mnist")
    order = torch.arange(10).flip(0).roll(3)
    with torch.no_grad():
        model.head.weight.copy_(model.head.weight[order])
    model.zoo_config["classes"] = [str(int(i)) for i in order]
    return str(zoo.save(model, tmp_path / "turned"))


def test_classes_of_weights_are_matched_by_name(turned, tmp_path):
    lit = LitClassifier.from_weights(turned, lr=1e-6)
    run = trainer(max_epochs=1, limit_train_batches=1)
    data = ImageData("samples/mnist", channels=1, batch_size=500)
    run.fit(lit, data)
    assert float(run.callback_metrics["train/loss"]) < 0.5  # with labels in the wrong order it is 20
    (found,) = run.test(lit, data, verbose=False)
    assert found["test/acc"] == pytest.approx(0.973, abs=2e-3)
    run.save_checkpoint(tmp_path / "last.ckpt")
    assert zoo.load(str(tmp_path / "last.ckpt")).zoo_config["classes"] == ["2", "1", "0", *"9876543"]


def test_other_classes_than_the_weights_are_refused_or_get_a_new_head(turned):
    class Letters(ImageData):
        def setup(self, stage=None):
            super().setup(stage)
            self.classes = list("abcdefghij")

    data = Letters("samples/mnist", channels=1, batch_size=500)
    refused = r"a, b, c, d, e, f, … \(10\), are none of the model's, 2, 1, 0, .*; set model.reset_head for a new head"
    with pytest.raises(ValueError, match=refused):
        trainer(max_epochs=1).fit(LitClassifier.from_weights(turned), data)
    lit = LitClassifier.from_weights(turned, reset_head=True)
    assert not torch.equal(lit.model.head.weight, zoo.load(turned).head.weight)
    assert torch.equal(lit.model.embed.weight, zoo.load(turned).embed.weight)
    trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=1).fit(lit, data)
    assert lit.model.zoo_config["classes"] == data.classes


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (-1, "sample 3 of samples/mnist, val has the label -1, allowed 0 to 9; mend the data"),
        (10, "sample 3 of samples/mnist, val has the label 10, allowed 0 to 9"),
    ],
)
def test_labels_that_are_no_class_are_refused_before_the_first_step(wrong, message):
    class Wrong(ImageData):
        def setup(self, stage=None):
            super().setup(stage)
            self.splits["val"][1][3] = wrong

    with pytest.raises(ValueError, match=message):
        trainer(max_epochs=1).fit(LitClassifier("bilinear_d64"), Wrong("samples/mnist", channels=1))


def test_a_test_set_without_labels_validates_nothing_and_what_does_is_said(tmp_path):
    for k in range(8):
        place = tmp_path / ("test" if k > 5 else f"train/{'cat' if k % 2 else 'dog'}") / f"{k}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((28, 28), k, np.uint8)).save(place)
    lit, args = LitClassifier("bilinear_d64", num_classes=2), {"batch_size": 2, "num_workers": 0}
    with pytest.raises(ValueError, match=r"have no labels, .* hold out a share of the training with data.val_fraction"):
        trainer(max_epochs=1).fit(lit, ImageData(str(tmp_path), **args))
    trainer(max_epochs=1).fit(lit, ImageData(str(tmp_path), val_fraction=0.3, **args))


def test_knn_equals_counting_by_hand():
    generator = torch.Generator().manual_seed(0)
    bank, queries = (torch.randn(n, 6, generator=generator) for n in (50, 20))
    bank_labels, labels = (torch.randint(0, 3, (n,), generator=generator) for n in (50, 20))
    correct = 0
    for q, y in zip(queries, labels):
        cosine = torch.cosine_similarity(q[None], bank)
        votes = [0.0, 0.0, 0.0]
        for i in cosine.argsort(descending=True)[:7].tolist():
            votes[bank_labels[i]] += float((cosine[i] / 0.07).exp())
        correct += votes.index(max(votes)) == y
    assert knn_accuracy(bank, bank_labels, queries, labels, k=7) == pytest.approx(correct / 20)
    with pytest.raises(ValueError, match="k=51, allowed 1 to 50"):
        knn_accuracy(bank, bank_labels, queries, labels, k=51)


def test_knn_on_real_digits_finds_their_classes():
    data = ImageData("samples/mnist", channels=1)
    data.setup()
    (train, y), (test, z) = ((p.array.flatten(1).float(), t) for p, t in (data.splits["train"], data.splits["test"]))
    assert knn_accuracy(train, y, test, z, k=5) > 0.85


@pytest.mark.parametrize("count", [1, 4, 5])
def test_mixup_pairs_a_batch_and_leaves_the_last_of_an_odd_one_alone(count):
    module = LitClassifier("bilinear_d64", num_classes=3, lr=1e-3, mixup=0.8, label_smoothing=0.3)
    x, y = torch.rand(count, 1, 28, 28), torch.arange(count) % 3
    np.random.seed(0)
    mixed, target = module._mixed(x.clone(), y, module.mix)
    assert mixed.shape == x.shape
    even = count // 2 * 2
    if even:
        np.random.seed(0)
        pairs, targets = module.mix(x[:even, 0].clone(), y[:even])
        assert torch.equal(mixed[:even, 0], pairs)
        assert not torch.equal(pairs, x[:even, 0])
        assert torch.equal(target[:even], targets)
    assert torch.equal(mixed[even:], x[even:])
    smooth = 0.7 * torch.eye(3)[y[even:]] + 0.1
    torch.testing.assert_close(target[even:], smooth)
    assert module.training_step((x, y), 0).isfinite()


def test_predictions_are_probabilities_of_every_picture_in_order():
    lit = LitClassifier("bilinear_d256", weights="mnist")
    data = ImageData("samples/mnist", channels=1, batch_size=500)
    probabilities = torch.cat(trainer().predict(lit, data))
    pictures = torch.cat([data.on_after_batch_transfer(batch, 0)[0] for batch in data.in_order("all", 1000)])
    assert len(probabilities) == len(pictures) > 1000
    assert torch.allclose(probabilities, lit(pictures).softmax(-1), atol=1e-5)


def test_a_prediction_of_views_is_the_mean_of_theirs():
    lit = LitClassifier("videomae_vit_tiny_classifier", arch_args=TINY_CLIPS)
    clips = torch.rand(2, 3, *lit.model.takes.shape)  # (B, V, F, C, H, W)
    lit.eval()
    with torch.no_grad():
        mean = torch.stack([lit.predict_step(clips[:, v], 0) for v in range(3)]).mean(0)
        assert torch.allclose(lit.predict_step((clips, torch.zeros(2)), 0), mean, atol=1e-6)


@pytest.mark.parametrize("end", [{"max_epochs": 4}, {"max_epochs": -1, "max_steps": 16}])
def test_the_warm_up_is_as_many_epochs_whatever_ends_the_training(end):
    lit = LitClassifier("bilinear_d64", num_classes=4, lr=1.0, warmup_epochs=2)
    trainer = L.Trainer(**end, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
    rates = []
    lit.on_train_batch_start = lambda batch, i: rates.append(lit.optimizers().param_groups[0]["lr"])
    trainer.fit(lit, zoo.RandomImages((1, 28, 28), 32, 8))
    assert rates[:8] == pytest.approx([(i + 1) / 8 for i in range(8)])
    assert len(rates) == 16
