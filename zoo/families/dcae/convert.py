"""DC-AEs of other houses: efficientvit's and DC-Gen's layout, and diffusers'. Ours names what stages are made of."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.families.dcae.blocks import HEAD, Down, HaarStem, Up
from zoo.families.dcae.model import DCAE
from zoo.hub.foreign import UnknownDialect

EFFICIENTVIT = [
    (r"^encoder\.project_in\.(conv\.)?conv\.", "encoder.stem."),
    (r"^encoder\.project_out\.(main\.)?(op_list\.0\.)?conv\.", "encoder.head."),
    (r"^decoder\.project_in\.(main\.)?conv\.", "decoder.stem."),
    (r"^decoder\.project_out\.op_list\.0\.", "decoder.norm."),
    (r"^decoder\.project_out\.op_list\.2\.(conv\.)?conv\.", "decoder.head."),
    (r"\.op_list\.(\d+)\.", r".\1."),
    (r"\.main\.conv(1|2)\.conv\.", r".conv\1."),
    (r"\.main\.conv2\.norm\.", ".norm."),
    (r"\.context_module\.main\.qkv\.conv\.", ".attn.qkv."),
    (r"\.context_module\.main\.aggreg\.(\d+)\.0\.", r".attn.aggreg.\1.dw."),
    (r"\.context_module\.main\.aggreg\.(\d+)\.1\.", r".attn.aggreg.\1.pw."),
    (r"\.context_module\.main\.proj\.conv\.", ".attn.proj."),
    (r"\.context_module\.main\.proj\.norm\.", ".attn.norm."),
    (r"\.local_module\.main\.inverted_conv\.conv\.", ".ffn.inverted."),
    (r"\.local_module\.main\.depth_conv\.conv\.", ".ffn.depthwise."),
    (r"\.local_module\.main\.point_conv\.conv\.", ".ffn.point."),
    (r"\.local_module\.main\.point_conv\.norm\.", ".ffn.norm."),
    (r"\.main\.conv\.(conv\.)?(weight|bias)$", r".conv.\2"),
]
DIFFUSERS = [
    (r"^(en|de)coder\.(down|up)_blocks\.", r"\1coder.stages."),
    (r"^encoder\.conv_in\.(conv\.)?", "encoder.stem."),
    (r"^encoder\.conv_out\.", "encoder.head."),
    (r"^decoder\.conv_in\.", "decoder.stem."),
    (r"^decoder\.norm_out\.", "decoder.norm."),
    (r"^decoder\.conv_out\.(conv\.)?", "decoder.head."),
    (r"\.attn\.to_qkv_multiscale\.(\d+)\.proj_in\.", r".attn.aggreg.\1.dw."),
    (r"\.attn\.to_qkv_multiscale\.(\d+)\.proj_out\.", r".attn.aggreg.\1.pw."),
    (r"\.attn\.to_out\.", ".attn.proj."),
    (r"\.attn\.norm_out\.", ".attn.norm."),
    (r"\.conv_out\.conv_inverted\.", ".ffn.inverted."),
    (r"\.conv_out\.conv_depth\.", ".ffn.depthwise."),
    (r"\.conv_out\.conv_point\.", ".ffn.point."),
    (r"\.conv_out\.norm\.", ".ffn.norm."),
]
OUT = [  # ours under diffusers' names
    (r"^encoder\.stages\.(\d+)\.(blocks\.)?", r"encoder.down_blocks.\1."),
    (r"^decoder\.stages\.(\d+)\.up\.", r"decoder.up_blocks.\1.0."),
    (r"^decoder\.stages\.", "decoder.up_blocks."),
    (r"^encoder\.stem\.", "encoder.conv_in."),
    (r"^encoder\.head\.", "encoder.conv_out."),
    (r"^decoder\.stem\.", "decoder.conv_in."),
    (r"^decoder\.norm\.", "decoder.norm_out."),
    (r"^decoder\.head\.", "decoder.conv_out."),
    (r"\.attn\.aggreg\.(\d+)\.dw\.", r".attn.to_qkv_multiscale.\1.proj_in."),
    (r"\.attn\.aggreg\.(\d+)\.pw\.", r".attn.to_qkv_multiscale.\1.proj_out."),
    (r"\.attn\.proj\.", ".attn.to_out."),
    (r"\.attn\.norm\.", ".attn.norm_out."),
    (r"\.ffn\.inverted\.", ".conv_out.conv_inverted."),
    (r"\.ffn\.depthwise\.", ".conv_out.conv_depth."),
    (r"\.ffn\.point\.", ".conv_out.conv_point."),
    (r"\.ffn\.norm\.", ".conv_out.norm."),
]
LEFT_OUT = ("loss.", "discriminator.")
# What tensors tell and the arch has to agree with.
OF_THE_ARCH = dict.fromkeys(
    (
        *("latent_channels", "widths", "encoder_depths", "decoder_depths", "encoder_attention", "decoder_attention"),
        *("scales", "strided", "interpolate", "batchnorm_stages"),
    ),
    "shortcuts and activations are the arch's, and in no tensor",
)


def to_zoo(state: Mapping[str, Tensor], args: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Foreign tensors under our names, none lost but what only training needs, and the arguments their shapes tell.

    A diffusion model's scale is in no tensor: give `latent_scale`, which a diffusers folder's config.json calls
    scaling_factor. Nor do tensors tell of shortcuts, or whether ReLU or SiLU stands before the last convolution: the
    arch does, so that what they do tell has to be the arch's.

    Raises:
        ValueError: no dialect known here.
    """
    state = {k: v for k, v in state.items() if not k.startswith(LEFT_OUT)}
    if any(k.startswith("encoder.stages.") and ".op_list." in k for k in state):
        rules = EFFICIENTVIT
    elif any(k.startswith("encoder.down_blocks.") for k in state):
        state, rules = _pack(state), DIFFUSERS
    else:
        raise UnknownDialect(
            f"tensors {sorted(state)[:4]} are no known DC-AE; expected efficientvit's (encoder.stages.0.op_list.…) or "
            "diffusers' (encoder.down_blocks.…)"
        )
    ours = {}
    for name, tensor in state.items():
        for pattern, new in rules:
            name = re.sub(pattern, new, name)
        ours[name] = tensor[:, :, None, None] if name.endswith(".attn.proj.weight") and tensor.ndim == 2 else tensor
    ours = _name_stages(ours)
    channels = len(ours["encoder.head.bias"]) if "encoder.head.bias" in ours else 0
    ours |= {
        "latent_mean": torch.zeros(channels),
        "latent_std": torch.full((channels,), 1 / args.get("latent_scale", 1.0)),
    }
    return ours, tell(ours)


