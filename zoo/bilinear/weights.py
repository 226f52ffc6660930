"""Sizes and checkpoints of the bilinear classifier."""

from zoo.registry import Weights

TITLE = "Bilinear classifier"
PAPER = "Pearce, Dooms et al. 2024, Bilinear MLPs enable weight-based mechanistic interpretability, arXiv:2410.08417"
TASK = "image-classification"

SAMPLES = {(1, 28, 28): "samples/mnist"}  # image shape -> shipped images that fit it

ARCHS = {
    "bilinear_d64": "28×28 grey → 10 logits, 1 bilinear layer of width 64, 59,008 parameters",
    "bilinear_d256": "28×28 grey → 10 logits, 1 bilinear layer of width 256, 334,336 parameters",
    "bilinear_d512_l3": "28×28 grey → 10 logits, 3 bilinear layers of width 512, 1,979,392 parameters",
}

WEIGHTS: list[Weights] = []
