"""What is measured and drawn of a model that nobody wrote a report for: by its kind of input and by what it can do."""

import json
from pathlib import Path
from typing import NamedTuple

import lightning as L
import numpy as np
import pytest
import torch
from conftest import small
from matplotlib import pyplot as plt
from PIL import Image
from torch import Tensor, nn

import zoo
from zoo import cli, hub, registry
from zoo.data.images import ImageData
from zoo.data.latents import measure, write
from zoo.nn.protocols import PIXELS, Classifies, FillsIn, HasFeatures, Input, Reconstructs, Samples
from zoo.report import defaults, figures, plots
from zoo.report.inputs import SAMPLES, batches, sample
from zoo.train import estimate

CLASSES = ["a", "b", "c"]


class Output(NamedTuple):
    loss: Tensor


class Linear(nn.Module):
    """An autoencoder of anything: through `keep` numbers, on a random basis."""

    def __init__(self, takes: Input, keep: int):
        super().__init__()
        self.takes, self.kind = takes, takes.kind
        size = torch.Size(takes.shape).numel()
        basis, _ = torch.linalg.qr(torch.randn(size, keep, generator=torch.Generator().manual_seed(0)))
        self.basis = nn.Parameter(basis)  # (values, keep)

    def forward(self, x: Tensor) -> Output:
        return Output((self.reconstruct(x) - x).square().mean())

    def forward_features(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.basis  # (B, keep)

    def encode(self, x: Tensor) -> Tensor:
        return self.forward_features(x)

    def decode(self, z: Tensor) -> Tensor:
        x = (z @ self.basis.mT).unflatten(1, self.takes.shape)
        return x.clamp(*self.takes.range) if self.takes.range else x

    def reconstruct(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))


class Rounding(nn.Module):
    """Codes: every pixel in `levels` steps."""

    kind, levels = "image", 5

    def __init__(self):
        super().__init__()
        self.takes = Input(self.kind, (1, 12, 12), PIXELS)

    def forward(self, x: Tensor) -> Output:
        return Output((self.reconstruct(x) - x).square().mean())

    def encode(self, x: Tensor) -> Tensor:
        return (x[:, 0] * (self.levels - 1)).round().long()  # (B, 12, 12)

    def decode(self, z: Tensor) -> Tensor:
        return z[:, None].float() / (self.levels - 1)

    def reconstruct(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))

    def count_codes(self) -> int:
        return self.levels


class Sums(nn.Module):
    """Features alone, and a loss."""

    kind = "activation"

    def __init__(self):
        super().__init__()
        self.takes = Input(self.kind, (6,))

    def forward(self, x: Tensor) -> Output:
        return Output(x.square().mean())

    def forward_features(self, x: Tensor) -> Tensor:
        return x.cumsum(1)  # (B, 6)


class Argmax(nn.Module):
    """Classifies a vector by its largest number."""

    kind = "latent"

    def __init__(self):
        super().__init__()
        self.takes, self.head = Input(self.kind, (3,)), nn.Linear(3, 3, bias=False)
        nn.init.eye_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)

    def reset_head(self, num_classes: int) -> None:
        self.head = nn.Linear(3, num_classes)


