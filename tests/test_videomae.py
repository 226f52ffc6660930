"""Masked autoencoders of video: what the papers say, held to the number."""

import math

import pytest
import torch
from torch.nn import functional as F

import zoo
from zoo.families.videomae import masks, targets, trunk
from zoo.nn.embed import gather_rows
from zoo.train import optim

SMALL = {"frames": 8, "image_size": 32, "patch_size": 8, "dim": 24, "depth": 2, "heads": 2}
DECODER = {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}


def made(arch="videomae_vit_tiny", **args):
    torch.manual_seed(0)
    return zoo.create(arch, **SMALL | DECODER | args)


def clips(count=2, frames=8, side=32, channels=3):
    return torch.rand(count, frames, channels, side, side, generator=torch.Generator().manual_seed(1))


# Cubes and positions


def test_cubes_go_step_by_step_and_row_by_row_and_come_back():
    x = clips()
    cubes = trunk.cubify(x, 2, 8)
    assert cubes.shape == (2, 64, 2 * 8 * 8 * 3)
    place = 2 * 16 + 1 * 4 + 3  # third step, second row, fourth column
    wanted = x[0, 4:6, :, 8:16, 24:32].permute(0, 2, 3, 1)  # U, P, P, C
    assert torch.equal(cubes[0, place], wanted.flatten())
    assert torch.equal(trunk.uncubify(cubes, 8, 3, 32, 32, 2, 8), x)


def test_a_cube_is_embedded_as_the_convolution_does_it():
    model = made().double()
    x = clips().double()
    conv = model.patch_embed.proj(((x - model.mean.reshape(3, 1, 1)) / model.std.reshape(3, 1, 1)).transpose(1, 2))
    torch.testing.assert_close(model.patch_embed(model.normalise(model.cubes(x))), conv.flatten(2).mT)


