"""Images from every kind of source: what comes out, the same for the same seed, and what is refused."""

import io
import os
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.data import images as images_module
from zoo.data.augment import augment
from zoo.data.batches import Batches, InMemory
from zoo.data.images import ImageData
from zoo.data.pictures import decode
from zoo.data.readers import read
from zoo.data.seeds import held_out
from zoo.data.synthetic import RandomImages


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))


def ready(source="samples/mnist", stage="fit", **args):
    data = ImageData(source, **({"channels": 1, "batch_size": 100} | args))
    data.setup(stage)
    return data


def epoch(data):
    return [data.on_after_batch_transfer(batch, 0) for batch in data.train_dataloader()]


def same(a, b):
    return len(a) == len(b) and all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(a, b))


@pytest.fixture
def folder(tmp_path):
    """20 images of two classes, each of one colour that tells which it is."""
    for split, count in (("train", 8), ("val", 2)):
        for label, name in enumerate(("cat", "dog")):
            place = tmp_path / "pets" / split / name
            place.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (12, 10), (200 * label, 10 * i, 7)).save(place / f"{i}.png")
    return tmp_path / "pets"


def test_a_batch_is_float_in_0_1_and_int64():
    x, y = epoch(ready())[0]
    assert x.shape == (100, 1, 28, 28)
    assert x.dtype == torch.float32
    assert (x.min(), x.max()) == (0, 1)
    assert y.dtype == torch.int64


def test_uint8_travels_to_the_device():
    x, _, _ = next(iter(ready().train_dataloader()))
    assert x.dtype == torch.uint8


def test_the_shipped_digits_are_real_and_balanced():
    for split, items in read("samples/mnist").items():
        assert np.bincount(items.labels).tolist() == [100] * 10, split
        assert items.classes == [str(c) for c in range(10)]
    data = ready(stage="test")
    pixels, labels = data.splits["test"]
    ink = [pixels.array[labels == c].double().mean().item() for c in (0, 1)]
    assert ink[0] > 1.8 * ink[1]  # a zero takes more ink than a one


def test_pixels_are_those_of_the_file():
    data, items = ready(stage="test"), read("samples/mnist")["test"]
    for i in (0, 499, 999):
        expected = np.asarray(Image.open(io.BytesIO(items.images[i])))
        assert (data.splits["test"][0].array[i, 0].numpy() == expected).all()


def test_same_seed_same_batches_another_seed_others():
    args = {"crop": 2, "flip": True}
    assert same(epoch(ready(seed=3, **args)), epoch(ready(seed=3, **args)))
    assert not same(epoch(ready(seed=3, **args)), epoch(ready(seed=4, **args)))


def test_epochs_differ_and_each_shows_every_image_once():
    loader = ready().train_dataloader()
    first, second = ([y for _, y, _ in loader] for _ in range(2))
    assert not torch.equal(torch.cat(first), torch.cat(second))
    assert torch.equal(torch.cat(first).bincount(), torch.cat(second).bincount())


@pytest.mark.parametrize("stop", [1, 4, 9])
def test_an_epoch_goes_on_where_it_stopped(stop):
    data = ready(crop=2)
    loader, whole = data.train_dataloader(), epoch(data)
    iterator = iter(loader)
    for _ in range(stop):
        next(iterator)
    again = data.train_dataloader()
    again.load_state_dict(loader.state_dict())
    assert same([data.on_after_batch_transfer(b, 0) for b in again], whole[stop:])


def test_after_a_whole_epoch_the_next_one_begins():
    loader = ready().train_dataloader()
    first = torch.cat([y for _, y, _ in loader])
    again = ready().train_dataloader()
    again.load_state_dict({"epoch": 0, "done": len(again)})
    second = torch.cat([y for _, y, _ in again])
    assert torch.equal(second, torch.cat([y for _, y, _ in loader]))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("cache", ["memory", "memmap"])
def test_every_cache_gives_the_same_batches(cache):
    args = {"crop": 2, "flip": True, "limit": 300}
    assert same(epoch(ready(cache=cache, **args)), epoch(ready(cache="none", num_workers=2, **args)))


def test_writing_into_a_batch_leaves_the_cache_alone():
    data = ready(cache="memmap")
    next(iter(data.train_dataloader()))[0].zero_()
    assert same(epoch(data), epoch(ready(cache="memory")))


