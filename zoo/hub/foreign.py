"""Foreign checkpoints in: find the tensors, let the family name their dialect, load strictly.

A trainer writes the weights as they were last, often their moving average beside them, and wraps names and files in
its own ways. What was taken and what was left is kept in `zoo_config`, and so in config.json: `taken`, `left`. What of
the network no tensor tells is the arch's, and kept as `assumed`.
"""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo import registry
from zoo.hub.files import plain_tensors, read_pickle, read_safetensors
from zoo.hub.make import LOG, TORCHS, build_for, keywords, load_strictly
from zoo.nn.protocols import Network

# Under which keys, or before whose names, trainers put a state dict.
TAKES = {
    "ema": ("ema", "model_ema", "state_dict_ema", "ema_state_dict", "ema_model"),
    "model": ("state_dict", "model", "module", "model_state_dict", "model_state"),
}
PREFIXES = ("module.", "model.", "backbone.", "net.", "network.")
COUNT = "n_averaged"  # what torch's AveragedModel has beside the network
DEEPEST = 8  # wrappers in one another
FILES = ("model.safetensors", "diffusion_pytorch_model.safetensors", "pytorch_model.bin", "pytorch_model.pt")


class UnknownDialect(ValueError):
    """A family's `to_zoo` does not know whose tensors these are; prefixes may hide it."""


class Found(NamedTuple):
    """Foreign tensors under the names of a family."""

    state: dict[str, Tensor]
    told: dict[str, Any]  # the arguments that the tensors tell
    said: dict[str, Any]  # for zoo_config: `taken` and `left`, where there was something to leave


def convert(
    source: str | Path | Mapping[str, Any],
    arch: str,
    *,
    take: str | None = None,
    stats: str | Path | Mapping[str, Any] | None = None,
    **args: Any,
) -> Network:
    """A model of this zoo with the weights of a foreign file, folder or state dict.

    Args:
        source: a safetensors or torch file, a folder with one, or a state dict. Torch files are read as plain
            tensors; nothing in them can run.
        arch: which arch it is.
        take: "ema", the moving average of the weights, or "model", the last ones. None takes the average where there is
            one, unless the authors' own evaluation takes the other.
        stats: a file of further tensors, such as the stat.pt beside an RAE's decoder.
        args: keywords of the arch that the tensors do not tell, such as `image_size`. Those that are left out are the
            arch's; `zoo_config["assumed"]` lists them.

    Raises:
        ValueError: no known dialect of the arch's family, another arch, or a tensor missing, left over or misshapen.
        FileNotFoundError: nothing there.
    """
    held, place = (source, "the state dict") if isinstance(source, Mapping) else (read_state(Path(source)), source)
    more = stats if isinstance(stats, Mapping) or stats is None else read_state(Path(stats))
    state, told, said = translate(held, arch, args, place, take, plain_tensors(more or {}, stats))
    dialects, allowed = _dialects(arch), keywords(arch)
    fixed: Mapping[str, str] = getattr(dialects, "OF_THE_ARCH", {})
    _refuse_other_arch(dialects, state, place, arch, {k: told[k] for k in fixed if k in told}, args)
    told = {k: v for k, v in told.items() if k in allowed and k not in fixed}
    model = build_for(state, place, arch, told | args)
    state |= {k: v for k, v in model.state_dict().items() if k in args}  # mean and std, which few files hold
    load_strictly(model, state, place)
    untold = dialects.assumed(model, told) if hasattr(dialects, "assumed") else {}
    untold = {k: v for k, v in untold.items() if k not in args}
    model.zoo_config |= said | ({"assumed": untold} if untold else {})
    _say(place, model.zoo_config)
    return model.eval()


def translate(
    state: Any,
    arch: str,
    args: Mapping[str, Any],
    source: object = "the state dict",
    take: str | None = None,
    more: Mapping[str, Tensor] | None = None,
) -> Found:
    """Foreign tensors under the names of an arch's family, and the arguments that they tell.

    Args:
        state: what a file holds.
        args: what is known of the model besides, for tables that a file leaves out.
        source: for messages.
        take: as in `convert`.
        more: tensors of another file that belong to these.

    Raises:
        ValueError: tensors of no known dialect, or that are not what their names say.
    """
    dialects = _dialects(arch)
    kind = take or getattr(dialects, "TAKES", "ema")
    if kind not in TAKES:
        raise ValueError(f"take={take!r}, allowed {', '.join(TAKES)}")
    held, taken, left = unwrap(state, kind, source)
    tensors = {TORCHS.sub("", k): v for k, v in plain_tensors(held, source).items()}
    if any(len(number) > 5 for name in tensors for number in re.findall(r"\d+", name)):
        raise ValueError(f"{source} names more layers than it has tensors; get it again")
    errors: list[ValueError] = []
    passed_over = False
    for group, prefix in _groups(tensors, kind):
        inside = prefix.split(".")[:-1]
        path = [*taken, *inside]
        counted = any(".".join([*inside[:i], COUNT]) in tensors for i in range(len(inside)))
        averaged = counted or any(name in TAKES["ema"] for name in path)
        if take is not None and averaged != (take == "ema"):
            passed_over = True
            continue
        try:
            ours, told = dialects.to_zoo(group | dict(more or {}), args)
        except ValueError as error:
            errors.append(error)
            if averaged and not isinstance(error, UnknownDialect):
                break  # the last weights do not stand in for an average that is cut
            continue
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError) as error:
            said = str(error).partition("\n")[0]
            raise ValueError(f"the tensors of {source} are not what their names say ({said}); is it {arch}?") from error
        left += sorted({name.partition(".")[0] for name in tensors if not name.startswith(prefix)})
        return Found(ours, told, {"taken": "/".join(path), "left": left} if left else {})
    known = [e for e in errors if not isinstance(e, UnknownDialect)]
    if passed_over and not known:
        wanted = "average of the weights" if take == "ema" else "weights but an average"
        raise ValueError(f"{source} holds no {wanted}; leave take={take!r} out")
    raise ValueError(f"{source}: {(known or errors)[-1 if known else 0]}") from errors[0]


