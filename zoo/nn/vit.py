"""Attention and the pre-norm transformer block. B samples of a batch · N tokens · D width"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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
        bias = self.qkv.bias
        if not self.key_bias:
            of_q, of_k, of_v = bias.chunk(3)
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
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
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
    def backward(ctx, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
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
        return tuple(g.to(q.dtype).reshape(dy.shape) for g in (dq, dk, dv))  # (B, heads, N, D) each


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
        return x * (torch.rand(len(x), 1, 1, device=x.device) < keep).to(x.dtype) / keep
