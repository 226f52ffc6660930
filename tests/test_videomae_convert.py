"""Every dialect of a masked autoencoder of video comes in whole, is told by itself, and nothing is lost on the way."""

import argparse
import dataclasses
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import zoo
from zoo import hub, registry
from zoo.families.videomae import trunk
from zoo.nn.embed import IMAGENET_MEAN
from zoo.train.mask import LitMAE

SIZE = {"frames": 4, "image_size": 32}
ARGS = SIZE | {"patch_size": 8, "dim": 24, "depth": 2, "heads": 2}
DECODER = {"decoder_dim": 16, "decoder_depth": 2, "decoder_heads": 2}
TOLD = {"dim": 24, "depth": 2, "heads": 2}  # what no tensor tells


def made(arch, **args):
    """A model with every tensor stirred, the bias of VideoMAE's keys kept at zero."""
    torch.manual_seed(0)
    model = zoo.create(arch, **ARGS | args)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.add_(torch.randn_like(p) * 0.1)
            if name.endswith("qkv.bias") and not model.separable:
                p[len(p) // 3 : 2 * len(p) // 3] = 0
    return model.eval()


def learned(model):
    """What files hold: parameters, and no table that can be computed."""
    return {
        k: v for k, v in model.state_dict().items() if k not in ("mean", "std") and not k.endswith(("embed", "grid"))
    }


def authors(model):
    """MCG-NJU's and OpenGVLab's training files: the bias of queries and values as two vectors."""
    out, pretrained = {}, getattr(model, "decoder", None) is not None
    for k, v in learned(model).items():
        if k.startswith("decoder."):
            k = {"decoder.embed.weight": "encoder_to_decoder.weight", "decoder.mask_token": "mask_token"}.get(
                k, k.replace("decoder.pred.", "decoder.head.")
            )
        elif pretrained:
            k = f"encoder.{k}"
        if k.endswith("qkv.bias"):
            q, _, v = v.chunk(3)
            out[k.replace("qkv.bias", "q_bias")], out[k.replace("qkv.bias", "v_bias")] = q, v
        else:
            out[k] = v
    return out


def opengvlab(model):
    """The V2 repositories: an encoder with its last norm, no head."""
    return {f"model.{k}": v for k, v in authors(model).items() if not k.startswith("head.")}


def transformers(model):
    """As on the Hub."""
    out = {}
    for k, v in learned(model).items():
        block = re.match(r"(decoder\.)?blocks\.(\d+)\.(.*)", k)
        if block:
            root = "decoder.decoder_layers" if block[1] else "videomae.encoder.layer"
            root, rest = f"{root}.{block[2]}", block[3]
            if rest.startswith("attn.qkv."):
                q, key, value = v.chunk(3)
                if rest.endswith("bias"):
                    out |= {f"{root}.attention.attention.q_bias": q, f"{root}.attention.attention.v_bias": value}
                else:
                    names = ("query", "key", "value")
                    out |= {f"{root}.attention.attention.{n}.weight": t for n, t in zip(names, (q, key, value))}
                continue
            for ours, theirs in {
                "attn.proj": "attention.output.dense",
                "mlp.fc1": "intermediate.dense",
                "mlp.fc2": "output.dense",
                "norm1": "layernorm_before",
                "norm2": "layernorm_after",
            }.items():
                rest = rest.replace(ours, theirs)
            out[f"{root}.{rest}"] = v
            continue
        for ours, theirs in {
            "patch_embed.proj.": "videomae.embeddings.patch_embeddings.projection.",
            "norm.": "videomae.layernorm.",
            "head.": "classifier.",
            "decoder.embed.": "encoder_to_decoder.",
            "decoder.pred.": "decoder.head.",
            "decoder.mask_token": "mask_token",
        }.items():
            if k.startswith(ours):
                k = k.replace(ours, theirs)
                break
        out[k] = v
    return out


def mae_st(model):
    """MAE-ST's own files: flat, and three matrices for an attention."""
    out = {}
    for k, v in learned(model).items():
        if k.startswith("fc_norm."):
            k = k.removeprefix("fc_")
        k = k.replace("decoder.positions.", "decoder_pos_embed_").replace("positions.", "pos_embed_")
        k = k.replace("pos_embed_cls", "pos_embed_class").replace("decoder.mask_token", "mask_token")
        k = re.sub(r"^decoder\.", "decoder_", k)
        if ".qkv." in k:
            out |= {k.replace(".qkv.", f".{part}."): t for part, t in zip("qkv", v.chunk(3))}
        else:
            out[k] = v
    return out


def slowfast(model):
    """PySlowFast's, the encoder beside a decoder of its own: one table of positions, blocks inside the head."""
    out = mae_st(model)
    if hasattr(model, "head"):
        return {k.replace("head.", "head.projection."): v for k, v in out.items()}
    out |= {"decoder_embed.weight": torch.rand(16, 24), "decoder_embed.bias": torch.rand(16)}
    out |= {"mask_token": torch.rand(1, 1, 16), "decoder_pos_embed": torch.rand(1, 33, 16)}
    for k, v in mae_st(made("mae_st_vit_base", pred_frames=4, **DECODER)).items():
        if k.startswith("decoder_blocks."):
            out[k.replace("decoder_blocks.", "pred_head.transforms.0.")] = v
        elif k.startswith("decoder_norm."):
            out[k.replace("decoder_norm.", "pred_head.transforms.0.2.")] = v
        elif k.startswith("decoder_pred."):
            out[k.replace("decoder_pred.", "pred_head.projections.0.")] = v
    return out


DIALECTS = {
    "authors, pretrained": (lambda: made("videomae_vit_tiny", **DECODER), authors),
    "authors, V2": (lambda: made("videomae_v2_vit_small", **DECODER), authors),
    "authors, fine-tuned": (lambda: made("videomae_vit_tiny_classifier", num_classes=5), authors),
    "OpenGVLab, encoder": (lambda: made("videomae_vit_tiny_classifier", num_classes=0), opengvlab),
    "transformers, pretrained": (lambda: made("videomae_vit_tiny", **DECODER), transformers),
    "transformers, fine-tuned": (lambda: made("videomae_vit_tiny_classifier", num_classes=5), transformers),
    "MAE-ST, pretrained": (lambda: made("mae_st_vit_base", pred_frames=4, **DECODER), mae_st),
    "MAE-ST, fine-tuned": (lambda: made("mae_st_vit_base_classifier", num_classes=5), mae_st),
    "PySlowFast, pretrained": (lambda: made("mae_st_vit_base", pred_frames=4, decoder_depth=0), slowfast),
    "PySlowFast, fine-tuned": (lambda: made("mae_st_vit_base_classifier", num_classes=5), slowfast),
}
# Said by the converter: the decoder of the file is not one of this zoo's.
LEFT_OUT = "the decoder of this file is PySlowFast's"
pytestmark = pytest.mark.filterwarnings(f"ignore:{LEFT_OUT}")
dialects = pytest.mark.parametrize("dialect", DIALECTS)


def pair(dialect):
    make, translate = DIALECTS[dialect]
    model = make()
    told = {"decoder_heads": 2} if getattr(model, "decoder", None) is not None else {}
    told |= {"pred_frames": 4} if dialect == "PySlowFast, pretrained" else {}
    return model, {k: v.contiguous() for k, v in translate(model).items()}, SIZE | TOLD | told


@dialects
def test_a_dialect_is_told_and_every_tensor_arrives(dialect):
    model, state, args = pair(dialect)
    found = zoo.convert(state, model.zoo_config["arch"], **args)
    wanted = model.state_dict()
    assert found.state_dict().keys() == wanted.keys()
    for k, v in found.state_dict().items():
        torch.testing.assert_close(v, wanted[k], msg=lambda text, k=k: f"{k}: {text}")
    x = torch.rand(2, *model.takes.shape)
    assert torch.equal(found.forward_features(x), model.forward_features(x))


@dialects
def test_a_missing_and_a_foreign_tensor_are_refused_by_name(dialect):
    model, state, args = pair(dialect)
    gone = next(k for k in state if re.search(r"^(?!pred_head).*1\.(norm2|layernorm_after)\.weight", k))
    with pytest.raises(ValueError, match=r"1 missing \((decoder\.)?blocks\.1\.norm2"):
        zoo.convert({k: v for k, v in state.items() if k != gone}, model.zoo_config["arch"], **args)
    surplus = "model.surplus.weight" if dialect.startswith("OpenGVLab") else "surplus.weight"
    with pytest.raises(ValueError, match=r"1 unexpected \(surplus\.weight first\)"):
        zoo.convert(state | {surplus: torch.zeros(3)}, model.zoo_config["arch"], **args)


@pytest.mark.parametrize("wrapper", ["model", "module", "state_dict", "model_state"])
def test_a_file_with_the_authors_command_line_inside_is_read_and_nothing_else_is(tmp_path, wrapper):
    model, state, args = pair("authors, pretrained")
    torch.save({wrapper: state, "args": argparse.Namespace(lr=1e-3), "epoch": 7}, tmp_path / "a.pth")
    found = zoo.convert(tmp_path / "a.pth", "videomae_vit_tiny", **args)
    assert torch.equal(found.decoder.pred.weight, model.decoder.pred.weight)
    torch.save({wrapper: state, "run": print}, tmp_path / "b.pth")
    with pytest.raises(ValueError, match="is not a file of plain tensors"):
        zoo.convert(tmp_path / "b.pth", "videomae_vit_tiny", **args)


def test_a_folder_of_the_hub(tmp_path):
    model, state, args = pair("transformers, fine-tuned")
    save_file(state, tmp_path / "model.safetensors")
    found = zoo.convert(tmp_path, "videomae_vit_tiny_classifier", **args)
    x = torch.rand(2, *model.takes.shape)
    assert torch.equal(found(x), model(x))


@pytest.mark.parametrize(
    ("name", "message"),
    [("k_bias", "1 unexpected"), ("key.bias", r"blocks\.0\.attn\.k\.bias is not zero; VideoMAE's keys have no bias")],
)
def test_a_key_bias_that_is_not_zero_is_refused(name, message):
    _, state, args = pair("transformers, pretrained")
    bias = torch.zeros(24)
    key = f"videomae.encoder.layer.0.attention.attention.{name}"
    if name == "key.bias":
        zoo.convert(state | {key: bias}, "videomae_vit_tiny", **args)
    bias[3] = 1e-3
    with pytest.raises(ValueError, match=message):
        zoo.convert(state | {key: bias}, "videomae_vit_tiny", **args)


def test_positions_are_made_for_the_size_that_is_asked_for():
    _, state, args = pair("authors, pretrained")
    assert torch.equal(zoo.convert(state, "videomae_vit_tiny", **args).pos_embed[0], trunk.sinusoid(24, 32))
    untold = {k: v for k, v in args.items() if k not in SIZE}
    assert zoo.convert(state, "videomae_vit_tiny", **untold).grid == (8, 28, 28)


def test_positions_that_a_file_holds_are_kept(tmp_path):
    model, state, args = pair("authors, fine-tuned")
    learned = torch.randn(1, 32, 24)
    found = zoo.convert({"module": state | {"pos_embed": learned}}, "videomae_vit_tiny_classifier", **args)
    assert torch.equal(found.pos_embed, learned)
    model.pos_embed.copy_(learned)
    x = torch.rand(2, *model.takes.shape)
    assert torch.equal(found(x), model(x))
    assert torch.equal(zoo.load(str(zoo.save(found, tmp_path)))(x), model(x))
    with pytest.raises(ValueError, match="pos_embed is of 32 cubes, and 4 steps of 4×4 are 64; give frames"):
        zoo.convert(state | {"pos_embed": learned}, "videomae_vit_tiny_classifier", **args | {"frames": 8})


def test_what_no_tensor_tells_is_kept():
    _, state, args = pair("authors, pretrained")
    del args["heads"], args["frames"]
    found = zoo.convert(state, "videomae_vit_tiny", **args | {"frames": 4})
    assumed = found.zoo_config["assumed"]
    assert (assumed["heads"], assumed["target"]) == (3, "norm_pixel")
    assert assumed["mean"] == [pytest.approx(m) for m in IMAGENET_MEAN]
    assert not {"decoder_heads", "frames", "image_size"} & assumed.keys()


@pytest.mark.parametrize("key", ["model", "module"])
def test_the_authors_evaluation_takes_the_last_weights(tmp_path, key):
    """As utils.save_model writes it, with the schedule's numpy numbers in the optimiser."""
    model, state, args = pair("authors, fine-tuned")
    zeros = {k: torch.zeros_like(v) for k, v in state.items()}
    groups = [{"lr": np.float64(1e-3), "weight_decay": np.float64(0.05), "params": [0]}]
    torch.save(
        {
            key: state,
            "optimizer": {"state": {}, "param_groups": groups},
            "epoch": 7,
            "scaler": {"scale": 65536.0},
            "args": argparse.Namespace(lr=1e-3, window_size=(8, 14, 14)),
            "model_ema": zeros,
        },
        tmp_path / "checkpoint-7.pth",
    )
    found = zoo.convert(tmp_path / "checkpoint-7.pth", "videomae_vit_tiny_classifier", **args)
    assert torch.equal(found.head.weight, model.head.weight)
    assert (found.zoo_config["taken"], found.zoo_config["left"]) == (key, ["model_ema"])
    averaged = zoo.convert(tmp_path / "checkpoint-7.pth", "videomae_vit_tiny_classifier", take="ema", **args)
    assert not averaged.head.weight.any()


@pytest.mark.parametrize("dialect", ["authors, fine-tuned", "transformers, fine-tuned"])
def test_a_head_over_the_first_token_is_said_to_be_unsupported(dialect):
    model, state, args = pair(dialect)
    name = "norm" if dialect.startswith("authors") else "videomae.layernorm"
    state = {k.replace("fc_norm", name): v for k, v in state.items()}
    with pytest.raises(ValueError, match=r"reads the first token \(--use_cls\)"):
        zoo.convert(state, model.zoo_config["arch"], **args)


def test_statistics_that_are_told_are_taken():
    _, state, args = pair("authors, pretrained")
    found = zoo.convert(state, "videomae_vit_tiny", mean=[0.5] * 3, std=[0.25] * 3, **args)
    assert found.mean.tolist() == [0.5] * 3
    assert found.std.tolist() == [0.25] * 3


def test_positions_that_were_learned_are_resampled_and_said():
    model, state, args = pair("MAE-ST, pretrained")
    with pytest.warns(UserWarning, match="4×6×6 cubes: resampled"):
        found = zoo.convert(state, "mae_st_vit_base", **args | {"frames": 8, "image_size": 48, "pred_frames": 8})
    early, late = model.positions.temporal[0]
    torch.testing.assert_close(found.positions.temporal[0, 1], 0.75 * early + 0.25 * late)
    assert found.decoder.positions.spatial.shape == (1, 36, 16)


def test_positions_keep_their_digits_where_the_file_is_in_half_precision():
    _, state, args = pair("authors, fine-tuned")
    found = zoo.convert({k: v.half() for k, v in state.items()}, "videomae_vit_tiny_classifier", **args)
    assert torch.equal(found.pos_embed[0], trunk.sinusoid(24, 32))
    assert torch.equal(found.mean, torch.tensor(IMAGENET_MEAN))


def test_a_decoder_that_this_zoo_does_not_build_is_left_out_and_said():
    _, state, args = pair("PySlowFast, pretrained")
    with pytest.warns(UserWarning, match=LEFT_OUT):
        found = zoo.convert(state, "mae_st_vit_base", **args)
    assert found.decoder is None
    with pytest.raises(ValueError, match=r"missing \(decoder\."):
        zoo.convert(state, "mae_st_vit_base", decoder_depth=2, decoder_dim=16, decoder_heads=2, **args)


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("videomae_vit_base", r"pretraining needs a decoder; these have one: videomae_vit_base\.k400"),
        ("mae_st_vit_large", "no weights of mae_st_vit_large have one, start without weights"),
    ],
)
def test_an_encoder_alone_does_not_pretrain_and_the_right_weights_are_named(arch, message, tmp_path):
    zoo.save(made(arch, decoder_depth=0, **({"pred_frames": 4} if "st" in arch else {})), tmp_path)
    with pytest.raises(ValueError, match=message):
        LitMAE(arch, weights=str(tmp_path))


