"""Sizes of the bilinear classifier."""

TITLE = "Bilinear classifier"
PAPER = "Pearce, Dooms et al. 2024, Bilinear MLPs enable weight-based mechanistic interpretability, arXiv:2410.08417"

PUBLIC = {
    "BilinearClassifier": "model",
    "interaction_tensor": "model",
    "decompose": "model",
    "truncate": "model",
    "eigen_logits": "model",
    "truncation_curve": "model",
    "effective_rank": "model",
    "to_pixels": "model",
    "hosvd": "model",
    "adversarial_masks": "model",
    "tensor_similarity": "model",
}
PICTURE = ("docs/eigenvectors.png", "What each digit's logit looks for, read from the weights")

ARCHS = {
    "bilinear_d64": "28×28 grey → 10 logits, 1 bilinear layer of width 64, 59,008 parameters",
    "bilinear_d256": "28×28 grey → 10 logits, 1 bilinear layer of width 256, 334,336 parameters",
    "bilinear_d512_l3": "28×28 grey → 10 logits, 3 bilinear layers of width 512, 1,979,392 parameters",
}

TINY = {"BilinearClassifier": {"dim": 32, "image_size": 16}}