def test_crop_and_flip_equal_one_image_at_a_time():
    x = torch.randint(0, 256, (40, 3, 9, 7), dtype=torch.uint8)
    found = augment(x, 2, True, [0, 0, 0, 0])
    assert torch.equal(found, augment(x, 2, True, [0, 0, 0, 0]))
    assert not torch.equal(found, augment(x, 2, True, [0, 0, 1, 0]))
    seen = set()
    for image, out in zip(x, found):
        padded = torch.nn.functional.pad(image, (2, 2, 2, 2))
        matches = [
            (top, left, flip)
            for top in range(5)
            for left in range(5)
            for flip in (False, True)
            for crop in [padded[:, top : top + 9, left : left + 7]]
            if torch.equal(out, crop.flip(-1) if flip else crop)
        ]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len({m[0] for m in seen}) == len({m[1] for m in seen}) == 5
    assert {m[2] for m in seen} == {True, False}


def test_evaluation_is_neither_augmented_nor_shuffled_nor_cut():
    data = ready(stage="test", crop=4, flip=True, eval_batch_size=300)
    batches = [data.on_after_batch_transfer(b, 0) for b in data.test_dataloader()]
    assert [len(y) for _, y in batches] == [300, 300, 300, 100]
    pixels, labels = data.splits["test"]
    assert torch.equal(torch.cat([x for x, _ in batches]), pixels.array.float() / 255)
    assert torch.equal(torch.cat([y for _, y in batches]), labels)


def test_processes_share_an_epoch_evenly_and_without_overlap():
    pixels, labels = ready(limit=103, batch_size=10).splits["train"]
    loaders = [Batches(pixels, labels, 10, True, rank=r, world=2) for r in range(2)]
    orders = [loader._order(0) for loader in loaders]
    assert len(orders[0]) == len(orders[1]) == 51
    assert not set(orders[0].tolist()) & set(orders[1].tolist())
    even = [Batches(pixels, labels, 10, False, rank=r, world=2) for r in range(2)]
    assert len(list(even[0])) == len(list(even[1])) == len(even[0])


def test_limit_draws_evenly_over_the_classes():
    _, labels = ready(limit=50, batch_size=50).splits["train"]
    assert labels.bincount().tolist() == [5] * 10


def test_validation_can_be_held_out_of_training():
    data = ready(val_fraction=0.2)
    assert (len(data.splits["train"][1]), len(data.splits["val"][1])) == (800, 200)
    whole = torch.cat([data.splits[s][0].array for s in ("train", "val")]).flatten(1).double().sum(1).sort().values
    assert torch.equal(whole, ready().splits["train"][0].array.flatten(1).double().sum(1).sort().values)


@pytest.mark.parametrize("seed", range(6))
def test_a_held_out_tenth_of_sixty_pictures_has_every_class(seed):
    labels = np.repeat(range(6), 10)
    kept, held = held_out(labels, 0.1, seed)
    assert np.bincount(labels[held]).tolist() == [1] * 6
    assert sorted([*kept, *held]) == list(range(60))
    assert (held_out(labels, 0.1, seed)[1] == held).all()
    assert (held_out(labels, 0.1, seed + 6)[1] != held).any()
    uneven = np.repeat(range(5), [30, 20, 6, 3, 1])  # of the last one, nothing can be held out
    kept, held = held_out(uneven, 0.1, seed)
    assert np.bincount(uneven[held], minlength=5).tolist() == [2, 2, 1, 1, 0]
    assert np.bincount(uneven[held_out(uneven, 0.5, seed)[1]], minlength=5).tolist() == [15, 10, 3, 2, 0]


