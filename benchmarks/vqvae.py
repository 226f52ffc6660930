"""The whole training step of `vqvae_conv_small` against a plain loop around the same layers.

The plain loop is what tutorials show: distances of all pairs, one-hot rows, three products, Adam. Equal losses are
asserted first.
"""

import argparse
import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import harness
from zoo import hub
from zoo.families.vq.model import VQVAE


class Plain(nn.Module):
    """The same encoder and decoder, the quantiser of a tutorial."""

    def __init__(self, model: VQVAE):
        super().__init__()
        self.encoder, self.decoder, self.variance = model.encoder, model.decoder, model.variance
        quantizer = model.quantizer
        self.codes, self.sums = quantizer.codebook.clone(), quantizer.sums.clone()
        self.counts, self.decay, self.beta = quantizer.counts.clone(), quantizer.decay, quantizer.beta

    def forward(self, x: Tensor) -> Tensor:
        z = self.encoder(x - 0.5).permute(0, 2, 3, 1)  # (B, h, w, D)
        flat = z.reshape(-1, z.shape[-1])  # (N, D)
        distance = flat.square().sum(1, keepdim=True) - 2 * flat @ self.codes.T + self.codes.square().sum(1)  # (N, K)
        one_hot = F.one_hot(distance.argmin(1), len(self.codes)).to(flat.dtype)  # (N, K)
        q = (one_hot @ self.codes).reshape(z.shape)  # (B, h, w, D)
        loss = self.beta * (z - q.detach()).square().mean()
        with torch.no_grad():
            self.counts = self.decay * self.counts + (1 - self.decay) * one_hot.sum(0)
            self.sums = self.decay * self.sums + (1 - self.decay) * one_hot.T @ flat
            total = self.counts.sum()
            smoothed = (self.counts + 1e-5) / (total + len(self.codes) * 1e-5) * total
            self.codes = self.sums / smoothed[:, None]
        recon = self.decoder((z + (q - z).detach()).permute(0, 3, 1, 2)) + 0.5  # (B, C, H, W)
        return (recon - x).square().mean() / self.variance + loss


def pair(codes: int) -> tuple[VQVAE, Plain]:
    """Both with the same weights."""
    torch.manual_seed(0)
    model = hub.build("vqvae_conv_small", {"codebook_size": codes}).train()
    return model.to(memory_format=torch.channels_last), Plain(
        copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    )


def race(batch: int, codes: int, repeats: int) -> dict:
    ours, theirs = pair(codes)
    x = torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    adam = torch.optim.Adam(ours.parameters(), 3e-4, fused=True)
    plain = torch.optim.Adam(theirs.parameters(), 3e-4)
    channels_last = x.contiguous(memory_format=torch.channels_last)

    def step_ours() -> float:
        loss = ours(channels_last).loss
        loss.backward()
        adam.step()
        adam.zero_grad()
        return loss.item()

    def step_theirs() -> float:
        loss = theirs(x)
        loss.backward()
        plain.step()
        plain.zero_grad()
        return loss.item()

    for i in range(3):
        a, b = step_ours(), step_theirs()
        assert abs(a - b) < 1e-3 * b, f"losses {a} and {b} in step {i}"

    def work_ours() -> int:
        step_ours()
        return batch

    def work_theirs() -> int:
        step_theirs()
        return batch

    return harness.compare(f"VQ-VAE step, batch {batch}, {codes} codes", work_ours, work_theirs, repeats)


def main(argv: list[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args(argv)
    results = [race(batch, codes, args.repeats) for batch, codes in ((32, 512), (128, 512), (128, 8192))]
    return results


if __name__ == "__main__":
    print(harness.table(main()))
