"""One picture, one set of bits: ImageData, `zoo.transform`, `model.preprocess`, `zoo.collate` and `zoo show` agree."""

import copy
import io
import pickle
import sys
import threading
from contextvars import copy_context
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import classes
from PIL import Image
from torch.utils.data import DataLoader, Dataset

import zoo
from zoo import hub
from zoo.data.images import ImageData
from zoo.nn.protocols import Input, Network
from zoo.report import inputs

CLASSIFIER = "mae_vit_tiny_classifier"


def noise(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(shape[0]).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def written(form: str = "PNG", pixels: np.ndarray | None = None, mode: str | None = None, **options: object) -> bytes:
    image = Image.fromarray(noise(45, 70, 3) if pixels is None else pixels)
    (image if mode is None else image.convert(mode)).save(out := io.BytesIO(), form, **options)
    return out.getvalue()


def tagged(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


PICTURES = {
    "wide.png": written(),
    "tall.jpg": written("JPEG", noise(90, 41, 3)),
    "small.png": written(pixels=noise(9, 13, 3)),
    "exact.png": written(pixels=noise(32, 32, 3)),
    "square.webp": written("WEBP", noise(64, 64, 3), lossless=True),
    "turned.jpg": written("JPEG", noise(40, 61, 3), exif=tagged(6)),
    "mirrored.tif": written("TIFF", exif=tagged(7)),
    "clear.png": written(pixels=noise(50, 40, 4)),
    "palette.png": written(mode="P", transparency=3),
    "sixteen.png": written(pixels=noise(37, 52, dtype=np.uint16)),
    "grey.png": written(pixels=noise(37, 52)),
    "cmyk.jpg": written("JPEG", mode="CMYK"),
    "one bit.gif": written("GIF", mode="1"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    for split in ("train", "test"):
        (root / split / "a").mkdir(parents=True)
        for name, data in PICTURES.items():
            (root / split / "a" / name).write_bytes(data)
    return root


@pytest.fixture(scope="module", params=[(1, 1.0), (3, 1.0), (3, 0.8)], ids=str)
def seen(request, folder):
    """Channels, crop_pct, and what ImageData makes of each file."""
    channels, crop_pct = request.param
    data = ImageData(str(folder), 32, channels, crop_pct=crop_pct, num_workers=0)
    data.setup("test")
    x = torch.cat([data.on_after_batch_transfer(batch, 0)[0] for batch in data.in_order("test", 5)])
    return channels, crop_pct, dict(zip(sorted(PICTURES), x, strict=True))


def model_of(channels: int, **args: object) -> Network:
    return zoo.create("bilinear_d64", channels=channels, image_size=32, **args).eval()


def test_every_way_in_gives_the_bits_of_imagedata(folder, seen):
    channels, crop_pct, expected = seen
    model = model_of(channels)
    read = zoo.transform(model, crop_pct=crop_pct)
    model.zoo_config["crop_pct"] = crop_pct
    paths = [folder / "test" / "a" / name for name in expected]
    for name, path in zip(expected, paths, strict=True):
        ways = [path, str(path), PICTURES[name], Image.open(path)]
        if name not in ("sixteen.png", "turned.jpg", "mirrored.tif", "clear.png", "palette.png", "cmyk.jpg"):
            array = np.array(Image.open(path).convert("L" if name == "grey.png" else "RGB"))
            ways += [array, torch.from_numpy(array if array.ndim == 3 else array[..., None]).permute(2, 0, 1)]
        if name in ("clear.png", "sixteen.png"):
            ways += [np.asarray(Image.open(path))]
        for way in ways:
            assert torch.equal(read(way), expected[name]), (name, type(way))
    x = torch.stack(list(expected.values()))
    assert torch.equal(model.preprocess(paths), x)
    assert torch.equal(model.preprocess(paths[0]), x[:1])
    assert torch.equal(zoo.preprocess(model, tuple(PICTURES[name] for name in expected)), x)
    some, labels = zoo.collate(model)([(Image.open(paths[0]), 2), (paths[1], np.int64(1)), (paths[2], None)])
    assert torch.equal(some, x[:3])
    assert labels.dtype == torch.int64
    assert labels.tolist() == [2, 1, -1]
    if crop_pct == 1:
        assert torch.equal(torch.stack([inputs.read_image(path, model.takes) for path in paths]), x)


def test_an_imagefolder_that_opens_pictures_itself_gives_the_same(folder, seen):
    from torchvision.datasets import ImageFolder

    channels, crop_pct, expected = seen
    if channels == 3:
        given = ImageFolder(folder / "test", zoo.transform(model_of(3), crop_pct=crop_pct))
        same = {
            Path(path).name: torch.equal(given[i][0], expected[Path(path).name])
            for i, (path, _) in enumerate(given.samples)
        }
        # Its loader drops what is transparent and clips 16 bits before any transform sees them.
        assert {name for name, equal in same.items() if not equal} <= {"clear.png", "palette.png", "sixteen.png"}
        assert same["turned.jpg"]


class Pictures(Dataset):
    """PIL images as a Dataset of one's own gives them."""

    def __init__(self, root: Path, form: str):
        self.paths, self.form = sorted((root / "test" / "a").iterdir()), form

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> object:
        image = Image.open(self.paths[i])
        return {"pair": (image, i), "alone": image, "mapping": {"image": image, "label": i, "id": str(i)}}[self.form]


@pytest.mark.parametrize("form", ["pair", "alone", "mapping"])
def test_a_dataloader_of_pil_images_gives_batches_that_train(folder, form):
    model = model_of(3, num_classes=len(PICTURES))
    loader = DataLoader(Pictures(folder, form), 8, collate_fn=zoo.collate(model))
    x, y = (torch.cat(parts) for parts in zip(*loader, strict=True))
    assert torch.equal(x, model.preprocess(sorted((folder / "test" / "a").iterdir())))
    assert y.tolist() == ([-1] * len(y) if form == "alone" else list(range(len(y))))
    if form != "alone":
        torch.nn.functional.cross_entropy(model(x), y).backward()


def test_spawned_workers_take_it(folder):
    collate = zoo.collate(model_of(3))
    given = [(path, i) for i, path in enumerate(sorted((folder / "test" / "a").iterdir()))]
    args = {"num_workers": 1, "multiprocessing_context": "spawn", "collate_fn": collate}
    (x, y), *_ = DataLoader(given, len(given), **args)
    assert torch.equal(x, collate(given)[0])
    assert y.tolist() == list(range(len(given)))


def test_it_is_a_value_that_pickles_and_compares():
    read = zoo.transform(model_of(3), crop_pct=0.875)
    assert pickle.loads(pickle.dumps(read)) == read == copy.deepcopy(read)
    assert read != zoo.transform(model_of(3))
    assert "crop_pct=0.875" in repr(read)


@pytest.mark.parametrize("kind", classes(), ids=lambda kind: kind.__name__)
def test_every_class_has_the_method(kind):
    assert callable(kind.preprocess)


def test_the_method_lives_through_whatever_is_done_with_a_model(tmp_path):
    model, picture = model_of(3), noise(45, 70, 3)
    keys, expected = set(model.state_dict()), model.preprocess(picture)
    torch.save(model, tmp_path / "model.pt")
    saved = torch.load(tmp_path / "model.pt", weights_only=False)
    hub.save(model, tmp_path / "folder")
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), saved, zoo.load(str(tmp_path / "folder"))):
        assert torch.equal(other.preprocess(picture), expected)
        assert set(other.state_dict()) == keys
    compiled = torch.compile(model, backend="eager")
    assert torch.equal(compiled.preprocess(picture), expected)
    assert torch.equal(compiled(expected), model(expected))


def test_a_model_of_another_distribution_has_it_too(monkeypatch):
    class Plain(torch.nn.Module):
        kind = "image"

        def __init__(self, dim: int = 3):
            super().__init__()
            self.takes = Input("image", (3, 8, 8), (0.0, 1.0))

    def plain(**args: int) -> Plain:
        return Plain(**args)

    monkeypatch.setattr(hub.make, "_builder", lambda arch: plain)
    monkeypatch.setattr(hub.make, "model_class", lambda arch: Plain)
    model = zoo.create("bilinear_d64", dim=4)
    assert type(model) is Plain
    assert model.preprocess(noise(20, 30, 3)).shape == (1, 3, 8, 8)
    assert torch.equal(model.preprocess(noise(20, 30, 3)), zoo.preprocess(model, [noise(20, 30, 3)]))


def test_a_batch_lies_on_the_models_device():
    model = model_of(3).to("meta")
    assert model.preprocess(noise(20, 30, 3)).device.type == "meta"


def test_a_model_of_two_sides_gets_both(tmp_path):
    model = zoo.create("bilinear_d64", channels=3, image_size=(20, 32))
    ramp = np.broadcast_to(np.linspace(0, 255, 64, dtype=np.uint8)[None, :, None], (64, 64, 3))
    x = model.preprocess(ramp.copy())
    assert x.shape == (1, 3, 20, 32)
    assert x[0, 0, 0, 0] < 0.02  # the whole width is seen
    assert x[0, 0, 0, -1] > 0.98


def test_a_model_of_clips_takes_paths_of_videos(tmp_path):
    frames = [Image.fromarray(noise(40 + k, 48, 3)).resize((48, 40)) for k in range(20)]
    frames[0].save(tmp_path / "clip.gif", save_all=True, append_images=frames[1:])
    model = zoo.create("videomae_vit_tiny")
    x = model.preprocess(tmp_path / "clip.gif")
    assert x.shape == (1, *model.takes.shape)
    assert torch.equal(x[0], zoo.transform(model)(str(tmp_path / "clip.gif")))
    with pytest.raises(ValueError, match="give the path of a video"):
        model.preprocess(noise(45, 70, 3))
    with pytest.raises(FileNotFoundError, match=r"no file gone\.mp4"):
        model.preprocess("gone.mp4")
    with pytest.raises(ValueError, match="of pictures alone"):
        zoo.transform(model, crop_pct=0.5)


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (noise(3, 64, 64), r"array of uint8 \(3, 64, 64\) .*expected uint8 \(H, W\), \(H, W, 3\)"),
        (noise(8, 8, 3) / 255, r"array of float64 \(8, 8, 3\)"),
        (torch.rand(3, 8, 8), r"tensor of torch.float32 \(3, 8, 8\), expected uint8 .*round\(\).byte\(\)"),
        (b"no picture", "cannot be decoded"),
        ([], "give at least one"),
        (None, "a NoneType is no picture; expected a path"),
        ({"image": 1}, "a dict is no picture"),
        ([{"image": 1}], "a dict is no picture"),
        ([[noise(8, 8, 3)]], "a list is no picture"),
    ],
)
def test_what_is_no_picture_is_said_in_a_line(picture, said):
    with pytest.raises(ValueError, match=said) as caught:
        model_of(3).preprocess(picture)
    assert "\n" not in str(caught.value)


