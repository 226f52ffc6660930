"""ClipData: labelled clips of video, batches (B, F, C, H, W) in [0, 1] with labels (B,) int64.

A video is decoded in a worker by `zoo.data.video`, as far as its clips need, and cropped there; uint8 travels to the
device. Sprites and moving digits are made here.

B clips of a batch · F frames · C channels · H W sides in px · R clips of a video
"""

import math
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from lightning.fabric.utilities.data import AttributeDict
from torch import Tensor

from zoo.data import cache, readers, shards
from zoo.data.augment import erase, policy
from zoo.data.batches import AfterSetup, Batches, DataModule, InMemory, Split
from zoo.data.folders import SPLITS, read_folder
from zoo.data.pictures import decode, reason
from zoo.data.seeds import mix, seeded
from zoo.data.video import DECODER, check_count, check_frames, check_library, read_frames
from zoo.nn.checks import check_least, check_types
from zoo.registry import suggest

SUFFIXES = (".mp4", ".webm", ".avi", ".gif", ".mkv", ".mov", ".m4v")
SCALES = (1.0, 0.875, 0.75, 0.66)  # of VideoMAE's multi-scale crop, shares of the shorter side

# Sprites (Li and Mandt 2018): sheets of the Liberated Pixel Cup, 13 columns of 64×64 cells; cell numbers by frame.
SHEET_LAYERS = ("body", "bottomwear", "topwear", "hair")
ACTIONS = {
    "walk, left": (125, *range(118, 125)),
    "walk, front": (138, *range(131, 138)),
    "walk, right": (151, *range(144, 151)),
    "spell cast, left": (*range(13, 19), 17, 19),
    "spell cast, front": (*range(26, 32), 30, 32),
    "spell cast, right": (*range(39, 45), 43, 45),
    "slash, left": (*range(169, 175), 173, 169),
    "slash, front": (*range(182, 188), 186, 182),
    "slash, right": (*range(195, 201), 199, 195),
}

Splits = dict[str, tuple[Split, Tensor]]
Listed = dict[str, tuple[list[Path], list[int]]]  # files and labels of each split, -1 where there is none


