"""Datasets and DataLoaders of one's own: what goes in, what comes out, what is refused and how."""

import pickle

import datasets
import lightning as L
import numpy as np
import pytest
import torch
import torchvision
import yaml
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

import zoo
from zoo.data.images import ImageData

SIDE = 6


def pixels(i):
    """(H, W, C) uint8 that tell a sample's number."""
    return np.full((SIDE, SIDE, 3), (i, 2 * i, 255 - i), np.uint8)


def picture(i):
    return Image.fromarray(pixels(i))


class Own(Dataset):
    """Samples as `make` makes them of their number; `asked` is how often."""

    def __init__(self, count, make):
        self.count, self.make, self.asked = count, make, 0

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        self.asked += 1
        return self.make(i)


def ready(train, stage="fit", **args):
    data = ImageData(train=train, **({"channels": 3, "batch_size": 4, "num_workers": 0} | args))
    data.setup(stage)
    return data


def everything(data):
    """All pictures (N, C, H, W) uint8 and labels."""
    return [torch.cat(parts) for parts in zip(*((x, y) for x, y, _ in data.in_order("all", 3)))]


EXPECTED = torch.from_numpy(np.stack([pixels(i) for i in range(8)])).permute(0, 3, 1, 2)


# Datasets


@pytest.mark.parametrize(
    "image",
    [
        picture,
        pixels,
        lambda i: torch.from_numpy(pixels(i)).permute(2, 0, 1),
        lambda i: torch.from_numpy(pixels(i)).permute(2, 0, 1) / 255,
        lambda i: pixels(i) / 255.0,
    ],
    ids=["pillow", "array", "tensor", "floats", "array of floats"],
)
@pytest.mark.parametrize(
    ("whole", "labels"),
    [
        (lambda x, i: (x, i % 2), [0, 1] * 4),
        (lambda x, i: [x, "ba"[i % 2]], [1, 0] * 4),
        (lambda x, i: {"image": x, "label": torch.tensor(i % 2)}, [0, 1] * 4),
        (lambda x, i: {"img": x, "other": 3}, [-1] * 8),
        (lambda x, i: x, [-1] * 8),
        (lambda x, i: (x,), [-1] * 8),
    ],
)
def test_samples_are_pairs_images_or_dicts_of_any_kind_of_image(image, whole, labels):
    data = ready(Own(8, lambda i: whole(image(i), i)))
    x, y = everything(data)
    assert torch.equal(x, EXPECTED)
    assert y.tolist() == labels
    assert list(data.names("all")) == [f"train/{i}" for i in range(8)]
    assert (len(data.names("train")), len(data.names("val"))) == ((6, 2) if data.labelled else (7, 1))


def test_lists_of_paths_and_of_pairs_are_datasets(tmp_path):
    paths = [tmp_path / f"ü {i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        picture(i).save(path)
    data = ready([str(path) for path in paths], batch_size=2)
    assert list(data.names("all")) == [path.as_posix() for path in paths]
    assert torch.equal(everything(data)[0], EXPECTED[:3])
    encoded = ready([(path.read_bytes(), "x") for path in paths], batch_size=2)
    assert torch.equal(everything(encoded)[0], EXPECTED[:3])
    assert encoded.classes == ["x"]


def test_train_val_and_test_are_what_they_are_called():
    parts = {role: Own(n, lambda i: (picture(i), "cab"[i % 3])) for role, n in (("train", 6), ("val", 3), ("test", 4))}
    data = ImageData(**parts, channels=3, batch_size=2, num_workers=0)
    data.setup()
    assert [data.splits[split][1].tolist() for split in parts] == [[2, 0, 1] * 2, [2, 0, 1], [2, 0, 1, 2]]
    assert (data.classes, data.served["test"], data.hparams.source) == (
        ["a", "b", "c"],
        "test",
        "train Own, val Own, test Own",
    )
    assert [len(data.names(split)) for split in (*parts, "all")] == [6, 3, 4, 13]
    only = ImageData(test=parts["test"], channels=3, num_workers=0)
    only.setup("test")
    assert only.served["test"] == "test"


def test_a_dataset_that_augments_is_asked_anew_in_every_epoch_and_with_labels_of_its_own_not_before():
    class Kept(Own):
        targets = (0, 1) * 4
        classes = ("cat", "dog")

    drawn = iter(range(1000))
    own = Kept(8, lambda i: (picture(next(drawn) % 200), i % 2))
    data = ImageData(train=own, val=[picture(0)] * 2, channels=3, batch_size=4, num_workers=0)
    data.setup("fit")
    before = own.asked
    assert before < 8  # the labels were not looked for in every sample
    first, second = (torch.cat([x for x, _, _ in data.train_dataloader()]) for _ in range(2))
    assert not torch.equal(first.sort(0).values, second.sort(0).values)
    assert data.classes == ["cat", "dog"]
    subset = ImageData(train=Subset(own, [1, 3, 5]), val=[picture(0)] * 2, channels=3, num_workers=0)
    subset.setup("fit")
    assert (subset.classes, subset.splits["train"][1].tolist()) == (["cat", "dog"], [1, 1, 1])


def test_torchvision_folders_and_hub_sets_go_through_with_their_classes(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(2):
            picture(i).save(tmp_path / name / f"{i}.png")
    data = ready(torchvision.datasets.ImageFolder(tmp_path), batch_size=2)
    assert (data.classes, everything(data)[1].tolist()) == (["cat", "dog"], [0, 0, 1, 1])
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["x", "y"])})
    hub = datasets.Dataset.from_dict({"image": [picture(i) for i in range(8)], "label": [1, 0] * 4}, features)
    data = ready(hub)
    x, y = everything(data)
    assert (data.classes, y.tolist()) == (["x", "y"], [1, 0] * 4)
    assert torch.equal(x, EXPECTED)
    assert torch.equal(everything(ready(hub.cast_column("image", datasets.Image(decode=False))))[0], EXPECTED)


