"""A prior over the codes of images: a causal transformer reads them row by row and draws new ones.

After van den Oord et al. 2017, §3.3, who took a PixelCNN, and LlamaGen (Sun et al. 2024), who took a language model.

B images · h w the grid of codes · N = h·w · K codes of the codebook · D width · T tokens so far
"""

from functools import partial
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.nn.checkpointing import recompute
from zoo.nn.checks import check_images, check_ints, check_least, check_types, sides
from zoo.nn.frozen import Freezable, Frozen
from zoo.nn.protocols import PIXELS, HasCodes, Input, Kind, Network, Reconstructs
from zoo.nn.vit import Mlp


@runtime_checkable
class Tokenizer(Freezable, HasCodes, Reconstructs, Protocol):
    """What a prior learns the codes of: images become codes (B, h, w) int64, and codes images."""

    takes: Input


class PriorOutput(NamedTuple):
    """What a training pass gives."""

    loss: Tensor  # () nats a code
    logits: Tensor  # (B, N, K), of every code given those before it
    indices: Tensor  # (B, h, w) int64


class CodePrior(Network):
    """`p(codes | class) = Π_n p(code_n | codes before it, class)`, and with its tokeniser a generator of images.

    The tokeniser is part of the model by name and hash, not by weight: it is loaded when images first go in or come
    out, stays frozen, and is in no state dict.

    Args:
        image_size, channels, grid, codebook_size: the tokeniser's: side in px or (height, width), C, (h, w), K.
        tokenizer: the tokeniser's name, checkpoint folder or `hf://org/name`.
        tokenizer_hash: how the sha256 of its weights begins; "" takes it as it is.
        num_classes: 0 is a prior without classes.
        dim, depth, heads: of the transformer.
        dropout: on the tokens and on what each block adds.
        label_drop: share of the labels that training hides, so that guidance has something to guide away from.

    Raises:
        ValueError: a width that the heads do not divide.
    """

    kind: ClassVar[Kind] = "image"

    def __init__(
        self,
        image_size: int | tuple[int, int] = 28,
        channels: int = 1,
        grid: tuple[int, int] = (7, 7),
        codebook_size: int = 128,
        tokenizer: str = "vqvae_conv_small.mnist",
        tokenizer_hash: str = "",
        num_classes: int = 10,
        dim: int = 192,
        depth: int = 6,
        heads: int = 3,
        dropout: float = 0.0,
        label_drop: float = 0.1,
    ):
        super().__init__()
        check_least(0, num_classes=num_classes)
        check_least(1, channels=channels)
        if heads < 1 or dim % heads:
            raise ValueError(f"dim={dim} is no multiple of heads={heads}")
        self.takes, self.grid = Input(self.kind, (channels, *sides(image_size)), PIXELS), tuple(grid)
        self.codebook_size, self.num_classes, self.label_drop = codebook_size, num_classes, label_drop
        self._tokenizer = Frozen("tokenizer", tokenizer, tokenizer_hash, partial(_load, self))
        self.classes = nn.Embedding(num_classes + 1, dim)  # the last row stands for any class
        self.codes = nn.Embedding(codebook_size, dim)
        self.positions = nn.Parameter(torch.zeros(self.length, dim))
        self.drop, self.grad_checkpointing = nn.Dropout(dropout), False
        blocks = [CausalBlock(dim, heads, dropout) for _ in range(depth)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(dim)
        self.to_codes = nn.Linear(dim, codebook_size, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for block in blocks:  # the sum of all blocks keeps its scale (Radford et al. 2019, §2.3)
            for last in (block.proj, block.mlp.fc2):
                nn.init.normal_(last.weight, std=0.02 * (2 * depth) ** -0.5)
        nn.init.normal_(self.positions, std=0.02)

    no_decay = ("positions", "classes.weight", "codes.weight")

    @property
    def length(self) -> int:
        """N."""
        return self.grid[0] * self.grid[1]

    @property
    def tokenizer(self) -> Tokenizer:
        """The frozen tokeniser, on this model's device.

        Raises:
            ValueError: its weights are not those that this prior was trained with, or its codes have another shape.
        """
        return self._tokenizer().to(self.positions.device)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> PriorOutput:
        """Images (B, C, H, W) in [0, 1], or their codes (B, h, w) int64 → logits and loss.

        Args:
            labels: (B,) int64; -1, or None for all, is any class.

        Raises:
            ValueError: images or codes of another shape, codes or labels that are not there.
        """
        indices = x if isinstance(x, Tensor) and not x.is_floating_point() else self.encode(x)
        check_ints(indices, "codes", ("B", *self.grid), 0, self.codebook_size, "encode makes them of images")
        if labels is not None:
            check_ints(labels, "labels", (indices.shape[0],), -1, self.num_classes, "-1 is any class")
        target = indices.flatten(1)  # (B, N)
        logits = self.to_codes(self._features(target, labels))  # (B, N, K)
        precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return PriorOutput(F.cross_entropy(precise.flatten(0, 1), target.flatten()), logits, indices)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) → what each code is predicted from, (B, N, D)."""
        return self._features(self.encode(x).flatten(1), None)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) → codes (B, h, w) int64."""
        check_images(x, self.takes, values=not self.training)
        return self.tokenizer.encode(x)

    def draws(self) -> Input:
        """What `sample` gives: images as this prior takes them."""
        return self.takes

    @torch.no_grad()
    def sample(
        self,
        labels: Tensor,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        guidance: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Images (B, C, H, W) in [0, 1] drawn for labels (B,) int64, -1 is any class.

        Args:
            temperature: of each code's draw; towards 0 the likeliest code wins.
            top_k: draw among so many likeliest codes.
            guidance: how much further than any class's the logits go towards the class; 1 is none.
            generator: of the draws.

        Raises:
            ValueError: as `sample_codes`.
        """
        return self.tokenizer.decode(self.sample_codes(labels, temperature, top_k, guidance, generator))

    @torch.no_grad()
    def sample_codes(
        self,
        labels: Tensor,
        temperature: float = 1.0,
        top_k: int | None = None,
        guidance: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Codes drawn one after the other for labels (B,) int64, -1 is any class: (B, h, w) int64.

        Args:
            temperature: logits are divided by it; towards 0 the likeliest code wins.
            top_k: draw among so many likeliest codes.
            guidance: w of `any + w · (class - any)` between the logits (Ho and Salimans 2021); 1 is none.
            generator: of the draws.

        Raises:
            ValueError: a temperature or top_k that is not positive, labels that are not there.
        """
        check_types(CodePrior.sample_codes, locals())
        check_ints(labels, "labels", ("B",), -1, self.num_classes, "-1 is any class")
        if temperature <= 0 or (top_k is not None and top_k < 1):
            raise ValueError(f"temperature={temperature}, top_k={top_k}: both must be positive")
        training = self.training
        self.eval()
        try:
            return self._draw(labels, temperature, top_k, guidance, generator)
        finally:
            self.train(training)

    def _draw(
        self,
        labels: Tensor,
        temperature: float,
        top_k: int | None,
        guidance: float,
        generator: torch.Generator | None,
    ) -> Tensor:
        b, guided = len(labels), guidance != 1
        if guided:
            labels = torch.cat([labels, torch.full_like(labels, -1)])  # (2B,)
        x = self._classes(labels)[:, None]  # (B or 2B, 1, D)
        caches: list[Cache | None] = [None] * len(self.blocks)
        drawn = []
        for place in range(self.length):
            x = x + self.positions[place]
            for i, block in enumerate(self.blocks):
                x, caches[i] = block(x, caches[i])
            logits = self.to_codes(self.norm(x))[:, 0].float()  # (B, K)
            if guided:
                of_class, of_any = logits.chunk(2)
                logits = of_any + guidance * (of_class - of_any)
            logits = logits / temperature
            if top_k is not None:
                least = logits.topk(min(top_k, self.codebook_size)).values[:, -1:]  # (B, 1)
                logits = logits.masked_fill(logits < least, float("-inf"))
            drawn.append(logits.softmax(-1).multinomial(1, generator=generator))  # (B, 1)
            x = self.codes(drawn[-1].repeat(2, 1) if guided else drawn[-1])  # (B, 1, D)
        return torch.cat(drawn, 1).reshape(b, *self.grid)  # (B, h, w)

    def _features(self, indices: Tensor, labels: Tensor | None) -> Tensor:
        if labels is None:
            labels = torch.full((indices.shape[0],), -1, device=indices.device)
        before = torch.cat([self._classes(labels)[:, None], self.codes(indices[:, :-1])], 1)  # (B, N, D)
        x = self.drop(before + self.positions)
        for block in self.blocks:
            x, _ = recompute(block, x) if self.grad_checkpointing else block(x)
        return self.norm(x)  # (B, N, D)

    def _classes(self, labels: Tensor) -> Tensor:
        if self.training and self.num_classes:
            hidden = torch.rand(labels.shape[0], device=labels.device) < self.label_drop
            labels = labels.masked_fill(hidden, -1)
        return self.classes(labels.where(labels >= 0, self.num_classes))  # (B, D)


Cache = tuple[Tensor, Tensor]  # keys and values of the tokens so far, (B, heads, T, D/heads)


class CausalBlock(nn.Module):
    """A pre-norm transformer block in which a token sees itself and those before it."""

    def __init__(self, dim: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp, self.drop = Mlp(dim, 4 * dim), nn.Dropout(dropout)

    def forward(self, x: Tensor, cache: Cache | None = None) -> tuple[Tensor, Cache]:
        """Tokens (B, T, D), or the next one (B, 1, D) after those in the cache → the same shape, and the cache."""
        b, n, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if cache is not None:
            k, v = torch.cat([cache[0], k], 2), torch.cat([cache[1], v], 2)  # (B, heads, T, D/heads)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=n > 1)  # (B, heads, N, D/heads)
        x = x + self.drop(self.proj(y.transpose(1, 2).reshape(b, n, d)))
        return x + self.drop(self.mlp(self.norm2(x))), (k, v)  # (B, N, D)


def _load(prior: CodePrior) -> Tokenizer:
    from zoo import hub

    name = prior._tokenizer.name
    tokenizer = hub.load(name)
    if not isinstance(tokenizer, Tokenizer):
        raise ValueError(f"{name} has no codes; VQ-VAE and VQGAN have")
    size, shape = tokenizer.count_codes(), tokenizer.takes.shape
    if (size, shape) != (prior.codebook_size, prior.takes.shape):
        raise ValueError(
            f"{name} has {size} codes for images {shape}, this prior {prior.codebook_size} for {prior.takes.shape}"
        )
    return tokenizer
