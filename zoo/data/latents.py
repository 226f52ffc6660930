"""Latents of a data set, computed once: `write` them with an autoencoder, train on them with `LatentData`.

A folder of latents holds config.json, and of a split, train or test, SPLIT_latents.npy (N, c, h, w) or (N, D), float16,
and SPLIT_labels.npy (N,) int64. Latents lie there as the decoder takes them; batches are normalised as diffusion wants
them.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities.data import AttributeDict
from torch import Tensor

from zoo import hub
from zoo.data.batches import AfterSetup, Batches, DataModule, InMemory
from zoo.data.images import ImageData
from zoo.data.pixels import Pixels, Rows
from zoo.data.progress import Progress
from zoo.data.readers import ALL, STAND_IN
from zoo.data.seeds import held_out
from zoo.data.writing import growing
from zoo.metrics.moments import Moments
from zoo.nn.checks import check_least, check_types
from zoo.nn.frozen import fingerprint
from zoo.nn.protocols import HasCodes, HasLatents, Network
from zoo.redact import redacted

FORMAT = "latentzoo latents 1"
READING = ("value_range", "image_column", "label_column")  # keywords of ImageData that say how a source is read


@torch.no_grad()
def write(
    model: Network, data: ImageData, folder: str | Path, flip: bool = False, batch_size: int = 64, name: str = ""
) -> Path:
    """Encode the training and the test split of `data` as they are, nothing augmented; without splits, all of it.

    Each file is written aside and renamed, config.json last: a folder with one is whole.

    Args:
        model: one that HasLatents, on any device.
        data: sized for the model. Of a source with neither validation nor test split all is for training, unless
            there is a val_fraction.
        flip: training images mirrored too, after the others.
        name: the weights' name, for whoever decodes; by default what the model remembers.

    Raises:
        ValueError: a model without latents or without statistics of them, or latents beyond float16.
    """
    if not isinstance(model, HasLatents):
        raise ValueError(_no_latents(model))
    if not model.measured:
        raise ValueError(
            "this model's latent_mean and latent_std were never measured; `zoo latents … --measure FOLDER` does so "
            "first and saves the model there"
        )
    folder = Path(folder)
    model.eval()
    splits = _read(data)
    folder.mkdir(parents=True, exist_ok=True)
    config: dict[str, Any] = {
        "format": FORMAT,
        "encoder": name or model.zoo_config.get("name", model.zoo_config["arch"]),
        "fingerprint": fingerprint(model),
        "mean": model.latent_mean.cpu().tolist(),
        "std": model.latent_std.cpu().tolist(),
        "source": redacted(data.hparams.source),
        "flip": flip,
        "image_size": data.input_shape[-1],
        "classes": data.classes,
        **{key: data.hparams[key] for key in READING},
        "every_class": data.every_class,
    }
    with hub.write_aside(folder) as aside:
        for split, there in splits.items():
            turns = (False, True) if flip and split == "train" else (False,)
            batches = data.in_order(there, batch_size)
            labels: list[Tensor] = []
            moments = Moments(_of_channels(model.latent_shape))
            with (
                growing(aside(f"{split}_latents.npy")) as grow,
                Progress(len(batches.labels) * len(turns), f"{split} pictures") as progress,
            ):
                for mirrored in turns:
                    for batch in batches:
                        x, y = data.on_after_batch_transfer(batch, 0)
                        z = model.encode((x.flip(-1) if mirrored else x).to(model.latent_std.device)).cpu()  # (B, …)
                        half = z.half()
                        if not half.isfinite().all():
                            raise ValueError(
                                f"latents reach {z.abs().max():.3g}, beyond float16; normalise the model first"
                            )
                        grow(half)
                        labels.append(y)
                        moments.update(z)
                        progress.add(len(z))
            with open(aside(f"{split}_labels.npy"), "wb") as file:
                np.save(file, torch.cat(labels).numpy())
            shape = [sum(map(len, labels)), *z.shape[1:]]
            mean, std = (m.flatten() for m in moments.compute())  # (c,) each
            config[split] = {"shape": shape, "mean": mean.tolist(), "std": std.tolist()}
        aside(hub.CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        (folder / hub.CONFIG).unlink(missing_ok=True)  # which does not speak of the files that now take their places
    if "test" not in splits:
        for stale in ("test_latents.npy", "test_labels.npy"):  # of what was there before
            (folder / stale).unlink(missing_ok=True)
    return folder


@torch.no_grad()
def measure(model: Network, data: ImageData, batch_size: int = 64) -> None:
    """Set a model's `latent_mean` and `latent_std` to those of the training images, exactly, in one pass.

    Raises:
        ValueError: a model without latents.
    """
    if not isinstance(model, HasLatents):
        raise ValueError(_no_latents(model))
    there = _read(data)["train"]
    own = model.latent_mean
    moments = Moments(tuple(own.shape) if own.ndim == len(model.latent_shape) else _of_channels(model.latent_shape))
    for batch in data.in_order(there, batch_size):
        x, _ = data.on_after_batch_transfer(batch, 0)
        moments.update(model.eval().encode(x.to(model.latent_std.device)).cpu())
    for own, measured in zip((model.latent_mean, model.latent_std), moments.compute()):
        own.copy_(measured.reshape(own.shape))


def foreign(folder: Path) -> str | None:
    """Why a folder may not be written over; None where it holds latents."""
    config = folder / hub.CONFIG
    ours = config.is_file() and isinstance(said := hub.read_json(config), dict) and said.get("format") == FORMAT
    return None if ours else "it holds no latents"


def _read(data: ImageData) -> dict[str, str]:
    """Set up the splits that latents are written of: "train" and "test" → what each is in the data.

    All pictures of a source without splits are for training, unless a share is to be held out.
    """
    data.prepare_data()
    if set(data.roles()) == {"train"} and not data.hparams.val_fraction:
        data.in_order(ALL, 1)  # reads them
        return {"train": ALL}
    data.setup()
    return {"train": "train", "test": "test"}


def _no_latents(model: Network) -> str:
    codes = isinstance(model, HasCodes) and model.count_codes() > 0
    more = "; `zoo codes` writes its codes" if codes else ""
    return f"{type(model).__name__} has no continuous latents whose mean and deviation are known{more}"


def _of_channels(latent_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of statistics of each channel of a map (c, h, w), or of each number of a vector (D,)."""
    return (latent_shape[0], *[1] * (len(latent_shape) - 1))


