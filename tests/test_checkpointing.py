"""Activations made again instead of kept: the same losses and gradients, less memory."""

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

import zoo
from zoo.train.classify import LitClassifier


def saved_bytes(model: nn.Module, work) -> tuple[torch.Tensor, int]:
    """What `work` returns, and the bytes it keeps for the backward pass, parameters and buffers not counted."""
    held = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept = {}

    def pack(t):
        storage = t.untyped_storage()
        if storage.data_ptr() not in held:
            kept[storage.data_ptr()] = storage.nbytes()
        return t

    with saved_tensors_hooks(pack, lambda t: t):
        return work(), sum(kept.values())


# Activations made again

PRIOR = {"dim": 32, "depth": 3, "heads": 2, "dropout": 0.1, "codebook_size": 24}
VQGAN = {"image_size": 32, "width": 32, "mults": [1, 2], "attention": [1], "res_blocks": 1, "z_channels": 8}
DCAE = {"image_size": 32, "widths": [16, 32, 64], "encoder_attention": [2], "decoder_attention": [2]}


@pytest.mark.parametrize(
    ("arch", "args"),
    [
        ("vqprior_tiny", PRIOR),
        ("vqgan_f16", VQGAN | {"codebook_size": 16, "code_dim": 4}),
        ("dcae_tiny_f4c4", DCAE | {"batchnorm_stages": 2}),
    ],
)
def test_making_activations_again_changes_nothing_and_keeps_less(arch, args):
    found = []
    for again in (False, True):
        torch.manual_seed(0)
        model = zoo.create(arch, **args)
        model.grad_checkpointing = again
        x = torch.randint(24, (4, 7, 7)) if arch.startswith("vqprior") else torch.rand(4, *model.takes.shape)
        loss, kept = saved_bytes(model, lambda model=model, x=x: model(x).loss)
        loss.backward()
        found.append((loss, [p.grad for p in model.parameters()], list(model.buffers()), kept))
    (loss, gradients, buffers, kept), (loss2, gradients2, buffers2, kept2) = found
    assert torch.equal(loss, loss2)
    for a, b in zip([*gradients, *buffers], [*gradients2, *buffers2], strict=True):  # running statistics, too
        torch.testing.assert_close(a, b)
    assert kept2 < 0.7 * kept


def test_a_model_without_blocks_refuses_to_save_their_memory():
    with pytest.raises(ValueError, match="bilinear_d64 has no blocks to make again; leave grad_checkpointing out"):
        LitClassifier("bilinear_d64", grad_checkpointing=True)
