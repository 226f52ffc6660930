"""The facts of the vector-quantised family: sizes, checkpoints of our own, the authors' files."""

from dataclasses import replace

from zoo.registry import Metric, Weights

TITLE = "Vector-quantised autoencoders"
PAPER = (
    "van den Oord et al. 2017, Neural Discrete Representation Learning, arXiv:1711.00937; "
    "Esser et al. 2021, Taming Transformers for High-Resolution Image Synthesis, arXiv:2012.09841; "
    "Hsu et al. 2023, Disentanglement via Latent Quantization, arXiv:2305.18378"
)

PUBLIC = {
    "LitVQ": "lit",
    "LitVQGAN": "lit",
    "LitPrior": "lit",
    "VQVAE": "model",
    "LatentAutoencoder": "qlae",
    "VQGAN": "vqgan",
    "CodePrior": "prior",
    "VectorQuantizer": "quantize",
    "FSQ": "quantize",
    "BinaryQuantizer": "quantize",
    "ScalarCodebooks": "quantize",
    "Residual": "quantize",
    "Product": "quantize",
    "nearest_code": "quantize",
    "straight_through": "quantize",
    "rotate": "quantize",
}
PICTURE = (
    "docs/vqvae.png",
    "Photographs that `vqvae_conv_small.cifar10` never saw, as its 64 codes keep them, and the codes",
)

ARCHS = {
    "vqvae_conv_small": "32×32 RGB → 8×8 codes of 512, 128 wide, 662,723 parameters",
    "vqvae_conv_base": "64×64 RGB → 16×16 codes of 512, 256 wide, 3,128,899 parameters",
    "vqvae_conv_large": "256×256 RGB → 32×32 codes of 1024, 256 wide, 7,850,051 parameters",
    "qlae_conv": "64×64 RGB → 12 latents of 10 learned values each, 7,651,780 parameters",
    "ae_conv": "64×64 RGB → 12 plain latents, QLAE's network, 7,651,660 parameters",
    "vae_conv": "64×64 RGB → 12 Gaussian latents, QLAE's network, 7,654,744 parameters",
    "vqgan_f16": "256×256 RGB → 16×16 codes of 1024, taming's network, 72,141,699 parameters",
    "vqgan_f8": "256×256 RGB → 32×32 codes of 16384, latent diffusion's network, 67,717,295 parameters",
    "vqgan_f4": "256×256 RGB → 64×64 codes of 8192, latent diffusion's network, 55,322,782 parameters",
    "llamagen_ds16": "256×256 RGB → 16×16 codes of 16384 in 8 dimensions, 71,883,403 parameters",
    "llamagen_ds8": "256×256 RGB → 32×32 codes of 16384 in 8 dimensions, 70,109,835 parameters",
    "vqprior_tiny": "a prior of 7×7 codes of 28×28 digits, 192 wide, 6 blocks, 2,730,240 parameters",
    "vqprior_small": "a prior of 7×7 codes of 28×28 digits, 384 wide, 12 blocks, 21,415,680 parameters",
    "vqprior_base": "a prior of 7×7 codes of 28×28 digits, 768 wide, 12 blocks, 85,298,688 parameters",
    "vqvae_conv_latents": "64×64 RGB → 12 latents of 512 codes, QLAE's network, 8,072,256 parameters",
}


# The authors' weights, by name. None was downloaded here; names, shapes and figures are as their publishers state them.

IMAGENET = "ImageNet: non-commercial research"
HEIBOX = "https://heibox.uni-heidelberg.de/d"
WEB = "LAION and the authors' own images, their owners' rights"


def _foreign(name: str, rfid: float | None = None) -> Weights:
    """What all of them have in common; a place comes on top."""
    how = "published by the authors; not measured here"
    return Weights(
        name=name,
        args={},
        sha256="",
        size=0,
        licence="MIT",
        data_terms=IMAGENET,
        metrics=(Metric("rfid", rfid, "", "ImageNet-1k val, 256 px", how),) if rfid else (),
        foreign=True,
        data="imagenet-1k",
    )


def _taming(codes: int, folder: str, copy: str, rfid: float) -> list[Weights]:
    """Esser et al.'s own checkpoint, and somebody's copy of its tensors on the Hub."""
    args = {"legacy_beta": True, "codebook_size": codes}
    notes = (
        "MIT is the licence of the authors' code, nothing separate is said of the weights. Trained with β on the "
        "codebook loss (legacy_beta)."
    )
    authors = replace(_foreign(f"vqgan_f16.in1k_{codes}", rfid), args=args, notes=notes)
    # Both files are called last.ckpt; what follows # is not sent and names the file in the cache.
    file = f"vqgan_f16_{codes}.ckpt"
    url = f"{HEIBOX}/{folder}/files/?p=%2Fckpts%2Flast.ckpt&dl=1#/{file}"
    return [
        replace(authors, url=url, file=file),
        replace(authors, name=f"{authors.name}_hf", repo=copy, file="pytorch_model.bin"),
    ]


