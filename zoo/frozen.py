"""A network that a model needs and does not own: the tokeniser of a prior, the encoder of a decoder."""

from collections.abc import Callable

from torch import nn


class Frozen:
    """Known by name and hash, loaded when first called, the same for every copy, and in no state dict.

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
        load: Callable[[], nn.Module],
        tensors: Callable[[nn.Module], nn.Module] = lambda network: network,
    ):
        self.kind, self.name, self.digest, self.load, self.tensors = kind, name, digest, load, tensors
        self.network: nn.Module | None = None

    def __call__(self) -> nn.Module:
        """The network, in eval mode and without gradients.

        Raises:
            ValueError: its tensors are not those of the hash.
        """
        if self.network is None:
            from zoo import hub

            network = self.load().requires_grad_(False).eval()
            found = hub.fingerprint(self.tensors(network))
            if found and not found.startswith(self.digest):
                raise ValueError(
                    f"{self.name} is not the {self.kind} that these weights were trained with: the hash of its tensors "
                    f"begins {found[:16]}, not {self.digest}; give {self.kind}=PLACE of the right one"
                )
            self.network = network
        return self.network

    def __deepcopy__(self, memo: dict) -> "Frozen":
        return self