class ClipData(DataModule):
    """Clips and labels from video files, or made: Sprites, moving digits.

    Args:
        source: a folder of videos, `train/CLASS/*.mp4` and so on (mp4, webm, avi, gif, mkv, mov) or without classes, or
            of lists, `train.csv` with lines "path label" or "path,label" (Kinetics', SSv2's; paths relative to it);
            "sprites", which ships with the package, or "sprites:FOLDER" with the sheets elsewhere; "moving:SOURCE", the
            digits of an ImageData source on the move; "shards:PLACE", a stream from a folder or URL of `zoo shard`.
        frames: F.
        image_size: side in px.
        channels: 3, or 1 for moving digits.
        sampling: "dense", frames `stride` apart from any start; "uniform", one of each of F equal parts (SSv2's).
        stride: of dense sampling, in frames as they are shown, whatever their rate; a video too short for it is sampled
            as densely as it must be.
        repeats: R, clips cut from a video each time it is decoded, in training (Hoffer et al. 2020); a batch then holds
            batch_size/R videos, and these are what `base_lr` counts.
        crop: "multi_scale", a rectangle with sides of 1 to 0.66 of the shorter one (VideoMAE's), "resized", a share
            `crop_scale` of the area, or "centre", in training. Evaluation always cuts the centre.
        crop_scale: from and to; half to all is MAE-ST's.
        randaugment: timm's description of a RandAugment, the same for all frames of a training clip.
        erase: probability with which a rectangle of a training clip becomes noise, in all its frames.
        flip: mirror half of the training clips, whole.
        views: of a test video: (clips spread over its time, crops spread over its longer side).
        label: of Sprites: "action", or an attribute: "body", "bottomwear", "topwear", "hair".
        bad: a file that is damaged or too short is refused by name when it is met ("refuse"), or left out with a
            warning ("skip"); to know them, each file is decoded once on a machine, and what was found is kept in
            `$ZOO_CACHE`.
        batch_size: clips of a training batch, per process.
        eval_batch_size: videos of a validation or test batch; None: `batch_size`.
        val_fraction: share of the training videos held out for validation, and test, where the source has neither. None
            is a tenth, and of each class that has two at least one.
        limit: train on so many clips a class.
        seed: of the order and the draws.
        num_workers: processes that decode.
        lanes: of shards, how many are read at once, by all processes together; a multiple of their number.
        shuffle_buffer: of shards, videos of a lane among which the next one is drawn.
        stratify: hold out of each class its share; False draws without looking at classes, as earlier versions did.

    Raises:
        ValueError: an argument out of range, an empty class folder, a damaged file.
        FileNotFoundError: no such folder, or a list names a file that is not there.
    """

    hparams: AttributeDict  # the arguments, by name
    # What the recipe of a run meant that was begun before there was the keyword.
    older: ClassVar = {"stratify": False, "val_fraction": 0.0}
    every_class = False  # of a folder: set before it is read by who trains on nothing, to keep what training lacks

    def __init__(
        self,
        source: str,
        frames: int = 16,
        image_size: int = 224,
        channels: int = 3,
        sampling: str = "dense",
        stride: int = 4,
        repeats: int = 1,
        crop: str = "multi_scale",
        crop_scale: tuple[float, float] = (0.5, 1.0),
        randaugment: str | None = None,
        erase: float = 0.0,
        flip: bool = False,
        views: tuple[int, int] = (1, 1),
        label: str = "action",
        bad: str = "refuse",
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        val_fraction: float | None = None,
        limit: int | None = None,
        seed: int = 0,
        num_workers: int = 2,
        lanes: int = 8,
        shuffle_buffer: int = 32,
        stratify: bool = True,
    ):
        check_types(ClipData, locals())
        super().__init__()
        check_least(1, frames=frames, image_size=image_size, stride=stride, repeats=repeats, views=views, limit=limit)
        check_least(1, batch_size=batch_size, eval_batch_size=eval_batch_size)
        check_least(1, lanes=lanes, shuffle_buffer=shuffle_buffer)
        check_least(0, seed=seed, num_workers=num_workers)
        if channels not in (1, 3):
            raise ValueError(f"channels={channels}, allowed 3, or 1 for moving digits")
        for name, value, allowed in (
            ("sampling", sampling, ("dense", "uniform")),
            ("crop", crop, ("multi_scale", "resized", "centre")),
            ("bad", bad, ("refuse", "skip")),
            ("label", label, ("action", *SHEET_LAYERS)),
        ):
            if value not in allowed:
                raise ValueError(f"{name}={value!r}{suggest(value, allowed)}; allowed {', '.join(allowed)}")
        if source.startswith("shards:") and (val_fraction or limit is not None):
            raise ValueError(f"val_fraction={val_fraction}, limit={limit}: shards are read as they are; leave them out")
        if not 0 < crop_scale[0] <= crop_scale[1] <= 1 or not 0 <= erase <= 1:
            raise ValueError(f"crop_scale={crop_scale}, erase={erase}: allowed 0 < from ≤ to ≤ 1, and 0 to 1")
        if not 0 <= (val_fraction or 0) < 1:
            raise ValueError(f"val_fraction={val_fraction}, allowed 0 to below 1")
        if batch_size % repeats:
            raise ValueError(f"batch_size={batch_size} is no multiple of repeats={repeats}; a batch holds whole videos")
        self.save_hyperparameters()
        self.splits: Splits = AfterSetup()
        self.classes: list[str] = []
        self.served: dict[str, str] = {}  # role → the split of the source that serves as it
        self.labelled = True  # whether all splits that were set up have labels

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def setup(self, stage: str | None = None) -> None:
        """Find what the stage needs: "fit" train and validation, "validate", "test"."""
        needed = readers.STAGES.get(stage, ("train", "val", "test"))
        if all(split in self.splits for split in needed):
            return
        kind, _, place = self.hparams.source.partition(":")
        make = {"sprites": self._sprites, "moving": self._moving, "shards": self._shards}.get(kind)
        splits: Splits = make(place, needed) if make else {role: _split(*some) for role, some in self._videos().items()}
        labelled = {role: _labelled(*split) for role, split in splits.items()}
        self.served = readers.serving(labelled, self.hparams.source, tuple(splits))  # all are read at once, here
        missing = [split for split in needed if split not in self.served]
        if missing:
            raise readers.lacking(self.hparams.source, missing[0], splits)
        self.labelled &= all(labelled[self.served[role]] for role in needed)
        self.splits |= {role: splits[other] for role, other in self.served.items()}
        if kind == "sprites":
            self.served["train"] = "train"  # which is composed once it is needed

    def roles(self) -> dict[str, str]:
        """The splits that the source itself has, `train`, `val`, `test`, each with what it holds, in words."""
        kind, _, place = self.hparams.source.partition(":")
        if kind == "sprites":
            return {role: f"{len(some) * len(ACTIONS)} clips" for role, some in sprite_characters().items()}
        if kind == "moving":
            return {role: f"{len(some)} clips" for role, some in readers.read(place or "samples/mnist").items()}
        splits: dict[str, Any] = shards.find(place, "clips") if kind == "shards" else self._found()
        return {role: f"{len(some if kind == 'shards' else some[0])} videos" for role, some in splits.items()}

    def train_dataloader(self) -> Batches:
        h = self.hparams
        return self._batches("train", h.batch_size // (h.repeats if self._decodes else 1), shuffle=True)

    def val_dataloader(self) -> Batches:
        return self._batches("val", self.hparams.eval_batch_size or self.hparams.batch_size, shuffle=False)

    def test_dataloader(self) -> Batches:
        return self._batches("test", self.hparams.eval_batch_size or self.hparams.batch_size, shuffle=False)

    def predict_dataloader(self) -> Batches:
        """Every video of the source, in order."""
        return self.in_order(readers.ALL, self.hparams.eval_batch_size or self.hparams.batch_size)

    def in_order(self, split: str, batch_size: int) -> Batches:
        """A split as evaluation sees it, nothing shuffled or left out; ALL is each video of every split.

        Raises:
            ValueError: all of clips that are made.
        """
        if split == readers.ALL and split not in self.splits:
            self.splits[split], self.served[split] = self._every(), split
            self.labelled &= _labelled(*self.splits[split])
        return self._batches(split, batch_size, shuffle=False)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """uint8 on the device → clips (B, F, C, H, W) float in [0, 1]; a test video's views as (B, V, F, C, H, W)."""
        x, y, stamp = batch
        x = x.to(torch.float32).div_(255)
        if stamp is None:
            return x, y
        if x.ndim == 6:
            y = y.repeat_interleave(x.shape[1])  # (B,)
            x = x.flatten(0, 1)  # (B, F, C, H, W)
        if self.hparams.flip:
            generator = torch.Generator().manual_seed(mix(*stamp))
            mirrored = torch.rand(len(x), generator=generator).to(x.device) < 0.5
            x = torch.where(mirrored.reshape(-1, 1, 1, 1, 1), x.flip(-1), x)
        if self.hparams.erase:
            x = erase(x.flatten(1, 2), self.hparams.erase, stamp).view_as(x)
        return x, y

    @property
    def _decodes(self) -> bool:
        return isinstance(self.splits[next(iter(self.splits), "train")][0], Videos | Streams)

    def _batches(self, split: str, batch_size: int, shuffle: bool) -> Batches:
        clips, labels = self.splits[split]
        h = self.hparams
        change: Callable[[Any, int], Tensor] | None = None
        if self._decodes:
            views = h.views if split == "test" else (1, 1)
            change = cut = Cut(h.frames, h.image_size, h.sampling, h.stride, views=views)
            if shuffle:
                how = {"crop": h.crop, "crop_scale": h.crop_scale, "randaugment": h.randaugment, "repeats": h.repeats}
                change = replace(cut, **how, views=(1, 1))
        elif isinstance(clips, MovingDigits):
            change = clips
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        kind: Callable[..., Batches] = Batches
        if isinstance(clips, Streams):
            kind = partial(shards.Streamed, lanes=h.lanes, buffer=h.shuffle_buffer, bad=h.bad)
        batches = kind(clips, labels, batch_size, shuffle, h.seed, rank, world, h.num_workers, change)
        batches.counts = "videos" if self._decodes else "clips"
        return batches

    def _found(self) -> Listed:
        """The splits that a folder itself has."""
        splits, self.classes = find_videos(Path(self.hparams.source).expanduser(), self.every_class)
        if self.hparams.bad == "skip":
            splits = {split: readable(*some, self.hparams.frames) for split, some in splits.items()}
        return splits

    def _every(self) -> tuple[Split, Tensor]:
        """All that the source holds."""
        kind, _, place = self.hparams.source.partition(":")
        if kind == "shards":
            every = shards.join(shards.find(place, "clips"))
            self.classes = every.classes
            return Streams(every), every.labels
        if kind in ("sprites", "moving"):
            raise ValueError(f"{self.hparams.source} is made split by split; ask for one, in_order('test')")
        found = self._found().values()
        return _split([path for paths, _ in found for path in paths], [y for _, labels in found for y in labels])

    def _videos(self) -> Listed:
        """The splits that are served: some of training may be held out, or left out."""
        h = self.hparams
        splits = self._found()
        if set(splits) == {"train"}:
            paths, labels = splits["train"]
            said = f"videos of {h.source}"
            drawn = readers.hold_out(np.asarray(labels), h.val_fraction, h.seed, h.stratify, said)
            for role, part in zip(("train", "val"), drawn or ()):
                splits[role] = [paths[i] for i in part], [labels[i] for i in part]
        if h.limit is not None and "train" in splits:
            splits["train"] = _some(*splits["train"], h.limit, h.seed)
        return splits

    def encoded(self, split: str) -> list[Path]:
        """The files of a split, or of the one that serves as it.

        Raises:
            ValueError: clips that are made or streamed, or no such split.
        """
        if ":" in self.hparams.source or self.hparams.source == "sprites":
            raise ValueError(f"{self.hparams.source} holds no files of videos")
        if split == readers.ALL:
            return [path for paths, _ in self._found().values() for path in paths]
        splits = self._videos()
        role = readers.stand_in({role: max(labels) >= 0 for role, (_, labels) in splits.items()}, split)
        if role is None:
            raise readers.lacking(self.hparams.source, split, splits)
        return splits[role][0]

    def _shards(self, place: str, needed: tuple[str, ...]) -> Splits:
        splits = shards.find(place, "clips")
        self.classes = next(iter(splits.values())).classes
        return {split: (Streams(some), some.labels) for split, some in splits.items()}

    def _sprites(self, place: str, needed: tuple[str, ...]) -> Splits:
        h = self.hparams
        if (h.frames, h.image_size, h.channels) != (8, 64, 3):
            raise ValueError(f"Sprites are 8 frames of 64 px RGB, given {h.frames}, {h.image_size} px, {h.channels}")
        names = {"action": list(ACTIONS)} | {layer: [f"{layer} {i}" for i in range(6)] for layer in SHEET_LAYERS}
        self.classes = names[h.label]
        splits: Splits = {}
        sheets = Path(place).expanduser() if place else readers.SAMPLES / "sprite_sheets"
        for split, characters in sprite_characters().items():
            if split == "train" and "train" not in needed:
                continue
            actions = np.tile(np.arange(len(ACTIONS)), len(characters))  # (N,)
            each = np.repeat(characters, len(ACTIONS))  # (N,)
            labels = actions if h.label == "action" else attributes(each)[:, SHEET_LAYERS.index(h.label)]
            keep = np.arange(len(labels))
            if split == "train" and h.limit is not None:
                keep = np.asarray(_some(keep.tolist(), labels.tolist(), h.limit, h.seed)[0])
            clips = compose_sprites(sheets, each[keep], actions[keep])
            splits[split] = InMemory(torch.from_numpy(clips)), torch.from_numpy(labels[keep])
        return splits

    def _moving(self, place: str, needed: tuple[str, ...]) -> Splits:
        h, items = self.hparams, readers.read(place or "samples/mnist")
        self.classes = items["train"].classes
        return {
            split: (MovingDigits(some, h.frames, h.image_size, h.channels), torch.from_numpy(some.labels))
            for split, some in items.items()
        }


# Video files


class Videos:
    """The files of a split; a Cut makes clips of them."""

    array = None

    def __init__(self, paths: list[Path]):
        self.paths = paths

    def whole(self, i: int) -> Path:
        return self.paths[i]


class Streams:
    """Videos of shards; a sample that was read is what a Cut takes."""

    array = None

    def __init__(self, items: shards.Shards):
        self.items = items

    def whole(self, sample: shards.Sample) -> shards.Sample:
        return sample


def _split(paths: list[Path], labels: list[int]) -> tuple[Split, Tensor]:
    check_library(paths)
    return Videos(paths), torch.tensor(labels)


def _labelled(clips: Split, labels: Tensor) -> bool:
    return clips.items.labelled if isinstance(clips, Streams) else bool((labels >= 0).any())


def find_videos(root: Path, every_class: bool = False) -> tuple[Listed, list[str]]:
    """The files and labels of each split of a folder, -1 where it has none, and the names of the classes.

    Args:
        every_class: as `read_folder`'s.

    Raises:
        FileNotFoundError: no such folder, or a list names a file that is not there.
        ValueError: no videos, a line of a list that is not "path label".
    """
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}; give a folder of videos, sprites:FOLDER or moving:SOURCE")
    roles: dict[str, tuple[list[Path], list[int]]] = {}
    for role, names in SPLITS.items():
        file = next((root / f"{n}.csv" for n in names if (root / f"{n}.csv").is_file()), None)
        if file is not None:
            roles[role] = _read_list(file)
    if roles:
        count = 1 + max(max(labels) for _, labels in roles.values())
        return roles, [str(c) for c in range(count)]
    expected = f"{{0}}/CLASS/*.mp4, {{0}}/*.mp4 without classes, or lists such as {root}/train.csv"
    return read_folder(root, SUFFIXES, "videos", expected, every_class=every_class)