def test_a_published_record_is_downloaded_checked_converted_and_its_terms_said(tmp_path, monkeypatch):
    """The way of Meta's files, with a small one in their place: hash, dialect, terms, a classifier started from it."""
    model, state, _ = pair("PySlowFast, pretrained")
    file = tmp_path / "mae_pretrain.pth"
    torch.save({"model_state": state, "cfg": "MASK:", "epoch": 399}, file)
    record = dataclasses.replace(
        zoo.weights_info("mae_st_vit_large.k400"),
        name="mae_st_vit_large.k400_small",  # terms are said once for a name
        url=file.as_uri(),
        md5=hub.hash_file(file, "md5")[:6],
        args=ARGS | {"decoder_depth": 0, "pred_frames": 4},
    )
    monkeypatch.setattr(registry, "records", lambda: {record.name: record})
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    with pytest.warns(UserWarning, match="mae_st_vit_large.k400_small is under CC-BY-NC-4.0"):
        found = zoo.load(record.name)
    x = torch.rand(2, *model.takes.shape)
    assert torch.equal(found.forward_features(x), model.forward_features(x))
    fine = zoo.create("mae_st_vit_large_classifier", record.name, num_classes=3)
    assert torch.equal(fine.blocks[0].attn.qkv.weight, model.blocks[0].attn.qkv.weight)
    assert torch.equal(fine.fc_norm.weight, model.norm.weight)

    cached = tmp_path / "home" / "hub" / "checkpoints" / file.name
    cached.write_bytes(b"x" + cached.read_bytes()[1:])
    with pytest.raises(ValueError, match=r"has hash .*, its publisher states .*; delete \S+\.pth and get"):
        zoo.load(record.name)


