"""DiT^DH (Zheng et al. 2025, §5; after DDT, Wang et al. 2025): a diffusion transformer with a wide head, and its flow.

B latents of a batch · C channels of a token · h w the grid of tokens · N = h·w · D width · t in [0, 1], 1 is noise
"""

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.nn.checkpointing import recompute
from zoo.nn.checks import check_floats, check_ints, check_least, check_types
from zoo.nn.embed import sincos
from zoo.nn.frozen import Freezable, Frozen
from zoo.nn.protocols import HasLatents, Input, Kind, Network
from zoo.nn.vit import attend

SOLVERS = ("euler", "heun")
TIMES = ("logit_normal", "uniform")
LATEST = 0.999  # training sees no pure noise


@runtime_checkable
class Autoencoder(Freezable, HasLatents, Protocol):
    """What a diffusion model paints in the latents of."""

    takes: Input


class FlowOutput(NamedTuple):
    """What a training pass gives."""

    loss: Tensor  # (), mean (v̂ - v)²
    velocity: Tensor  # (B, C, h, w), v̂
    time: Tensor  # (B,)


class DiTDH(Network):
    """Predicts the velocity `v = ε - z` of `z_t = (1 - t) z + t ε`, z the normalised latents of a frozen autoencoder.

    A deep narrow transformer looks at all of z_t and says, token by token, how a shallow wide one should take it apart:
    a network narrower than its tokens cannot fit even one image (theorem 1), and only the head has to be wide. Tensors
    are named as released.

    Args:
        latent_channels: C.
        grid: side of the grid of tokens, h = w.
        num_classes: labels; one more stands for any class.
        dim, depth, heads: of the deep part and of the head, two each; equal widths are a plain DiT.
        mlp_ratio: of SwiGLU, whose hidden width is `⌊2/3 mlp_ratio D⌋`.
        qk_norm: RMS norms on queries and keys (Dehghani et al. 2023); the released weights have none.
        label_drop: share of the labels that training hides, so that guidance has something to guide away from.
        time: of training, before the shift: "logit_normal" or "uniform".
        shift: α of `t' = α t / (1 + (α - 1) t)`, of training and of sampling: more values a latent need more noise
            (§4.2). None is `√(C h w / 4096)`; 1 is off.
        autoencoder: weights of the autoencoder by name or place.
        autoencoder_hash: how the sha256 of its tensors begins; "" takes it as it is.

    Raises:
        ValueError: widths that their heads do not divide into multiples of 4, an unknown distribution of time.
    """

    kind: ClassVar[Kind] = "latent"
    pos_embed: Tensor
    rotary_deep: Tensor
    rotary_wide: Tensor

    def __init__(
        self,
        latent_channels: int = 768,
        grid: int = 16,
        num_classes: int = 1000,
        dim: Sequence[int] = (1152, 2048),
        depth: Sequence[int] = (28, 2),
        heads: Sequence[int] = (16, 16),
        mlp_ratio: float = 4.0,
        qk_norm: bool = False,
        label_drop: float = 0.1,
        time: str = "logit_normal",
        shift: float | None = None,
        autoencoder: str = "rae_vit_xl.dinov2_base",
        autoencoder_hash: str = "",
    ):
        super().__init__()
        check_least(0, num_classes=num_classes)
        for d, n in zip(dim, heads, strict=True):
            if n < 1 or d % (4 * n):
                raise ValueError(f"dim={d} with heads={n}: rotary positions need heads of a multiple of 4")
        if time not in TIMES:
            raise ValueError(f"time={time!r}, allowed {', '.join(TIMES)}")
        (deep, wide), self.split = dim, depth[0]
        self.takes = Input(self.kind, (latent_channels, grid, grid))
        self.num_classes, self.label_drop, self.time = num_classes, label_drop, time
        self.shift = math.sqrt(latent_channels * grid**2 / 4096) if shift is None else shift
        self._autoencoder = Frozen("autoencoder", autoencoder, autoencoder_hash, partial(_load, self))
        self.x_embedder, self.s_embedder = Embedder(latent_channels, wide), Embedder(latent_channels, deep)
        self.s_projector = nn.Linear(deep, wide) if deep != wide else nn.Identity()
        self.t_embedder, self.y_embedder = TimeEmbedder(deep), LabelEmbedder(num_classes, deep)
        self.register_buffer("pos_embed", sincos(deep, grid, grid)[None])  # (1, N, D)
        self.blocks = nn.ModuleList(
            LightningBlock(d, n, mlp_ratio, qk_norm) for d, n, count in zip(dim, heads, depth) for _ in range(count)
        )
        self.final_layer = FinalLayer(wide, latent_channels)
        self.grad_checkpointing = False  # keep no activations inside blocks
        for name, d, n in zip(("deep", "wide"), dim, heads):
            self.register_buffer(f"rotary_{name}", rotary(d // n, grid), persistent=False)  # (2, N, D/heads/2)
        self._init()

    no_decay = ("y_embedder.embedding_table.weight",)

    @property
    def autoencoder(self) -> Autoencoder:
        """The frozen autoencoder, on this model's device.

        Raises:
            ValueError: its tensors are not those that this model was trained with, or its latents have another shape.
        """
        return self._autoencoder().to(self.pos_embed.device)

    def adapt_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The positions follow from the arguments; released files hold rotary tables as well, which are left out."""
        state = {k: v for k, v in state.items() if not k.startswith(("enc_feat_rope.", "dec_feat_rope."))}
        state["pos_embed"] = sincos(self.pos_embed.shape[-1], *self.takes.shape[1:])[None]
        deep, wide = (rotary(2 * r.shape[-1], self.takes.shape[1]) for r in (self.rotary_deep, self.rotary_wide))
        self.rotary_deep, self.rotary_wide = deep, wide
        return state

    def forward(
        self, z: Tensor, labels: Tensor | None = None, drawn: tuple[Tensor, Tensor] | None = None
    ) -> FlowOutput:
        """Normalised latents (B, C, h, w) → the loss at random times.

        Args:
            labels: (B,) int64; -1, or None for all, is any class.
            drawn: times (B,) and noise as z, what `draw` gives; None draws them.

        Raises:
            ValueError: latents of another shape, classes that are not there.
        """
        z = self._latents(z)
        t, noise = self.draw(z) if drawn is None else drawn  # (B,), (B, C, h, w)
        check_floats(t, "times", (z.shape[0],), "draw(latents) gives them")
        check_floats(noise, "noise", z.shape, "draw(latents) gives it")
        at = t[:, None, None, None]
        velocity = self.velocity((1 - at) * z + at * noise, t, self._dropped(labels, z))  # (B, C, h, w)
        return FlowOutput((velocity - (noise - z)).square().mean(), velocity, t)

    def draw(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Random times (B,) and noise (B, C, h, w) for latents (B, C, h, w)."""
        count, device = z.shape[0], z.device
        if self.time == "logit_normal":
            t = torch.randn(count, device=device).sigmoid().clamp(max=LATEST)  # (B,); 2.5e-12 of them are cut off
        else:
            t = torch.rand(count, device=device) * LATEST  # (B,)
        return self.shifted(t).to(z.dtype), torch.randn_like(z)

    def shifted(self, t: Tensor) -> Tensor:
        """`α t / (1 + (α - 1) t)`, written so that 1 stays exactly 1."""
        return t / (t + (1 - t) / self.shift)

    def velocity(self, z: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """v̂ (B, C, h, w) of noisy latents (B, C, h, w) at times t (B,), for labels (B,) or any class."""
        z = self._latents(z)
        check_floats(t, "times", (z.shape[0],), "one in [0, 1] for each latent")
        labels = torch.full((z.shape[0],), -1, device=z.device) if labels is None else labels
        check_ints(labels, "labels", (z.shape[0],), -1, self.num_classes, "-1 is any class")
        y = self.y_embedder(labels)  # (B, D)
        t = self.t_embedder(t)  # (B, D)
        c = F.silu(F.silu(t + y))[:, None]  # (B, 1, D)
        s = self.s_embedder(z) + self.pos_embed  # (B, N, D)
        for block in self.blocks[: self.split]:
            s = self._through(block, s, c, self.rotary_deep)  # (B, N, D)
        s = F.silu(self.s_projector(F.silu(t[:, None] + s)))  # (B, N, wide D)
        x = self.x_embedder(z).to(z.dtype)  # (B, N, wide D)
        for block in self.blocks[self.split :]:
            x = self._through(block, x, s, self.rotary_wide)  # (B, N, wide D)
        return self.final_layer(x, s).mT.reshape(z.shape).to(z.dtype)  # (B, C, h, w)

    def forward_features(self, z: Tensor) -> Tensor:
        """Normalised latents (B, C, h, w), hardly noisy, → the deep part's tokens (B, N, D), of any class."""
        z = self._latents(z)
        t = self.t_embedder(torch.zeros(z.shape[0], device=z.device, dtype=z.dtype))  # (B, D)
        c = F.silu(F.silu(t + self.y_embedder.embedding_table.weight[-1]))[:, None]  # (B, 1, D)
        s = self.s_embedder(z) + self.pos_embed  # (B, N, D)
        for block in self.blocks[: self.split]:
            s = block(s, c, self.rotary_deep)  # (B, N, D)
        return s

    def draws(self) -> Input:
        """What `sample` gives: what the autoencoder takes, which is loaded to say so."""
        return self.autoencoder.takes

    @torch.no_grad()
    def sample(
        self,
        labels: Tensor,
        *,
        steps: int = 50,
        solver: str = "euler",
        guidance: float = 1.0,
        interval: tuple[float, float] = (0.0, 1.0),
        guide: "DiTDH | None" = None,
        end: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] for labels (B,) int64, -1 is any class.

        Args:
            steps: of the solver.
            solver: "euler", or "heun", which looks twice a step.
            guidance: how much further than the weak model's the step goes towards the class; 1 is none.
            interval: times in [0, 1], 1 is noise, between which there is guidance.
            guide: the weak model; left out, this one without the class.
            end: time at which the flow stops.
            generator: of the noise.

        Raises:
            ValueError: as `sample_latents`.
        """
        z = self.sample_latents(labels, steps, solver, guidance, interval, guide, generator, end)  # (B, C, h, w)
        return self.decode(z)

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Normalised latents (B, C, h, w) → images (B, 3, H, W) in [0, 1]."""
        return self.autoencoder.decode(self.autoencoder.denormalise(z))

    @torch.no_grad()
    def sample_latents(
        self,
        labels: Tensor,
        steps: int = 50,
        solver: str = "euler",
        guidance: float = 1.0,
        interval: tuple[float, float] = (0.0, 1.0),
        guide: "DiTDH | None" = None,
        generator: torch.Generator | None = None,
        end: float = 0.0,
        trace: list[Tensor] | None = None,
    ) -> Tensor:
        """Normalised latents for labels (B,) int64, -1 is any class, along the flow from noise: (B, C, h, w).

        Args:
            steps: of the solver. The authors' "50" are the 50 ends of 49 steps: `steps=49, end=1e-3`.
            solver: "euler", or "heun", which looks twice a step.
            guidance: w of `weak + w · (v̂ - weak)`; 1 is none.
            interval: times (Kynkäänniemi et al. 2024) in which it holds.
            guide: what is weak: None, this model without the class (Ho and Salimans 2021), or a smaller or less
                trained model (autoguidance, Karras et al. 2024).
            generator: of the noise.
            end: time, before the shift, at which the flow stops.
            trace: where the estimates of z at each step are put, (B, C, h, w) each.

        Raises:
            ValueError: no steps, an unknown solver, an empty interval, classes that are not there.
        """
        check_types(DiTDH.sample_latents, locals())
        check_ints(labels, "labels", ("B",), -1, self.num_classes, "-1 is any class")
        if steps < 1 or not 0 <= end < 1:
            raise ValueError(f"steps={steps}, end={end}: allowed at least 1, and 0 to below 1")
        if solver not in SOLVERS:
            raise ValueError(f"solver={solver!r}, allowed {', '.join(SOLVERS)}")
        if not interval[0] < interval[1]:
            raise ValueError(f"interval={interval} is empty, expected (from, to)")
        labels = labels.to(self.pos_embed.device)
        shape, dtype = (len(labels), *self.takes.shape), self.pos_embed.dtype
        z = torch.randn(shape, generator=generator, device=labels.device, dtype=dtype)  # (B, C, h, w)
        times = self.shifted(torch.linspace(1, end, steps + 1, dtype=torch.float64)).tolist()

        def flow(z: Tensor, t: float) -> Tensor:
            ts = z.new_full((z.shape[0],), t)
            if guidance == 1 or not interval[0] <= t <= interval[1]:
                return self.velocity(z, ts, labels)
            if guide is None:
                any_class = torch.full_like(labels, -1)  # (B,)
                both = self.velocity(z.repeat(2, 1, 1, 1), ts.repeat(2), torch.cat([labels, any_class]))
                v, weak = both.chunk(2)  # (B, C, h, w) each
            else:
                v, weak = self.velocity(z, ts, labels), guide.velocity(z, ts, labels)
            return weak + guidance * (v - weak)

        training = self.training
        self.eval()
        try:
            for t, after in pairwise(times):
                v = flow(z, t)
                if trace is not None:
                    trace.append(z - t * v)
                ahead = z + (after - t) * v
                z = ahead if solver == "euler" else z + (after - t) * (v + flow(ahead, after)) / 2
        finally:
            self.train(training)
        return z

    def _latents(self, z: Tensor) -> Tensor:
        """Latents in the model's precision."""
        check_floats(z, "latents", ("B", *self.takes.shape), "`zoo latents` writes them")
        return z.to(self.s_embedder.proj.weight.dtype)

    def _through(self, block: nn.Module, *inputs: Tensor) -> Tensor:
        return recompute(block, *inputs) if self.grad_checkpointing else block(*inputs)

    def _dropped(self, labels: Tensor | None, z: Tensor) -> Tensor | None:
        if labels is None or not self.training:
            return labels
        check_ints(labels, "labels", (z.shape[0],), -1, self.num_classes, "-1 is any class")
        return labels.masked_fill(torch.rand(z.shape[0], device=z.device) < self.label_drop, -1)

    def _init(self) -> None:
        """As published: every block begins as the identity, and the whole as zero."""
        for embedder in (self.x_embedder, self.s_embedder):
            nn.init.xavier_uniform_(embedder.proj.weight.flatten(1))
            nn.init.zeros_(embedder.proj.get_parameter("bias"))
        for table in (self.y_embedder.embedding_table, self.t_embedder.mlp[0], self.t_embedder.mlp[2]):
            nn.init.normal_(table.get_parameter("weight"), std=0.02)
        for layer in (*self.blocks, self.final_layer):
            nn.init.zeros_(layer.adaLN_modulation[1].weight)
            nn.init.zeros_(layer.adaLN_modulation[1].bias)
        nn.init.zeros_(self.final_layer.linear.weight)
        nn.init.zeros_(self.final_layer.linear.bias)


class Embedder(nn.Module):
    """Tokens of a map, (B, C, h, w) → (B, N, D); stored as the 1×1 convolution it is."""

    def __init__(self, channels: int, dim: int):
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, 1)

    def forward(self, z: Tensor) -> Tensor:
        return F.linear(z.flatten(2).mT, self.proj.weight.flatten(1), self.proj.bias)  # (B, N, D)


class TimeEmbedder(nn.Module):
    """Times (B,) → (B, D): sines and cosines of fixed random frequencies (Tancik et al. 2020), and two layers."""

    W: Tensor

    def __init__(self, dim: int, frequencies: int = 256):
        super().__init__()
        self.register_buffer("W", torch.randn(frequencies))
        self.mlp = nn.Sequential(nn.Linear(2 * frequencies, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, t: Tensor) -> Tensor:
        angles = 2 * math.pi * t[:, None] * self.W  # (B, frequencies)
        dtype = next(self.mlp.parameters()).dtype
        return self.mlp(torch.cat([angles.sin(), angles.cos()], 1).to(dtype)).to(dtype)  # (B, D)


class LabelEmbedder(nn.Module):
    """Labels (B,) int64, -1 is any class → (B, D)."""

    def __init__(self, num_classes: int, dim: int):
        super().__init__()
        self.num_classes = num_classes
        self.embedding_table = nn.Embedding(num_classes + 1, dim)  # the last row stands for any class

    def forward(self, labels: Tensor) -> Tensor:
        return self.embedding_table(labels.where(labels >= 0, self.num_classes))  # (B, D)


class LightningBlock(nn.Module):
    """A block of LightningDiT (Yao et al. 2025, §4.1): RMS norms, rotary attention, SwiGLU, adaptive and gated."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float, qk_norm: bool = False):
        super().__init__()
        self.norm1, self.norm2 = RMSNorm(dim), RMSNorm(dim)
        self.attn, self.mlp = RotaryAttention(dim, heads, qk_norm), SwiGLU(dim, int(2 / 3 * int(dim * mlp_ratio)))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))

    def forward(self, x: Tensor, c: Tensor, table: Tensor) -> Tensor:
        """Tokens (B, N, D) → (B, N, D).

        Args:
            c: the SiLU of what they depend on, (B, 1, D) where that is the same for all, else (B, N, D).
            table: of rotary positions, (2, N, D/heads/2).
        """
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation[1](c).chunk(6, -1)  # (B, 1 or N, D) each
        x = x + gate1 * self.attn(torch.addcmul(shift1, self.norm1(x), 1 + scale1), table)  # (B, N, D)
        return x + gate2 * self.mlp(torch.addcmul(shift2, self.norm2(x), 1 + scale2))  # (B, N, D)


class FinalLayer(nn.Module):
    """Tokens (B, N, D) and the SiLU of what each depends on (B, N, D) → (B, N, C)."""

    def __init__(self, dim: int, channels: int):
        super().__init__()
        self.norm_final, self.linear = RMSNorm(dim), nn.Linear(dim, channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 2 * dim))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation[1](c).chunk(2, -1)  # (B, N, D) each
        return self.linear(torch.addcmul(shift, self.norm_final(x), 1 + scale))  # (B, N, C)


class RMSNorm(nn.Module):
    """`x / √(mean x² + 1e-6) · weight`, in float32 whatever the autocast, in the dtype of x again."""

    def __init__(self, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        precise = torch.promote_types(x.dtype, torch.float32)
        return F.rms_norm(x.to(precise), self.weight.shape, self.weight.to(precise), 1e-6).to(x.dtype)


class RotaryAttention(nn.Module):
    """Self-attention whose queries and keys are turned by their place; `qk_norm` puts an RMS norm before that."""

    def __init__(self, dim: int, heads: int, qk_norm: bool = False):
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.q_norm, self.k_norm = (RMSNorm(dim // heads) if qk_norm else nn.Identity() for _ in "qk")

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, heads, N, D/heads) each
        q, k = (turned(each, table).to(v.dtype) for each in (self.q_norm(q), self.k_norm(k)))
        x = attend(q, k, v)  # (B, heads, N, D/heads)
        return self.proj(x.transpose(1, 2).reshape(b, n, d))  # (B, N, D)


class SwiGLU(nn.Module):
    """`w3 (SiLU(a) · b)`, a and b the halves of `w12 x` (Shazeer 2020)."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.w12, self.w3 = nn.Linear(dim, 2 * hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.w12(x).chunk(2, -1)  # (B, N, hidden) each
        return self.w3(F.silu(a) * b)  # (B, N, D)


def rotary(dim: int, grid: int) -> Tensor:
    """Cosines and sines of a grid's angles (Su et al. 2021, in two dimensions), (2, N, dim/2).

    The first half of the pairs turns with the row, the second with the column. In float32 throughout, as the released
    weights were trained.
    """
    omega = 1 / 10000 ** (torch.arange(0, dim // 2, 2).float() / (dim // 2))  # (dim/4,)
    angles = torch.arange(grid)[:, None] * omega  # (grid, dim/4)
    rows, columns = angles[:, None].expand(-1, grid, -1), angles[None].expand(grid, -1, -1)
    both = torch.cat([rows, columns], -1).flatten(0, 1)  # (N, dim/2)
    return torch.stack([both.cos(), both.sin()])


def turned(x: Tensor, table: Tensor) -> Tensor:
    """Neighbouring channels of (B, heads, N, D) as points of a plane, turned by the angles of their token."""
    cos, sin = table
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)  # (B, heads, N, D/2) each
    return torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2)  # (B, heads, N, D)


def _load(model: DiTDH) -> Autoencoder:
    from zoo import hub

    name = model._autoencoder.name
    autoencoder = hub.load(name)
    if not isinstance(autoencoder, Autoencoder):
        raise ValueError(f"{name} has no continuous latents; DC-AE and RAE have")
    if autoencoder.latent_shape != model.takes.shape:
        raise ValueError(f"{name} has latents {autoencoder.latent_shape}, this model paints {model.takes.shape}")
    return autoencoder
