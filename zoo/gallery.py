"""`python -m zoo.gallery FILE.png`: one picture of the six families, each with what its shipped checkpoint does."""

import sys
from pathlib import Path

import torch
from matplotlib import pyplot as plt
from torch import Tensor
from torchvision.utils import make_grid

from zoo import hub, plots, registry, report
from zoo.bilinear.model import decompose, to_pixels
from zoo.data.readers import SAMPLES

SHOWN = {  # family -> its checkpoint, and what its rows are
    "mae": ("mae_vit_tiny.tiny_imagenet", "photographs, three quarters hidden, predicted"),
    "videomae": ("videomae_vit_tiny.sprites", "frames of a clip, the tenth that is seen, filled in"),
    "vq": ("vqvae_conv_small.cifar10", "photographs at 32 px, through 64 codes"),
    "dcae": ("dcae_tiny_f8c4.tiny_imagenet", "photographs, through 256 numbers"),
    "rae": ("rae_mae_vit_tiny.tiny_imagenet", "photographs, through a frozen encoder's tokens"),
    "bilinear": ("bilinear_d256.mnist_noise", "what the logits of 0 to 7 look for, read from the weights"),
}
ACROSS = 8


@torch.no_grad()
def pictures(family: str) -> Tensor:
    """Rows of eight, (8 rows, 3, H, W) in [0, 1]."""
    model = hub.load(SHOWN[family][0])
    if family == "bilinear":
        eigen = decompose(model.interactions())
        vectors = eigen.vectors[:ACROSS, :2].transpose(0, 1).flatten(0, 1)  # the two strongest of each digit
        filters = to_pixels(vectors, model.embed.weight).reshape(-1, 28, 28)
        filters = filters / filters.abs().amax((1, 2), keepdim=True)
        return torch.stack([1 + filters.clamp(max=0), 1 - filters.abs(), 1 - filters.clamp(min=0)], 1)  # blue to red
    if family == "videomae":
        clip = report.family(model).chosen(report.batches(model, report.sample(model), 8))[:1]  # (1, F, C, H, W)
        masked, _, pasted = model.reconstruct(clip)
        return torch.cat([p[0] for p in (clip, masked, pasted)])
    paths = sorted((SAMPLES / "photos").glob("*.jpg"))[:ACROSS]
    x = torch.stack([report.read_image(p, model) for p in paths])
    if family == "mae":
        masked, _, pasted = model.reconstruct(x)
        return torch.cat([x, masked, pasted])
    return torch.cat([x, model.reconstruct(x)])


def main(file: Path) -> Path:
    fig, axes = plt.subplots(3, 2, figsize=(12, 7.2), layout="constrained", height_ratios=(3, 2, 2))
    for ax, (family, (name, rows)) in zip(axes.flat, SHOWN.items(), strict=True):
        torch.manual_seed(0)  # the masks
        plots.picture(ax, make_grid(pictures(family), nrow=ACROSS, padding=2, pad_value=1.0))
        best = registry.weights_info(name).metrics[0]
        ax.set_title(f"{registry.facts(family).TITLE}: {rows}", fontsize=9)
        figure = f"{best.name.replace('_', ' ')} {best.value:g} {best.unit}".strip()
        ax.set_xlabel(f"{name}: {figure} on {best.data}", fontsize=8)
    return plots.write(fig, file)


if __name__ == "__main__":
    print(main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/gallery.png")))
