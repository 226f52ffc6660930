"""Everybody's masked autoencoders under our names, and ours under timm's.

Known: the authors' files (pretrained with and without decoder, fine-tuned, probed), timm's, transformers' (ViTMAE and
ViTForImageClassification: as on the Hub, in memory since version 5, as version 5 saves them) and OpenMMLab's.
"""

import math
import re
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.families.mae.model import MAE, MAEClassifier, positions
from zoo.hub.foreign import UnknownDialect
from zoo.nn.embed import IMAGENET_MEAN, IMAGENET_STD
from zoo.nn.vit import heads_of

Rules = list[tuple[str, str]]  # pattern, replacement; each is tried on every name, in order

# Encoder names are timm's, so ours; the decoder is flat beside it, a probe's head is a pair.
AUTHORS: Rules = [
    (r"^mask_token$", "decoder.mask_token"),
    (r"^decoder_", "decoder."),
    (r"^head\.0\.", "head_norm."),
    (r"^head\.1\.", "head."),
]

TRANSFORMERS: Rules = [
    (r"^vit\.", ""),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^(encoder\.layer|layers)\.", "blocks."),
    (r"^decoder\.(decoder_encoder\.layer|decoder_layers)\.", "decoder.blocks."),
    (r"^decoder\.decoder_", "decoder."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.(attention\.query|q_proj)\.", ".attn.q."),
    (r"\.attention\.(attention\.key|k_proj)\.", ".attn.k."),
    (r"\.attention\.(attention\.value|v_proj)\.", ".attn.v."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"^layernorm\.", "norm."),
    (r"^classifier\.", "head."),
]

OPENMMLAB: Rules = [
    (r"^data_preprocessor\.", ""),
    (r"^backbone\.", ""),
    (r"^neck\.mask_token$", "decoder.mask_token"),
    (r"^neck\.decoder_", "decoder."),
    (r"^neck\.ln1\.", "decoder.norm."),
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^layers\.", "blocks."),
    (r"^ln1\.", "norm."),
    (r"\.ln(\d)\.", r".norm\1."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
]

# A tensor that tells a dialect from the others -> its rules.
DIALECTS = {
    "blocks.0.attn.qkv.weight": AUTHORS,
    "vit.embeddings.cls_token": TRANSFORMERS,
    "embeddings.cls_token": TRANSFORMERS,
    "backbone.cls_token": OPENMMLAB,
}


def to_zoo(state: dict[str, Tensor], args: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Foreign tensors under our names, none lost, and the arguments that their shapes tell.

    Whether a decoder predicts normalised pixels is in no file: give `target` where it was "pixel".

    Raises:
        ValueError: no dialect known here.
    """
    rules = next((rules for mark, rules in DIALECTS.items() if mark in state), None)
    if rules is None:
        raise UnknownDialect(
            f"tensors {sorted(state)[:4]} are no known masked autoencoder; known are the authors' files, timm's, "
            "transformers' ViTMAE and ViTForImageClassification, and OpenMMLab's"
        )
    ours = _fuse({_rename(key, rules): tensor for key, tensor in state.items()})
    if rules is OPENMMLAB:
        ours |= {key: ours[key].reshape(-1, 1, 1) / 255 for key in ("mean", "std") if key in ours}
    held = {key: ours[key].flatten().tolist() for key in ("mean", "std") if key in ours}
    proj, cls = ours.get("patch_embed.proj.weight"), ours.get("cls_token")
    if proj is None or cls is None or "pos_embed" not in ours:
        raise ValueError("patch_embed.proj.weight, cls_token or pos_embed is missing; the file is no whole encoder")
    channels = proj.shape[1]
    for key, rgb in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
        value = rgb if channels == 3 else (0.5,) * channels
        ours.setdefault(key, torch.tensor(value, dtype=proj.dtype).reshape(-1, 1, 1))
    side = math.isqrt(ours["pos_embed"].shape[1] - cls.shape[1])
    for key in ("pos_embed", "decoder.pos_embed"):
        if key in ours and not ours[key].any():
            warnings.warn(f"{key} is empty in this file; the fixed table of the paper takes its place", stacklevel=4)
            ours[key] = positions(ours[key].shape[2], side, side, cls.shape[1]).to(ours[key].dtype)
    return ours, _arguments(ours, side) | held


def assumed(model: MAE | MAEClassifier, told: Mapping[str, Any]) -> dict[str, Any]:
    """What no tensor tells."""
    untold: dict[str, Any] = {"heads": heads_of(model.blocks)}
    if isinstance(model, MAE) and model.decoder is not None:
        untold |= {"decoder_heads": heads_of(model.decoder.blocks), "target": model.target_kind}
    pixels = [key for key in ("mean", "std") if key not in told]
    return untold | {key: [round(v, 6) for v in getattr(model, key).flatten().tolist()] for key in pixels}


def to_timm(model: MAE | MAEClassifier) -> dict[str, Tensor]:
    """The encoder, or the classifier, as timm's VisionTransformer names it; the decoder stays behind.

    timm does not normalise inside: subtract `model.mean` and divide by `model.std` first. Further class tokens are
    timm's register tokens.

    Raises:
        ValueError: the head reads features through a BatchNorm, which timm's has no place for.
    """
    if isinstance(getattr(model, "head_norm", None), torch.nn.BatchNorm1d):
        raise ValueError("timm has no BatchNorm before its head; export as safetensors")
    left = ("decoder.", "mean", "std")
    state = {k: v.detach().contiguous() for k, v in model.state_dict().items() if not k.startswith(left)}
    if model.num_cls_tokens > 1:
        state["cls_token"], state["reg_token"] = (t.contiguous() for t in state["cls_token"].tensor_split([1], dim=1))
    return state


def _rename(key: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key


def _fuse(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Three projections of an attention become one, in the order q, k, v."""
    for key in [k for k in state if ".attn.q." in k]:
        names = [key.replace(".attn.q.", f".attn.{part}.") for part in "qkv"]
        if all(name in state for name in names):
            state[key.replace(".attn.q.", ".attn.qkv.")] = torch.cat([state.pop(name) for name in names])
    return state


def _arguments(state: dict[str, Tensor], side: int) -> dict[str, Any]:
    """What shapes tell beyond the arch: its width and depth are its name, heads show nowhere."""
    _, channels, patch, _ = state["patch_embed.proj.weight"].shape
    cls = state["cls_token"].shape[1]
    args: dict[str, Any] = {"patch_size": patch, "channels": channels, "num_cls_tokens": cls}
    if side**2 + cls == state["pos_embed"].shape[1]:
        args["image_size"] = side * patch
    if "head.weight" in state:
        args |= {"num_classes": len(state["head.weight"]), "pool": "avg" if "fc_norm.weight" in state else "token"}
        return args | ({"head_norm": True} if "head_norm.running_mean" in state else {})
    args["decoder_depth"] = len({k.split(".")[2] for k in state if k.startswith("decoder.blocks.")})
    if args["decoder_depth"]:
        args["decoder_dim"] = len(state["decoder.embed.weight"])
    return args