def _pack(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """diffusers' three matrices are thirds of the published one, in its order of rows: not queries, keys and values."""
    packed = dict(state)
    for name in [k for k in state if k.endswith(".attn.to_q.weight")]:
        names = [name.replace("to_q", f"to_{part}") for part in "qkv"]
        if not packed.keys() >= set(names):
            raise ValueError(f"{name} has no to_k or to_v beside it; the file is cut")
        thirds = torch.cat([packed.pop(third) for third in names])  # (3D, D)
        packed[name.replace("to_q", "qkv")] = thirds[:, :, None, None]  # (3D, D, 1, 1)
    return packed


def _name_stages(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Blocks and ways up and down lie in one row: `stages.i.j.conv` is a way, all else is a block."""
    stage = re.compile(r"^(encoder|decoder)\.stages\.(\d+)\.(\d+)\.(.*)$")
    ways = {m.group(1, 2, 3) for k in state if (m := stage.match(k)) and m[4].startswith("conv.")}
    ours = {}
    for name, tensor in state.items():
        if m := stage.match(name):
            side, i, j = m.group(1, 2, 3)
            first = int((side, i, "0") in ways)  # a way up comes before its stage's blocks
            if (side, i, j) in ways:
                name = f"{side}.stages.{i}.{'down' if side == 'encoder' else 'up'}.{m[4]}"
            else:
                name = f"{side}.stages.{i}.blocks.{int(j) - first}.{m[4]}"
        elif m := re.match(r"^(encoder\.stem|decoder\.head)\.(weight|bias)$", name):
            name = f"{m[1]}.{'conv.' if _halves(m[1], state) else ''}{m[2]}"
        ours[name] = tensor
    return ours


def _halves(place: str, state: Mapping[str, Tensor]) -> bool:
    """Whether the first or last convolution also halves or doubles the sides: then its stage has no blocks."""
    return not any(k.startswith(f"{place.partition('.')[0]}.stages.0.") for k in state)


def tell(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What shapes and names tell; the strict load names a tensor that is missing."""

    def depths(side: str) -> list[int]:
        blocks = {m.group(1, 2) for k in state if (m := re.match(rf"{side}\.stages\.(\d+)\.blocks\.(\d+)\.", k))}
        count = 1 + max((int(i) for i, _ in blocks), default=0)
        return [sum(int(i) == n for i, _ in blocks) for n in range(count)]

    def attention(side: str) -> list[int]:
        stages = {int(m[1]) for k in state if (m := re.match(rf"{side}\.stages\.(\d+)\.blocks\.\d+\.attn\.", k))}
        return sorted(stages)

    def width(i: int) -> int | None:
        for name in (f"encoder.stages.{i}.blocks.0.norm.weight", f"encoder.stages.{i}.blocks.0.attn.norm.weight"):
            if name in state:
                return len(state[name])
        return None

    encoder, decoder = depths("encoder"), depths("decoder")
    widths = [width(i) for i in range(len(encoder))]
    ways = {k: len(v) for k, v in state.items() if re.search(r"\.stages\.\d+\.(down|up)\.conv\.bias$", k)}
    if None in widths[1:] or "encoder.head.bias" not in state or not ways:
        return {}
    widths[0] = widths[0] or 128  # of no tensor where the first stage is empty
    batchnorms = [i for i in range(len(widths)) if f"decoder.stages.{i}.blocks.0.norm.running_mean" in state]
    mixers = {int(m[1]): v.shape[-1] for k, v in state.items() if (m := re.search(r"\.aggreg\.(\d+)\.dw\.", k))}
    return {
        "latent_channels": len(state["encoder.head.bias"]),
        "widths": widths,
        "encoder_depths": encoder,
        "decoder_depths": decoder,
        "encoder_attention": attention("encoder"),
        "decoder_attention": attention("decoder"),
        "scales": [mixers[i] for i in sorted(mixers)],
        "strided": all(ways.get(f"encoder.stages.{i}.down.conv.bias") in (None, w) for i, w in enumerate(widths[1:])),
        "interpolate": all(ways.get(f"decoder.stages.{i}.up.conv.bias") in (None, w) for i, w in enumerate(widths)),
        "batchnorm_stages": len(batchnorms) and 1 + max(batchnorms),
    }


def assumed(model: DCAE, told: Mapping[str, Any]) -> dict[str, Any]:
    """What no tensor tells."""
    ways = [m.shortcut for m in model.modules() if isinstance(m, Down | Up)]
    return {
        "head_act": "relu" if model.decoder.act is F.relu else "silu",
        "shortcut": next((way for way in ways if way != "none"), "none"),
        "latent_shortcut": model.encoder.head.shortcut,
        "latent_scale": round(1 / model.latent_std[0].item(), 6),
    }


def to_diffusers(model: DCAE) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the config.json of diffusers' AutoencoderDC, whose one scale is 1 over the latents' RMS.

    Raises:
        ValueError: a model it has no words for.
    """
    ways = {m.shortcut for m in model.modules() if isinstance(m, Down | Up)} - {"none"}
    if ways != {"grouped"} or isinstance(model.encoder.stem, HaarStem) or model.low_rank is not None:
        raise ValueError("diffusers' AutoencoderDC has grouped shortcuts, no Haar stem and no matrix on the latents")
    state, args = {}, tell(model.state_dict())
    for name, tensor in model.state_dict().items():
        if name.startswith("latent_"):
            continue
        for pattern, new in OUT:
            name = re.sub(pattern, new, name)
        if m := re.match(r"(decoder\.up_blocks\.(\d+))\.blocks\.(\d+)\.(.*)", name):
            name = f"{m[1]}.{int(m[3]) + (int(m[2]) < len(args['widths']) - 1)}.{m[4]}"  # after the way up
        elif m := re.match(r"(encoder\.down_blocks\.(\d+))\.down\.(.*)", name):
            name = f"{m[1]}.{args['encoder_depths'][int(m[2])]}.{m[3]}"
        if ".attn.qkv." in name:
            for part, third in zip("qkv", tensor.flatten(1).chunk(3)):  # (D, D) each
                state[name.replace("qkv", f"to_{part}")] = third
        else:
            state[name] = tensor.flatten(1) if name.endswith(".attn.to_out.weight") else tensor
    rms = (model.latent_mean.square() + model.latent_std.square()).mean().sqrt().item()
    return state, _diffusers_config(model, args, 1 / rms)


def _diffusers_config(model: DCAE, args: Mapping[str, Any], scale: float) -> dict[str, Any]:
    count = len(args["widths"])

    def of_stages(stages: list[int] | range, yes: Any, no: Any) -> list[Any]:
        return [yes if i in stages else no for i in range(count)]

    config: dict[str, Any] = {"_class_name": "AutoencoderDC", "in_channels": model.takes.shape[0]}
    for side in ("encoder", "decoder"):
        config |= {
            f"{side}_block_types": of_stages(args[f"{side}_attention"], "EfficientViTBlock", "ResBlock"),
            f"{side}_block_out_channels": args["widths"],
            f"{side}_layers_per_block": args[f"{side}_depths"],
            f"{side}_qkv_multiscales": of_stages(args[f"{side}_attention"], args["scales"], []),
        }
    outer = range(args["batchnorm_stages"])
    return config | {
        "latent_channels": model.latent_channels,
        "attention_head_dim": HEAD,
        "downsample_block_type": "Conv" if args["strided"] else "pixel_unshuffle",
        "upsample_block_type": "interpolate" if args["interpolate"] else "pixel_shuffle",
        "decoder_norm_types": of_stages(outer, "batch_norm", "rms_norm"),
        "decoder_act_fns": of_stages(outer, "relu", "silu"),
        "encoder_out_shortcut": model.encoder.head.shortcut,
        "decoder_in_shortcut": model.decoder.stem.shortcut,
        "decoder_conv_act_fn": "relu" if model.decoder.act is F.relu else "silu",
        "scaling_factor": scale,
    }
