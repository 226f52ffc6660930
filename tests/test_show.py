"""`zoo show MODEL SOURCE…`: files, folders and runs, with a scale, a truth and a caption that can be read."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

import zoo
from zoo import cli, hub
from zoo.data.images import ImageData
from zoo.nn.protocols import Input
from zoo.report import figures, inputs, plots, showing
from zoo.report.runs import datamodule
from zoo.report.showing import evenly


def picture(place: Path, seed: int, size: tuple[int, int] = (24, 32)) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)).save(place)
    return place


@pytest.fixture
def photos(tmp_path):
    """20 pictures of two classes, without splits."""
    for k in range(20):
        picture(tmp_path / "my photos" / ("ça" if k % 2 else "dog") / f"{k:02}.png", k)
    return tmp_path / "my photos"


def run_of(place: Path, source: object, reader: str = "zoo.ImageData", **args: object) -> Path:
    """What `zoo fit` leaves of a run, as far as its data is asked for."""
    (place / "checkpoints").mkdir(parents=True)
    (place / "checkpoints" / "last.ckpt").touch()
    recipe = {"data": {"class_path": reader, "init_args": {"source": str(source), **args}}}
    (place / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return place


def test_a_runs_data_is_made_again_as_it_was(tmp_path, photos):
    how = {"val_fraction": 0.3, "seed": 5, "image_size": 8, "channels": 1}
    held = ImageData(str(photos), **how).encoded("val")
    place = run_of(tmp_path / "runs" / "one", photos, **how, stratify=True)
    for given in (place, place / "checkpoints" / "last.ckpt", place.parent):
        data = datamodule(given)
        assert isinstance(data, ImageData)
        assert data.encoded("val") == held
    data.setup("fit")
    assert data.input_shape == (1, 8, 8)
    assert datamodule(photos) is None


def test_a_keyword_newer_than_the_run_means_what_the_run_did(tmp_path, photos):
    how = {"val_fraction": 0.3, "seed": 5}
    data = datamodule(run_of(tmp_path / "old", photos, **how))
    assert data.hparams.stratify is False
    assert data.encoded("val") == ImageData(str(photos), **how, stratify=False).encoded("val")


def test_what_a_runs_recipe_leaves_open_is_its_models(tmp_path, photos):
    picture(photos / "dog" / "wide.png", 99, (30, 50))
    place = run_of(tmp_path / "run", photos, image_size=None, channels=None, val_fraction=0.3)
    data = datamodule(place, Input("image", (1, 8, 8)))
    data.setup("validate")
    assert data.input_shape == (1, 8, 8)


@pytest.mark.parametrize(
    ("reader", "args", "said"),
    [
        ("zoo.ImageDatum", {}, "ImageDatum"),
        ("nowhere.Data", {}, "nowhere"),
        ("zoo.ImageData", {"sizes": 3}, "sizes"),
        ("argparse.Namespace", {}, "no DataModule"),
    ],
)
def test_a_runs_data_that_cannot_be_made_is_said_with_its_recipe(tmp_path, photos, reader, args, said):
    place = run_of(tmp_path / "run", photos, reader, **args)
    with pytest.raises(ValueError, match=f"recipe.yaml: .*{said}.*; name a source"):
        datamodule(place)


def texts(figure: Figure) -> str:
    """All that can be read in a figure, in one line."""
    return " ".join(" ".join(text.get_text().split()) for text in figure.findobj(Text) if text.get_visible())


@pytest.fixture
def drawn(monkeypatch):
    """The figures that `zoo show` writes."""
    figures = []
    write = plots.write

    def keep(figure: Figure, path: Path) -> Path:
        figures.append(figure)
        return write(figure, path)

    monkeypatch.setattr(plots, "write", keep)
    return figures


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory) -> str:
    """A small vector-quantised autoencoder, its weights random."""
    place = tmp_path_factory.mktemp("models") / "vq"
    hub.save(zoo.create("vqvae_conv_small", image_size=16, channels=3, width=32), place)
    return str(place)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> str:
    """One that always says ça: of two classes, then a third that the data has not."""
    place = tmp_path_factory.mktemp("models") / "classifier"
    model = zoo.create("mae_vit_tiny_classifier", image_size=32, num_classes=3, depth=1)
    model.zoo_config["classes"] = ["bird", "ça", "dog"]
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.tensor([0.0, 1.0, 0.5]))
    hub.save(model, place)
    return str(place)


def show(*argv: object) -> int:
    return cli.main(["show", *map(str, argv)])


def test_a_folder_is_shown_evenly_and_says_so(tmp_path, photos, autoencoder, drawn, capsys):
    assert show(autoencoder, photos, "-o", tmp_path / "x.png") == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "x.png")
    said = texts(drawn[0])
    assert f"8 of 20 pictures of {photos}, evenly over them" in said
    shown = [ax.get_title() for ax in drawn[0].axes if ax.get_title()]
    assert shown == ["00.png", "06.png", "10.png", "16.png", "03.png", "09.png", "13.png", "19.png"]


def test_a_difference_has_a_scale_and_the_caption_says_what_is_seen(tmp_path, photos, autoencoder, drawn):
    assert show(autoencoder, photos / "dog" / "00.png", "-o", tmp_path / "x.png") == 0
    figure = drawn[0]
    image, recon, difference, codes = figure.axes
    model = zoo.load(autoencoder)
    x = model.preprocess(photos / "dog" / "00.png")
    most = (model.reconstruct(x) - x).abs().mean(1).max().item()
    assert difference.get_xlabel() == f"white = {most:.2g}"
    assert "dB" in recon.get_xlabel()
    assert "colours" in codes.get_ylabel()
    assert image.images[0].get_array().shape == (16, 16, 3)
    assert np.allclose(image.images[0].get_array(), x[0].permute(1, 2, 0))  # the bits that eval sees
    said = texts(figure)
    for word in ("what the model is given", "PSNR in dB, higher is closer", "each colour is a code"):
        assert word in said
    assert "evenly" not in said


def test_the_share_of_a_picture_that_a_checkpoint_states_is_what_is_shown_and_evaluated(tmp_path, photos, drawn):
    model = zoo.create("vqvae_conv_small", image_size=16, channels=3, width=32)
    whole = model.preprocess(photos / "dog" / "00.png")
    model.zoo_config["crop_pct"] = 0.5
    hub.save(model, tmp_path / "model")
    assert zoo.load(str(tmp_path / "model")).zoo_config["crop_pct"] == 0.5
    x = model.preprocess(photos / "dog" / "00.png")
    assert not torch.equal(x, whole)
    for source in (photos / "dog" / "00.png", photos):
        assert show(tmp_path / "model", source, "-o", tmp_path / "x.png", "--force") == 0
        assert np.allclose(drawn[-1].axes[0].images[0].get_array(), x[0].permute(1, 2, 0))
    assert torch.equal(
        next(inputs.batches(model, inputs.opened(model, str(photos / "dog" / "00.png")), 1, "all"))[0], x
    )


def test_the_channels_of_latents_have_a_scale(tmp_path, photos, drawn):
    hub.save(zoo.create("dcae_tiny_f8c4", image_size=16), tmp_path / "model")
    assert show(tmp_path / "model", photos / "dog" / "00.png", "-o", tmp_path / "x.png") == 0
    model = zoo.load(str(tmp_path / "model"))
    z = model.encode(model.preprocess(photos / "dog" / "00.png"))
    assert drawn[0].axes[3].get_xlabel() == f"{z.min().item():.2g} to {z.max().item():.2g}".replace("-", "−")
    assert "each small picture is a channel" in texts(drawn[0])


def test_the_true_class_is_marked(tmp_path, photos, classifier, drawn):
    picture(photos / "ñandú" / "99.png", 99)
    assert show(classifier, photos, "-o", tmp_path / "x.png") == 0
    titles = {left.get_title(): right for left, right in zip(drawn[0].axes[::2], drawn[0].axes[1::2])}
    right = next(ax for ax in titles.values() if ax.get_title() == "ça ✓")
    assert to_hex(right.patches[0].get_facecolor()) == plots.RIGHT
    wrong = next(ax for ax in titles.values() if ax.get_title() == "✗ it is dog")
    classes = [label.get_text() for label in wrong.get_yticklabels()]
    colours = dict(zip(classes, (to_hex(bar.get_facecolor()) for bar in wrong.patches)))
    assert colours["dog"] == plots.RIGHT
    assert colours["ça"] == plots.UP
    assert titles["99.png"].get_title() == "ñandú, which the model does not know"
    assert "The true class is green" in texts(drawn[0])


def test_files_alone_have_no_true_class(tmp_path, photos, classifier, drawn):
    assert show(classifier, photos / "dog" / "00.png", photos / "ça" / "01.png", "-o", tmp_path / "x.png") == 0
    assert [ax.get_title() for ax in drawn[0].axes] == ["00.png", "taken for ça", "01.png", "taken for ça"]
    assert "green" not in texts(drawn[0])


def test_a_true_class_beyond_the_five_likeliest_is_drawn():
    scores = torch.tensor([[0.3, 0.2, 0.2, 0.1, 0.1, 0.1, 0.0]])
    figure = plots.scores([torch.zeros(3, 4, 4)], ["x"], scores, list("abcdefg"), ["g"])
    assert [label.get_text() for label in figure.axes[1].get_yticklabels()] == ["a", "b", "c", "d", "g"]
    plt.close(figure)


def test_a_run_shows_its_own_validation_pictures(tmp_path, photos, classifier, drawn, monkeypatch):
    place = run_of(tmp_path / "run", photos, val_fraction=0.5, image_size=32, channels=3, stratify=True, num_workers=0)
    model = zoo.load(classifier)
    monkeypatch.setattr(hub, "load", lambda name: model)
    assert show(place, "-o", tmp_path / "x.png") == 0
    held = [path.name for path in datamodule(place).encoded("val")]
    shown = [ax.get_title() for ax in drawn[0].axes[::2]]
    assert len(shown) == 8
    assert shown == [name for name in held if name in shown]
    assert "8 of the run's 10 validation samples" in texts(drawn[0])
    assert "it is dog" in texts(drawn[0])


def test_a_run_of_other_pictures_than_the_model_takes_is_refused(tmp_path, photos, classifier, monkeypatch, capsys):
    place = run_of(tmp_path / "run", photos, val_fraction=0.5, image_size=24, channels=3, num_workers=0)
    monkeypatch.setattr(hub, "load", lambda name, load=hub.load: load(classifier))
    assert show(place, "-o", tmp_path / "x.png") == 2
    assert "(3, 24, 24), this model takes (3, 32, 32)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["with space.png", "写真 ñ.png", "$x^2$ and $.png", "line\nbreak.png", "n" * 90 + ".png"]
)
def test_any_name_can_be_drawn(tmp_path, autoencoder, drawn, name):
    assert show(autoencoder, picture(tmp_path / "in" / name, 0), "-o", tmp_path / "x.png") == 0
    title = drawn[0].axes[0].get_title()
    assert "\n" not in title
    assert title.endswith(".png")
    assert len(title.replace("\\", "")) <= 24


def test_no_text_lies_on_another_or_outside(tmp_path, photos, autoencoder, classifier, drawn):
    for k in range(20):
        (photos / ("ça" if k % 2 else "dog") / f"{k:02}.png").rename(photos / "dog" / f"{'long ' * 9}{k}.png")
    assert show(autoencoder, photos, "-o", tmp_path / "a.png") == 0
    assert show(classifier, photos, "-o", tmp_path / "b.png") == 0
    for figure in drawn:
        figure.draw_without_rendering()
        shown = [t for t in figure.findobj(Text) if t.get_text() and t.get_visible()]
        boxes = [t.get_window_extent() for t in shown]
        boxes = [box for box in boxes if box.width and box.height]
        for i, one in enumerate(boxes):
            for other in boxes[:i]:
                across = min(one.x1, other.x1) - max(one.x0, other.x0)
                down = min(one.y1, other.y1) - max(one.y0, other.y0)
                assert across < 2 or down < 2, (one, other)


def test_what_holds_many_is_shown_in_part_whatever_it_is(tmp_path, photos, autoencoder, drawn):
    (tmp_path / "list.csv").write_text(
        "path,label\n" + "".join(f"my photos/dog/{k:02}.png,dog\n" for k in range(0, 20, 2)), encoding="utf-8"
    )
    assert show(autoencoder, tmp_path / "list.csv", photos / "dog" / "00.png", "-o", tmp_path / "x.png") == 0
    assert f"8 of 10 pictures of {tmp_path / 'list.csv'}" in texts(drawn[0])
    assert len([ax for ax in drawn[0].axes if ax.get_title()]) == 9
    assert show(autoencoder, "samples/sprites", "-o", tmp_path / "y.png") == 0
    assert "pictures of samples/sprites (test)" in texts(drawn[1])


def test_many_files_are_thinned_out_and_that_is_said(tmp_path, autoencoder, drawn, monkeypatch):
    monkeypatch.setattr(showing, "FILES", 4)
    files = [picture(tmp_path / "in" / f"{k:02}.png", k) for k in range(7)]
    assert show(autoencoder, *files, "-o", tmp_path / "x.png") == 0
    assert "4 of 7 files, evenly over them" in texts(drawn[0])
    assert len([ax for ax in drawn[0].axes if ax.get_title()]) == 4


def test_an_output_that_exists_is_refused_and_forced(tmp_path, photos, autoencoder, capsys):
    file = tmp_path / "x.png"
    file.write_text("mine")
    assert show(autoencoder, photos / "dog" / "00.png", "-o", file) == 2
    assert "x.png exists; give another -o, or --force" in capsys.readouterr().err
    assert file.read_text() == "mine"
    assert (
        show(autoencoder, photos / "dog" / "00.png", "-o", file, "--force", "--device", "cpu", "--precision", "bf16")
        == 0
    )
    assert Image.open(file).width > 100


@pytest.mark.parametrize(("source", "said"), [("gone.png", "no file gone.png"), ("gone/", "no folder gone/")])
def test_a_source_that_is_not_there_is_named(tmp_path, autoencoder, source, said, capsys):
    assert show(autoencoder, source, "-o", tmp_path / "x.png") == 2
    assert said in capsys.readouterr().err


def test_a_damaged_picture_in_a_folder_is_named(tmp_path, photos, autoencoder, capsys):
    (photos / "dog" / "00.png").write_bytes(b"no picture")
    assert show(autoencoder, photos, "-o", tmp_path / "x.png") == 2
    assert "00.png cannot be decoded" in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()


def test_a_report_of_another_distribution_needs_no_truths(tmp_path, photos, classifier, monkeypatch):
    seen = []

    def explain(model, x, names, classes):
        seen.append(names)
        return plt.figure()

    monkeypatch.setattr(figures, "part", lambda model, what: explain)
    assert show(classifier, photos, "-o", tmp_path / "x.png") == 0
    assert len(seen[0]) == 8


@pytest.mark.parametrize(("count", "most"), [(1, 8), (8, 8), (9, 8), (350, 8), (0, 8)])
def test_what_is_chosen_lies_evenly(count, most):
    places = evenly(count, most)
    assert len(places) == len(set(places)) == min(count, most)
    assert not count or (places[0], places[-1]) == (0, count - 1)
    assert max(np.diff(places), default=0) - min(np.diff(places), default=0) <= 1


def test_pictures_of_one_name_are_told_apart_by_their_folders(tmp_path):
    for name in ("cat/1.png", "dog/1.png"):
        picture(tmp_path / "photos" / name, 1)
    model = zoo.create("bilinear_d64", channels=3, image_size=8)
    assert showing.given(model, [str(tmp_path / "photos")]).names == ["cat/1.png", "dog/1.png"]
    assert showing.given(model, [str(tmp_path / "photos" / "cat")]).names == ["1.png"]
