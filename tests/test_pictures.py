"""One picture: upright, opaque, 8 bits of a fixed range, the same for training, figures and shards; damage by name."""

import io
import json
import pickle
import struct
import tarfile
import zlib
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from zoo import cli, hub
from zoo.data import sharding
from zoo.data.folders import Left
from zoo.data.images import ImageData
from zoo.data.pictures import Found, _unknown, decode, opened, suffixes, upright_size
from zoo.nn.protocols import PIXELS, Input
from zoo.report import inputs

# How a camera stores a scene that it tags 1 to 8, as moves of the array (H, W, C).
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[::-1],
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a.swapaxes(0, 1)[:, ::-1],
}
LOSSLESS = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))


def encoded(pixels, form="PNG", mode=None, **options):
    Image.fromarray(pixels, mode).save(out := io.BytesIO(), form, **options)
    return out.getvalue()


def tagged(scene, orientation, form="PNG", **options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(np.ascontiguousarray(STORED[orientation](scene)), form, exif=exif, **options)


def folder_of(root, data, suffix=".png", count=2):
    for split in ("train", "test"):
        for name in "ab":
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                (root / split / name / f"{i}{suffix}").write_bytes(data)
    return root


def shown(source, channels=None, **args):
    """The first test image of a source, (C, H, W) uint8."""
    data = ImageData(str(source), channels=channels, batch_size=2, **args)
    data.setup("test")
    return next(iter(data.in_order("test", 1)))[0][0]


@pytest.fixture
def scene():
    """6×10 px, no two alike."""
    return np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", LOSSLESS)
def test_all_orientations_come_out_upright(scene, form, orientation):
    data = tagged(scene, orientation, form, **LOSSLESS[form])
    assert (decode(data, 3, "x") == scene).all()
    with opened(data, "x") as image:
        assert upright_size(image) == (6, 10)
    grey = scene[:, :, 0].astype(np.uint16) * 257
    if form != "WEBP":
        assert (decode(tagged(grey, orientation, form), 1, "x")[:, :, 0] == scene[:, :, 0]).all()


def test_a_damaged_tag_costs_nobody_the_picture(scene):
    data = encoded(scene, exif=b"Exif\0\0MM\0\x2a\xff\xff\xff\xff nothing")
    assert (decode(data, 3, "x") == scene).all()


def test_training_figures_and_shards_see_the_same_upright_picture(tmp_path, scene):
    data = tagged(scene, 6)
    source = folder_of(tmp_path / "in", data)
    expected = torch.from_numpy(scene).permute(2, 0, 1)
    assert torch.equal(shown(source), expected)
    one = source / "train" / "a" / "0.png"
    about = Input("image", (3, 6, 10), PIXELS)
    assert torch.equal((inputs.read_image(one, about) * 255).round(), expected.float())
    list(sharding.write(str(source), tmp_path / "shards"))
    assert torch.equal(shown(f"shards:{tmp_path / 'shards'}", num_workers=0), expected)
    assert json.loads((tmp_path / "shards" / "manifest.json").read_text())["size"] == [6, 10]
    with tarfile.open(tmp_path / "shards" / "test-00000.tar") as archive:
        assert archive.extractfile("00000000.png").read() == data  # as it was, its tag with it


@pytest.mark.parametrize(("form", "suffix"), [("JPEG", ".jpg"), ("PNG", ".png")])
def test_what_a_shard_holds_reduced_is_upright(tmp_path, form, suffix):
    wide = np.zeros((40, 80, 3), np.uint8)
    wide[:, :40] = (200, 0, 0)  # left
    source = folder_of(tmp_path / "in", tagged(wide, 8, form), suffix)
    list(sharding.write(str(source), tmp_path / "out", image_size=20))
    with tarfile.open(tmp_path / "out" / "test-00000.tar") as archive:
        image = Image.open(io.BytesIO(archive.extractfile(f"00000000{suffix}").read()))
    assert (image.size, image.getexif().get(0x0112, 1), image.format) == ((40, 20), 1, form)
    pixels = np.asarray(image).astype(int)
    assert pixels[:, :18, 0].min() > 180
    assert pixels[:, 22:].max() < 20
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["size"] == [20, 40]


@pytest.mark.parametrize("channels", [1, 3])
def test_transparency_lies_on_white(channels):
    pixels = np.full((4, 6, 4), (255, 0, 255, 0), np.uint8)  # magenta that nobody sees
    pixels[:, :2] = (0, 128, 0, 255)
    pixels[:, 2:4] = (0, 0, 0, 128)  # half of black
    found = decode(encoded(pixels), channels, "x")
    green = 75 if channels == 1 else (0, 128, 0)
    assert (found[:, :2] == green).all()
    assert (found[:, 2:4] == 127).all()
    assert (found[:, 4:] == 255).all()


def test_every_kind_of_transparency_is_seen():
    grey = np.array([[[9, 255], [9, 0]]], np.uint8)
    assert decode(encoded(grey, mode="LA"), 1, "x").tolist() == [[[9], [255]]]
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([1, 2, 3, 250, 0, 250])
    palette.save(out := io.BytesIO(), "PNG", transparency=1)
    assert decode(out.getvalue(), 3, "x").tolist() == [[[1, 2, 3], [255, 255, 255]]]
    keyed = encoded(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8), transparency=(4, 5, 6))
    assert decode(keyed, 3, "x").tolist() == [[[1, 2, 3], [255, 255, 255]]]
    sixteen = encoded(np.array([[257, 514]], np.uint16), transparency=514)
    assert decode(sixteen, 1, "x").tolist() == [[[1], [255]]]


