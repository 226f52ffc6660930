"""A masked autoencoder's whole training step, forward, backward and fused AdamW: ours against three peers by turns.

Everybody has the same encoder, decoder, masking ratio, target, images, dtype and optimiser. Peers are given images that
are normalised already; ours does that within its step. "fast" is another, smaller model against the full one.
"""

import argparse
import gc
import importlib.util
import math
import subprocess
import sys
import time
import warnings
from functools import partial
from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import zoo
from benchmarks import harness
from zoo.nn.embed import patchify


class Row(NamedTuple):
    title: str
    arch: str
    batch: int  # that two CPU threads bear
    args: dict  # keywords of the arch

    @property
    def fast(self) -> bool:
        return self.arch.endswith("_fast")


ROWS = {
    "tiny": Row("ViT-T/16 224 px", "mae_vit_tiny", 32, {}),
    "small": Row("ViT-S/16 224 px", "mae_vit_small", 16, {}),
    "base": Row("ViT-B/16 224 px", "mae_vit_base", 8, {}),
    "tiny32": Row("ViT-T/4 32 px", "mae_vit_tiny", 128, {"image_size": 32, "patch_size": 4}),
    "tiny-fast": Row("ViT-T/16 224 px fast", "mae_vit_tiny_fast", 32, {}),
    "small-fast": Row("ViT-S/16 224 px fast", "mae_vit_small_fast", 16, {}),
    "base-fast": Row("ViT-B/16 224 px fast", "mae_vit_base_fast", 8, {}),
}
ABOUT_FAST = "another model: half of the hidden patches, a smaller decoder; the peer's is full"
LAYER_NORM = partial(nn.LayerNorm, eps=1e-6)


def sizes(m: nn.Module) -> SimpleNamespace:
    """What a peer is built from, read off an autoencoder of ours."""
    encoder = {"image": m.takes.shape[1], "patch": m.patch_size, "dim": m.cls_token.shape[2], "depth": len(m.blocks)}
    decoder = {"width": m.decoder.pred.in_features, "layers": len(m.decoder.blocks), "patches": m.num_patches}
    heads = {"heads": m.blocks[0].attn.heads, "decoder_heads": m.decoder.blocks[0].attn.heads}
    return SimpleNamespace(**encoder, **decoder, **heads)


def timm_vit(s: SimpleNamespace) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    shape = {"img_size": s.image, "patch_size": s.patch, "embed_dim": s.dim, "depth": s.depth, "num_heads": s.heads}
    return VisionTransformer(**shape, num_classes=0, norm_layer=LAYER_NORM)


class Loss(nn.Module):
    """Images → loss, of a model whose output holds it."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).loss


def transformers(ours: nn.Module) -> nn.Module:
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    s = sizes(ours)
    config = ViTMAEConfig(
        **{"image_size": s.image, "patch_size": s.patch, "mask_ratio": 0.75, "norm_pix_loss": True},
        **{"hidden_size": s.dim, "num_hidden_layers": s.depth, "num_attention_heads": s.heads},
        **{"decoder_hidden_size": s.width, "decoder_num_hidden_layers": s.layers, "intermediate_size": 4 * s.dim},
        **{"decoder_num_attention_heads": s.decoder_heads, "decoder_intermediate_size": 4 * s.width},
        **{"layer_norm_eps": 1e-6, "attn_implementation": "sdpa"},
    )
    return Loss(ViTMAEForPreTraining(config))


class Lightly(nn.Module):
    """lightly's building blocks, composed as in its MAE example: only hidden patches are predicted."""

    def __init__(self, ours: nn.Module):
        super().__init__()
        from lightly.models import utils
        from lightly.models.modules import MAEDecoderTIMM, MaskedVisionTransformerTIMM

        s, self.utils = sizes(ours), utils
        self.patch, self.encoder = s.patch, MaskedVisionTransformerTIMM(timm_vit(s))
        warnings.filterwarnings("ignore", "MAEDecoderTIMM is deprecated")
        self.decoder = MAEDecoderTIMM(
            **{"num_patches": s.patches, "patch_size": s.patch, "embed_dim": s.dim, "decoder_embed_dim": s.width},
            **{"decoder_depth": s.layers, "decoder_num_heads": s.decoder_heads},
        )

    def forward(self, x: Tensor) -> Tensor:
        u, size = self.utils, (len(x), self.encoder.sequence_length)
        keep, hidden = u.random_token_mask(size, mask_ratio=0.75, device=x.device)  # (B, 1 + K), (B, M)
        seen = self.decoder.embed(self.encoder.encode(x, idx_keep=keep))  # (B, 1 + K, E)
        tokens = u.repeat_token(self.decoder.mask_token, size)  # (B, 1 + N, E)
        tokens = self.decoder.decode(u.set_at_index(tokens, keep, seen.type_as(tokens)))
        pred = self.decoder.predict(u.get_at_index(tokens, hidden))  # (B, M, P²C)
        target = u.get_at_index(u.patchify(x, self.patch), hidden - 1)  # (B, M, P²C)
        return F.mse_loss(pred, u.normalize_mean_var(target))