@pytest.mark.parametrize("share", [0.01, 0.1, 0.34, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("sizes", [[7], [1, 1, 1, 1], [2, 2, 2], [50, 1, 9], [1000, 3, 2, 1]])
def test_a_class_keeps_one_picture_in_training_and_gives_its_share(sizes, share):
    labels = np.repeat(range(len(sizes)), sizes)
    kept, held = held_out(labels, share, 0)
    assert sorted([*kept, *held]) == list(range(len(labels)))
    assert len(held) == max(1, round(share * len(labels))) or len(kept) == len(sizes)
    if max(sizes) > 1:
        assert np.bincount(labels[kept], minlength=len(sizes)).all()
        given = np.bincount(labels[held], minlength=len(sizes))
        most = np.maximum(np.asarray(sizes) - 1, 0)
        assert (abs(given - share * np.asarray(sizes)) < len(sizes))[given < most].all()


def test_without_classes_and_without_stratify_the_draw_is_as_ever():
    order = np.random.default_rng(3).permutation(50)
    for labels, how in ((np.full(50, -1), {}), (np.arange(50) % 4, {"stratify": False})):
        kept, held = held_out(labels, 0.2, 3, **how)
        assert held.tolist() == order[:10].tolist()
        assert kept.tolist() == order[10:].tolist()
    with pytest.raises(ValueError, match=r"val_fraction=0\.5 of 1 samples: at least 2"):
        held_out(np.zeros(1), 0.5, 0)


@pytest.mark.parametrize("seed", range(6))
def test_validation_that_is_held_out_has_every_class(seed):
    data = ready(val_fraction=0.1, seed=seed)
    assert data.splits["val"][1].bincount().tolist() == [10] * 10
    assert data.splits["train"][1].bincount().tolist() == [90] * 10


def test_an_image_folder(folder):
    data = ready(str(folder), channels=3, batch_size=4, image_size=8)
    assert data.classes == ["cat", "dog"]
    assert data.input_shape == (3, 8, 8)
    for x, y in epoch(data):
        assert torch.equal((x[:, 0].mean((1, 2)) > 0.5).long(), y)
    assert len(data.splits["val"][1]) == 4


def test_a_folder_of_classes_alone_is_all_training(folder):
    data = ready(str(folder / "train"), channels=3, batch_size=4, image_size=8, val_fraction=0.25)
    assert (len(data.splits["train"][1]), len(data.splits["val"][1])) == (12, 4)


def filled(root, **counts):
    """Class folders of so many pictures, each of another colour."""
    for label, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (4, 4), (20 * label, 10 * i, 7)).save(root / name / f"{i}.png")
    return str(root)


def sides(data):
    return [data.splits[split][1].bincount().tolist() for split in ("train", "val")]


def test_a_source_without_validation_holds_out_a_tenth_with_every_class_and_says_so_once(tmp_path, capsys):
    source = filled(tmp_path / "pets", cat=30, dog=4, eel=1)
    data = ready(source, channels=3, batch_size=4)
    assert sides(data) == [[27, 3, 1], [3, 1]]
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"4 of 35 pictures of {source} are held out for validation, drawn with seed 0, 2 of 3 classes on both sides"
    ]
    data.setup("test")
    assert (data.served["test"], len(data.names("test"))) == ("val", 4)
    again = ready(source, channels=3, batch_size=4)
    assert list(again.names("val")) == list(data.names("val"))
    assert list(ready(source, channels=3, batch_size=4, seed=1).names("val")) != list(data.names("val"))
    assert len(capsys.readouterr().err.splitlines()) == 1  # of the other seed
    many = filled(tmp_path / "many", **{f"c{i}": 2 for i in range(8)})
    assert sides(ready(many, channels=3, batch_size=4)) == [[1] * 8, [1] * 8]


def test_a_source_with_validation_or_test_holds_nothing_out(folder, capsys):
    data = ready(str(folder), channels=3, batch_size=4)
    assert (len(data.splits["train"][1]), len(data.splits["val"][1])) == (16, 4)
    data = ready()
    assert (len(data.splits["train"][1]), data.served["val"]) == (1000, "test")
    with pytest.raises(ValueError, match=r"no val split, only train; .* hold out a share .* data.val_fraction"):
        ready(str(folder / "train"), channels=3, val_fraction=0.0)
    assert capsys.readouterr().err == ""


def test_a_run_begun_before_there_was_a_default_holds_nothing_out(tmp_path):
    from zoo.train import keys

    (tmp_path / "recipe.yaml").write_text("data: {class_path: zoo.ImageData, init_args: {source: x, stratify: true}}")
    assert keys.as_begun(tmp_path / "recipe.yaml", []) == ["--data.val_fraction=0.0"]


def test_of_one_picture_all_is_read_and_nothing_trained(tmp_path):
    source = filled(tmp_path / "one", cat=1)
    data = ImageData(source, channels=3, num_workers=0)
    (x, y, stamp), *rest = data.in_order("all", 8)
    assert (x.shape, y.tolist(), stamp, rest) == ((1, 3, 4, 4), [0], None, [])
    for stage in ("fit", "test"):
        with pytest.raises(ValueError, match=r"one holds one picture, and none that could be held out for validation"):
            data.setup(stage)
    singles = filled(tmp_path / "singles", cat=1, dog=1, eel=1)
    assert [sum(side) for side in sides(ready(singles, channels=3, batch_size=2))] == [2, 1]


