"""DC-AE against diffusers' AutoencoderDC: encode, decode and a training step, the same weights, and memory of tiles.

"same": both eager or both compiled, in the same precision, both channels-last. "default": theirs as from_pretrained
gives it (float32, channels first) against our `fused()`. "best": theirs with channels-last, bfloat16 and a compiler
against our `fused()` compiled. Equal outputs are asserted first.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks import harness
from zoo import hub
from zoo.families.dcae.convert import to_diffusers
from zoo.families.dcae.model import DCAE

# arch, side in px, images at a time of encode and decode, of a step
ROWS = {
    "f32c32": ("dcae_f32c32", 256, 1, 1),
    "sana": ("dcae_f32c32_sana", 256, 1, 1),
    "tiny_f8": ("dcae_tiny_f8c4", 64, 16, 16),
    "tiny_f32": ("dcae_tiny_f32c64", 64, 16, 16),
}
WORK = ("encode", "decode", "step")
SETTINGS = ("same float32", "same bfloat16", "same compiled", "default", "best")


def pair(arch: str) -> tuple[DCAE, nn.Module]:
    """Ours and theirs with the same random weights."""
    from diffusers import AutoencoderDC

    torch.manual_seed(0)
    ours = hub.build(arch, {}).eval()
    state, config = to_diffusers(ours)
    theirs = AutoencoderDC.from_config(config).eval()
    theirs.load_state_dict(state)
    return ours, theirs


def works(ours: DCAE, theirs: nn.Module, what: str, x: Tensor, z: Tensor) -> tuple[Callable, Callable]:
    """One call of each."""
    if what == "encode":
        return lambda: ours.encode(x), lambda: theirs.encode(2 * x - 1).latent
    if what == "decode":
        return lambda: ours.decode(z), lambda: (theirs.decode(z).sample + 1) / 2
    return _step(ours, lambda: ours(x).loss), _step(
        theirs, lambda: ((theirs(2 * x - 1).sample + 1) / 2 - x).abs().mean()
    )


def _step(model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], Tensor]:
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5, fused=True)

    def step() -> Tensor:
        found = loss()
        found.backward()
        optimizer.step()
        optimizer.zero_grad()
        return found.detach()

    return step


def race(row: str, what: str, setting: str, args: argparse.Namespace) -> dict | None:
    arch, size, batch, of_step = ROWS[row]
    size, batch = args.size or size, of_step if what == "step" else batch
    ours, theirs = (m.to(args.device) for m in pair(arch))
    training, compiled = what == "step", setting in ("same compiled", "best")
    if training and setting == "default":
        return None
    x = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0)).to(args.device)
    with torch.no_grad():
        z = ours.encode(x)
    half = setting in ("same bfloat16", "same compiled", "best")
    if setting != "default":
        ours, theirs = (m.to(memory_format=torch.channels_last) for m in (ours, theirs))
    if training:
        ours, theirs = ours.train(), theirs.train()
    elif half or setting == "default":
        ours = ours.fused() if setting in ("default", "best") else ours.bfloat16()
        theirs = theirs.bfloat16() if half else theirs
    if compiled:
        for model in (ours, theirs):
            model.encode, model.decode = torch.compile(model.encode), torch.compile(model.decode)
            if training:
                model.compile()
    kind = next(theirs.parameters()).dtype
    mine, other = works(ours, theirs, what, x, z)[0], works(ours, theirs, what, x.to(kind), z.to(kind))[1]

    def run(work: Callable) -> Callable[[], int]:
        def timed() -> int:
            for _ in range(args.steps):
                with (
                    torch.autocast(args.device, torch.bfloat16, enabled=training and half),
                    torch.set_grad_enabled(training),
                ):
                    timed.out = work()
            if args.device == "cuda":
                torch.cuda.synchronize()
            return batch * args.steps

        return timed

    mine, other = run(mine), run(other)
    mine(), other()
    a, b = mine.out.float(), other.out.float().clamp(0, 1) if what == "decode" else other.out.float()
    if (a - b).norm() > 0.05 * b.norm():
        raise RuntimeError(f"{row} {what} {setting}: outputs differ by {(a - b).norm() / b.norm():.3f}")
    facts = {"row": row, "what": what, "setting": setting, "batch": batch, "px": size, "device": args.device}
    return harness.compare(f"{what} {arch} {size} px, {setting}", mine, other, args.repeats, **facts)


# On a CPU the peak is a process's, so each way gets its own.
CHILD = "from benchmarks import dcae as d; print(d.peak({!r}, {!r}, {}))"


def peak(arch: str, way: str, size: int) -> int:
    """Bytes that decoding an image of so many px adds to what this process holds, at most (Linux)."""
    model = hub.build(arch, {}).eval()
    with torch.no_grad():
        model.decode(torch.zeros(1, model.latent_channels, 2, 2))
        Path("/proc/self/clear_refs").write_text("5")  # the high water falls to what is held
        before = harness.memory()
        z = torch.randn(1, model.latent_channels, size // model.factor, size // model.factor)
        if way == "tiled":
            tile = 256 // model.factor
            model.decode_tiled(z, tile, tile // 4)
        else:
            model.decode(z)
    return harness.memory() - before


def memory(arch: str, size: int) -> dict:
    """The peak of tiled against whole decoding."""
    found = {}
    for way in ("whole", "tiled"):
        out = subprocess.run(
            [sys.executable, "-c", CHILD.format(arch, way, size)], check=True, capture_output=True
        ).stdout
        found[f"{way}_gb"] = int(out) / 1e9
    return {"name": f"peak of decoding {size} px, {arch}, tiles of 256 px", **found}


def main(argv: list[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=list(ROWS))
    parser.add_argument("--what", nargs="*", choices=WORK, default=list(WORK))
    parser.add_argument("--settings", nargs="*", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--size", type=int, help="px, instead of the row's")
    parser.add_argument("--memory", type=int, nargs="*", default=[2048], help="sides in px of decoding's peaks")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, help="in a round; default 1, on CUDA 10")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args(argv)
    args.steps = args.steps or (10 if args.device == "cuda" else 1)
    results = []
    for row in args.rows:
        for what in args.what:
            for setting in args.settings:
                found = race(row, what, setting, args)
                if found:
                    results.append(found)
                    print(harness.table([found]), flush=True)
                torch.compiler.reset()
    results += [memory("dcae_tiny_f8c4", size) for size in args.memory]
    return results


if __name__ == "__main__":
    print(harness.table(main()))
