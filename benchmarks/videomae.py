"""A masked autoencoder of video: the whole training step against transformers' by turns, and clips a second from mp4.

Both have the same encoder, decoder, tube mask of 0.9, target, clips, dtype and optimiser; transformers' gets clips that
are normalised and masks that are drawn already, ours does both within its step. "dual" is V2's: half of the hidden
cubes are decoded, the peer's model is full.
"""

import argparse
import importlib.util
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

import zoo
from benchmarks import harness


class Row(NamedTuple):
    title: str
    arch: str
    batch: int  # that two CPU threads bear
    target: float


ROWS = {
    "small": Row("ViT-S/16 16×224 px", "videomae_vit_small", 4, 1.2),
    "base": Row("ViT-B/16 16×224 px", "videomae_vit_base", 2, 1.2),
    "small-dual": Row("ViT-S/16 16×224 px dual", "videomae_v2_vit_small", 4, 1.6),
    "base-dual": Row("ViT-B/16 16×224 px dual", "videomae_v2_vit_base", 2, 1.6),
}


class Ours(nn.Module):
    """Clips in [0, 1] → loss."""

    def __init__(self, row: Row):
        super().__init__()
        dual = {"decode": "running_cell_hidden"} if "v2" in row.arch else {}
        self.model = zoo.create(row.arch, **dual)

    def inputs(self, batch: int) -> Tensor:
        return torch.rand(batch, *self.model.takes.shape)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).loss


class Transformers(nn.Module):
    """Normalised clips → loss, the mask given; its patch embedding sees every cube."""

    def __init__(self, row: Row):
        super().__init__()
        from transformers import VideoMAEConfig, VideoMAEForPreTraining

        self.ours = [zoo.create(row.arch.replace("_v2", ""))]  # in a list: not a part of this module
        m = self.ours[0]
        width = m.decoder.pred.in_features
        config = VideoMAEConfig(
            **{"hidden_size": m.norm.weight.numel(), "num_hidden_layers": len(m.blocks), "norm_pix_loss": True},
            **{"num_attention_heads": m.blocks[0].attn.heads, "intermediate_size": m.blocks[0].mlp.fc1.out_features},
            **{"decoder_hidden_size": width, "decoder_intermediate_size": 4 * width, "layer_norm_eps": 1e-6},
            **{
                "decoder_num_hidden_layers": len(m.decoder.blocks),
                "attn_implementation": "sdpa",
                "use_mean_pooling": False,
            },
            **{"decoder_num_attention_heads": m.decoder.blocks[0].attn.heads},
        )
        self.model = VideoMAEForPreTraining(config)

    def inputs(self, batch: int) -> Tensor:
        m = self.ours[0]
        kept = m.draw(1)[:, : m.num_keep].expand(batch, -1)
        self.register_buffer("hidden", torch.ones(batch, m.num_cubes, dtype=torch.bool).scatter(1, kept, False))
        return (torch.rand(batch, *m.takes.shape) - m.mean[:, None, None]) / m.std[:, None, None]

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x, bool_masked_pos=self.hidden[: len(x)]).loss


class Contender:
    """A model with its optimiser and its batch. Calling it trains `steps` times and says on how many clips."""

    def __init__(self, kind: type[nn.Module], row: Row, dtype: str, batch: int, device: str, steps: int = 1):
        torch.manual_seed(0)
        self.model = kind(row)
        x = self.model.inputs(batch)
        self.model, self.x = self.model.to(device).train(), x.to(device)
        self.run, self.dtype, self.steps = self.model, dtype, steps
        self.parameters = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-4, (0.9, 0.95), weight_decay=0.05, fused=True)

    def __call__(self) -> int:
        for _ in range(self.steps):
            self.optimizer.zero_grad()
            with torch.autocast(self.x.device.type, torch.bfloat16, enabled=self.dtype == "bfloat16"):
                loss = self.run(self.x)
            loss.backward()
            self.optimizer.step()
        if not math.isfinite(loss.item()):  # which also waits for the device
            raise RuntimeError(f"{type(self.model).__name__}: the loss is {loss.item()}")
        return self.steps * len(self.x)


# On a CPU the peak is a process's, so each contender gets its own.
CHILD = "from benchmarks import videomae as v; print(v.peak(v.{}, v.ROWS[{!r}], {!r}, {!r}))"


def peak(kind: type[nn.Module], row: Row, dtype: str, batch: int) -> int:
    """This process's high-water mark in bytes after a contender was built and made two steps."""
    Contender(kind, row, dtype, batch, "cpu", steps=2)()
    return harness.memory()


