"""DC-AE against diffusers' AutoencoderDC, float64, random weights, every variant: latents, pictures, both ways."""

import json

import pytest
import torch
from diffusers import AutoencoderDC

import zoo
from zoo import hub
from zoo.hub import foreign

EXACT = {"rtol": 0, "atol": 1e-9}
SMALL = {"image_size": 64, "latent_channels": 8, "widths": [32, 64, 64, 128]}
# A small twin of each published network: its blocks, ways up and down, norms and shortcuts.
VARIANTS = {
    "dcae_f32c32": SMALL
    | {"encoder_depths": [0, 1, 2, 1], "decoder_depths": [0, 1, 1, 2]}
    | {"encoder_attention": [2, 3], "decoder_attention": [2, 3], "batchnorm_stages": 2},
    "dcae_f32c32_sana": SMALL
    | {"encoder_depths": [1, 1, 1, 2], "decoder_depths": [2, 1, 1, 1]}
    | {"encoder_attention": [2, 3], "decoder_attention": [2, 3]},
    "dcae_f32c32_lite": SMALL
    | {"encoder_depths": [1, 1, 1, 2], "decoder_depths": [0, 1, 2, 1], "encoder_attention": [2, 3]},
    "dcae15_f32c128": SMALL | {"encoder_depths": [0, 1, 2, 1], "decoder_depths": [0, 1, 2, 1]},
}


@pytest.fixture(params=VARIANTS)
def pair(request, monkeypatch, tmp_path):
    """Our model, exported, loaded by diffusers, every number in it moved, and brought back."""
    torch.manual_seed(0)
    ours = zoo.create(request.param, **VARIANTS[request.param], latent_scale=0.5)
    folder = zoo.export(zoo.save(ours, tmp_path / "ours"), tmp_path / "theirs", to="diffusers")
    theirs = AutoencoderDC.from_pretrained(folder)
    for p in theirs.parameters():  # biases and norms too
        p.data += 0.05 * torch.randn_like(p)
    for name, b in theirs.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            b.uniform_(0.5, 2)
    theirs = theirs.double().eval()
    ours = foreign.convert(theirs.state_dict(), request.param, **VARIANTS[request.param]).double()
    monkeypatch.setattr(torch, "float32", torch.float64)  # diffusers computes its norms and attention in float32
    return ours, theirs


@pytest.mark.parametrize("size", [(64, 64), (32, 16), (8, 40)])  # up to 64 latents, 32 of which are its other path
@torch.no_grad()
def test_latents_and_pictures(pair, size):
    ours, theirs = pair
    images = torch.rand(2, 3, *size, dtype=torch.float64)
    z = theirs.encode(2 * images - 1).latent
    assert z.std() > 1  # nothing has died
    torch.testing.assert_close(ours.encode(images), z, **EXACT)
    torch.testing.assert_close(2 * ours.decode_unclamped(z) - 1, theirs.decode(z).sample, **EXACT)


def test_gradients(pair):
    ours, theirs = pair
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    a, b = (images.clone().requires_grad_() for _ in range(2))
    direction = torch.randn_like(images)
    (2 * ours(a).recon - 1).backward(direction)
    theirs(2 * b - 1).sample.backward(direction)
    torch.testing.assert_close(a.grad, b.grad, **EXACT)
    torch.testing.assert_close(ours.encoder.head.weight.grad, theirs.encoder.conv_out.weight.grad, **EXACT)


def test_the_exported_folder_gives_the_same_output(tmp_path):
    torch.manual_seed(0)
    ours = zoo.create("dcae_tiny_f8c4", latent_scale=0.25).eval()
    folder = hub.export(hub.save(ours, tmp_path / "ours"), tmp_path / "theirs", "diffusers")
    theirs = AutoencoderDC.from_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["scaling_factor"] == pytest.approx(0.25)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(2 * ours(images).recon - 1, theirs(2 * images - 1).sample, rtol=0, atol=1e-5)
