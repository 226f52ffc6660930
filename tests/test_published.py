"""What the authors' own scripts say, beside what our recipes resolve to, for every recipe that says "as published".

A row names the file of the authors' repository and its flags, or the keys of its configuration, as they are spelled
there; where a file leaves one out, its parser's default stands. The step size and the batch are computed from both
sides, ours by what `zoo fit` computes it with.
"""

import re
from functools import cache
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch

from zoo import recipe
from zoo.data.clips import ClipData, Videos
from zoo.train import optim
from zoo.train.parse import resolve


class Script(NamedTuple):
    """A file of the authors', and what it states."""

    file: str
    stated: dict[str, Any]


def of(folder: str, file: str, common: dict[str, Any], **stated: Any) -> Script:
    return Script(f"{folder}/{file}", common | stated)


# facebookresearch/mae efb2a80: PRETRAIN.md and FINETUNE.md; main_pretrain.py, main_finetune.py, main_linprobe.py

IN_MEMORY = {"flip": True, "crop_pct": 0.875}
MAE = {"batch": 64 * 8 * 8, "lr": 1.5e-4, "min_lr": 0.0, "warmup_epochs": 40, "weight_decay": 0.05, **IN_MEMORY}
MAE |= {"betas": (0.9, 0.95), "mask_ratio": 0.75, "target": "norm_pixel", "crop_scale": (0.2, 1.0), "clip_grad": None}
TUNE = {"batch": 32 * 4 * 8, "min_lr": 1e-6, "warmup_epochs": 5, "weight_decay": 0.05, "betas": (0.9, 0.999)}
TUNE |= {"smoothing": 0.1, "mixup": 0.8, "cutmix": 1.0, "reprob": 0.25, "aa": "rand-m9-mstd0.5-inc1", **IN_MEMORY}
TUNE |= {"crop_scale": (0.08, 1.0), "clip_grad": None}
PROBE = {"batch": 512 * 4 * 8, "lr": 0.1, "min_lr": 0.0, "warmup_epochs": 10, "weight_decay": 0.0, **IN_MEMORY}
PROBE |= {"optimizer": "lars", "aa": None, "reprob": 0.0, "mixup": 0.0, "cutmix": 0.0, "smoothing": 0.0}
PROBE |= {"crop_scale": (0.08, 1.0), "clip_grad": None}
AMP = "facebookresearch/mae"
PUBLISHED = {
    "mae/in1k_pretrain_base": of(AMP, "PRETRAIN.md", MAE, epochs=1600),  # README: its weights are of 1600
    "mae/in1k_pretrain_large": of(AMP, "PRETRAIN.md", MAE, epochs=800),
    "mae/in1k_pretrain_huge": of(AMP, "PRETRAIN.md", MAE, epochs=1600),
    "mae/in1k_finetune_base": of(AMP, "FINETUNE.md", TUNE, lr=5e-4, layer_decay=0.65, drop_path=0.1, epochs=100),
    "mae/in1k_finetune_large": of(AMP, "FINETUNE.md", TUNE, lr=1e-3, layer_decay=0.75, drop_path=0.2, epochs=50),
    "mae/in1k_finetune_huge": of(AMP, "FINETUNE.md", TUNE, lr=1e-3, layer_decay=0.75, drop_path=0.3, epochs=50),
    "mae/in1k_probe_base": of(AMP, "FINETUNE.md", PROBE, epochs=90),
    "mae/in1k_probe_large": of(AMP, "FINETUNE.md", PROBE, epochs=50),
    "mae/in1k_probe_huge": of(AMP, "FINETUNE.md", PROBE, epochs=50),
}

# MCG-NJU/VideoMAE 14ef8d8: scripts/…; run_mae_pretraining.py, run_class_finetuning.py. `--batch_size` is of videos of a
# GPU, and both rates are multiplied by the videos of a step over 256. Scripts say 1601 epochs for checkpoint-1599.

