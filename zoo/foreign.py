"""Foreign checkpoints in: find the tensors, let the family name their dialect, load strictly."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from zoo import hub, registry

# What trainers wrap around a state dict, averaged weights before the last ones, and put before its keys.
WRAPPERS = ("ema", "state_dict", "model", "module", "model_state_dict", "model_state")
PREFIXES = ("module.", "_orig_mod.", "model.")
FILES = ("model.safetensors", "diffusion_pytorch_model.safetensors", "pytorch_model.bin", "pytorch_model.pt")


def convert(source: str | Path | Mapping[str, Any], arch: str, **args: Any) -> nn.Module:
    """A model of this zoo with the weights of a foreign file, folder or state dict.

    Args:
        source: a safetensors or torch file, a folder with one, or a state dict. Torch files are read as plain
            tensors; nothing in them can run.
        arch: which arch it is.
        args: keywords of the arch that the tensors' shapes do not tell, such as `image_size`.

    Raises:
        ValueError: no known dialect of the arch's family, or a tensor missing, left over or misshapen.
        FileNotFoundError: nothing there.
    """
    state, found = translate(source if isinstance(source, Mapping) else read_state(Path(source)), arch, args)
    allowed = hub.keywords(arch)
    model = hub.build(arch, {k: v for k, v in found.items() if k in allowed} | args)
    state |= {k: v for k, v in model.state_dict().items() if k in args}  # mean and std, which few files hold
    hub.load_strictly(model, state, source if not isinstance(source, Mapping) else "the state dict")
    return model.eval()


def translate(state: Mapping[str, Any], arch: str, args: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Foreign tensors under the names of an arch's family, and the arguments that their shapes tell.

    Args:
        args: what is known of the model besides, for tables that a file leaves out.
    """
    dialects = importlib.import_module(f"zoo.{registry.family_of(arch)}.convert")
    return dialects.to_zoo(unwrap(state), args)


def read_state(path: Path) -> Mapping[str, Any]:
    """The tensors of a file, or of the weight file in a folder."""
    if path.is_dir():
        files = [path / f for f in FILES if (path / f).is_file()]
        if not files:
            raise FileNotFoundError(f"{path} holds none of {', '.join(FILES)}; give the file itself")
        path = files[0]
    if path.suffix != ".safetensors":
        return hub.read_pickle(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with safe_open(path, "pt") as f:
            return {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118, not a dict
    except SafetensorError as error:
        raise ValueError(f"{path} is not safetensors ({error}); get it again") from error


def unwrap(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a checkpoint, out of what trainers put around them and before their names."""
    for key in WRAPPERS:
        if isinstance(state.get(key), Mapping):
            state = state[key]
    tensors = {k: v for k, v in state.items() if isinstance(v, Tensor)}
    if not tensors:
        raise ValueError(
            f"no tensors among {list(state)[:5]}; give a state dict, or a dict that holds one under {WRAPPERS}"
        )
    for prefix in PREFIXES:
        if all(k.startswith(prefix) for k in tensors):
            tensors = {k.removeprefix(prefix): v for k, v in tensors.items()}
    return tensors
