"""The facts of the video family: sizes, the authors' files."""

from dataclasses import replace

from zoo.registry import Metric, Weights

TITLE = "Masked autoencoders of video"
PAPER = (
    "Tong et al. 2022, VideoMAE, arXiv:2203.12602; Wang et al. 2023, VideoMAE V2, arXiv:2303.16727; "
    "Feichtenhofer et al. 2022, Masked Autoencoders As Spatiotemporal Learners, arXiv:2205.09113"
)

PUBLIC = {
    "VideoMAE": "model",
    "SpaceTimeMAE": "spacetime",
    "VideoMAEClassifier": "model",
}
PICTURE = ("docs/videomae.png", "Clips of held-out characters, what the encoder sees of them, and the reconstruction")


# arch -> archs whose encoder it starts from
STARTS = {
    "videomae_vit_tiny_classifier": ("videomae_vit_tiny",),
    **{
        f"videomae_vit_{size}_classifier": (f"videomae_vit_{size}", f"videomae_v2_vit_{size}")
        for size in ("small", "base", "large", "huge")
    },
    "videomae_v2_vit_giant_classifier": ("videomae_v2_vit_giant",),
    **{f"mae_st_vit_{size}_classifier": (f"mae_st_vit_{size}",) for size in ("base", "large", "huge")},
}


def _mae(vit: str, tokens: str, decoder: str, count: int) -> str:
    return f"16 frames of 224×224 RGB → {tokens}, ViT-{vit}, decoder {decoder}, {count:,} parameters"


def _classifier(vit: str, count: int) -> str:
    return f"16 frames of 224×224 RGB → 400 logits, ViT-{vit}, to be fine-tuned or probed, {count:,} parameters"


HALF = " of half the hidden"

ARCHS = {
    "videomae_vit_tiny": _mae("Ti/16", "1568 tokens of 192", "96×4", 6_248_928),
    "videomae_vit_small": _mae("S/16", "1568 tokens of 384", "192×4", 24_034_752),
    "videomae_vit_base": _mae("B/16", "1568 tokens of 768", "384×4", 94_221_696),
    "videomae_vit_large": _mae("L/16", "1568 tokens of 1024", "512×12", 343_027_712),
    "videomae_vit_huge": _mae("H/16", "1568 tokens of 1280", "640×12", 692_535_936),
    "videomae_v2_vit_small": _mae("S/16", "1568 tokens of 384", "192×4" + HALF, 24_034_752),
    "videomae_v2_vit_base": _mae("B/16", "1568 tokens of 768", "384×4" + HALF, 94_221_696),
    "videomae_v2_vit_large": _mae("L/16", "1568 tokens of 1024", "512×4" + HALF, 317_808_640),
    "videomae_v2_vit_huge": _mae("H/16", "1568 tokens of 1280", "512×4" + HALF, 645_702_400),
    "videomae_v2_vit_giant": _mae("g/14", "2048 tokens of 1408", "512×4" + HALF, 1_026_364_928),
    "mae_st_vit_base": _mae("B/16", "1569 tokens of 768", "512×4 of 8 frames", 99_898_880),
    "mae_st_vit_large": _mae("L/16", "1569 tokens of 1024", "512×4 of 8 frames", 317_731_584),
    "mae_st_vit_huge": _mae("H/16", "1569 tokens of 1280", "512×4 of 8 frames", 645_678_080),
    "videomae_vit_tiny_classifier": _classifier("Ti/16", 5_711_056),
    "videomae_vit_small_classifier": _classifier("S/16", 22_038_544),
    "videomae_vit_base_classifier": _classifier("B/16", 86_544_016),
    "videomae_vit_large_classifier": _classifier("L/16", 304_295_312),
    "videomae_vit_huge_classifier": _classifier("H/16", 632_160_400),
    "videomae_v2_vit_giant_classifier": _classifier("g/14", 1_012_230_672),
    "mae_st_vit_base_classifier": _classifier("B/16", 86_702_224),
    "mae_st_vit_large_classifier": _classifier("L/16", 304_506_256),
    "mae_st_vit_huge_classifier": _classifier("H/16", 632_424_080),
}

VIT = {"frames": 8, "image_size": 64, "patch_size": 16, "dim": 32, "depth": 2, "heads": 2}
DECODER = {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}
TINY = {
    "VideoMAE": VIT | DECODER,
    "SpaceTimeMAE": VIT | DECODER | {"pred_frames": 4},
    "VideoMAEClassifier": VIT,
}