HIDE = {"lr": 1.5e-4, "min_lr": 1e-5, "scales_min_lr": True, "warmup_epochs": 40, "weight_decay": 0.05}
HIDE |= {"betas": (0.9, 0.95), "mask_ratio": 0.9, "mask": "tube", "target": "norm_pixel", "clip_grad": None}
HIDE |= {"num_frames": 16, "sampling_rate": 4, "num_sample": 1, "crop": "multi_scale", "flip": False}
CLASSIFY = {"min_lr": 1e-6, "scales_min_lr": True, "warmup_epochs": 5, "weight_decay": 0.05, "betas": (0.9, 0.999)}
CLASSIFY |= {"layer_decay": 0.75, "drop_path": 0.1, "fc_drop_rate": 0.0, "clip_grad": None, "smoothing": 0.1}
CLASSIFY |= {"mixup": 0.8, "cutmix": 1.0, "reprob": 0.25, "aa": "rand-m7-n4-mstd0.5-inc1", "num_frames": 16}
CLASSIFY |= {"crop": "resized", "crop_scale": (0.08, 1.0), "flip": True, "num_sample": 2, "test": (5, 3)}
CLASSIFY |= {"sampling_rate": 4, "sampling": "dense"}
SSV2 = {"sampling": "uniform", "flip": False, "test": (2, 3)}  # datasets.py: clips of one frame of each of 16 segments
V1 = "MCG-NJU/VideoMAE/scripts"


def v1(name: str, common: dict[str, Any], **stated: Any) -> Script:
    data, what, size = name.split("_")
    folder, ratio, epochs = {
        "k400": ("kinetics", 0.9, 1600),
        "ssv2": ("ssv2", 0.9, 2400),
        "ucf101": ("ucf101", 0.75, 3200),
    }[data]
    file = f"videomae_vit_{size}_patch16_224_tubemasking_ratio_{ratio}_epoch_{epochs}/{what}.sh"
    return of(f"{V1}/{folder}", file, common | ({"epochs": epochs} if what == "pretrain" else {}), **stated)


HUGE = {"drop_path": 0.2, "fc_drop_rate": 0.5, "min_lr": 1e-5}
PUBLISHED |= {
    f"videomae/{name}": v1(name, common, **stated)
    for name, common, stated in (
        ("k400_pretrain_small", HIDE, {"batch": 32 * 8 * 4}),
        ("k400_pretrain_base", HIDE, {"batch": 32 * 8 * 8}),
        ("k400_pretrain_large", HIDE, {"batch": 8 * 8 * 8}),
        ("k400_pretrain_huge", HIDE, {"batch": 16 * 8 * 8}),
        ("ssv2_pretrain_small", HIDE, {"batch": 32 * 8 * 4, "sampling_rate": 2}),
        ("ssv2_pretrain_base", HIDE, {"batch": 32 * 8 * 8, "sampling_rate": 2}),
        ("ucf101_pretrain_base", HIDE, {"batch": 24 * 8, "lr": 3e-4, "mask_ratio": 0.75}),
        ("k400_finetune_small", CLASSIFY, {"batch": 12 * 8 * 4, "lr": 5e-4, "epochs": 150}),
        ("k400_finetune_base", CLASSIFY, {"batch": 6 * 8 * 8, "lr": 5e-4, "epochs": 75}),
        ("k400_finetune_large", CLASSIFY, {"batch": 2 * 8 * 8, "lr": 2e-3, "epochs": 35}),
        ("k400_finetune_huge", CLASSIFY | HUGE, {"batch": 8 * 8 * 8, "lr": 1e-3, "epochs": 50}),
        ("ssv2_finetune_small", CLASSIFY | SSV2, {"batch": 12 * 8 * 4, "lr": 1e-3, "epochs": 40, "layer_decay": 0.7}),
        ("ssv2_finetune_base", CLASSIFY | SSV2, {"batch": 6 * 8 * 8, "lr": 5e-4, "epochs": 30}),
        ("ucf101_finetune_base", CLASSIFY | HUGE, {"batch": 16 * 8, "lr": 5e-4, "epochs": 100, "layer_decay": 0.7}),
    )
}

# OpenGVLab/VideoMAEv2 29eab1e: the same rules; GPUS and --batch_size of each script

