"""RAE against diffusers' AutoencoderRAE, float64, random weights: what an encoder gives, and what is decoded of it."""

import pytest
import torch
from diffusers import AutoencoderRAE

from zoo.hub import foreign

EXACT = {"rtol": 0, "atol": 1e-9}
DECODER = {"dim": 64, "depth": 2, "heads": 2, "hidden": 128}
# Its siglip2 does not run with transformers 5.23, which has done away with `vision_model`.
ENCODERS = {
    "dinov2": ("timm:vit_small_patch14_reg4_dinov2.lvd142m", {"latent_channels": 384, "encoder_size": 224}, 14),
    "mae": ("timm:vit_base_patch16_224.mae", {"latent_channels": 768, "encoder_size": 256}, 16),
}


@pytest.fixture(params=ENCODERS)
def pair(request, monkeypatch):
    """Theirs, every number moved and with statistics, and ours made of its tensors, encoder and all."""
    name, args, patch = ENCODERS[request.param]
    monkeypatch.setattr(torch, "float32", torch.float64)  # it rounds the angles of positions and resizes their table so
    torch.manual_seed(0)
    channels, grid = args["latent_channels"], 16
    theirs = AutoencoderRAE(
        request.param,
        encoder_hidden_size=channels,
        encoder_patch_size=patch,
        encoder_input_size=args["encoder_size"],
        decoder_hidden_size=64,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=128,
        image_size=256,
        latents_mean=torch.randn(channels, grid, grid),
        latents_std=torch.rand(channels, grid, grid) + 0.5,
    )
    theirs = theirs.double().eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    state = {k: v.clone() for k, v in theirs.state_dict().items()}
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        small = {"dim": 64, "depth": 2, "heads": 2, "hidden": 128, "encoder_size": args["encoder_size"]}
        ours = foreign.convert(state, "rae_vit_xl", encoder=name, **small)
    finally:
        torch.set_default_dtype(usual)
    return theirs, ours


@torch.no_grad()
def test_tokens_and_pictures_are_theirs(pair):
    theirs, ours = pair
    images = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    latents = theirs.encode(images).latent  # normalised
    torch.testing.assert_close(ours.normalise(ours.encode(images)), latents, **EXACT)
    decoded = theirs.decode(latents).sample
    torch.testing.assert_close(ours.decode_unclamped(ours.denormalise(latents)), decoded, **EXACT)
