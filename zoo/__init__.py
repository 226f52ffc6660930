"""A PyTorch Lightning model zoo of autoencoders and bilinear networks, with pretrained checkpoints.

Importing it is free: torch is loaded by the first call that needs it, Lightning never by this module.
"""

import importlib
from typing import TYPE_CHECKING

from zoo.registry import Weights, list_models, list_weights, weights_info

if TYPE_CHECKING:
    from zoo.foreign import convert as convert
    from zoo.hub import create as create
    from zoo.hub import export as export
    from zoo.hub import load as load
    from zoo.hub import push as push
    from zoo.hub import save as save

__version__ = "0.1.0"
__all__ = [
    "Weights",
    "convert",
    "create",
    "export",
    "list_models",
    "list_weights",
    "load",
    "push",
    "save",
    "weights_info",
]

_HOMES = dict.fromkeys(("create", "load", "save", "export", "push"), "zoo.hub") | {"convert": "zoo.foreign"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}")
    function = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = function
    return function


def __dir__() -> list[str]:
    return sorted(__all__)
