"""What a model of this zoo says of itself, and what it can do.

`Model` is required of every class. Each other protocol is a capability: generic code (loading, `zoo eval`, `zoo show`,
`zoo sample`, export, training) asks `isinstance(model, Reconstructs)` and never for a family, a suffix of a name or the
number of axes. A class has a capability by having its methods or attributes; nothing is inherited or registered.

The check looks at methods alone where there are any, so it also works on a class, `can(MAE, FillsIn)`, and evaluates no
property, which may load a frozen network. Attributes that go with the methods stand under TYPE_CHECKING.
"""

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from zoo.registry import PUBLIC, needing

Kind = Literal["image", "clip", "latent", "activation"]
LAYOUTS = {"image": "B C H W", "clip": "B F C H W"}
OTHERS = {1: "B D", 2: "B N D", 3: "B c h w"}  # axes of a sample of another kind -> layout
PIXELS = (0.0, 1.0)


class Input(NamedTuple):
    """What a model takes, one sample of it.

    An image is (C, H, W), a clip (F, C, H, W), both float pixels in [0, 1]; a latent is what an autoencoder keeps,
    normalised, (c, h, w) or (D,); an activation is what a network's layer puts out, (D,).
    """

    kind: Kind
    shape: tuple[int, ...]  # without the batch
    range: tuple[float, float] | None = None  # of the values; None where any number may stand

    @property
    def layout(self) -> str:
        """The axes of a batch, "B C H W"."""
        return LAYOUTS.get(self.kind) or OTHERS[len(self.shape)]

    @property
    def channels(self) -> int:
        """Of an image, a clip's frames or a map of latents; of a vector its length."""
        return self.shape[-3] if len(self.shape) > 2 else self.shape[-1]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of an image, a clip's frames or a map of latents.

        Raises:
            ValueError: a vector has none.
        """
        if len(self.shape) < 3:
            raise ValueError(f"a {self.kind} of {self.shape} has no height and width")
        return self.shape[-2], self.shape[-1]


class Model(Protocol):
    """Required of every class; an nn.Module besides. The hub sets `zoo_config` when it makes one.

    `forward` returns logits, or a NamedTuple whose first field is `loss`.
    """

    kind: ClassVar[Kind]
    takes: Input
    zoo_config: dict[str, Any]  # {"arch": …, "args": {…}}, and "classes", "name", "parent" where they are known

    def forward(self, *args: Any, **kwargs: Any) -> Any: ...


class Network(nn.Module):
    """An nn.Module that is a Model: what the hub makes. A class of another distribution may be a plain nn.Module."""

    kind: ClassVar[Kind]
    takes: Input
    zoo_config: dict[str, Any]

    def preprocess(
        self, pictures: Any, *, crop_pct: float | None = None, value_range: tuple[float, float] | None = None
    ) -> Tensor:
        """Pictures as a batch that this model takes, float32 (B, C, H, W) in [0, 1] on its device; one is a batch of 1.

        Args:
            pictures: a path, encoded bytes, a PIL image, an array (H, W) or (H, W, C), a uint8 tensor (C, H, W), or
                several of these; of a model of clips, paths of videos.
            crop_pct, value_range: as `zoo.transform`'s.

        Raises:
            ValueError: a model that takes no pictures, none given, or a damaged one, which is named.
            FileNotFoundError: no such file.
            ModuleNotFoundError: numpy, Pillow, or PyAV for videos, is not installed.
        """
        with needing("preprocess"):
            reading = importlib.import_module(PUBLIC["preprocess"])  # it stands above what models are made of
            batch: Tensor = reading.preprocess(self, pictures, crop_pct=crop_pct, value_range=value_range)
        return batch


def can(kind: type[nn.Module], capability: type) -> bool:
    """Whether models of a class have a capability that is one of methods."""
    return issubclass(kind, capability)


# What comes in and what goes out


@runtime_checkable
class HasFeatures(Protocol):
    """Features of each sample for probes, neighbours and export: (B, D), tokens (B, N, D) or a map (B, D, h, w)."""

    def forward_features(self, x: Tensor) -> Tensor: ...


@runtime_checkable
class HasTokens(Protocol):
    """The features are tokens (B, T + N, D), of which the first T = `num_cls_tokens` belong to no place."""

    num_cls_tokens: int

    def forward_features(self, x: Tensor) -> Tensor: ...


@runtime_checkable
class Reconstructs(Protocol):
    """Keeps a sample, as latents in floats or as codes in int64, and decodes it to what it was, shaped alike.

    `reconstruct(x)` is x after the bottleneck, of x's shape and within the range of `takes`.
    """

    def encode(self, x: Tensor) -> Tensor: ...

    def decode(self, z: Tensor) -> Tensor: ...

    def reconstruct(self, x: Tensor) -> Tensor: ...


@runtime_checkable
class HasLatents(Protocol):
    """Keeps a sample as floats and knows their mean and deviation, so that other models can learn them.

    `encode` gives latents as `decode` takes them; normalised, each channel has about mean 0 and deviation 1. The
    statistics are (c,) or (c, h, w) of a map, (D,) of a vector. `measured` is False until they were computed.
    """

    if TYPE_CHECKING:
        latent_shape: tuple[int, ...]  # (c, h, w) or (D,)
        latent_mean: Tensor
        latent_std: Tensor
        measured: bool

    def encode(self, x: Tensor) -> Tensor: ...

    def decode(self, z: Tensor) -> Tensor: ...

    def normalise(self, z: Tensor) -> Tensor: ...

    def denormalise(self, z: Tensor) -> Tensor: ...


@runtime_checkable
class HasCodes(Protocol):
    """Keeps a sample as codes, int64 from 0 to below `count_codes()`; 0 where this bottleneck has none."""

    def encode(self, x: Tensor) -> Tensor: ...

    def decode(self, z: Tensor) -> Tensor: ...

    def count_codes(self) -> int: ...


@runtime_checkable
class FillsIn(Protocol):
    """Hides parts of a sample and predicts them.

    `draw` says in which order parts are hidden. `reconstruct` gives three pictures of each sample: what was seen, what
    was predicted, and the prediction beside what was seen; of a clip, they may hold fewer frames than the clip.
    """

    def draw(self, batch: int, device: torch.device | str = "cpu") -> Tensor: ...

    def reconstruct(
        self, x: Tensor, order: Tensor | None = None, statistics: str = "own"
    ) -> tuple[Tensor, Tensor, Tensor]: ...


def frames_of(x: Tensor, like: Tensor) -> Tensor:
    """Of clips (B, F, C, H, W), the frames that a model predicts, of which `like` holds as many; images as they are."""
    if x.ndim < 5:
        return x
    return x[:, torch.linspace(0, x.shape[1] - 1, like.shape[1]).long()]  # (B, F', C, H, W)


@runtime_checkable
class Classifies(Protocol):
    """`forward` gives logits (B, classes) by a layer `head`, which `reset_head` makes new."""

    if TYPE_CHECKING:
        head: nn.Linear

    def reset_head(self, num_classes: int) -> None: ...


@runtime_checkable
class Samples(Protocol):
    """Draws. The keywords of `sample` but `generator` are the flags of `zoo sample`.

    `num_classes` is 0 where there are none; a label of -1 is any class. `draws` says what comes out, which may load a
    frozen network.
    """

    if TYPE_CHECKING:
        num_classes: int

    def sample(self, labels: Tensor, *, generator: torch.Generator | None = None) -> Tensor: ...

    def draws(self) -> Input: ...


# How a model is loaded, trained and evaluated


@runtime_checkable
class StartsFrom(Protocol):
    """Takes the encoder out of an autoencoder's state dict: a classifier that begins where a pretraining ended."""

    def start_from(self, state: dict[str, Tensor]) -> None: ...


