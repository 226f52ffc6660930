"""ImageData against a plain torchvision DataLoader on the same files: an epoch of cropped, flipped float batches."""

import argparse
import io
import tempfile
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision.transforms import v2

from benchmarks import harness
from zoo.data.images import ImageData
from zoo.data.readers import read


def unpack(source: str, root: Path, limit: int) -> int:
    """The training images of a source as an image folder; returns how many."""
    items = read(source)["train"]
    count = min(limit, len(items))
    for i in range(count):
        place = root / "train" / str(items.labels[i])
        place.mkdir(parents=True, exist_ok=True)
        Image.open(io.BytesIO(items.images[i])).convert("RGB").save(place / f"{i}.png")
    return count


def main(argv: list[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="samples/mnist", help="parquet folder or Hub id")
    parser.add_argument("--limit", type=int, default=10_000)
    parser.add_argument("--batch-size", type=int, default=250)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        count = unpack(args.data, Path(folder), args.limit)
        data = ImageData(
            folder, channels=3, batch_size=args.batch_size, crop=2, flip=True, cache="memory", val_fraction=0.01
        )
        data.setup("fit")
        size = data.input_shape[1]
        transform = v2.Compose(
            [
                v2.ToImage(),
                v2.RandomCrop(size, padding=2),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
            ]
        )
        plain = DataLoader(
            datasets.ImageFolder(str(Path(folder) / "train"), transform),
            args.batch_size,
            shuffle=True,
            num_workers=2,
            drop_last=True,
            persistent_workers=True,
        )
        # Enough epochs for a time that can be measured.
        turns = max(1, 20_000 // count)

        def ours() -> int:
            done = 0
            for _ in range(turns):
                for batch in data.train_dataloader():
                    done += len(data.on_after_batch_transfer(batch, 0)[1])
            return done

        def theirs() -> int:
            return sum(len(y) for _, y in plain)

        name = f"loader, {count:,} PNG of {size}×{size}, crop and flip"
        results = [harness.compare(name, ours, theirs, args.repeats, target=5, data=args.data)]
    return results


if __name__ == "__main__":
    print(harness.table(main()))
