"""The facts of the vector-quantised family: sizes, the authors' files."""

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

TINY = {
    "VQVAE": {"image_size": 16, "width": 16, "res_blocks": 1, "res_width": 8, "codebook_size": 32, "code_dim": 8},
    "VQGAN": {"image_size": 24, "width": 32, "mults": [1, 2], "res_blocks": 1, "attention": [1], "z_channels": 8}
    | {"codebook_size": 32, "code_dim": 8},
    "LatentAutoencoder": {"image_size": 32, "width": 8, "codebook_size": 32, "code_dim": 8},
    "CodePrior": {"dim": 48, "depth": 2, "heads": 3},
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


WEIGHTS = [
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
