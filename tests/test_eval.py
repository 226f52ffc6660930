"""`zoo eval`: numbers with their intervals, the same figures of each model, any layout of a folder, what is written."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import sqrtm
from scipy.stats import binomtest
from torch import Tensor, nn

import zoo
from zoo import cli
from zoo.metrics import classification, wilson
from zoo.metrics.verdicts import Verdicts
from zoo.nn.frozen import random_weights
from zoo.nn.protocols import PIXELS, Input
from zoo.report import distances, figures, masked, mistakes, plots
from zoo.report.inputs import batches, opened
from zoo.report.probing import separation
from zoo.report.quality import Quality

WORDS = {"name", "data", "split", "classes", "notes"}  # all that is no number, list of numbers or mapping of them
REFERENCE = "frechet_mae_vit_tiny.tiny_imagenet"
TWO = {"dark": 40, "light": 200}
SMALL = {"image_size": 32, "patch_size": 8, "depth": 1}
DECODER = {"decoder_dim": 32, "decoder_depth": 1, "decoder_heads": 2}


@pytest.mark.parametrize(("correct", "count"), [(0, 10), (10, 10), (7, 10), (1, 1), (973, 1000), (1, 100_000)])
def test_intervals_are_those_of_wilson(correct, count):
    theirs = binomtest(correct, count).proportion_ci(0.95, "wilson")
    assert wilson(correct, count) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert 0 <= wilson(correct, count)[0] <= correct / count <= wilson(correct, count)[1] <= 1


@pytest.mark.parametrize(("correct", "count"), [(0, 0), (2, 1), (-1, 3)])
def test_a_share_of_nothing_has_no_interval(correct, count):
    with pytest.raises(ValueError, match="a share is of at least one"):
        wilson(correct, count)


def test_a_classifier_is_scored_class_by_class():
    labels = torch.tensor([0, 0, 0, 1, 6])
    logits = torch.zeros(5, 7)
    logits[:, 2:6], logits[:, 0] = 1.0, 0.5  # class 0 is the fifth
    logits[[0, 1], 0], logits[3, 1], logits[4, 0], logits[4, 6] = 9.0, 9.0, 9.0, -9.0
    net = nn.Identity()
    found = classification(net, [(logits[:2], labels[:2]), (logits[2:], labels[2:])], list("abcdefa"))
    assert found["accuracy"] == 3 / 5
    assert found["accuracy_interval"] == list(wilson(3, 5))
    assert found["top5"] == 4 / 5
    assert found["macro_accuracy"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert {name: (of["accuracy"], of["count"]) for name, of in found["per_class"].items()} == {
        "a (0)": (2 / 3, 3),  # two classes of that name
        "b": (1, 1),
        "a (6)": (0, 1),
    }
    assert found["loss"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item())
    few = Verdicts()
    few.update(logits[:3, :5].bfloat16(), labels[:3])
    assert few.figures().keys() == found.keys() - {"top5", "top5_interval"}
    assert list(few.figures()["per_class"]) == ["class_0"]
    with pytest.raises(ValueError, match="labels span 7 to 7, this model has 7 classes"):
        few.update(logits[:1], torch.tensor([7]))


def test_neighbours_and_probe_come_with_intervals_and_say_what_their_bank_was():
    labels = torch.arange(41) % 4
    features = nn.functional.one_hot(labels, 6).float()
    found = separation(None, features, labels)
    assert found["knn"] == found["linear"] == 1
    asked = 41 - found["bank"]
    assert found["knn_interval"] == found["linear_interval"] == list(wilson(asked, asked))
    assert found["notes"]["knn"].startswith(f"no training split: {asked} of the samples")
    one = separation(None, features, torch.zeros_like(labels))
    assert one["knn"] is None
    assert one["notes"]["knn"] == "left out: the test samples are all of one class"
    rounded = separation((features.bfloat16(), labels), features.bfloat16(), labels)
    assert rounded["knn"] == 1


# What is given back


class Few(nn.Module):
    """Some linear features of pictures, at random."""

    num_features = 5

    def __init__(self):
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.register_buffer("weight", torch.randn(5, 3 * 16 * 16, generator=draw) / 10)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T


def pictures(count, channels=3, seed=0):
    """Of 8 bits, in [0, 0.5]."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(128, (count, channels, 16, 16), generator=draw) / 255


