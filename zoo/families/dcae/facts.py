"""The facts of the deep compression family: sizes, the authors' files."""

from dataclasses import replace
from typing import Any

from zoo.registry import Metric, Weights

TITLE = "Deep compression autoencoders"
PAPER = (
    "Chen et al. 2024, Deep Compression Autoencoder for Efficient High-Resolution Diffusion Models, arXiv:2410.10733; "
    "Chen et al. 2025, DC-AE 1.5, arXiv:2508.00413"
)
PUBLIC = {
    "LitDCAE": "lit",
    "DCAE": "model",
    "haar": "blocks",
    "mask_channels": "model",
    "attend_linearly": "blocks",
}
PICTURE = (
    "docs/dcae.png",
    "Photographs that `dcae_tiny_f8c4.tiny_imagenet` never saw, their reconstruction, its error, and the latents",
)

ARCHS = {
    "dcae_f32c32": "256×256 RGB → 8×8 latents of 32, the published network, 323,356,460 parameters",
    "dcae_f64c128": "512×512 RGB → 8×8 latents of 128, the published network, 676,896,140 parameters",
    "dcae_f128c512": "512×512 RGB → 4×4 latents of 512, the published network, 1,120,682,252 parameters",
    "dcae_f32c32_sana": "512×512 RGB → 16×16 latents of 32, Sana's network, 312,250,275 parameters",
    "dcae_f32c32_lite": "512×512 RGB → 16×16 latents of 32, Sana's encoder, a faster decoder, 421,181,228 parameters",
    "dcae15_f32c128": "256×256 RGB → 8×8 latents of 128, DC-AE 1.5, 523,609,740 parameters",
    "dcae15_f64c128": "512×512 RGB → 8×8 latents of 128, DC-AE 1.5, 714,741,644 parameters",
    "dcae_tiny_f4c4": "32×32 RGB → 8×8 latents of 4, 256 floats, 1,068,912 parameters",
    "dcae_tiny_f8c4": "64×64 RGB → 8×8 latents of 4, 256 floats, 2,243,984 parameters",
    "dcae_tiny_f16c16": "64×64 RGB → 4×4 latents of 16, 256 floats, 3,446,716 parameters",
    "dcae_tiny_f32c64": "64×64 RGB → 2×2 latents of 64, 256 floats, 4,732,428 parameters",
}

CONVOLUTIONS: dict[str, Any] = {"encoder_attention": [], "decoder_attention": []}
TINY = {
    "DCAE": {"image_size": 16, "latent_channels": 4, "widths": [16, 32, 32]}
    | {"encoder_depths": [0, 1, 1], "decoder_depths": [0, 1, 1], "encoder_attention": [2], "decoder_attention": [2]},
    # of archs that are built of something else
    "dcae_f32c32_sana": {"encoder_depths": [1, 1, 1], "decoder_depths": [1, 1, 1]},
    "dcae_f32c32_lite": {"encoder_depths": [1, 1, 1], "decoder_attention": []},
    "dcae15_f32c128": CONVOLUTIONS,
    "dcae15_f64c128": CONVOLUTIONS,
}


# The authors' weights, by name. None was downloaded here; names and figures are as their publishers state them.

Data = tuple[str | None, str]  # Hub id where there is one, terms
IMAGENET: Data = ("imagenet-1k", "ImageNet: non-commercial research")
MIX: Data = (None, "ImageNet, SAM, Mapillary Vistas, FFHQ: research sets, their owners' terms")
SANA: Data = (None, "not stated by the authors")
Figures = tuple[tuple[str, float, str], ...]  # name, value, unit


def _official(
    name: str, repo: str, scale: float | None, data: Data, figures: Figures = (), size: int = 256
) -> list[Weights]:
    """The authors' file, and its twin in diffusers' layout; `figures` on ImageNet val at `size` px."""
    how = "published by the authors; not measured here"
    args: dict[str, Any] = {"image_size": size} | ({"latent_scale": scale} if scale else {})
    authors = Weights(
        name=name,
        args=args,
        sha256="",
        size=0,
        licence="Apache-2.0",
        data_terms=data[1],
        metrics=tuple(Metric(n, v, u, f"ImageNet-1k val, {size} px", how) for n, v, u in figures),
        repo=f"mit-han-lab/{repo}",
        foreign=True,
        notes="Apache-2.0 by the authors' word."
        + (f" Diffusion models multiply its latents by {scale}." if scale else " No scale of its latents is stated."),
        data=data[0],
    )
    twin = replace(
        authors, name=f"{name}_diffusers", repo=f"{authors.repo}-diffusers", file="diffusion_pytorch_model.safetensors"
    )
    return [authors, twin]


def _figures(rfid: float, psnr: float, ssim: float, lpips: float) -> Figures:
    return (("rfid", rfid, ""), ("psnr", psnr, "dB"), ("ssim", ssim, ""), ("lpips", lpips, ""))


WEIGHTS = [
    *_official("dcae_f32c32.in", "dc-ae-f32c32-in-1.0", 0.3189, IMAGENET, _figures(0.69, 23.85, 0.66, 0.082)),
    *_official("dcae_f32c32.mix", "dc-ae-f32c32-mix-1.0", 0.4552, MIX),
    *_official("dcae_f32c32.in_256px", "dc-ae-f32c32-in-1.0-256px", None, IMAGENET),
    *_official(
        "dcae_f64c128.in", "dc-ae-f64c128-in-1.0", 0.2889, IMAGENET, _figures(0.22, 26.15, 0.71, 0.080), size=512
    ),
    *_official("dcae_f64c128.mix", "dc-ae-f64c128-mix-1.0", 0.4538, MIX, size=512),
    *_official("dcae_f128c512.in", "dc-ae-f128c512-in-1.0", 0.4883, IMAGENET, (("rfid", 0.23, ""),), size=512),
    *_official("dcae_f128c512.mix", "dc-ae-f128c512-mix-1.0", 0.3620, MIX, size=512),
    *_official("dcae_f32c32_sana.1_0", "dc-ae-f32c32-sana-1.0", 0.41407, SANA, size=512),
    *_official("dcae_f32c32_sana.1_1", "dc-ae-f32c32-sana-1.1", 0.41407, SANA, size=512),
    *_official("dcae_f32c32_lite.1_1", "dc-ae-lite-f32c32-sana-1.1", 0.41407, SANA, size=512),
]