def test_nothing_that_cannot_be_written_down_is_saved_of_a_dataset():
    data = ready(Own(8, lambda i: (picture(i), i % 2)))
    assert not {"train", "val", "test"} & set(data.hparams)
    assert yaml.safe_load(yaml.safe_dump(dict(data.hparams)))["source"] == "train Own"
    pickle.dumps(dict(data.hparams))


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ("photos/", r"train is a str, expected a Dataset with a length, or a list; a folder or file is the source"),
        (Dataset(), r"train is a Dataset, expected a Dataset with a length, or a list"),
        (DataLoader([1, 2]), r"train is a DataLoader; give it to the Trainer itself, or here its dataset"),
        ([], r"train is an empty list"),
        ([(1, 2, 3)], r"sample 0 of the list train is 3 things \(int, int, int\); expected \(image, label\)"),
        ([{"pixels": 1}], r"sample 0 of the list train is a dict of pixels; expected \(image, label\), an image alone"),
        ([object(), object()], r"sample 0 of the list train is a object; expected"),
        ([torch.zeros(6, 6, 3)] * 2, r"is a tensor \(6, 6, 3\), expected \(C, H, W\) .*; permute\(2, 0, 1\) puts"),
        ([np.zeros((3, 6, 6), np.uint8)] * 2, r"is an array \(3, 6, 6\), expected .*transpose\(1, 2, 0\) puts"),
        ([torch.zeros(3, 6, 6) - 1] * 2, r"spans \[-1, -1\], expected floats in \[0, 1\]; leave Normalize out"),
        ([torch.full((3, 6, 6), 200.0)] * 2, r"spans \[200, 200\], expected floats in \[0, 1\]; divide by 255"),
        ([torch.zeros(3, 6, 6, dtype=torch.int64)] * 2, r"is torch.int64, expected uint8, or floats"),
        ([(picture(0), 1), (picture(1), "x")], r"the labels of the list train are int and str; give numbers or names"),
        (
            [(picture(0), [1, 2])] * 2,
            r"the label of sample 0 of the list train is \[1, 2\] \(list\); expected",
        ),
        ([(picture(0), 0), (picture(1), None)], r"row 1 of the list train has the label null"),
    ],
)
def test_what_cannot_be_understood_is_refused_with_what_came_and_what_is_wanted(train, said):
    with pytest.raises(ValueError, match=said):
        ready(train)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"source": "photos/"}, r"source='photos/' and train: Datasets are a source; give one of both"),
        ({"cache": "memmap"}, r"files and rows are kept or left out, of Datasets neither"),
        ({"bad": "skip"}, r"files and rows are kept or left out, of Datasets neither"),
    ],
)
def test_a_dataset_goes_with_no_source_and_no_file_of_a_cache(args, said):
    with pytest.raises(ValueError, match=said):
        ImageData(train=[picture(0)], **args)


# DataLoaders


def fitted(batch, lit=None):
    """Two steps on a DataLoader that gives such batches."""
    lit = lit or zoo.LitMAE("mae_vit_tiny", arch_args={"image_size": 32}, lr=1e-4)
    quiet = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    run = L.Trainer(max_epochs=1, enable_model_summary=False, **quiet)
    run.fit(lit, DataLoader(Own(2, batch), batch_size=None))
    return lit


def shown(*shape, dtype=torch.float32):
    """A batch of four."""
    x = torch.rand(4, *(shape or (3, 32, 32)), generator=torch.Generator().manual_seed(0))
    return (x * 255).to(torch.uint8) if dtype == torch.uint8 else x


@pytest.mark.parametrize(
    "batch",
    [
        lambda i: shown(),
        lambda i: shown(dtype=torch.uint8),
        lambda i: (shown(), torch.zeros(4, dtype=torch.int32)),
        lambda i: [shown(dtype=torch.uint8), torch.zeros(4, dtype=torch.int64)],
        lambda i: {"image": shown()},
        lambda i: {"image": shown(dtype=torch.uint8), "label": torch.zeros(4, dtype=torch.int64), "id": [1] * 4},
    ],
)
def test_a_dataloader_goes_straight_to_the_trainer(batch, monkeypatch):
    seen = []
    step = zoo.LitMAE.training_step
    monkeypatch.setattr(zoo.LitMAE, "training_step", lambda *a: (seen.append(a[1]), step(*a))[1])
    fitted(batch)
    for x, y in seen:
        assert (x.dtype, y.dtype, tuple(y.shape)) == (torch.float32, torch.int64, (4,))
        assert torch.allclose(x, shown(), atol=1 / 255)
        assert 0.9 < x.max() <= 1