class Noise(nn.Module):
    """Draws vectors."""

    kind, num_classes = "latent", 0

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.takes = Input(self.kind, shape)

    def forward(self, x: Tensor) -> Output:
        return Output(x.mean())

    def sample(self, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return torch.randn(len(labels), *self.takes.shape, generator=generator)

    def draws(self) -> Input:
        return self.takes


def data(shape: tuple[int, ...], count: int = 32, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (count,), generator=draw)
    return [(torch.rand(count, *shape, generator=draw), y)]


def test_the_fakes_can_what_they_should():
    assert isinstance(Linear(Input("image", (1, 4, 4)), 2), Reconstructs)
    assert isinstance(Argmax(), Classifies)
    assert isinstance(Noise((2,)), Samples)
    assert isinstance(Sums(), HasFeatures)
    assert not isinstance(Sums(), Reconstructs | FillsIn | Classifies | Samples)


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 16, 16)])
@pytest.mark.parametrize("keep", [7, 200])
def test_an_autoencoder_of_images_whose_latent_is_a_vector(shape, keep):
    net = Linear(Input("image", shape, PIXELS), keep)
    found = defaults.evaluate(net, data(shape))
    assert {"psnr", "ssim", "l1"} < found.keys()
    assert found["lpips"] is None
    assert found["notes"].keys() == {"lpips", "rfid", "frechet_mae_vit_tiny.tiny_imagenet"}
    assert found["floats"] == found["channels"] == keep
    assert 1 <= found["rank"] <= keep
    assert found["images"] == 32
    x, _ = data(shape)[0]
    error = (net.reconstruct(x) - x).square().mean((1, 2, 3))
    each = -10 * error.log10()  # (B,)
    assert found["psnr"] == pytest.approx(each.mean().item(), abs=1e-4)
    spread = 1.96 * each.std().item() / len(each) ** 0.5
    assert found["psnr_interval"] == pytest.approx([each.mean().item() + s * spread for s in (-1, 1)], abs=1e-3)
    assert found["l1_interval"][0] < found["l1"] < found["l1_interval"][1]
    assert "psnr_interval" not in defaults.evaluate(net, [(x[:1], torch.zeros(1))])  # one sample has no deviation
    drawn = defaults.explain(net, x[:3], ["x", "y", "z"], [])
    assert len(drawn.axes) == 12
    assert drawn.axes[9].get_ylabel() == f"{keep} numbers"
    assert len(drawn.axes[9].patches) == (keep if keep <= plots.BARS else 0)
    assert len(drawn.axes[9].images) == (0 if keep <= plots.BARS else 1)
    plt.close(drawn)


def test_more_numbers_lose_less():
    found = [defaults.evaluate(Linear(Input("activation", (12,)), k), data((12,))) for k in (2, 6, 12)]
    assert found[0]["explained"] < found[1]["explained"] < found[2]["explained"] == pytest.approx(1, abs=1e-5)
    assert found[2]["mse"] == pytest.approx(0, abs=1e-10)
    assert found[0]["activations"] == 32