# The authors' weights. They are pointed at, never copied: their licence is not ours to give.

NC = "CC-BY-NC-4.0"
NAMES = {
    "k400": "Kinetics-400",
    "k600": "Kinetics-600",
    "k700": "Kinetics-700",
    "k710": "Kinetics-710",
    "ssv2": "Something-Something V2",
}
TERMS = {
    **{k: f"{name}: YouTube videos, their uploaders' rights" for k, name in NAMES.items()},
    "k710": "Kinetics-400, 600 and 700 together: YouTube videos, their uploaders' rights",
    "ssv2": "Something-Something V2: its own licence",
    "hybrid": "UnlabeledHybrid: Kinetics, WebVid-2M, AVA, Something-Something V2 and more, each of its own terms",
}
CLASSES = {"k400": 400, "k710": 710, "ssv2": 174}
LISTS = {"k400": "kinetics400", "k710": "kinetics710", "ssv2": "ssv2"}  # their names
VIEWS = {"k400": "5 clips × 3 crops", "k710": "5 clips × 3 crops", "ssv2": "2 clips × 3 crops"}
ENCODER = {"decoder_depth": 0}
FOREIGN = Weights("", args={}, sha256="", size=0, licence=NC, data_terms="", metrics=(), foreign=True)


def _foreign(name: str, data: str, place: Weights = FOREIGN) -> Weights:
    """What all that were trained on such data have in common, at a place that `_hub` gives or that comes on top."""
    return replace(place, name=name, data_terms=TERMS[data], data=NAMES.get(data, "UnlabeledHybrid").lower())


def _accuracy(data: str, top1: float, top5: float | None = None) -> tuple[Metric, ...]:
    how = f"published by the authors, {VIEWS[data]} of 16 frames; not measured here"
    values = {"accuracy": top1, "accuracy_top5": top5}
    return tuple(Metric(k, v, "%", f"{NAMES[data]} val", how) for k, v in values.items() if v)


def _fine_tuned(top1: float, data: str, how: str) -> tuple[Metric, ...]:
    how = f"published by the authors, {how}; the encoder with a new head, not measured here"
    return (Metric("fine_tuned_accuracy", top1, "%", f"{NAMES[data]} val", how),)


def _hub(repo: str, revision: str | None = None, sha256: str = "", size: int = 0) -> Weights:
    """Where MCG-NJU keeps a network on the Hugging Face Hub, and what the Hub states of the file."""
    repo, file = f"MCG-NJU/videomae-{repo}", "pytorch_model.bin"
    return replace(FOREIGN, repo=repo, file=file, revision=revision, sha256=sha256, size=size)


def _pretrained(name: str, epochs: int, top1: float, place: Weights) -> Weights:
    data = name.partition(".")[2].partition("_")[0]
    return replace(
        _foreign(name, data, place),
        metrics=_fine_tuned(top1, data, VIEWS[data]),
        notes=f"{epochs} epochs, encoder and decoder, tubes of 0.9 hidden, target norm_pixel one colour at a time.",
    )


def _classifier_of(name: str, epochs: int, top1: float, top5: float, place: Weights, note: str = "") -> Weights:
    data = name.partition(".")[2].partition("_")[0]
    return replace(
        _foreign(name, data, place),
        args={"num_classes": CLASSES[data]},
        class_list=LISTS[data],
        metrics=_accuracy(data, top1, top5),
        notes=f"{epochs} epochs of pretraining, then fine-tuned; mean of the tokens.{note}",
    )


SIX_HEADS = (
    " The config on the Hub states 16 heads, the authors' network has 6 and so has this one: under transformers, the "
    "tensors of the same file give another function."
)