def test_a_stream_of_the_library_datasets_is_trained_on(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["x", "y"])})
    pictures = [picture(i).convert("L").resize((28, 28)) for i in range(8)]
    datasets.Dataset.from_dict({"image": pictures, "label": [0, 1] * 4}, features).to_parquet(tmp_path / "t.parquet")
    stream = datasets.load_dataset("parquet", data_files=str(tmp_path / "t.parquet"), split="train", streaming=True)
    lit = zoo.LitClassifier("bilinear_d64", num_classes=2)
    loader = DataLoader(stream, batch_size=4, collate_fn=zoo.collate(lit.model))
    (x, y), _ = loader
    assert (x.shape, y.tolist()) == ((4, 1, 28, 28), [0, 1, 0, 1])
    run = L.Trainer(max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False)
    run.fit(lit, loader)
    assert run.global_step == 4


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (lambda i: shown(32, 32, 3), r"DataLoader is \(4, 32, 32, 3\), expected .*; permute\(0, 3, 1, 2\) puts chan"),
        (lambda i: shown(1, 32, 32), r"is \(4, 1, 32, 32\), expected \(B, C, H, W\) with 3 channels$"),
        (lambda i: shown() * 255, r"spans \[.*, 25\d\], expected floats in \[0, 1\]; divide by 255"),
        (lambda i: shown() - 0.5, r"expected floats in \[0, 1\]; leave Normalize out"),
        (lambda i: {"image": [picture(0)] * 2}, r"a batch of the DataLoader holds a list of Image, expected a tensor"),
        (lambda i: ([picture(0)] * 4, [0] * 4), r"holds a list of Image, expected .* collate_fn=zoo\.collate\(model\)"),
        (lambda i: shown().long(), r"is torch\.int64, expected uint8, or floats in \[0, 1\]"),
        (lambda i: (shown(), 0, 0), r"a batch of the DataLoader is 3 things"),
        (lambda i: [picture(0)] * 4, r"holds a list of Image, expected .*; give the DataLoader collate_fn"),
    ],
)
def test_a_batch_that_cannot_be_understood_is_refused(batch, said):
    with pytest.raises(ValueError, match=said):
        fitted(batch)


def test_a_loader_that_does_not_tell_its_batch_is_refused_where_the_rate_hangs_on_it():
    with pytest.raises(ValueError, match="does not say how large its batches are, by which base_lr is scaled; give lr"):
        fitted(lambda i: shown(), zoo.LitMAE("mae_vit_tiny", arch_args={"image_size": 32}))


def test_labels_of_a_dataloader_are_the_models_classes():
    x, args = shown(1, 28, 28), {"arch": "bilinear_d64", "num_classes": 3}
    fitted(lambda i: (x, torch.tensor([0, 1, 2, 0])), zoo.LitClassifier(**args))
    for batch, said in (
        (x, "has no labels, which this model needs; give"),
        ((x, torch.tensor([0, 1, 2, 3])), r"sample 3 of the DataLoader has the label 3, allowed 0 to 2"),
        ((x, ["a"] * 4), r"labels of the DataLoader's batches are list, expected a tensor"),
    ):
        with pytest.raises(ValueError, match=said):
            fitted(lambda i, batch=batch: batch, zoo.LitClassifier(**args))


def test_a_datamodule_of_ones_own_goes_through_too_and_is_not_kept(recwarn):
    class Mine(L.LightningDataModule):
        def train_dataloader(self):
            return DataLoader(TensorDataset(shown(dtype=torch.uint8)), batch_size=2)

    mine, quiet = Mine(), {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    for _ in range(2):
        lit = zoo.LitMAE("mae_vit_tiny", arch_args={"image_size": 32}, lr=1e-4)
        run = L.Trainer(max_epochs=1, enable_progress_bar=False, enable_model_summary=False, **quiet)
        run.fit(lit, mine)
        assert mine.on_after_batch_transfer.__self__ is lit
        assert lit.looked
    assert not [w for w in recwarn if "overridden" in str(w.message)]
    run.fit(lit, ImageData(train=[picture(i) for i in range(4)], image_size=32, channels=3, batch_size=2))
    assert not [w for w in recwarn if "overridden" in str(w.message)]


def test_a_datamodule_prints_what_was_given_and_what_it_holds():
    data = zoo.ImageData("samples/mnist", batch_size=7)
    assert str(data) == repr(data) == "ImageData(batch_size=7)"
    data.setup()
    assert str(data) == "ImageData(batch_size=7): train 1,000, val 1,000, test 1,000"
    assert str(zoo.RandomImages((1, 28, 28), 5)) == "RandomImages(num_images=5)"