def test_positions_are_interleaved_sines_and_cosines_of_the_flat_index():
    table = trunk.sinusoid(6, 5)
    for p in range(5):
        for i in range(3):
            angle = p / 10000 ** (2 * i / 6)
            assert table[p, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[p, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)


@pytest.mark.parametrize("arch", ["videomae_vit_tiny", "mae_st_vit_base"])
def test_positions_of_another_grid_are_resampled_and_said(arch, tmp_path):
    zoo.save(made(arch, **({"pred_frames": 4} if "st" in arch else {})), tmp_path)
    same = zoo.load(str(tmp_path))
    with pytest.warns(UserWarning, match="8×4×4 cubes: resampled"):
        longer = zoo.load(str(tmp_path), frames=16, **({"pred_frames": 8} if "st" in arch else {}))
    assert longer.forward_features(clips(1, 16)).shape == (1, longer.num_cls_tokens + 128, 24)
    before = same.positions() if same.separable else same.pos_embed[0]
    after = longer.positions() if longer.separable else longer.pos_embed[0]
    steps = before.reshape(4, 16, 24)
    halfway = 0.25 * steps[0] + 0.75 * steps[1]  # where the third of eight steps lies among four
    torch.testing.assert_close(after.reshape(8, 16, 24)[2], halfway, rtol=1e-4, atol=1e-5)


# Masks


@pytest.mark.parametrize(("mask", "keep"), [("tube", 4 * 2), ("random", 6), ("frame", 16)])
def test_masks_keep_a_constant_number_and_are_orders_of_all_cubes(mask, keep):
    model = made(mask=mask)
    order = model.draw(50)
    assert model.num_keep == keep
    assert torch.equal(order.sort(1).values, torch.arange(64).expand(50, -1))
    assert order[:, :keep].unique(dim=0).shape[0] > 3


def test_a_tube_hides_the_same_places_in_every_step():
    model = made()
    kept = model.draw(20)[:, : model.num_keep].sort(1).values.reshape(20, 4, 2)
    assert (kept - 16 * torch.arange(4)[:, None] == kept[:, :1]).all()


def test_frames_are_hidden_whole():
    model = made(mask="frame")
    kept = model.draw(20)[:, : model.num_keep]
    assert all(len((row // 16).unique()) == 1 for row in kept)


def test_the_encoder_sees_visible_cubes_only():
    model = made().eval()
    x, order = clips(), model.draw(2)
    hidden = torch.ones(2, 64, dtype=torch.bool).scatter(1, order[:, : model.num_keep], False)
    noisy = torch.where(hidden[:, :, None], torch.rand(2, 64, 384), trunk.cubify(x, 2, 8))
    noisy = trunk.uncubify(noisy, 8, 3, 32, 32, 2, 8)
    assert torch.equal(model(x, order).pred, model(noisy, order).pred)
    assert model(x, order).loss != model(noisy, order).loss


def test_the_running_cell_decodes_half_and_moves_on():
    decoded = masks.running_cell(40, (4, 6, 4), "cpu").reshape(40, 4, 6, 4)
    cells = decoded.reshape(40, 4, 3, 2, 2, 2).permute(0, 1, 2, 4, 3, 5).flatten(4)  # (B, G, 3, 2, 4)
    assert (cells.sum(-1) == 2).all()
    assert (cells == cells[:, :, :1, :1]).all()  # every cell of a step alike
    assert (cells[:, 1:] != cells[:, :-1]).any(-1).all()  # and the next step another
    assert (decoded.sum(1) == 2).all()  # in four steps each place twice
    assert decoded[:, 0, 0, 0].float().mean() not in (0, 1)
    # In the order of V2's dataset/masking_generator.py, RunningCellMaskingGenerator, from whichever start.
    published = [[1, 2], [0, 1], [0, 3], [2, 3]]
    for clip in cells[:, :, 0, 0]:  # (G, 4)
        steps = [cell.nonzero().flatten().tolist() for cell in clip]
        start = published.index(steps[0])
        assert steps == published[start:] + published[:start]


def test_pretraining_spares_the_mask_token_as_published():
    """VideoMAE's and V2's `no_weight_decay` name it, MAE-ST's `add_weight_decay` knows no exception."""
    for arch, spared in (("videomae_vit_small", True), ("mae_st_vit_large", False)):
        with torch.device("meta"):
            model = zoo.create(arch)
            decayed = {id(p) for p in optim.decay_groups(model, 0.05)[0]["params"]}
        assert (id(model.decoder.mask_token) not in decayed) == spared
        assert id(model.decoder.pred.weight) in decayed


@pytest.mark.parametrize("decode", ["running_cell", "running_cell_hidden"])
def test_dual_masking_scores_hidden_cubes_of_the_running_cell(decode):
    model = made("videomae_v2_vit_small", decode=decode).train()
    x, order = clips(), model.draw(2)
    torch.manual_seed(3)
    out = model(x, order)
    torch.manual_seed(3)
    decoded = masks.running_cell(2, model.grid, "cpu")
    hidden = torch.ones(2, 64, dtype=torch.bool).scatter(1, out.ids_keep, False)
    scored = torch.zeros(2, 64, dtype=torch.bool).scatter(1, out.ids_pred, True) & hidden
    assert torch.equal(scored, decoded & hidden)
    target = model.target(model.cubes(x), out.ids_pred)
    error = (out.pred - target).square().mean(-1)[hidden.gather(1, out.ids_pred)]
    torch.testing.assert_close(out.loss, error.mean())
    assert out.ids_pred.shape[1] == (32 if decode == "running_cell" else 32 - 4)
    assert model.eval()(x, order).ids_pred.shape[1] == 64 - 8  # evaluation predicts all that is hidden


# Targets and loss


def test_targets_are_normalised_one_colour_at_a_time():
    x = torch.rand(3, 5, 2 * 8 * 8 * 3)
    y = targets.norm_colors(x, 3).reshape(3, 5, 128, 3)
    torch.testing.assert_close(y.mean(2), torch.zeros(3, 5, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.std(2), torch.ones(3, 5, 3), atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_black_clips_give_a_finite_loss(dtype):
    model = made().train()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        out = model(torch.zeros(2, 8, 3, 32, 32))
    out.loss.backward()
    assert out.loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_what_was_seen_is_pasted_as_it_is():
    model = made(target="pixel").eval()
    x, order = clips(), model.draw(2)
    pictures = model.reconstruct(x, order)
    seen = torch.zeros(2, 64, 1, dtype=torch.bool).scatter(1, order[:, : model.num_keep, None], True)
    seen = trunk.uncubify(seen.expand(-1, -1, 384), 8, 3, 32, 32, 2, 8)
    assert torch.equal(pictures.pasted[seen], x[seen])
    assert (pictures.masked[~seen] == 0.5).all()
    assert torch.equal(pictures.pasted[~seen], pictures.predicted[~seen])


@pytest.mark.parametrize("arch", ["videomae_vit_tiny", "mae_st_vit_base"])
def test_a_perfect_prediction_reconstructs_the_clip(arch, monkeypatch):
    model = made(arch, **({"pred_frames": 8} if "st" in arch else {})).eval().double()
    x = clips().double()
    cubes = model.cubes(x)
    perfect = model.target(cubes, torch.arange(64).expand(2, -1))
    order = model.draw(2)
    monkeypatch.setattr(model.decoder, "head", lambda _: gather_rows(perfect, order))
    torch.testing.assert_close(model.reconstruct(x, order).predicted, x, atol=1e-5, rtol=0)


def test_mae_st_predicts_the_frames_it_says():
    model = made("mae_st_vit_base", pred_frames=4).eval()
    x = clips()
    assert model(x).pred.shape == (2, 64 - 6, 8 * 8 * 3)
    assert torch.equal(model.shown(model.cubes(x)), trunk.cubify(x[:, [0, 2, 4, 7]], 1, 8))
    assert model.reconstruct(x).pasted.shape == (2, 4, 3, 32, 32)


# Keys without a bias


def test_keys_have_no_bias_and_training_gives_them_none():
    model = made().train()
    optimizer = torch.optim.AdamW(model.parameters(), 0.1, weight_decay=0.5)
    for _ in range(3):
        model(clips()).loss.backward()
        optimizer.step()
    for block in [*model.blocks, *model.decoder.blocks]:
        q, k, v = block.attn.qkv.bias.chunk(3)
        assert not k.any()
        assert q.any()
        assert v.any()


def test_a_key_bias_is_not_read():
    model = made().eval()
    x = clips()
    before = model.forward_features(x)
    with torch.no_grad():
        model.blocks[0].attn.qkv.bias[24:48] = 5.0
    assert torch.equal(model.forward_features(x), before)


# Classifiers


@pytest.mark.parametrize(
    ("arch", "classifier"),
    [("videomae_vit_tiny", "videomae_vit_tiny_classifier"), ("mae_st_vit_base", "mae_st_vit_base_classifier")],
)
def test_a_classifier_takes_the_whole_encoder_and_starts_undecided(arch, classifier, tmp_path):
    model = made(arch, **({"pred_frames": 4} if "st" in arch else {})).eval()
    zoo.save(model, tmp_path)
    fine = zoo.create(classifier, str(tmp_path), num_classes=5).eval()
    x = clips()
    tokens = model._run(model.blocks, fine_tokens(model, x))
    torch.testing.assert_close(fine.forward_features(x), tokens)
    assert fine(x).shape == (2, 5)
    assert fine(x).abs().max() < 1e-2


def fine_tokens(model, x):
    """Tokens before the blocks: VideoMAE's classifier leaves the encoder's last norm out, MAE-ST's moves it."""
    embedded = model.patch_embed(model.normalise(model.cubes(x)))
    embedded = embedded + (model.positions() if model.separable else model.pos_embed[0])
    if model.separable:
        embedded = torch.cat([(model.cls_token + model.positions.cls).expand(len(x), -1, -1), embedded], 1)
    return embedded


def test_gradient_checkpointing_changes_nothing():
    losses, gradients = [], []
    for saving in (False, True):
        model = made().train()
        model.grad_checkpointing = saving
        loss = model(clips(), torch.arange(64).expand(2, -1)).loss
        loss.backward()
        losses.append(loss)
        gradients.append(model.patch_embed.proj.weight.grad)
    assert torch.equal(*losses)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("arch", ["videomae_vit_tiny", "videomae_v2_vit_small", "mae_st_vit_base"])
def test_a_training_step_is_one_graph(arch):
    model = made(arch, **({"pred_frames": 4} if "st" in arch else {})).train()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    x = clips()
    torch.manual_seed(0)
    wanted = model(x).loss
    torch.manual_seed(0)
    torch.testing.assert_close(compiled(x).loss, wanted)


def test_views_of_a_clip_are_averaged_as_probabilities():
    from zoo.train.classify import LitClassifier

    lit = LitClassifier("videomae_vit_tiny_classifier", arch_args=SMALL | {"num_classes": 3}).eval()
    torch.nn.init.normal_(lit.model.head.weight)
    seen = {}
    lit.log = lambda name, value, **_: seen.__setitem__(name, value)
    x, y = clips(6).unflatten(0, (2, 3)), torch.tensor([0, 2])
    with torch.no_grad():
        lit.test_step((x, y), 0)
        mean = lit.model(x.flatten(0, 1)).softmax(-1).reshape(2, 3, 3).mean(1)
    torch.testing.assert_close(seen["test/loss"], F.nll_loss(mean.log(), y))


# What is refused


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"frames": 0}, "frames=0 is not a multiple of tubelet=2; take 2"),
        ({"tubelet": 0}, "tubelet=0, must be at least 1"),
        ({"patch_size": 0}, "patch_size=0, must be at least 1"),
        ({"frames": 7}, "frames=7 is not a multiple of tubelet=2; take 8"),
        ({"image_size": 36}, "36×36 px, not a multiple of patch=8; resize to 32×32"),
        ({"decode": "running_cell", "image_size": 24}, "cell of 2×2, the grid is 3×3"),
        ({"decode": "running_cell_hidden", "mask": "random"}, "take decode='running_cell'"),
        ({"mask_ratio": 0.0}, "keeps 64 of 64|keeps 16 of 16"),
        ({"mask_ratio": 1.0}, "keeps 0 of 16"),
        ({"mask": "tubes"}, "allowed tube, random, frame"),
        ({"target": "hog"}, "allowed norm_pixel, pixel"),
        ({"decode": "half"}, "allowed all"),
    ],
)
def test_sizes_that_cannot_be_are_refused_with_what_can(args, said):
    with pytest.raises(ValueError, match=said):
        made(**args)


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (torch.rand(8, 3, 32, 32), r"one clip needs x\[None\]"),
        (torch.rand(2, 6, 3, 32, 32), "6 frames, this model takes 8"),
        (torch.rand(2, 0, 3, 32, 32), "0 frames, this model takes 8"),
        (torch.rand(2, 3, 8, 32, 32), "frames come before channels"),
        (torch.rand(2, 8, 3, 40, 40), "40×40 px, this model takes 32×32"),
        (torch.rand(2, 8, 3, 32, 32) * 255, "divide by 255"),
        (torch.zeros(2, 8, 3, 32, 32, dtype=torch.uint8), "float pixels"),
    ],
)
def test_clips_that_do_not_fit_are_refused(x, said):
    with pytest.raises(ValueError, match=said):
        made().eval().forward_features(x)


