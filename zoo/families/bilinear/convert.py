"""The authors' image classifiers: embed.weight (D, I), blocks.i.weight (2D, D) left above right, head.weight (O, D)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from zoo.families.bilinear.model import BilinearClassifier
from zoo.hub.foreign import UnknownDialect


def to_zoo(state: dict[str, Tensor], args: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Their names are ours; the shapes tell the arguments.

    Raises:
        ValueError: a dialect not known here, or layers with a bias, which have no place in a bilinear form.
    """
    if not {"embed.weight", "blocks.0.weight", "head.weight"} <= state.keys():
        raise UnknownDialect(
            f"tensors {sorted(state)[:4]} are no known bilinear classifier; "
            "expected embed.weight, blocks.0.weight, …, head.weight"
        )
    biases = [k for k in state if k.endswith("bias")]
    if biases:
        raise ValueError(f"{biases[0]}: a bias is not part of a bilinear form; only bias-free classifiers convert")
    dim, classes = state["embed.weight"].shape[0], state["head.weight"].shape[0]
    depth = sum(k.startswith("blocks.") for k in state)
    return state, {"dim": dim, "depth": depth, "num_classes": classes}


def assumed(model: BilinearClassifier, told: Mapping[str, Any]) -> dict[str, Any]:
    """What no tensor tells."""
    return {"residual": model.residual, "gate": model.gate}
