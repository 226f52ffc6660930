"""FactorData: images with known causes, batches (B, C, H, W) in [0, 1] with classes of the factors (B, S) int64.

N images · B of a batch · S factors · C H W channels and sides in px · P = H·W pixels
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities.data import AttributeDict
from torch import Tensor

from zoo.data.batches import AfterSetup, Batches, DataModule, InMemory
from zoo.nn.checks import check_least, check_types

# The rendered set: one flat figure before a flat ground. Not dSprites: other figures, colours, and turns.
RENDERED = {"shape": 4, "scale": 4, "turn": 6, "x": 8, "y": 8, "colour": 6, "ground": 6}
SHAPES = ("square", "triangle", "ellipse", "heart")
SYMMETRY = (4, 3, 2, 1)  # how many turns of a shape by 360°/n look alike
DSPRITES = {"shape": 3, "scale": 6, "orientation": 40, "x": 32, "y": 32}
SHAPES3D = {"floor": 10, "wall": 10, "object": 10, "scale": 8, "shape": 4, "orientation": 15}
MPI3D = ("colour", "shape", "size", "height", "background", "horizontal", "vertical")
MPI3D_SIZES = ((6, 6, 2, 3, 3, 40, 40), (4, 4, 2, 3, 3, 40, 40))  # toy, realistic and real; real complex


class FactorData(DataModule):
    """Images of every combination of a few factors, and the factors' classes; training and test images differ in draw.

    Args:
        source: "rendered", made on the device from its factors as it is needed; or a file: dSprites' `.npz`, MPI3D's
            `.npz`, Shapes3D's `.h5` (with h5py).
        image_size: side in px; files have 64.
        num_images, num_test: how many are drawn for training, and for validation and test.
        batch_size: images of a training batch, per process.
        eval_batch_size: of a validation or test batch; None: `batch_size`.
        seed: of the draws and of the order.

    Raises:
        ValueError: a file of another kind, fewer images than are asked for, a size below 1.
        FileNotFoundError: no such file.
    """

    hparams: AttributeDict  # the arguments, by name

    def __init__(
        self,
        source: str = "rendered",
        image_size: int = 64,
        num_images: int = 50_000,
        num_test: int = 10_000,
        batch_size: int = 128,
        eval_batch_size: int | None = None,
        seed: int = 0,
    ):
        check_types(FactorData, locals())
        super().__init__()
        check_least(1, image_size=image_size, num_images=num_images, num_test=num_test)
        check_least(1, batch_size=batch_size, eval_batch_size=eval_batch_size)
        check_least(0, seed=seed)
        self.save_hyperparameters()
        self.splits: dict[str, tuple[InMemory, Tensor]] = (
            AfterSetup()
        )  # uint8 images (N, C, H, W), or rendered factors (N, S)
        self.peak: float | None = None  # the pixel value that is white; None where images are rendered
        self.factors: dict[str, int] = RENDERED if source == "rendered" else {}  # name -> how many classes

    def setup(self, stage: str | None = None) -> None:
        """Draw, and read a file's images once."""
        if self.splits:
            return
        h = self.hparams
        if h.source == "rendered":
            generator = torch.Generator().manual_seed(h.seed)
            count = h.num_images + h.num_test
            y = torch.stack([torch.randint(n, (count,), generator=generator) for n in RENDERED.values()], 1)  # (N, S)
            x = y
        else:
            x, y, self.factors, self.peak = read(Path(h.source).expanduser(), h.num_images + h.num_test, h.seed)
            if x.shape[-1] != h.image_size:
                raise ValueError(f"{h.source} has {x.shape[-1]} px images, given image_size={h.image_size}")
        held, train = slice(0, h.num_test), slice(h.num_test, None)
        self.splits = {"train": (InMemory(x[train]), y[train]), "val": (InMemory(x[held]), y[held])}
        self.splits["test"] = self.splits["val"]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image, after setup."""
        if self.peak is None:
            return 3, self.hparams.image_size, self.hparams.image_size
        _, channels, height, width = self.splits["test"][0].array.shape
        return channels, height, width

    def train_dataloader(self) -> Batches:
        return self._batches("train", self.hparams.batch_size, shuffle=True)

    def val_dataloader(self) -> Batches:
        return self._batches("val", self.hparams.eval_batch_size or self.hparams.batch_size, shuffle=False)

    def test_dataloader(self) -> Batches:
        return self._batches("test", self.hparams.eval_batch_size or self.hparams.batch_size, shuffle=False)

    def in_order(self, split: str, batch_size: int) -> Batches:
        """A split as it is, nothing shuffled or left out."""
        return self._batches(split, batch_size, shuffle=False)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Factors or uint8 on the device → images (B, C, H, W) float in [0, 1], factors (B, S)."""
        x, y, _ = batch
        return render(x, self.hparams.image_size) if self.peak is None else x.float() / self.peak, y

    def _batches(self, split: str, batch_size: int, shuffle: bool) -> Batches:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return Batches(*self.splits[split], batch_size, shuffle, self.hparams.seed, rank, world)


