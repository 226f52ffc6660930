"""`make demo`: the zoo's main job, from a name to a published folder, on real pictures that ship with the package."""

import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

import zoo
from zoo import hub
from zoo.report import figures as report

SHOWN = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
NAME, RECIPE = SHOWN["finetuned"]["weights"], SHOWN["finetuned"]["recipe"]
PRETRAINED, TRANSFER = SHOWN["transferred"]["weights"], SHOWN["transferred"]["recipe"]


def main(out: Path, repository: Path) -> int:
    """List, load, evaluate, fine-tune, export, load through every door, draw, and say what was measured."""
    table: list[tuple[str, str]] = []

    _say("What there is: zoo ls")
    _zoo("ls")

    _say(f"Load {NAME} and evaluate it on the shipped digits")
    start = time.perf_counter()
    zoo.load(NAME)
    table.append(("load an embedded checkpoint", f"{1000 * (time.perf_counter() - start):.0f} ms"))
    before = report.evaluate(NAME)
    _row(table, "accuracy, 1,000 real digits it never saw", before)
    _row(table, f"  the same digits under noise {NOISE}", _noisy(NAME))

    _say(f"Fine-tune it: zoo fit {RECIPE}")
    start = time.perf_counter()
    run = _fit(out / "runs", RECIPE)
    table.append(("fine-tuning", f"{time.perf_counter() - start:.0f} s"))

    _say("Export the run and load it through every door")
    folder = zoo.export(run, out / "finetuned")
    _row(table, "accuracy after fine-tuning", report.evaluate(str(folder)))
    _row(table, f"  the same digits under noise {NOISE}", _noisy(str(folder)))
    table.append(("doors that agree bit for bit", ", ".join(_doors(folder, repository, out))))

    _say("Draw it")
    picture = report.show(str(folder), [], out / "demo.png")

    _say(f"What {PRETRAINED} sees in sprites, which it was never shown")
    figures = report.evaluate(PRETRAINED)
    table.append(("20 nearest neighbours, 9 actions of 900 sprites", f"{100 * figures['knn']:.1f} %"))
    table.append(("a linear probe on its features", f"{100 * figures['linear']:.1f} %"))

    _say(f"Transfer: zoo fit {TRANSFER} on 900 sprites, then from scratch")
    sprites = ["--data.source", "samples/sprites", "--model.num_classes", "9", "--trainer.max_epochs", "5"]
    sprites += ["--data.batch_size", "32", "--model.base_lr", "8e-3"]  # few pictures: many small steps
    sprites += ["--data.flip", "false"]  # left and right are different classes here
    start = time.perf_counter()
    for what, weights in (("fine-tuned from it", []), ("  from scratch", ["--model.weights", "null"])):
        run = _fit(out / "runs" / ("scratch" if weights else "transfer"), TRANSFER, *sprites, *weights)
        _row(table, f"{what}, 5 epochs, held-out characters", report.evaluate(str(run)))
    table.append(("both", f"{time.perf_counter() - start:.0f} s"))
    pictures = [picture, report.show(PRETRAINED, [], out / "transfer.png")]

    _say("One checkpoint of each other family, on pictures that ship")
    for what, name in SHOWN["reconstructing"].items():
        table.append((f"{what}, {name}", f"{report.evaluate(name)['psnr']:.1f} dB"))
        pictures.append(report.show(name, [], out / f"{name.partition('_')[0]}.png"))
    pictures.append(report.show(SHOWN["film"], [], out / "film.gif"))
    drawn = ("3", "23", "76", "any")
    pictures.append(report.draw(SHOWN["generator"], out / "samples.png", list(drawn), each=6, steps=25, guidance=2.0))

    print("\n" + "-" * 88)
    for what, measured in table:
        print(f"{what:<48} {measured}")
    print(f"{'pictures':<48} {', '.join(map(str, pictures))}")
    print(f"{'checkpoint folder, ready for zoo push':<48} {folder}")
    return 0


NOISE = 0.5


@torch.no_grad()
def _noisy(name: str) -> dict[str, float]:
    """Accuracy under Gaussian noise, seeded; the pixels stay in [0, 1]."""
    model = hub.load(name)
    generator = torch.Generator().manual_seed(0)

    def noisy() -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in report.batches(model, report.sample(model), 1000):
            yield (x + NOISE * torch.randn(x.shape, generator=generator)).clamp(0, 1), y

    return report.part(model, "evaluate")(model, noisy())


def _row(table: list[tuple[str, str]], what: str, figures: dict) -> None:
    table.append((what, f"{100 * figures['accuracy']:.1f} %"))


def _fit(root: Path, recipe: str, *overrides: str) -> Path:
    """Run a recipe as a user would and return the run's directory."""
    _zoo("fit", recipe, "--runs", str(root), *overrides)
    return max((p for p in root.glob("*/*") if (p / "checkpoints").is_dir()), key=lambda p: p.stat().st_mtime)


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


def _zoo(*argv: str) -> None:
    subprocess.run([sys.executable, "-m", "zoo.cli", *argv], check=True)


def _say(what: str) -> None:
    print(f"\n\033[1m{what}\033[0m", flush=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "out"), Path.cwd()))
