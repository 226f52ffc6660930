"""Ours against transformers' VideoMAE in float64, at a tiny width and at ViT-B's: at most 1e-9 apart."""

import pytest
import torch
import transformers as hf
from torch import nn

import zoo
from zoo.families.videomae import convert

CLOSE = {"rtol": 0, "atol": 1e-9}
SHAPE = {"frames": 4, "image_size": 32, "patch_size": 8}
WIDTHS = {
    "tiny": SHAPE | {"dim": 48, "depth": 3, "heads": 3, "decoder_dim": 32, "decoder_depth": 2, "decoder_heads": 2},
    "base": SHAPE | {"dim": 768, "depth": 2, "heads": 12, "decoder_dim": 384, "decoder_depth": 2, "decoder_heads": 6},
}
widths = pytest.mark.parametrize("width", list(WIDTHS))


def theirs(made, args, **options):
    """transformers' model with the official epsilon, weights and biases stirred."""
    torch.manual_seed(0)
    config = hf.VideoMAEConfig(
        num_frames=args["frames"],
        image_size=args["image_size"],
        patch_size=args["patch_size"],
        hidden_size=args["dim"],
        num_hidden_layers=args["depth"],
        num_attention_heads=args["heads"],
        intermediate_size=4 * args["dim"],
        decoder_hidden_size=args["decoder_dim"],
        decoder_num_hidden_layers=args["decoder_depth"],
        decoder_num_attention_heads=args["decoder_heads"],
        decoder_intermediate_size=4 * args["decoder_dim"],
        layer_norm_eps=1e-6,
        **options,
    )
    model = made(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6
    return model.double()


def ours(state, arch, args, **options):
    """A model of this zoo with their weights, in their precision."""
    model = zoo.create(arch, **args, **options).double()
    model.load_state_dict(convert.to_zoo(state, args)[0], strict=True)
    return model


@widths
@pytest.mark.parametrize("target", ["norm_pixel", "pixel"])
def test_loss_predictions_and_every_gradient_against_transformers(width, target):
    args = WIDTHS[width]
    norm = target == "norm_pixel"
    their = theirs(hf.VideoMAEForPreTraining, args, norm_pix_loss=norm, use_mean_pooling=False)
    our = ours(their.state_dict(), "videomae_vit_tiny", args, target=target, mask_ratio=0.75).train()
    x = torch.rand(2, 4, 3, 32, 32, dtype=torch.float64)
    order = our.draw(2)
    hidden = torch.ones(2, our.num_cubes, dtype=torch.bool).scatter(1, order[:, : our.num_keep], False)
    order = torch.cat([order[:, : our.num_keep].sort(1).values, order[:, our.num_keep :].sort(1).values], 1)
    out = our(x, order)
    out.loss.backward()
    wanted = their((x - our.mean.reshape(3, 1, 1)) / our.std.reshape(3, 1, 1), bool_masked_pos=hidden)
    wanted.loss.backward()
    torch.testing.assert_close(out.loss, wanted.loss, **CLOSE)
    torch.testing.assert_close(out.pred, wanted.logits, **CLOSE)
    gradients, _ = convert.to_zoo({k: p.grad for k, p in their.named_parameters()}, {})
    for name, p in our.named_parameters():
        torch.testing.assert_close(p.grad, gradients[name], **CLOSE, msg=lambda text, name=name: f"{name}: {text}")


@widths
def test_the_fine_tuned_model_against_transformers_with_every_gradient(width):
    args = WIDTHS[width]
    their = theirs(hf.VideoMAEForVideoClassification, args, num_labels=7, use_mean_pooling=True)
    encoder = {k: v for k, v in args.items() if not k.startswith("decoder")}
    our = ours(their.state_dict(), "videomae_vit_tiny_classifier", encoder, num_classes=7).train()
    x = torch.rand(2, 4, 3, 32, 32, dtype=torch.float64)
    normalised = (x - our.mean.reshape(3, 1, 1)) / our.std.reshape(3, 1, 1)
    y = torch.tensor([1, 5])
    out, wanted = our(x), their(normalised).logits
    torch.testing.assert_close(out, wanted, **CLOSE)
    nn.functional.cross_entropy(out, y).backward()
    nn.functional.cross_entropy(wanted, y).backward()
    gradients, _ = convert.to_zoo({k: p.grad for k, p in their.named_parameters()}, {})
    for name, p in our.named_parameters():
        torch.testing.assert_close(p.grad, gradients[name], **CLOSE, msg=lambda text, name=name: f"{name}: {text}")
