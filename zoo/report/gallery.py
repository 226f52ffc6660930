"""`python -m zoo.report.gallery FILE.png`: one picture of all families, each with what its shipped checkpoint does.

A family whose report.py has GALLERY, a checkpoint and what its rows show, is in it. Its `gallery(model)` gives the
pictures; without one, photographs stand above what the model makes of them.
"""

import sys
from pathlib import Path
from types import ModuleType

import torch
from matplotlib import pyplot as plt
from torchvision.utils import make_grid

from zoo import hub, registry
from zoo.nn.protocols import Reconstructs
from zoo.report import plots
from zoo.report.inputs import photographs

ACROSS = 8


@torch.no_grad()
def main(file: Path) -> Path:
    """Draw it."""
    shown: list[tuple[str, ModuleType]] = []
    for family in registry.families().values():
        report = family.part("report") if family.ours else None
        if report is not None and hasattr(report, "GALLERY"):
            shown.append((registry.facts(family.name).title, report))
    fig, axes = plt.subplots(-(-len(shown) // 2), 2, figsize=(12, 2.4 * -(-len(shown) // 2)), layout="constrained")
    for ax, (title, report) in zip(axes.flat, shown):
        torch.manual_seed(0)  # the masks
        name, rows = report.GALLERY
        model = hub.load(name)
        if hasattr(report, "gallery"):
            pictures = report.gallery(model, ACROSS)
        elif isinstance(model, Reconstructs):
            _, x = photographs(model, ACROSS)
            pictures = torch.cat([x, model.reconstruct(x)])
        else:
            raise TypeError(f"{name} gives no image back, and its family's report.py has no gallery(model)")
        plots.picture(ax, make_grid(pictures, nrow=ACROSS, padding=2, pad_value=1.0))
        best = registry.weights_info(name).metrics[0]
        ax.set_title(f"{title}: {rows}", fontsize=9)
        figure = f"{best.name.replace('_', ' ')} {best.value:g} {best.unit}".strip()
        ax.set_xlabel(f"{name}: {figure} on {best.data}", fontsize=8)
    for ax in axes.flat[len(shown) :]:
        ax.axis("off")
    return plots.write(fig, file)


if __name__ == "__main__":
    print(main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/gallery.png")))
