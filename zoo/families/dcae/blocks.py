"""What DC-AE is built of: blocks that convolve or attend, and ways between resolutions with shortcuts beside them.

No block begins with a norm: each branch ends in one.

B images of a batch · C channels · D channels of a map h × w, D' after a layer · c channels of the latent · N = h · w
"""

from itertools import product
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEAD = 32  # channels of a head
EPS = 1e-5  # of the RMS norms


@runtime_checkable
class Fuses(Protocol):
    """Can become the same function with fewer products, for inference alone."""

    def fuse(self) -> None: ...


class ResBlock(nn.Module):
    """`x + norm(conv(act(conv x)))`, with batch norm and ReLU or RMS norm and SiLU."""

    def __init__(self, width: int, batchnorm: bool = False):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.act = F.relu if batchnorm else F.silu
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(width) if batchnorm else RMSNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.conv2(self.act(self.conv1(x))))  # (B, D, h, w)

    def fuse(self) -> None:
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv2, self.norm = nn.utils.fuse_conv_bn_eval(self.conv2, self.norm), nn.Identity()


class AttentionBlock(nn.Module):
    """Linear attention for what is far, a gated depthwise convolution for what is near (Cai et al. 2023)."""

    def __init__(self, width: int, scales: tuple[int, ...]):
        super().__init__()
        self.attn = LinearAttention(width, scales)
        self.ffn = GatedConv(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x)  # (B, D, h, w)
        return x + self.ffn(x)  # (B, D, h, w)


class LinearAttention(nn.Module):
    """`φ(q) Σ φ(k)ᵀ v / φ(q) Σ φ(k)ᵀ` with φ = ReLU (Cai et al. 2023, §3.1), then a 1×1 convolution and a norm.

    Rows of `qkv` lie head by head, as q, k, v of 32 channels each, as in every released file.
    """

    def __init__(self, width: int, scales: tuple[int, ...]):
        super().__init__()
        self.qkv = nn.Conv2d(width, 3 * width, 1, bias=False)
        self.aggreg = nn.ModuleList(LocalMixing(3 * width, scale) for scale in scales)
        self.proj = nn.Conv2d(width * (1 + len(scales)), width, 1, bias=False)
        self.norm = RMSNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        qkv = self.qkv(x)  # (B, 3D, h, w)
        if self.aggreg:
            qkv = torch.cat([qkv, *(mix(qkv) for mix in self.aggreg)], 1)  # (B, 3D·(1 + scales), h, w)
        q, k, v = qkv.permute(0, 2, 3, 1).reshape(b, h * w, -1, 3 * HEAD).transpose(1, 2).split(HEAD, -1)
        y = attend_linearly(q, k, v)  # (B, heads, N, 32)
        y = y.transpose(1, 2).reshape(b, h, w, -1).permute(0, 3, 1, 2)  # (B, D·(1 + scales), h, w)
        return self.norm(self.proj(y))  # (B, D, h, w)


