"""Quantisers: continuous tokens in, codes and their indices out, one interface for all.

    out = quantizer(z, mask)                     # out.z_q like z, out.indices int64, out.losses, out.stats
    quantizer.decode(quantizer.encode(z))        # equals quantizer(z).z_q in eval mode, bit for bit

They compute in float32 at least, whatever the precision around them. Indices come from an argmin or a rounding, never
from codes looked up again. Masked tokens get index -1, count nowhere and come out as zero. A token that is NaN or
infinite gets index -1 and counts nowhere either, and stays what it is, so that the loss shows it; in eval mode it is an
error.

… any leading axes · N tokens, all leading axes together · D width of a token · K codes · L latents · V values of each
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F

from zoo.nn.checks import check_dense, check_floats, check_ints

CHUNK = 1 << 20  # scores looked at together, 4 MiB of float32: they stay in a processor's cache
COUNTED = 1 << 20  # codes above which a batch's use of them is not counted
WORDS = {
    "update": ("ema", "grad"),
    "metric": ("l2", "cosine"),
    "gradient": ("ste", "rotation"),
    "codebook": ("free", "simvq"),
    "init": ("uniform", "kmeans"),
}


class QuantizeOutput(NamedTuple):
    """What a quantiser makes of tokens (…, D)."""

    z_q: Tensor  # (…, D), the codes; gradients pass to the tokens
    indices: Tensor  # int64, (…) or (…, codebooks); -1 is no token
    losses: dict[str, Tensor]  # weighted already: add them all
    stats: dict[str, Tensor]  # of this batch, without gradients


class VQOutput(NamedTuple):
    """What a model around a quantiser makes of images (B, C, H, W)."""

    loss: Tensor  # what training minimises, a number
    recon: Tensor  # (B, C, H, W), pixels, not clamped to [0, 1]
    indices: Tensor  # int64, (B, h, w), or (B, L) of latents
    losses: dict[str, Tensor]  # the terms of the loss, weighted
    stats: dict[str, Tensor]  # the quantiser's, of this batch


class VectorQuantizer(nn.Module):
    """The nearest of K learned vectors (van den Oord et al. 2017, §3.1), with what keeps them all in use.

    Args:
        codebook_size: K.
        dim: D.
        update: how codes move. "ema", running means of the tokens nearest to them (A.1); "grad", by their loss.
        metric: "l2", or "cosine": tokens and codes have unit length (Yu et al. 2021, ViT-VQGAN).
        gradient: from codes to tokens. "ste" copies it; "rotation" turns and scales it as the token was turned and
            scaled into its code (Fifty et al. 2024).
        codebook: "free", or "simvq": K fixed Gaussian vectors times one learned matrix (Zhu et al. 2024).
        beta: weight of the commitment loss.
        legacy_beta: β weighs the codebook loss and 1 the commitment, as in every released taming VQGAN.
        decay: γ of the running means and counts.
        init: "uniform" in ±1/K, or "kmeans" of the first training batch (Zeghidour et al. 2021).
        restart: codes whose running count is below this share of the average begin again at tokens; 0 is off.

    Raises:
        ValueError: an unknown word, K or D below 1, or a SimVQ codebook with EMA, k-means or restarts.
    """

    num_codebooks = 1
    batch_state = ("_waiting", "_is_started")

    def __init__(
        self,
        codebook_size: int,
        dim: int,
        update: str = "ema",
        metric: str = "l2",
        gradient: str = "ste",
        codebook: str = "free",
        beta: float = 0.25,
        legacy_beta: bool = False,
        decay: float = 0.99,
        init: str = "uniform",
        restart: float = 0.0,
    ):
        super().__init__()
        chosen = {"update": update, "metric": metric, "gradient": gradient, "codebook": codebook, "init": init}
        for name, word in chosen.items():
            if word not in WORDS[name]:
                raise ValueError(f"{name}={word!r}, allowed {', '.join(WORDS[name])}")
        if min(codebook_size, dim) < 1:
            raise ValueError(f"codebook_size={codebook_size}, dim={dim}, each must be at least 1")
        if codebook == "simvq" and (update == "ema" or init == "kmeans" or restart):
            raise ValueError(
                "codebook='simvq' learns one matrix for all codes; it needs update='grad', no k-means and no restart"
            )
        self.codebook_size, self.code_dim = codebook_size, dim
        self.ema, self.cosine, self.rotation = update == "ema", metric == "cosine", gradient == "rotation"
        self.beta, self.legacy_beta, self.decay, self.restart = beta, legacy_beta, decay, restart
        self.proj = nn.Linear(dim, dim, bias=False) if codebook == "simvq" else None
        codes = (torch.rand(codebook_size, dim) * 2 - 1) / codebook_size  # (K, D)
        if self.proj is not None:
            codes = torch.randn(codebook_size, dim) * dim**-0.5
        if self.cosine:
            codes = F.normalize(codes, dim=-1)
        if self.ema or self.proj is not None:
            self.register_buffer("codebook", codes)
        else:
            self.codebook = nn.Parameter(codes)
        if self.ema:
            self.register_buffer("sums", codes.clone())  # m_k
        self.register_buffer("counts", torch.ones(codebook_size))  # N_k
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))  # updates so far: what draws are seeded with
        self.register_buffer("started", torch.tensor(init != "kmeans"))
        self._is_started: bool | None = None  # `started`, once it is true: the device is not asked again
        self._waiting: Tensor | None = None  # counts and sums that no update has used yet
        self._frozen = False

    def extra_repr(self) -> str:
        return f"{self.codebook_size} codes of {self.code_dim}"

    def forward(self, z: Tensor, mask: Tensor | None = None, update: bool | None = None) -> QuantizeOutput:
        """Tokens (…, D) → codes.

        Args:
            mask: (…) bool, True where there is a token.
            update: in training, False keeps this batch's counts for the next update: all but the last of accumulated
                batches say so. Eval mode and `freeze` never change a buffer.

        Raises:
            ValueError: another width; in eval mode NaN, infinity, or a codebook that k-means has not started.
        """
        with _exactly(z):
            x, keep = _tokens(z, mask, self.code_dim, self.training)  # (N, D), (N,)
            if self.cosine:
                x = F.normalize(x, dim=-1)
            learns = self.training and not self._frozen
            if learns and self.counts.dtype.itemsize < 4:
                raise ValueError(
                    f"the codebook is {self.counts.dtype}, too coarse for running means; train in float32, under "
                    "autocast (precision: bf16-mixed) where that is fast, or freeze() it"
                )
            if learns and not self._ready():
                self._start(x.detach(), keep)
            nearest = self._nearest(x)  # (N,)
            q = F.embedding(nearest, self.codes())  # (N, D)
            kept = torch.where(keep[:, None], x, q.detach())  # (N, D): what is left out has no error and no gradient
            losses = self._losses(kept, q, keep)
            counts = _histogram(nearest, keep, self.codebook_size)  # (K,)
            length = (kept * keep[:, None]).detach().norm().clamp(min=1e-12)
            distance = (kept - q).detach().norm() / length  # of tokens to their codes, over the tokens' length
            if learns:
                self._learn(counts, nearest, kept.detach(), keep, update is not False)
            if self.training:
                q = rotate(x, q.detach()) if self.rotation else straight_through(x, q.detach())
        return QuantizeOutput(*_shaped(q, nearest, keep, z, mask), losses, _use(counts) | {"distance": distance})

    def encode(self, z: Tensor) -> Tensor:
        """Tokens (…, D) → indices (…) int64."""
        with _exactly(z):
            x, _ = _tokens(z, None, self.code_dim, False)  # (N, D)
            return self._nearest(F.normalize(x, dim=-1) if self.cosine else x).reshape(z.shape[:-1])

    def decode(self, indices: Tensor) -> Tensor:
        """Indices (…) int64 → codes (…, D)."""
        return F.embedding(_checked(indices, self.codebook_size), self.codes())  # (…, D)

    def codes(self) -> Tensor:
        """What the indices stand for, (K, D)."""
        codes = _wide(self.codebook)
        if self.proj is not None:
            codes = F.linear(codes, self.proj.weight.to(codes.dtype))
        return F.normalize(codes, dim=-1) if self.cosine else codes

    def freeze(self, frozen: bool = True) -> None:
        """Stop the codebook from moving, in training too; or let it move again."""
        self._frozen = frozen
        for parameter in self.parameters():
            parameter.requires_grad_(not frozen)

    def _ready(self) -> bool:
        self._is_started = self._is_started or bool(self.started)
        return self._is_started

    @torch.no_grad()
    def _nearest(self, x: Tensor) -> Tensor:
        if not self._ready():
            raise ValueError("k-means has not started this codebook; train it first, or use init='uniform'")
        return nearest_code(x, self.codes(), self.cosine)

    def _losses(self, x: Tensor, q: Tensor, keep: Tensor) -> dict[str, Tensor]:
        """`‖sg(z) - e‖²` and `β ‖z - sg(e)‖²`, means over tokens and width (van den Oord et al. 2017, equation 3)."""
        size = keep.sum().clamp(min=1) * self.code_dim
        of_codebook, of_tokens = (self.beta, 1.0) if self.legacy_beta else (1.0, self.beta)
        losses = {"commitment": of_tokens * (x - q.detach()).square().sum() / size}
        if not self.ema:
            losses["codebook"] = of_codebook * (x.detach() - q).square().sum() / size
        return losses

    @torch.no_grad()
    def _learn(self, counts: Tensor, nearest: Tensor, x: Tensor, keep: Tensor, now: bool) -> None:
        """One all-reduce of counts and sums, then the same running means and restarts on every process."""
        k, d = self.codebook.shape
        found = counts[:, None].to(x.dtype)  # (K, 1)
        if self.ema:
            sums = x.new_zeros(k, d).index_add_(0, nearest, x * keep[:, None])  # (K, D)
            found = torch.cat([found, sums], 1)  # (K, 1 + D)
        self._waiting = found if self._waiting is None else self._waiting + found
        if not now:
            return
        found, self._waiting = self._waiting, None
        if self.restart:
            found = torch.cat([found, self._draw(x, keep)], 1)  # (K, 1 + D + D)
        found = _all_reduce(found)
        some = found[:, 0].sum() > 0  # without a single token nothing moves
        self.counts.lerp_(found[:, 0], (1 - self.decay) * some)
        if self.ema:
            self.sums.lerp_(found[:, 1 : d + 1], (1 - self.decay) * some)
            total, eps = self.counts.sum(), 1e-5
            codes = self.sums / ((self.counts + eps) / (total + k * eps) * total)[:, None]  # (K, D)
            self.codebook.copy_(torch.where(some, F.normalize(codes, dim=-1) if self.cosine else codes, self.codebook))
        if self.restart:
            mean = self.counts.mean()
            dead = some & (self.counts < self.restart * mean)  # (K,)
            self._put(dead, found[:, -d:], mean.expand(k))
        self.steps += 1

    def _put(self, where: Tensor, tokens: Tensor, counts: Tensor) -> None:
        """Codes, their sums and their counts begin again, together, at tokens."""
        self.codebook.data.copy_(torch.where(where[:, None], tokens, self.codebook))
        self.counts.copy_(torch.where(where, counts, self.counts))
        if self.ema:
            self.sums.copy_(torch.where(where[:, None], tokens * counts[:, None], self.sums))

    def _draw(self, x: Tensor, keep: Tensor, seed: int = 0) -> Tensor:
        """K tokens drawn from the batches of all processes joined, (K, D): this process's part of them, zero elsewhere.

        Token k comes from the k-th of K equal parts, so that no token is drawn twice where there are K. Shapes are
        fixed and nothing is read back from the device.
        """
        k = self.codebook_size
        held = keep.cumsum(0)  # (N,), tokens so far
        count = held[-1:] if len(held) else held.new_zeros(1)  # (1,)
        counts = _all_gather(count)  # (processes,)
        before = counts[: _rank()].sum()
        u = torch.rand(2, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(x.device)
        u = (u[0] + u[1] * math.pi * (self.steps + 1)) % 1  # (K,), other places in every update
        place = ((torch.arange(k, device=x.device) + u) * counts.sum() / k).long() - before  # (K,), within this process
        if not len(x):
            return x.new_zeros(k, self.code_dim)
        row = torch.searchsorted(held, place.clamp(min=0) + 1).clamp(max=len(x) - 1)  # (K,), of the place-th token kept
        return torch.where(((place >= 0) & (place < count))[:, None], x[row], 0)  # (K, D)

    @torch.no_grad()
    def _start(self, x: Tensor, keep: Tensor, rounds: int = 10) -> None:
        """k-means of the joined first batch (Lloyd 1982); an empty cell is drawn again."""
        k, x = self.codebook_size, torch.where(keep[:, None], x, 0)  # (N, D)
        centres = _all_reduce(self._draw(x, keep))  # (K, D)
        total, distinct = int(_all_reduce(keep.sum())), len(centres.unique(dim=0))
        if total < k or distinct < k:
            raise ValueError(
                f"k-means needs {k} different tokens for its {k} codes; the first batch holds {total}, and of {k} "
                f"drawn {distinct} differ; use a larger batch, fewer codes, or init='uniform' with restart=0.01"
            )
        for i in range(rounds):
            found = x.new_zeros(k, 1 + self.code_dim)
            found.index_add_(0, nearest_code(x, centres, self.cosine), torch.cat([keep[:, None].to(x.dtype), x], 1))
            found, again = _all_reduce(found), _all_reduce(self._draw(x, keep, seed=i + 1))  # (K, 1 + D), (K, D)
            counts = found[:, :1]  # (K, 1)
            centres = torch.where(counts > 0, found[:, 1:] / counts.clamp(min=1), again)
            centres = F.normalize(centres, dim=-1) if self.cosine else centres
        self._put(torch.ones_like(self.counts, dtype=torch.bool), centres, counts[:, 0].clamp(min=1))
        self.started.fill_(True)


class FSQ(nn.Module):
    """Every entry of a token rounded to one of a few levels; nothing to learn or to collapse (Mentzer et al. 2023, §3).

    The authors recommend [8, 6, 5] for 2⁸ codes, [8, 5, 5, 5] for 2¹⁰, [7, 5, 5, 5, 5] for 2¹², [8, 8, 8, 5, 5, 5] for
    2¹⁶.

    Args:
        levels: how many levels each entry has, at least 2; a token has as many entries.
    """

    num_codebooks = 1

    def __init__(self, levels: list[int] | tuple[int, ...]):
        super().__init__()
        if not levels or min(levels) < 2:
            raise ValueError(f"levels={list(levels)}, each must be at least 2; [8, 5, 5, 5] is the authors' for 2^10")
        self.codebook_size, self.code_dim = math.prod(levels), len(levels)
        self.register_buffer("levels", torch.tensor(levels))  # (D,)
        self.register_buffer("basis", torch.tensor([math.prod(levels[:i]) for i in range(len(levels))]))  # (D,)

    def forward(self, z: Tensor, mask: Tensor | None = None, update: bool | None = None) -> QuantizeOutput:
        """Tokens (…, D) → codes in [-1, 1]; `update` changes nothing."""
        with _exactly(z):
            x, keep = _tokens(z, mask, self.code_dim, self.training)  # (N, D), (N,)
            x = self._bound(x)  # (N, D)
            indices = self._indices(x)  # (N,)
            q = self._codes(torch.where(keep, indices, 0))  # (N, D)
            if self.training:
                q = straight_through(x / (self.levels // 2), q)
            stats = _use(_histogram(indices, keep, self.codebook_size)) if self.codebook_size <= COUNTED else {}
        return QuantizeOutput(*_shaped(q, indices, keep, z, mask), {}, stats)

    def encode(self, z: Tensor) -> Tensor:
        """Tokens (…, D) → indices (…) int64."""
        with _exactly(z):
            x, _ = _tokens(z, None, self.code_dim, False)  # (N, D)
            return self._indices(self._bound(x)).reshape(z.shape[:-1])

    def decode(self, indices: Tensor) -> Tensor:
        """Indices (…) int64 → codes (…, D)."""
        return self._codes(_checked(indices, self.codebook_size))  # (…, D)

    def _codes(self, indices: Tensor) -> Tensor:
        digits, half = indices[..., None] // self.basis % self.levels, self.levels // 2  # (…, D), (D,)
        return (digits - half).float() / half  # (…, D)

    def _bound(self, x: Tensor) -> Tensor:
        """Squeezed, so that rounding gives as many values as there are levels (the paper's appendix A.1)."""
        half = (self.levels - 1) * (1 + 1e-3) / 2
        offset = (self.levels + 1) % 2 / 2  # an even count has no level at zero
        return (x + (offset / half).atanh()).tanh() * half - offset

    def _indices(self, x: Tensor) -> Tensor:
        digits = x.detach().nan_to_num().round().long() + self.levels // 2  # (N, D)
        return (digits * self.basis).sum(-1)  # (N,)


class BinaryQuantizer(nn.Module):
    """The sign of every entry: LFQ (Yu et al. 2023, MAGVIT-v2), or on a sphere, BSQ (Zhao et al. 2024).

    The loss makes each token sure of its code and all codes used, `entropy_weight · (E[H(p)] - diversity · H(E[p]))`
    with p the softmax over codes by distance. Bits are independent given a token, so the first term is a sum over bits.
    The second is exact within groups of bits and a sum over groups (BSQ, §3.3).

    Args:
        dim: D bits, 2ᴰ codes.
        spherical: tokens have unit length and entries are ±1/√D; else ±1.
        beta: weight of the commitment loss.
        entropy_weight, diversity: of the loss; a weight of 0 costs nothing.
        temperature: of the softmax.
        group: bits that H(E[p]) takes together.
    """

    num_codebooks = 1

    def __init__(
        self,
        dim: int,
        spherical: bool = False,
        beta: float = 0.25,
        entropy_weight: float = 0.1,
        diversity: float = 1.0,
        temperature: float = 0.01,
        group: int = 8,
    ):
        super().__init__()
        if not 1 <= dim <= 62 or not 1 <= group <= 16:
            raise ValueError(f"dim={dim}, allowed 1 to 62, an index is an int64; group={group}, allowed 1 to 16")
        self.codebook_size, self.code_dim = 2**dim, dim
        self.spherical, self.beta, self.group = spherical, beta, min(group, dim)
        self.entropy_weight, self.diversity, self.temperature = entropy_weight, diversity, temperature
        self.scale = dim**-0.5 if spherical else 1.0
        self.register_buffer("basis", 2 ** torch.arange(dim))  # (D,)

    def forward(self, z: Tensor, mask: Tensor | None = None, update: bool | None = None) -> QuantizeOutput:
        """Tokens (…, D) → codes; `update` changes nothing."""
        with _exactly(z):
            x, keep = _tokens(z, mask, self.code_dim, self.training)  # (N, D), (N,)
            x = F.normalize(x, dim=-1) if self.spherical else x
            indices = self._indices(x)  # (N,)
            q = self._codes(indices)  # (N, D)
            kept = torch.where(keep[:, None], x, q)  # (N, D)
            losses = {"commitment": self.beta * (kept - q).square().sum() / (keep.sum().clamp(min=1) * self.code_dim)}
            if self.entropy_weight:
                losses["entropy"] = self.entropy_weight * self._entropy(kept, keep)
            if self.training:
                q = straight_through(x, q)
            stats = _use(_histogram(indices, keep, self.codebook_size)) if self.codebook_size <= COUNTED else {}
        return QuantizeOutput(*_shaped(q, indices, keep, z, mask), losses, stats)

    def encode(self, z: Tensor) -> Tensor:
        """Tokens (…, D) → indices (…) int64; the first entry is the lowest bit."""
        x, _ = _tokens(z, None, self.code_dim, False)  # (N, D)
        return self._indices(x).reshape(z.shape[:-1])

    def decode(self, indices: Tensor) -> Tensor:
        """Indices (…) int64 → codes (…, D)."""
        return self._codes(_checked(indices, self.codebook_size))  # (…, D)

    def _codes(self, indices: Tensor) -> Tensor:
        bits = indices[..., None] // self.basis % 2  # (…, D)
        return (bits * 2 - 1) * self.scale  # (…, D)

    def _indices(self, x: Tensor) -> Tensor:
        return ((x.detach() > 0) * self.basis).sum(-1)  # (N,)

    def _entropy(self, x: Tensor, keep: Tensor) -> Tensor:
        weight = keep.to(x.dtype) / keep.sum().clamp(min=1)  # (N,)
        log_odds = 4 * self.scale * x / self.temperature  # (N, D), of a bit being set
        each = _binary_entropy(log_odds).sum(-1) @ weight
        together = x.new_zeros(())
        for part in log_odds.split(self.group, dim=1):
            codes = torch.arange(2 ** part.shape[1], device=x.device)  # (G,)
            bits = codes[:, None] // self.basis[: part.shape[1]] % 2  # (G, g)
            p = weight @ (part @ bits.T.to(x.dtype) - F.softplus(part).sum(-1, keepdim=True)).exp()  # (G,)
            together = together - (p * p.clamp(min=1e-30).log()).sum()
        return each - self.diversity * together


class ScalarCodebooks(nn.Module):
    """QLAE's latent quantiser: each latent takes the nearest of its own few learned values (Hsu et al. 2023, §3.1).

    Args:
        latents: L.
        values: V, values of each latent; they begin evenly spaced in [-½, ½].
        shared: one set of values for all latents (the paper's ablation).
        learned: False leaves the values where they begin.
        quantization, commitment: weights of `mean (sg(z) - q)²`, which moves values, and `mean (z - sg(q))²`, which
            moves the encoder.
    """

    def __init__(
        self,
        latents: int,
        values: int = 10,
        shared: bool = False,
        learned: bool = True,
        quantization: float = 0.01,
        commitment: float = 0.01,
    ):
        super().__init__()
        if min(latents, values) < 1:
            raise ValueError(f"latents={latents}, values={values}, each must be at least 1")
        self.num_codebooks, self.codebook_size, self.code_dim = latents, values, latents
        self.weights = {"quantization": quantization, "commitment": commitment}
        start = torch.linspace(-0.5, 0.5, values).expand(1 if shared else latents, values).clone()  # (L or 1, V)
        self.values = nn.Parameter(start, requires_grad=learned)

    def forward(self, z: Tensor, mask: Tensor | None = None, update: bool | None = None) -> QuantizeOutput:
        """Latents (…, L) → their values; indices are (…, L), one for each latent. `update` changes nothing."""
        with _exactly(z):
            x, keep = _tokens(z, mask, self.code_dim, self.training)  # (N, L), (N,)
            indices = self._indices(x)  # (N, L)
            q = _look_up(self._all_values(), indices)  # (N, L)
            kept = torch.where(keep[:, None], x, q.detach())  # (N, L)
            size = keep.sum().clamp(min=1) * self.code_dim
            losses = {"commitment": self.weights["commitment"] * (kept - q.detach()).square().sum() / size}
            if self.values.requires_grad:
                losses["quantization"] = self.weights["quantization"] * (kept.detach() - q).square().sum() / size
            if self.training:
                q = straight_through(x, q.detach())
            stats = _use(self._histograms(indices, keep))
        return QuantizeOutput(*_shaped(q, indices, keep, z, mask), losses, stats)

    def encode(self, z: Tensor) -> Tensor:
        """Latents (…, L) → indices (…, L) int64."""
        x, _ = _tokens(z, None, self.code_dim, False)  # (N, L)
        return self._indices(x).reshape(z.shape)

    def decode(self, indices: Tensor) -> Tensor:
        """Indices (…, L) int64 → values (…, L)."""
        return _look_up(self._all_values(), _checked(indices, self.codebook_size, self.num_codebooks))

    def _all_values(self) -> Tensor:
        return _wide(self.values).expand(self.num_codebooks, -1)  # (L, V)

    @torch.no_grad()
    def _indices(self, x: Tensor) -> Tensor:
        """The nearest value lies between two midpoints of the sorted values: V - 1 comparisons, no distances."""
        values, order = self._all_values().sort(-1)  # (L, V) twice
        middle = (values[:, 1:] + values[:, :-1]) / 2  # (L, V - 1)
        x = x.T.contiguous()  # (L, N)
        place = torch.zeros_like(x, dtype=torch.uint8 if self.codebook_size <= 256 else torch.int32)  # (L, N)
        for m in middle[..., None].unbind(1):
            place += (x > m).view(torch.uint8)
        return _look_up(order, place.T)  # (N, L)

    def _histograms(self, indices: Tensor, keep: Tensor) -> Tensor:
        start = torch.arange(self.num_codebooks, device=indices.device) * self.codebook_size  # (L,)
        counts = _histogram(
            (indices + start).flatten(),
            keep[:, None].expand_as(indices).flatten(),
            self.num_codebooks * self.codebook_size,
        )
        return counts.reshape(self.num_codebooks, -1)  # (L, V)


class Residual(nn.Module):
    """Each stage quantises what the stages before it left over; codes add up (Zeghidour et al. 2021, §III.C).

    One quantiser may be given several times: its running means then see all stages before they move.
    """

    def __init__(self, *stages: nn.Module):
        super().__init__()
        if not stages or any(s.num_codebooks != 1 or s.code_dim != stages[0].code_dim for s in stages):
            raise ValueError("stages are one or more quantisers of one index and the same width")
        self.stages = nn.ModuleList(stages)
        self.num_codebooks, self.code_dim, self.codebook_size = len(stages), stages[0].code_dim, stages[0].codebook_size

    def forward(self, z: Tensor, mask: Tensor | None = None, update: bool | None = None) -> QuantizeOutput:
        """Tokens (…, D) → sums of codes; indices are (…, stages)."""
        outs, rest = [], z
        for i, stage in enumerate(self.stages):
            later = any(stage is s for s in self.stages[i + 1 :])
            outs.append(stage(rest, mask, False if later else update))
            rest = rest - outs[-1].z_q.detach()
        q = _sum([o.z_q for o in outs])
        if self.training:
            q = straight_through(z if mask is None else z * mask[..., None], q.detach())
        return QuantizeOutput(q, torch.stack([o.indices for o in outs], -1), *_merged(outs))

    def encode(self, z: Tensor) -> Tensor:
        """Tokens (…, D) → indices (…, stages) int64."""
        found = []
        for stage in self.stages:
            found.append(stage.encode(z))
            z = z - stage.decode(found[-1])
        return torch.stack(found, -1)

    def decode(self, indices: Tensor) -> Tensor:
        """Indices (…, stages) int64 → codes (…, D)."""
        _checked(indices, max(s.codebook_size for s in self.stages), len(self.stages))
        return _sum([stage.decode(i) for stage, i in zip(self.stages, indices.unbind(-1))])


class Product(nn.Module):
    """Slices of a token, each with a quantiser of its own (Jégou et al. 2011)."""

    def __init__(self, *parts: nn.Module):
        super().__init__()
        if not parts or any(p.num_codebooks != 1 for p in parts):
            raise ValueError("parts are one or more quantisers of one index each")
        self.parts = nn.ModuleList(parts)
        self.widths = [p.code_dim for p in parts]
        self.num_codebooks, self.code_dim, self.codebook_size = len(parts), sum(self.widths), parts[0].codebook_size

    def forward(self, z: Tensor, mask: Tensor | None = None, update: bool | None = None) -> QuantizeOutput:
        """Tokens (…, D) → codes side by side; indices are (…, parts)."""
        with _exactly(z):
            outs = [part(x, mask, update) for part, x in zip(self.parts, self._slices(z))]
            q = torch.cat([o.z_q for o in outs], -1)  # (…, D)
        return QuantizeOutput(q, torch.stack([o.indices for o in outs], -1), *_merged(outs))

    def encode(self, z: Tensor) -> Tensor:
        """Tokens (…, D) → indices (…, parts) int64."""
        return torch.stack([part.encode(x) for part, x in zip(self.parts, self._slices(z))], -1)

    def decode(self, indices: Tensor) -> Tensor:
        """Indices (…, parts) int64 → codes (…, D)."""
        _checked(indices, max(p.codebook_size for p in self.parts), len(self.parts))
        return torch.cat([part.decode(i) for part, i in zip(self.parts, indices.unbind(-1))], -1)

    def _slices(self, z: Tensor) -> tuple[Tensor, ...]:
        check_floats(z, "tokens", ("…", self.code_dim), f"the parts take {' + '.join(map(str, self.widths))}")
        return z.split(self.widths, -1)


@torch.no_grad()
def nearest_code(x: Tensor, codes: Tensor, cosine: bool = False) -> Tensor:
    """`argmin_k ‖x - e_k‖² = argmin_k (½‖e_k‖² - x·e_k)`: tokens (N, D), codes (K, D) → (N,) int64.

    Chunk by chunk, so that the N × K scores are never all there. With unit lengths, `cosine`, the first term is the
    same for all.
    """
    half = codes.new_zeros(len(codes)) if cosine else codes.square().sum(1) / 2  # (K,)
    rows = max(1, CHUNK // len(codes))
    return torch.cat([torch.addmm(half, part, codes.T, alpha=-1).argmin(1) for part in x.split(rows)])  # (N,)


def straight_through(x: Tensor, q: Tensor) -> Tensor:
    """q, with the gradient of x (Bengio et al. 2013)."""
    return x + (q - x).detach()


def rotate(x: Tensor, q: Tensor) -> Tensor:
    """q, as x turned and scaled into it, both held constant for the gradient (Fifty et al. 2024, §4); (N, D) each.

    `(‖q‖/‖x‖) (I - 2 r rᵀ + 2 q̂ x̂ᵀ) x` with r the unit vector between x̂ and q̂; no matrix is formed.
    """
    xh, qh = F.normalize(x.detach(), dim=-1), F.normalize(q, dim=-1)  # (N, D) each
    r = F.normalize(xh + qh, dim=-1)  # (N, D); zero where q points away from x: then x̂ alone is turned
    turned = x - 2 * (x * r).sum(-1, keepdim=True) * r + 2 * (x * xh).sum(-1, keepdim=True) * qh  # (N, D)
    return turned * (q.norm(dim=-1, keepdim=True) / x.detach().norm(dim=-1, keepdim=True).clamp(min=1e-6))


def _exactly(z: Tensor) -> torch.autocast:
    """No lower precision where z is."""
    check_dense(z, "tokens")
    return torch.autocast(z.device.type, enabled=False)


def _tokens(z: Tensor, mask: Tensor | None, dim: int, training: bool) -> tuple[Tensor, Tensor]:
    """Tokens, in float32 at least, (N, D), and which of them count, (N,) bool."""
    check_floats(z, "tokens", ("…", dim), "the width is the last axis")
    if mask is not None and (not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != z.shape[:-1]):
        given = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(f"mask is {given}, expected bool {tuple(z.shape[:-1])}, one entry for a token")
    x = _wide(z.reshape(-1, dim))  # (N, D)
    keep = (x * 0).sum(-1) == 0  # (N,), finite: cheaper than asking every entry
    if mask is not None:
        keep = keep & mask.reshape(-1)
    if not training and not torch.compiler.is_compiling():
        wanted = keep.new_ones(()) if mask is None else mask.reshape(-1)
        if not (keep == wanted).all():
            raise ValueError("tokens hold NaN or infinity; look for the first one in the encoder or its input")
    return x, keep


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype.itemsize < 4 else x


def _shaped(q: Tensor, indices: Tensor, keep: Tensor, z: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Codes as z was, zero where masked, and indices, -1 where a token does not count."""
    left = keep if indices.ndim == 1 else keep[:, None]
    q = q.reshape(z.shape).to(z.dtype)  # (…, D)
    if mask is not None:
        q = torch.where(mask[..., None], q, 0)
    indices = torch.where(left, indices, -1)
    return q, indices.reshape(*z.shape[:-1], *indices.shape[1:])  # (…, D), (…) or (…, codebooks)


def _look_up(table: Tensor, indices: Tensor) -> Tensor:
    """Entry indices[…, l] of row l: table (L, V), indices (…, L) → (…, L)."""
    start = torch.arange(len(table), device=indices.device) * table.shape[1]  # (L,)
    return table.reshape(-1).index_select(0, (indices + start).reshape(-1)).reshape(indices.shape)


def _checked(indices: Tensor, size: int, *width: int) -> Tensor:
    hint = "encode gives them, -1 marks a masked token"
    return check_ints(indices, "indices", ("…", *width), 0, size, hint, wait=True)


def _histogram(indices: Tensor, keep: Tensor, size: int) -> Tensor:
    return keep.new_zeros(size, dtype=torch.float32).index_add_(0, indices, keep.float())  # (K,)


def _use(counts: Tensor) -> dict[str, Tensor]:
    """Share of codes in use, and exp of the entropy of their use; means over codebooks, (…, K)."""
    p = counts / counts.sum(-1, keepdim=True).clamp(min=1)  # (…, K)
    perplexity = (-torch.xlogy(p, p).sum(-1)).exp().mean()
    return {"usage": (counts > 0).float().mean(), "perplexity": perplexity}


def _merged(outs: list[QuantizeOutput]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Sums of the losses and means of the figures of several quantisers."""
    losses = {k: _sum([o.losses[k] for o in outs if k in o.losses]) for o in outs for k in o.losses}
    stats = {k: torch.stack([o.stats[k] for o in outs if k in o.stats]).mean() for o in outs for k in o.stats}
    return losses, stats


def _sum(parts: list[Tensor]) -> Tensor:
    return sum(parts[1:], parts[0])


def _binary_entropy(log_odds: Tensor) -> Tensor:
    p = log_odds.sigmoid()
    return F.softplus(log_odds) - p * log_odds


def _joined() -> bool:
    """Asked at every step: Lightning builds models before it joins processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _rank() -> int:
    return dist.get_rank() if _joined() else 0


def _all_reduce(x: Tensor) -> Tensor:
    if _joined():
        x = x.contiguous()
        dist.all_reduce(x)
    return x


def _all_gather(x: Tensor) -> Tensor:
    if not _joined():
        return x
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x)
    return torch.cat(parts)
