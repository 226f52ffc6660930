"""VQGAN against diffusers' VQModel, float64, tiny width: latents, codes, pictures and gradients."""

import pytest
import torch
from diffusers import VQModel

from zoo.hub import foreign

EXACT = {"rtol": 0, "atol": 1e-9}


def theirs(mid_attention: bool, attention: bool, codes: int, dim: int) -> VQModel:
    torch.manual_seed(0)
    last = ("Attn" if attention else "") + "{}Block2D"
    model = VQModel(
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D", last.format("DownEncoder")),
        up_block_types=(last.format("UpDecoder"), "UpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(32, 32, 64),
        layers_per_block=2,
        latent_channels=8,
        num_vq_embeddings=codes,
        vq_embed_dim=dim,
        mid_block_add_attention=mid_attention,
    )
    for p in model.parameters():  # biases and norms too
        p.data = p.data + 0.05 * torch.randn_like(p)
    model.quantize.embedding.weight.data.normal_()
    return model.double().eval()


@pytest.mark.parametrize(("mid_attention", "attention"), [(True, True), (True, False), (False, False)])
def test_latents_codes_pictures_and_gradients(mid_attention, attention):
    peer = theirs(mid_attention, attention, 16, 4)
    model = foreign.convert(peer.state_dict(), "vqgan_f16", image_size=32).double()
    assert (model.encoder.mid.attn_1 is not None) == mid_attention
    torch.manual_seed(1)
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    latents = peer.encode(2 * images - 1).latents
    torch.testing.assert_close(model.forward_features(images), latents, **EXACT)
    _, _, (_, _, indices) = peer.quantize(latents)
    codes = model.encode(images)
    assert torch.equal(codes.flatten(), indices)
    assert len(codes.unique()) > 2
    decoded = peer.decode(latents).sample
    torch.testing.assert_close(model(images).recon, (decoded + 1) / 2, **EXACT)
    pixels = foreign.convert(peer.state_dict(), "vqgan_f16", image_size=32, mean=0.0, std=1.0).double()  # aMUSEd's
    torch.testing.assert_close(pixels(images).recon, peer.decode(peer.encode(images).latents).sample, **EXACT)
    direction = torch.randn_like(images)
    model.train()
    ours = torch.autograd.grad(model(images).recon, images, direction)[0]
    torch.testing.assert_close(ours, torch.autograd.grad((decoded + 1) / 2, images, direction)[0], **EXACT)
