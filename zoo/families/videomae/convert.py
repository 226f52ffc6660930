"""Everybody's masked autoencoders of video under our names.

Known: MCG-NJU's files (pretrained and fine-tuned, V1 and V2), transformers' VideoMAE as on the Hub, OpenGVLab's V2
repositories, what MAE-ST's own code writes, and PySlowFast's, of which the encoder is taken: the files that MAE-ST's
authors publish are PySlowFast's.
"""

import math
import re
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.families.videomae.model import VideoMAE, VideoMAEClassifier
from zoo.families.videomae.spacetime import SpaceTimeMAE
from zoo.families.videomae.trunk import sinusoid
from zoo.hub.foreign import UnknownDialect
from zoo.nn.checks import sides
from zoo.nn.embed import IMAGENET_MEAN, IMAGENET_STD
from zoo.nn.vit import heads_of

Rules = list[tuple[str, str]]  # pattern, replacement; each is tried on every name, in order

# A fine-tuned file is the encoder alone, under its own names; V2's repositories put `model.` before them.
AUTHORS: Rules = [
    (r"^encoder\.", ""),
    (r"^encoder_to_decoder\.", "decoder.embed."),
    (r"^mask_token$", "decoder.mask_token"),
    (r"^decoder\.head\.", "decoder.pred."),
    (r"\.attn\.([qv])_bias$", r".attn.\1.bias"),
]