def _read_list(file: Path) -> tuple[list[Path], list[int]]:
    paths, labels, lines = [], [], []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        path, _, label = line.strip().rpartition("," if "," in line else " ")
        if not path or not (label.strip().isdecimal() or label.strip() == "-1"):
            raise ValueError(f'{file} line {number} is {line!r}, expected "path label" with a class number')
        paths.append(file.parent / path.strip())
        labels.append(int(label))
        lines.append(number)
    if not paths:
        raise ValueError(f"{file} is empty; a list has lines of path and label")
    if -1 in labels and max(labels) >= 0:
        raise ValueError(
            f"{file} line {lines[labels.index(-1)]} has the label -1, and so have {labels.count(-1)} of {len(labels)} "
            "lines; a list has classes in all lines or, -1, in none"
        )
    gone = next((p for p in paths if not p.is_file()), None)
    if gone is not None:
        raise FileNotFoundError(f"{file} names {gone}, which is not there")
    return paths, labels


def readable(paths: list[Path], labels: list[int], frames: int) -> tuple[list[Path], list[int]]:
    """Without the files that cannot give a clip; they are named once."""
    check_library(paths)  # what is found of a file is remembered, and this is no fault of a file's

    def why(path: Path) -> str:
        try:
            check_frames(path, frames)
        except (OSError, ValueError) as error:
            return reason(error)
        return ""

    about = [path.stat() for path in paths]
    keys = [f"{path.absolute()} {stat.st_size} {stat.st_mtime_ns} {frames}" for path, stat in zip(paths, about)]
    reasons = cache.remembered(DECODER, keys, lambda i: why(paths[i]))
    bad = [r for r in reasons if r]
    if bad:
        warnings.warn(f"{len(bad)} of {len(paths)} videos are left out: {'; '.join(bad[:5])}", stacklevel=2)
    kept = [i for i, r in enumerate(reasons) if not r]
    if not kept:
        raise ValueError(f"none of {len(paths)} videos can be read; the first: {bad[0]}")
    return [paths[i] for i in kept], [labels[i] for i in kept]