DUAL = HIDE | {"num_sample": 4, "decode": "running_cell", "lr": 1e-3}
GIANT = CLASSIFY | {"batch": 3 * 32, "layer_decay": 0.9, "weight_decay": 0.1}
V2 = "OpenGVLab/VideoMAEv2/scripts"
PUBLISHED |= {
    "videomae/v2_pretrain_base": of(
        V2, "pretrain/vit_b_hybrid_pt.sh", DUAL, batch=32 * 32, warmup_epochs=20, epochs=200
    ),
    "videomae/v2_pretrain_huge": of(
        V2, "pretrain/vit_h_hybrid_pt.sh", DUAL, batch=32 * 64, warmup_epochs=30, epochs=300
    ),
    "videomae/v2_pretrain_giant": of(
        V2, "pretrain/vit_g_hybrid_pt.sh", DUAL, batch=32 * 64, warmup_epochs=30, epochs=300, lr=6e-4, clip_grad=0.02
    ),
    "videomae/v2_k710_finetune_giant": of(
        V2, "finetune/vit_g_k710_ft.sh", GIANT, lr=1e-3, drop_path=0.3, clip_grad=5.0, epochs=35
    ),
    "videomae/v2_k400_finetune_giant": of(
        V2, "finetune/vit_g_k710_it_k400_ft.sh", GIANT, lr=1e-5, drop_path=0.25, warmup_epochs=1, epochs=3
    ),
    "videomae/v2_ssv2_finetune_giant": of(
        V2, "finetune/vit_g_ssv2_ft.sh", GIANT | SSV2, lr=3e-4, drop_path=0.25, weight_decay=0.05, epochs=20
    ),
}

# facebookresearch/mae_st c5dec1b. PRETRAIN.md: eff_batch_size leaves repeat_aug out, of 64 GPUs. FINETUNE.md: it counts
# repeat_aug, so --blr is per 256 clips, and of videos of two clips twice that. util/kinetics.py: 10 clips, 3 crops.

SPACE_TIME = {"min_lr": 0.0, "warmup_epochs": 5, "weight_decay": 0.05, "betas": (0.9, 0.95), "mask_ratio": 0.9}
SPACE_TIME |= {"mask": "random", "target": "norm_pixel", "pred_t_dim": 8, "clip_grad": 0.02, "num_frames": 16}
SPACE_TIME |= {"sampling_rate": 4, "num_sample": 4, "crop": "resized", "crop_scale": (0.5, 1.0), "flip": True}
PUBLISHED |= {
    "videomae/k400_mae_st_pretrain_large": of(
        "facebookresearch/mae_st", "PRETRAIN.md", SPACE_TIME, batch=2 * 64, lr=1.6e-3, epochs=100
    ),
    "videomae/k400_mae_st_finetune_large": of(
        "facebookresearch/mae_st",
        "FINETUNE.md",
        CLASSIFY | {"scales_min_lr": False, "aa": "rand-m7-mstd0.5-inc1", "test": (10, 3)},
        **{"batch": 2 * 64, "lr": 2 * 2.4e-3, "drop_path": 0.2, "fc_drop_rate": 0.3, "clip_grad": 5.0, "epochs": 50},
    ),
}

# bytetriper/RAE a4d18c4: configs/stage1/training/ and configs/stage2/training/ImageNet256/. In stage 2 an epoch holds
# each image twice here, mirrored too; the README recommends --precision fp32. train_stage1.py cuts 256 of 384 px.

RAE = "bytetriper/RAE/configs"
ADAM = {"absolute_lr": 2e-4, "min_lr": 2e-5, "betas": (0.9, 0.95), "weight_decay": 0.0}
FLOW = ADAM | {"batch": 1024, "ema": 0.9995, "clip_grad": 1.0, "warmup_epochs": 0, "precision": "32-true"}
FLOW |= {"autoencoder": "rae_vit_xl.dinov2_base", "num_classes": 1000}
PUBLISHED |= {
    "rae/in1k_dinov2_base": of(
        f"{RAE}/stage1/training",
        "DINOv2-B_decXL.yaml",
        ADAM | {"batch": 512, "ema": 0.9978, "clip_grad": None, "warmup_epochs": 1, "epochs": 16, "noise": 0.8},
        **{"perceptual_weight": 1.0, "disc_weight": 0.75, "disc_start": 8, "disc_warmup": 8 - 6, "image_size": 256},
        **{"crop": (384, 384), "crop_scale": None, "flip": False, "precision": "bf16-mixed"},
        disc_backbone="timm:vit_small_patch8_224.dino",
    ),
    "rae/in1k_ditdh_xl": of(
        f"{RAE}/stage2/training/ImageNet256", "DiTDH-XL_DINOv2-B.yaml", FLOW, decay_epoch=40 / 2, epochs=800 / 2
    ),
    # The weak model ends, after 14 epochs, while the rate is still constant.
    "rae/in1k_ditdh_s": of(f"{RAE}/stage2/training/ImageNet256", "DiTDH-S_DINOv2-B.yaml", FLOW, decay_epoch=None),
}

