"""Foreign checkpoints in: find the tensors, let the family name their dialect, load strictly."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo import registry
from zoo.hub.files import plain_tensors, read_pickle, read_safetensors
from zoo.hub.make import build_for, keywords, load_strictly
from zoo.nn.protocols import Network

# What trainers wrap around a state dict, averaged weights before the last ones, and put before its keys.
WRAPPERS = ("ema", "state_dict", "model", "module", "model_state_dict", "model_state")
PREFIXES = ("module.", "_orig_mod.", "model.")
FILES = ("model.safetensors", "diffusion_pytorch_model.safetensors", "pytorch_model.bin", "pytorch_model.pt")


def convert(source: str | Path | Mapping[str, Any], arch: str, **args: Any) -> Network:
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
    held, place = (source, "the state dict") if isinstance(source, Mapping) else (read_state(Path(source)), source)
    state, shape_args = translate(held, arch, args, place)
    allowed = keywords(arch)
    model = build_for(state, place, arch, {k: v for k, v in shape_args.items() if k in allowed} | args)
    state |= {k: v for k, v in model.state_dict().items() if k in args}  # mean and std, which few files hold
    load_strictly(model, state, place)
    return model.eval()


def translate(
    state: Mapping[str, Any], arch: str, args: Mapping[str, Any], source: object = "the state dict"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Foreign tensors under the names of an arch's family, and the arguments that their shapes tell.

    Args:
        args: what is known of the model besides, for tables that a file leaves out.
        source: for messages.

    Raises:
        ValueError: tensors of no known dialect, or that are not what their names say.
    """
    dialects = registry.home(arch).part("convert")
    if dialects is None:
        raise ValueError(f"no foreign dialect of {arch} is known; `zoo.load` reads checkpoints of this zoo")
    tensors = plain_tensors(unwrap(state, source), source)
    if any(len(number) > 5 for name in tensors for number in re.findall(r"\d+", name)):
        raise ValueError(f"{source} names more layers than it has tensors; get it again")
    try:
        state_and_args: tuple[dict[str, Tensor], dict[str, Any]] = dialects.to_zoo(tensors, args)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError) as error:
        said = str(error).partition("\n")[0]
        raise ValueError(f"the tensors of {source} are not what their names say ({said}); is it {arch}?") from error
    return state_and_args


def read_state(path: Path, mmap: bool | None = None) -> Any:
    """What a torch or safetensors file holds, or the weight file in a folder; `unwrap` finds the tensors in it."""
    if path.is_dir():
        files = [path / f for f in FILES if (path / f).is_file()]
        if not files:
            raise FileNotFoundError(f"{path} holds none of {', '.join(FILES)}; give the file itself")
        path = files[0]
    if path.suffix != ".safetensors":
        return read_pickle(path, bool(mmap))
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        return read_safetensors(path, mmap)
    except ValueError as error:
        raise ValueError(f"{error}; get it again") from error


def unwrap(state: Mapping[str, Any], source: object = "this") -> dict[str, Tensor]:
    """The tensors of a checkpoint, out of what trainers put around them and before their names."""
    if not isinstance(state, Mapping):
        raise ValueError(
            f"{source} is a {type(state).__name__}, no checkpoint; give a state dict, or a file that holds one"
        )
    for key in WRAPPERS:
        if isinstance(state.get(key), Mapping):
            state = state[key]
    tensors = {k: v for k, v in state.items() if isinstance(v, Tensor)}
    if not tensors:
        raise ValueError(
            f"{source}: no tensors among {list(state)[:5]}; give a state dict, or a dict with one under {WRAPPERS}"
        )
    for prefix in PREFIXES:
        if all(str(k).startswith(prefix) for k in tensors):
            tensors = {k.removeprefix(prefix): v for k, v in tensors.items()}
    return tensors