def _llamagen(name: str, file: str, rfid: float | None = None, repo: str = "FoundationVision/LlamaGen") -> Weights:
    notes = "Codes of unit length. Where the file holds a running mean of the weights, that is what is loaded."
    return replace(_foreign(name, rfid), repo=repo, file=file, args={"metric": "cosine"}, notes=notes)


def _amused(size: int) -> Weights:
    network = {"mults": (1, 2, 2, 4, 6), "attention": (), "mid_attention": False, "z_channels": 64}
    return replace(
        _foreign(f"vqgan_f16.amused_{size}"),
        repo=f"amused/amused-{size}",
        file="vqvae/diffusion_pytorch_model.safetensors",
        licence="OpenRAIL++-M",
        args=network | {"image_size": size, "codebook_size": 8192, "code_dim": 64, "mean": 0.0, "std": 1.0},
        notes="aMUSEd's tokeniser; its network sees pixels in [0, 1]. The licence restricts uses.",
        data=None,
        data_terms=WEB,
    )


OFFICIAL = [
    *_taming(1024, "8088892a516d4e3baf92", "thomwolf/vqgan_imagenet_f16_1024", 7.94),
    *_taming(16384, "a7530b09fed84f80a887", "valhalla/vqgan_imagenet_f16_16384", 4.98),
    _llamagen("llamagen_ds16.in1k", "vq_ds16_c2i.pt", 2.19),
    _llamagen("llamagen_ds8.in1k", "vq_ds8_c2i.pt", 0.59),
    replace(
        _llamagen("llamagen_ds16.t2i", "vq_ds16_t2i.pt", repo="peizesun/llamagen_t2i"),
        data=None,
        data_terms=WEB,
    ),
    replace(
        _foreign("vqgan_f4.celebahq"),
        repo="CompVis/ldm-celebahq-256",
        file="vqvae/diffusion_pytorch_model.bin",
        licence="Apache-2.0",
        args={"legacy_beta": True},
        data=None,
        data_terms="OpenImages: CC BY 2.0 as Google lists it; the repository names CelebA-HQ",
        notes="The first stage of latent diffusion's faces, vq-f4.",
    ),
    _amused(256),
    _amused(512),
    replace(
        _foreign("vqgan_f8.ithq"),
        repo="microsoft/vq-diffusion-ithq",
        file="vqvae/diffusion_pytorch_model.bin",
        args={"width": 64, "mults": (1, 2, 4, 8), "z_channels": 256, "codebook_size": 4096, "code_dim": 128},
        data=None,
        data_terms="ITHQ-200M: images of the web, their owners' rights",
        notes="The tokeniser of VQ-Diffusion.",
    ),
]

JPEG = "CIFAR-10 (JPEG) test"
ERROR = "mean squared error over the variance of the test pixels; the authors' example ends at 0.056; `zoo eval`"
TOGETHER = "of the mean squared error of all images; psnr_of_mse of `zoo eval`"
SCENES = "rendered scenes, 10,000 unseen draws"
INFOMEC = "the standalone definition of Hsu et al. 2023; `zoo eval`"
READ = "by bilinear_d256.mnist, seed 0, `python -m benchmarks.samples`; "
USED = "share of the codes that the test set makes use of; `zoo eval`"


def _own(name: str, recipe: str, source: str) -> Weights:
    """What follows from a recipe; what came of it comes on top."""
    return Weights(
        name=name,
        args={},
        sha256="",
        size=0,
        licence="Apache-2.0",
        data_terms="",
        metrics=(),
        recipe=recipe,
        command=f"zoo fit {recipe} --data.source {source} --seed_everything 0 --data.seed 0",
        hardware="cpu (1 core)",
    )


