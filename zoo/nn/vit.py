"""Attention, the pre-norm transformer block, and the vision transformer that masked autoencoders share.

B samples of a batch · N tokens or patches, K of them given · V values of a patch · T class tokens · D width
"""

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.nn.checkpointing import recompute
from zoo.nn.checks import check_floats, check_ints
from zoo.nn.protocols import Input, Kind, Network


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, §3.2): one matrix makes q, k and v. timm's tensor names.

    Args:
        key_bias: without, the keys' third of the bias is read as zero and gets no gradient. It moves all of a query's
            scores alike, which a softmax does not see.

    Raises:
        ValueError: a width that the heads do not divide.
    """

    def __init__(self, dim: int, heads: int, key_bias: bool = True):
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(
                f"dim={dim} is no multiple of heads={heads}; give others, or another decoder_dim or decoder_heads"
            )
        self.heads, self.key_bias = heads, key_bias
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        bias: Tensor = self.qkv.bias
        if not self.key_bias:
            of_q, of_k, of_v = bias.chunk(3)  # (D,) each
            bias = torch.cat([of_q, torch.zeros_like(of_k), of_v])  # (3D,)
        qkv = F.linear(x, self.qkv.weight, bias).reshape(b, n, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, N, D/heads) each
        x = attend(q, k, v)  # (B, heads, N, D/heads)
        return self.proj(x.transpose(1, 2).reshape(b, n, d))  # (B, N, D)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`softmax(q kᵀ / √D) v` of (B, heads, N, D) each, by whichever way is fastest.

    That is torch's fused kernel, but for bfloat16 gradients on a CPU, where it takes 2 to 5 times as long (2.15): there
    short sequences take plain products, and long ones ChunkedAttention.
    """
    if q.device.type != "cpu" or q.dtype != torch.bfloat16 or not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q, k, v)  # (B, heads, N, D)
    if q.shape[2] > 256 and not torch.compiler.is_compiling():
        return ChunkedAttention.apply(q, k, v)  # (B, heads, N, D)
    return (q * q.shape[-1] ** -0.5 @ k.mT).softmax(-1).to(v.dtype) @ v  # (B, heads, N, D)


class ChunkedAttention(torch.autograd.Function):
    """Attention a few heads and 512 queries at a time, so that the scores stay in the processor's cache.

    No scores are kept: the backward pass makes them again (Dao et al. 2022, §3.1). Keys are not cut, a row of scores is
    whole.
    """

    QUERIES = 512

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        shape = q.shape
        q, k, v = (x.flatten(0, 1) for x in (q * shape[-1] ** -0.5, k, v))  # (B·heads, N, D) each
        ctx.save_for_backward(q, k, v)
        y = torch.empty_like(v)
        for qs, ks, vs, ys in _by_heads(q, k, v, y):
            for qc, yc in _by_queries(qs, ys):
                yc.copy_((qc @ ks.mT).softmax(-1) @ vs)  # (threads, 512, D)
        return y.reshape(shape)  # (B, heads, N, D)

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = ctx.saved_tensors
        dq, dk, dv = (torch.zeros_like(x, dtype=torch.float32) for x in (q, k, v))  # sums over chunks: not in bfloat16
        for qs, ks, vs, dys, dqs, dks, dvs in _by_heads(q, k, v, dy.flatten(0, 1), dq, dk, dv):
            for qc, dyc, dqc in _by_queries(qs, dys, dqs):
                p = (qc @ ks.mT).softmax(-1)  # (threads, 512, N)
                ds = torch._softmax_backward_data(dyc @ vs.mT, p, -1, p.dtype)  # (threads, 512, N)
                dqc.copy_(ds @ ks)  # (threads, 512, D)
                dks += ds.mT @ qc  # (threads, N, D)
                dvs += p.mT @ dyc  # (threads, N, D)
        dq *= q.shape[-1] ** -0.5
        dq, dk, dv = (g.to(q.dtype).reshape(dy.shape) for g in (dq, dk, dv))  # (B, heads, N, D) each
        return dq, dk, dv


