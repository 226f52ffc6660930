"""Several quantisers for one token: one after the other, or side by side."""

import torch
from torch import Tensor, nn

from zoo.families.vq.quantize.common import (
    QuantizeOutput,
    Quantizer,
    check_indices,
    full_precision,
    straight_through,
)
from zoo.nn.checks import check_floats


class Residual(Quantizer):
    """Each stage quantises what the stages before it left over; codes add up (Zeghidour et al. 2021, §III.C).

    One quantiser may be given several times: its running means then see all stages before they move.

    Raises:
        ValueError: no stage, stages of different widths, or one with several indices of its own.
    """

    def __init__(self, *stages: Quantizer):
        super().__init__()
        if not stages or any(s.num_codebooks != 1 or s.code_dim != stages[0].code_dim for s in stages):
            raise ValueError("stages are one or more quantisers of one index and the same width")
        self.stages = nn.ModuleList(stages)
        self.num_codebooks, self.code_dim, self.codebook_size = len(stages), stages[0].code_dim, stages[0].codebook_size

    def forward(self, z: Tensor, mask: Tensor | None = None, update: bool | None = None) -> QuantizeOutput:
        """Tokens (…, D) → sums of codes; indices are (…, stages)."""
        outs, rest = [], z
        for i, stage in enumerate(self.stages):
            comes_again = any(stage is later for later in self.stages[i + 1 :])
            outs.append(stage(rest, mask, False if comes_again else update))
            rest = rest - outs[-1].z_q.detach()
        q = _sum([o.z_q for o in outs])
        if self.training:
            q = straight_through(z if mask is None else z * mask[..., None], q.detach())
        return QuantizeOutput(q, torch.stack([o.indices for o in outs], -1), *_merged(outs))

    def encode(self, z: Tensor) -> Tensor:
        """Tokens (…, D) → indices (…, stages) int64."""
        indices = []
        for stage in _quantizers(self.stages):
            indices.append(stage.encode(z))
            z = z - stage.decode(indices[-1])
        return torch.stack(indices, -1)

    def decode(self, indices: Tensor) -> Tensor:
        """Indices (…, stages) int64 → codes (…, D)."""
        stages = _quantizers(self.stages)
        check_indices(indices, max(s.codebook_size for s in stages), len(stages))
        return _sum([stage.decode(i) for stage, i in zip(stages, indices.unbind(-1))])


class Product(Quantizer):
    """Slices of a token, each with a quantiser of its own (Jégou et al. 2011).

    Raises:
        ValueError: no part, or one with several indices of its own.
    """

    def __init__(self, *parts: Quantizer):
        super().__init__()
        if not parts or any(p.num_codebooks != 1 for p in parts):
            raise ValueError("parts are one or more quantisers of one index each")
        self.parts = nn.ModuleList(parts)
        self.widths = [p.code_dim for p in parts]
        self.num_codebooks, self.code_dim, self.codebook_size = len(parts), sum(self.widths), parts[0].codebook_size

    def forward(self, z: Tensor, mask: Tensor | None = None, update: bool | None = None) -> QuantizeOutput:
        """Tokens (…, D) → codes side by side; indices are (…, parts)."""
        with full_precision(z):
            outs = [part(x, mask, update) for part, x in zip(self.parts, self._slices(z))]
            q = torch.cat([o.z_q for o in outs], -1)  # (…, D)
        return QuantizeOutput(q, torch.stack([o.indices for o in outs], -1), *_merged(outs))

    def encode(self, z: Tensor) -> Tensor:
        """Tokens (…, D) → indices (…, parts) int64."""
        return torch.stack([part.encode(x) for part, x in zip(_quantizers(self.parts), self._slices(z))], -1)

    def decode(self, indices: Tensor) -> Tensor:
        """Indices (…, parts) int64 → codes (…, D)."""
        parts = _quantizers(self.parts)
        check_indices(indices, max(p.codebook_size for p in parts), len(parts))
        return torch.cat([part.decode(i) for part, i in zip(parts, indices.unbind(-1))], -1)

    def _slices(self, z: Tensor) -> tuple[Tensor, ...]:
        check_floats(z, "tokens", ("…", self.code_dim), f"the parts take {' + '.join(map(str, self.widths))}")
        return z.split(self.widths, -1)


def _quantizers(modules: nn.ModuleList) -> list[Quantizer]:
    """What a list of quantisers holds; torch says of its entries only that they are modules."""
    quantizers = [m for m in modules if isinstance(m, Quantizer)]
    assert len(quantizers) == len(modules)
    return quantizers


def _merged(outs: list[QuantizeOutput]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Sums of the losses and means of the figures of several quantisers."""
    losses = {k: _sum([o.losses[k] for o in outs if k in o.losses]) for o in outs for k in o.losses}
    stats = {k: torch.stack([o.stats[k] for o in outs if k in o.stats]).mean() for o in outs for k in o.stats}
    return losses, stats


def _sum(tensors: list[Tensor]) -> Tensor:
    return sum(tensors[1:], tensors[0])
