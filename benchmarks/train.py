"""An epoch of the bilinear classifier with ImageData against the same step fed image by image and stacked."""

import argparse

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import zoo
from benchmarks import harness
from zoo.data.images import ImageData


def stack(batch: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """The straightforward collate: one tensor operation per image."""
    return torch.stack([x for x, _ in batch]).float() / 255, torch.stack([y for _, y in batch])


def main(argv: list[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="samples/mnist", help="as ImageData's source")
    parser.add_argument("--images", type=int, default=60_000, help="of an epoch; a smaller set is repeated")
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args(argv)
    data = ImageData(args.data, channels=1, batch_size=min(args.batch_size, 1000), cache="memory")
    data.setup("fit")
    pixels, labels = data.splits["train"]
    times = -(-args.images // len(labels))
    pixels.array, labels = pixels.array.repeat(times, 1, 1, 1)[: args.images], labels.repeat(times)[: args.images]
    data.splits["train"], data.hparams.batch_size = (pixels, labels), args.batch_size
    collated = DataLoader(
        TensorDataset(pixels.array, labels), args.batch_size, shuffle=True, drop_last=True, collate_fn=stack
    )
    model = zoo.create("bilinear_d256")
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.5)

    def epoch(batches) -> int:
        done = 0
        for x, y in batches:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += len(y)
        return done

    def ours() -> int:
        return epoch(data.on_after_batch_transfer(b, 0) for b in data.train_dataloader())

    def theirs() -> int:
        return epoch(collated)

    def ours_loading() -> int:
        return sum(len(data.on_after_batch_transfer(b, 0)[1]) for b in data.train_dataloader())

    def theirs_loading() -> int:
        return sum(len(y) for _, y in collated)

    results = [
        harness.compare(
            f"bilinear epoch, {args.images:,} images", ours, theirs, args.repeats, target=5, data=args.data
        ),
        harness.compare("  its loading alone", ours_loading, theirs_loading, args.repeats, data=args.data),
    ]
    return results


if __name__ == "__main__":
    print(harness.table(main()))
