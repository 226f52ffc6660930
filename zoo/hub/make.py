"""Builds the model of an arch, and fills it from a file: every tensor or none."""

import inspect
import logging
import re
import reprlib
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from zoo import registry
from zoo.nn import signatures
from zoo.nn.checks import check_types
from zoo.nn.frozen import weights_are_random
from zoo.nn.protocols import AdaptsState, Classifies, FixesArguments, Input, Network, can

LARGEST = 2**24  # integer among the arguments of a model; no arch has one above 2^14
KEPT = ("classes", "name", "parent", "taken", "left", "assumed", "reset_head", "crop_pct")  # of a config
TORCHS = re.compile(r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\.")  # in names
LOG = logging.getLogger("zoo")
CALLS = 50_000  # of torch, while a model is made; the deepest arch needs 4,489


@dataclass
class Source:
    """A checkpoint that was found; its tensors are fetched, checked and mapped when they are first asked for."""

    config: dict[str, Any]
    place: Path
    read: Callable[[], dict[str, Tensor]]

    @cached_property
    def state(self) -> dict[str, Tensor]:
        return self.read()


def build(arch: str, args: Mapping[str, Any]) -> Network:
    """A random model of an arch, with `zoo_config` saying how to make it again.

    Raises:
        ValueError: a keyword that the arch does not take, or a value that makes no model of it.
    """
    allowed = keywords(arch)
    for key in args:
        if key not in allowed:
            raise ValueError(f"{arch} takes no {key!r}{registry.suggest(key, allowed)}; it takes {', '.join(allowed)}")
        if any(isinstance(n, int) and abs(n) > LARGEST for n in _numbers(args[key])):
            raise ValueError(f"{arch} takes no {key}={reprlib.repr(args[key])}; expected at most {LARGEST:,}")
    check_types(model_class(arch), args, arch)
    try:
        with Limit(CALLS, "it has too many layers"):
            model = _builder(arch)(**args)
    except (ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError) as error:
        said = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"no {arch} can be made with {reprlib.repr(dict(args))}: {said}; change these") from error
    if not isinstance(getattr(model, "takes", None), Input):
        raise ValueError(f"{type(model).__name__} does not say what it takes; set self.takes = Input(self.kind, shape)")
    kind: Any = type(model)
    if not hasattr(kind, "preprocess"):  # a class of another distribution may derive from nn.Module alone
        kind.preprocess = Network.preprocess
    model.zoo_config = {"arch": arch, "args": dict(args)}
    if not (family := registry.home(arch)).ours:
        model.zoo_config["distribution"] = family.distribution
    return model


def reset_head(model: Network, num_classes: int) -> None:
    """A new random head; the class names of the old one are forgotten, and the weights it came with become its parent.

    Raises:
        ValueError: a model that does not classify.
    """
    if not isinstance(model, Classifies):
        raise ValueError(f"{model.zoo_config['arch']} has no head to be made new; give an arch that classifies")
    config = model.zoo_config
    config["reset_head"] = {"from": model.head.out_features, "to": num_classes}
    model.reset_head(num_classes)
    config["args"]["num_classes"] = num_classes
    config.pop("classes", None)
    if name := config.pop("name", None):
        config["parent"] = name


def fill(source: Source, args: Mapping[str, Any]) -> Network:
    """A model with every tensor of a source; a classifier that is asked for other classes gets a new head."""
    arch, trained, asked = source.config["arch"], source.config["args"], dict(args)
    refuse_other_fixed(source, args, arch)
    if weights_are_random():
        return build(arch, trained | asked)
    state = source.state  # read before the block: what a converter computes needs values
    classes = asked.pop("num_classes", None) if can(model_class(arch), Classifies) else None
    with torch.device("meta"):  # no memory, no random numbers: every tensor comes from the file
        model = build_for(state, source.place, arch, trained | asked)
        if classes is not None:
            build_for(state, source.place, arch, trained | dict(args))  # or says why there is no such head
    load_strictly(model, state, source.place)
    model.zoo_config |= {k: source.config[k] for k in KEPT if source.config.get(k)}
    if isinstance(model, Classifies) and classes not in (None, model.head.out_features):
        LOG.warning(
            "%s: a new random head of %s classes in place of its %s; train it",
            source.place,
            classes,
            model.head.out_features,
        )
        reset_head(model, classes)
    return model


def refuse_other_fixed(source: Source, args: Mapping[str, Any], arch: str) -> None:
    """What training has fixed is not to be had otherwise by asking for it."""
    kind = model_class(arch)
    if not isinstance(kind, FixesArguments):
        return
    trained_with = inspect.signature(model_class(source.config["arch"])).parameters
    for key in kind.fixed_by_training:
        if key not in args or key not in trained_with:
            continue
        trained = source.config["args"].get(key, trained_with[key].default)
        if _plain(trained) != _plain(args[key]):
            raise ValueError(
                f"{source.place} was trained with {key}={trained!r}, not {args[key]!r}; leave {key} out to take it as "
                "it was trained, or choose other weights with `zoo ls --pretrained`"
            )


