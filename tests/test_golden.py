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
    "videomae_vit_tiny": [1.93133, 0.234048, -0.161371, 1.19455, -1.19447, -0.269822, 0.252878, 1.30686],
    "videomae_vit_small": [1.6787, 0.331819, 0.691431, 0.998164, 0.145382, 0.381468, -0.0242842, -1.1359],
    "videomae_vit_base": [1.56415, 0.773222, 0.288332, -0.914334, -1.15, -0.791938, -0.950655, 0.187169],
    "videomae_vit_large": [2.01528, 1.03872, 0.144888, 0.230202, -1.13065, 0.718784, -0.485576, -0.622303],
    "videomae_vit_huge": [1.47352, -0.0423945, -0.881603, -1.0664, -0.716148, -0.199605, 0.396797, 0.59835],
    "videomae_v2_vit_small": [1.6787, 0.331819, 0.691431, 0.998164, 0.145382, 0.381468, -0.0242842, -1.1359],
    "videomae_v2_vit_base": [1.56415, 0.773222, 0.288332, -0.914334, -1.15, -0.791938, -0.950655, 0.187169],
    "videomae_v2_vit_large": [2.01528, 1.03872, 0.144888, 0.230202, -1.13065, 0.718784, -0.485576, -0.622303],
    "videomae_v2_vit_huge": [2.12966, 1.0023, 0.400865, -0.187791, -0.869211, 0.635214, -0.672871, -0.753634],
    "videomae_v2_vit_giant": [2.3936, 1.06767, -0.0404448, 0.170246, -1.2715, 1.00949, -1.37347, -0.338294],
    "mae_st_vit_base": [1.57884, 0.431981, -0.161664, 1.25477, -0.129987, 0.118997, -0.447949, 1.68591],
    "mae_st_vit_large": [1.57791, 0.424598, -0.168737, 1.31398, 0.00467926, 0.176547, -0.398551, 1.63246],
    "mae_st_vit_huge": [1.58088, 0.385647, -0.0859726, 1.21922, 0.130856, 0.0585901, -0.339211, 1.55842],
    "videomae_vit_tiny_classifier": [1.1522, 1.80083, 0.482897, 2.92508, 1.27245, 0.0233812, -0.045874, -0.396065],
    "videomae_vit_small_classifier": [0.546664, 0.649446, 0.605952, 0.123714, 1.07949, -0.804453, 0.607504, -0.370628],
    "videomae_vit_base_classifier": [1.53892, 1.03662, 0.137993, 0.0364702, 1.49739, 0.581204, -0.440869, 0.277763],
    "videomae_vit_large_classifier": [1.08935, 0.0758283, 0.00408441, 0.735003, -0.497192, 1.1854, 0.884441, 1.0006],
    "videomae_vit_huge_classifier": [1.26524, 0.916933, -0.251573, -0.651586, 1.05435, 1.08971, 0.368241, -0.461169],
    "videomae_v2_vit_giant_classifier": [
        2.3995,
        -0.380122,
        -0.21347,
        -1.15523,
        -1.00997,
        -0.0713117,
        1.59315,
        0.144256,
    ],
    "mae_st_vit_base_classifier": [-0.341586, 1.88078, 0.527865, -1.07676, -1.36868, 1.9518, 0.760234, -1.6106],
    "mae_st_vit_large_classifier": [2.19749, 2.60252, 2.01579, 3.04691, 2.25063, 1.40909, 2.12192, 0.731471],
    "mae_st_vit_huge_classifier": [2.23018, 0.552729, -1.23292, -0.33026, 0.979415, 0.732772, -1.29428, 0.604587],
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