class LatentData(DataModule):
    """Batches of written latents: (latents (B, c, h, w) or (B, D), normalised, labels (B,)). Nothing is encoded again.

    Args:
        folder: what `write` or `zoo latents` wrote.
        batch_size: latents of a training batch, per process.
        eval_batch_size: of a validation or test batch; None: `batch_size`.
        seed: of the order.
        encoder: weights that must have made the latents, by name or place; None trusts the folder.
        val_fraction: share of the training latents that is held out for validation, with what is mirrored of it; with
            0 validation is the test split, which a folder that was written of a source without splits lacks.

    Raises:
        FileNotFoundError: no such folder, or one that was not finished.
        ValueError: latents of another encoder, or another format.
    """

    hparams: AttributeDict  # the arguments, by name

    def __init__(
        self,
        folder: str,
        batch_size: int = 256,
        eval_batch_size: int | None = None,
        seed: int = 0,
        encoder: str | None = None,
        val_fraction: float = 0.0,
    ):
        check_types(LatentData, locals())
        super().__init__()
        check_least(1, batch_size=batch_size, eval_batch_size=eval_batch_size)
        check_least(0, seed=seed)
        if not 0 <= val_fraction < 1:
            raise ValueError(f"val_fraction={val_fraction}, allowed 0 to below 1")
        self.save_hyperparameters()
        path = Path(folder) / hub.CONFIG
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder} has no {hub.CONFIG}: write it with `zoo latents MODEL SOURCE -o {folder}`"
            )
        self.config = hub.read_json(path)
        if not isinstance(self.config, dict) or self.config.get("format") != FORMAT:
            raise ValueError(f"{path} is no config of latents; write them with `zoo latents`")
        if encoder is not None and fingerprint(hub.load(encoder)) != self.config["fingerprint"]:
            raise ValueError(
                f"{folder} was written by {self.config['encoder']}, whose tensors are not those of {encoder}; write it "
                "again, or decode with the encoder it was written by"
            )
        if not {"mean", "std", "classes", "train"} <= self.config.keys():
            raise ValueError(
                f"{path} has no statistics, classes or splits of the latents; write them again with `zoo latents`"
            )
        self.classes: list[str] = self.config["classes"]
        self._statistics: Tensor | None = None
        self.splits: dict[str, tuple[InMemory, Tensor]] = AfterSetup()
        self.served: dict[str, str] = {}  # role → the split that serves as it

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(c, h, w) or (D,) of every latent."""
        return tuple(self.config["train"]["shape"][1:])

    def setup(self, stage: str | None = None) -> None:
        """Map the files."""
        maps = self._maps()
        self._serve(maps, maps["train"][1])

    def _maps(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Latents and labels of the splits that were written."""
        maps = {}
        for split in (role for role in ("train", "test") if role in self.config):
            latents, labels = (
                np.load(Path(self.hparams.folder) / f"{split}_{what}.npy", mmap_mode="c", allow_pickle=False)
                for what in ("latents", "labels")
            )
            if list(latents.shape) != self.config[split]["shape"] or len(labels) not in (len(latents),):
                raise ValueError(
                    f"{self.hparams.folder} is damaged: {split} is not what config.json says; write it again"
                )
            maps[split] = torch.from_numpy(latents), torch.from_numpy(np.array(labels))
        return maps

    def _serve(self, maps: dict[str, tuple[Tensor, Tensor]], classes: Tensor) -> None:
        """Make splits of latents and of what travels with them; of training's a share is held out by its classes."""
        h = self.hparams
        self.splits |= {split: (InMemory(latents), labels) for split, (latents, labels) in maps.items()}
        self.served = {split: split for split in maps}
        if h.val_fraction:
            latents, labels = maps["train"]
            turns = 2 if self.config.get("flip") else 1
            count = len(labels) // turns
            parts = held_out(classes[:count].numpy(), h.val_fraction, h.seed)
            for split, part in zip(("train", "val"), map(torch.from_numpy, parts)):
                every = torch.cat([part + turn * count for turn in range(turns if split == "train" else 1)])
                self.splits[split] = InMemory(Rows(latents, every)), labels[every]
            self.served["val"] = "val"
        for role, other in STAND_IN.items():
            if role not in self.served and other in self.served:
                self.splits[role], self.served[role] = self.splits[other], other

    def train_dataloader(self) -> Batches:
        return self._batches("train", self.hparams.batch_size, shuffle=True)

    def val_dataloader(self) -> Batches:
        return self._batches("val", self.hparams.eval_batch_size or self.hparams.batch_size, shuffle=False)

    def test_dataloader(self) -> Batches:
        return self._batches("test", self.hparams.eval_batch_size or self.hparams.batch_size, shuffle=False)

    def in_order(self, split: str, batch_size: int) -> Batches:
        """A split as it is, nothing shuffled or left out."""
        return self._batches(split, batch_size, shuffle=False)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> tuple[Tensor | tuple[Tensor, Tensor], Tensor]:
        """float16 (B, c, h, w) or (B, D) on the device → normalised, float32."""
        z, y, _ = batch
        if self._statistics is None:
            both = torch.tensor([self.config["mean"], self.config["std"]])  # (2, c), (2, c, h, w) or (2, D)
            self._statistics = both.reshape(*both.shape, *[1] * (z.ndim - both.ndim))  # of as many axes as z
        mean, std = self._statistics = self._statistics.to(z.device)  # (c, 1 or h, 1 or w) or (D,) each
        return (z.float() - mean) / std, y  # (B, c, h, w) or (B, D), (B,)

    def _batches(self, split: str, batch_size: int, shuffle: bool) -> Batches:
        if self.splits and split not in self.splits:
            raise ValueError(
                f"{self.hparams.folder} was written of a source without splits and has no {split} latents; hold out a "
                "share of them with --data.val_fraction 0.1, or write them of a source with a val or test split"
            )
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return Batches(*self.splits[split], batch_size, shuffle, self.hparams.seed, rank, world)


