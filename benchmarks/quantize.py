"""A quantiser's training step against vector-quantize-pytorch's, the same codes and codebooks asserted first.

Forward, backward and the running means of N tokens; extra memory is the peak of a step over what was there before it.
Scalar codebooks race a loop over the latents, as the published ports of QLAE do it.
"""

import argparse
import subprocess
import sys

import torch
from torch import Tensor
from vector_quantize_pytorch import VectorQuantize

from benchmarks import harness
from zoo.families.vq.quantize import ScalarCodebooks, VectorQuantizer

SIZES = ((16_384, 1024, 64), (16_384, 8192, 8), (4096, 512, 64))  # N, K, D


def pair(k: int, d: int) -> tuple[VectorQuantizer, VectorQuantize]:
    """Both with the same codebook and the same rules."""
    ours = VectorQuantizer(k, d, decay=0.99, beta=1.0)
    theirs = VectorQuantize(d, k, decay=0.99, commitment_weight=1.0, rotation_trick=False)
    torch.manual_seed(0)
    codes = torch.randn(k, d)
    for buffer in (ours.codebook, ours.sums, theirs._codebook.embed[0], theirs._codebook.embed_avg[0]):
        buffer.data.copy_(codes)
    return ours, theirs


def step_ours(quantizer: VectorQuantizer, z: Tensor) -> Tensor:
    out = quantizer(z)
    (out.z_q.square().mean() + sum(out.losses.values())).backward()
    return out.indices


def step_theirs(quantizer: VectorQuantize, z: Tensor) -> Tensor:
    q, indices, loss = quantizer(z)
    (q.square().mean() + loss.sum()).backward()
    return indices


def check(n: int, k: int, d: int) -> None:
    """Ten steps give the same indices, gradients and buffers."""
    ours, theirs = pair(k, d)
    for i in range(10):
        z = torch.randn(1, n, d, generator=torch.Generator().manual_seed(i))
        a, b = z.clone().requires_grad_(), z.clone().requires_grad_()
        assert torch.equal(step_ours(ours, a), step_theirs(theirs, b)), f"other indices in step {i}"
        assert torch.allclose(a.grad, b.grad, atol=1e-7), f"other gradients in step {i}"
    book = theirs._codebook
    for x, y in ((ours.codebook, book.embed[0]), (ours.counts, book.cluster_size[0]), (ours.sums, book.embed_avg[0])):
        assert torch.allclose(x, y, atol=1e-5), "other buffers after ten steps"


def extra_memory(who: int, n: int, k: int, d: int) -> int:
    """Bytes a first step adds to the process's peak, measured in a process of its own."""
    code = f"""
import re, torch
from pathlib import Path
from benchmarks import quantize as b
q, step = b.pair({k}, {d})[{who}], (b.step_ours, b.step_theirs)[{who}]
peak = lambda: int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
step(q, torch.randn(1, 64, {d}, requires_grad=True))
z = torch.randn(1, {n}, {d}, requires_grad=True)
before = peak()
step(q, z)
print((peak() - before) * 1024)
"""
    return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout)


def loop_over_latents(values: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """The plain way: a latent at a time, the distance to each of its values."""
    indices = torch.stack([(z[:, i, None] - values[i]).abs().argmin(-1) for i in range(len(values))], 1)  # (N, L)
    return torch.stack([values[i][indices[:, i]] for i in range(len(values))], 1), indices


def scalars(n: int, latents: int, values: int, repeats: int) -> dict:
    """Looking up 65,536 × 12 latents among 10 values each."""
    ours = ScalarCodebooks(latents, values).eval()
    torch.manual_seed(0)
    ours.values.data += 0.02 * torch.randn(latents, values)
    z = torch.randn(n, latents) / 3
    q, indices = loop_over_latents(ours.values, z)
    assert torch.equal(ours.encode(z), indices)
    assert torch.equal(ours(z).z_q, q)

    def work_ours() -> int:
        with torch.no_grad():
            ours.decode(ours.encode(z))
        return n

    def work_theirs() -> int:
        with torch.no_grad():
            loop_over_latents(ours.values, z)
        return n

    name = f"scalar codebooks, {latents} latents of {values} values"
    return harness.compare(name, work_ours, work_theirs, repeats, unit="tokens/s")


def main(argv: list[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args(argv)
    results = []
    for n, k, d in SIZES:
        check(min(n, 2048), k, d)
        ours, theirs = pair(k, d)
        z = torch.randn(1, n, d, requires_grad=True)

        def work_ours() -> int:
            step_ours(ours, z)  # noqa: B023, run in this round only
            return n  # noqa: B023

        def work_theirs() -> int:
            step_theirs(theirs, z)  # noqa: B023
            return n  # noqa: B023

        result = harness.compare(f"vector quantiser, K {k}, D {d}, N {n}", work_ours, work_theirs, args.repeats)
        memory = [extra_memory(who, n, k, d) for who in (0, 1)]
        result |= {
            "ours_extra_mb": memory[0] / 1e6,
            "theirs_extra_mb": memory[1] / 1e6,
            "unit": "tokens/s",
            "target": 5,
        }
        results.append(result)
    results.append(scalars(65_536, 12, 10, args.repeats) | {"target": 10})
    return results


if __name__ == "__main__":
    print(harness.table(main()))
