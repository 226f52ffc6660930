"""One golden output per arch and per embedded checkpoint: numerics do not drift silently."""

import pytest
import torch

import zoo
from zoo import hub, registry

# First outputs of each arch on the golden picture, its parameters filled by `fill`: only the computation can move them.
ARCHS = {
    "bilinear_d64": [0.0852159, -0.0930936, -0.0423743, 0.113944, -0.048972, -0.0736837, 0.134569, -0.0748547],
    "bilinear_d256": [0.07255, 0.0800766, -0.120524, -0.0923611, 0.150263, 0.148036, -0.071972, -0.0575481],
    "bilinear_d512_l3": [
        *(-6.43057e-07, -3.39052e-06, 6.15374e-07, -5.42497e-07),
        *(-1.67692e-06, -1.06894e-07, -1.08349e-06, 4.82533e-06),
    ],
}


def fill(model: torch.nn.Module) -> torch.nn.Module:
    for n, p in enumerate(model.parameters(), start=1):
        noise = (
            torch.arange(p.numel(), dtype=torch.float64).add(n).mul(12.9898).sin().mul(43758.5453).frac()
        )  # in (-1, 1)
        p.data = (noise * (3 / p.shape[-1]) ** 0.5).reshape(p.shape).float()
    return model


@pytest.mark.parametrize("arch", zoo.list_models())
def test_arch(arch):
    found, golden = hub.golden_output(fill(zoo.create(arch))), torch.tensor(ARCHS[arch])
    torch.testing.assert_close(found, golden, rtol=0, atol=1e-4 * golden.abs().max().item())


@pytest.mark.parametrize("name", [w.name for w in registry.records().values() if w.embedded])
def test_embedded_checkpoint(name):
    assert zoo.weights_info(name).golden
    assert hub.verify(name)["golden"] == "ok"
