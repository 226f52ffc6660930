"""The facts of the representation autoencoders: sizes, the authors' files."""

from dataclasses import replace
from typing import Any

from zoo.registry import Metric, Weights

TITLE = "Representation autoencoders"
PAPER = (
    "Zheng et al. 2025, Diffusion Transformers with Representation Autoencoders, arXiv:2510.11690; "
    "Wang et al. 2025, DDT: Decoupled Diffusion Transformer, arXiv:2504.05741"
)
PUBLIC = {
    "LitRAE": "lit",
    "LitDiT": "lit",
    "RAE": "model",
    "DiTDH": "dit",
    "FrozenEncoder": "encoder",
}
PICTURE = (
    "docs/rae.png",
    "Photographs that `rae_mae_vit_tiny.tiny_imagenet` never saw, their reconstruction, its error, and the latents",
)

ARCHS = {
    "rae_mae_vit_tiny": "64×64 RGB → 8×8 tokens of 192 of mae_vit_tiny, a decoder of 2,743,872 parameters",
    "ditdh_tiny": "8×8 tokens of 192 of rae_mae_vit_tiny, 200 classes → tokens, 5,140,920 parameters",
    "ditdh_s": "16×16 tokens of 768, 1,000 classes → tokens, for autoguidance, 196,357,204 parameters",
    "ditdh_xl": "16×16 tokens of 768, 1,000 classes → tokens, the published transformer, 838,380,628 parameters",
    "rae_vit_base": "256×256 RGB → 16×16 tokens of a frozen encoder, ViT-B decoder, 86,237,952 parameters",
    "rae_vit_large": "256×256 RGB → 16×16 tokens of a frozen encoder, ViT-L decoder, 303,887,104 parameters",
    "rae_vit_xl": "256×256 RGB → 16×16 tokens of a frozen encoder, ViT-XL decoder, 415,056,640 parameters",
}

TINY = {
    "RAE": {"image_size": 64, "encoder": "mae_vit_tiny.tiny_imagenet", "encoder_size": 64, "latent_channels": 192}
    | {"grid": 8, "dim": 32, "depth": 1, "heads": 2, "hidden": 64},
    "DiTDH": {"dim": [32, 48], "depth": [2, 1], "heads": [2, 3]},
}


# The authors' weights, by name. None was downloaded here; names and figures are as their publishers state them.

COLLECTION = "nyu-visionx/RAE-collections"
HOW = "published by the authors; not measured here"
SIGLIP = (0.5, 0.5, 0.5)
FOREIGN = Weights(  # what all of them have in common; a name and a file come on top
    name="",
    args={},
    sha256="",
    size=0,
    licence="MIT",
    data_terms="ImageNet: non-commercial research",
    metrics=(),
    repo=COLLECTION,
    foreign=True,
    data="imagenet-1k",
)


def _decoder(
    tag: str,
    encoder: str,
    channels: int,
    folder: str,
    stats: str,
    repo: str,
    metrics: tuple[Metric, ...] = (),
    licence: str = "MIT",
    **args: Any,
) -> list[Weights]:
    """The authors' decoder with its statistics, and diffusers' folder, which holds the encoder too.

    Args:
        licence: of the encoder.
        args: of the model, beside its encoder's name and channels.
    """
    args = {"encoder": f"timm:{encoder}", "latent_channels": channels} | args
    shared = replace(FOREIGN, args=args, metrics=metrics)
    return [
        replace(
            shared,
            name=f"rae_vit_xl.{tag}",
            file=f"decoders/{folder}/model.pt",
            extra_file=stats and f"stats/{stats}/stat.pt",
            notes="The encoder is fetched by its own name"
            + ("." if licence == "MIT" else f", under {licence}.")
            + ("" if stats else " No statistics are published with it: measure them with `zoo latents --measure`."),
        ),
        replace(
            shared,
            name=f"rae_vit_xl.{tag}_diffusers",
            repo=f"nyu-visionx/{repo}",
            file="diffusion_pytorch_model.safetensors",
            licence=licence,
            notes="The encoder is in the file.",
        ),
    ]


def _transformer(
    name: str, folder: str, autoencoder: str, grid: int, figures: tuple[tuple[float, str], ...] = ()
) -> Weights:
    return replace(
        FOREIGN,
        name=name,
        file=f"DiTs/Dinov2/wReg_base/{folder}/stage2_model.pt",
        args={"autoencoder": autoencoder, "grid": grid},
        class_list="imagenet1k",
        notes=f"Paints in the latents of {autoencoder}, which is fetched by its own name.",
        metrics=tuple(
            Metric("fid", value, "", f"ImageNet-1k, {16 * grid} px", f"{HOW}; {how}") for value, how in figures
        ),
    )


BASE = "vit_base_patch14_reg4_dinov2.lvd142m"
WEIGHTS = [
    *_decoder(
        "dinov2_small",
        "vit_small_patch14_reg4_dinov2.lvd142m",
        384,
        "dinov2/wReg_small/ViTXL_n08",
        "",
        "RAE-dinov2-wReg-small-ViTXL-n08",
    ),
    *_decoder(
        "dinov2_base",
        BASE,
        768,
        "dinov2/wReg_base/ViTXL_n08",
        "dinov2/wReg_base/imagenet1k",
        "RAE-dinov2-wReg-base-ViTXL-n08",
        metrics=(Metric("rfid", 0.57, "", "ImageNet-1k val, 256 px", HOW),),
    ),
    *_decoder(
        "dinov2_base_512",
        BASE,
        768,
        "dinov2/wReg_base/ViTXL_n08_i512",
        "dinov2/wReg_base/imagenet1k_512",
        "RAE-dinov2-wReg-base-ViTXL-n08-i512",
        image_size=512,
        encoder_size=448,
        grid=32,
    ),
    *_decoder(
        "dinov2_large",
        "vit_large_patch14_reg4_dinov2.lvd142m",
        1024,
        "dinov2/wReg_large/ViTXL_n08",
        "",
        "RAE-dinov2-wReg-large-ViTXL-n08",
    ),
    *_decoder(
        "mae_base",
        "vit_base_patch16_224.mae",
        768,
        "mae/base_p16/ViTXL_n08",
        "mae/base_p16/ImageNet1k",
        "RAE-mae-base-p16-ViTXL-n08",
        licence="CC-BY-NC-4.0",
        encoder_size=256,
    ),
    *_decoder(
        "siglip2_base",
        "vit_base_patch16_siglip_256.v2_webli",
        768,
        "siglip2/base_p16_i256/ViTXL_n08",
        "siglip2/base_p16_i256/ImageNet1k",
        "RAE-siglip2-base-p16-i256-ViTXL-n08",
        encoder_size=256,
        mean=SIGLIP,
        std=SIGLIP,
    ),
    _transformer(
        "ditdh_xl.imagenet256",
        "ImageNet256/DiTDH-XL",
        "rae_vit_xl.dinov2_base",
        16,
        ((1.51, "800 epochs, without guidance"), (1.13, "guided by ditdh_s.imagenet256")),
    ),
    _transformer("ditdh_s.imagenet256", "ImageNet256/DiTDH-S_ep14", "rae_vit_xl.dinov2_base", 16),
    _transformer(
        "ditdh_xl.imagenet512",
        "ImageNet512/DiTDH-XL_ep400",
        "rae_vit_xl.dinov2_base_512",
        32,
        ((1.13, "400 epochs, guided by ditdh_s.imagenet512"),),
    ),
    _transformer("ditdh_s.imagenet512", "ImageNet512/DiTDH-S_ep20", "rae_vit_xl.dinov2_base_512", 32),
]
