"""Streaming shards against a plain webdataset pipeline: epochs of random resized crops in float, from disk or a URL.

Theirs is the pipeline of webdataset's own examples: shards split over the DataLoader's workers, which read, shuffle,
decode, crop and batch. Ours reads in the main process and decodes in as many workers, which is what makes the order
the same for any number of them.
"""

import argparse
import contextlib
import io
import json
import tempfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import torch
import webdataset
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from benchmarks import harness
from zoo.data import sharding
from zoo.data.images import ImageData
from zoo.data.readers import SAMPLES


def photos(root: Path, count: int, side: int) -> None:
    """JPEG files in ten classes, cut out of the photographs that ship with the package; ten of them for validation."""
    draw = np.random.default_rng(0)
    pictures = [Image.open(file).convert("RGB") for file in sorted((SAMPLES / "photos").glob("*.jpg"))]
    for i in range(count + 10):
        picture = pictures[i % len(pictures)]
        left, top = (int(draw.integers(0, length - side + 1)) for length in picture.size)
        place = root / ("train" if i < count else "val") / str(i % 10)
        place.mkdir(parents=True, exist_ok=True)
        picture.crop((left, top, left + side, top + side)).save(place / f"{i}.jpg", quality=90)


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The URL of a folder on loopback."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def plain(urls: list[str], side: int, batch_size: int, workers: int) -> DataLoader:
    """webdataset's pipeline."""
    crop = v2.Compose(
        [
            v2.ToImage(),
            v2.RandomResizedCrop(side, interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    data = (
        webdataset.WebDataset(urls, shardshuffle=len(urls), seed=0)
        .shuffle(1024)
        .map(partial(_decode, crop=crop))
        .batched(batch_size)
    )
    return DataLoader(data, batch_size=None, num_workers=workers)


def _decode(sample: dict, crop: v2.Compose) -> tuple[torch.Tensor, int]:
    return crop(Image.open(io.BytesIO(sample["jpg"])).convert("RGB")), int(sample["cls"])


def main(argv: list[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 224], help="of JPEG files and crops, px")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args(argv)
    results = []
    for side in args.sides:
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            place = Path(folder) / "shards"
            photos(Path(folder) / "images", args.images, side)
            list(sharding.write(f"{folder}/images", place, samples=max(1, args.images // 32)))
            url = stack.enter_context(served(place))
            for where, name in ((str(place), "disk"), (url, "loopback HTTP")):
                data = ImageData(
                    f"shards:{where}",
                    image_size=side,
                    batch_size=args.batch_size,
                    crop_scale=(0.08, 1.0),
                    num_workers=args.workers,
                )
                rows = json.loads((place / "manifest.json").read_text())["splits"]["train"]
                theirs = plain([f"{where}/{r['file']}" for r in rows], side, args.batch_size, args.workers)
                data.setup("fit")
                results.append(
                    harness.compare(
                        f"shards, {args.images:,} JPEG of {side} px, {name}",
                        partial(_ours, data),
                        partial(_theirs, theirs),
                        args.repeats,
                        target=1,
                        workers=args.workers,
                    )
                )
    return results


def _ours(data: ImageData) -> int:
    return sum(len(data.on_after_batch_transfer(batch, 0)[1]) for batch in data.train_dataloader())


def _theirs(loader: DataLoader) -> int:
    return sum(len(y) for _, y in loader)


if __name__ == "__main__":
    print(harness.table(main()))