OWN = [
    replace(
        _own("vqvae_conv_small.cifar10", "vq/cifar10", "CIFAR10"),
        args={
            "image_size": 32,
            "codebook_size": 512,
            "code_dim": 64,
            "quantizer_args": {"init": "kmeans", "restart": 0.05},
            "variance": 0.0632,
        },
        sha256="51f38c47a52a5ae9020f575ce32d0a4794a31bf905edb091a1170671cf9e1402",
        size=2_918_197,
        data="uoft-cs/cifar10",
        data_terms="CIFAR-10 (Krizhevsky 2009): research use",
        metrics=(
            Metric("error", 0.0531, "", JPEG, ERROR),
            Metric("psnr", 24.79, "dB", JPEG, TOGETHER),
            Metric("usage", 100, "%", JPEG, USED),
            Metric("perplexity", 430.2, "", JPEG, "of the codes of the whole test set, 512 at most; `zoo eval`"),
        ),
        wall_time="9 min",
        commit="da7756d9eafb76bd5b376f1ae77a52be6df69f70",
        golden=(2.1476, 0.60807, 0.61253, 0.6238, 0.58744, 0.54457, 0.48782, 0.47808),
        notes="10,000 steps of 32, as in the authors' example: 8×8 codes of 9 bits, 576 bits an image.",
    ),
    replace(
        _own("vqvae_conv_small.mnist", "vq/mnist", "MNIST"),
        args={
            "image_size": 28,
            "channels": 1,
            "width": 64,
            "codebook_size": 128,
            "code_dim": 32,
            "quantizer_args": {"init": "kmeans", "restart": 0.05},
            "variance": 0.0949,
        },
        sha256="90740e5d5a38915b90283f16cdda473e0f50a7b9254743fdb08e10c03c5d8824",
        size=862_317,
        data="ylecun/mnist",
        data_terms="CC BY-SA 3.0",
        metrics=(
            Metric("error", 0.0283, "", "MNIST test", "mean squared error over the variance of the pixels; `zoo eval`"),
            Metric("psnr", 25.64, "dB", "MNIST test", TOGETHER),
            Metric("usage", 100, "%", "MNIST test", USED),
            Metric("perplexity", 83.4, "", "MNIST test", "of the codes of the whole test set, 128 at most; `zoo eval`"),
        ),
        wall_time="7 min",
        commit="f73728aaf7332e8f1cbaf226eca490087dbb9764",
        golden=(1.86804, 0.2071, 0.08456, 0.14439, 0.15326, 0.13395, 0.21641, 0.14191),
        notes="7×7 codes of 7 bits, 343 bits an image: the tokeniser of vqprior_tiny.mnist.",
    ),
    replace(
        _own("vqprior_tiny.mnist", "vq/mnist_prior", "MNIST"),
        args={
            "image_size": [28, 28],
            "channels": 1,
            "grid": [7, 7],
            "codebook_size": 128,
            "num_classes": 10,
            "tokenizer": "vqvae_conv_small.mnist",
            "tokenizer_hash": "af59a2f84cd6ec93",
            "dim": 128,
            "depth": 4,
            "heads": 4,
            "dropout": 0.1,
        },
        sha256="9782a00543ff5791a1dc91d01a7e0f912152b51b505570748ab0f357536469f4",
        size=3_339_856,
        data="ylecun/mnist",
        data_terms="CC BY-SA 3.0",
        metrics=(
            Metric("nats", 1.962, "a code", "MNIST test", "given the class; 138.7 bits an image; `zoo eval`"),
            Metric("read_as_asked", 87.6, "%", "1,000 drawn digits", READ + "temperature 1, no guidance"),
            Metric("read_as_asked_guided", 99.1, "%", "1,000 drawn digits", READ + "temperature 1, guidance 2"),
        ),
        wall_time="20 min",
        commit="9a26d368b8285dcdef4d19ac24c05b7c887a6017",
        golden=(8.84373, -2.62277, -5.01335, -3.69812, -1.03868, 3.75572, -1.04363, 1.44515),
        notes="4 epochs. Draws through vqvae_conv_small.mnist, which it loads by name and knows by hash.",
    ),
    replace(
        _own("qlae_conv.rendered", "vq/qlae_rendered_cpu", "rendered"),
        args={"image_size": 32, "width": 8, "latents": 14},
        sha256="b538df2faf8904c89ecb27301c7c972634a1ccde95b9ce8d03fc080266c3b6b8",
        size=3_001_872,
        data_terms="rendered by this package, Apache-2.0",
        metrics=(
            Metric("infom", 0.567, "", SCENES, INFOMEC),
            Metric("infoe", 0.608, "", SCENES, INFOMEC),
            Metric("infoc", 0.184, "", SCENES, INFOMEC),
            Metric("psnr", 27.83, "dB", SCENES, TOGETHER),
        ),
        wall_time="14 min",
        commit="7a5594da69815131c9e83150c70d9d31fb0b2ea3",
        golden=(0.86319, 0.44782, 0.45254, 0.45291, 0.45372, 0.45302, 0.45314, 0.45317),
        notes="10,000 steps of 64 at 32 px and a quarter of the width, where the authors take 200,000 of 128: "
        "position and colours have latents of their own, shapes are still discs.",
    ),
]

WEIGHTS = [*OWN, *OFFICIAL]