def test_opaque_pictures_are_the_pixels_of_the_file(scene):
    opaque = np.concatenate([scene, np.full((6, 10, 1), 255, np.uint8)], 2)
    assert (decode(encoded(opaque), 3, "x") == scene).all()
    assert (decode(encoded(scene), 3, "x") == scene).all()
    assert (decode(encoded(scene[:, :, 0].copy()), 1, "x")[:, :, 0] == scene[:, :, 0]).all()


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_by_what_they_can_hold(form):
    values = np.array([[0, 128, 129, 1000, 30000, 65535]], np.uint16)
    found = decode(encoded(values, form), 1, "x")[0, :, 0]
    assert found.tolist() == [0, 0, 1, 4, 117, 255]  # round(x / 257), whatever the brightest is
    assert (decode(encoded(values, form), 3, "x") == found[None, :, None]).all()
    assert decode(encoded(values, form), 1, "x", (0, 4095))[0, :, 0].tolist() == [0, 8, 8, 62, 255, 255]


def test_of_sixteen_bit_colour_the_upper_half_is_read():
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    line = np.array(
        [[0, 32768, 65535], [257, 25700, 51400]], ">u2"
    ).tobytes()  # a PNG of 2×1 px, which Pillow cannot write
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" + line)) + chunk(b"IEND", b"")
    assert decode(data, 3, "x").tolist() == [[[0, 128, 255], [1, 100, 200]]]


@pytest.mark.parametrize(("kind", "said"), [(np.int32, "32-bit numbers"), (np.float32, "floats")])
def test_numbers_of_no_known_range_want_one(tmp_path, kind, said):
    values = np.array([[-1, 0, 1, 2]] * 4, kind)
    source = folder_of(tmp_path / "in", encoded(values, "TIFF"), ".tif")
    with pytest.raises(ValueError, match=rf"a/0\.tif holds {said}, .*value_range=\(low, high\)$"):
        shown(source)
    expected = torch.tensor([0, 0, 128, 255], dtype=torch.uint8).expand(1, 4, 4)
    assert torch.equal(shown(source, value_range=(0.0, 2.0)), expected)
    list(sharding.write(str(source), tmp_path / "shards"))
    assert torch.equal(shown(f"shards:{tmp_path / 'shards'}", num_workers=0, value_range=(0, 2)), expected)


def test_every_verb_that_reads_pictures_takes_the_range(tmp_path, capsys):
    values = np.linspace(0, 1, 784, dtype=np.float32).reshape(28, 28)
    source = folder_of(tmp_path / "in", encoded(values, "TIFF"), ".tif")
    model, one = hub.load("bilinear_d256.mnist"), str(source / "test" / "a" / "0.tif")
    x, _ = next(inputs.batches(model, inputs.opened(model, str(source), {"value_range": (0.0, 1.0)}), 4))
    assert torch.allclose(x[0], inputs.read_image(one, model.takes, (0.0, 1.0)), atol=1e-6)
    assert (x[0] * 255 - torch.from_numpy(values) * 255).abs().max() <= 0.5001
    assert cli.main(["shard", str(source), str(tmp_path / "out"), "--image-size", "14", "--value-range", "0,1"]) == 0
    assert shown(f"shards:{tmp_path / 'out'}", num_workers=0).shape == (1, 14, 14)
    assert cli.main(["show", "bilinear_d256.mnist", one, "-o", str(tmp_path / "x.png")]) == 2
    assert "--value-range LOW,HIGH" in capsys.readouterr().err
    argv = ["show", "bilinear_d256.mnist", one, "--value-range=0,1", "-o", str(tmp_path / "x.png")]
    assert cli.main(argv) == 0
    assert cli.main(["eval", "bilinear_d256.mnist", "--value-range", "0"]) == 2
    assert "expected two numbers with a comma between" in capsys.readouterr().err