def test_a_damaged_file_is_named(folder, tmp_path):
    (tmp_path / "cut.png").write_bytes(PICTURES["wide.png"][:300])
    with pytest.raises(ValueError, match=r"cut\.png cannot be decoded"):
        model_of(3).preprocess([folder / "test" / "a" / "wide.png", tmp_path / "cut.png"])
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        model_of(3).preprocess(tmp_path / "gone.png")


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        ((noise(8, 8, 3), 1, "x"), "3 parts, expected"),
        ({"img": noise(8, 8, 3), "label": 1}, "keys img, label, expected image and label"),
        ((noise(8, 8, 3), "cat"), "label is 'cat'"),
        ((noise(8, 8, 3), 0.5), "label is 0.5"),
    ],
)
def test_a_sample_that_cannot_be_understood_is_refused(sample, said):
    with pytest.raises(ValueError, match=said):
        zoo.collate(model_of(3))([sample])


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (lambda: zoo.create("ditdh_tiny"), "takes latents .* no pictures"),
        (lambda: torch.nn.Linear(2, 2), "a Linear does not say what it takes"),
    ],
)
def test_what_takes_no_pictures_is_refused(model, said):
    with pytest.raises(ValueError, match=said):
        zoo.transform(model())
    with pytest.raises(ValueError, match=said):
        zoo.collate(model())


