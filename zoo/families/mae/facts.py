"""The facts of the MAE family: sizes, the authors' files, independent retrainings."""

from dataclasses import replace

from zoo.registry import Metric, Weights

TITLE = "Masked autoencoders"
PAPER = "He et al. 2021, Masked Autoencoders Are Scalable Vision Learners, arXiv:2111.06377"

PUBLIC = {
    "MAE": "model",
    "MAEClassifier": "model",
}
PICTURE = (
    "docs/mae.png",
    "Photographs, three quarters hidden, the prediction, and the prediction pasted beside what was seen",
)


# arch -> archs whose encoder it starts from
STARTS = {
    f"mae_vit_{size}_classifier": (f"mae_vit_{size}", *fast)
    for size, fast in {
        "tiny": ("mae_vit_tiny_fast",),
        "small": ("mae_vit_small_fast",),
        "base": ("mae_vit_base_fast",),
        "large": (),
        "huge": (),
    }.items()
}


def _mae(px: int, vit: str, tokens: str, decoder: str, count: int) -> str:
    return f"{px}×{px} RGB → {tokens}, ViT-{vit}, decoder {decoder}, {count:,} parameters"


def _classifier(vit: str, count: int) -> str:
    return f"224×224 RGB → 1000 logits, ViT-{vit}, to be fine-tuned or probed, {count:,} parameters"


ARCHS = {
    "mae_vit_tiny": _mae(224, "Ti/16", "197 tokens of 192", "192×4", 7_451_904),
    "mae_vit_small": _mae(224, "S/16", "197 tokens of 384", "192×4", 23_592_192),
    "mae_vit_base": _mae(224, "B/16", "197 tokens of 768", "512×8", 111_655_680),
    "mae_vit_large": _mae(224, "L/16", "197 tokens of 1024", "512×8", 329_239_296),
    "mae_vit_huge": _mae(224, "H/14", "257 tokens of 1280", "512×8", 656_613_964),
    "mae_vit_tiny_fast": _mae(224, "Ti/16", "197 tokens of 192", "128×2 of half the hidden", 6_007_296),
    "mae_vit_small_fast": _mae(224, "S/16", "197 tokens of 384", "192×2 of half the hidden", 22_702_464),
    "mae_vit_base_fast": _mae(224, "B/16", "197 tokens of 768", "384×4 of half the hidden", 93_337_344),
    "mae_vit_tiny_classifier": _classifier("Ti/16", 5_717_416),
    "mae_vit_small_classifier": _classifier("S/16", 22_050_664),
    "mae_vit_base_classifier": _classifier("B/16", 86_567_656),
    "mae_vit_large_classifier": _classifier("L/16", 304_326_632),
    "mae_vit_huge_classifier": _classifier("H/14", 632_045_800),
}

VIT = {"image_size": 16, "patch_size": 4, "dim": 32, "depth": 2, "heads": 2}
TINY = {
    "MAE": VIT | {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2},
    "MAEClassifier": VIT,
}

# The authors' weights. They are pointed at, never copied: their licence is not ours to give.

NC, IMAGENET = "CC-BY-NC-4.0", "ImageNet: non-commercial research"
META = "https://dl.fbaipublicfiles.com/mae"
ENCODER = {"decoder_depth": 0}
FOREIGN = Weights(  # what all of them have in common; a name and a place come on top
    name="",
    args={},
    sha256="",
    size=0,
    licence=NC,
    data_terms=IMAGENET,
    metrics=(),
    foreign=True,
    data="imagenet-1k",
)


def _published(fine_tuned: float, probe: float, source: str) -> tuple[Metric, ...]:
    how = f"published by {source}; the encoder with a new head, not measured here"
    return (
        Metric("fine_tuned_accuracy", fine_tuned, "%", "ImageNet-1k val", how),
        Metric("linear_probe_accuracy", probe, "%", "ImageNet-1k val", how),
    )


def _meta(size: str, fine_tuned: float, probe: float, top1: float, top5: float, md5: tuple[str, str]) -> list[Weights]:
    """The four files of a size, as Meta publishes them."""
    published = _published(fine_tuned, probe, "the authors")
    how = "published by the authors, 224 px centre crop; not measured here"
    return [
        replace(
            FOREIGN,
            name=f"mae_vit_{size}.in1k",
            url=f"{META}/pretrain/mae_pretrain_vit_{size}.pth",
            md5=md5[0],
            kind="encoder",
            args=ENCODER,
            metrics=published,
            notes="1600 epochs, target norm_pixel; the encoder behind the published figures.",
        ),
        replace(
            FOREIGN,
            name=f"mae_vit_{size}.in1k_full",
            url=f"{META}/pretrain/mae_pretrain_vit_{size}_full.pth",
            notes="Encoder and decoder, target norm_pixel: to go on pretraining.",
        ),
        replace(
            FOREIGN,
            name=f"mae_vit_{size}.in1k_visualize",
            url=f"{META}/visualize/mae_visualize_vit_{size}.pth",
            args={"target": "pixel"},
            notes="Encoder and decoder, target pixel: the weights for pictures.",
        ),
        replace(
            FOREIGN,
            name=f"mae_vit_{size}_classifier.in1k",
            url=f"{META}/finetune/mae_finetuned_vit_{size}.pth",
            md5=md5[1],
            class_list="imagenet1k",
            metrics=(
                Metric("accuracy", top1, "%", "ImageNet-1k val", how),
                Metric("accuracy_top5", top5, "%", "ImageNet-1k val", how),
            ),
            notes="Fine-tuned; mean of the patch tokens, as pool='avg'.",
        ),
    ]


