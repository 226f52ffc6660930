"""One golden output per arch and per embedded checkpoint: numerics do not drift silently."""

import functools

import pytest
import torch
from conftest import small

import zoo
from zoo import hub, registry

# First outputs of small models on the golden picture, their parameters filled by `fill`: only the computation can move
# them. An arch without a row is a size: it computes what the one of its class above it does.
ARCHS = {
    "bilinear_d64": [0.0725712, 0.000925336, -0.0125395, -0.0559218, -0.0487149, 0.0324941, 0.0958352, 0.00462418],
    "bilinear_d512_l3": [
        -1.06793e-06,
        -7.4867e-06,
        -2.85145e-05,
        1.10547e-05,
        1.75225e-06,
        7.76266e-06,
        1.87278e-05,
        -1.84524e-05,
    ],
    "dcae_f32c32": [0.533481, 0.553866, 0.80269, 0.31035, 1.04469, 0.211305, 1.05502, 0.0607959],
    "dcae_f32c32_sana": [0.686972, -0.247746, -0.24179, -0.318298, -0.423291, -0.517969, -0.486173, -0.508015],
    "dcae_f32c32_lite": [0.340508, 0.574436, 0.605093, 0.660113, 0.578593, 0.588131, 0.616366, 0.705407],
    "dcae15_f32c128": [0.349925, 0.541417, 0.663986, 0.443759, 0.724912, 0.499839, 0.754391, 0.403145],
    "dcae_tiny_f4c4": [0.371673, 0.615462, 0.75536, 0.307677, 1.00474, 0.305959, 0.841621, 0.272297],
    "mae_vit_tiny": [3.27536, 0.573347, -1.14276, -1.91102, -1.42111, -0.877071, -2.23431, -1.51167],
    "mae_vit_tiny_classifier": [0.273222, -0.0704694, -0.849991, 0.354055, -0.119955, 2.05767, -0.690818, 0.80982],
    "rae_mae_vit_tiny": [0.365285, 0.306348, 0.321709, 0.595003, 0.62843, 0.41248, 0.264646, 0.679197],
    "ditdh_tiny": [3.50034, -2.21534, -0.762198, 0.957009, 0.0049505, -2.68549, -0.992651, 1.78736],
    "ditdh_s": [2.77054, 0.747704, -2.32876, -3.07744, -1.92709, -1.412, -0.101053, -2.86026],
    "videomae_vit_tiny": [1.90717, 0.0878715, -1.50852, -1.52119, -1.43965, -0.562323, 0.735868, 0.167523],
    "videomae_v2_vit_giant": [1.75873, -0.468395, -0.390333, -0.827401, 0.185045, -1.42304, 0.390353, 0.778162],
    "mae_st_vit_base": [4.06139, 2.30216, 1.73279, 0.230563, -1.98728, -2.38205, -1.92937, -2.76313],
    "videomae_vit_tiny_classifier": [0.725846, -0.413704, -0.509272, -0.707713, 0.281024, -0.708799, 2.03091, 0.704271],
    "videomae_v2_vit_giant_classifier": [
        0.840614,
        -0.436525,
        -0.913473,
        -0.859251,
        0.24408,
        -0.531087,
        2.10103,
        0.707205,
    ],
    "mae_st_vit_base_classifier": [1.99186, -0.138232, -1.54981, -0.569922, -0.612547, 0.786597, 1.40941, 0.540269],
    "vqvae_conv_small": [10.8886, 1.18208, 1.18601, 1.20575, 1.28791, 1.2441, 1.25959, 1.24125],
    "vqvae_conv_large": [11.0233, 0.0768938, -0.0722886, 0.0102682, -0.0879095, 0.0553817, -0.0367744, 0.0160235],
    "qlae_conv": [0.698697, 0.575677, 0.593015, 0.560695, 0.587275, 0.567617, 0.59235, 0.562773],
    "ae_conv": [0.702245, 0.549671, 0.549767, 0.585827, 0.538912, 0.591414, 0.539336, 0.59232],
    "vae_conv": [0.702889, 0.551342, 0.555113, 0.586201, 0.540599, 0.58976, 0.541726, 0.590299],
    "vqgan_f16": [1.61377, 0.957103, 0.921262, 0.857023, 0.608414, 0.244964, -0.238252, -0.601342],
    "llamagen_ds16": [1.12725, 0.769935, 0.59699, 0.317631, -0.167343, -0.537932, -0.721225, -0.735315],
    "vqprior_tiny": [6.74764, 0.864002, -1.23311, -0.406218, 1.09798, 0.527405, -1.82995, -0.615744],
    "vqvae_conv_latents": [0.80314, 0.599156, 0.646653, 0.594702, 0.64994, 0.597748, 0.652207, 0.599984],
}


def fill(model: torch.nn.Module) -> torch.nn.Module:
    learned = [(name, b) for name, b in model.named_buffers() if name.endswith(("codebook", "t_embedder.W"))]
    for n, (name, p) in enumerate([*model.named_parameters(), *learned], start=1):
        noise = torch.arange(p.numel(), dtype=torch.float64)
        noise.add_(n).mul_(12.9898).sin_().mul_(43758.5453).frac_()  # in (-1, 1)
        scale = name.endswith("weight") and p.ndim == 1  # of a norm: small ones would hide everything before it
        inputs = p[0].numel() if p.ndim == 4 and p.shape[-1] < 8 else p.shape[-1]  # of a kernel, all its entries
        noise = noise.div_(10).add_(1) if scale else noise.mul_((3 / inputs) ** 0.5)
        p.data = noise.reshape(p.shape).float()
    return model


@functools.cache
def rows():
    """Arch -> its row, or that of an arch above it."""
    found, of_class = {}, {}
    for arch in zoo.list_models():
        kind = hub.model_class(arch)
        found[arch] = of_class[kind] = ARCHS.get(arch, of_class.get(kind))
    return found


@pytest.mark.parametrize("arch", zoo.list_models())
def test_arch(arch):
    found, row = hub.golden_output(fill(small(arch))), rows()[arch]
    golden = torch.full_like(found, torch.nan) if row is None else torch.tensor(row)
    said = f'write it down, if it computes something new: "{arch}": {[float(f"{v:.6g}") for v in found]},'
    assert torch.allclose(found, golden, rtol=0, atol=1e-4 * golden.abs().max().item()), said


@pytest.mark.parametrize("name", [w.name for w in registry.records().values() if w.embedded])
def test_embedded_checkpoint(name):
    assert zoo.weights_info(name).golden
    assert hub.verify(name)["golden"] == "ok"
