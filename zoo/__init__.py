"""A PyTorch Lightning model zoo of autoencoders and bilinear networks, with pretrained checkpoints.

Importing it is free: torch is loaded by the first name that needs it, Lightning by the first that trains or reads data.
What stands in `zoo.__all__`, in `zoo.metrics.__all__` and in the `__all__` of each `zoo.families.NAME` is public; the
rest may change.
"""

import importlib

from zoo import registry
from zoo.registry import Metric as Metric
from zoo.registry import Weights as Weights
from zoo.registry import list_models as list_models
from zoo.registry import list_weights as list_weights
from zoo.registry import weights_info as weights_info

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name == "__all__":
        return sorted(registry.public())
    if (registry.HOUSE / name).is_dir() or (registry.HOUSE / f"{name}.py").is_file():
        raise AttributeError(f"module 'zoo' has not imported its module {name}")  # which `from zoo import` does then
    module = registry.PUBLIC.get(name) or registry.public().get(name)
    if module is None:
        near = "" if name.startswith("_") else registry.suggest(name, registry.public())
        raise AttributeError(f"module 'zoo' has no attribute {name!r}{near}")
    with registry.needing(f"zoo.{name}"):
        value = globals()[name] = getattr(importlib.import_module(module), name)
    return value


def __dir__() -> list[str]:
    return sorted(registry.public())
