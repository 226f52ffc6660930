"""The masked autoencoder: identities of the paper, masks, targets, pictures, training, and bad input."""

import copy
import re
import warnings

import lightning as L
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import zoo
from zoo import registry
from zoo.data.synthetic import RandomImages
from zoo.families.mae import masks
from zoo.families.mae import model as m
from zoo.nn import embed, vit
from zoo.train.classify import LitClassifier
from zoo.train.mask import LitMAE

SMALL = {"image_size": 32, "patch_size": 4, "dim": 32, "depth": 2, "heads": 2}
TINY = SMALL | {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}


def mae(**args):
    torch.manual_seed(0)
    return zoo.create("mae_vit_tiny", **TINY | args)


def images(count=3, size=(32, 32), channels=3):
    return torch.rand(count, channels, *size, generator=torch.Generator().manual_seed(1))


# Patches and positions


def test_patchify_is_raster_order_with_colour_fastest_and_has_an_inverse():
    x = images(2, (8, 12))
    patches = embed.patchify(x, 4)
    assert patches.shape == (2, 6, 48)
    assert torch.equal(patches[1, 4].reshape(4, 4, 3).permute(2, 0, 1), x[1, :, 4:8, 4:8])
    assert torch.equal(embed.unpatchify(patches, 4, 8, 12), x)


def test_the_embedding_of_patches_is_the_convolution_it_is_stored_as():
    model, x = mae().double(), images().double()
    conv = model.patch_embed.proj((x - model.mean) / model.std).flatten(2).mT
    torch.testing.assert_close(model.patch_embed(model.patches(x)), conv, rtol=0, atol=1e-12)


def test_positions_hold_the_column_first_on_a_grid_that_is_not_square():
    table = embed.sincos(16, 3, 5)  # (15, 16)
    omega = 10000 ** -(torch.arange(4, dtype=torch.float64) / 4)
    for row in range(3):
        for column in range(5):
            wanted = torch.cat([f(p * omega) for p in (column, row) for f in (torch.sin, torch.cos)]).float()
            torch.testing.assert_close(table[row * 5 + column], wanted)


def test_a_model_made_from_its_arguments_knows_where_its_patches_are():
    model = mae()
    for table in (model.pos_embed, model.decoder.pos_embed):
        assert table[0, 0].abs().max() == 0  # the class token stands nowhere
        assert table[0, 1:].unique(dim=0).shape[0] == 64
    assert model.decoder.mask_token.std() > 0.01


def test_initialisation_is_the_official_one():
    model = zoo.create("mae_vit_tiny")
    qkv, patch = model.blocks[0].attn.qkv, model.patch_embed.proj
    assert qkv.weight.abs().max() <= (6 / (192 + 576)) ** 0.5  # xavier of the whole matrix, not of q, k, v apart
    assert qkv.bias.abs().max() == 0
    assert patch.weight.abs().max() <= (6 / (192 + 768)) ** 0.5
    assert 0 < patch.bias.abs().max() <= 768**-0.5
    assert abs(model.cls_token.std() - 0.02) < 0.005
    assert all(n.eps == 1e-6 for n in model.modules() if isinstance(n, torch.nn.LayerNorm))


# The step


def test_what_is_hidden_does_not_reach_the_encoder():
    model, x = mae().eval(), images()
    order = model.draw(3)
    out = model(x, order)
    patches = embed.patchify(x, 4)
    patches.scatter_(1, out.ids_pred[:, :, None].expand(-1, -1, 48), 0.5)
    changed = embed.unpatchify(patches, 4, 32, 32)
    assert torch.equal(model(changed, order).pred, out.pred)
    assert model(changed, order).loss != out.loss


