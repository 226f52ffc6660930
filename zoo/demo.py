"""`make demo`: the zoo's main job, from a folder of pictures to predictions and neighbours, on pictures that ship."""

import contextlib
import json
import os
import shutil
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import torch

import zoo
from zoo import cli, hub
from zoo.data.readers import read

SHOWN = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
CLASSIFIER, ENCODER, RECIPE = SHOWN["classifier"], SHOWN["encoder"], SHOWN["recipe"]
EACH, ASKED = 12, 9  # sprites of a class that are trained on, and sprites that are asked about
EPOCHS = 6  # where the recipe would take 35


def main(out: Path, repository: Path) -> int:
    """Write pictures into folders, run each verb over them, and say what was measured and how long it took."""
    out.mkdir(parents=True, exist_ok=True)
    begun, log = time.perf_counter(), out / "log.txt"
    log.unlink(missing_ok=True)

    _title("A checkpoint that ships, on 1,000 digits it never saw")
    _verb(log, "eval", CLASSIFIER, figure="accuracy")

    photos, new = _pictures(out)
    _title(f"Your own pictures in six commands: here {EACH} sprites of each action, in {photos}")
    runs = out / "runs"
    shutil.rmtree(runs, ignore_errors=True)
    run = str(runs / RECIPE)
    _verb(log, "show", ENCODER, photos, "-o", out / "seen.png", "--force")
    short = ["--trainer.max_epochs", EPOCHS, "--data.flip", "false"]  # left and right are classes here
    _verb(log, "fit", RECIPE, "--data", photos, *short, "--runs", runs)
    _verb(log, "eval", run, figure="accuracy")
    _verb(log, "predict", run, new, "-o", out / "out.csv", "--force")
    _verb(log, "embed", run, photos, "-o", out / "features.parquet", "--force")
    _verb(log, "similar", out / "features.parquet", sorted(new.iterdir())[0], "-o", out / "sheet.png", "--force")

    _title("One checkpoint of each other family")
    for name in SHOWN["reconstructing"]:
        _verb(log, "show", name, "-o", out / f"{name.partition('_')[0]}.png", "--force")
    _verb(log, "show", SHOWN["film"], "-o", out / "film.gif", "--force")
    drawing = ["--classes", "3,23,76,any", "--each", "6", "--steps", "25", "--guidance", "2"]
    _verb(log, "sample", SHOWN["generator"], *drawing, "-o", out / "samples.png")

    _title("The run through every door, compared bit by bit")
    shutil.rmtree(out / "finetuned", ignore_errors=True)
    _verb(log, "export", run, out / "finetuned")
    print(f"  {', '.join(_doors(out / 'finetuned', repository, out))}")
    print(f"\n{time.perf_counter() - begun:.0f} s in all; pictures and tables lie in {out}, what was printed in {log}")
    return 0


def _verb(log: Path, verb: str, *argv: object, figure: str | None = None) -> None:
    """Run a verb as the command line does; print a line: its seconds and, of the JSON that it ends with, a figure."""
    command = " ".join(["zoo", verb, *(str(a) for a in argv if a != "--force")])
    start = time.perf_counter()
    if sys.stdout.isatty():
        print(f"      …    {command}", end="\r", flush=True)
    with _into(log):
        print(f"$ {command}", flush=True)
        status = cli.main([verb, *map(str, argv)])
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"{command}: exit status {status}, see {log}")
    measured = ""
    if figure is not None:
        found = json.loads(log.read_text(encoding="utf-8").splitlines()[-1])
        measured = f"{figure} {100 * found[figure]:.1f} % of {found['images']:,} pictures"
    print(f"  {seconds:5.1f} s  {command}  {measured}".rstrip(), flush=True)


@contextlib.contextmanager
def _into(log: Path) -> Iterator[None]:
    """What is printed, by whomever, goes into a file."""
    kept = [os.dup(number) for number in (1, 2)]
    with log.open("a", encoding="utf-8") as file:
        sys.stdout.flush()
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        try:
            yield
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            for number, old in zip((1, 2), kept):
                os.dup2(old, number)
                os.close(old)


def _pictures(out: Path) -> tuple[Path, Path]:
    """Sprites as files: of training characters in a folder for each action, and some of others without a class."""
    splits = read("samples/sprites")
    for folder in (out / "photos", out / "new"):
        shutil.rmtree(folder, ignore_errors=True)
    train, test = splits["train"], splits["test"]
    for label, name in enumerate(train.classes):
        folder = out / "photos" / name
        folder.mkdir(parents=True)
        for i in (train.labels == label).nonzero()[0][:EACH]:
            (folder / f"{i}.png").write_bytes(train.images[i])
    (out / "new").mkdir()
    for i in range(0, len(test), -(-len(test) // ASKED)):
        (out / "new" / f"{i}.png").write_bytes(test.images[i])
    return out / "photos", out / "new"


def _doors(folder: Path, repository: Path, out: Path) -> list[str]:
    """The checkpoint as a folder, through torch.hub, and as the Hub would hold it; refused unless all tensors agree."""
    arch = hub.read_config(folder)["arch"]
    published = Path(zoo.push(folder, "latentzoo/demo", dry_run=out / "hub"))
    doors = {
        "zoo.load": zoo.load(str(folder)),
        "zoo.create": zoo.create(arch, str(folder)),
        "torch.hub": torch.hub.load(str(repository), arch, source="local", weights=str(folder)),
        "Hub folder": zoo.load(str(published)),
    }
    first = doors["zoo.load"].state_dict()
    for name, model in doors.items():
        for key, value in model.state_dict().items():
            if not torch.equal(value, first[key]):
                raise SystemExit(f"{name} gives another {key} than zoo.load")
    return list(doors)


def _title(what: str) -> None:
    print(f"\033[1m{what}\033[0m" if sys.stdout.isatty() else what, flush=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "out"), Path.cwd()))