def test_explained_is_0_for_the_mean():
    net = Linear(Input("activation", (4,)), 2)
    ((x, y),) = data((4,))
    net.decode = lambda z: x.mean(0).expand(len(z), -1)
    assert defaults.evaluate(net, [(x, y)])["explained"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("size", [10, 100])
def test_activations_are_rows_of_bars_or_mosaics_on_one_scale(size):
    net = Linear(Input("activation", (size,)), 4)
    x, _ = data((size,))[0]
    drawn = defaults.explain(net, x[:2], ["x", "y"], [])
    assert [ax.get_ylabel() for ax in drawn.axes[::2]] == ["activation", "reconstruction", "|difference|", "4 numbers"]
    if size <= plots.BARS:
        assert len({ax.get_ylim() for ax in drawn.axes[:6]}) == 1
        assert [bar.get_height() for bar in drawn.axes[0].patches] == pytest.approx(x[0].tolist())
    else:
        assert len({ax.images[0].get_clim() for ax in drawn.axes[:6]}) == 1
        assert drawn.axes[0].images[0].get_array().shape == (10, 10)
    plt.close(drawn)


def test_maps_of_latents_are_mosaics_of_their_channels():
    net = Linear(Input("latent", (5, 4, 4)), 6)
    x, _ = data((5, 4, 4))[0]
    assert {"mse", "explained", "floats"} < defaults.evaluate(net, data((5, 4, 4))).keys()
    drawn = defaults.explain(net, x[:2], ["x", "y"], [])
    assert drawn.axes[0].images[0].get_array().shape == (11, 21, 3)
    plt.close(drawn)


def test_clips_are_strips_and_move():
    net = Linear(Input("clip", (4, 3, 16, 16), PIXELS), 50)
    x, _ = data((4, 3, 16, 16), 3)[0]
    assert {"psnr", "ssim", "l1", "clips"} < defaults.evaluate(net, [(x, torch.zeros(3))]).keys()
    drawn = defaults.explain(net, x[:1], ["x"], [])
    assert drawn.axes[0].images[0].get_array().shape == (16, 64, 3)
    plt.close(drawn)
    film = defaults.film(net, x)
    assert film.shape == (4, 3, 2 * (16 + 128), 3 * 128)  # a row's name over it
    assert torch.equal(film[:, :, 16:144:8, ::8], torch.cat(list(x), 3))


def test_codes_are_counted_and_coloured():
    found = defaults.evaluate(Rounding(), data((1, 12, 12)))
    assert found["codes"] == 144
    assert found["used"] == 1
    assert defaults.evaluate(Rounding(), [(x / 2, y) for x, y in data((1, 12, 12))])["used"] == 3 / 5
    assert found["psnr"] > 20
    drawn = defaults.explain(Rounding(), data((1, 12, 12))[0][0][:2], ["x", "y"], [])
    assert drawn.axes[6].get_ylabel() == "codes, 5 colours"
    plt.close(drawn)


def test_features_are_scored_where_labels_exist():
    y = torch.arange(30) % 3
    x = torch.nn.functional.one_hot(y, 6).float() + 0.01 * torch.randn(30, 6)
    found = defaults.evaluate(Sums(), [(x[:15], y[:15])], [(x[15:], y[15:])])
    assert found["knn"] == found["linear"] == 1
    assert found["loss"] == pytest.approx(x[:15].square().mean().item())
    assert found["bank"] == found["activations"] == 15
    without = defaults.evaluate(Sums(), [(x, torch.full((30,), -1))])
    assert without.keys() == {"loss", "activations"}
    plt.close(defaults.explain(Sums(), x[:2], ["x", "y"], []))


def test_a_classifier_of_vectors_is_scored_and_explained():
    ((x, _),) = data((3,))
    assert defaults.evaluate(Argmax(), [(x, x.argmax(1))])["accuracy"] == 1
    drawn = defaults.explain(Argmax(), x[:2], ["x", "y"], CLASSES)
    assert drawn.axes[1].get_yticklabels()[0].get_text() == CLASSES[x[0].argmax()]
    plt.close(drawn)


@pytest.mark.parametrize("shape", [(5,), (80,), (3, 4, 4)])
def test_drawn_latents_are_a_grid(shape):
    drawn = defaults.figure(Noise(shape), [], None)
    assert len(drawn.axes) == defaults.DRAWN
    plt.close(drawn)
    assert defaults.evaluate(Noise(shape), data(shape)).keys() == {"loss", "latents"}


def test_what_fills_in_shows_what_it_saw():
    net = small("mae_vit_tiny").eval()
    x = torch.rand(2, *net.takes.shape)
    drawn = defaults.explain(net, x, ["x", "y"], [])
    assert [ax.get_ylabel() for ax in drawn.axes[::2]] == ["image", "seen", "predicted", "pasted"]
    plt.close(drawn)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: defaults.film(Sums(), torch.rand(1, 6)), "Sums makes no clips"),
        (lambda: defaults.figure(Sums(), [], None), "no activations that ship with the package fit this model"),
        (lambda: sample(Sums()), r"nothing that ships .* fits activations of \(6,\); give class:"),
        (lambda: next(batches(Sums(), "folder", 2)), r"no reader of activations \(6,\) from folder"),
        (lambda: next(batches(Sums(), "class:torch.nn.Linear", 2)), "class:torch.nn.Linear is no DataModule"),
        (lambda: next(batches(Sums(), "class:nowhere.Data", 2)), "class:nowhere.Data is no DataModule"),
    ],
)
def test_what_is_not_there_is_said_in_a_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_what_ships_fits_its_kind_and_shape():
    for (kind, shape), source in SAMPLES.items():
        net = Linear(Input(kind, shape, PIXELS), 2)
        assert sample(net) == source
        assert next(batches(net, source, 2))[0].shape == (2, *shape)


# A family of vectors without report.py or convert.py, through the doors