class Timm(nn.Module):
    """The straightforward way on timm's parts: embed every patch, keep a quarter, decode and score everything.

    It starts from our weights, so that the same draw of a mask gives the same loss.
    """

    def __init__(self, ours: nn.Module):
        super().__init__()
        from timm.models.vision_transformer import Block

        s = sizes(ours)
        self.patch, self.vit, self.embed = s.patch, timm_vit(s), nn.Linear(s.dim, s.width)
        self.vit.pos_embed.requires_grad_(False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, s.width))
        self.register_buffer("pos_embed", torch.zeros(1, 1 + s.patches, s.width))
        blocks = [Block(s.width, s.decoder_heads, qkv_bias=True, norm_layer=LAYER_NORM) for _ in range(s.layers)]
        self.blocks, self.norm = nn.Sequential(*blocks), LAYER_NORM(s.width)
        self.pred = nn.Linear(s.width, s.patch**2 * 3)
        named = {k: v for k, v in ours.state_dict().items() if k not in ("mean", "std")}
        self.load_state_dict({(f"vit.{k}").removeprefix("vit.decoder."): v for k, v in named.items()})

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.vit.patch_embed(x) + self.vit.pos_embed[:, 1:]  # (B, N, D)
        b, n, d = tokens.shape
        k = n // 4
        order = torch.rand(b, n, device=x.device).argsort(1)  # (B, N)
        back = order.argsort(1)  # (B, N)
        seen = tokens.gather(1, order[:, :k, None].expand(-1, -1, d))  # (B, K, D)
        cls = (self.vit.cls_token + self.vit.pos_embed[:, :1]).expand(b, -1, -1)  # (B, 1, D)
        seen = self.embed(self.vit.norm(self.vit.blocks(torch.cat([cls, seen], 1))))  # (B, 1 + K, E)
        every = torch.cat([seen[:, 1:], self.mask_token.expand(b, n - k, -1).to(seen.dtype)], 1)  # (B, N, E)
        every = every.gather(1, back[:, :, None].expand(-1, -1, every.shape[2]))  # in raster order
        every = torch.cat([seen[:, :1], every], 1) + self.pos_embed  # (B, 1 + N, E)
        pred = self.pred(self.norm(self.blocks(every)))[:, 1:]  # (B, N, P²C)
        target = patchify(x, self.patch)  # (B, N, P²C)
        mean, var = target.mean(-1, keepdim=True), target.var(-1, keepdim=True)
        loss = (pred - (target - mean) / (var + 1e-6).sqrt()).square().mean(-1)  # (B, N)
        hidden = (back >= k).float()
        return (loss * hidden).sum() / hidden.sum()


BUILD = {"ours": Loss, "transformers": transformers, "lightly": Lightly, "timm": Timm}


class Contender:
    """A model with its optimiser and its batch. Calling it trains `steps` times and says on how many images."""

    def __init__(self, name: str, row: Row, dtype: str, batch: int, device: str, steps: int = 1):
        torch.manual_seed(0)
        full = zoo.create(row.arch.removesuffix("_fast"), **row.args)
        model = zoo.create(row.arch, **row.args) if name == "ours" and row.fast else full
        x = torch.rand(batch, *full.takes.shape)
        self.x = (x if name == "ours" else (x - full.mean) / full.std).to(device)
        self.held = torch.cuda.memory_allocated() if device == "cuda" else 0  # by those built before
        self.model = self.run = BUILD[name](model).to(device).train()
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, 1e-4, (0.9, 0.95), weight_decay=0.05, fused=True)
        self.name, self.dtype, self.steps = name, dtype, steps
        self.parameters, self.compiled, self.memory = sum(p.numel() for p in trained), False, None

    def loss(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.dtype == "bfloat16"):
            return self.run(x)

    def __call__(self) -> int:
        for _ in range(self.steps):
            self.optimizer.zero_grad()
            loss = self.loss(self.x)
            loss.backward()
            self.optimizer.step()
        if not math.isfinite(loss.item()):  # which also waits for the device
            raise RuntimeError(f"{self.name}: the loss is {loss.item()}")
        return self.steps * len(self.x)

    def count(self) -> None:
        """Loss and FLOPs of two images before any step, forward and backward, attention as the products that it is."""
        torch.manual_seed(1)
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            loss = self.loss(self.x[:2])
            loss.backward()
        self.first, self.gflop = loss.item(), counter.get_total_flops() / 2e9

    def compile(self) -> None:
        self.run = torch.compile(self.model, fullgraph=self.name == "ours", dynamic=False)
        try:
            self.compiled = self() > 0
        except Exception as error:  # whatever a peer breaks with, it goes on uncompiled
            print(f"{self.name} does not compile: {type(error).__name__}: {str(error).strip()[:300]}")
            self.run = self.model


