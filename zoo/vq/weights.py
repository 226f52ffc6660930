"""The facts of the vector-quantised family: sizes, checkpoints of our own, the authors' files."""

from zoo.registry import Metric, Weights

TITLE = "Vector-quantised autoencoders"
PAPER = (
    "van den Oord et al. 2017, Neural Discrete Representation Learning, arXiv:1711.00937; "
    "Esser et al. 2021, Taming Transformers for High-Resolution Image Synthesis, arXiv:2012.09841; "
    "Hsu et al. 2023, Disentanglement via Latent Quantization, arXiv:2305.18378"
)

PICTURE = ("docs/factors.png", "The rendered scenes that QLAE is measured on, a factor a row")
STARTS: dict[str, tuple[str, ...]] = {}  # arch -> archs whose encoder it starts from
SAMPLES = dict.fromkeys([(3, 32, 32), (3, 64, 64)], "samples/sprites")  # image shape -> shipped images that fit it

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
    "vqvae_conv_latents": "64×64 RGB → 12 latents of 512 codes, QLAE's network, 8,072,256 parameters",
}


def task(arch: str) -> str:
    """The Hub's name for what a model does."""
    return "image-feature-extraction"


# The authors' weights, by name. None was downloaded here; names, shapes and figures are as their publishers state them.

IMAGENET = "ImageNet: non-commercial research"
HEIBOX = "https://heibox.uni-heidelberg.de/d/{}/files/?p=%2Fckpts%2Flast.ckpt&dl=1"


def _foreign(name: str, rfid: float | None = None, **facts) -> Weights:
    how = "published by the authors; not measured here"
    metrics = (Metric("rfid", rfid, "", "ImageNet-1k val, 256 px", how),) if rfid else ()
    defaults = {"args": {}, "sha256": "", "size": 0, "licence": "MIT", "data_terms": IMAGENET, "data": "imagenet-1k"}
    return Weights(name=name, foreign=True, metrics=metrics, **defaults | facts)


def _taming(name: str, folder: str, rfid: float) -> Weights:
    return _foreign(
        name,
        rfid,
        url=HEIBOX.format(folder),
        file="last.ckpt",
        args={"legacy_beta": True},
        notes="MIT is the licence of the authors' code, nothing separate is said of the weights. Trained with β on the "
        "codebook loss (legacy_beta). A Lightning checkpoint: what in it is no tensor is not read.",
    )


def _llamagen(name: str, repo: str, file: str, rfid: float | None = None, **facts) -> Weights:
    notes = "Codes of unit length. Where the file holds a running mean of the weights, that is what is loaded."
    return _foreign(name, rfid, repo=repo, file=file, args={"metric": "cosine"}, notes=notes, **facts)


WEB = {"data": None, "data_terms": "LAION and the authors' own images, their owners' rights"}

OFFICIAL = [
    _taming("vqgan_f16.in1k_1024", "8088892a516d4e3baf92", 7.94),
    _taming("vqgan_f16.in1k_16384", "a7530b09fed84f80a887", 4.98),
    _llamagen("llamagen_ds16.in1k", "FoundationVision/LlamaGen", "vq_ds16_c2i.pt", 2.19),
    _llamagen("llamagen_ds8.in1k", "FoundationVision/LlamaGen", "vq_ds8_c2i.pt", 0.59),
    _llamagen("llamagen_ds16.t2i", "peizesun/llamagen_t2i", "vq_ds16_t2i.pt", **WEB),
    _foreign(
        "vqgan_f4.celebahq",
        repo="CompVis/ldm-celebahq-256",
        file="vqvae/diffusion_pytorch_model.bin",
        licence="Apache-2.0",
        data=None,
        data_terms="CelebA-HQ: non-commercial research",
        args={"attention": ()},
        notes="The first stage of latent diffusion; faces alone.",
    ),
    *(
        _foreign(
            f"vqgan_f16.amused_{size}",
            repo=f"amused/amused-{size}",
            file="vqvae/diffusion_pytorch_model.safetensors",
            licence="OpenRAIL++-M",
            args={"image_size": size, "mid_attention": False},
            data=None,
            data_terms="LAION and the authors' own images, their owners' rights",
            notes="The tokeniser of aMUSEd, 8192 codes of 64 entries.",
        )
        for size in (256, 512)
    ),
    _foreign(
        "vqgan_f8.ithq",
        repo="microsoft/vq-diffusion-ithq",
        file="vqvae/diffusion_pytorch_model.bin",
        data=None,
        data_terms="ITHQ-200M: images of the web, their owners' rights",
        notes="The tokeniser of VQ-Diffusion, 4096 codes of 128 entries.",
    ),
]

WEIGHTS = [*OFFICIAL]
