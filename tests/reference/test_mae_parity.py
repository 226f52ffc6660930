"""Ours against timm and transformers in float64, at a tiny width and at ViT-B's: at most 1e-9 apart."""

import pytest
import timm
import torch
import transformers as hf
from torch import nn

import zoo
from zoo.families.mae import convert
from zoo.families.mae import model as m

CLOSE = {"rtol": 0, "atol": 1e-9}
WIDTHS = {
    "tiny": {"image_size": 32, "patch_size": 4, "dim": 48, "depth": 3, "heads": 3}
    | {"decoder_dim": 32, "decoder_depth": 2, "decoder_heads": 4},
    "base": {"image_size": 64, "patch_size": 16, "dim": 768, "depth": 2, "heads": 12}
    | {"decoder_dim": 512, "decoder_depth": 2, "decoder_heads": 16},
}
widths = pytest.mark.parametrize("width", list(WIDTHS))


def encoder(args):
    return {k: v for k, v in args.items() if not k.startswith("decoder")}


def theirs(args, norm_pix_loss):
    """transformers' model with the official epsilons, weights and biases stirred, position tables filled."""
    torch.manual_seed(0)
    config = hf.ViTMAEConfig(
        hidden_size=args["dim"],
        num_hidden_layers=args["depth"],
        num_attention_heads=args["heads"],
        intermediate_size=4 * args["dim"],
        image_size=args["image_size"],
        patch_size=args["patch_size"],
        decoder_hidden_size=args["decoder_dim"],
        decoder_num_hidden_layers=args["decoder_depth"],
        decoder_num_attention_heads=args["decoder_heads"],
        decoder_intermediate_size=4 * args["decoder_dim"],
        norm_pix_loss=norm_pix_loss,
        layer_norm_eps=1e-6,
    )
    model = hf.ViTMAEForPreTraining(config)
    stir(model)
    grid = args["image_size"] // args["patch_size"]
    model.vit.embeddings.position_embeddings.data = m.positions(args["dim"], grid, grid, 1)
    model.decoder.decoder_pos_embed.data = m.positions(args["decoder_dim"], grid, grid, 1)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6
    return model.double()


def stir(model):
    """Nothing stays at its zero or one: a bias or a norm in the wrong place must show."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.05)


@widths
@pytest.mark.parametrize("target", ["norm_pixel", "pixel"])
def test_loss_predictions_and_every_gradient_against_transformers(width, target):
    args = WIDTHS[width]
    their = theirs(args, norm_pix_loss=target == "norm_pixel")
    ours = zoo.convert(their.state_dict(), "mae_vit_tiny", **args, target=target).double().train()
    x = torch.rand(2, 3, args["image_size"], args["image_size"], dtype=torch.float64)
    noise = torch.rand(2, ours.num_patches, dtype=torch.float64)
    order = noise.argsort(1)
    out = ours(x, order)
    out.loss.backward()
    wanted = their((x - ours.mean) / ours.std, noise=noise)
    wanted.loss.backward()
    torch.testing.assert_close(out.loss, wanted.loss, **CLOSE)
    pred = torch.stack([p[i] for p, i in zip(wanted.logits, out.ids_pred)])
    torch.testing.assert_close(out.pred, pred, **CLOSE)
    gradients, _ = convert.to_zoo(
        {k: p.grad for k, p in their.named_parameters() if p.grad is not None} | tables(their), {}
    )
    compared = 0
    for name, p in ours.named_parameters():
        torch.testing.assert_close(p.grad, gradients[name], **CLOSE, msg=lambda text, name=name: f"{name}: {text}")
        compared += 1
    assert compared == len(list(ours.parameters())) == len(dict(ours.named_parameters()))


def tables(model):
    """Position tables get no gradient, and to_zoo wants them there."""
    return {k: v for k, v in model.state_dict().items() if "pos" in k}


@widths
def test_a_fresh_position_table_is_the_papers_where_transformers_leaves_it_empty(width):
    args = WIDTHS[width]
    ours = zoo.create("mae_vit_tiny", **args)
    their = theirs(args, True)
    their.vit.embeddings.initialize_weights()  # its own table, built by its own code
    torch.testing.assert_close(ours.pos_embed, their.vit.embeddings.position_embeddings.detach().float())


def timms(args, **options):
    """timm's VisionTransformer of the same size, stirred."""
    torch.manual_seed(0)
    model = timm.models.VisionTransformer(
        img_size=args["image_size"],
        patch_size=args["patch_size"],
        embed_dim=args["dim"],
        depth=args["depth"],
        num_heads=args["heads"],
        **options,
    )
    stir(model)
    return model.double().eval()