# CompVis/taming-transformers 3ba01b2: 4.5e-6 an image (main.py, scale_lr), SmallestMaxSize and RandomCrop, no flip.
# FoundationVision/LlamaGen ce98ec4: the parser's defaults; random_crop_arr. Neither lets a discriminator learn before.

GAN = {"disc_warmup": 0, "perceptual_weight": 1.0, "weight_decay": 0.0, "warmup_epochs": 0, "image_size": 256}
PUBLISHED |= {
    "vq/in1k_vqgan_f16": of(
        "CompVis/taming-transformers",
        "configs/imagenet_vqgan.yaml",
        GAN | {"batch": 12 * 8, "lr": 4.5e-6 * 256, "betas": (0.5, 0.9), "disc_start": 250_001, "disc_weight": 0.8},
        **{"codebook_size": 1024, "crop": (256, 256), "crop_scale": None, "flip": False, "precision": None},
        **{"reconstruction": "l1", "adaptive": True, "gradient_clip": None},
    ),
    "vq/in1k_llamagen_ds16": of(
        "FoundationVision/LlamaGen",
        "tokenizer/tokenizer_image/vq_train.py",
        GAN | {"batch": 128, "absolute_lr": 1e-4, "betas": (0.9, 0.95), "disc_start": 20_000, "disc_weight": 0.5},
        **{"epochs": 40, "crop": (256, 320), "crop_scale": None, "flip": True, "precision": "bf16-mixed"},
        **{"reconstruction": "l2", "adaptive": False, "gradient_clip": 1.0},
    ),
}

# kylehkhsu/latent_quantization 9a420a3: configs/train_ae.yaml, configs/params/…

LATENT = {"batch": 128, "absolute_lr": 1e-3, "num_steps": 200_000, "clip": 1.0, "betas": (0.9, 0.999)}
QLAE = "kylehkhsu/latent_quantization/configs"
PUBLISHED |= {
    "vq/qlae_rendered": of(QLAE, "model_partial/quantized_ae.yaml", LATENT, weight_decay=0.1, values=10),
    "vq/ae_rendered": of(QLAE, "params/ae/ae_shapes3d.yaml", LATENT, weight_decay=0.001),
    "vq/vae_rendered": of(QLAE, "model_partial/vae.yaml", LATENT, weight_decay=0.0),  # its β is not, and says so
    "vq/vqvae_rendered": of(QLAE, "params/vqvae/shapes3d.yaml", LATENT, weight_decay=0.01),
}

PLACES = {  # of what a script states, in a resolved recipe
    **{k: f"model.{k}" for k in ("warmup_epochs", "weight_decay", "betas", "layer_decay", "mixup", "cutmix")},
    **{k: f"model.{k}" for k in ("optimizer", "clip", "ema", "perceptual_weight", "disc_weight", "disc_start")},
    **{k: f"model.{k}" for k in ("disc_warmup", "adaptive", "reconstruction", "decay_epoch", "disc_backbone")},
    **{k: f"model.{k}" for k in ("gradient_clip", "autoencoder", "num_classes")},
    "smoothing": "model.label_smoothing",
    **{k: f"model.arch_args.{k}" for k in ("drop_path", "mask_ratio", "mask", "target", "decode", "noise", "values")},
    "fc_drop_rate": "model.arch_args.head_drop",
    "pred_t_dim": "model.arch_args.pred_frames",
    "codebook_size": "model.arch_args.codebook_size",
    "aa": "data.randaugment",
    "reprob": "data.erase",
    **{k: f"data.{k}" for k in ("flip", "crop", "crop_scale", "crop_pct", "sampling", "image_size")},
    "num_frames": "data.frames",
    "num_sample": "data.repeats",
    "sampling_rate": "data.stride",
    "test": "data.views",
    "epochs": "trainer.max_epochs",
    "num_steps": "trainer.max_steps",
    "clip_grad": "trainer.gradient_clip_val",
    "precision": "trainer.precision",
}
# Of a classifier that is made with another arch's arguments left out, and of LitMAE: what the class itself says.
DEFAULTS = {"model.arch_args.head_drop": 0.0, "model.arch_args.mask_ratio": 0.75, "model.arch_args.noise": 0.0}


