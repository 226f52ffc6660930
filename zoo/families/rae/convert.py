"""RAEs of other houses: the authors' decoders and statistics, and diffusers' AutoencoderRAE with its encoder inside.

Transformers has spelled the encoder's tensors in two ways; both are known.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.families.rae.dit import DiTDH
from zoo.families.rae.model import RAE
from zoo.hub.foreign import UnknownDialect
from zoo.nn.embed import sincos
from zoo.nn.vit import heads_of

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
# What tensors tell and the arch has to agree with.
OF_THE_ARCH = dict.fromkeys(("dim", "depth", "hidden"), "the number of heads is the arch's, and in no tensor") | {
    "num_classes": "a network that lacks the row for any class (class_dropout_prob=0) is not supported"
}
# The authors' encoders, which a trainer's checkpoint holds besides, under diffusers' names.
TRAINED = re.compile(r"^encoder\.(encoder|model)\.(?=(embeddings|encoder|layers?|layernorm|post_layernorm|head)\.)")
# A mask that RAE never uses, the last norm's affine that it takes away, a pooling head, positions that are computed.
LEFT_OUT = re.compile(
    r"^(encoder\.(embeddings\.mask_token|(vision_model\.)?(layernorm|post_layernorm|head)\.|pooler\.)|"
    r"(decoder\.)?decoder_pos_embed$)"
)


def to_zoo(state: Mapping[str, Tensor], args: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Foreign tensors under our names, and the arguments their shapes tell; an encoder inside keeps its prefix.

    The authors keep the statistics in a file of their own, stat.pt: its `mean` and `var` are joined to the decoder's
    tensors, or left out and measured. Of DiT^DH the grid is that of its positions.

    Raises:
        ValueError: no dialect known here.
    """
    if "s_embedder.proj.weight" in state:  # DiT^DH is named as released
        return dict(state), tell(state) | _tables(state)
    if any(k.startswith(("encoder.encoder.embeddings.", "encoder.model.embeddings.")) for k in state):
        state = {TRAINED.sub("encoder.", k): v for k, v in state.items()}
    state = {k: v for k, v in state.items() if not LEFT_OUT.match(k)}
    statistics: tuple[Tensor, Tensor] | None
    if "decoder.decoder_embed.weight" in state:
        decoder = {k.removeprefix("decoder."): v for k, v in state.items() if k.startswith("decoder.")}
        encoder = {k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")}
        rest = {k: v for k, v in state.items() if not k.startswith(("decoder.", "encoder."))}
        pixels = {k: rest.pop(f"encoder_{k}").reshape(-1, 1, 1) for k in ("mean", "std") if f"encoder_{k}" in rest}
        statistics = _statistics(rest)
        decoder |= rest
    elif "decoder_embed.weight" in state:
        decoder, encoder, pixels = dict(state), {}, {}
        statistics = _statistics(decoder)
    else:
        raise UnknownDialect(
            f"tensors {sorted(state)[:4]} are no known RAE; expected the authors' (decoder_embed.…) or diffusers' "
            "(decoder.decoder_embed.…)"
        )
    ours = {f"decoder.{k}": v for k, v in _pack(_renamed(decoder, DECODER)).items()}
    ours |= {f"encoder.{k}": v for k, v in _timm(_pack(_renamed(encoder, ENCODER))).items()} | pixels
    stated = tell(ours)
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


def _statistics(state: dict[str, Tensor]) -> tuple[Tensor, Tensor] | None:
    """Mean and deviation of the latents, taken out of `state`: diffusers' two, or those of the authors' stat.pt."""
    if "_latents_mean" in state:
        return state.pop("_latents_mean"), state.pop("_latents_std") + 1e-5  # as it divides
    held = [state.pop(key, None) for key in ("mean", "var")]
    like = next((t for t in held if t is not None), None)
    if like is None:
        return None
    mean, var = held  # the authors' code takes either without the other
    return (
        torch.zeros_like(like) if mean is None else mean,
        torch.ones_like(like) if var is None else (var + 1e-5).sqrt(),
    )


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


def tell(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What shapes tell of a decoder or a DiT^DH: all but the number of heads."""
    if "s_embedder.proj.weight" in state:
        return _tell_transformer(state)
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


def _tell_transformer(state: Mapping[str, Tensor]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if "x_embedder.proj.weight" in state:
        wide, channels = state["x_embedder.proj.weight"].shape[:2]
        deep = len(state["s_embedder.proj.weight"])
        widths = {int(m[1]): len(v) for k, v in state.items() if (m := re.match(r"blocks\.(\d+)\.norm1\.weight", k))}
        head = sum(w == wide for w in widths.values()) if wide != deep else 0
        told = {"latent_channels": channels}
        told |= {"dim": (deep, wide), "depth": (len(widths) - head, head)} if head else {}
    if "y_embedder.embedding_table.weight" in state:
        told["num_classes"] = len(state["y_embedder.embedding_table.weight"]) - 1
    return told


def _tables(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the tables of a released DiT^DH tell: grid and heads, and that its positions are ours.

    Raises:
        ValueError: no fixed or no rotary positions, or a grid that is no square.
    """
    for name, what in (("pos_embed", "fixed"), ("enc_feat_rope.freqs_cos", "rotary")):
        if name not in state:
            raise ValueError(f"{name} is missing: a DiT^DH without {what} positions is another network, not supported")
    table = state["pos_embed"]  # (1, N, D)
    grid = math.isqrt(table.shape[1])
    if grid**2 != table.shape[1]:
        raise ValueError(f"pos_embed is of {table.shape[1]} places, no square grid")
    if (table[0].float() - sincos(table.shape[2], grid, grid)).abs().max() > 0.01:  # bfloat16 is off by 0.004
        raise ValueError("pos_embed is not the fixed table of a grid: learned positions are not supported")
    sizes = [
        state[f"{part}_feat_rope.freqs_cos"].shape[1]
        for part in ("enc", "dec")
        if f"{part}_feat_rope.freqs_cos" in state
    ]
    widths = tell(state).get("dim", ())
    heads = {"heads": tuple(width // size for width, size in zip(widths, sizes))} if len(widths) == len(sizes) else {}
    return {"grid": grid} | heads


def assumed(model: RAE | DiTDH, told: Mapping[str, Any]) -> dict[str, Any]:
    """What no tensor tells."""
    if isinstance(model, DiTDH):
        heads = {} if "heads" in told else {"heads": [heads_of(model.blocks[i]) for i in (0, -1)]}
        return heads | {"shift": model.shift, "autoencoder": model._autoencoder.name}
    pixels = {key: [round(v, 6) for v in getattr(model, key).flatten().tolist()] for key in ("mean", "std")}
    encoder = {"encoder": model._encoder.name, "encoder_size": model.encoder_size}
    return {"heads": heads_of(model.decoder.blocks)} | encoder | pixels