def step(name: str, dtype: str, args: argparse.Namespace) -> dict:
    """Clips a second of a training step, ours and transformers'."""
    row = ROWS[name]
    batch = max(2, round(row.batch * args.batch_scale))
    facts = {"dtype": dtype, "batch": batch, "device": args.device, "unit": "clips/s", "target": row.target}
    pair = {}
    for kind in (Ours, Transformers):
        c = pair[kind] = Contender(kind, row, dtype, batch, args.device, args.steps)
        if args.compile:
            c.run = torch.compile(c.model, fullgraph=kind is Ours, dynamic=False)
            try:
                c()
            except Exception as error:  # whatever a peer breaks with, it goes on uncompiled
                print(f"{kind.__name__} does not compile: {type(error).__name__}: {str(error).strip()[:300]}")
                c.run = c.model
        who = "ours" if kind is Ours else "theirs"
        facts |= {f"{who}_compiled": c.run is not c.model, f"{who}_parameters": c.parameters}
        if args.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
            c()
            facts[f"{who}_peak_gb"] = (torch.cuda.max_memory_allocated() - held) / 1e9
        elif args.memory:
            code = CHILD.format(kind.__name__, name, dtype, batch)
            out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout
            facts[f"{who}_peak_gb"] = int(out) / 1e9
    if facts["ours_parameters"] - facts["theirs_parameters"] != keys_bias(pair[Ours].model.model):
        raise RuntimeError(f"not the same model: {facts}")
    result = harness.compare(f"VideoMAE step {row.title}, {dtype}", *pair.values(), args.repeats)
    return result | facts


def keys_bias(model: nn.Module) -> int:
    """Our key biases are kept, as zeros without a gradient; transformers has none."""
    return sum(len(b.attn.qkv.bias) // 3 for b in [*model.blocks, *model.decoder.blocks])


def data(args: argparse.Namespace) -> list[dict]:
    """Clips a second from mp4 files of 300 frames, 320×240: four clips of one decoding against four decodings."""
    from zoo.data.clips import ClipData

    with tempfile.TemporaryDirectory() as folder:
        for i in range(16):
            write_video(Path(folder) / "train" / "a" / f"{i}.mp4", seed=i)
            if i == 0:
                write_video(Path(folder) / "val" / "a" / f"{i}.mp4", seed=i)

        def epoch(repeats: int) -> int:
            set_ = ClipData(folder, batch_size=16, repeats=repeats, num_workers=2, seed=0)
            set_.setup("fit")
            clips, times = 0, 4 // repeats  # as many clips of each
            for _ in range(times):
                clips += sum(x.shape[0] * x.shape[1] for x, _, _ in set_.train_dataloader())  # (B, R, …)
            return clips

        result = harness.compare("clips from mp4, 4 a decoding", lambda: epoch(4), lambda: epoch(1), args.repeats)
        result |= {"unit": "clips/s", "about": "16 of 224 px and stride 4; theirs decodes for each clip"}
        set_ = ClipData(folder, batch_size=16, repeats=4, num_workers=2, seed=0)
        set_.setup("fit")
        train = Contender(Ours, ROWS["small"], "bfloat16", 16, args.device)
        train()
        waited = worked = 0.0
        stream = iter(set_.train_dataloader())
        while True:
            start = time.perf_counter()
            batch = next(stream, None)
            waited += time.perf_counter() - start
            if batch is None:
                break
            start = time.perf_counter()
            train.x = set_.on_after_batch_transfer([batch[0].to(args.device), *batch[1:]], 0)[0]
            train()
            worked += time.perf_counter() - start
    share = {"name": "share of ViT-S steps spent waiting for clips", "share": waited / (waited + worked)}
    return [result, share | {"device": args.device, "workers": 2, "batch": 16}]


def write_video(path: Path, seed: int) -> None:
    """300 frames of drifting noise, coded by x264 as cameras' files are."""
    import av
    import numpy as np

    path.parent.mkdir(parents=True, exist_ok=True)
    scene = np.random.default_rng(seed).integers(0, 255, (30, 40, 3), np.uint8).repeat(16, 0).repeat(16, 1)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", 30)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for i in range(300):
            pixels = np.ascontiguousarray(np.roll(scene, (i, 2 * i), (0, 1))[:240, :320])
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        out.mux(stream.encode())


def main(argv: list[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="*", choices=[*ROWS, "data"], default=[*ROWS, "data"])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "both"), default="both", help="bfloat16 is autocast")
    parser.add_argument("--compile", action="store_true", help="both; ours as one graph")
    parser.add_argument("--memory", action="store_true", help="peaks of the processes on a CPU; CUDA always tells")
    parser.add_argument("--batch-scale", type=float, help="times a row's batch; default 1, on CUDA 8")
    parser.add_argument("--steps", type=int, help="of each in a round; default 1, on CUDA 10")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args(argv)
    args.batch_scale = args.batch_scale or (8 if args.device == "cuda" else 1)
    args.steps = args.steps or (10 if args.device == "cuda" else 1)
    if not importlib.util.find_spec("transformers"):
        print("nobody to race: pip install transformers")
        return []
    results = []
    for dtype in ("float32", "bfloat16") if args.dtype == "both" else (args.dtype,):
        results += [step(name, dtype, args) for name in args.rows if name != "data"]
        torch.compiler.reset()
    results += data(args) if "data" in args.rows else []
    return results


if __name__ == "__main__":
    print(harness.table(main()))
