"""Everybody's VQGANs under our names.

Known: taming's (Lightning's checkpoints, training losses inside), SimVQ's, whose codes are folded into a plain
codebook, LlamaGen's (the running mean of the weights where there is one), and diffusers' VQModel in both spellings of
its attention.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.families.vq.vqgan import VQGAN
from zoo.hub.foreign import UnknownDialect

Rules = list[tuple[str, str]]  # pattern, replacement; each is tried on every name, in order

TAMING: Rules = [(r"^quantize\.embedding\.weight$", "quantizer.codebook")]

LLAMAGEN: Rules = [
    *TAMING,
    (r"^(encoder|decoder)\.mid\.0\.", r"\1.mid.block_1."),
    (r"^(encoder|decoder)\.mid\.1\.", r"\1.mid.attn_1."),
    (r"^(encoder|decoder)\.mid\.2\.", r"\1.mid.block_2."),
    (r"^encoder\.conv_blocks\.(\d+)\.", r"encoder.down.\1."),
    (r"^decoder\.conv_blocks\.(\d+)\.", r"decoder.up.\1."),
    (r"\.res\.(\d+)\.", r".block.\1."),
]

DIFFUSERS: Rules = [
    *TAMING,
    (r"^encoder\.down_blocks\.(\d+)\.", r"encoder.down.\1."),
    (r"^decoder\.up_blocks\.(\d+)\.", r"decoder.up.\1."),
    (r"\.mid_block\.resnets\.0\.", ".mid.block_1."),
    (r"\.mid_block\.resnets\.1\.", ".mid.block_2."),
    (r"\.mid_block\.attentions\.0\.", ".mid.attn_1."),
    (r"\.resnets\.(\d+)\.", r".block.\1."),
    (r"\.attentions\.(\d+)\.", r".attn.\1."),
    (r"\.(down|up)samplers\.0\.", r".\1sample."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\.conv_norm_out\.", ".norm_out."),
    (r"\.group_norm\.", ".norm."),
    (r"\.(to_q|query)\.", ".q."),
    (r"\.(to_k|key)\.", ".k."),
    (r"\.(to_v|value)\.", ".v."),
    (r"\.(to_out\.0|proj_attn)\.", ".proj_out."),
]

# A tensor that tells a dialect from the others -> its rules.
DIALECTS = {
    "encoder.down.0.block.0.norm1.weight": TAMING,
    "encoder.conv_blocks.0.res.0.norm1.weight": LLAMAGEN,
    "encoder.down_blocks.0.resnets.0.norm1.weight": DIFFUSERS,
}
LEFT_OUT = ("loss.", "quantize.codebook_used")  # discriminator and perceptual network, and a tally of recent codes


def to_zoo(state: dict[str, Tensor], args: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Foreign tensors under our names, none lost but what only training needs, and the arguments their shapes tell.

    LlamaGen's codes have unit length unless it was told otherwise, which is in no tensor but goes with its names:
    `metric` is "cosine" there unless "l2" is asked for.

    Raises:
        ValueError: no dialect known here.
    """
    mark = next((mark for mark in DIALECTS if mark in state), None)
    if mark is None:
        raise UnknownDialect(
            f"tensors {sorted(state)[:4]} are no known VQGAN; expected taming's (encoder.down.…), LlamaGen's "
            "(encoder.conv_blocks.…) or diffusers' (encoder.down_blocks.…)"
        )
    if "quantize.embed.weight" in state:
        raise ValueError("its quantiser is Gumbel's softmax (quantize.embed), which no model here has")
    state = _fold({k: v for k, v in state.items() if not k.startswith(LEFT_OUT)})
    rules, ours = DIALECTS[mark], {}
    for name, tensor in state.items():
        for pattern, new in rules:
            name = re.sub(pattern, new, name)
        attends = re.search(r"\.(attn\.\d+|attn_1)\.(q|k|v|proj_out)\.weight$", name)
        ours[name] = tensor[:, :, None, None] if attends and tensor.ndim == 2 else tensor
    if rules is not TAMING:  # their decoders count from the coarsest level
        last = max(int(m[1]) for k in ours if (m := re.match(r"decoder\.up\.(\d+)\.", k)))
        ours = {
            re.sub(r"^decoder\.up\.(\d+)\.", lambda m: f"decoder.up.{last - int(m[1])}.", k): v for k, v in ours.items()
        }
    if "quantizer.codebook" in ours:
        codes = len(ours["quantizer.codebook"])
        ours |= {
            "quantizer.counts": torch.ones(codes),
            "quantizer.steps": torch.zeros((), dtype=torch.int64),
            "quantizer.started": torch.tensor(True),
        }
    return ours, _args(ours) | ({"metric": "cosine"} if rules is LLAMAGEN else {})


def assumed(model: VQGAN, told: Mapping[str, Any]) -> dict[str, Any]:
    """What no tensor tells."""
    return {"metric": "cosine" if model.quantizer.cosine else "l2", "mean": model.mean, "std": model.std}


def _fold(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """SimVQ's fixed vectors through its matrix: a plain codebook."""
    weight, bias = (state.pop(f"quantize.embedding_proj.{k}", None) for k in ("weight", "bias"))
    if weight is not None:
        codes = torch.nn.functional.linear(state["quantize.embedding.weight"], weight, bias)
        state["quantize.embedding.weight"] = codes
    return state


def _args(state: dict[str, Tensor]) -> dict[str, Any]:
    """What shapes and names tell; the strict load names a tensor that is missing."""
    shape = {k: v.shape for k, v in state.items()}
    first = shape.get("encoder.conv_in.weight")
    levels = 1 + max((int(m[1]) for k in state if (m := re.match(r"encoder\.down\.(\d+)\.", k))), default=0)
    biases = [f"encoder.down.{i}.block.0.conv2.bias" for i in range(levels)]
    if first is None or not shape.keys() >= set(biases):
        return {}
    blocks = {int(m[1]) for k in state if (m := re.match(r"encoder\.down\.0\.block\.(\d+)\.", k))}
    attention = {int(m[1]) for k in state if (m := re.match(r"encoder\.down\.(\d+)\.attn\.", k))}
    args = {
        "channels": first[1],
        "width": first[0],
        "mults": [shape[bias][0] // first[0] for bias in biases],
        "res_blocks": len(blocks),
        "attention": sorted(attention),
        "mid_attention": any(k.startswith("encoder.mid.attn_1.") for k in state),
    }
    for name, key, axis in (
        ("z_channels", "encoder.conv_out.weight", 0),
        ("codebook_size", "quantizer.codebook", 0),
        ("code_dim", "quantizer.codebook", 1),
    ):
        if key in shape:
            args[name] = shape[key][axis]
    return args