def test_an_encoder_alone_neither_trains_nor_draws():
    model = made(decoder_depth=0)
    assert model.eval().forward_features(clips()).shape == (2, 64, 24)
    for ask in (model, model.reconstruct):
        with pytest.raises(ValueError, match="encoder without a decoder"):
            ask(clips())


# Reports


def test_mixing_treats_all_frames_of_a_clip_alike():
    from zoo.train.classify import LitClassifier

    torch.manual_seed(0)
    lit = LitClassifier("videomae_vit_tiny_classifier", arch_args=SMALL | {"num_classes": 3}, cutmix=1.0)
    seen = []
    lit.forward = lambda x: seen.append(x) or lit.model(x)
    lit.log = lambda *_, **__: None
    x = torch.stack([torch.zeros(8, 3, 32, 32), torch.ones(8, 3, 32, 32)])
    for _ in range(5):
        lit.training_step((x.clone(), torch.tensor([0, 2])), 0)
    mixed = torch.stack(seen)  # (5, B, F, C, H, W)
    assert (mixed == mixed[:, :, :1, :1]).all()
    assert 0 < (mixed != x).float().mean() < 1


def test_figures_of_an_autoencoder_and_of_its_classifier():
    from zoo.report import defaults as report

    x, y = clips(40), torch.arange(40) % 2
    x[y == 1] *= 0.5
    figures = report.evaluate(made(), [(x[:20], y[:20])], [(x[20:], y[20:])])
    assert figures["linear"] == 1.0
    assert figures["knn"] <= 1.0
    assert figures["psnr"] > figures["hidden_psnr"] > figures["hidden_psnr_visible_statistics"]
    classifier = zoo.create("videomae_vit_tiny_classifier", **SMALL, num_classes=2)
    assert report.evaluate(classifier, [(x, y)], [])["images"] == 40


