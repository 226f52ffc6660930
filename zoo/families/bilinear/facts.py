"""Sizes and checkpoints of the bilinear classifier."""

from zoo.registry import Metric, Weights

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

LAST_EPOCH = "last of 100 epochs, seed 0; no choice made by it"
FIFTEEN = "the 15 eigenvectors of largest |eigenvalue| per class instead of all 256"


def _mnist(accuracy: float, fifteen: float, rank: float) -> tuple[Metric, ...]:
    return (
        Metric("accuracy", accuracy, "%", "MNIST test", LAST_EPOCH),
        Metric("accuracy_15_eigenvectors", fifteen, "%", "MNIST test", FIFTEEN),
        Metric("effective_rank", rank, "", "the weights", "(Σ|λ|)² / Σλ², mean over the classes"),
    )


WEIGHTS = [
    Weights(
        name="bilinear_d256.mnist",
        args={},
        sha256="90708f830e8524f970c384a777fb94e419f8525b78b7b7467b741b84854d249f",
        size=1_337_624,
        licence="Apache-2.0",
        data_terms="CC BY-SA 3.0",
        data="ylecun/mnist",
        metrics=_mnist(97.73, 97.67, 21.5),
        recipe="bilinear/mnist",
        command="zoo fit bilinear/mnist --data.source MNIST --seed_everything 0 --data.seed 0",
        hardware="cpu (2 cores)",
        wall_time="3.9 min",
        commit="5d7103129611bd1d1b7e01ad03c3a090755cd298",
        golden=(-58.31052, -37.29032, 26.18218, 19.29214, -28.40718, -3.82582, -17.66469, -91.29907),
    ),
    Weights(
        name="bilinear_d256.mnist_noise",
        args={"noise": 0.5, "noise_p": 1.0},
        sha256="c78ae5b103de36739f0b9cad2064e1765f627b06edb9463a472e1783cf438b8d",
        size=1_337_624,
        licence="Apache-2.0",
        data_terms="CC BY-SA 3.0",
        data="ylecun/mnist",
        metrics=_mnist(98.35, 97.52, 82.6),
        recipe="bilinear/mnist_noise",
        command="zoo fit bilinear/mnist_noise --data.source MNIST --seed_everything 0 --data.seed 0",
        hardware="cpu (2 cores)",
        wall_time="1.6 min",
        commit="5d7103129611bd1d1b7e01ad03c3a090755cd298",
        golden=(4.34088, -7.2512, 0.1547, -2.32743, -0.45414, -1.97277, 1.38707, -1.81174),
        notes="Trained with Gaussian noise of standard deviation 0.5 on every image; fine-tuning goes on with it.",
    ),
]