def test_a_frechet_distance_is_that_of_two_gaussians():
    x, y, net = pictures(300), pictures(300, seed=1).square(), Few()
    distance = distances.Frechet(net)
    for part, truth in zip(y.split(70), x.split(70)):
        distance.update(part, truth)
    a, b = (net((images * 255).round() / 255).double().numpy() for images in (x, y))
    (m, n), (s, t) = (a.mean(0), b.mean(0)), (np.cov(a.T), np.cov(b.T))
    expected = ((m - n) ** 2).sum() + np.trace(s + t - 2 * sqrtm(s @ t).real)
    assert distance.compute() == pytest.approx(expected, rel=1e-5)


def test_equal_pictures_are_no_distance_apart_and_a_shift_is_its_own_square():
    x, net = pictures(100), Few()
    same, shifted = distances.Frechet(net), distances.Frechet(net)
    same.update(x, x)
    shifted.update(x + 51 / 255, x)
    assert 0 <= same.compute() < 1e-9
    step = net(torch.full((1, 3, 16, 16), 0.2)).square().sum().item()
    assert shifted.compute() == pytest.approx(step, rel=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_distances_wait_for_enough_pictures_and_for_their_networks(monkeypatch, tmp_path, channels):
    takes = Input("image", (channels, 16, 16), PIXELS)
    monkeypatch.setattr(distances, "reference", Few)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    x = pictures(6, channels)

    def found(count: int) -> dict:
        quality = Quality(takes)
        quality.update(x[:count].sqrt(), x[:count])
        return quality.compute()

    few = found(5)
    assert few["psnr"] > 0
    assert few["rfid"] is few["lpips"] is few[REFERENCE] is None
    assert few["notes"][REFERENCE] == "needs 6 pictures, these are 5"
    assert "weights-inception-2015-12-05-6726825d.pth" in few["notes"]["rfid"]
    assert "vgg16-397923af.pth" in few["notes"]["lpips"]
    assert found(6)[REFERENCE] > 0
    monkeypatch.setattr(distances, "inception_is_cached", lambda: True)
    monkeypatch.setattr(distances, "inception", Few)
    assert found(6)["notes"]["rfid"] == "needs 2,048 pictures, these are 6"
    monkeypatch.setattr(distances, "ENOUGH", 6)
    assert found(6)["rfid"] == found(6)[REFERENCE] > 0


def test_lpips_is_measured_where_its_network_is_at_hand(monkeypatch):
    monkeypatch.setattr(distances, "reference", Few)
    x = pictures(2, 1)
    with random_weights():
        quality = Quality(Input("image", (1, 16, 16), PIXELS))
        quality.update(x, x)
        assert quality.compute()["lpips"] == pytest.approx(0, abs=1e-7)
        quality.update(1 - x, x)
        assert quality.compute()["lpips"] > 0


def test_no_network_runs_over_too_few_pictures_where_their_number_is_known(monkeypatch):
    monkeypatch.setattr(distances, "Frechet", None)  # is not called
    quality = Quality(Input("image", (3, 16, 16), PIXELS), total=3)
    quality.update(pictures(3), pictures(3))
    assert quality.compute()["notes"][REFERENCE] == "needs 193 pictures, these are 3"


def test_hidden_patches_are_told_apart_from_whole_pictures():
    torch.manual_seed(0)
    net = zoo.create("mae_vit_tiny", **SMALL, **DECODER).eval()
    x = torch.rand(6, *net.takes.shape)
    found = masked.evaluate(net, [(x[:4], torch.full((4,), -1)), (x[4:], torch.full((2,), -1))], ())
    ratios, whole = [], []
    for i, part in enumerate((x[:4], x[4:])):
        order = masked.seeded_order(net, len(part), i)
        with torch.no_grad():
            error = (net.reconstruct(part, order).pasted - part).square().mean((1, 2, 3))
        whole.append(-10 * error.log10())
        ratios.append(-10 * (error / (1 - net.num_keep / net.num_patches)).log10())
    assert found["hidden_psnr"] == pytest.approx(torch.cat(ratios).mean().item(), abs=1e-4)
    assert found["psnr"] == pytest.approx(torch.cat(whole).mean().item(), abs=1e-4)
    assert found["psnr"] > found["hidden_psnr"] > found["hidden_psnr_visible_statistics"]
    assert found["knn"] is None
    assert found.keys() > {"ssim", "l1", "lpips", "rfid", REFERENCE}


# Sources


def picture(place, shade, draw):
    place.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(draw.normal(shade, 20, (32, 32, 3)), 0, 255).astype(np.uint8)).save(place)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    place, made = tmp_path_factory.mktemp("models"), {}
    torch.manual_seed(0)
    for name, net in {
        "classifier": zoo.create("mae_vit_tiny_classifier", **SMALL, num_classes=2),
        "masked": zoo.create("mae_vit_tiny", **SMALL, **DECODER),
        "encoder": zoo.create("mae_vit_tiny", **SMALL, decoder_depth=0),
        "codes": zoo.create("vqvae_conv_small", width=8),
    }.items():
        if name == "classifier":
            net.zoo_config["classes"] = list(TWO)
        made[name] = str(zoo.save(net, place / name))
    return made