MCG_NJU = [
    _pretrained(
        "videomae_vit_base.k400",
        *(1600, 81.5),
        _hub(
            "base",
            "da9dfb091d91eff8eeeda695bcc4b316dfccc2a5",
            "2e0c3f4bc73c6d287b96c30975b43d60c9fc004c548150f252278f1becd89a7d",
        ),
    ),
    _pretrained(
        "videomae_vit_base.k400_800e", 800, 80.0, _hub("base-short", "9fa00797f9e861e08e49069f5039d60e02b37122")
    ),
    _pretrained(
        "videomae_vit_large.k400",
        *(1600, 85.2),
        _hub(
            "large",
            "79b76c00c7cc4761924e23fa98ca5bb728f88e01",
            "c7549bea23c22ab1ab0433c2371e7c9060cf93d209ea1894a87c874a99334a60",
            1_372_166_773,
        ),
    ),
    _pretrained("videomae_vit_base.ssv2", 2400, 70.8, _hub("base-ssv2", "f5f75837ddf3ec8544a57c85b6628353102811da")),
    _pretrained(
        "videomae_vit_base.ssv2_800e",
        *(800, 69.6),
        _hub(
            "base-short-ssv2",
            "bc6ec6933ab99481c2f45ad12b7af92d5c4b4ce1",
            "743529d0fcc7cab9798de40b2b8ab8f79cd11341e1d71f4b16ad2a854828558a",
            376_924_301,
        ),
    ),
    _classifier_of(
        "videomae_vit_small_classifier.k400",
        *(1600, 79.0, 93.8),
        _hub("small-finetuned-kinetics", "1bf2b82c809609f5df1ea7648aee577e2e486b63"),
        SIX_HEADS,
    ),
    _classifier_of(
        "videomae_vit_small_classifier.ssv2",
        *(2400, 66.8, 90.3),
        _hub(
            "small-finetuned-ssv2",
            "b2159d047b799d3966821631116421b9cf9c38c3",
            "e3a1aa3caef3828c9c3bc3240f7d2023d037962c0952db6d702779d05bbe5e09",
        ),
        SIX_HEADS,
    ),
    _classifier_of(
        "videomae_vit_base_classifier.k400",
        *(1600, 81.5, 95.1),
        _hub("base-finetuned-kinetics", "972cbe52fa2d39fc3aa7c4b9d7012a04bb7f094a"),
    ),
    _classifier_of("videomae_vit_base_classifier.k400_800e", 800, 80.0, 94.4, _hub("base-short-finetuned-kinetics")),
    _classifier_of(
        "videomae_vit_base_classifier.ssv2",
        *(2400, 70.8, 92.4),
        _hub(
            "base-finetuned-ssv2",
            "b018e9a7dd346a35e910d04e48c36816628ef4e0",
            "b960dafd7b3051e8be4ce7ca1bcbc051012eee2a0767f22dd6b7ca77507b82fb",
        ),
    ),
    _classifier_of("videomae_vit_base_classifier.ssv2_800e", 800, 69.6, 92.0, _hub("base-short-finetuned-ssv2")),
    _classifier_of(
        "videomae_vit_large_classifier.k400",
        *(1600, 85.2, 96.8),
        _hub("large-finetuned-kinetics", "0f6adcd5f6902900aa0281f9daacfe52bb3c4ad4"),
    ),
    _classifier_of("videomae_vit_huge_classifier.k400", 1600, 86.6, 97.1, _hub("huge-finetuned-kinetics")),
]

# V2 lies in two places of the same publisher, with two licences: the stricter one is stated.

TWO_LICENCES = (
    " The repository is tagged apache-2.0, the publisher's later ones of V2 CC-BY-NC-4.0; the stricter one is taken."
)


def _v2(name: str, data: str, file: str, sha256: str = "") -> Weights:
    revision = "706cc172d65ebd4dedbee3f9c0183a93df9fa125"
    return replace(_foreign(name, data), repo="OpenGVLab/VideoMAE2", revision=revision, file=file, sha256=sha256)


def _distilled(size: str, top1: float) -> Weights:
    name, file = f"videomae_vit_{size}_classifier.k710_distilled", f"distill/vit_{size[0]}_k710_dl_from_giant.pth"
    return replace(
        _v2(name, "k710", file),
        args={"num_classes": CLASSES["k710"]},
        class_list=LISTS["k710"],
        metrics=_accuracy("k710", top1),
        notes="Distilled from V2's ViT-g that was fine-tuned on the labels of Kinetics-710. Stored as float16."
        + TWO_LICENCES,
    )


def _giant(data: str, top1: float, top5: float, sha256: str) -> Weights:
    name, file = f"videomae_v2_vit_giant_classifier.{data}", f"mae-g/vit_g_hybrid_pt_1200e_{data}_ft.pth"
    return replace(
        _v2(name, data, file, sha256),
        args={"num_classes": CLASSES[data]},
        class_list=LISTS[data],
        metrics=_accuracy(data, top1, top5),
        notes="1200 epochs of pretraining on UnlabeledHybrid, then fine-tuned. Stored as float16." + TWO_LICENCES,
    )