def render(factors: Tensor, image_size: int = 64) -> Tensor:
    """Scenes of the rendered set: classes (N, S) of RENDERED, in its order → (N, 3, H, W) float in [0, 1].

    A figure turns within its own symmetry, by sixths of 90° for the square and of 360° for the heart, so that no two
    turns look alike. Edges are one pixel wide and every figure stays inside.

    Raises:
        ValueError: classes out of range, or as many columns as there are not factors.
    """
    sizes = factors.new_tensor(list(RENDERED.values()))
    if factors.ndim != 2 or factors.shape[1] != len(sizes) or factors.is_floating_point():
        raise ValueError(f"factors are {factors.dtype} {tuple(factors.shape)}, expected int64 (N, {len(sizes)})")
    if not ((factors >= 0) & (factors < sizes)).all():
        raise ValueError(f"a factor is out of range; each is 0 to one below {RENDERED}")
    shape, scale, turn, x, y, colour, ground = factors.unbind(1)  # (N,) each
    at = (torch.arange(image_size, device=factors.device) + 0.5) / image_size * 2 - 1  # (H,), -1 to 1
    period = 2 * math.pi / factors.new_tensor(SYMMETRY)[shape].float()  # (N,)
    angle, radius = turn / RENDERED["turn"] * period, 0.18 + 0.06 * scale
    place = [0.5 * (2 * v / (RENDERED[name] - 1) - 1) for v, name in ((x, "x"), (y, "y"))]  # two of (N,)
    dx = (at[None, None, :] - place[0][:, None, None]) / radius[:, None, None]  # (N, 1, W)
    dy = (at[None, :, None] - place[1][:, None, None]) / radius[:, None, None]  # (N, H, 1)
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    u, v = cos * dx + sin * dy, cos * dy - sin * dx  # (N, H, W) each, in radii
    distance = torch.empty_like(u)
    for i, of in enumerate((_square, _triangle, _ellipse, _heart)):
        some = shape == i
        distance[some] = of(u[some], v[some])
    inside = (0.5 - distance * radius[:, None, None] * image_size / 2).clamp(0, 1)[:, None]  # (N, 1, H, W)
    front, back = _colour(colour, RENDERED["colour"], 1.0, 0.0), _colour(ground, RENDERED["ground"], 0.45, 0.5)
    return inside * front[:, :, None, None] + (1 - inside) * back[:, :, None, None]  # (N, 3, H, W)


def read(path: Path, count: int, seed: int) -> tuple[Tensor, Tensor, dict[str, int], float]:
    """`count` images of a file drawn without repeats: uint8 (N, C, H, W), factors (N, S), their sizes, the peak value.

    Raises:
        ValueError: not one of the three formats, or too few images.
        FileNotFoundError: no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; give dSprites' or MPI3D's .npz, Shapes3D's .h5, or 'rendered'")
    if path.suffix in (".h5", ".hdf5"):
        import h5py

        with h5py.File(path) as file:
            rows = _rows(len(file["images"]), count, seed, path)
            order = np.argsort(rows)  # h5py reads rising rows
            x = np.empty((count, *file["images"].shape[1:]), np.uint8)
            x[order] = file["images"][rows[order]]
            y = np.stack([np.unique(c, return_inverse=True)[1] for c in file["labels"][:].T], 1)[rows]
        sizes = SHAPES3D
    else:
        try:
            file = np.load(path, allow_pickle=False)
            keys = set(file.files)
        except (ValueError, OSError, AttributeError) as error:
            raise ValueError(f"{path} is no .npz archive: {error}; download it again") from error
        if {"imgs", "latents_classes"} <= keys:
            x, y, sizes = file["imgs"][..., None], file["latents_classes"][:, 1:], DSPRITES  # all are white
        elif "images" in keys:
            x = file["images"]
            shape = next((s for s in MPI3D_SIZES if math.prod(s) == len(x)), None)
            if shape is None:
                raise ValueError(f"{path} has {len(x)} images, MPI3D has 1,036,800 or 460,800; download it again")
            y, sizes = np.stack(np.unravel_index(np.arange(len(x)), shape), 1), dict(zip(MPI3D, shape))
        else:
            raise ValueError(f"{path} holds {', '.join(sorted(keys))}; expected dSprites' imgs or MPI3D's images")
        rows = _rows(len(x), count, seed, path)
        x, y = x[rows], y[rows]
    images = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))  # (N, C, H, W)
    return images, torch.from_numpy(np.ascontiguousarray(y, np.int64)), sizes, 1.0 if sizes is DSPRITES else 255.0


def _rows(there: int, count: int, seed: int, path: Path) -> np.ndarray:
    if count > there:
        raise ValueError(f"{path} has {there} images, num_images and num_test ask for {count}; lower them")
    return np.random.default_rng(seed).permutation(there)[:count]


def _colour(index: Tensor, count: int, value: float, shift: float) -> Tensor:
    """Hues evenly round the wheel, (N,) → (N, 3)."""
    hue = (index + shift) / count  # (N,)
    offsets = torch.tensor([0.0, 2 / 3, 1 / 3], device=index.device)
    ramp = (((hue[:, None] + offsets) % 1 * 6 - 3).abs() - 1).clamp(0, 1)  # (N, 3)
    return value * (0.25 + 0.75 * ramp)


# Signed distances to a figure's edge, below 0 inside; points in units of its radius, y downwards.


def _square(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(u.abs(), v.abs()) - 0.8


def _triangle(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(v, 3**0.5 / 2 * u.abs() - v / 2) - 0.55


def _ellipse(u: Tensor, v: Tensor) -> Tensor:
    a, b = 1.0, 0.55
    k = ((u / a).square() + (v / b).square()).sqrt()
    slope = ((u / a**2).square() + (v / b**2).square()).sqrt().clamp(min=1e-6)
    return k * (k - 1) / slope


def _heart(u: Tensor, v: Tensor) -> Tensor:
    """A square on its corner, and a disc on each of its upper sides."""
    v = v + 0.1
    corner = (u.abs() + v.abs() - 0.8) / 2**0.5
    disc = ((u.abs() - 0.4).square() + (v + 0.4).square()).sqrt() - 0.8 / 2**0.5
    return torch.minimum(corner, disc)