@cache
def ours(name: str) -> dict[str, Any]:
    """A recipe as `zoo fit` resolves it: its keys by their place, its batch and its largest rate."""
    config = resolve(recipe.recipe_path(name), []).as_dict()
    model, data, trainer = config["model"]["init_args"], config["data"]["init_args"], config["trainer"]
    loader: Any = SimpleNamespace(batch_size=data["batch_size"])
    if config["data"]["class_path"] == "zoo.ClipData":
        clips = ClipData(**data)
        clips.splits["train"] = Videos([]), torch.zeros(10**6)
        loader = clips.train_dataloader()
    run: Any = SimpleNamespace(
        train_dataloader=loader,
        fit_loop=SimpleNamespace(setup_data=lambda: None),
        world_size=trainer["devices"] * trainer["num_nodes"] if trainer["devices"] != "auto" else 1,
        accumulate_grad_batches=trainer["accumulate_grad_batches"],
    )
    accumulate = model.get("accumulate", 1)
    found = {f"model.{k}": v for k, v in model.items()} | {f"data.{k}": v for k, v in data.items()}
    found |= {f"model.arch_args.{k}": v for k, v in (model["arch_args"] or {}).items()}
    return (
        DEFAULTS
        | found
        | {
            **{f"trainer.{k}": v for k, v in trainer.items()},
            "batch": optim.effective_batch(run, accumulate),
            "peak": optim.learning_rate(run, model["lr"], model["base_lr"], accumulate),
        }
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_says_what_the_authors_script_says(name):
    found, stated = ours(name), dict(PUBLISHED[name].stated)
    batch, scales = stated.pop("batch"), stated.pop("scales_min_lr", False)
    assert found["batch"] == batch
    peak = stated.pop("absolute_lr") if "absolute_lr" in stated else stated.pop("lr") * batch / 256
    assert found["peak"] == pytest.approx(peak)
    if "min_lr" in stated:
        assert found["model.min_lr"] == pytest.approx(stated.pop("min_lr") * (batch / 256 if scales else 1))
    plain = {k: tuple(v) if isinstance(v, list) else v for k, v in ((k, found[PLACES[k]]) for k in stated)}
    assert plain == stated, PUBLISHED[name].file


def test_every_recipe_that_says_as_published_is_in_the_table():
    claims = re.compile(r"as published|as the authors|the authors' (code|settings)", re.IGNORECASE)
    for name in recipe.list_recipes():
        first = recipe.about(name)
        assert not claims.search(first) or name in PUBLISHED | ELSEWHERE, f"{name}: {first}"


def test_a_header_says_where_the_precision_is_not_theirs():
    for name in PUBLISHED:
        header = recipe.recipe_path(name).read_text(encoding="utf-8").partition("\nseed_everything")[0]
        half, theirs = ours(name)["trainer.precision"] == "bf16-mixed", PUBLISHED[name].stated.get("precision")
        assert half == (theirs == "bf16-mixed" or "# Not theirs, on purpose: bf16" in header), name


# What claims something else: a part of the authors' way at a size of our own, or an example that is no script.
ELSEWHERE = {
    "mae/cifar10_probe": "the head and its optimiser",
    "vq/cifar10": "DeepMind's notebook, at its sizes",
    "vq/cifar10_plain": "the quantiser",
}
