"""The bilinear image classifier, and what its weights say (Pearce, Dooms et al. 2024; Sharkey 2023).

A bilinear layer multiplies two linear maps of its input, `(W h) ⊙ (V h)`: no activation, no bias. Each of its outputs
is therefore a quadratic form `hᵀ B h`, and the eigenvectors of B say what the network looks for, without any data.

B images · C H W their channels and sides · I = C·H·W pixels · D width · O outputs (classes) · K eigenvectors kept
"""

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.nn.checks import check_images, check_least
from zoo.nn.protocols import PIXELS, Input, Kind, Network

GATES = {None: lambda a: a, "relu": F.relu, "silu": F.silu, "gelu": F.gelu}


class BilinearClassifier(Network):
    """Embed, n bilinear layers, head; no bias anywhere (Pearce, Dooms et al. 2024, §3).

    Args:
        dim: width D of the embedding and of every layer.
        depth: number of bilinear layers.
        num_classes: outputs O.
        image_size: side in pixels, or (height, width).
        channels: C, 1 for grey and 3 for RGB.
        residual: add each layer's input to its output.
        gate: None is bilinear. "relu", "silu" or "gelu" on the left half is for ablation only; such a layer has no
            interaction tensor.
        noise: standard deviation, in pixel units, of Gaussian noise added to the images in training.
        noise_p: probability with which an image receives that noise. The authors' scripts use 1, the library default
            behind their tutorials 0.5.

    Raises:
        ValueError: an unknown gate, no layer, or a probability outside [0, 1].
    """

    kind: ClassVar[Kind] = "image"

    def __init__(
        self,
        dim: int = 256,
        depth: int = 1,
        num_classes: int = 10,
        image_size: int | tuple[int, int] = 28,
        channels: int = 1,
        residual: bool = False,
        gate: str | None = None,
        noise: float = 0.0,
        noise_p: float = 1.0,
    ):
        super().__init__()
        if gate not in GATES:
            raise ValueError(f"gate={gate!r}, allowed {list(GATES)}; leave it out for a bilinear layer")
        check_least(1, dim=dim, depth=depth, num_classes=num_classes, image_size=image_size, channels=channels)
        if not 0 <= noise_p <= 1 or noise < 0:
            raise ValueError(f"noise={noise}, noise_p={noise_p}, allowed noise ≥ 0 and noise_p in [0, 1]")
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.takes = Input(self.kind, (channels, height, width), PIXELS)
        self.residual, self.gate, self.noise, self.noise_p = residual, gate, noise, noise_p
        self.embed = nn.Linear(channels * height * width, dim, bias=False)
        # One matrix for both maps of a layer, W above V, so that a layer is one matrix product.
        self.blocks = nn.ModuleList(nn.Linear(dim, 2 * dim, bias=False) for _ in range(depth))
        self.head = nn.Linear(dim, num_classes, bias=False)

    def forward_features(self, x: Tensor) -> Tensor:
        """What the head reads: images (B, C, H, W) in [0, 1] → (B, D)."""
        check_images(x, self.takes, values=not self.training)
        if self.training and self.noise:
            keep = torch.rand(x.shape[0], 1, 1, 1, device=x.device) < self.noise_p
            x = x + self.noise * keep * torch.randn_like(x)
        h = self.embed(x.flatten(1).to(self.embed.weight.dtype))  # (B, D)
        for block in self.blocks:
            left, right = block(h).chunk(2, dim=-1)  # (B, D) twice
            g = GATES[self.gate](left) * right
            h = h + g if self.residual else g
        return h

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W), float pixels in [0, 1] → logits (B, O).

        Raises:
            ValueError: another size, channel count or dtype; in eval mode also NaN or pixels outside [0, 1].
        """
        return self.head(self.forward_features(x))  # (B, O)

    def reset_head(self, num_classes: int) -> None:
        """A new, random head for other classes; everything before it stays."""
        self.head = nn.Linear(self.head.in_features, num_classes, bias=False).to(self.head.weight)

    def interactions(self) -> Tensor:
        """The last layer's tensor (O, D, D): logit o is `hᵀ B_o h` of what that layer reads.

        With one layer h = E x, so the whole network is in it. With more, h is what the layers before it computed.
        With `residual`, the linear path `U h` comes on top.
        """
        if self.gate is not None:
            raise ValueError(f"gate={self.gate!r} is not bilinear, it has no interaction tensor; use gate=None")
        left, right = self.blocks[-1].get_parameter("weight").detach().chunk(2)
        return interaction_tensor(left, right, self.head.weight.detach())


def bilinear_d64(**args: Any) -> BilinearClassifier:
    """Width 64, one layer: small enough to print."""
    return BilinearClassifier(**{"dim": 64} | args)


def bilinear_d256(**args: Any) -> BilinearClassifier:
    """Width 256, one layer: the published MNIST model (config of the authors' repository)."""
    return BilinearClassifier(**{"dim": 256} | args)


def bilinear_d512_l3(**args: Any) -> BilinearClassifier:
    """Width 512, three layers: the default of the code the paper was written with."""
    return BilinearClassifier(**{"dim": 512, "depth": 3} | args)


# §4: reading the weights. Plain functions of tensors.


class Eigen(NamedTuple):
    """B_o = Σ_k values[o, k] · vectors[o, k] vectors[o, k]ᵀ, the largest |value| first."""

    values: Tensor  # (O, K)
    vectors: Tensor  # (O, K, D)


class HOSVD(NamedTuple):
    """B = Σ_r scale[r] · outputs[r] ⊗ core[r]: orthonormal output directions, each with its own interaction matrix."""

    scale: Tensor  # (R,)
    outputs: Tensor  # (R, O)
    core: Tensor  # (R, D, D)


def interaction_tensor(left: Tensor, right: Tensor, out: Tensor) -> Tensor:
    """`B_o = sym(Σ_d U_od W_d ⊗ V_d)`: left W and right V (D, D), out U (O, D) → (O, D, D), symmetric.

    `hᵀ B h` cannot see the antisymmetric part, so dropping it loses nothing. `out` may hold any directions of the
    output space: `(U[3] - U[8])[None]` asks what tells a three from an eight.
    """
    b = torch.einsum("od,di,dj->oij", out, left, right)  # (O, D, D)
    return (b + b.mT) / 2


def decompose(b: Tensor) -> Eigen:
    """Eigenvectors of each symmetric matrix of b, (O, D, D), ordered by |eigenvalue|."""
    values, vectors = torch.linalg.eigh(b)  # (O, D), (O, D, K) in columns
    order = values.abs().argsort(dim=-1, descending=True)  # (O, K)
    vectors = vectors.mT.gather(-2, order[..., None].expand_as(vectors))  # (O, K, D)
    return Eigen(values.gather(-1, order), vectors)


def truncate(eigen: Eigen, k: int) -> Eigen:
    """The k eigenvectors of largest |eigenvalue| per output."""
    if not 1 <= k <= eigen.values.shape[-1]:
        raise ValueError(f"k={k}, allowed 1 to {eigen.values.shape[-1]}, the number of eigenvectors per output")
    return Eigen(eigen.values[..., :k], eigen.vectors[..., :k, :])


def eigen_logits(h: Tensor, eigen: Eigen) -> Tensor:
    """`logits_o = Σ_k λ_ok (v_ok · h)²`: embedded images h = E x (B, D) → (B, O); exact when no eigenvector is cut."""
    activation = torch.einsum("bd,okd->bok", h, eigen.vectors).square()  # (B, O, K)
    return torch.einsum("bok,ok->bo", activation, eigen.values)


def truncation_curve(h: Tensor, labels: Tensor, eigen: Eigen, batch_size: int = 1000) -> Tensor:
    """Accuracy with the first 1, 2, … K eigenvectors per class, each in [0, 1]; all K in one pass.

    Args:
        h: embedded images E x, (N, D).
        labels: their classes, (N,).

    Returns:
        (K,); entry k-1 is the accuracy of `eigen_logits(h, truncate(eigen, k))`.
    """
    correct = torch.zeros(eigen.values.shape[-1], device=h.device)
    for x, y in zip(h.split(batch_size), labels.split(batch_size)):
        activation = torch.einsum("bd,okd->bok", x, eigen.vectors).square() * eigen.values  # (B, O, K)
        correct += (activation.cumsum(-1).argmax(1) == y[:, None]).sum(0)  # (K,)
    return correct / len(h)


def effective_rank(values: Tensor) -> Tensor:
    """`(Σ|λ|)² / Σλ²` of each spectrum, (O, K) → (O,): how many eigenvectors share the work, 1 to K."""
    return values.abs().sum(-1).square() / values.square().sum(-1)


def to_pixels(vectors: Tensor, embed: Tensor) -> Tensor:
    """Eigenvectors (…, D) through the embedding E (D, I) back to what they match in the image, (…, I)."""
    return vectors @ embed


def hosvd(b: Tensor) -> HOSVD:
    """Higher-order SVD over the outputs: the directions of logits that share interactions, strongest first.

    B (O, D, D) is unfolded to (O, D²); its left singular vectors come from the O × O Gram matrix, so nothing larger
    than B itself is made.
    """
    flat = b.flatten(1)  # (O, D²)
    gram, outputs = torch.linalg.eigh(flat @ flat.mT)  # (O,), (O, R) in columns, ascending
    outputs = outputs.flip(-1).mT  # (R, O)
    scale = gram.flip(-1).clamp(min=0).sqrt()  # (R,)
    floor = scale[0] * len(b) * torch.finfo(b.dtype).eps  # directions below it are round-off
    core = torch.einsum("ro,oij->rij", outputs, b) / scale.clamp(min=floor)[:, None, None]  # (R, D, D)
    return HOSVD(scale, outputs, core)


def adversarial_masks(vectors: Tensor, embed: Tensor) -> Tensor:
    """Images that move one eigenfeature and leave the others, from weights alone (§5).

    Args:
        vectors: the M eigenvectors to tell apart, (M, D), for example the first of every class.
        embed: E, (D, I).

    Returns:
        (M, I), each of unit root mean square; with P = `to_pixels(vectors, embed)`, `P @ masksᵀ` is diagonal. Add a
        multiple to an image and clamp to [0, 1].

    Raises:
        ValueError: more eigenvectors than the embedding can tell apart.
    """
    if len(vectors) > min(embed.shape):
        raise ValueError(
            f"{len(vectors)} eigenvectors, allowed at most {min(embed.shape)}; pass the first few per class"
        )
    masks = torch.linalg.pinv(to_pixels(vectors, embed)).mT  # (M, I)
    return masks / masks.square().mean(-1, keepdim=True).sqrt()


def tensor_similarity(a: BilinearClassifier, b: BilinearClassifier) -> Tensor:
    """Cosine between the pixel-space interaction tensors of two one-layer models, in [-1, 1].

    The tensors have O·I² entries. Their inner product needs only D × D matrices of inner products between rows of
    `W E` and `V E`, because each tensor is a sum of D outer products:
    `⟨B, B'⟩ = ½ Σ_de (UᵀU')_de [(w_d·w'_e)(v_d·v'_e) + (w_d·v'_e)(v_d·w'_e)]`.

    Raises:
        ValueError: more than one layer, a gate, or models of different images or classes.
    """
    for model in (a, b):
        if len(model.blocks) != 1 or model.gate is not None:
            raise ValueError(
                f"depth={len(model.blocks)}, gate={model.gate!r}: only one bilinear layer is a pixel tensor"
            )
    if a.takes.shape != b.takes.shape or a.head.out_features != b.head.out_features:
        raise ValueError(
            f"images {a.takes.shape} with {a.head.out_features} classes against {b.takes.shape} with "
            f"{b.head.out_features}; compare models of the same images and classes"
        )
    return _inner(a, b) / (_inner(a, a) * _inner(b, b)).sqrt()


@torch.no_grad()
def _inner(a: BilinearClassifier, b: BilinearClassifier) -> Tensor:
    """⟨B_a, B_b⟩ in float64: cosines near 1 are differences of nearly equal numbers."""
    (wa, va), (wb, vb) = (
        (m.blocks[0].get_parameter("weight").double() @ m.embed.weight.double()).chunk(2) for m in (a, b)
    )  # (D, I) each
    heads = a.head.weight.double().mT @ b.head.weight.double()  # (D, D')
    return (heads * ((wa @ wb.mT) * (va @ vb.mT) + (wa @ vb.mT) * (va @ wb.mT))).sum() / 2
