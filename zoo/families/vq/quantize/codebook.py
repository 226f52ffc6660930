"""The nearest of K learned vectors (van den Oord et al. 2017), with what keeps them all in use.

… any leading axes · N tokens, all leading axes together · D width of a token · K codes
"""

import math

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F

from zoo.families.vq.quantize.common import (
    QuantizeOutput,
    Quantizer,
    at_least_float32,
    check_indices,
    flat_tokens,
    full_precision,
    histogram,
    shaped_as,
    straight_through,
    usage,
)

CHUNK = 1 << 20  # scores looked at together, 4 MiB of float32: they stay in a processor's cache
CHOICES = {
    "update": ("ema", "grad"),
    "metric": ("l2", "cosine"),
    "gradient": ("ste", "rotation"),
    "codebook": ("free", "simvq"),
    "init": ("uniform", "kmeans"),
}


class VectorQuantizer(Quantizer):
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

    batch_state = ("_waiting", "_is_started")
    codebook: Tensor
    sums: Tensor
    counts: Tensor
    steps: Tensor
    started: Tensor

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
        choices = {"update": update, "metric": metric, "gradient": gradient, "codebook": codebook, "init": init}
        for name, choice in choices.items():
            if choice not in CHOICES[name]:
                raise ValueError(f"{name}={choice!r}, allowed {', '.join(CHOICES[name])}")
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
        self._is_started = False  # `started`, once it is true: the device is not asked again
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
        with full_precision(z):
            x, counted = flat_tokens(z, mask, self.code_dim, self.training)  # (N, D), (N,)
            if self.cosine:
                x = F.normalize(x, dim=-1)
            learns = self.training and not self._frozen
            if learns and self.counts.dtype.itemsize < 4:
                raise ValueError(
                    f"the codebook is {self.counts.dtype}, too coarse for running means; train in float32, under "
                    "autocast (precision: bf16-mixed) where that is fast, or freeze() it"
                )
            if learns and not self._ready():
                self._start(x.detach(), counted)
            nearest = self._nearest(x)  # (N,)
            q = F.embedding(nearest, self.codes())  # (N, D)
            compared = torch.where(counted[:, None], x, q.detach())  # (N, D): what does not count has no error
            losses = self._losses(compared, q, counted)
            counts = histogram(nearest, counted, self.codebook_size)  # (K,)
            length = (compared * counted[:, None]).detach().norm().clamp(min=1e-12)
            distance = (compared - q).detach().norm() / length  # of tokens to their codes, over the tokens' length
            if learns:
                self._learn(counts, nearest, compared.detach(), counted, update is not False)
            if self.training:
                q = rotate(x, q.detach()) if self.rotation else straight_through(x, q.detach())
        return QuantizeOutput(*shaped_as(z, mask, q, nearest, counted), losses, usage(counts) | {"distance": distance})

    def encode(self, z: Tensor) -> Tensor:
        """Tokens (…, D) → indices (…) int64."""
        with full_precision(z):
            x, _ = flat_tokens(z, None, self.code_dim, False)  # (N, D)
            return self._nearest(F.normalize(x, dim=-1) if self.cosine else x).reshape(z.shape[:-1])

    def decode(self, indices: Tensor) -> Tensor:
        """Indices (…) int64 → codes (…, D)."""
        return F.embedding(check_indices(indices, self.codebook_size), self.codes())  # (…, D)

    def codes(self) -> Tensor:
        """What the indices stand for, (K, D)."""
        codes = at_least_float32(self.codebook)
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

    def _losses(self, x: Tensor, q: Tensor, counted: Tensor) -> dict[str, Tensor]:
        """`‖sg(z) - e‖²` and `β ‖z - sg(e)‖²`, means over tokens and width (van den Oord et al. 2017, equation 3)."""
        size = counted.sum().clamp(min=1) * self.code_dim
        of_codebook, of_tokens = (self.beta, 1.0) if self.legacy_beta else (1.0, self.beta)
        losses = {"commitment": of_tokens * (x - q.detach()).square().sum() / size}
        if not self.ema:
            losses["codebook"] = of_codebook * (x.detach() - q).square().sum() / size
        return losses

    @torch.no_grad()
    def _learn(self, counts: Tensor, nearest: Tensor, x: Tensor, counted: Tensor, now: bool) -> None:
        """One all-reduce of counts and sums, then the same running means and restarts on every process."""
        k, d = self.codebook.shape
        totals = counts[:, None].to(x.dtype)  # (K, 1)
        if self.ema:
            sums = x.new_zeros(k, d).index_add_(0, nearest, x * counted[:, None])  # (K, D)
            totals = torch.cat([totals, sums], 1)  # (K, 1 + D)
        if self._waiting is not None:
            totals = self._waiting + totals
        self._waiting = None if now else totals
        if not now:
            return
        if self.restart:
            totals = torch.cat([totals, self._draw(x, counted)], 1)  # (K, 1 + D + D)
        totals = _all_reduce(totals)
        any_token = totals[:, 0].sum() > 0  # without a single token nothing moves
        self.counts.lerp_(totals[:, 0], (1 - self.decay) * any_token)
        if self.ema:
            self.sums.lerp_(totals[:, 1 : d + 1], (1 - self.decay) * any_token)
            total, eps = self.counts.sum(), 1e-5
            codes = self.sums / ((self.counts + eps) / (total + k * eps) * total)[:, None]  # (K, D)
            codes = F.normalize(codes, dim=-1) if self.cosine else codes
            self.codebook.copy_(torch.where(any_token, codes, self.codebook))
        if self.restart:
            mean = self.counts.mean()
            dead = any_token & (self.counts < self.restart * mean)  # (K,)
            self._begin_again(dead, totals[:, -d:], mean.expand(k))
        self.steps += 1

    def _begin_again(self, where: Tensor, tokens: Tensor, counts: Tensor) -> None:
        """Codes, their sums and their counts begin again, together, at tokens."""
        self.codebook.data.copy_(torch.where(where[:, None], tokens, self.codebook))
        self.counts.copy_(torch.where(where, counts, self.counts))
        if self.ema:
            self.sums.copy_(torch.where(where[:, None], tokens * counts[:, None], self.sums))

    def _draw(self, x: Tensor, counted: Tensor, seed: int = 0) -> Tensor:
        """K tokens drawn from the batches of all processes joined, (K, D): this process's part of them, zero elsewhere.

        Token k comes from the k-th of K equal parts, so that no token is drawn twice where there are K. Shapes are
        fixed and nothing is read back from the device.
        """
        k = self.codebook_size
        so_far = counted.cumsum(0)  # (N,), tokens that count, up to each
        count = so_far[-1:] if len(so_far) else so_far.new_zeros(1)  # (1,)
        counts = _all_gather(count)  # (processes,)
        before = counts[: _rank()].sum()
        u = torch.rand(2, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(x.device)
        u = (u[0] + u[1] * math.pi * (self.steps + 1)) % 1  # (K,), other places in every update
        place = ((torch.arange(k, device=x.device) + u) * counts.sum() / k).long() - before  # (K,), within this process
        if not len(x):
            return x.new_zeros(k, self.code_dim)
        row = torch.searchsorted(so_far, place.clamp(min=0) + 1).clamp(max=len(x) - 1)  # (K,), of the place-th to count
        return torch.where(((place >= 0) & (place < count))[:, None], x[row], 0)  # (K, D)

    @torch.no_grad()
    def _start(self, x: Tensor, counted: Tensor, rounds: int = 10) -> None:
        """k-means of the joined first batch (Lloyd 1982); an empty cell is drawn again."""
        k, x = self.codebook_size, torch.where(counted[:, None], x, 0)  # (N, D)
        centres = _all_reduce(self._draw(x, counted))  # (K, D)
        total, distinct = int(_all_reduce(counted.sum())), len(centres.unique(dim=0))
        if total < k or distinct < k:
            raise ValueError(
                f"k-means needs {k} different tokens for its {k} codes; the first batch holds {total}, and of {k} "
                f"drawn {distinct} differ; use a larger batch, fewer codes, or init='uniform' with restart=0.01"
            )
        for i in range(rounds):
            totals = x.new_zeros(k, 1 + self.code_dim)
            totals.index_add_(0, nearest_code(x, centres, self.cosine), torch.cat([counted[:, None].to(x.dtype), x], 1))
            totals, again = _all_reduce(totals), _all_reduce(self._draw(x, counted, seed=i + 1))  # (K, 1 + D), (K, D)
            counts = totals[:, :1]  # (K, 1)
            centres = torch.where(counts > 0, totals[:, 1:] / counts.clamp(min=1), again)
            centres = F.normalize(centres, dim=-1) if self.cosine else centres
        self._begin_again(torch.ones_like(self.counts, dtype=torch.bool), centres, counts[:, 0].clamp(min=1))
        self.started.fill_(True)


@torch.no_grad()
def nearest_code(x: Tensor, codes: Tensor, cosine: bool = False) -> Tensor:
    """`argmin_k ‖x - e_k‖² = argmin_k (½‖e_k‖² - x·e_k)`: tokens (N, D), codes (K, D) → (N,) int64.

    Chunk by chunk, so that the N × K scores are never all there. With unit lengths, `cosine`, the first term is the
    same for all.
    """
    half = codes.new_zeros(len(codes)) if cosine else codes.square().sum(1) / 2  # (K,)
    rows = max(1, CHUNK // len(codes))
    return torch.cat([torch.addmm(half, part, codes.T, alpha=-1).argmin(1) for part in x.split(rows)])  # (N,)


def rotate(x: Tensor, q: Tensor) -> Tensor:
    """q, as x turned and scaled into it, both held constant for the gradient (Fifty et al. 2024, §4); (N, D) each.

    `(‖q‖/‖x‖) (I - 2 r rᵀ + 2 q̂ x̂ᵀ) x` with r the unit vector between x̂ and q̂; no matrix is formed.
    """
    xh, qh = F.normalize(x.detach(), dim=-1), F.normalize(q, dim=-1)  # (N, D) each
    r = F.normalize(xh + qh, dim=-1)  # (N, D); zero where q points away from x: then x̂ alone is turned
    turned = x - 2 * (x * r).sum(-1, keepdim=True) * r + 2 * (x * xh).sum(-1, keepdim=True) * qh  # (N, D)
    return turned * (q.norm(dim=-1, keepdim=True) / x.detach().norm(dim=-1, keepdim=True).clamp(min=1e-6))


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