def verify(field: dict[str, Contender], dim: int) -> None:
    """Stop where a peer is not the same work: other parameters, or, with our weights in timm, another loss."""
    ours, tolerance = field["ours"], 1e-4 if field["ours"].dtype == "float32" else 1e-2
    for name, peer in field.items():
        if not 0 <= peer.parameters - ours.parameters <= dim:  # lightly's encoder has a mask token that is never used
            raise RuntimeError(f"{name} trains {peer.parameters:,} parameters, ours {ours.parameters:,}")
        if name == "timm" and not math.isclose(ours.first, peer.first, rel_tol=tolerance):
            raise RuntimeError(f"the same weights and masks give loss {ours.first} here and {peer.first} with timm")


def race(field: dict[str, Contender], repeats: int) -> dict[str, list[float]]:
    """Images a second of each, round by round. Another one begins each round; the first round is uncounted."""
    rates: dict[str, list[float]] = {name: [] for name in field}
    for round_ in range(repeats + 1):
        first = round_ % len(field)
        for name in [*field][first:] + [*field][:first]:
            start = time.perf_counter()
            items = field[name]()
            if round_:
                rates[name].append(items / (time.perf_counter() - start))
    return rates


# On a CPU the peak is a process's, so each contender gets its own.
CHILD = "from benchmarks import mae; print(mae.growth({!r}, mae.Row(*{!r}), {!r}, {!r}))"


def growth(name: str, row: Row, dtype: str, batch: int) -> int:
    """Bytes by which this process's high-water mark rises while a contender is built and makes two steps."""
    small = Row("", "mae_vit_tiny", 2, {"image_size": 32, "depth": 1, "decoder_depth": 1})
    marks = []
    for each in (small, row):  # imports, and what torch sets up at its first step, do not count
        Contender(name, each, dtype, batch if each is row else 2, "cpu", steps=2)()
        marks.append(harness.memory())
    return marks[1] - marks[0]


def measure(row: Row, dtype: str, args: argparse.Namespace) -> list[dict]:
    """One result for each peer."""
    batch, field = max(2, round(row.batch * args.batch_scale)), {}
    for name in ["ours", *(p for p in args.peers if p == "transformers" or not row.fast)]:
        c = field[name] = Contender(name, row, dtype, batch, args.device, args.steps)
        c.count()
        if args.compile:
            c.compile()
        c()
        if args.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            c()
            c.memory = torch.cuda.max_memory_allocated() - c.held
        elif args.memory:
            code = CHILD.format(name, tuple(row), dtype, batch)
            c.memory = int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout)
    ours, results = field["ours"], []
    if not row.fast:
        verify(field, ours.model.model.cls_token.shape[2])
    rates = race(field, args.repeats)
    for peer in list(field.values())[1:]:
        ratios = [a / b for a, b in zip(rates["ours"], rates[peer.name])]
        result = {"name": f"MAE step {row.title}, {dtype}, {peer.name}"}
        result |= {who: harness.median(rates[c.name]) for who, c in (("ours", ours), ("theirs", peer))}
        result |= {"ratio": harness.median(ratios), "ratio_range": [min(ratios), max(ratios)], "unit": "images/s"}
        result |= {"target": 1.8 if row.fast else 1.0, "peer": peer.name, "batch": batch, "dtype": dtype}
        result |= {"device": args.device, "compiled": [c.name for c in (ours, peer) if c.compiled]}
        for who, c in (("ours", ours), ("theirs", peer)):
            result |= {f"{who}_parameters": c.parameters, f"{who}_gflop_per_image": c.gflop}
            if c.memory is not None:
                result[f"{who}_peak_gb"] = c.memory / 1e9
            if args.device == "cuda":
                result[f"{who}_mfu"] = result[who] * c.gflop / 1e3 / args.peak_tflops
        results.append(result | ({"about": ABOUT_FAST} if row.fast else {}))
    return results


def main(argv: list[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--peers", nargs="+", choices=list(BUILD)[1:], help="default: those that are installed")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "both"), default="both", help="bfloat16 is autocast")
    parser.add_argument("--compile", action="store_true", help="everybody; ours as one graph")
    parser.add_argument("--memory", action="store_true", help="peaks on a CPU, uncompiled; CUDA always tells")
    parser.add_argument("--batch-scale", type=float, help="times a row's batch; default 1, on CUDA 32")
    parser.add_argument("--steps", type=int, help="of each in a round; default 1, on CUDA 20")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peak-tflops", type=float, default=989, help="of the GPU; H100 and H200 dense bfloat16")
    args = parser.parse_args(argv)
    args.batch_scale = args.batch_scale or (32 if args.device == "cuda" else 1)
    args.steps = args.steps or (20 if args.device == "cuda" else 1)
    args.peers = args.peers or [p for p in list(BUILD)[1:] if importlib.util.find_spec(p)]
    results = []
    for dtype in ("float32", "bfloat16") if args.dtype == "both" else (args.dtype,):
        for name in args.rows if args.peers else ():
            results += measure(ROWS[name], dtype, args)
            torch.compiler.reset()
            gc.collect()
    if not args.peers:
        print("nobody to race: pip install transformers timm lightly")
        return []
    return results


if __name__ == "__main__":
    print(harness.table(main()))
