"""A network that a model needs and does not own: the tokeniser of a prior, the encoder of a decoder."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, Generic, Protocol, Self, TypeVar, overload

import torch
from torch import Tensor

from zoo.nn.memory import memory

_RANDOM: ContextVar[bool] = ContextVar("_RANDOM", default=False)


@contextlib.contextmanager
def random_weights() -> Iterator[None]:
    """Inside, no tensor is read and no file fetched, whatever weights are named: all networks are random."""
    token = _RANDOM.set(True)
    try:
        yield
    finally:
        _RANDOM.reset(token)


def weights_are_random() -> bool:
    """Whether this runs inside `random_weights`."""
    return _RANDOM.get()


class Freezable(Protocol):
    """What is asked of a network that is frozen; every nn.Module has it. An owner's protocol says what else it can."""

    def state_dict(self) -> dict[str, Tensor]: ...

    def requires_grad_(self, requires_grad: bool = True) -> Self: ...

    def eval(self) -> Self: ...

    @overload
    def to(self, device: torch.device) -> Self: ...

    @overload
    def to(self, dtype: torch.dtype) -> Self: ...


N = TypeVar("N", bound=Freezable)


def fingerprint(model: Freezable) -> str:
    """The sha256, in hex, of a model's tensors and their names, wherever they were stored; "" of random ones."""
    if weights_are_random():
        return ""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(memory(tensor.detach().cpu().contiguous()))
    return digest.hexdigest()


def _whole(network: N) -> N:
    return network


class Frozen(Generic[N]):
    """Known by name and hash, loaded when first called, the same for every copy, and in no state dict.

    A pickle holds `load` and `tensors` by the names of their functions, and the network once it is there.

    Args:
        kind: what it is to its owner, for messages: "tokenizer".
        name: of its weights.
        digest: how the sha256 of its tensors begins; "" takes them as they are.
        load: gives the network.
        tensors: what of it is hashed, where that is not all.
    """

    def __init__(
        self,
        kind: str,
        name: str,
        digest: str,
        load: Callable[[], N],
        tensors: Callable[[N], Freezable] = _whole,
    ):
        self.kind, self.name, self.digest, self.load, self.tensors = kind, name, digest, load, tensors
        self.network: N | None = None

    def __call__(self) -> N:
        """The network, in eval mode and without gradients.

        Raises:
            ValueError: its tensors are not those of the hash.
        """
        if self.network is None:
            network = self.load().requires_grad_(False).eval()
            digest = fingerprint(self.tensors(network))
            if digest and not digest.startswith(self.digest):
                raise ValueError(
                    f"{self.name} is not the {self.kind} that these weights were trained with: the hash of its tensors "
                    f"begins {digest[:16]}, not {self.digest}; give {self.kind}=PLACE of the right one"
                )
            self.network = network
        return self.network

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self