def unwrap(state: Any, kind: str, source: object) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """The tensors of a checkpoint out of what trainers put around them, the keys that led there, and those left.

    Args:
        kind: of `TAKES`, what is taken where there is both.
    """
    if not isinstance(state, Mapping):
        raise ValueError(
            f"{source} is a {type(state).__name__}, no checkpoint; give a state dict, or a file that holds one"
        )
    keys = [key for which in sorted(TAKES, key=lambda name: name != kind) for key in TAKES[which]]
    taken: list[str] = []
    left: list[str] = []
    for _ in range(DEEPEST):
        held = [key for key in keys if _holds_tensors(state.get(key))]
        if held:
            taken.append(held[0])
            left += held[1:]
            state = state[held[0]]
        elif taken and not any(isinstance(v, Tensor) for v in state.values()):
            state = next(v for v in state.values() if _holds_tensors(v))  # efficientvit's, under its decay
        else:
            break
    tensors = {k: v for k, v in state.items() if isinstance(v, Tensor)}
    if not tensors:
        raise ValueError(
            f"{source}: no tensors among {list(state)[:5]}; give a state dict, or a dict with one under "
            f"{', '.join(keys)}"
        )
    return tensors, taken, left


def _holds_tensors(value: Any, depth: int = 3) -> bool:
    if not isinstance(value, Mapping):
        return False
    return any(isinstance(v, Tensor) or (depth and _holds_tensors(v, depth - 1)) for v in value.values())


def _groups(tensors: dict[str, Tensor], kind: str, before: str = "") -> Iterator[tuple[dict[str, Tensor], str]]:
    """What of the tensors may be the network: those behind one prefix without it, or all as they are."""
    averages = tuple(f"{name}." for name in TAKES["ema"])
    for prefix in (*averages, "", *PREFIXES) if kind == "ema" else ("", *PREFIXES, *averages):
        group = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if not prefix:
            yield tensors, before
        elif group and before.count(".") < DEEPEST:
            yield from _groups(group, kind, before + prefix)


def _dialects(arch: str) -> ModuleType:
    dialects = registry.home(arch).part("convert")
    if dialects is None:
        raise ValueError(f"no foreign dialect of {arch} is known; `zoo.load` reads checkpoints of this zoo")
    return dialects


def _refuse_other_arch(
    dialects: ModuleType,
    state: Mapping[str, Tensor],
    source: object,
    arch: str,
    told: Mapping[str, Any],
    args: Mapping[str, Any],
) -> None:
    """Raise where the tensors tell another network than the arch's: what they do not tell would be another's too."""

    def differing(name: str, args: Mapping[str, Any]) -> dict[str, Any]:
        with torch.device("meta"):
            own = dialects.tell(build_for(state, source, name, args).state_dict())
        return {k: own.get(k) for k, v in told.items() if own.get(k) != v}

    wrong = differing(arch, args) if told else {}
    if not wrong:
        return
    others = []
    for name in registry.facts(registry.family_of(arch)).archs:
        with contextlib.suppress(ValueError):  # too large for this file
            others += [] if differing(name, {}) else [name]
    key = next(iter(wrong))
    mend = (
        f"it fits {' and '.join(others)}" if others else f"give {json.dumps({k: told[k] for k in wrong})} if it is so"
    )
    why = dialects.OF_THE_ARCH[key]
    raise ValueError(f"{source} is no {arch}: its {key} is {told[key]}, not {wrong[key]}, and {why}; {mend}")


def _say(source: object, config: Mapping[str, Any]) -> None:
    """One line about what was chosen for the user."""
    parts = []
    if "taken" in config:
        parts.append(f"took {config['taken']}, left {', '.join(config['left'])} (`take` chooses)")
    if "assumed" in config:
        assumed = ", ".join(f"{k}={v!r}" for k, v in config["assumed"].items())
        parts.append(f"no tensor tells {assumed}: the arch's, unless `args` say otherwise")
    if parts:
        LOG.warning("%s: %s", source, "; ".join(parts))


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