@dataclass
class Cut:
    """Clips of one video, cut and resized in a worker; the same for the same seed. Fields are ClipData's.

    A training video gives (R, F, C, H, W), an evaluated one (F, C, H, W), or (V, F, C, H, W) for V views.
    """

    frames: int
    size: int
    sampling: str = "dense"
    stride: int = 4
    crop: str = "centre"
    crop_scale: tuple[float, float] = (0.5, 1.0)
    randaugment: str | None = None
    repeats: int = 0  # of a training video; 0 is evaluation
    views: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        self.policy: Any = policy(self.randaugment, self.size) if self.randaugment else None

    def __call__(self, path: Path | shards.Sample, seed: int) -> Tensor:
        draw = random.Random(seed)
        times: list[list[int]] = []

        def choose(count: int) -> list[int]:
            check_count(path, count, self.frames)
            draw.seed(seed)
            times.clear()
            for k in range(self.repeats or self.views[0]):
                where = draw.random() if self.repeats else (k + 0.5) / self.views[0]
                times.append(self._times(count, where, draw if self.repeats else None))
            return sorted({i for clip in times for i in clip})

        decoded = read_frames(path, choose)
        index = {t: k for k, t in enumerate(sorted({i for clip in times for i in clip}))}
        clips = []
        for clip in times:
            pixels = torch.from_numpy(decoded[[index[t] for t in clip]]).permute(0, 3, 1, 2)  # (F, C, H', W')
            height, width = pixels.shape[2:]
            boxes = [self._box(height, width, draw)] if self.repeats else self._views(height, width)
            for box in boxes:
                clips.append(_resize(pixels, box, self.size))  # (F, C, H, W)
                if self.policy:
                    clips[-1] = self._augment(clips[-1], draw.getrandbits(48))
        return torch.stack(clips) if self.repeats or len(clips) > 1 else clips[0]

    def _augment(self, clip: Tensor, seed: int) -> Tensor:
        """All frames of a clip by the same moves."""
        from torchvision.transforms.v2 import functional as T

        frames = []
        for frame in clip:
            with seeded(seed):
                frames.append(T.pil_to_tensor(self.policy(T.to_pil_image(frame))))  # (C, H, W)
        return torch.stack(frames)

    def _times(self, count: int, where: float, draw: random.Random | None) -> list[int]:
        """Dense: F frames `stride` apart, or as the video allows. Uniform: one of each of F equal parts."""
        if self.sampling == "uniform":
            part = count / self.frames
            return [int(part * (i + (draw.random() if draw else 0.5))) for i in range(self.frames)]
        stride = min(self.stride, (count - 1) / max(1, self.frames - 1))
        start = where * (count - 1 - stride * (self.frames - 1))
        return [round(start + stride * i) for i in range(self.frames)]

    def _box(self, height: int, width: int, draw: random.Random) -> tuple[int, int, int, int]:
        """Top, left, height and width of what is kept of a training clip."""
        short = min(height, width)
        if self.crop == "multi_scale":
            tall, wide = draw.choice(
                [(a, b) for i, a in enumerate(SCALES) for j, b in enumerate(SCALES) if abs(i - j) < 2]
            )
            h, w = int(short * tall), int(short * wide)
        elif self.crop == "resized":
            area, aspect = (
                height * width * draw.uniform(*self.crop_scale),
                math.exp(draw.uniform(-1, 1) * math.log(4 / 3)),
            )
            h, w = min(height, round((area / aspect) ** 0.5)), min(width, round((area * aspect) ** 0.5))
        else:
            return self._views(height, width)[0]
        return draw.randint(0, height - h), draw.randint(0, width - w), h, w

    def _views(self, height: int, width: int) -> list[tuple[int, int, int, int]]:
        """Squares of the shorter side, spread over the longer one; one is the centre."""
        short, crops = min(height, width), 1 if self.repeats else self.views[1]
        shares = [0.5] if crops == 1 else [k / (crops - 1) for k in range(crops)]
        return [(round(s * (height - short)), round(s * (width - short)), short, short) for s in shares]


