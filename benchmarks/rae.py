"""RAE against diffusers' AutoencoderRAE with the same weights: encode and decode, and the steps of both stages.

"step" is L1 and AdamW; "adversarial step" also trains a discriminator, on reconstructions that are made again: theirs,
as the authors' code does, encoder and all, ours by the decoder alone. "step, tokens cached" reads what the frozen
encoder gives. "stage 2" is DiT^DH's step on cached latents against one that encodes its images. Equal outputs are
asserted first.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks import harness
from zoo import hub
from zoo.families.rae import encoder as encoders
from zoo.families.rae.model import RAE
from zoo.hub import foreign
from zoo.train import adversarial

# encoder of timm, arch, args of theirs, images at a time
ROWS = {
    "tiny": ("timm:vit_small_patch14_reg4_dinov2.lvd142m", "rae_vit_base", (384, 192, 6, 3, 768), 4),
    "base": ("timm:vit_base_patch14_reg4_dinov2.lvd142m", "rae_vit_base", (768, 768, 12, 12, 3072), 2),
}
WORK = ("encode and decode", "step", "adversarial step", "step, tokens cached", "stage 2")
SETTINGS = ("float32", "bfloat16", "compiled, bfloat16")


def pair(row: str) -> tuple[RAE, nn.Module]:
    """Ours and theirs with the same random weights."""
    from diffusers import AutoencoderRAE

    torch.manual_seed(0)
    name, arch, (channels, dim, depth, heads, hidden), _ = ROWS[row]
    theirs = AutoencoderRAE(
        "dinov2",
        encoder_hidden_size=channels,
        decoder_hidden_size=dim,
        decoder_num_hidden_layers=depth,
        decoder_num_attention_heads=heads,
        decoder_intermediate_size=hidden,
        image_size=256,
    )
    state = {k: v.clone() for k, v in theirs.state_dict().items()}
    ours = foreign.convert(state, arch, encoder=name, heads=heads, noise=0.0)
    return ours, theirs


def stepper(loss: Callable[[], Tensor], *modules: nn.Module) -> Callable[[], Tensor]:
    parameters = [p for m in modules for p in m.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, 1e-5, fused=True)

    def step() -> Tensor:
        found = loss()
        found.backward()
        optimizer.step()
        optimizer.zero_grad()
        return found.detach()

    return step


def adversary(device: str) -> adversarial.TokenDiscriminator:
    """A discriminator that sees through a random ViT-S/16 at 224 px."""
    torch.manual_seed(1)
    vit = encoders.create_timm("timm:vit_small_patch16_224.dino", 224)
    eyes = encoders.FrozenEncoder(vit, 224, (0.5,) * 3, (0.5,) * 3).to(device)
    return adversarial.TokenDiscriminator(lambda x: eyes.taps(x, (2, 5, 8, 11)), 384, 5).to(device)


def fight(recon: Callable[[], Tensor], again: Callable[[Tensor], Tensor], x: Tensor, judge: nn.Module, last: Tensor):
    """An adversarial step: `again` gives the reconstructions that the discriminator learns from."""
    learner = torch.optim.AdamW(judge.parameters(), 1e-5, fused=True)

    def loss() -> Tensor:
        fake, real = 2 * recon() - 1, 2 * x - 1
        judge.requires_grad_(False)
        l1, against = (fake - real).abs().mean(), adversarial.generator_loss(judge(fake))
        found = l1 + 0.75 * adversarial.adaptive_weight(l1, against, last) * against
        judge.requires_grad_(True)
        adversarial.discriminator_loss(judge(real), judge(again(fake).detach())).backward()
        learner.step()
        learner.zero_grad()
        return found

    return loss


def works(row: str, what: str, x: Tensor, compiled: bool, device: str) -> tuple[Callable, Callable]:
    """One call of each."""
    ours, theirs = (m.to(device) for m in pair(row))
    ours.encode(x)  # loads the encoder
    if compiled:
        ours.decoder.compile()
        ours.encoder.compile()
        theirs.encoder.compile()
        theirs.decoder.compile()
    if what == "encode and decode":
        return lambda: ours.reconstruct(x), lambda: theirs.decode(theirs.encode(x).latent).sample.clamp(0, 1)
    if what == "stage 2":
        shape = {"latent_channels": ours.latent_channels, "dim": (384, 768), "depth": (6, 2), "heads": (6, 12)}
        dits = [hub.create("ditdh_s", **shape).to(device).train() for _ in range(2)]
        z = ours.encode(x)
        if compiled:
            for dit in dits:
                dit.compile()
        return stepper(lambda: dits[0](z).loss, dits[0]), stepper(
            lambda: dits[1](theirs.encode(x).latent).loss, dits[1]
        )
    ours, theirs = ours.train(), theirs.train()
    theirs.encoder.eval()

    def reconstruct() -> Tensor:
        return theirs.decode(theirs.encode(x).latent).sample

    if what == "adversarial step":
        kept: list[Tensor] = []

        def encoded_once() -> Tensor:
            kept[:] = [ours.encode(x)]
            return ours.decode_unclamped(kept[0])

        def decoded_again(fake: Tensor) -> Tensor:
            with torch.no_grad():
                return 2 * ours.decode_unclamped(kept[0]) - 1

        once = fight(encoded_once, decoded_again, x, adversary(device), ours.decoder.head.weight)

        def again(fake: Tensor) -> Tensor:
            with torch.no_grad():
                return 2 * reconstruct() - 1

        twice = fight(reconstruct, again, x, adversary(device), theirs.decoder.decoder_pred.weight)
        return stepper(once, ours), stepper(twice, theirs.decoder)
    z = ours.encode(x)
    mine = (lambda: ours(x).loss) if what == "step" else (lambda: (ours.decode_unclamped(z) - x).abs().mean())
    return stepper(mine, ours), stepper(lambda: (reconstruct() - x).abs().mean(), theirs.decoder)


def race(row: str, what: str, setting: str, args: argparse.Namespace) -> dict:
    batch = args.batch or ROWS[row][3]
    x = torch.rand(batch, 3, 256, 256, generator=torch.Generator().manual_seed(0)).to(args.device)
    mine, other = works(row, what, x, "compiled" in setting, args.device)
    half, training = "bfloat16" in setting, what != "encode and decode"

    def run(work: Callable) -> Callable[[], int]:
        def timed() -> int:
            with torch.autocast(args.device, torch.bfloat16, enabled=half), torch.set_grad_enabled(training):
                for _ in range(args.steps):
                    timed.out = work()
            if args.device == "cuda":
                torch.cuda.synchronize()
            return batch * args.steps

        return timed

    mine, other = run(mine), run(other)
    mine(), other()
    a, b = mine.out.float(), other.out.float()
    if what != "stage 2" and (a - b).norm() > 0.05 * b.norm():
        raise RuntimeError(f"{row} {what} {setting}: outputs differ by {(a - b).norm() / b.norm():.3f}")
    facts = {"row": row, "what": what, "setting": setting, "batch": batch, "device": args.device}
    return harness.compare(f"{what}, RAE {row}, {setting}", mine, other, args.repeats, **facts)


# On a CPU the peak is a process's, so each side gets its own.
CHILD = "from benchmarks import rae as r; print(r.peak({!r}, {!r}, {}, {}))"


def peak(row: str, what: str, side: int, batch: int) -> int:
    """Bytes that a call adds to what this process holds, at most (Linux); side 0 is ours, 1 theirs."""
    x = torch.rand(batch, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    call = works(row, what, x, compiled=False, device="cpu")[side]
    with torch.set_grad_enabled(what != "encode and decode"):
        call()
        Path("/proc/self/clear_refs").write_text("5")  # the high water falls to what is held
        before = harness.memory()
        call()
    return harness.memory() - before


def memory(row: str, what: str, args: argparse.Namespace) -> list[float]:
    """GB of ours and theirs."""
    batch, found = args.batch or ROWS[row][3], []
    freed = {
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
    }  # what is freed is given back at once
    for side in (0, 1):
        child = [sys.executable, "-c", CHILD.format(row, what, side, batch)]
        done = subprocess.run(child, capture_output=True, text=True, check=True, env=os.environ | freed)
        found.append(int(done.stdout.splitlines()[-1]) / 1e9)
    return found


def main(argv: list[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="+", default=["tiny"], choices=ROWS)
    parser.add_argument("--work", nargs="+", default=WORK, choices=WORK)
    parser.add_argument("--settings", nargs="+", default=SETTINGS[:2], choices=SETTINGS)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args(argv)
    results = []
    for row in args.rows:
        for what in args.work:
            for setting in args.settings:
                torch.compiler.reset()
                results.append(race(row, what, setting, args))
                print(harness.table(results[-1:]), flush=True)
            if args.device == "cpu":
                mine, other = memory(row, what, args)
                found = {"name": f"{what}, RAE {row}: peak memory", "row": row, "what": what}
                results.append(found | {"ours_peak_gb": mine, "theirs_peak_gb": other})
    return results


if __name__ == "__main__":
    print(harness.table(main()))