class ImageLatentData(LatentData):
    """Images and their written latents, for training a decoder: ((images, latents as written), labels).

    What the encoder gives is read, not computed: images are seen as they were encoded, mirrored where that was asked.

    Args:
        folder, batch_size, eval_batch_size, seed, encoder, val_fraction: as LatentData's.
        source: the images, as ImageData's; None is where they were.
        cache: as ImageData's.

    Raises:
        ValueError: other images than were encoded.
    """

    def __init__(
        self,
        folder: str,
        source: str | None = None,
        batch_size: int = 256,
        eval_batch_size: int | None = None,
        seed: int = 0,
        encoder: str | None = None,
        cache: str = "auto",
        val_fraction: float = 0.0,
    ):
        check_types(ImageLatentData, locals())
        super().__init__(folder, batch_size, eval_batch_size, seed, encoder, val_fraction)
        self.save_hyperparameters()
        self.images: dict[str, tuple[Pixels, Tensor]] = {}  # of a split, with their labels

    def setup(self, stage: str | None = None) -> None:
        """Map the latents, read the images."""
        maps = self._maps()
        source = self.hparams.source or self.config["source"]
        reading = {key: self.config.get(key) for key in READING}
        reading["value_range"] = reading["value_range"] and tuple(reading["value_range"])
        images = ImageData(source, self.config["image_size"], 3, cache=self.hparams.cache, **reading)
        images.every_class = self.config.get("every_class", False)
        there = _read(images)
        places = {}
        for split, (latents, labels) in maps.items():
            pixels, classes = images.splits[there.get(split, split)]
            if not isinstance(pixels, Pixels):
                raise ValueError(f"{source} is a stream, whose images have no numbers; give what it was made of")
            turns = 2 if split == "train" and self.config.get("flip") else 1
            if not torch.equal(labels, classes.repeat(turns)):
                raise ValueError(
                    f"{self.hparams.folder} was written of {self.config['source']}, whose {split} images are not those "
                    f"of {source}"
                )
            self.images[split] = pixels, classes
            place = torch.arange(len(labels))  # the place of each travels where labels do, of the test split as -1 - i
            places[split] = latents, place if split == "train" else -1 - place
        self._serve(places, maps["train"][1])

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """→ ((images (B, 3, H, W) in [0, 1], latents (B, c, h, w)), labels (B,))."""
        z, i, _ = batch
        pixels, labels = self.images["test" if (i < 0).any() else "train"]
        i = torch.where(i < 0, -1 - i, i)
        place, count = i.cpu(), len(labels)
        if pixels.array is not None:
            x = pixels.array[place % count]  # (B, 3, H, W)
        else:
            x = torch.stack([pixels[int(k)] for k in place % count])  # (B, 3, H, W)
        mirrored = (i >= count)[:, None, None, None]
        x = x.to(z.device, non_blocking=True).float() / 255  # (B, 3, H, W)
        return (torch.where(mirrored, x.flip(-1), x), z.float()), labels[place % count].to(z.device)
