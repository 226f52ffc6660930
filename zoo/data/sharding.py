"""Writing shards: an image folder, parquet or videos into tar files that `zoo.data.shards` streams, and their manifest.

The encoded files go in as they are, with the camera's tag that says how they lie; what is encoded anew is upright. A
split without labels has no KEY.cls. A shard is written aside and renamed, and the manifest comes last: a folder that
has one is whole.
"""

import contextlib
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from zoo.data import pictures, pixels, readers, remote, shards
from zoo.data.clips import SUFFIXES, find_videos, readable
from zoo.data.folders import SPLITS, Left, files_under
from zoo.hub.files import write_aside

# Pillow's names that are no suffixes; a format that `shards.IMAGES` does not know becomes PNG.
FORMATS = {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif", "JPEG2000": "jp2", "HEIF": "heic"}


@dataclass
class Seen:
    """What the images of a place have in common."""

    sizes: set[tuple[int, int]] = field(default_factory=set)
    grey: bool = True

    def note(self, image: Image.Image) -> None:
        self.sizes.add(pictures.upright_size(image))
        self.grey &= pictures.is_grey(image)

    def common(self) -> dict[str, Any]:
        """`size` and `channels` of a manifest."""
        size = list(next(iter(self.sizes))) if len(self.sizes) == 1 else None
        return {"size": size, "channels": (1 if self.grey else 3) if self.sizes else None}


def write(
    source: str,
    folder: str | Path,
    image_size: int | None = None,
    samples: int = 1000,
    seed: int = 0,
    image_column: str | None = None,
    label_column: str | None = None,
    value_range: pictures.ValueRange | None = None,
    bad: str | None = None,
) -> Iterator[Path]:
    """Write the splits of a source; each file as it is done, the manifest last.

    Args:
        source: of images, as ImageData's; or a folder of videos, as ClipData's.
        image_size: shorter side in px to which larger images are reduced, JPEG as JPEG (quality 95), others as PNG.
        samples: of a shard.
        seed: of the order of training samples, which mixes the classes; validation and test keep theirs.
        image_column, label_column, value_range: as ImageData's; the range is of pictures that are reduced.
        bad: "skip" leaves damaged pictures and videos out with a count.

    Raises:
        ValueError: the folder has shards, an image is damaged, or what the source's reader refuses.
    """
    folder = Path(folder)
    _refuse(folder)
    if samples < 1 or (image_size is not None and image_size < 1):
        raise ValueError(f"samples={samples}, image_size={image_size}: each must be at least 1")
    pictures.check_range(value_range)
    kind, splits, classes = _splits(source, image_column, label_column, value_range, bad == "skip")
    unlabelled = [role for role, (_, labels) in splits.items() if max(labels) < 0]
    folder.mkdir(parents=True, exist_ok=True)
    seen = Seen()
    rows: dict[str, list[dict[str, Any]]] = {}
    for role, (items, labels) in splits.items():
        order = np.arange(len(labels))
        if role == "train":
            order = np.random.default_rng(seed).permutation(order)
        rows[role] = []
        for start in range(0, len(order), samples):
            path = folder / f"{role}-{start // samples:05d}.tar"
            part = order[start : start + samples].tolist()
            members = ((i, *_encoded(items[i], source, kind, image_size, seen, value_range), labels[i]) for i in part)
            rows[role].append({"file": path.name, "samples": len(part)} | _tar(path, members))
            yield path
    yield _manifest(folder, kind, classes, seen, rows, unlabelled)


def index(place: str, folder: str | Path | None = None, replace: bool = False) -> Iterator[str | Path]:
    """Read shards that are there and write their manifest; each shard's URL as it is done, the manifest last.

    Args:
        place: a folder or URL with *.tar, named for their split: imagenet-train-0001.tar, val/0001.tar.
        folder: of the manifest, where the place itself is not to be written to.
        replace: a manifest that is there.

    Raises:
        ValueError: there is a manifest, there are no shards, or a shard is damaged or holds no samples.
    """
    if folder is None and "://" in place:
        raise ValueError(f"a manifest cannot be written to {place}; give a FOLDER for it")
    target = Path(place if folder is None else folder)
    if not replace:
        _refuse(target)
    fs, root = remote.file_system(place.rstrip("/"))
    files = sorted(f for f in shards.patiently(place, fs, lambda: fs.find(root)) if f.endswith(".tar"))
    if not files:
        raise ValueError(f"{place} holds no *.tar; `zoo shard SOURCE -o FOLDER` writes shards")
    seen, last = Seen(), -1
    rows: dict[str, list[dict[str, Any]]] = {}
    kinds: set[str] = set()
    labelled: set[str] = set()
    for file in files:
        relative, url = file.removeprefix(root).lstrip("/"), fs.unstrip_protocol(file)
        words = set(re.split(r"[^a-z]+", relative.lower()))
        role = next((r for r, names in SPLITS.items() if set(names) & words), "train")
        stream = shards.Stream(shards.Shard(url, 0, fs.size(file), "", 0))
        count = 0
        try:
            for key, parts in shards.grouped(stream):
                count += 1
                has_class = parts.get("cls", b"").strip() not in (b"", b"-1")
                if has_class:
                    labelled.add(role)
                sample = shards.make_sample(stream.shard, count, key, parts, 1 << 31 if has_class else 0)
                if not sample.fault:
                    last = max(last, sample.label)
                    kinds.add("images" if any(s in parts for s in shards.IMAGES) else "clips")
                    if "images" in kinds:
                        # Who reads a damaged one may want to skip it.
                        with contextlib.suppress(ValueError), pictures.opened(sample.data, str(sample)) as image:
                            seen.note(image)
            while stream.read(shards.BLOCK):
                pass
        except tarfile.TarError as error:
            raise ValueError(f"{url} is no tar file, or a damaged one ({error}); get it again") from error
        row = {
            "file": relative if folder is None else url,
            "samples": count,
            "bytes": stream.at,
            "sha256": stream.digest.hexdigest(),
        }
        rows.setdefault(role, []).append(row)
        yield url
    if len(kinds) != 1:
        kind = " and ".join(sorted(kinds)) or "no sample of an image or video"
        raise ValueError(f"the shards of {place} hold {kind}; expected either images or clips")
    target.mkdir(parents=True, exist_ok=True)
    unlabelled = [role for role in rows if role not in labelled]
    yield _manifest(target, kinds.pop(), [str(c) for c in range(last + 1)], seen, rows, unlabelled)


def _refuse(folder: Path) -> None:
    if (folder / shards.MANIFEST).exists():
        raise ValueError(f"{folder} has a {shards.MANIFEST} already; give another folder")


def _splits(
    source: str,
    image_column: str | None,
    label_column: str | None,
    value_range: pictures.ValueRange | None,
    skip: bool,
) -> tuple[str, dict, list[str]]:
    """Kind, items and labels of each split, and the classes; `skip` leaves out what cannot be decoded."""
    root = Path(source).expanduser()
    if root.is_dir() and files_under(root, set(SUFFIXES) - pictures.suffixes(), Left()):
        videos, classes = find_videos(root)
        if skip:
            videos = {role: readable(*some, frames=1) for role, some in videos.items()}
        return "clips", videos, classes
    images = readers.read(source, image_column, label_column)
    if skip:
        images = {role: pixels.readable(some, value_range) for role, some in images.items()}
    splits = {role: (s.images, s.labels.tolist()) for role, s in images.items()}
    return "images", splits, next(iter(images.values())).classes


def _encoded(
    item: Any, source: str, kind: str, size: int | None, seen: Seen, value_range: pictures.ValueRange | None = None
) -> tuple[str, bytes]:
    """Suffix and bytes of an item."""
    if kind == "clips":
        return item.suffix[1:].lower(), item.read_bytes()
    with pictures.opened(item, source) as image:
        suffix, grey = FORMATS.get(image.format, (image.format or "").lower()), pictures.is_grey(image)
        larger = size is not None and min(image.size) > size
        if suffix in shards.IMAGES and not larger:
            seen.note(image)
            return suffix, item.read_bytes() if isinstance(item, Path) else bytes(item)
    decoded = pictures.decode(item, 1 if grey else 3, source, value_range)  # (H, W, C)
    image = Image.fromarray(decoded[:, :, 0] if grey else decoded)
    if size is not None and larger:
        scale = size / min(image.size)
        width, height = (max(size, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    seen.note(image)
    return ("jpg", _jpeg(image)) if suffix == "jpg" else ("png", _png(image))


def _png(image: Image.Image) -> bytes:
    image.save(out := io.BytesIO(), "PNG")
    return out.getvalue()


def _jpeg(image: Image.Image) -> bytes:
    image.save(out := io.BytesIO(), "JPEG", quality=95)
    return out.getvalue()


class Hashed:
    """A file that is hashed while it is written."""

    def __init__(self, file: Any):
        self.file, self.digest, self.count = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.count += len(data)
        return self.file.write(data)


def _tar(path: Path, members: Iterator[tuple[int, str, bytes, int]]) -> dict[str, Any]:
    """Write number, suffix, bytes and class of samples; `bytes` and `sha256` of the file."""
    with write_aside(path.parent) as aside, open(aside(path.name), "wb") as file:
        out = Hashed(file)
        with tarfile.open(fileobj=out, mode="w|") as archive:  # type: ignore[call-overload]  # a stream is only written to
            for number, suffix, data, label in members:
                for name, content in ((suffix, data), ("cls", str(label).encode())):
                    if name == "cls" and label < 0:
                        continue
                    info = tarfile.TarInfo(f"{number:08d}.{name}")  # no time, no owner: same input, same hash
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
    return {"bytes": out.count, "sha256": out.digest.hexdigest()}


def _manifest(
    folder: Path, kind: str, classes: list[str], seen: Seen, rows: dict[str, list], unlabelled: list[str]
) -> Path:
    about = {"format": shards.FORMAT, "kind": kind, "classes": classes} | seen.common()
    about |= ({"unlabelled": unlabelled} if unlabelled else {}) | {"splits": rows}
    with write_aside(folder) as aside:
        aside(shards.MANIFEST).write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return folder / shards.MANIFEST