TRANSFORMERS: Rules = [
    (r"^videomae\.", ""),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.", "blocks."),
    (r"^layernorm\.", "norm."),
    (r"^encoder_to_decoder\.", "decoder.embed."),
    (r"^mask_token$", "decoder.mask_token"),
    (r"^decoder\.decoder_layers\.", "decoder.blocks."),
    (r"^decoder\.head\.", "decoder.pred."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.attention\.([qv])_bias$", r".attn.\1.bias"),
    (r"\.attention\.attention\.query\.", ".attn.q."),
    (r"\.attention\.attention\.key\.", ".attn.k."),
    (r"\.attention\.attention\.value\.", ".attn.v."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"^classifier\.", "head."),
]

SPACE_TIME: Rules = [
    (r"^pos_embed_(spatial|temporal)$", r"positions.\1"),
    (r"^pos_embed_class$", "positions.cls"),
    (r"^decoder_pos_embed_(spatial|temporal)$", r"decoder.positions.\1"),
    (r"^decoder_pos_embed_class$", "decoder.positions.cls"),
    (r"^mask_token$", "decoder.mask_token"),
    (r"^decoder_", "decoder."),
    # PySlowFast's, which the published files are
    (r"^pred_head\.transforms\.0\.\d+\.(weight|bias)$", r"decoder.norm.\1"),
    (r"^pred_head\.transforms\.0\.", "decoder.blocks."),
    (r"^pred_head\.projections\.0\.", "decoder.pred."),
    (r"^head\.projection\.", "head."),
]

# A tensor that tells a dialect from the others -> its rules.
DIALECTS = {
    "pos_embed_spatial": SPACE_TIME,
    "videomae.embeddings.patch_embeddings.projection.weight": TRANSFORMERS,
    "encoder.patch_embed.proj.weight": AUTHORS,
    "patch_embed.proj.weight": AUTHORS,
}


TAKES = "model"  # the authors' evaluation reads `model` or `module` and leaves the average


def to_zoo(state: dict[str, Tensor], asked: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Foreign tensors under our names, none lost, and the arguments that their shapes tell.

    VideoMAE's files hold no positions, unless they were learned: the table is made for the `frames` and the
    `image_size` that are asked for, 16 and 224 px where nothing is said.

    Raises:
        ValueError: no dialect known here, or a key bias that is not zero.
    """
    rules = next((rules for mark, rules in DIALECTS.items() if mark in state), None)
    if rules is None:
        raise UnknownDialect(
            f"tensors {sorted(state)[:4]} are no known masked autoencoder of video; known are the authors' files of "
            "VideoMAE and V2, transformers' VideoMAE, and MAE-ST's"
        )
    separable = rules is SPACE_TIME
    ours = _fuse({_rename(key, rules): tensor for key, tensor in state.items()}, separable)
    proj = ours.get("patch_embed.proj.weight")
    if proj is None or proj.ndim != 5:
        raise ValueError("patch_embed.proj.weight of cubes is missing; the file is no encoder of video")
    dim, channels, tubelet, patch, _ = proj.shape
    args: dict[str, Any] = {"tubelet": tubelet, "patch_size": patch, "channels": channels}
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if not separable else ((0.45,) * channels, (0.225,) * channels)
    for key, value in (("mean", mean), ("std", std)):
        ours.setdefault(key, torch.tensor(value if len(value) == channels else (0.5,) * channels))
    if "fc_norm.weight" in ours and "head.weight" not in ours:  # OpenGVLab's repositories: features, no classes
        ours |= {"head.weight": proj.new_zeros(0, dim), "head.bias": proj.new_zeros(0)}
    if separable:
        side = math.isqrt(ours["positions.spatial"].shape[1])
        args |= {"frames": ours["positions.temporal"].shape[1] * tubelet, "image_size": side * patch}
        if "head.weight" in ours:  # its norm is over the mean of the tokens
            ours |= {f"fc_{k}": ours.pop(k) for k in ("norm.weight", "norm.bias") if k in ours}
        if "decoder.pos_embed" in ours:  # one table of positions, not two that are added
            warnings.warn(
                "the decoder of this file is PySlowFast's, another network than MAE-ST's: the encoder alone is taken",
                stacklevel=4,
            )
            ours = {k: v for k, v in ours.items() if not k.startswith("decoder.")}
    else:
        height, width = sides(asked.get("image_size", 224))
        grid = (asked.get("frames", 16) // tubelet, height // patch, width // patch)
        ours["pos_grid"] = torch.tensor(grid)
        if "head.weight" in ours and "norm.weight" in ours:
            raise ValueError("its head reads the first token (--use_cls), not their mean, which no model here does")
        held = ours.setdefault("pos_embed", sinusoid(dim, math.prod(grid))[None])  # in float32 whatever the file is in
        if held.shape[1:] != (math.prod(grid), dim):
            raise ValueError(
                f"pos_embed is of {held.shape[1]} cubes, and {grid[0]} steps of {grid[1]}×{grid[2]} are "
                f"{math.prod(grid)}; give frames and image_size"
            )
        if "decoder.embed.weight" in ours:
            width = len(ours["decoder.embed.weight"])
            ours["decoder.pos_embed"] = sinusoid(width, math.prod(grid))[None]
    return ours, args | _depths(ours, proj)


def _rename(key: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key


def _fuse(state: dict[str, Tensor], separable: bool) -> dict[str, Tensor]:
    """Three projections of an attention become one; where the keys have no bias, zeros say so."""
    for key in [k for k in state if k.endswith(".attn.q.weight")]:
        names = [key.replace(".attn.q.", f".attn.{part}.") for part in "qkv"]
        if all(name in state for name in names):
            state[key.replace(".attn.q.", ".attn.qkv.")] = torch.cat([state.pop(name) for name in names])
    for key in [k for k in state if k.endswith(".attn.q.bias")]:
        q, k, v = (key.replace(".attn.q.", f".attn.{part}.") for part in "qkv")
        if q in state and v in state:
            of_q, of_v = state.pop(q), state.pop(v)
            of_k = state.pop(k, torch.zeros_like(of_q))
            if not separable and of_k.any():
                raise ValueError(f"{k} is not zero; VideoMAE's keys have no bias")
            state[key.replace(".attn.q.", ".attn.qkv.")] = torch.cat([of_q, of_k, of_v])
    return state


def _depths(state: dict[str, Tensor], proj: Tensor) -> dict[str, Any]:
    if "head.weight" in state:
        return {"num_classes": len(state["head.weight"])}
    depth = len({k.split(".")[2] for k in state if k.startswith("decoder.blocks.")})
    args: dict[str, Any] = {"decoder_depth": depth}
    if depth:
        outputs, volume = len(state["decoder.pred.weight"]), proj[0].numel()
        args["decoder_dim"] = len(state["decoder.embed.weight"])
        if "positions.temporal" in state:  # MAE-ST predicts some frames of each cube
            steps = state["positions.temporal"].shape[1]
            args["pred_frames"] = outputs * proj.shape[2] // volume * steps
    return args


def assumed(model: VideoMAE | SpaceTimeMAE | VideoMAEClassifier, told: Mapping[str, Any]) -> dict[str, Any]:
    """What no tensor tells."""
    untold: dict[str, Any] = {"heads": heads_of(model.blocks)}
    if not isinstance(model, VideoMAEClassifier) and model.decoder is not None:
        untold |= {"decoder_heads": heads_of(model.decoder.blocks)}
        untold |= {"target": model.target_kind} if isinstance(model, VideoMAE) else {}
    frames, _, height, width = model.takes.shape
    sizes = {} if model.separable else {"frames": frames, "image_size": [height, width]}
    return untold | sizes | {key: [round(v, 6) for v in getattr(model, key).tolist()] for key in ("mean", "std")}