@pytest.mark.parametrize("arch", ["videomae_vit_tiny", "mae_st_vit_base", "videomae_vit_tiny_classifier"])
def test_a_video_file_is_shown_as_a_strip_and_in_motion(arch, tmp_path):
    from PIL import Image

    from zoo import cli

    args = SMALL | ({"pred_frames": 4} if "st" in arch else {"num_classes": 9} if "class" in arch else {})
    zoo.save(zoo.create(arch, **args | ({} if "class" in arch else DECODER)), tmp_path / "model")
    frames = [Image.new("RGB", (40, 30), (10 * i, 90, 20)) for i in range(12)]
    frames[0].save(tmp_path / "clip.gif", save_all=True, append_images=frames[1:], duration=40)
    show = ["show", str(tmp_path / "model"), str(tmp_path / "clip.gif"), "-o"]
    assert cli.main([*show, str(tmp_path / "out.png")]) == 0
    assert Image.open(tmp_path / "out.png").width > 300
    if arch.endswith("classifier"):
        assert cli.main([*show, str(tmp_path / "out.gif")]) != 0
    else:
        assert cli.main([*show, str(tmp_path / "out.gif")]) == 0
        assert Image.open(tmp_path / "out.gif").n_frames == (4 if "st" in arch else 8)
    (tmp_path / "clip.mp4").write_text("words")
    assert cli.main(["show", str(tmp_path / "model"), str(tmp_path / "clip.mp4")]) != 0
    assert cli.main(["show", str(tmp_path / "model"), str(tmp_path / "gone.mp4")]) != 0