@widths
def test_features_and_intermediates_against_timm(width):
    args = WIDTHS[width]
    their = timms(args, num_classes=0, global_pool="")
    ours = zoo.convert(their.state_dict(), "mae_vit_tiny", **encoder(args)).double()
    x = torch.rand(2, 3, args["image_size"], args["image_size"], dtype=torch.float64)
    normalised = (x - ours.mean) / ours.std
    torch.testing.assert_close(ours.forward_features(x), their.forward_features(normalised), **CLOSE)
    for options in ({"indices": 2}, {"indices": [0, -1], "norm": True, "output_fmt": "NLC"}):
        found = ours.forward_intermediates(x, **options)
        wanted = their.forward_intermediates(normalised, intermediates_only=True, **options)
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b, **CLOSE)


@widths
@pytest.mark.parametrize("pool", ["avg", "token"])
def test_the_fine_tuning_model_against_timm_with_every_gradient(width, pool):
    args = encoder(WIDTHS[width])
    their = timms(args, num_classes=7, global_pool=pool)
    ours = zoo.convert(their.state_dict(), "mae_vit_tiny_classifier", **args).double().train()
    assert ours.pool == pool
    x = torch.rand(2, 3, args["image_size"], args["image_size"], dtype=torch.float64)
    y = torch.tensor([1, 5])
    out, wanted = ours(x), their((x - ours.mean) / ours.std)
    torch.testing.assert_close(out, wanted, **CLOSE)
    nn.functional.cross_entropy(out, y).backward()
    nn.functional.cross_entropy(wanted, y).backward()
    grads = dict(their.named_parameters())
    for name, p in ours.named_parameters():
        torch.testing.assert_close(p.grad, grads[name].grad, **CLOSE, msg=lambda text, name=name: f"{name}: {text}")
    assert {n for n, _ in ours.named_parameters()} == set(grads)


def test_interpolated_positions_are_the_official_ones():
    """The authors' formula, written out: bicubic between square grids, class token apart."""
    args = encoder(WIDTHS["tiny"])
    model = zoo.create("mae_vit_tiny_classifier", **args | {"image_size": 48})
    table = torch.randn(1, 65, 48)
    plane = table[:, 1:].reshape(-1, 8, 8, 48).permute(0, 3, 1, 2)
    plane = nn.functional.interpolate(plane, size=(12, 12), mode="bicubic", align_corners=False)
    wanted = torch.cat([table[:, :1], plane.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
    assert torch.equal(model.adapt_state({"pos_embed": table})["pos_embed"], wanted)


@pytest.mark.parametrize("arch", ["mae_vit_tiny", "mae_vit_tiny_classifier"])
@pytest.mark.parametrize("tokens", [1, 4])
def test_what_is_exported_for_timm_gives_the_same_in_timm(arch, tokens, tmp_path):
    args = encoder(WIDTHS["tiny"]) | {"num_cls_tokens": tokens}
    classifier = arch.endswith("_classifier")
    model = zoo.create(arch, **args, **({"num_classes": 5} if classifier else {})).eval()
    stir(model)
    zoo.save(model, tmp_path / "ours")
    zoo.export(tmp_path / "ours", tmp_path / "timm", to="timm")
    their = timm.create_model(
        "vit_tiny_patch16_224",
        **{"img_size": 32, "patch_size": 4, "embed_dim": 48, "depth": 3, "num_heads": 3, "reg_tokens": tokens - 1},
        num_classes=5 if classifier else 0,
        global_pool="avg" if classifier else "",
        checkpoint_path=str(tmp_path / "timm" / "model.safetensors"),
    )
    their, model = their.double().eval(), model.double()
    x = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    ours = (model if classifier else model.forward_features)(x)
    torch.testing.assert_close(their((x - model.mean) / model.std), ours, **CLOSE)