@pytest.mark.parametrize("crop_pct", [0, 1.5])
def test_a_share_outside_0_to_1_is_refused(crop_pct):
    with pytest.raises(ValueError, match="crop_pct"):
        zoo.transform(model_of(3), crop_pct=crop_pct)


def test_preprocessing_needs_torch_and_pillow_alone(tmp_path):
    import subprocess

    script = (
        "import sys, zoo, numpy\n"
        "m = zoo.create('bilinear_d64', channels=3, image_size=8)\n"
        "assert 'PIL' not in sys.modules\n"
        "m.preprocess(numpy.zeros((9, 9, 3), numpy.uint8)); zoo.collate(m)\n"
        "print({'lightning', 'torchvision', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# zoo.unchecked


def test_gradient_ascent_on_pixels_runs_unchecked():
    model = zoo.load("bilinear_d256.mnist")
    x = torch.full((1, 1, 28, 28), 0.5, requires_grad=True)
    before = model(x)[0, 3].item()
    with zoo.unchecked():
        for _ in range(20):
            (gradient,) = torch.autograd.grad(model(x)[0, 3], x)
            x = (x + gradient / gradient.norm()).detach().requires_grad_()
        after = model(x)[0, 3].item()
    assert after > before + 10
    assert x.min() < 0 or x.max() > 1
    with pytest.raises(ValueError, match="pixels span"):
        model(x)


def test_only_the_values_are_unchecked_and_only_inside():
    model, x = zoo.load("bilinear_d256.mnist"), torch.full((1, 1, 28, 28), float("nan"))
    with zoo.unchecked():
        assert model(x).isnan().all()
        with zoo.unchecked():
            model(x)
        model(x)
        with pytest.raises(ValueError, match="this model takes 28×28"):
            model(torch.rand(1, 1, 32, 32))
        with pytest.raises(ValueError, match="expected float pixels"):
            model(torch.zeros(1, 1, 28, 28, dtype=torch.uint8))
    with pytest.raises(ValueError, match="NaN"):
        model(x)
    with pytest.raises(KeyError), zoo.unchecked():
        raise KeyError
    with pytest.raises(ValueError, match="NaN"):
        model(x)


def test_other_threads_and_contexts_stay_checked():
    model, x, said = zoo.load("bilinear_d256.mnist"), torch.full((1, 1, 28, 28), 7.0), []

    def call() -> None:
        try:
            model(x)
        except ValueError as error:
            said.append(str(error))

    outside = copy_context()
    with zoo.unchecked():
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        outside.run(call)
    assert len(said) == 2


def test_clips_are_unchecked_too():
    model = zoo.create("videomae_vit_tiny").eval()
    with pytest.raises(ValueError, match="pixels span"):
        model.forward_features(torch.full((1, *model.takes.shape), 7.0))
    with zoo.unchecked():
        model.forward_features(torch.full((1, *model.takes.shape), 7.0))


def test_it_compiles_whole():
    model = zoo.load("bilinear_d256.mnist")

    def ascend(x: torch.Tensor) -> torch.Tensor:
        with zoo.unchecked():
            return model(2 * x)

    x = torch.rand(1, 1, 28, 28)
    assert torch.equal(torch.compile(ascend, backend="eager", fullgraph=True)(x), ascend(x))
    with zoo.unchecked():
        assert torch.equal(torch.compile(model, backend="eager", fullgraph=True)(2 * x), model(2 * x))