class Limit(TorchFunctionMode):
    """Torch stops after so many calls in this thread: a config can ask for a billion layers."""

    def __init__(self, calls: int, said: str):
        super().__init__()
        self.calls, self.said = calls, said

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls -= 1
        if self.calls < 0:
            raise RuntimeError(self.said)
        return func(*args, **(kwargs or {}))


def build_for(state: Mapping[str, Tensor], source: object, arch: str, args: Mapping[str, Any]) -> Network:
    """A model that is about to get the tensors of a file, at a cost in proportion to that file.

    Raises:
        ValueError: arguments that ask for far more than the file can hold.
    """
    most = max(2**20, sum(v.numel() for v in state.values()))
    for key, value in args.items():
        if any(abs(n) > most for n in _numbers(value)):
            raise ValueError(f"{source} holds {len(state)} tensors, too few for {key}={reprlib.repr(value)} of {arch}")
    try:
        with Limit(10_000 + 100 * len(state), "it has far more tensors than the file"):
            return build(arch, args)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def _numbers(value: Any) -> Iterator[int | float]:
    """The numbers in a value out of JSON."""
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, dict | list | tuple):
        for v in value.values() if isinstance(value, dict) else value:
            yield from _numbers(v)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _builder(arch: str) -> Callable[..., Network]:
    family = registry.home(arch)
    builder: Callable[..., Network] | None = getattr(family.part("model"), arch, None)
    if builder is None:
        raise ValueError(f"{family} lists {arch}, and its model.py has no function of that name; write the builder")
    return builder


def model_class(arch: str) -> type[Network]:
    """The class of an arch: what its builder says it returns."""
    returned: type[Network] | None = typing.get_type_hints(_builder(arch)).get("return")
    if returned is None or not hasattr(returned, "kind"):
        raise ValueError(f"{registry.home(arch)}: {arch} must be annotated with its class, which states kind")
    return returned


def keywords(arch: str) -> list[str]:
    """What the builder of an arch takes."""
    return list(signatures.keywords(model_class(arch)))


def tiny(arch: str) -> dict[str, Any]:
    """Keywords that make an arch small, as its family's facts.py says: `zoo.create(arch, **tiny(arch))` takes no time.

    Raises:
        ValueError: the family does not say it of the arch's class.
    """
    family, kind = registry.home(arch), model_class(arch).__name__
    known = registry.facts(family.name).tiny
    if kind not in known:
        raise ValueError(f"{family}: facts.py does not say what makes a {kind} small; add it to TINY")
    return known[kind] | known.get(arch, {})


def load_strictly(model: Network, state: Mapping[str, Tensor], source: object) -> None:
    """Give a model every tensor of `state`, in its own dtype, or name what does not fit.

    A model that AdaptsState first makes over what follows from its arguments alone, such as a position table.
    """
    own = model.state_dict()
    try:
        state = model.adapt_state(dict(state)) if isinstance(model, AdaptsState) else state
    except (ArithmeticError, LookupError, RuntimeError, TypeError) as error:  # a position table of no grid
        said = str(error).partition("\n")[0]
        raise ValueError(f"{source} does not fit {model.zoo_config['arch']}: {said}; nothing was loaded") from error
    if faults := misfits(own, state):
        raise ValueError(
            f"{source} does not fit {model.zoo_config['arch']} with {model.zoo_config['args']}: {faults}; "
            "nothing was loaded. Load it as what it is, or convert it with `zoo convert`"
        )
    model.load_state_dict({k: v.to(own[k].dtype) for k, v in state.items()}, strict=True, assign=True)
    _refuse_without_values(model)


def differing(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> tuple[list[str], list[str], list[str]]:
    """Names of the tensors of `own` that `state` lacks, of those that it has besides, and of those of another shape."""
    missing = [k for k in own if k not in state]
    unexpected = [k for k in state if k not in own]
    return missing, unexpected, [k for k in own if k in state and own[k].shape != state[k].shape]


def misfits(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """How many tensors of `state` are not those of `own` by name and shape, and the first of each kind; "" for none."""
    missing, unexpected, misshapen = differing(own, state)
    faults = [f"{len(v)} {k} ({v[0]} first)" for k, v in (("missing", missing), ("unexpected", unexpected)) if v]
    if misshapen:
        k = misshapen[0]
        faults.append(f"{len(misshapen)} misshapen ({k} is {tuple(state[k].shape)}, not {tuple(own[k].shape)})")
    return ", ".join(faults)


def _refuse_without_values(model: Network) -> None:
    """A model is made without memory, so a tensor that no file holds has no values: a fault of its class."""
    for place, module in model.named_modules():
        for name, tensor in [*module.named_buffers(recurse=False), *vars(module).items()]:
            if isinstance(tensor, Tensor) and tensor.is_meta:
                raise ValueError(
                    f"{type(model).__name__}: {'.'.join(filter(None, (place, name)))} is in no state dict, so no file "
                    "holds it; make it a persistent buffer with register_buffer"
                )