class LocalMixing(nn.Module):
    """Queries, keys and values of a neighbourhood: a depthwise convolution, then 1×1 in groups of 32."""

    def __init__(self, width: int, kernel: int):
        super().__init__()
        self.dw = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width, bias=False)
        self.pw = nn.Conv2d(width, width, 1, groups=width // HEAD, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.pw(self.dw(x))  # (B, 3D, h, w)


class GatedConv(nn.Module):
    """1×1, depthwise 3×3, a gate, 1×1, norm; four times as wide inside (GLUMBConv)."""

    def __init__(self, width: int):
        super().__init__()
        self.inverted = nn.Conv2d(width, 8 * width, 1)
        self.depthwise = nn.Conv2d(8 * width, 8 * width, 3, padding=1, groups=8 * width)
        self.point = nn.Conv2d(4 * width, width, 1, bias=False)
        self.norm = RMSNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.depthwise(F.silu(self.inverted(x))).chunk(2, 1)  # (B, 4D, h, w) each
        return self.norm(self.point(x * F.silu(gate)))  # (B, D, h, w)


class Down(nn.Module):
    """Halves the sides: pixels move into channels after a convolution, beside the mean of groups of them."""

    def __init__(self, width_in: int, width: int, strided: bool, shortcut: str):
        super().__init__()
        self.strided, self.shortcut, self.width = strided, shortcut, width
        self.conv = nn.Conv2d(width_in, width if strided else width // 4, 3, 2 if strided else 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)  # (B, D', h/2, w/2), or (B, D'/4, h, w)
        if not self.strided:
            y = F.pixel_unshuffle(y, 2)  # (B, D', h/2, w/2)
        if self.shortcut == "none":
            return y
        if x.shape[1] == self.width:
            return y + F.avg_pool2d(x, 2)  # (B, D', h/2, w/2)
        moved = F.pixel_unshuffle(x, 2)  # (B, 4D, h/2, w/2)
        if self.shortcut == "isotropic":
            moved = _turn(moved)
        return y + moved.unflatten(1, (self.width, -1)).mean(2)  # (B, D', h/2, w/2)


class Up(nn.Module):
    """Doubles the sides: channels move into pixels after a convolution, beside the input's channels, repeated."""

    def __init__(self, width_in: int, width: int, interpolate: bool, shortcut: str):
        super().__init__()
        self.interpolate, self.shortcut, self.repeats = interpolate, shortcut, 4 * width // width_in
        self.conv: nn.Conv2d | DoublingConv = nn.Conv2d(width_in, width if interpolate else 4 * width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if self.interpolate:
            y = self.conv(F.interpolate(x, scale_factor=2.0))  # (B, D', 2h, 2w)
            return y if self.shortcut == "none" else y + F.pixel_shuffle(self._repeated(x), 2)  # (B, D', 2h, 2w)
        y = self.conv(x)  # (B, 4D', h, w)
        if self.shortcut != "none":
            y = y + self._repeated(x)  # (B, 4D', h, w)
        return F.pixel_shuffle(y, 2)  # (B, D', 2h, 2w)

    def _repeated(self, x: Tensor) -> Tensor:
        y = x.repeat_interleave(self.repeats, 1)  # (B, 4D', h, w)
        return _turn(y) if self.shortcut == "isotropic" else y

    def fuse(self) -> None:
        """Adds the shortcut to the middle of the kernel; kernels over repeated pixels come to see each of them once."""
        if isinstance(self.conv, DoublingConv):  # fused before
            return
        channels = torch.eye(self.conv.in_channels, dtype=self.conv.weight.dtype)[:, :, None, None]  # (D, D, 1, 1)
        repeated = self._repeated(channels)[:, :, 0, 0].T if self.shortcut != "none" else 0  # (4D', D)
        if self.interpolate:
            self.conv = DoublingConv(self.conv, repeated)
        else:
            self.conv.weight[:, :, 1, 1] += repeated
        self.interpolate, self.shortcut = False, "none"


class DoublingConv(nn.Module):
    """3×3 over an image whose pixels are repeated twice along each axis, as four kernels of 2×2 over the image itself.

    Of the 3×3 pixels around a repeated one, only 2×2 differ, and which these are depends on its row's and column's
    parity: the kernel's weights on equal pixels are summed. 16 products instead of 36.
    """

    def __init__(self, conv: nn.Conv2d, shortcut: Tensor | int):
        super().__init__()
        rows = conv.weight.new_tensor([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])  # (parity, 2, 3)
        kernels = torch.einsum("aik,bjl,odkl->oabdij", rows, rows, conv.weight)  # (D', 2, 2, D, 2, 2)
        middle = kernels.new_zeros(kernels.shape)
        for a, b in product(range(2), range(2)):  # the pixel itself lies at 1 - parity
            if isinstance(shortcut, Tensor):
                middle[:, a, b, :, 1 - a, 1 - b] = shortcut.unflatten(0, (-1, 2, 2))[:, a, b]
        self.weight = nn.Parameter((kernels + middle).flatten(0, 2), requires_grad=False)  # (4D', D, 2, 2)
        bias = conv.get_parameter("bias").repeat_interleave(4)  # (4D',)
        self.bias = nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        y = F.conv2d(x, self.weight, self.bias, padding=1)  # (B, 4D', h + 1, w + 1)
        y = y.unflatten(1, (-1, 2, 2))  # (B, D', 2, 2, h + 1, w + 1)
        parts = [y[:, :, i, j, i : i + h, j : j + w] for i, j in product(range(2), range(2))]  # (B, D', h, w) each
        return torch.stack(parts, 2).flatten(1, 2)  # (B, 4D', h, w)


class LatentHead(nn.Conv2d):
    """A convolution to the latents, beside the mean of consecutive channels."""

    def __init__(self, width: int, latents: int, shortcut: bool):
        super().__init__(width, latents, 3, padding=1)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        z = super().forward(x)  # (B, c, h, w)
        return z + x.unflatten(1, (len(self.weight), -1)).mean(2) if self.shortcut else z  # (B, c, h, w)

    def fuse(self) -> None:
        if self.shortcut:
            group = self.in_channels // self.out_channels
            mean = torch.eye(self.out_channels).repeat_interleave(group, 1) / group  # (c, D)
            self.weight[:, :, 1, 1] += mean.to(self.weight)
            self.shortcut = False


class LatentStem(nn.Conv2d):
    """A convolution of the latents, beside their repetition."""

    def __init__(self, latents: int, width: int, shortcut: bool):
        super().__init__(latents, width, 3, padding=1)
        self.shortcut = shortcut

    def forward(self, z: Tensor) -> Tensor:
        x = super().forward(z)  # (B, D, h, w)
        return x + z.repeat_interleave(len(self.weight) // z.shape[1], 1) if self.shortcut else x  # (B, D, h, w)

    def fuse(self) -> None:
        if self.shortcut:
            repeats = self.out_channels // self.in_channels
            self.weight[:, :, 1, 1] += torch.eye(self.in_channels).repeat_interleave(repeats, 0).to(self.weight)
            self.shortcut = False


class HaarStem(nn.Module):
    """A Haar transform, which halves the sides and loses nothing, then a convolution (Sadat et al. 2024, §4.1)."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.conv = nn.Conv2d(4 * channels, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(haar(x))  # (B, D, H/2, W/2)


class RMSNorm2d(nn.Module):
    """Divides each place by the root mean square of its channels, then scale and shift (RMSNorm with a bias)."""

    def __init__(self, width: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)  # (B, h, w, D)
        weight, bias = self.weight, self.bias
        if x.device.type == "cpu" and not torch.compiler.is_compiling():
            x = CPURMSNorm.apply(x.contiguous(), weight, bias)  # (B, h, w, D)
        else:  # the fused kernel wants one dtype
            y = F.rms_norm(x, weight.shape, weight.to(x.dtype), EPS).to(x.dtype)  # autocast gives float32
            x = y + bias.to(x.dtype)  # (B, h, w, D)
        return x.permute(0, 3, 1, 2)  # (B, D, h, w)


class CPURMSNorm(torch.autograd.Function):
    """`x / √(mean x² + ε) · weight + bias` over the last axis.

    torch (2.15) has no kernel of RMS norm for a CPU, and its backward pass takes 3 to 8 times as long as this one. This
    one calls layer norm's kernel with a mean of zero and adds the mean of the gradient, which layer norm subtracts.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        exact = torch.promote_types(x.dtype, torch.float32)
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=exact)  # (..., 1)
        scale = (norm.square() / x.shape[-1] + EPS).rsqrt()  # (..., 1)
        ctx.save_for_backward(x, weight, scale)
        y = x * scale  # (..., D), at least float32
        return torch.addcmul(bias, y, weight, out=y).to(x.dtype)  # (..., D)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight, scale = ctx.saved_tensors
        layer_norm_backward = torch.ops.aten.native_layer_norm_backward
        dx, dweight, dbias = layer_norm_backward(
            dy.contiguous(), x, weight.shape, torch.zeros_like(scale), scale, weight, weight, [True] * 3
        )
        with torch.autocast("cpu", enabled=False):
            mean = dy.to(weight.dtype) @ weight / x.shape[-1]  # (...)
        return dx.add_(mean[..., None] * scale), dweight, dbias  # (..., D), (D,), (D,)


def attend_linearly(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`φ(q) Σ φ(k)ᵀ v / (φ(q) Σ φ(k)ᵀ)`, φ = ReLU, of (B, heads, N, 32) each; sums in float32 whatever the autocast."""
    dtype, exact = q.dtype, torch.promote_types(q.dtype, torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        q, k, v = F.relu(q).to(exact), F.relu(k).to(exact), v.to(exact)  # (B, heads, N, 32) each
        y = q @ (k.mT @ v)  # (B, heads, N, 32)
        return (y / (q @ k.sum(2)[..., None] + 1e-15)).to(dtype)  # (B, heads, N, 32)


def haar(x: Tensor) -> Tensor:
    """The orthonormal Haar transform: (B, C, H, W) → (B, 4C, H/2, W/2), of each channel mean, and details."""
    signs = x.new_tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
    y = F.pixel_unshuffle(x, 2).unflatten(1, (-1, 4))  # (B, C, 4, H/2, W/2)
    return torch.einsum("sp,bcphw->bcshw", signs, y).flatten(1, 2)  # (B, 4C, H/2, W/2)


def _turn(moved: Tensor) -> Tensor:
    """Channels (D, row, column) of moved pixels: rows and columns change places in every other D."""
    y = moved.unflatten(1, (-1, 2, 2, 2))  # (B, D/2, 2, 2, 2, h, w)
    return torch.stack([y[:, :, 0], y[:, :, 1].transpose(2, 3)], 2).flatten(1, 4)  # (B, 4D, h, w)