def _resize(pixels: Tensor, box: tuple[int, int, int, int], size: int) -> Tensor:
    from torchvision.transforms.v2 import functional as T

    return T.resized_crop(pixels, *box, size=[size, size], antialias=True)  # (F, C, H, W)


# Made clips


def sprite_characters() -> dict[str, np.ndarray]:
    """The 1,296 characters, 1,000 to train on and 296 to test on: `default_rng(0).permutation(1296)`, so cut."""
    order = np.random.default_rng(0).permutation(6 ** len(SHEET_LAYERS))
    return {"train": order[:1000], "test": order[1000:]}


def attributes(characters: np.ndarray) -> np.ndarray:
    """Characters (N,) → the variant, 0 to 5, of body, bottomwear, topwear and hair, (N, 4)."""
    return np.stack(np.unravel_index(characters, (6,) * len(SHEET_LAYERS)), axis=1)


def compose_sprites(root: Path, characters: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """Clips (N, 8, 3, 64, 64) uint8 of characters (N,) doing actions (N,), from the sheets of a folder.

    Raises:
        FileNotFoundError: a sheet is missing.
    """
    from PIL import Image

    cells = np.array(list(ACTIONS.values()))  # (9, 8)

    def sheet(layer: str, variant: int) -> np.ndarray:
        """The cells that are used, with colours times opacity, and their opacity: (9, 8, 4, 64, 64) float32."""
        path = root / layer / f"{variant}.png"
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing; Sprites are made from the sheets {', '.join(SHEET_LAYERS)}, shoes"
            )
        pixels = np.asarray(Image.open(path).convert("RGBA"), np.float32) / 255  # (1344, 832, 4)
        pixels = pixels.reshape(21, 64, 13, 64, 4).transpose(0, 2, 4, 1, 3).reshape(-1, 4, 64, 64)[cells]
        return np.concatenate([pixels[:, :, :3] * pixels[:, :, 3:], pixels[:, :, 3:]], axis=2)

    sheets = {layer: np.stack([sheet(layer, i) for i in range(6)]) for layer in SHEET_LAYERS}
    shoes, out = sheet("shoes", 1), np.empty((len(characters), 8, 3, 64, 64), np.uint8)
    variants = attributes(characters)
    for n, (who, action) in enumerate(zip(variants, actions)):
        frame = np.zeros((8, 3, 64, 64), np.float32)
        for over in (*(sheets[layer][v, action] for layer, v in zip(SHEET_LAYERS, who)), shoes[action]):
            frame = over[:, :3] + frame * (1 - over[:, 3:])  # (8, 3, 64, 64)
        out[n] = np.rint(frame * 255)
    return out


