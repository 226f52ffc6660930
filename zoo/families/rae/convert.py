"""RAEs of other houses: the authors' decoders and statistics, and diffusers' AutoencoderRAE with its encoder inside.

Transformers has spelled the encoder's tensors in two ways; both are known.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Rules = list[tuple[str, str | Callable[[re.Match[str]], str]]]  # pattern, replacement; each is tried in order

DECODER: Rules = [
    (r"^decoder_embed\.", "embed."),
    (r"^trainable_cls_token$", "cls_token"),
    (r"^decoder_layers\.", "blocks."),
    (r"\.attention\.attention\.(query|key|value)\.", lambda m: f".attn.{m[1][0]}."),
    (r"\.attention\.to_([qkv])\.", r".attn.\1."),
    (r"\.attention\.(output\.dense|to_out\.0)\.", ".attn.proj."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"^decoder_norm\.", "norm."),
    (r"^decoder_pred\.", "head."),
]
# Encoders of transformers under timm's names.
ENCODER: Rules = [
    (r"^vision_model\.", ""),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"^embeddings\.position_embedding(s|\.weight)$", "pos_embed"),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^(encoder\.)?layers?\.", "blocks."),
    (r"\.attention\.attention\.(query|key|value)\.", lambda m: f".attn.{m[1][0]}."),
    (r"\.(attention|self_attn)\.([qkv])_proj\.", r".attn.\2."),
    (r"\.(attention\.output\.dense|attention\.o_proj|self_attn\.out_proj)\.", ".attn.proj."),
    (r"\.(layernorm_before|layer_norm1)\.", ".norm1."),
    (r"\.(layernorm_after|layer_norm2)\.", ".norm2."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
]
# A mask that RAE never uses, the last norm's affine that it takes away, a pooling head, positions that are computed.
LEFT_OUT = re.compile(
    r"^(encoder\.(embeddings\.mask_token|(vision_model\.)?(layernorm|post_layernorm|head)\.|pooler\.)|"
    r"(decoder\.)?decoder_pos_embed$)"
)


def to_zoo(state: Mapping[str, Tensor], args: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Foreign tensors under our names, and the arguments their shapes tell; an encoder inside keeps its prefix.

    The authors keep the statistics in a file of their own, stat.pt: join its `mean` and `var` to the decoder's tensors,
    or leave them out and measure.

    Raises:
        ValueError: no dialect known here.
    """
    if "s_embedder.proj.weight" in state:  # DiT^DH is named as released
        return dict(state), _transformer_args(state)
    state = {k: v for k, v in state.items() if not LEFT_OUT.match(k)}
    statistics: tuple[Tensor, Tensor] | None
    if "decoder.decoder_embed.weight" in state:
        decoder = {k.removeprefix("decoder."): v for k, v in state.items() if k.startswith("decoder.")}
        encoder = {k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")}
        statistics = state["_latents_mean"], state["_latents_std"] + 1e-5  # diffusers divides by its deviation and 1e-5
        pixels = {k: state[f"encoder_{k}"].reshape(-1, 1, 1) for k in ("mean", "std")}  # (3, 1, 1) each
        rest = set(state) - {f"decoder.{k}" for k in decoder} - {f"encoder.{k}" for k in encoder}
        rest -= {"_latents_mean", "_latents_std", "encoder_mean", "encoder_std"}
        decoder |= {k: state[k] for k in rest}
    elif "decoder_embed.weight" in state:
        decoder = {k: v for k, v in state.items() if k not in ("mean", "var")}
        encoder, pixels = {}, {}
        statistics = (state["mean"], (state["var"] + 1e-5).sqrt()) if "mean" in state else None
    else:
        raise ValueError(
            f"tensors {sorted(state)[:4]} are no known RAE; expected the authors' (decoder_embed.…) or diffusers' "
            "(decoder.decoder_embed.…)"
        )
    ours = {f"decoder.{k}": v for k, v in _pack(_renamed(decoder, DECODER)).items()}
    ours |= {f"encoder.{k}": v for k, v in _timm(_pack(_renamed(encoder, ENCODER))).items()} | pixels
    stated = _args(ours)
    if statistics is not None and statistics[0].ndim == 3:
        stated["per_position"] = statistics[0].shape[1:] != (1, 1)
        ours |= {"latent_mean": statistics[0], "latent_std": statistics[1]}
    elif "grid" in args or "latent_channels" in stated:  # without statistics, 0 and 1 leave latents as they are
        per_position = args.get("per_position", True)
        grid = args.get("grid", 16) if per_position else 1
        shape = (stated["latent_channels"], grid, grid)
        mean, std = (torch.zeros(()), torch.ones(())) if statistics is None else statistics
        ours |= {"latent_mean": torch.zeros(shape) + mean, "latent_std": torch.ones(shape) * std}
    return ours, stated


def _renamed(state: Mapping[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    ours = {}
    for name, tensor in state.items():
        for pattern, new in rules:
            name = re.sub(pattern, new, name)
        ours[name] = tensor
    return ours


def _pack(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Queries', keys' and values' matrices of a block in one."""
    for name in [k for k in state if ".attn.q." in k]:
        names = [name.replace(".attn.q.", f".attn.{part}.") for part in "qkv"]
        if not state.keys() >= set(names):
            raise ValueError(f"{name} has no key or value beside it; the file is cut")
        state[name.replace(".attn.q.", ".attn.qkv.")] = torch.cat([state.pop(part) for part in names])
    return state


def _timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's table has no position of DINOv2's class token: it is added to the token itself."""
    if "pos_embed" not in state:
        return state
    table = state["pos_embed"]
    table = table[None] if table.ndim == 2 else table  # (1, N, C)
    if "reg_token" in state:
        state["cls_token"] = state["cls_token"] + table[:, :1]
        table = table[:, 1:]
    return state | {"pos_embed": table}


def fit_positions(table: Tensor, prefix: int, grid: int) -> Tensor:
    """A table (1, prefix + n², C) for a grid of another side, as transformers interpolates it."""
    first, table = table[:, :prefix], table[:, prefix:]  # (1, prefix, C), (1, n², C)
    side = int(table.shape[1] ** 0.5)
    if side == grid:
        return torch.cat([first, table], 1)  # (1, prefix + n², C)
    table = table.reshape(1, side, side, -1).permute(0, 3, 1, 2)  # (1, C, n, n)
    table = F.interpolate(table, size=(grid, grid), mode="bicubic", antialias=prefix == 0)  # DINOv2 alone smooths
    return torch.cat([first, table.flatten(2).mT], 1)  # (1, prefix + grid², C)


def _transformer_args(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What shapes tell of a DiT^DH: all but the number of its heads."""
    stated: dict[str, Any] = {}
    if "x_embedder.proj.weight" in state:
        wide, channels = state["x_embedder.proj.weight"].shape[:2]
        deep = len(state["s_embedder.proj.weight"])
        widths = {int(m[1]): len(v) for k, v in state.items() if (m := re.match(r"blocks\.(\d+)\.norm1\.weight", k))}
        head = sum(w == wide for w in widths.values()) if wide != deep else 0
        stated = {"latent_channels": channels, "dim": (deep, wide), "depth": (len(widths) - head, head)}
        stated = stated if head else {"latent_channels": channels}
    if "y_embedder.embedding_table.weight" in state:
        stated["num_classes"] = len(state["y_embedder.embedding_table.weight"]) - 1
    return stated


def _args(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What shapes tell; the strict load names a tensor that is missing."""
    shape = {k: v.shape for k, v in state.items()}
    if "decoder.embed.weight" not in shape or "decoder.blocks.0.mlp.fc1.bias" not in shape:
        return {}
    dim, channels = shape["decoder.embed.weight"]
    blocks = {int(m[1]) for k in state if (m := re.match(r"decoder\.blocks\.(\d+)\.", k))}
    return {
        "latent_channels": channels,
        "dim": dim,
        "depth": len(blocks),
        "hidden": shape["decoder.blocks.0.mlp.fc1.bias"][0],
    }
