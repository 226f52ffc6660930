"""What several test modules share."""

import csv
import functools
import gc
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import zoo
from zoo import hub, recipe, registry

# What `make test-all` adds to `make test`: the authors' code, two processes, kills, fuzz, the type checker, a compiler;
# and single tests that are marked long, such as all that need a package of the extra `test-all`.
LONG = {"reference", "test_distributed.py", "test_fuzz.py", "test_accidents.py", "test_types.py"}


# What takes longest comes first, so that of two workers neither waits for the other in the end.
FIRST = ["test_distributed.py", "test_readme.py", "test_accidents.py", "test_rae.py", "test_own_family.py"]
FIRST += ["test_types.py", "test_fit.py", "test_estimate.py", "test_recipes.py", "test_zoo.py", "test_shards.py"]


def is_long(path: Path) -> bool:
    return bool(LONG & set(path.relative_to(Path(__file__).parent).parts))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A tier imports the files that have tests of it alone: transformers and diffusers take seconds a worker."""
    tier = config.option.markexpr
    if tier not in ("long", "not long") or collection_path.suffix != ".py":
        return None
    if tier == "not long":
        return is_long(collection_path) or None
    return None if is_long(collection_path) or "mark.long" in collection_path.read_text(encoding="utf-8") else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if is_long(item.path):
            item.add_marker(pytest.mark.long)
    items.sort(key=lambda item: FIRST.index(item.path.name) if item.path.name in FIRST else len(FIRST))


def pytest_collection_finish() -> None:
    """Half a million objects of imported modules stay to the end: no garbage collection looks at them again."""
    gc.freeze()


def small(arch: str, **args: Any) -> torch.nn.Module:
    """An arch as small as its family says that it can be."""
    return zoo.create(arch, **hub.tiny(arch) | args)


def classes() -> dict[type[torch.nn.Module], str]:
    """Every model class of the zoo, and its first arch."""
    return {hub.model_class(arch): arch for arch in reversed(zoo.list_models())}


@functools.cache
def kinds() -> tuple[str, ...]:
    """An arch of each class, and of whatever else its models are built of."""
    found = {}
    for arch in zoo.list_models():
        model = small(arch)
        found.setdefault((type(model), frozenset(map(type, model.modules()))), arch)
    return tuple(found.values())


def read(name: str) -> dict[str, Any]:
    """What a recipe says."""
    return yaml.safe_load(recipe.recipe_path(name).read_text("utf-8"))


def tiny_flags(name: str) -> list[str]:
    """What makes a recipe buildable anywhere at once: its small model, data of that size, no download, no compiler."""
    args, data = (read(name)[part]["init_args"] for part in ("model", "data"))
    known = registry.records()
    record = known.get(f"{args.get('arch')}.{args.get('weights')}") or known.get(args.get("weights"))
    if "arch" not in args or (record and record.embedded):  # its size follows from weights that ship
        return []
    tiny = hub.tiny(args["arch"])
    *frames, _, height, _ = zoo.create(args["arch"], **args.get("arch_args", {}) | tiny).takes.shape
    sizes = {"frames": frames[0] if frames else None, "image_size": height}
    return [
        *(f"--model.arch_args.{key}={value}" for key, value in tiny.items()),
        *(f"--data.{key}={value}" for key, value in sizes.items() if key in data),
        *(["--model.weights", "null"] if args.get("weights") else []),
        *(["--model.phase", "1"] if args.get("phase", 1) > 1 else []),  # the others need the weights of the one before
        *(["--model.mask_channels", "[2, 4]"] if "mask_channels" in args else []),
        *(["--model.perceptual_weight", "0"] if "perceptual_weight" in args else []),
        *(["--model.compile", "false"] if args.get("compile") else []),
        *(["--model.disc_backbone", "mae_vit_tiny.tiny_imagenet"] if "disc_backbone" in args else []),
        *(["--model.autoencoder", "rae_mae_vit_tiny.tiny_imagenet"] if "autoencoder" in args else []),
        *(["--model.arch_args.quantizer_args.init", "uniform"] if "kmeans" in str(args.get("arch_args")) else []),
    ]


def image_batch(model: torch.nn.Module, count: int = 4) -> torch.Tensor:
    """Random samples that a model takes, (B, C, H, W) of images, (B, F, C, H, W) of clips."""
    return torch.rand(count, *model.takes.shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="session", autouse=True)
def _own_lock(tmp_path_factory):
    """What tests load from publishers is pinned in no file of the user's."""
    os.environ["ZOO_LOCK"] = str(tmp_path_factory.mktemp("lock") / "lock.json")


@pytest.fixture(scope="session")
def preloaded():
    """The beginning of a command, `python` where `-m MODULE ARG …` or `-c CODE ARG …` follows: see preloaded.py."""
    if sys.platform != "linux":  # Windows has no fork, and macOS ends some forks of what has frameworks loaded
        yield [sys.executable]
        return
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with tempfile.TemporaryDirectory() as folder:  # a socket's path is short
        command = [sys.executable, str(Path(__file__).with_name("preloaded.py")), f"{folder}/socket"]
        with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
            assert server.stdout.readline() == b"ready\n"
            yield [sys.executable, "-IS", *command[1:]]
            server.stdin.close()


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
