"""torch.hub entry points: one function per arch, made from the registry. Never edited by hand."""

import sys as _sys
from pathlib import Path as _Path

dependencies = ["torch", "safetensors"]

_root = _Path(__file__).resolve().parent
_loaded = getattr(_sys.modules.get("zoo"), "__file__", None)
if _loaded and _Path(_loaded).resolve().parent != _root / "zoo":
    raise ImportError(
        f"another package named zoo is already imported, from {_Path(_loaded).parent}; this one is {_root / 'zoo'}. "
        "Load the model in a fresh Python process, or uninstall the other one"
    )
# torch.hub takes the repository off sys.path again once the model is made; spawned workers and unpickling need it.
if str(_root) not in _sys.path[1:]:
    _sys.path.append(str(_root))

from zoo import registry as _registry  # noqa: E402


def _entry(arch):
    def entry(weights=None, **args):
        from zoo import hub

        return hub.create(arch, weights, **args)

    tags = ", ".join(repr(w.tag) for w in _registry.records().values() if w.arch == arch) or "none yet"
    entry.__name__ = entry.__qualname__ = arch
    entry.__doc__ = f"""{_registry.summary(arch)}.

    Args:
        weights: {tags}; a checkpoint folder; "hf://org/name@revision"; or None for a random model.
        args: keywords of the arch.

    Returns:
        A torch.nn.Module in train mode; call .eval() before using it.
    """
    return entry


globals().update({_arch: _entry(_arch) for _arch in _registry.list_models()})
