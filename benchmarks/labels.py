"""Few labels: `videomae_vit_tiny.sprites` fine-tuned and probed, against the same network from scratch.

Every run has the same number of steps, whatever the labels, and is tested on characters that were never seen. Rows
are kept in --kept as they come; a second call goes on with what is missing.
"""

import argparse
import logging
import statistics
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch

from benchmarks import harness
from zoo import hub
from zoo.data.clips import SHEET_LAYERS, ClipData, attributes, sprite_characters
from zoo.metrics.probes import linear_accuracy
from zoo.train.classify import LitClassifier

TASKS = {"action": 9, "body": 6, "bottomwear": 6, "topwear": 6, "hair": 6}
LABELS = ("5", "20", "all")
WAYS = ("fine-tuned", "from scratch", "probe", "probe of a random network")
BATCH, EVAL = 30, 222  # five clips of six classes make one batch


CLASSIFIER = "videomae_vit_tiny_classifier"


def train(weights: str, way: str, task: str, labels: str, seed: int, steps: int, tested: int) -> float:
    """Accuracy on the first test clips after so many steps."""
    L.seed_everything(seed, verbose=False)
    args = {k: v for k, v in hub.load(weights).zoo_config["args"].items() if k in hub.keywords(CLASSIFIER)}
    start = weights if way == "fine-tuned" else None
    limit = None if labels == "all" else int(labels)
    data = ClipData("sprites", 8, 64, label=task, limit=limit, batch_size=BATCH, eval_batch_size=EVAL, seed=seed)
    lit = LitClassifier(
        CLASSIFIER,
        weights=start,
        arch_args=args,
        num_classes=TASKS[task],
        lr=1e-3,
        weight_decay=0.05,
        layer_decay=0.75 if start else None,
        warmup_epochs=0.0,
    )
    trainer = L.Trainer(
        max_steps=steps,
        max_epochs=-1,
        limit_val_batches=0,
        limit_test_batches=-(-tested // EVAL),
        precision="bf16-mixed",
        **dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False),
    )
    trainer.fit(lit, data)
    (figures,) = trainer.test(lit, data, verbose=False)
    return figures["test/acc"]


@torch.no_grad()
def features(model: torch.nn.Module, tested: int, trained: int = 10**6) -> dict[str, torch.Tensor]:
    """Mean token of the first training clips and of the first test clips."""
    data = ClipData("sprites", 8, 64)
    data.setup("fit")
    found = {}
    for split, count in (("train", trained), ("test", tested)):
        batches = zip(data.in_order(split, EVAL), range(-(-count // EVAL)))
        with torch.autocast("cpu", torch.bfloat16):
            some = [
                model.eval().forward_features(data.on_after_batch_transfer(batch, 0)[0]).mean(1) for batch, _ in batches
            ]
        found[split] = torch.cat(some).float()  # (N, D)
    return found


def sprite_labels(task: str) -> dict[str, torch.Tensor]:
    """The class of every clip in the order of the set, actions within characters."""
    found = {}
    for split, characters in sprite_characters().items():
        if task == "action":
            found[split] = torch.arange(TASKS[task]).repeat(len(characters))
        else:
            found[split] = torch.from_numpy(attributes(characters)[:, SHEET_LAYERS.index(task)].repeat(TASKS["action"]))
    return found


def probe(found: dict[str, torch.Tensor], task: str, labels: str, seed: int) -> float:
    """A linear probe fitted to its optimum on the labelled clips."""
    y = {split: labels[: len(found[split])] for split, labels in sprite_labels(task).items() if split in found}
    each = len(y["train"]) if labels == "all" else int(labels)
    order = torch.randperm(len(y["train"]), generator=torch.Generator().manual_seed(seed))
    some = torch.cat([order[y["train"][order] == c][:each] for c in range(TASKS[task])])
    return linear_accuracy(found["train"][some], y["train"][some], found["test"], y["test"])


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="videomae_vit_tiny.sprites", help="name, checkpoint folder or run")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--labels", nargs="+", choices=LABELS, default=list(LABELS), help="clips a class")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=60, help=f"of {BATCH} clips")
    parser.add_argument("--tested", type=int, default=444, help="test clips, of 2,664")
    parser.add_argument("--kept", type=Path, default=Path("out/labels.json"))
    parser.add_argument("--plot", type=Path, default=Path("out/labels.png"))
    args = parser.parse_args(argv)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    kept = harness.Kept(args.kept, {"weights": args.weights, "steps": args.steps, "tested": args.tested})
    seen: dict[str, dict[str, torch.Tensor]] = {}
    wanted = [(t, n, w, s) for s in args.seeds for t in args.tasks for n in args.labels for w in args.ways]
    for task, labels, way, seed in wanted:
        key = {"task": task, "labels": labels, "way": way, "seed": seed}
        if not kept.lacks(**key):
            continue
        if way.startswith("probe"):
            if way not in seen:
                torch.manual_seed(0)
                model = hub.load(args.weights)
                if way != "probe":
                    model = hub.build(model.zoo_config["arch"], model.zoo_config["args"])
                seen[way] = features(model, args.tested)
            accuracy = probe(seen[way], task, labels, seed)
        else:
            accuracy = train(args.weights, way, task, labels, seed, args.steps, args.tested)
        kept.add(**key, accuracy=accuracy)
    results = [row for t, n, w, s in wanted for row in kept.where(task=t, labels=n, way=w, seed=s)]
    draw(results, args.plot)
    return results


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Accuracy over labels, a panel for a task, a line for a way, a dot for a seed."""
    from matplotlib import pyplot as plt

    from zoo.report import plots

    tasks = [task for task in TASKS if harness.where(results, task=task)]
    fig, axes = plt.subplots(1, len(tasks), figsize=(2.6 * len(tasks) + 1.6, 2.8), sharey=True, squeeze=False)
    styles = dict(zip(WAYS, ((plots.UP, "-"), (plots.DOWN, "-"), (plots.UP, "--"), (plots.DOWN, "--"))))
    for ax, task in zip(axes[0], tasks):
        for way, (colour, style) in styles.items():
            dots = [
                (x, 100 * row["accuracy"])
                for x, n in enumerate(LABELS)
                for row in harness.where(results, task=task, labels=n, way=way)
            ]
            means = {x: statistics.mean([v for at, v in dots if at == x]) for x, _ in dots}
            ax.plot(list(means), list(means.values()), color=colour, linestyle=style, label=way)
            ax.plot(*zip(*dots), ".", color=colour, alpha=0.5) if dots else None
        ax.axhline(100 / TASKS[task], color=plots.QUIET, linewidth=0.8)
        ax.set_xticks(range(len(LABELS)), LABELS)
        ax.set_title(task)
        ax.set_xlabel("labelled clips a class")
    axes[0][0].set_ylabel("accuracy on held-out characters, %")
    axes[0][-1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    plots.write(fig, path)


if __name__ == "__main__":
    print(harness.table(main()))