def _by_heads(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(x.split(max(2, torch.get_num_threads())) for x in tensors))  # (threads, N, D) each


def _by_queries(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(x.split(ChunkedAttention.QUERIES, 1) for x in tensors))  # (threads, 512, D) each


class Mlp(nn.Module):
    """Two matrices with a GELU between, the exact one."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """A pre-norm transformer block (Dosovitskiy et al. 2021, §3.1).

    Args:
        drop_path: probability with which a sample skips each of the two residual branches, in training.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        eps: float = 1e-6,
        key_bias: bool = True,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps)
        self.attn = Attention(dim, heads, key_bias)
        self.norm2 = nn.LayerNorm(dim, eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._drop(self.attn(self.norm1(x)))
        return x + self._drop(self.mlp(self.norm2(x)))

    def _drop(self, x: Tensor) -> Tensor:
        if not self.training or not self.drop_path:
            return x
        keep = 1 - self.drop_path
        return x * (torch.rand(x.shape[0], 1, 1, device=x.device) < keep).to(x.dtype) / keep


class PatchEmbed(nn.Module):
    """A linear map of each patch, kept as the convolution that it is equal to.

    Args:
        patch: sides of a patch, (P, P) of images, (U, P, P) of clips.
    """

    def __init__(self, channels: int, patch: tuple[int, ...], dim: int):
        super().__init__()
        convolution: Callable[..., nn.Conv2d | nn.Conv3d] = nn.Conv2d if len(patch) == 2 else nn.Conv3d
        self.proj = convolution(channels, dim, patch, patch)

    def forward(self, patches: Tensor) -> Tensor:
        weight = self.proj.weight.movedim(1, -1).flatten(1)  # (D, V), within a patch the channel is the fastest
        return F.linear(patches.to(weight.dtype), weight, self.proj.bias)  # (B, K, D)


class ViT(Network):
    """A vision transformer over any of its patches (Dosovitskiy et al. 2021), of images or of clips.

    A child gives its class tokens and its positions to `embed` through `tables`.

    Args:
        takes: what goes in; the patch divides its sides.
        patch: sides of a patch, (P, P) of images, (U, P, P) of clips.
        dim, depth, heads, mlp_ratio, key_bias: as in Block.
        drop_path: rate of the last block, growing linearly from 0.
        positions: where they are learned by a module of their own, beside a class token; else a child adds what it has.

    Raises:
        ValueError: a rate of 1 or more, or a width that the heads do not divide.
    """

    kind: ClassVar[Kind]
    parts: ClassVar[str] = "patches"  # what a patch is called in messages, and the method that makes them
    num_cls_tokens: int  # T
    grid: tuple[int, ...]

    def __init__(
        self,
        takes: Input,
        patch: tuple[int, ...],
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
        drop_path: float = 0.0,
        key_bias: bool = True,
        positions: nn.Module | None = None,
    ):
        super().__init__()
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path={drop_path}, allowed 0 to below 1")
        self.takes = takes
        self.grid = tuple(side // p for side, p in zip((*takes.shape[:-3], *takes.size), patch))
        self.num_patches, self.patch_values = math.prod(self.grid), takes.channels * math.prod(patch)  # N, V
        self.grad_checkpointing = False
        self.patch_embed = PatchEmbed(takes.channels, patch, dim)
        if positions is not None:
            self.cls_token, self.positions = nn.Parameter(torch.zeros(1, 1, dim)), positions
        self.blocks = nn.ModuleList(
            Block(dim, heads, mlp_ratio, drop_path * i / max(1, depth - 1), key_bias=key_bias) for i in range(depth)
        )
        self.norm: nn.Module = nn.LayerNorm(dim, 1e-6)

    def tables(self) -> tuple[Tensor | None, Tensor]:
        """Class tokens with their positions, (1, T, D) or None, and the positions of the patches, (N, D)."""
        raise NotImplementedError

    def normalise(self, patches: Tensor) -> Tensor:
        """Patches (B, K, V) → what is embedded; a child overrides it where patches are not normalised yet."""
        return patches

    def embed(self, patches: Tensor, ids: Tensor | None = None) -> Tensor:
        """Patches (B, K, V), which ones (B, K) or None for all in raster order → tokens (B, T + K, D)."""
        count, maker = self.num_patches if ids is None else "K", f"{self.parts}({self.takes.kind}s)"
        check_floats(patches, self.parts, ("B", count, self.patch_values), f"{maker} makes them")
        if ids is not None and not self.training:  # in training they are the model's own, and nothing waits for them
            places = f"places of the {self.parts}, in raster order"
            check_ints(ids, "ids", patches.shape[:2], 0, self.num_patches, places)
        x = self.patch_embed(self.normalise(patches))  # (B, K, D)
        cls, table = self.tables()
        x = x + (table if ids is None else table[ids])
        return x if cls is None else torch.cat([cls.expand(x.shape[0], -1, -1), x], dim=1)  # (B, T + K, D)

    def encode(self, patches: Tensor, ids: Tensor | None = None) -> Tensor:
        """Patches (B, K, V) at places ids (B, K), None for all in raster order → tokens (B, T + K, D)."""
        return self.norm(self._run(self.blocks, self.embed(patches, ids)))  # (B, T + K, D)

    def forward_features(self, x: Tensor) -> Tensor:
        """Samples (B, …) → normalised tokens (B, T + N, D), nothing masked."""
        raise NotImplementedError

    def adapt_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A checkpoint's tensors, with the positions of another grid made over for this one."""
        return state

    def _run(self, blocks: nn.ModuleList, x: Tensor) -> Tensor:
        for block in blocks:
            x = recompute(block, x) if self.grad_checkpointing and self.training else block(x)
        return x


class ViTClassifier(ViT):
    """What classifiers on such a trunk share: a head, and an autoencoder's encoder to start from."""

    head: nn.Linear

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """How timm's layer-wise decay counts: the stem is 0, block i is i + 1, the rest comes last."""
        return {"stem": r"^cls_token|^pos_embed|^positions|^patch_embed", "blocks": r"^blocks\.(\d+)"}

    def take_encoder(self, state: dict[str, Tensor], fresh: tuple[str, ...]) -> None:
        """Load every tensor from an encoder's state, but those whose names begin with `fresh`: they stay as they are.

        Raises:
            ValueError: a tensor is missing, left over or misshapen.
        """
        own = self.state_dict()
        needed = [k for k in own if not k.startswith(fresh)]
        extra = [k for k in state if k not in needed]
        wrong = [k for k in needed if k not in state or state[k].shape != own[k].shape]
        if extra or wrong:
            raise ValueError(
                f"these weights are no encoder of this classifier: {len(wrong)} tensors missing or misshapen "
                f"({', '.join(wrong[:1]) or 'none'} first), {len(extra)} unexpected ({', '.join(extra[:1]) or 'none'} "
                "first); sizes, patch and channels must agree"
            )
        self.load_state_dict(own | {k: state[k].to(own[k].dtype) for k in needed}, strict=True)


def heads_of(module: nn.Module) -> int:
    """The heads of the first attention in it."""
    return next(heads for m in module.modules() if isinstance(heads := getattr(m, "heads", None), int))


def init_linear(
    model: nn.Module, weight: Callable[[Tensor], Any] = nn.init.xavier_uniform_, spare: nn.Module | None = None
) -> None:
    """Initialise every linear map, biases at zero; the weight of `spare` stays as it is."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            if module is not spare:
                weight(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def new_head(dim: int, num_classes: int, std: float, like: Tensor) -> nn.Linear:
    """A head whose weight is drawn from a truncated normal and whose bias is zero, of the dtype and device of `like`.

    Without classes nothing is drawn, and torch's warning about that is kept quiet.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Initializing zero-element")
        head = nn.Linear(dim, num_classes).to(like)
        nn.init.trunc_normal_(head.weight, std=std)
    nn.init.zeros_(head.bias)
    return head