@pytest.fixture(scope="module")
def peer():
    import transformers

    return transformers


def theirs(peer, made, **config):
    torch.manual_seed(0)
    sizes = {"image_size": 32, "num_frames": 4, "patch_size": 8, "hidden_size": 24, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "intermediate_size": 96, "layer_norm_eps": 1e-6}
    sizes |= {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 2, "decoder_num_attention_heads": 2}
    model = made(peer.VideoMAEConfig(**sizes | {"decoder_intermediate_size": 64} | config))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return model.eval()


@pytest.mark.long
def test_what_transformers_holds_and_what_it_writes_are_the_same_to_us(peer, tmp_path):
    their = theirs(peer, peer.VideoMAEForPreTraining, use_mean_pooling=False)
    args = SIZE | TOLD | {"decoder_heads": 2}
    held = zoo.convert(their.state_dict(), "videomae_vit_tiny", **args)
    their.save_pretrained(tmp_path)
    written = zoo.convert(tmp_path, "videomae_vit_tiny", **args)
    assert all(torch.equal(v, written.state_dict()[k]) for k, v in held.state_dict().items())
    wanted = their.videomae.encoder.layer[1].attention.attention.query.bias
    assert torch.equal(written.blocks[1].attn.qkv.bias[:24], wanted)


@pytest.mark.long
@pytest.mark.parametrize(("heads", "same"), [(6, True), (16, False)])
def test_the_small_one_has_six_heads_whatever_a_config_says(peer, heads, same):
    size = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 1, "num_attention_heads": heads}
    their = theirs(peer, peer.VideoMAEForVideoClassification, num_labels=5, use_mean_pooling=True, **size)
    their.fc_norm.eps = 1e-6
    our = zoo.convert(their.state_dict(), "videomae_vit_small_classifier", depth=1, **SIZE)
    assert our.blocks[0].attn.heads == 6
    x = torch.rand(2, 4, 3, 32, 32)
    normalised = (x - our.mean.reshape(3, 1, 1)) / our.std.reshape(3, 1, 1)
    assert torch.allclose(our(x), their(normalised).logits, atol=1e-4) == same