@pytest.mark.parametrize("cache", ["auto", "none"])
def test_all_is_every_picture_of_every_split_in_order(folder, cache):
    data = ImageData(str(folder), batch_size=3, num_workers=0, cache=cache, limit=4, crop=2, flip=True)
    assert data.roles() == {"train": "16 pictures", "val": "4 pictures"}
    batches = list(data.in_order("all", 7))
    x, y = (torch.cat(parts) for parts in zip(*((x, y) for x, y, _ in batches)))
    assert ([len(b[1]) for b in batches], y.tolist()) == ([7, 7, 6], [0] * 8 + [1] * 8 + [0, 0, 1, 1])
    names = list(data.names("all"))
    assert names[0] == "train/cat/0.png"
    assert names[16:] == ["val/cat/0.png", "val/cat/1.png", "val/dog/0.png", "val/dog/1.png"]
    for name, pixels, path in zip(names, x, data.encoded("all")):
        assert (pixels.permute(1, 2, 0).numpy() == np.asarray(Image.open(folder / name))).all()
        assert path == folder / name
    data.setup("fit")  # and the splits are as they are without
    assert (len(data.names("train")), len(data.names("val"))) == (4, 4)
    assert list(ImageData("samples/mnist").in_order("all", 2000).labels.bincount()) == [200] * 10


@pytest.mark.parametrize(("sides", "steps"), [((32, 32), {4}), ((64, 64), {1.97}), ((32, 64), set())])
def test_squares_are_cut_at_random_of_pictures_of_a_drawn_size(tmp_path, sides, steps):
    """VQGAN cuts 256 px of pictures of 256, RAE of 384, LlamaGen of 256 to 320: all of what lies beside the centre."""
    ramp = np.broadcast_to(4 * np.arange(64, dtype=np.uint8), (32, 64))
    (tmp_path / "train" / "a").mkdir(parents=True)
    for i in range(64):
        Image.fromarray(ramp).save(tmp_path / "train" / "a" / f"{i}.png")
    data = ready(str(tmp_path), channels=1, image_size=32, batch_size=48, val_fraction=0.25, crop=sides, num_workers=0)
    (batch,) = data.train_dataloader()
    x = data.on_after_batch_transfer(batch, 0)[0][:, 0] * 255  # (48, 32, 32)
    assert torch.equal(x, x[:, :1].expand_as(x))
    left, found = x[:, 0, 0], (x[:, 0, 24] - x[:, 0, 8]) / 16
    assert left.min() < 30
    assert left.max() > 90
    if steps:
        assert found.mean().item() == pytest.approx(*steps, abs=0.1)
    else:
        assert found.min() < 2.4 < 3.6 < found.max()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"crop": (16, 32)}, r"crop=\(16, 32\) with image_size=32.*image_size ≤ from ≤ to"),
        ({"crop": (64, 32)}, "image_size ≤ from ≤ to"),
        ({"crop": (32, 32), "crop_scale": (0.5, 1.0)}, "and no crop_scale"),
        ({"crop": (32, 32), "cache": "memory"}, "cache='memory' holds squares; set cache to none"),
    ],
)
def test_squares_that_cannot_be_cut_are_refused(args, message):
    with pytest.raises(ValueError, match=message):
        ImageData(image_size=32, **args)


def test_images_are_resized_by_the_shorter_side_and_cropped_in_the_centre(tmp_path):
    (tmp_path / "one" / "train" / "a").mkdir(parents=True)
    image = np.zeros((20, 60, 3), np.uint8)
    image[:, 20:40] = 255  # the centre third is white
    Image.fromarray(image).save(tmp_path / "one" / "train" / "a" / "wide.png")
    pixels = images_module.Pixels(read(str(tmp_path / "one"))["train"], 10, 3)
    assert pixels.shape == (3, 10, 10)
    assert pixels[0].float().mean() > 240


def test_grey_sets_stay_grey_and_one_colour_picture_makes_them_rgb(tmp_path):
    for i in range(5):
        (tmp_path / "train" / "a").mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), i).save(tmp_path / "train" / "a" / f"{i}.png")
    args = {"channels": None, "batch_size": 2, "val_fraction": 0.2}
    assert ready(str(tmp_path), **args).input_shape == (1, 4, 4)
    Image.new("RGB", (4, 4)).save(tmp_path / "train" / "a" / "colour.png")
    assert ready(str(tmp_path), **args).input_shape == (3, 4, 4)