def _v2_features(size: str, data: str, revision: str | None, sha256: str, note: str) -> Weights:
    return replace(
        _foreign(f"videomae_vit_{size}_classifier.v2_features", data),
        repo=f"OpenGVLab/VideoMAEv2-{size.title()}",
        revision=revision,
        sha256=sha256,
        kind="encoder",
        args={"num_classes": 0},
        notes="Blocks and the norm over the mean of the tokens, no decoder and no head: `model.pooled(clips)` are its "
        f"features, `LitClassifier` with num_classes fine-tunes it. {note}",
    )


CARD = "Its card says pretrained on UnlabeledHybrid alone."

OPENGVLAB = [
    replace(
        _v2(
            "videomae_v2_vit_giant.hybrid",
            "hybrid",
            "mae-g/vit_g_hybrid_pt_1200e.pth",
            "5773c881d303426f2f0e906df9842c4ca95fba6a5901849a3e8d9d1ed8f79b5f",
        ),
        size=4_105_433_973,
        metrics=_fine_tuned(83.8, "k710", VIEWS["k710"]),
        notes="1200 epochs, target norm_pixel one colour at a time." + TWO_LICENCES,
    ),
    _giant("k710", 83.8, 96.4, "4c1b3fb76612bd5b767b82578833189c3fc83d351a9a25f0dcb2d9e2776ed8b3"),
    _giant("ssv2", 77.0, 95.9, "5a210a92f035dff30c53b46157b612e7a1a5d3c99700e1b2d71da5c399ca7e70"),
    _distilled("small", 77.6),
    _distilled("base", 81.5),
    _v2_features(
        "base",
        "k710",
        "0e826d7e85e39f9d951e331cd91c5c2d8142d385",
        "",
        f"{CARD} Its norm over the mean is a trained one, which pretraining does not have: take it for a network that "
        "has seen labels, as k710_distilled.",
    ),
    _v2_features("large", "hybrid", None, "c27064402bfec2c7495e2226a5e0d8f46374b4df4b03026af1e10a57e11b2996", CARD),
    _v2_features(
        "huge",
        "hybrid",
        "8cefcc52d32e9a304b78a1c638c2017a8e3f1bdf",
        "6a05040256a2043d05551dd3d036a1c1139edfcfb600454a338bf4b92ca70338",
        CARD,
    ),
]

SPACE_TIME = (
    "0.9 hidden anywhere, every other frame predicted, target norm_pixel over all values of a cube. The file is "
    "PySlowFast's: its decoder is another network than MAE-ST's code builds and is left out."
)


def _space_time(size: str, data: str, md5: str, metrics: tuple[Metric, ...] = ()) -> Weights:
    return replace(
        _foreign(f"mae_st_vit_{size}.{data}", data),
        url=f"https://dl.fbaipublicfiles.com/video-mae/pretrain/mae_pretrain_vit_{size}_{data}.pth",
        md5=md5,
        kind="encoder",
        args=ENCODER,
        metrics=metrics,
        notes=f"400 epochs of 4 clips a video, {SPACE_TIME}",
    )


def _slowfast(size: str, tag: str, file: str, top1: float) -> Weights:
    return replace(
        _foreign(f"mae_st_vit_{size}.{tag}", "k400"),
        url=f"https://dl.fbaipublicfiles.com/pyslowfast/masked_models/{file}.pyth",
        kind="encoder",
        args=ENCODER,
        metrics=_fine_tuned(top1, "k400", "7 clips × 3 crops"),
        notes=f"PySlowFast's own release of MAE-ST, optimiser inside. {SPACE_TIME} PySlowFast's code is Apache-2.0, "
        "nothing is said of its weights; the licence of the authors' other release is taken, the stricter one.",
    )


META = [
    _space_time("large", "k400", "edf3a5", _fine_tuned(84.35, "k400", "MAE-ST's own fine-tuning recipe")),
    _space_time("large", "k600", "9a9645"),
    _space_time("large", "k700", "cdbada"),
    _space_time("huge", "k400", "3d7f64"),
    _space_time("huge", "k600", "27495e"),
    _space_time("huge", "k700", "4c4e3c"),
    _slowfast("base", "k400", "VIT_B_16x4_MAE_PT", 81.3),
    _slowfast("large", "k400_pyslowfast", "VIT_L_16x4_MAE_PT", 84.8),
    _slowfast("huge", "k400_pyslowfast", "VIT_H_16x4_MAE_PT_400e_85.1", 85.1),
]

WEIGHTS = [*MCG_NJU, *OPENGVLAB, *META]