def test_the_loss_is_the_papers_computed_the_long_way():
    """All tokens put back in place, predicted and scored, the mean taken over what was hidden."""
    model, x = mae().double(), images().double()
    order = model.draw(3)
    out = model(x, order)
    patches, keep = model.patches(x), model.num_keep
    latent = model.encode(embed.gather_rows(patches, order[:, :keep]), order[:, :keep])
    y = model.decoder.embed(latent)
    every = torch.cat([y[:, 1:], model.decoder.mask_token.expand(3, 64 - keep, -1)], dim=1)
    every = torch.cat([y[:, :1], embed.gather_rows(every, order.argsort(1))], dim=1) + model.decoder.pos_embed
    for block in model.decoder.blocks:
        every = block(every)
    pred = model.decoder.head(every)[:, 1:]  # (B, N, P²C), raster order
    target = (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + 1e-6).sqrt()
    hidden = torch.ones(3, 64).scatter(1, order[:, :keep], 0)
    loss = ((pred - target).square().mean(-1) * hidden).sum() / hidden.sum()
    torch.testing.assert_close(out.loss, loss, rtol=0, atol=1e-12)
    torch.testing.assert_close(out.pred, embed.gather_rows(pred, out.ids_pred), rtol=0, atol=1e-12)


def test_counts_are_constant_and_the_official_rounding():
    assert zoo.create("mae_vit_base", depth=1, decoder_depth=1).num_keep == 49
    assert zoo.create("mae_vit_huge", depth=1, decoder_depth=1).num_keep == 64
    out = mae()(images())
    assert out.ids_keep.shape == (3, 16)
    assert out.ids_pred.shape == (3, 48)
    assert out.pred.shape == (3, 48, 48)


def test_decoding_a_part_predicts_that_many_and_less_is_computed():
    full, part = mae(), mae(decode=0.5)
    part.load_state_dict(full.state_dict())
    order = full.draw(3)
    out = part(images(), order)
    assert out.pred.shape == (3, 24, 48)
    assert torch.equal(out.ids_pred, order[:, 16:40])
    assert out.loss.isfinite()
    with sdpa_kernel(SDPBackend.MATH):  # products, which every version of torch counts
        with FlopCounterMode(display=False) as a:
            full(images())
        with FlopCounterMode(display=False) as b:
            part(images())
    assert b.get_total_flops() < 0.8 * a.get_total_flops()
    assert torch.equal(part.eval()(images(), order).pred, full.eval()(images(), order).pred)  # evaluation sees all


def test_the_fast_arch_computes_less_than_half():
    flops = {}
    for arch in ("mae_vit_tiny", "mae_vit_base", "mae_vit_tiny_fast", "mae_vit_base_fast"):
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            model = zoo.create(arch)
            order = torch.zeros(1, model.num_patches, dtype=torch.int64)
            model(torch.zeros(1, 3, 224, 224), order)
        flops[arch] = counter.get_total_flops()
    assert flops["mae_vit_tiny"] > 1.8 * flops["mae_vit_tiny_fast"]
    assert flops["mae_vit_base"] > 1.8 * flops["mae_vit_base_fast"]


@pytest.mark.parametrize("target", ["norm_pixel", "pixel"])
def test_targets(target):
    model, patches = mae(target=target), torch.rand(2, 5, 48)
    found = model.target(patches)
    if target == "pixel":
        assert torch.equal(found, patches)
    else:  # colours together, unbiased, epsilon inside the root
        wanted = (patches[1, 2] - patches[1, 2].mean()) / (patches[1, 2].var() + 1e-6).sqrt()
        torch.testing.assert_close(found[1, 2], wanted)


def test_a_flat_patch_gives_a_finite_loss_in_bfloat16():
    model = mae().bfloat16()
    loss = model(torch.full((2, 3, 32, 32), 0.5, dtype=torch.bfloat16)).loss
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_one_image_is_a_batch():
    assert mae()(images(1)).loss.isfinite()


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("tokens", [17, 600])  # plain products, and chunks of queries of which the last is short
def test_attention_for_bfloat16_gradients_on_a_cpu_is_the_same_function(tokens, autocast):
    torch.manual_seed(0)
    q, k, v, dy = torch.randn(4, 2, 3, tokens, 16, dtype=torch.float64).bfloat16()  # heads: no multiple of threads

    def output_and_gradients(attend, dtype):
        inputs = [x.to(dtype).requires_grad_() for x in (q, k, v)]
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast and dtype is torch.bfloat16):
            y = attend(*inputs)
        return y, *torch.autograd.grad(y, inputs, dy.to(dtype))

    exact = output_and_gradients(torch.nn.functional.scaled_dot_product_attention, torch.float64)
    for ours, right in zip(output_and_gradients(vit.attend, torch.bfloat16), exact):
        assert (ours - right).norm() < 0.01 * right.norm()


