"""One golden output per arch and per embedded checkpoint: numerics do not drift silently."""

import pytest
import torch
from conftest import small

import zoo
from zoo import hub, registry

# First outputs of each arch on the golden picture, its parameters filled by `fill`: only the computation can move them.
ARCHS = {
    "mae_vit_tiny": [1.70026, -0.349183, 1.29955, -0.558142, 0.674056, 1.11138, 0.44997, -0.531222],
    "mae_vit_small": [6.25741, 2.88714, 3.52007, 3.65741, 1.62518, 1.30604, 0.962026, -1.57157],
    "mae_vit_base": [2.45563, 1.90294, -1.72015, 1.12758, -1.30461, 0.88044, -1.67265, 1.63394],
    "mae_vit_large": [2.44204, 1.75603, -1.57724, 1.01689, -1.18114, 0.836433, -1.47627, 1.43225],
    "mae_vit_huge": [2.20724, 0.217209, -0.498252, -0.128731, -0.0230658, -0.713862, -0.215289, 0.627851],
    "mae_vit_tiny_fast": [1.71739, 1.83674, -1.51899, -0.0443396, 0.169396, -1.11207, 0.804845, 0.279338],
    "mae_vit_small_fast": [6.25741, 2.88714, 3.52007, 3.65741, 1.62518, 1.30604, 0.962026, -1.57157],
    "mae_vit_base_fast": [2.5449, 1.45099, -0.0499117, 0.747278, -1.44771, -1.22368, -0.379817, -0.860842],
    "mae_vit_tiny_classifier": [0.648807, 1.75753, 1.61223, 1.38942, 2.07382, 1.70054, 1.0497, 0.00722664],
    "mae_vit_small_classifier": [1.51135, -0.474957, -0.0508205, -0.604038, -1.0386, 1.20296, 0.789516, 0.840154],
    "mae_vit_base_classifier": [0.997937, -2.02078, -0.995596, 1.87328, 0.12841, -1.28492, -0.551905, 2.75518],
    "mae_vit_large_classifier": [0.283671, -0.188198, -0.422459, -0.999542, -0.686249, 0.750898, 0.449482, -0.212158],
    "mae_vit_huge_classifier": [0.395415, -0.579279, 0.219123, 1.11275, 0.197696, -1.21365, -0.453536, 2.01778],
    "bilinear_d64": [0.0852159, -0.0930936, -0.0423743, 0.113944, -0.048972, -0.0736837, 0.134569, -0.0748547],
    "bilinear_d256": [0.07255, 0.0800766, -0.120524, -0.0923611, 0.150263, 0.148036, -0.071972, -0.0575481],
    "bilinear_d512_l3": [
        *(-6.43057e-07, -3.39052e-06, 6.15374e-07, -5.42497e-07),
        *(-1.67692e-06, -1.06894e-07, -1.08349e-06, 4.82533e-06),
    ],
}


def fill(model: torch.nn.Module) -> torch.nn.Module:
    for n, (name, p) in enumerate(model.named_parameters(), start=1):
        noise = (
            torch.arange(p.numel(), dtype=torch.float64).add(n).mul(12.9898).sin().mul(43758.5453).frac()
        )  # in (-1, 1)
        scale = name.endswith("weight") and p.ndim == 1  # of a norm: small ones would hide everything before it
        p.data = (1 + noise / 10 if scale else noise * (3 / p.shape[-1]) ** 0.5).reshape(p.shape).float()
    return model


@pytest.mark.parametrize("arch", zoo.list_models())
def test_arch(arch):
    found, golden = hub.golden_output(fill(small(arch))), torch.tensor(ARCHS[arch])
    torch.testing.assert_close(found, golden, rtol=0, atol=1e-4 * golden.abs().max().item())


@pytest.mark.parametrize("name", [w.name for w in registry.records().values() if w.embedded])
def test_embedded_checkpoint(name):
    assert zoo.weights_info(name).golden
    assert hub.verify(name)["golden"] == "ok"