def test_features_without_classes_become_a_classifier(tmp_path):
    model = zoo.convert(pair("OpenGVLab, encoder")[1], "videomae_vit_tiny_classifier", **SIZE | TOLD)
    assert model.pooled(torch.rand(2, *model.takes.shape)).shape == (2, 24)
    zoo.save(model, tmp_path)
    from zoo.train.classify import LitClassifier

    lit = LitClassifier("videomae_vit_tiny_classifier", weights=str(tmp_path), num_classes=7)
    assert lit(torch.rand(2, *model.takes.shape)).shape == (2, 7)


@pytest.mark.parametrize("name", [n for n in zoo.list_weights() if registry.archs()[n.partition(".")[0]] == "videomae"])
def test_every_record_builds(name):
    record = zoo.weights_info(name)
    with torch.device("meta"):
        model = zoo.create(record.arch, **record.args)
    heads = {"tiny": 3, "small": 6, "base": 12}
    assert model.blocks[0].attn.heads == heads.get(record.arch.split("_vit_")[1].partition("_")[0], 16)
    assert (getattr(model, "decoder", None) is None) == (record.kind == "encoder" or hasattr(model, "head"))


@pytest.mark.parametrize(
    "state",
    [{"stem.weight": torch.zeros(2)}, {"patch_embed.proj.weight": torch.zeros(8, 3, 4, 4)}],
    ids=("stem", "image"),
)
def test_what_is_no_autoencoder_of_video_is_said(state):
    with pytest.raises(ValueError, match=r"no known masked autoencoder of video|no encoder of video"):
        zoo.convert(state, "videomae_vit_tiny")