def test_random_images_have_a_class_that_can_be_seen():
    data = RandomImages((1, 8, 8), num_images=64, batch_size=32, seed=1)
    for batch in data.train_dataloader():
        x, y = data.on_after_batch_transfer(batch, 0)
        quadrants = x.unfold(2, 4, 4).unfold(3, 4, 4).mean((1, 4, 5)).flatten(1)
        assert torch.equal(quadrants.argmax(1), y)


@pytest.mark.parametrize(
    ("source", "args", "error", "message"),
    [
        ("./nowhere", {}, FileNotFoundError, "no folder ./nowhere; give a folder of class folders or of parquet"),
        ("samples/minst", {}, ValueError, "there are samples/mnist"),
        ("torchvision:MINST", {}, ValueError, "no torchvision set 'MINST', did you mean"),
        ("samples/mnist", {"image_column": "img"}, ValueError, "no column 'img'.*it has image, label"),
        ("samples/mnist", {"label_column": "labels"}, ValueError, "did you mean label"),
        ("samples/mnist", {"cache": "disk"}, ValueError, "cache='disk', allowed auto"),
        ("samples/mnist", {"val_fraction": 1.0}, ValueError, "allowed 0 to below 1"),
        ("samples/mnist", {"batch_size": 0}, ValueError, "at least 1"),
    ],
)
def test_a_wrong_source_is_named_with_what_there_is(source, args, error, message):
    with pytest.raises(error, match=message):
        ready(source, **args)


def test_a_set_smaller_than_a_batch_is_one_batch_and_that_is_said():
    with pytest.warns(UserWarning, match="1000 training samples make no batch of 2048: each batch holds 1000 of them"):
        loader = ready(batch_size=2048).train_dataloader()
    assert (len(loader), loader.batch_size) == (1, 1000)
    ((x, _, _),) = loader
    assert len(x) == 1000


def plain(count, size, **args):
    """Batches of pictures that are their own number."""
    return Batches(InMemory(torch.arange(count)), torch.arange(count), size, True, **args)