def _hub(size: str, patch: int, fine_tuned: float, probe: float) -> list[Weights]:
    """The same networks on the Hugging Face Hub. The two repositories hold different weights."""
    return [
        replace(
            FOREIGN,
            name=f"mae_vit_{size}.in1k_timm",
            repo=f"timm/vit_{size}_patch{patch}_224.mae",
            kind="encoder",
            args=ENCODER,
            metrics=_published(fine_tuned, probe, "the authors"),
            notes="The tensors of in1k, as timm distributes them.",
        ),
        replace(
            FOREIGN,
            name=f"mae_vit_{size}.in1k_hf",
            repo=f"facebook/vit-mae-{size}",
            file="pytorch_model.bin",
            args={"target": "pixel"},
            notes="The tensors of in1k_visualize, as transformers distributes them: target pixel. The repository is "
            "tagged apache-2.0, the authors' own licence is CC-BY-NC-4.0; the stricter one is taken.",
        ),
    ]


def _mmpretrain(size: str, epochs: int, name: str, sha256: str, fine_tuned: float, probe: float | None) -> Weights:
    """OpenMMLab's independent retrainings, decoder included."""
    run = f"mae_vit-{size}-p16_8xb512-fp16-coslr-{epochs}e_in1k"
    source = "OpenMMLab (mmpretrain)"
    metrics = _published(fine_tuned, probe or 0, source)
    return replace(
        FOREIGN,
        name=f"mae_vit_{size}.in1k_mmpretrain_{epochs}e",
        url=f"https://download.openmmlab.com/mmselfsup/1.x/mae/{run}/{name}-{sha256}.pth",
        sha256=sha256,
        licence="Apache-2.0",
        metrics=metrics if probe else metrics[:1],
        notes="Retrained by OpenMMLab, target norm_pixel. Apache-2.0 is its repository's licence, nothing separate is "
        "said of the weights. sha256 is known by its first eight digits.",
    )


def _b(epochs: int) -> str:
    return f"mae_vit-base-p16_8xb512-coslr-{epochs}e-fp16_in1k"


def _l(epochs: int, size: str = "large") -> str:
    return f"mae_vit-{size}-p16_8xb512-fp16-coslr-{epochs}e_in1k"


WEIGHTS = [
    *_meta("base", 83.6, 67.8, 83.664, 96.530, ("8cad7c", "1b25e9")),
    *_meta("large", 85.9, 76.0, 85.952, 97.570, ("b8b06e", "51f550")),
    *_meta("huge", 86.9, 77.2, 86.928, 98.088, ("9bdbb0", "2541f2")),
    replace(
        FOREIGN,
        name="mae_vit_large.in1k_visualize_gan",
        url=f"{META}/visualize/mae_visualize_vit_large_ganloss.pth",
        args={"target": "pixel"},
        notes="As in1k_visualize, trained on with an adversarial loss for sharper pictures.",
    ),
    *_hub("base", 16, 83.6, 67.8),
    *_hub("large", 16, 85.9, 76.0),
    *_hub("huge", 14, 86.9, 77.2),
    _mmpretrain("base", 300, f"{_b(300)}_20220829", "c2cf66ba", 83.1, 60.8),
    _mmpretrain("base", 400, f"{_b(400)}_20220825", "bc79e40b", 83.3, 62.5),
    _mmpretrain("base", 800, f"{_b(800)}_20220825", "5d81fbc4", 83.3, 65.1),
    _mmpretrain("base", 1600, f"{_l(1600, 'base')}_20220825", "f7569ca2", 83.5, 67.1),
    _mmpretrain("large", 400, f"{_l(400)}_20220825", "b11d0425", 85.2, 70.7),
    _mmpretrain("large", 800, f"{_l(800)}_20220825", "df72726a", 85.4, 73.7),
    _mmpretrain("large", 1600, f"{_l(1600)}_20220825", "cc7e98c9", 85.7, 75.5),
    _mmpretrain("huge", 1600, f"{_l(1600, 'huge')}_20220916", "ff848775", 86.9, None),
]

# In its features `zoo eval` compares pictures: it ships, is small, and has seen more kinds of picture than the others.
REFERENCE = "mae_vit_tiny.tiny_imagenet"