class MovingDigits:
    """Two digits that fly about a black square and bounce off its sides (Srivastava et al. 2015), made on the fly.

    The label is the first digit's. As a Change of Batches it makes a clip from (index, seed): other companions, places
    and directions for another seed.
    """

    array = None

    def __init__(self, items: readers.Items, frames: int, size: int, channels: int):
        digits = [decode(image, 1, items.source)[:, :, 0] for image in items.images]
        self.digits, self.frames, self.size, self.channels = np.stack(digits), frames, size, channels
        if size < max(self.digits.shape[1:]):
            raise ValueError(f"image_size={size}, the digits are {self.digits.shape[1]} px; take a larger square")

    def whole(self, i: int) -> int:
        return i

    def __call__(self, i: int, seed: int) -> Tensor:
        draw = np.random.default_rng(seed)
        clip = np.zeros((self.frames, self.size, self.size), np.uint8)
        for index in (i, int(draw.integers(len(self.digits)))):
            digit = self.digits[index]
            room = self.size - np.array(digit.shape)  # (2,)
            angle = draw.uniform(0, 2 * math.pi)
            speed = draw.uniform(0.03, 0.07) * self.size * np.array([math.sin(angle), math.cos(angle)])
            path = draw.uniform(0, room) + speed * np.arange(self.frames)[:, None]  # (F, 2)
            path = room - abs(path % (2 * np.maximum(room, 1)) - room)  # reflected
            for frame, (y, x) in zip(clip, np.clip(np.rint(path), 0, room).astype(int)):
                part = frame[y : y + digit.shape[0], x : x + digit.shape[1]]
                np.maximum(part, digit, out=part)
        return torch.from_numpy(clip)[:, None].repeat(1, self.channels, 1, 1)  # (F, C, H, W)


def _some(things: list, labels: list[int], each: int, seed: int) -> tuple[list, list[int]]:
    """So many of each class, drawn once."""
    order = np.random.default_rng(seed).permutation(len(labels))
    taken: dict[int, int] = {}
    kept = []
    for i in order.tolist():
        if taken.get(labels[i], 0) < each:
            taken[labels[i]] = taken.get(labels[i], 0) + 1
            kept.append(i)
    kept.sort()
    return [things[i] for i in kept], [labels[i] for i in kept]