# Masks


@pytest.mark.parametrize("mask", list(masks.MASKS))
@pytest.mark.parametrize("grid", [(8, 8), (8, 12)])
def test_a_mask_is_an_order_of_all_patches_drawn_per_image(mask, grid):
    torch.manual_seed(0)
    order = masks.MASKS[mask].order(16, grid, grid[0] * grid[1] // 4, "cpu", 4)
    assert torch.equal(order.sort(1).values, torch.arange(grid[0] * grid[1]).expand(16, -1))
    kept = {tuple(sorted(o.tolist())) for o in order[:, : grid[0] * grid[1] // 4]}
    assert len(kept) > (3 if mask in ("grid", "cell") else 15)


def maps(mask, side=8, count=200, keep=None, cell=4):
    """Which patches stay, (count, side, side)."""
    torch.manual_seed(0)
    keep = side * side // 4 if keep is None else keep
    order = masks.MASKS[mask].order(count, (side, side), keep, "cpu", cell)
    return torch.zeros(count, side * side).scatter(1, order[:, :keep], 1).reshape(count, side, side)


def test_the_random_mask_is_the_official_draw():
    torch.manual_seed(3)
    found = masks.random_order(4, (8, 8), 16, "cpu", 4)
    torch.manual_seed(3)
    assert torch.equal(found, torch.rand(4, 64).argsort(1))


def test_the_grid_mask_keeps_one_of_each_two_by_two():
    cells = maps("grid").reshape(200, 4, 2, 4, 2).transpose(2, 3).reshape(200, 16, 4)
    assert torch.equal(cells.sum(-1), torch.ones(200, 16))
    assert (cells == cells[:, :1]).all()


def test_the_cell_mask_keeps_whole_cells():
    cells = maps("cell", cell=2).reshape(200, 4, 2, 4, 2).transpose(2, 3).reshape(200, 16, 4)
    assert set(cells.sum(-1).unique().tolist()) == {0.0, 4.0}


def neighbours(kept):
    """How often a patch and the one to its right are alike, over what chance gives."""
    same = (kept[:, :, 1:] == kept[:, :, :-1]).float().mean()
    share = kept.mean()
    return (same / (share**2 + (1 - share) ** 2)).item()


def test_block_and_color_masks_hide_in_clusters_and_random_does_not():
    assert abs(neighbours(maps("random")) - 1) < 0.05
    assert neighbours(maps("block", keep=32)) > 1.3
    assert neighbours(maps("color", keep=32)) > 1.1
    assert neighbours(maps("block", 14, keep=98)) > neighbours(maps("color", 14, keep=98))  # green noise is no blob


def test_every_mask_trains():
    for mask in masks.MASKS:
        assert mae(mask=mask, decode=0.5)(images()).loss.isfinite()


@pytest.mark.parametrize("mask", list(masks.MASKS))
def test_the_step_is_one_graph_and_waits_for_no_number(mask):
    model = mae(mask=mask, decode=0.5)
    explained = torch._dynamo.explain(model.forward)(images())
    assert explained.graph_count == 1
    assert explained.graph_break_count == 0
    with torch.profiler.profile() as profile:
        model(images()).loss.backward()
    names = {e.key for e in profile.key_averages()}
    assert not names & {"aten::_local_scalar_dense", "aten::nonzero", "aten::item", "aten::is_nonzero"}


# Features


def test_features_see_everything_and_are_the_same_each_time():
    model, x = mae(), images()
    features = model.forward_features(x)
    assert features.shape == (3, 65, 32)
    assert torch.equal(features, model.forward_features(x))


def test_intermediate_layers_by_index():
    model, x = mae(depth=4), images()
    last = model.forward_intermediates(x, [-1], output_fmt="NLC", norm=True)[0]
    torch.testing.assert_close(last, model.forward_features(x)[:, 1:])
    maps_, cls = zip(*model.forward_intermediates(x, 2, return_prefix_tokens=True))
    assert [t.shape for t in maps_] == [(3, 32, 8, 8)] * 2
    assert cls[0].shape == (3, 1, 32)
    assert len(model.forward_intermediates(x)) == 4
    with pytest.raises(ValueError, match=r"indices=\[4\], allowed -4 to 3"):
        model.forward_intermediates(x, [4])


def test_several_class_tokens():
    model = mae(num_cls_tokens=8)
    assert model.forward_features(images()).shape == (3, 72, 32)
    model(images()).loss.backward()
    assert model.cls_token.grad.abs().sum(-1).min() > 0


def test_not_square_not_rgb():
    model = mae(image_size=[16, 24], channels=5)
    x = images(2, (16, 24), 5)
    assert model(x).loss.isfinite()
    assert model.reconstruct(x).pasted.shape == x.shape
    assert model.forward_intermediates(x, 1)[0].shape == (2, 32, 4, 6)


def test_gradient_checkpointing_gives_the_same_gradients():
    a, x = mae(), images()
    b = copy.deepcopy(a)
    b.grad_checkpointing = True
    order = a.draw(3)
    for model in (a, b):
        model(x, order).loss.backward()
    for p, q in zip(a.parameters(), b.parameters()):
        torch.testing.assert_close(p.grad, q.grad)


# Pictures


def test_a_perfect_prediction_is_the_picture():
    """The decoder is made to know the answer: what comes out must be the image, whichever target it speaks in."""
    for target in ("pixel", "norm_pixel"):
        model, x = mae(target=target).eval(), images()
        order = model.draw(3)
        answer = embed.gather_rows(model.target(model.patches(x)), order)
        model.decoder.head = lambda tokens, answer=answer: answer
        out = model.reconstruct(x, order)
        torch.testing.assert_close(out.predicted, x, rtol=0, atol=1e-5)
        torch.testing.assert_close(out.pasted, x, rtol=0, atol=1e-5)
        seen = torch.isclose(out.masked, x, atol=1e-6).float().mean()
        assert abs(seen - 0.25) < 0.001


def test_pasted_keeps_what_was_seen_and_statistics_may_come_from_it_alone():
    model, x = mae().eval(), images()
    order = model.draw(3)
    own, visible = (model.reconstruct(x, order, s) for s in ("own", "visible"))
    seen = torch.isclose(own.masked, x, atol=1e-6)
    torch.testing.assert_close(own.pasted[seen], x[seen], rtol=0, atol=1e-6)
    patches = embed.patchify(x, 4)
    patches.scatter_(1, order[:, 16:, None].expand(-1, -1, 48), 0.9)
    changed = embed.unpatchify(patches, 4, 32, 32)
    again = model.reconstruct(changed, order, "visible")
    torch.testing.assert_close(again.predicted, visible.predicted)
    assert not torch.allclose(model.reconstruct(changed, order, "own").predicted, own.predicted)


# Loading


def test_another_grid_gets_its_own_positions(tmp_path):
    zoo.save(mae(), tmp_path)
    model = zoo.load(str(tmp_path), image_size=[48, 32])
    assert torch.equal(model.pos_embed, m.positions(32, 12, 8, 1))
    assert model.forward_features(images(2, (48, 32))).shape == (2, 97, 32)


def test_what_training_fixed_cannot_be_asked_away(tmp_path):
    zoo.save(mae(), tmp_path)
    with pytest.raises(ValueError, match="was trained with target='norm_pixel', not 'pixel'; leave target out"):
        zoo.load(str(tmp_path), target="pixel")
    with pytest.raises(ValueError, match="was trained with target='norm_pixel', not 'pixel'"):
        LitMAE("mae_vit_tiny", weights=str(tmp_path), arch_args={"target": "pixel"}, lr=1e-3)


def test_an_encoder_alone_gives_features_and_says_what_it_lacks(tmp_path):
    model = mae(decoder_depth=0)
    assert model.forward_features(images()).shape == (3, 65, 32)
    for call in (model, model.reconstruct):
        with pytest.raises(ValueError, match="encoder without a decoder"):
            call(images())
    zoo.save(model, tmp_path)
    with pytest.raises(ValueError, match="is an encoder alone, pretraining needs a decoder; "):
        LitMAE("mae_vit_tiny", weights=str(tmp_path), lr=1e-3)


def test_the_refusal_names_weights_that_have_a_decoder(monkeypatch):
    from zoo import hub

    monkeypatch.setattr(hub, "create", lambda *a, **k: mae(decoder_depth=0))
    with pytest.raises(ValueError, match=r"in1k is an encoder alone, .* these have one: .*mae_vit_base.in1k_full"):
        LitMAE("mae_vit_base", weights="in1k", lr=1e-3)


def test_a_classifier_takes_the_whole_encoder_and_nothing_else(tmp_path):
    autoencoder = mae()
    zoo.save(autoencoder, tmp_path)
    for pool in ("avg", "token"):
        model = zoo.create("mae_vit_tiny_classifier", str(tmp_path), pool=pool, num_classes=7).eval()
        torch.testing.assert_close(model.blocks[1].mlp.fc2.weight, autoencoder.blocks[1].mlp.fc2.weight)
        tokens = model.forward_features(images())
        if pool == "token":
            torch.testing.assert_close(tokens, autoencoder.forward_features(images()))
        assert model(images()).shape == (3, 7)
        assert model.pos_embed.requires_grad
    assert "decoder_dim" not in model.zoo_config["args"]


def test_a_classifier_refuses_an_encoder_that_is_not_its_own(tmp_path):
    zoo.save(mae(), tmp_path)
    with pytest.raises(ValueError, match=r"no encoder of this classifier: .* tensors missing or misshapen \(blocks.2"):
        zoo.create("mae_vit_tiny_classifier", str(tmp_path), depth=3)
    with pytest.raises(ValueError, match=r"holds mae_vit_tiny, not mae_vit_small_classifier"):
        zoo.create("mae_vit_small_classifier", str(tmp_path))


def test_a_classifier_at_another_size_interpolates_its_positions(tmp_path):
    zoo.save(mae(), tmp_path)
    model = zoo.create("mae_vit_tiny_classifier", str(tmp_path), image_size=48)
    assert model.pos_embed.shape == (1, 145, 32)
    assert model(images(2, (48, 48))).shape == (2, 1000)
    old = zoo.create("mae_vit_tiny_classifier", str(tmp_path)).pos_embed[0, 1:].T.reshape(1, 32, 8, 8)
    new = model.pos_embed[0, 1:].T.reshape(1, 32, 12, 12)
    torch.testing.assert_close(new.mean(), old.mean(), rtol=0, atol=0.02)


@pytest.mark.parametrize("name", zoo.list_weights("mae*"))
def test_a_record_can_be_built_and_says_what_it_is(name):
    w = registry.weights_info(name)
    with torch.device("meta"):
        model = zoo.create(w.arch, **w.args)
    if not w.arch.endswith("_classifier"):
        assert (w.kind == "full") == (model.decoder is not None)
        assert ("target pixel" in w.notes) == (model.target_kind == "pixel") or w.embedded or "gan" in name


# Bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mae(mask_ratio=0), r"mask_ratio=0 of 64 patches keeps 64; some must be hidden .* 0.75 is the paper's"),
        (lambda: mae(mask_ratio=1), r"mask_ratio=1 of 64 patches keeps 0; some must be hidden"),
        (lambda: mae(mask_ratio=0.999), "keeps 0; some must be hidden"),
        (lambda: mae(image_size=30), "image_size is 30×30 px, not a multiple of patch=4; resize to 32×32"),
        (lambda: mae()(images(2, (30, 33))), "images are 30×33 px, not a multiple of patch=4; resize to 32×32"),
        (
            lambda: mae()(images(2).permute(0, 2, 3, 1)),
            "32 channels, this model takes 3; they come before height and width",
        ),
        (lambda: mae()(images(2, (36, 36))), "images are 36×36 px, this model takes 32×32"),
        (lambda: mae(mask="blocks"), "mask='blocks', allowed random, block, grid, cell, color"),
        (lambda: mae(mask="grid", mask_ratio=0.5), "mask='grid' hides 3 of 4 patches of an even grid"),
        (lambda: mae(mask="cell", mask_cell=3), "multiples of mask_cell=3"),
        (lambda: mae(target="pixels"), "target='pixels', allowed norm_pixel, pixel"),
        (lambda: mae(decode=0), "decode=0, allowed above 0 up to 1"),
        (lambda: mae(heads=3), "dim=32 is no multiple of heads=3"),
        (lambda: mae(mean=[0.5]), "mean has 1 values for 3 channels"),
        (lambda: mae(patch_size=0), "patch_size=0, must be at least 1"),
        (lambda: mae(num_cls_tokens=0), "num_cls_tokens=0, at least 1"),
        (lambda: mae().reconstruct(images(), statistics="none"), "statistics='none', allowed own and visible"),
        (lambda: zoo.create("mae_vit_tiny_classifier", pool="mean"), "pool='mean', allowed avg and token"),
        (lambda: LitClassifier("mae_vit_tiny", arch_args=TINY), "gives no logits; train mae_vit_tiny_classifier"),
        (lambda: mae().eval()(images() * 255), r"pixels span .* divide by 255"),
    ],
)
def test_bad_input_is_refused_with_the_next_step(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Training


def fit(module, epochs=2, data=None, **options):
    data = data or RandomImages([3, 16, 16], 256, 32)
    trainer = L.Trainer(
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module, data)
    return trainer


PX16 = TINY | {"image_size": 16}


def test_the_loss_falls_and_the_probe_speaks():
    L.seed_everything(0)
    module = LitMAE("mae_vit_tiny", arch_args=PX16 | {"target": "pixel"}, lr=3e-3, warmup_epochs=1)
    trainer = fit(module, epochs=1)
    first = trainer.callback_metrics["val/loss"].item()
    trainer = fit(module, epochs=6)
    assert trainer.callback_metrics["val/loss"].item() < 0.9 * first
    assert 0 <= trainer.callback_metrics["val/knn"].item() <= 1


def test_the_learning_rate_follows_the_batch_and_is_said(caplog):
    module = LitMAE("mae_vit_tiny", arch_args=PX16, base_lr=1.5e-4, warmup_epochs=0)
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        trainer = fit(module, 1, accumulate_grad_batches=4)
    assert trainer.optimizers[0].param_groups[0]["initial_lr"] == pytest.approx(1.5e-4 * 128 / 256)
    assert any(re.search(r"learning rate 7.5e-05 = 0.00015 × 128 images a step / 256", t) for t in caplog.messages)


def test_a_schedule_that_rises_says_so():
    args = {"arch_args": PX16, "base_lr": 1.5e-4, "warmup_epochs": 0}  # on one device, 32 of the 2,048 it is meant for
    with pytest.warns(UserWarning, match=r"min_lr=8e-05 is above the peak learning rate 1\.875e-05, and the step size"):
        fit(LitMAE("mae_vit_tiny", min_lr=8e-5, **args), 1)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="min_lr")
        fit(LitMAE("mae_vit_tiny", min_lr=1e-6, **args), 1)


def test_one_learning_rate_or_the_other():
    with pytest.raises(ValueError, match=r"lr=0\.001 and base_lr=0\.001: give one of them"):
        fit(LitMAE("mae_vit_tiny", arch_args=PX16, lr=1e-3, base_lr=1e-3))


def test_pretraining_decays_matrices_and_tokens_as_published():
    module = LitMAE("mae_vit_tiny", arch_args=PX16, lr=1e-3)
    fit(module, 1)
    (decayed, kept) = module.optimizers().param_groups
    ids = {id(p) for p in decayed["params"]}
    assert id(module.model.cls_token) in ids
    assert id(module.model.decoder.mask_token) in ids
    assert all(p.ndim == 1 for p in kept["params"])
    assert kept["weight_decay"] == 0


def test_layer_decay_is_the_published_rule():
    module = LitClassifier(
        "mae_vit_tiny_classifier",
        arch_args=SMALL | {"image_size": 16},
        num_classes=4,
        lr=1.0,
        weight_decay=0.1,
        layer_decay=0.5,
    )
    fit(module, 1, limit_train_batches=1, limit_val_batches=0)
    rates = {id(p): (g["initial_lr"], g["weight_decay"]) for g in module.optimizers().param_groups for p in g["params"]}
    model = module.model  # two blocks: the stem is three steps from the head
    assert rates[id(model.patch_embed.proj.weight)] == (0.125, 0.1)
    assert rates[id(model.pos_embed)] == rates[id(model.cls_token)] == (0.125, 0.0)
    assert rates[id(model.blocks[0].attn.qkv.weight)] == (0.25, 0.1)
    assert rates[id(model.blocks[1].mlp.fc1.bias)] == (0.5, 0.0)
    assert rates[id(model.fc_norm.weight)] == (1.0, 0.0)
    assert rates[id(model.head.weight)] == (1.0, 0.1)


def test_a_probe_trains_the_head_alone_with_batchnorm_and_lars():
    args = SMALL | {"image_size": 16, "head_norm": True, "pool": "token"}
    module = LitClassifier(
        "mae_vit_tiny_classifier", arch_args=args, num_classes=4, probe=True, optimizer="lars", base_lr=0.1
    )
    before = copy.deepcopy(module.model.state_dict())
    fit(module, 1)
    changed = {k for k, v in module.model.state_dict().items() if not torch.equal(v, before[k])}
    assert {k.split(".")[0] for k in changed} == {"head", "head_norm"}
    assert [g["always_adapt"] for g in module.optimizers().param_groups] == [True, False]


def test_mixup_cutmix_and_drop_path_train():
    args = SMALL | {"image_size": 16, "drop_path": 0.3}
    L.seed_everything(0)
    module = LitClassifier(
        "mae_vit_tiny_classifier", arch_args=args, num_classes=4, lr=3e-3, mixup=0.8, cutmix=1.0, label_smoothing=0.1
    )
    trainer = fit(module, 12)
    assert trainer.callback_metrics["val/acc"] > 0.5


def test_drop_path_skips_whole_samples_and_keeps_the_mean():
    block = vit.Block(8, 2, drop_path=0.5)
    torch.manual_seed(0)
    out = block._drop(torch.ones(2000, 3, 8))
    assert set(out.unique().tolist()) == {0.0, 2.0}
    assert (out == out[:, :1, :1]).all()
    assert abs(out.mean() - 1) < 0.1
    rates = [b.drop_path for b in zoo.create("mae_vit_tiny_classifier", drop_path=0.11).blocks]
    assert rates == pytest.approx([0.01 * i for i in range(12)])


def test_averaged_weights_train_save_and_load(tmp_path):
    from lightning.pytorch.callbacks import EMAWeightAveraging

    module = LitMAE("mae_vit_tiny", arch_args=PX16, lr=1e-3)
    trainer = L.Trainer(
        max_epochs=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=[EMAWeightAveraging(decay=0.9)],
    )
    trainer.fit(module, RandomImages([3, 16, 16], 256, 32))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    loaded = zoo.load(str(tmp_path / "last.ckpt"))
    average = (
        trainer.callbacks[0]._average_model.module.model if hasattr(trainer.callbacks[0], "_average_model") else None
    )
    assert average is None or torch.equal(loaded.cls_token, average.cls_token)


@pytest.mark.long
def test_bf16_and_one_compiled_graph_train():
    module = LitMAE("mae_vit_tiny", arch_args=PX16 | {"depth": 1}, lr=1e-3, compile=True)
    trainer = fit(module, 1, precision="bf16-mixed", limit_train_batches=2, limit_val_batches=0)
    assert trainer.callback_metrics["train/loss"].isfinite()
    assert not [k for k in module.state_dict() if "_orig_mod" in k]