@runtime_checkable
class AdaptsState(Protocol):
    """Rebuilds tensors that arguments determine, such as a position table of another grid, before they are loaded."""

    def adapt_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]: ...


@runtime_checkable
class FixesArguments(Protocol):
    """Names the keywords that training fixes: loading weights with another value is refused."""

    fixed_by_training: tuple[str, ...]


@runtime_checkable
class KeepsBatchState(Protocol):
    """Names attributes other than buffers that a training batch changes: they are restored when a batch is left out."""

    batch_state: tuple[str, ...]


@runtime_checkable
class SparesDecay(Protocol):
    """Names parameters of two axes or more that weight decay spares."""

    no_decay: Sequence[str]


@runtime_checkable
class DecaysAlso(Protocol):
    """Names parameters of one axis that weight decay takes all the same."""

    decay_also: Sequence[str]


@runtime_checkable
class HasLayers(Protocol):
    """timm's `group_matcher`: which parameters are in which layer, for layer-wise learning rates."""

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]: ...


@runtime_checkable
class Recomputes(Protocol):
    """Can make activations again in the backward pass instead of keeping them."""

    grad_checkpointing: bool


@runtime_checkable
class PrefersData(Protocol):
    """Names the data that `zoo eval` measures on unless it is told, as its SOURCE; None leaves it to the shape."""

    default_data: str | None