class Vectors(L.LightningDataModule):
    """Activations of six numbers, and no labels."""

    def setup(self, stage: str | None = None) -> None:
        self.x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))

    def train_dataloader(self) -> list[Tensor]:
        return [self.x[:20]]

    def test_dataloader(self) -> list[Tensor]:
        return [self.x[20:30], self.x[30:]]


MODEL = '''
from torch import Tensor, nn
from typing import NamedTuple
from zoo.nn.protocols import Input

class Output(NamedTuple):
    loss: Tensor

class Narrow(nn.Module):
    """Activations through fewer numbers."""

    kind = "activation"

    def __init__(self, size: int = 6, keep: int = 2):
        super().__init__()
        self.takes = Input(self.kind, (size,))
        self.down, self.up = nn.Linear(size, keep), nn.Linear(keep, size)

    def forward(self, x: Tensor) -> Output:
        return Output((self.reconstruct(x) - x).square().mean())

    def encode(self, x: Tensor) -> Tensor:
        return self.down(x)  # (B, keep)

    def decode(self, z: Tensor) -> Tensor:
        return self.up(z)  # (B, size)

    def reconstruct(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))

def narrow_tiny(**args) -> Narrow:
    return Narrow(**args)
'''
FACTS = 'TITLE = "Narrow"\nPAPER = "Nobody 2026"\nARCHS = {"narrow_tiny": "6 activations → 2, 32 parameters"}\n'


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint folder of an arch whose family another distribution brings: model.py and facts.py, nothing else."""
    root = tmp_path_factory.mktemp("plugin")
    package, info = root / "zoo_narrow", root / "zoo_narrow-1.dist-info"
    package.mkdir()
    info.mkdir()
    (package / "__init__.py").write_text("")
    (package / "model.py").write_text(MODEL)
    (package / "facts.py").write_text(FACTS)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: zoo-narrow\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{registry.GROUP}]\nnarrow = zoo_narrow\n")
    caches = (registry.families, registry._known, registry.archs, registry.records, registry.public)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root))
        for cached in caches:
            cached.cache_clear()
        torch.manual_seed(0)
        yield str(zoo.save(zoo.create("narrow_tiny"), root / "checkpoint"))
    for cached in caches:
        cached.cache_clear()


SOURCE = "class:test_defaults.Vectors"


def test_a_family_of_vectors_is_saved_with_its_kind(checkpoint):
    config = hub.read_config(Path(checkpoint))
    assert config["input"] == {"kind": "activation", "shape": [6], "layout": "B D", "range": None}
    card = (Path(checkpoint) / hub.CARD).read_text()
    assert "pipeline_tag: feature-extraction" in card
    assert "activations = torch.randn(1, 6)  # yours: (B, 6), activations\nlatents = model.encode(activations)" in card
    assert hub.golden_output(zoo.load(checkpoint)).shape == (1,)
    assert hub.verify(checkpoint)["strict"] == "ok"


def test_a_family_of_vectors_is_measured(checkpoint, capsys):
    assert cli.main(["eval", checkpoint, SOURCE]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["activations"] == 20
    assert found["floats"] == 2
    assert found["explained"] < 1
    assert cli.main(["eval", checkpoint]) == 2
    assert "nothing that ships with the package fits activations of (6,)" in capsys.readouterr().err


def test_a_family_of_vectors_is_drawn(checkpoint, capsys, tmp_path):
    np.save(tmp_path / "x.npy", np.linspace(-1, 1, 6))
    assert cli.main(["show", checkpoint, str(tmp_path / "x.npy"), "-o", str(tmp_path / "x.png")]) == 0
    assert Image.open(tmp_path / "x.png").height > 400
    np.save(tmp_path / "long.npy", np.zeros(7))
    for file, message in (
        ("long.npy", "holds (7,), this model takes activations of (6,)"),
        ("none.npy", "no file"),
    ):
        assert cli.main(["show", checkpoint, str(tmp_path / file), "-o", str(tmp_path / "y.png")]) == 2
        assert message in capsys.readouterr().err
    assert cli.main(["show", checkpoint, "-o", str(tmp_path / "y.png")]) == 2
    assert "no activations that ship" in capsys.readouterr().err
    assert cli.main(["show", checkpoint, "-o", str(tmp_path / "y.gif")]) == 2
    assert "draws no moving picture" in capsys.readouterr().err
    assert cli.main(["sample", checkpoint, "-o", str(tmp_path / "y.png")]) == 2
    said = capsys.readouterr().err
    assert "draws nothing; these archs do: " in said
    assert "vqprior_tiny" in said
    assert "mae_vit_tiny" not in said


def test_a_family_without_converters_says_so(checkpoint, tmp_path):
    with pytest.raises(ValueError, match="no foreign dialect of narrow_tiny is known"):
        zoo.convert({}, "narrow_tiny")
    with pytest.raises(ValueError, match="timm has no twin of narrow_tiny; allowed here: safetensors, onnx"):
        zoo.export(checkpoint, tmp_path, to="timm")


@pytest.mark.long
def test_vectors_go_through_onnx(checkpoint, tmp_path):
    import onnxruntime

    zoo.export(checkpoint, tmp_path, to="onnx")
    x = torch.randn(5, 6)
    (out,) = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(None, {"activation": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(out), zoo.load(checkpoint).encode(x).detach(), rtol=1e-4, atol=1e-5)


def test_a_familys_own_report_comes_first():
    assert figures.part(zoo.create("bilinear_d64"), "evaluate").__module__ == "zoo.families.bilinear.report"
    assert figures.part(zoo.create("bilinear_d64"), "film") is defaults.film
    assert figures.part(zoo.create("dcae_tiny_f4c4"), "evaluate") is defaults.evaluate


class Known(Linear):
    """An autoencoder of digits through a vector whose mean and deviation are known."""

    def __init__(self, keep: int):
        super().__init__(Input("image", (1, 28, 28), PIXELS), keep)
        self.latent_shape, self.measured = (keep,), False
        self.register_buffer("latent_mean", torch.zeros(keep))
        self.register_buffer("latent_std", torch.ones(keep))

    def normalise(self, z: Tensor) -> Tensor:
        return (z - self.latent_mean) / self.latent_std

    def denormalise(self, z: Tensor) -> Tensor:
        return z * self.latent_std + self.latent_mean


def test_latents_that_are_vectors_are_written_read_and_measured(tmp_path):
    net, images = Known(5).eval(), ImageData("samples/mnist", 28, 1)
    net.zoo_config = {"arch": "known", "args": {}}
    with pytest.raises(ValueError, match="never measured"):
        write(net, images, tmp_path)
    measure(net, images)
    net.measured = True
    folder = str(write(net, images, tmp_path / "latents"))
    latents = Linear(Input("latent", (5,)), 5)
    z = torch.cat([z for z, _ in batches(latents, folder, 64, "train")])
    assert z.shape[1:] == (5,)
    torch.testing.assert_close(z.mean(0), torch.zeros(5), atol=0.01, rtol=0)
    torch.testing.assert_close(z.std(0), torch.ones(5), atol=0.01, rtol=0)
    found = defaults.evaluate(latents, batches(latents, folder, 64))
    assert found["explained"] == pytest.approx(1, abs=1e-4)
    with pytest.raises(ValueError, match=r"holds latents \(5,\), this model takes \(4,\)"):
        next(batches(Linear(Input("latent", (4,)), 2), folder, 64))


@pytest.mark.parametrize("takes", [Input("activation", (6,)), Input("image", (1, 28, 28), PIXELS)])
def test_the_estimate_takes_a_vector_as_it_is_and_an_image_at_the_recipes_size(takes):
    class Lit:
        model = Linear(takes, 2)

    class Plan:
        data, source = {"batch_size": 3, "image_size": 12}, L.LightningDataModule

    x, y = estimate._batch(Lit(), Plan())
    assert x.shape == ((3, 6) if takes.kind == "activation" else (3, 1, 12, 12))
    assert y.shape == (3,)