def test_what_fills_no_batch_is_said_where_it_is_much():
    with pytest.warns(UserWarning, match="10 of 110 training .* fill no batch of 100; batches of 55 leave out 0"):
        plain(110, 100)
    with pytest.warns(UserWarning, match="14 of 50 training .* fill no batch of 18; batches of 12 leave out 2"):
        plain(50, 18, world=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain(104, 100)  # 4 %
        plain(110, 100, rank=1, world=1)  # the first process says it


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize(("size", "left"), [(3, 7), (4, 5), (5, 4), (16, 2), (25, 1), (26, 1), (60, 1)])
def test_an_epoch_goes_on_with_another_batch_size_and_shows_no_picture_twice(world, size, left):
    seen, later = [], []
    for rank in range(world):
        loader = plain(51 * world, 10, rank=rank, world=world)
        batches = iter(loader)
        seen += [next(batches)[1] for _ in range(3)]
        again = plain(51 * world, size, rank=rank, world=world)
        again.load_state_dict(loader.state_dict())
        first, began = again.step, len(later)
        assert first + left == len(again)
        assert list(again._spans(again.start)) == list(range(first, len(again)))
        for _, y, stamp in again:
            assert stamp == [0, 0, first + len(later) - began, rank]
            assert again.indices(stamp[2]) == y.tolist()
            later.append(y)
        assert again.epoch == 1
        assert sum(len(y) for _, y, _ in again) == len(again) * again.batch_size  # the epoch after it is whole
    seen, later = torch.cat(seen), torch.cat(later)
    assert not set(seen.tolist()) & set(later.tolist())
    assert later.unique().numel() == len(later)
    assert (len(seen) + len(later)) // world == min(51, 30 + left * size)


def test_states_that_count_batches_are_read():
    order = torch.cat([y for _, y, _ in plain(64, 8)])
    for state in ({"epoch": 0, "done": 3}, {"epoch": 0, "done": 3, "batch_size": 8}):
        again = plain(64, 8)
        again.load_state_dict(state)
        assert torch.equal(torch.cat([y for _, y, _ in again]), order[24:])
    other = plain(64, 16)
    other.load_state_dict({"epoch": 0, "done": 3, "batch_size": 8})
    assert torch.equal(torch.cat([y for _, y, _ in other]), order[24:])


def test_a_state_says_where_the_next_batch_comes_from_at_any_time():
    loader = plain(64, 16)
    for _ in range(2):
        list(loader)
    assert loader.state_dict() == {"epoch": 2, "images": 0}
    for fetched in (1, 4):
        batches = iter(loader)
        for _ in range(fetched):
            next(batches)
    assert loader.state_dict() == {"epoch": 3, "images": 0}  # Lightning asks before the iterator has ended
    loader.set_epoch(5)
    assert loader.state_dict() == {"epoch": 5, "images": 0}
    loader.load_state_dict({"epoch": 7, "images": 48})
    assert loader.state_dict() == {"epoch": 7, "images": 48}


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no images; expected"):
        ready(str(tmp_path / "empty"))


def test_mixed_sizes_need_an_image_size(folder):
    Image.new("RGB", (30, 30)).save(folder / "train" / "cat" / "big.png")
    with pytest.raises(ValueError, match="mixes 10×12 and 30×30 px images; give image_size"):
        ready(str(folder), channels=3, batch_size=4)


def test_a_damaged_file_is_named(folder):
    bad = folder / "train" / "dog" / "3.png"
    bad.write_bytes(bad.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"dog/3\.png cannot be decoded"):
        ready(str(folder), channels=3, batch_size=4)


def test_damaged_files_are_left_out_where_that_is_asked_for(folder):
    for name in ("train/dog/3.png", "train/cat/0.png", "val/cat/1.png"):
        (folder / name).write_bytes((folder / name).read_bytes()[:40])
    args = {"channels": 3, "batch_size": 4, "cache": "none", "num_workers": 0, "bad": "skip"}
    with pytest.warns(
        UserWarning, match=r"2 of 16 pictures of \S+ are left out: \S+cat/0\.png cannot be decoded .*dog/3"
    ):
        data = ready(str(folder), **args)
    assert sides(data) == [[7, 7], [1, 2]]
    assert len(list(data.in_order("all", 4))) == 5
    assert sum(len(y) for _, y in epoch(data)) == 12
    for path in (folder / "val").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of 4 pictures of \S+ can be read; the first: \S+ cannot be decoded"):
        ready(str(folder), **args)


def test_a_directory_that_is_called_as_a_picture_is_no_picture(folder):
    (folder / "train" / "cat" / "dir.png").mkdir()
    assert len(ready(str(folder), channels=3, batch_size=4).names("train")) == 16


def test_a_picture_of_very_many_pixels_is_read_and_a_bomb_is_refused_by_name(tmp_path):
    """Without Pillow's warning, which names no file; sizes are small here, as Pillow's limit is."""
    import subprocess
    import sys

    for side in (12, 15):
        Image.new("L", (side, side), 9).save(tmp_path / f"{side}.png")
    script = (
        "from PIL import Image; Image.MAX_IMAGE_PIXELS = 100\n"
        "from zoo.data.pictures import decode\n"
        f"print(decode('{tmp_path}/12.png', 3, '').shape)\n"
        f"try: decode('{tmp_path}/15.png', 3, '')\n"
        "except ValueError as error: print(error)"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert out.stderr == ""
    assert out.stdout.startswith(
        "(12, 12, 3)\n" + f"{tmp_path}/15.png cannot be decoded (Image size (225 pixels) exceeds"
    )


@pytest.mark.parametrize(
    ("side", "cure"),
    [(b"8\xff", "get it again"), (b"99999999", "make it smaller")],  # which Pillow takes for no number, and for a bomb
)
def test_whatever_pillow_raises_becomes_one_refusal_by_name(tmp_path, side, cure):
    (tmp_path / "bad.ppm").write_bytes(b"P6 " + side + b" 8 255 " + bytes(192))
    said = rf"bad\.ppm cannot be decoded \(.*\); {cure}, or leave such pictures out with bad='skip'"
    with pytest.raises(ValueError, match=said):
        decode(tmp_path / "bad.ppm", 3, "folder")


def test_a_hub_id_without_a_network_says_so(tmp_path, preloaded):
    import subprocess

    script = "from zoo.data.readers import read\ntry: read('latentzoo/nothing')\nexcept OSError as e: print(e)"
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PYTHONPATH": os.getcwd()}
    out = subprocess.run([*preloaded, "-c", script], env=env, capture_output=True, text=True)
    assert "latentzoo/nothing is not in the cache and the Hub cannot be reached" in out.stdout, out.stderr[-2000:]
