"""What several test modules share."""

import csv
import os
import re
from pathlib import Path

import pytest
import torch

import zoo
from zoo import hub, registry
from zoo.families.dcae import DCAE
from zoo.families.rae import RAE, DiTDH
from zoo.families.vq import VQGAN, VQVAE, CodePrior

# What makes the heavier smoke recipes light: fewer images, one batch to evaluate.
ONE = ["--trainer.limit_val_batches", "1", "--trainer.limit_test_batches", "1"]
FEW = ["--data.num_images", "12", "--data.batch_size", "2"]
LIGHT = {
    "rae/smoke": [*FEW, *ONE],
    "vq/vqgan_smoke": [*FEW, *ONE],
    "rae/ditdh_smoke": ["--data.num_images", "384", *ONE],
    "videomae/smoke": ["--data.limit", "6", "--data.batch_size", "8", *ONE],
}


# What `make test-all` adds to `make test`: the authors' code, two processes, kills, fuzz, the type checker, a compiler;
# and single tests that are marked long, such as all that need a package of the extra `test-all`.
LONG = {"reference", "test_distributed.py", "test_fuzz.py", "test_accidents.py", "test_types.py"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if LONG & set(item.path.relative_to(Path(__file__).parent).parts):
            item.add_marker(pytest.mark.long)


LARGE = 20_000_000  # parameters, from which on an arch is made small
# What makes a class small, where another number of blocks does not.
SMALL = {
    CodePrior: {"dim": 48, "depth": 2, "heads": 3},
    RAE: {"image_size": 64, "encoder": "mae_vit_tiny.tiny_imagenet", "encoder_size": 64}
    | {"latent_channels": 192, "grid": 8, "depth": 2},
}
SMALL_IF_LARGE = {VQVAE: {"image_size": 32, "width": 32}, VQGAN: {"image_size": 32, "width": 32}}


def small(arch: str, depth: int = 2) -> torch.nn.Module:
    """An arch at a size a test can afford: few blocks, or a narrow one, where it has over 20 million parameters."""
    kind, takes = hub.model_class(arch), hub.keywords(arch)
    count = int(re.search(r"([\d,]+) parameters", registry.summary(arch))[1].replace(",", ""))
    args = dict(SMALL.get(kind, {}))
    if kind.kind == "clip":
        with torch.device("meta"):
            patch = zoo.create(arch).patch_size
        args |= {"frames": 4, "image_size": 64 // patch * patch} | (
            {"pred_frames": 2} if "pred_frames" in takes else {}
        )
    if kind in SMALL or count <= LARGE:
        return zoo.create(arch, **args)
    if kind in SMALL_IF_LARGE:
        return zoo.create(arch, **SMALL_IF_LARGE[kind])
    if kind is DCAE:
        return zoo.create(arch, **narrow(arch))
    if kind is DiTDH:
        return zoo.create(arch, grid=4, depth=[depth, 1])
    return zoo.create(arch, **args, depth=depth, **({"decoder_depth": 1} if "decoder_depth" in takes else {}))


def classes() -> dict[type[torch.nn.Module], str]:
    """Every model class of the zoo, and its first arch."""
    return {hub.model_class(arch): arch for arch in reversed(zoo.list_models())}


def narrow(arch: str) -> dict:
    """Keywords that make a large DC-AE affordable, with the blocks, ratio and latents it has."""
    stages = int(re.search(r"_f(\d+)", arch)[1]).bit_length()
    return {"image_size": 2**stages, "widths": [16, 32, 32, 32, 64, 64, 128, 512][:stages]}


def image_batch(model: torch.nn.Module, count: int = 4) -> torch.Tensor:
    """Random samples that a model takes, (B, C, H, W) of images, (B, F, C, H, W) of clips."""
    return torch.rand(count, *model.takes.shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="session", autouse=True)
def _own_lock(tmp_path_factory):
    """What tests load from publishers is pinned in no file of the user's."""
    os.environ["ZOO_LOCK"] = str(tmp_path_factory.mktemp("lock") / "lock.json")


@pytest.fixture(scope="session")
def sprites(tmp_path_factory) -> str:
    """An image folder of a few of the sprites that ship, 64 px: 216 to train, 72 to test, for what encodes them all."""
    from zoo.data import readers

    root = tmp_path_factory.mktemp("sprites")
    found = readers.read("samples/sprites")
    for role, each in (("train", 24), ("test", 8)):
        items = found[role]
        for label, name in enumerate(items.classes):
            (root / role / name).mkdir(parents=True)
            for i in (items.labels == label).nonzero()[0][:each]:
                (root / role / name / f"{i:03d}.png").write_bytes(items.images[i])
    return str(root)


def losses(run: Path) -> dict[int, str]:
    """The training loss of each step that a run has logged, resumed or not, as it was written."""
    found = {}
    for file in sorted((run / "logs").glob("version_*/metrics.csv")):
        for row in csv.DictReader(file.read_text().splitlines()):
            if row.get("train/loss"):
                found[int(row["step"])] = row["train/loss"]
    return found
