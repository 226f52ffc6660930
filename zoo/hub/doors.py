"""`zoo.create` and `zoo.load`."""

from pathlib import Path
from typing import Any, TypeVar, overload

from torch import nn

from zoo import registry
from zoo.hub import make
from zoo.hub.places import full_name, is_place, open_source
from zoo.nn.frozen import weights_are_random
from zoo.nn.protocols import Network, StartsFrom

M = TypeVar("M", bound=nn.Module)


def create(arch: str, weights: str | None = None, **args: Any) -> Network:
    """A model by name, in train mode: random, or strictly loaded.

    Args:
        arch: name of an arch, `zoo.list_models()` lists them.
        weights: a tag of that arch ("mnist"), a checkpoint folder, a run, or "hf://org/name@revision"; None is random.
            A classifier also starts from its autoencoder ("mae_vit_tiny.cifar10"): the encoder is taken, all of it,
            and the head is new.
        args: keywords of the arch; with weights, they go on top of those the weights were made with. Another
            `num_classes` than theirs gives a classifier a new random head, which is said.

    Raises:
        ValueError: unknown arch, tag or keyword; weights that do not fit the arch to the last tensor.
    """
    family = registry.family_of(arch)
    # An estimate of a recipe that starts from a run which does not exist yet.
    planned = weights is not None and weights_are_random() and is_place(weights) and not Path(weights).exists()
    if weights is None or planned:
        return make.build(arch, args)
    source = open_source(full_name(arch, weights))
    held = source.config["arch"]
    if held == arch:
        return make.fill(source, args)
    if held not in registry.facts(family).starts.get(arch, ()):
        raise ValueError(f"{weights} holds {held}, not {arch}; zoo.load({weights!r}) takes what is there")
    shared = {k: v for k, v in source.config["args"].items() if k in make.keywords(arch)}
    make.refuse_other_fixed(source, args, arch)
    model = make.build(arch, shared | args)
    if isinstance(model, StartsFrom) and not weights_are_random():
        model.start_from(source.state)
    model.zoo_config["parent"] = source.config.get("name", weights)
    return model


@overload
def load(name: str, *, mmap: bool | None = None, **args: Any) -> Network: ...
@overload
def load(name: str, model_class: type[M], *, mmap: bool | None = None, **args: Any) -> M: ...
def load(name: str, model_class: type[nn.Module] = nn.Module, *, mmap: bool | None = None, **args: Any) -> nn.Module:
    """A trained model, in eval mode.

    Args:
        name: "arch.tag", a checkpoint folder, "hf://org/name@revision", a Lightning checkpoint, a run's directory
            (its best checkpoint, else its last), or the folder of a recipe's runs (the newest).
        model_class: what it must hold, `zoo.MAE`; type checkers then know the class of any place.
        mmap: False reads the file; True maps it, which costs no memory until a tensor is used, but what is written into
            the file later changes the model, and a file that gets shorter ends the process. None maps a safetensors
            file above 1 GiB and reads all others. Put a new file in the old one's place by renaming, as `zoo.save`
            does, and no model that is loaded notices.
        args: keywords of the arch, on top of those the weights were made with. Another `num_classes` gives a classifier
            a new random head, which is said.

    Raises:
        ValueError: unknown name; a file that is damaged, of another arch, class or format.
        FileNotFoundError: no such folder, repository or revision.
        ConnectionError: the Hub cannot be reached and the cache does not hold the files.
    """
    source = open_source(name, mmap)
    held = make.model_class(source.config["arch"])
    if not issubclass(held, model_class):
        raise ValueError(
            f"{name} holds {source.config['arch']}, a {held.__name__}, no {model_class.__name__}; give its own class"
        )
    return make.fill(source, args).eval()