def found(capsys, *argv):
    status = cli.main(["eval", *map(str, argv)])
    shown = capsys.readouterr()
    assert status == 0, shown.err
    return json.loads(shown.out.splitlines()[-1]), shown.out


LAYOUTS = {
    "{name}/{k}.png": ("all", 16, 8),
    "test/{name}/{k}.png": ("test", 16, 8),
    "{train_val}/{name}/{k}.png": ("val", 6, 10),
    "{name}{k}.png": ("all", 16, None),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_of_a_folder_is_evaluated(tmp_path, capsys, models, layout):
    split, count, bank = LAYOUTS[layout]
    draw = np.random.default_rng(0)
    for name, shade in TWO.items():
        for k in range(8):
            place = layout.format(name=name, k=k, train_val="train" if k < 5 else "val")
            picture(tmp_path / "mine" / place, shade, draw)
    for what, model in models.items():
        if what == "classifier" and bank is None:
            assert cli.main(["eval", model, str(tmp_path / "mine")]) == 2
            assert f"zoo predict {model} {tmp_path / 'mine'}" in capsys.readouterr().err
            continue
        got, _ = found(capsys, model, tmp_path / "mine")
        assert (got["split"], got["images"]) == (split, count)
        assert {key for key, value in got.items() if isinstance(value, str)} <= WORDS
        if what in ("masked", "encoder"):
            assert got.get("bank") == bank
            assert (got["knn"] is None) == (bank is None)
        assert ("accuracy" in got) == (what == "classifier")
        assert ("psnr" in got) == (what in ("masked", "codes"))


def test_a_run_is_evaluated_on_what_it_held_out(tmp_path, capsys):
    draw = np.random.default_rng(0)
    for k in range(40):
        picture(tmp_path / "digits" / str(k % 10) / f"{k}.png", 6 * (k % 10), draw)
    given = ["--data.source", str(tmp_path / "digits"), "--data.image_size", "28", "--data.channels", "1"]
    given += ["--data.val_fraction", "0.25", "--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"]
    assert cli.main(["fit", "bilinear/finetune", *given, "--run", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    got, said = found(capsys, tmp_path / "run")
    assert (got["split"], got["images"], got["data"]) == ("val", 10, str(tmp_path / "digits"))
    assert "0 of 10 pictures were trained on" in said
    whole, said = found(capsys, tmp_path / "run", tmp_path / "digits")
    assert (whole["split"], whole["images"], whole["trained_on"]) == ("all", 40, 30)
    assert cli.main(["eval", str(tmp_path / "run"), "--value-range=0,1"]) == 2
    assert "is read as its recipe says; leave it out" in capsys.readouterr().err


def test_a_run_that_was_trained_on_other_samples_than_it_is_measured_on_asks_for_some(tmp_path, monkeypatch):
    class Latents(zoo.RandomImages):
        def on_after_batch_transfer(self, batch: list, dataloader_idx: int) -> tuple:
            x, y = super().on_after_batch_transfer(batch, dataloader_idx)
            return (x, x), y

    for shape, kind in (((1, 16, 16), zoo.RandomImages), ((1, 28, 28), Latents)):
        monkeypatch.setattr(figures, "datamodule", lambda run, takes, kind=kind, shape=shape: kind(shape, 8))
        with pytest.raises(ValueError, match=r"trained on other samples than .* SOURCE$"):
            figures.evaluate("bilinear_d256.mnist")


@pytest.mark.parametrize("verb", ["eval", "show", "shard"])
def test_a_damaged_picture_is_left_out_where_that_is_asked_for(verb, tmp_path, capsys):
    for name in ("one/a.png", "one/b.png", "two/c.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (28, 28), 99).save(tmp_path / "in" / name)
    (tmp_path / "in" / "one" / "b.png").write_bytes(b"no picture")
    model = [] if verb == "shard" else ["bilinear_d256.mnist"]
    names = ["--class-map", "one=1,two=2"] if verb == "eval" else []
    argv = [verb, *model, str(tmp_path / "in"), *names, "-o", str(tmp_path / ("out" if verb != "show" else "out.png"))]
    if verb != "shard":  # which writes what it does not have to decode as it is
        assert cli.main(argv) == 2
        err = capsys.readouterr().err
        assert "b.png cannot be decoded" in err
        assert err.endswith(", or leave such pictures out with --bad skip\n")
    assert cli.main([*argv, "--bad", "skip"]) == 0
    shown = capsys.readouterr()
    assert "1 of 3 pictures of" in shown.err
    assert "b.png cannot be decoded" in shown.err
    if verb == "eval":
        assert json.loads(shown.out.splitlines()[-1])["images"] == 2
    if verb == "shard":
        (row,) = json.loads((tmp_path / "out" / "manifest.json").read_text())["splits"]["train"]
        assert row["samples"] == 2


def test_samples_and_labels_come_to_the_device_of_the_model(models):
    model = zoo.load("bilinear_d256.mnist")
    data = opened(model, "samples/mnist")
    x, y = next(batches(model, data, 4, device=torch.device("meta")))
    assert x.device == y.device == torch.device("meta")
    assert x.dtype == torch.float32


# What is written and printed


def test_a_classifier_is_written_down(tmp_path, capsys):
    out = tmp_path / "out"
    got, said = found(capsys, "bilinear_d256.mnist", "-o", out)
    assert sorted(path.name for path in out.iterdir()) == ["confusion.png", "figures.json", "worst.png"]
    assert json.loads((out / "figures.json").read_text()) == got
    assert Image.open(out / "worst.png").width > 600
    data = zoo.ImageData("samples/mnist")
    data.setup("test")
    _, worst = mistakes.judge(zoo.load("bilinear_d256.mnist"), batches(None, data, 300))
    shown = mistakes.sheet(worst, [*"0123456789"], "image", data.names("test"), 27)
    assert shown.axes[0].get_title() == f"{data.names('test')[worst[0].place]}\nis {worst[0].label}"
    assert data.splits["test"][1][worst[0].place] == worst[0].label
    assert shown.get_suptitle().startswith("The 24 of 27 mistakes it is surest of")
    low, high = got["accuracy_interval"]
    assert f"accuracy                   {got['accuracy']:.4f}  [{low:.4f}, {high:.4f}]" in said
    worst = min(got["per_class"], key=lambda name: got["per_class"][name]["accuracy"])
    assert said.splitlines()[said.splitlines().index("accuracy of each class") + 1].split()[0] == worst
    assert cli.main(["eval", "bilinear_d256.mnist", "-o", str(out)]) == 2
    assert f"{out} exists; give another -o, or --force" in capsys.readouterr().err
    assert cli.main(["eval", "bilinear_d256.mnist", "-o", str(out / "worst.png"), "--force"]) == 2
    assert "worst.png is not replaced: it is a file" in capsys.readouterr().err
    (out / "worst.png").unlink()
    found(capsys, "bilinear_d256.mnist", "-o", out, "--force")
    assert (out / "worst.png").is_file()


def test_what_cannot_be_measured_is_a_dash_and_its_reason(tmp_path, capsys, models):
    draw = np.random.default_rng(0)
    for k in range(3):
        picture(tmp_path / "mine" / f"{k}.png", 90, draw)
    got, said = found(capsys, models["codes"], tmp_path / "mine", "-o", tmp_path / "out")
    assert got[REFERENCE] is None
    assert f"{REFERENCE} –  (needs 193 pictures, these are 3)" in said
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["figures.json"]


def test_the_surest_mistakes_come_first():
    class Says(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :, 0, 0]

    x = torch.zeros(60, 3, 4, 4)
    x[:, 1, 0, 0] = torch.arange(60) / 10
    labels = torch.zeros(60, dtype=torch.long)
    verdicts, worst = mistakes.judge(Says(), list(zip(x.split(25), labels.split(25))))
    assert len(worst) == mistakes.MOST
    assert [one.sample[1, 0, 0].item() for one in worst] == pytest.approx([(59 - k) / 10 for k in range(24)])
    assert {(one.label, one.answer) for one in worst} == {(0, 1)}
    assert worst[0].score == pytest.approx(x[59, :, 0, 0].softmax(0)[1].item())
    assert verdicts.pairs.shape == (60, 2)


@pytest.mark.parametrize("count", [2, 10, 60])
def test_confusions_are_drawn_of_few_classes_and_of_many(count):
    pairs = torch.stack([torch.arange(count), torch.arange(count)], 1)
    pairs[0, 1] = 1
    drawn = mistakes.confusion(pairs, [f"kind {c}, a synonym" for c in range(count)])
    shares = drawn.axes[0].images[0].get_array()
    assert (shares[0, 0], shares[0, 1], shares[1, 1]) == (0, 1, 1)
    said = [text.get_text() for ax in drawn.axes for text in ax.texts]
    if count == 60:
        assert said == ["   1 of 1    kind 0 → kind 1"]
    else:
        assert said == ["1"] * count
        assert [label.get_text() for label in drawn.axes[0].get_yticklabels()] == [f"kind {c}" for c in range(count)]
    plots.plt.close(drawn)


def test_a_dollar_in_the_name_of_a_class_begins_no_formula(tmp_path):
    names = ["d$^$", "c$\\frac$x"]
    plots.write(mistakes.confusion(torch.tensor([[0, 1], [1, 1]]), names), tmp_path / "confusion.png")
    plots.write(mistakes.sheet([mistakes.Mistake(torch.rand(3, 8, 8), 0, 1, 0.5)], names, "image"), tmp_path / "x.png")


def test_half_precision_moves_accuracy_by_a_hundredth_at_most():
    whole, half = (figures.evaluate("bilinear_d256.mnist", device="cpu", precision=kind) for kind in ("32", "bf16"))
    assert half["loss"] != whole["loss"]  # it did run in it
    assert abs(half["accuracy"] - whole["accuracy"]) <= 0.01