@pytest.mark.parametrize("value_range", [(1.0, 1.0), (2.0, 1.0)])
def test_a_range_without_an_inside_is_refused(value_range):
    with pytest.raises(ValueError, match=r"allowed \(low, high\) with low < high"):
        ImageData(value_range=value_range)


def test_what_is_no_number_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        decode(encoded(np.array([[0, np.nan]], np.float32), "TIFF"), 1, "x", (0, 1))


def test_print_colours_are_those_of_the_picture(scene):
    flat = np.tile(scene[:1, :1], (16, 16, 1))
    Image.fromarray(flat).convert("CMYK").save(out := io.BytesIO(), "JPEG", quality=100)
    assert abs(decode(out.getvalue(), 3, "x").astype(int) - flat).max() <= 3  # Adobe's files are inverted


def test_a_cache_of_another_range_is_another_cache(tmp_path):
    source = folder_of(tmp_path / "in", encoded(np.full((4, 4), 700, np.uint16)))
    assert int(shown(source, cache="memmap")[0, 0, 0]) == 3
    assert int(shown(source, cache="memmap", value_range=(0, 1400))[0, 0, 0]) == 128


# What is read, and what is said of the rest


@pytest.mark.parametrize(
    ("suffix", "form"), [(".jfif", "JPEG"), (".avif", "AVIF"), (".pgm", "PPM"), (".tga", "TGA"), (".JPEG", "JPEG")]
)
def test_every_suffix_that_pillow_reads_is_read_and_streamed(tmp_path, suffix, form):
    source = folder_of(tmp_path / "in", encoded(np.full((8, 8), 100, np.uint8), form), suffix)
    found = shown(source, 1)
    assert abs(found.int() - 100).max() <= 2
    list(sharding.write(str(source), tmp_path / "out"))
    assert torch.equal(shown(f"shards:{tmp_path / 'out'}", 1, num_workers=0), found)


def test_what_pillow_cannot_draw_is_no_picture():
    assert {".png", ".jpg", ".tif", ".jp2", ".webp"} <= suffixes()
    assert not {".h5", ".mpg", ".eps", ".grib", ".pdf"} & suffixes()


def test_pictures_of_phones_name_the_extra_that_reads_them():
    assert _unknown(b"\0\0\0\x18ftypheic\0\0\0\0mif1") == "it is HEIF, which needs pip install 'latentzoo[heif]'"
    assert "needs pip install 'latentzoo[heif]'" in Left(kinds=Counter({".heic": 3})).said("images")


def test_heif_is_read_where_its_package_is(tmp_path):
    assert ".heic" in suffixes()
    data = encoded(np.full((16, 16, 3), 100, np.uint8), "HEIF")
    assert abs(shown(folder_of(tmp_path / "in", data, ".heic")).int() - 100).max() <= 3


@pytest.mark.parametrize("data", [b"", b"no picture", b"\x89PNG\r\n\x1a\n and no more"])
def test_nobody_is_told_to_remove_a_picture(tmp_path, data, capsys):
    (tmp_path / "bad.png").write_bytes(data)
    assert cli.main(["show", "bilinear_d256.mnist", str(tmp_path / "bad.png")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path / 'bad.png'} cannot be decoded (" in line
    assert line.endswith("; get it again, or leave such pictures out with --bad skip")
    assert "0x" not in line


def test_bytes_that_know_their_place_keep_it_on_the_way_to_a_worker():
    found = pickle.loads(pickle.dumps(Found(b"abc", "row 5 of x.parquet")))
    assert (bytes(found), str(found)) == (b"abc", "row 5 of x.parquet")
