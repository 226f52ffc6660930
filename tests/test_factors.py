"""FactorData: what a factor changes and what it leaves, the same draw for the same seed, files, bad input."""

import numpy as np
import pytest
import torch

from zoo.data import factors
from zoo.data.factors import RENDERED, FactorData, render

BASE = torch.tensor([3, 2, 1, 4, 4, 0, 3])  # a heart


def turned(name: str) -> torch.Tensor:
    """The base scene with one factor at each of its values, (n, S)."""
    found = BASE.repeat(RENDERED[name], 1)
    found[:, list(RENDERED).index(name)] = torch.arange(RENDERED[name])
    return found


@pytest.mark.parametrize("name", RENDERED)
@pytest.mark.parametrize("shape", range(4))
def test_every_value_of_a_factor_looks_different(name, shape):
    scenes = turned(name)
    if name != "shape":
        scenes[:, 0] = shape
    images = render(scenes)
    assert images.shape == (RENDERED[name], 3, 64, 64)
    assert 0 <= images.min() <= images.max() <= 1
    different = torch.cdist(images.flatten(1), images.flatten(1)) + 99 * torch.eye(len(images))
    assert different.min() > 1


def test_a_factor_changes_what_it_names():
    def mask(images):
        return (images - images[:, :, :1, :1]).abs().sum(1) > 1e-3

    for name in ("colour", "ground"):  # the figure stays where it is
        masks = mask(render(turned(name)))
        assert (masks == masks[0]).all()
    sizes = mask(render(turned("scale"))).sum((1, 2))
    assert (sizes.diff() > 20).all()
    grid = torch.arange(64.0)
    for name, axis in (("x", 1), ("y", 2)):
        masks = mask(render(turned(name))).float()
        centre = (masks.sum(axis) * grid).sum(1) / masks.sum((1, 2))
        assert (centre.diff() > 3).all()


def test_every_scene_is_whole():
    scenes = torch.cartesian_prod(*(torch.tensor(v) for v in (range(4), [3], range(6), [0, 7], [0, 7], [0], [3])))
    images = render(scenes)
    border = torch.cat([images[:, :, 0], images[:, :, -1], images[:, :, :, 0], images[:, :, :, -1]], 2)
    assert (border - images[:, :, :1, 0]).abs().max() < 1e-6


def test_the_same_seed_draws_the_same_and_test_scenes_are_fixed():
    def first(seed):
        data = FactorData(num_images=64, num_test=32, batch_size=16, seed=seed)
        data.setup()
        batches = [
            data.on_after_batch_transfer(next(iter(d)), 0) for d in (data.train_dataloader(), data.test_dataloader())
        ]
        return data, batches

    (data, a), (_, b), (_, c) = first(0), first(0), first(1)
    assert all(torch.equal(x, y) for p, q in zip(a, b) for x, y in zip(p, q))
    assert not torch.equal(a[0][1], c[0][1])
    x, y = a[0]
    assert x.shape == (16, *data.input_shape)
    assert x.dtype == torch.float32
    assert y.shape == (16, len(data.factors))
    assert y.dtype == torch.int64
    assert torch.equal(x, render(y))


def test_dsprites_file(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 2, (40, 64, 64), dtype=np.uint8)
    classes = np.stack([np.zeros(40, int), *(rng.integers(0, n, 40) for n in factors.DSPRITES.values())], 1)
    np.savez(tmp_path / "d.npz", imgs=images, latents_classes=classes)
    data = FactorData(str(tmp_path / "d.npz"), num_images=24, num_test=16, batch_size=8)
    data.setup()
    assert data.input_shape == (1, 64, 64)
    assert list(data.factors) == ["shape", "scale", "orientation", "x", "y"]
    for split in ("train", "test"):
        for batch in data.in_order(split, 8):
            x, y = data.on_after_batch_transfer(batch, 0)
            for image, label in zip(x, y):
                (row,) = np.flatnonzero((images == image[0].numpy()).all((1, 2)))
                assert (classes[row, 1:] == label.numpy()).all()
    assert x.max() == 1


def test_mpi3d_file(tmp_path, monkeypatch):
    monkeypatch.setattr(factors, "MPI3D_SIZES", ((2, 2, 2, 1, 1, 3, 3),))
    images = np.arange(72, dtype=np.uint8)[:, None, None, None].repeat(64, 1).repeat(64, 2).repeat(3, 3)
    np.savez(tmp_path / "m.npz", images=images)
    data = FactorData(str(tmp_path / "m.npz"), num_images=60, num_test=12, batch_size=12)
    data.setup()
    x, y = data.on_after_batch_transfer(next(iter(data.test_dataloader())), 0)
    index = (x[:, 0, 0, 0] * 255).round().long()
    assert torch.equal(index, y @ torch.tensor([36, 18, 9, 9, 9, 3, 1]))


def test_bad_input_is_refused_with_its_message(tmp_path):
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "other.npz", pictures=np.zeros(3))
    np.savez(tmp_path / "few.npz", imgs=np.zeros((5, 64, 64), np.uint8), latents_classes=np.zeros((5, 6), int))
    np.savez(tmp_path / "cut.npz", images=np.zeros((7, 64, 64, 3), np.uint8))
    for name, message in (
        ("text.npz", "is no .npz archive"),
        ("other.npz", "holds pictures; expected dSprites' imgs"),
        ("few.npz", "has 5 images, num_images and num_test ask for 60000"),
        ("cut.npz", "has 7 images, MPI3D has 1,036,800"),
    ):
        with pytest.raises(ValueError, match=message):
            FactorData(str(tmp_path / name)).setup()
    with pytest.raises(FileNotFoundError, match="no file"):
        FactorData("nowhere.npz").setup()
    with pytest.raises(ValueError, match="at least 1"):
        FactorData(num_images=0)
    with pytest.raises(ValueError, match=r"expected int64 \(N, 7\)"):
        render(torch.rand(3, 7))
    with pytest.raises(ValueError, match="out of range"):
        render(torch.full((1, 7), 9))
