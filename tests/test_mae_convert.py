"""Every dialect of a masked autoencoder comes in whole, is told by itself, and nothing is lost on the way."""

import argparse
import re

import pytest
import torch
from safetensors.torch import save_file

import zoo
from zoo import registry
from zoo.families.mae import model as m

ARGS = {"image_size": 16, "patch_size": 4, "dim": 24, "depth": 2, "heads": 2}
DECODER = {"decoder_dim": 16, "decoder_depth": 2, "decoder_heads": 2}
OWN = ("mean", "std")


def mae(**args):
    torch.manual_seed(0)
    return stirred(zoo.create("mae_vit_tiny", **ARGS | DECODER | args))


def classifier(**args):
    torch.manual_seed(0)
    return stirred(zoo.create("mae_vit_tiny_classifier", **ARGS | {"num_classes": 5} | args))


def stirred(model):
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return model.eval()


def authors(model):
    """Flat, the decoder beside the encoder; a probe's head is a Sequential of BatchNorm and Linear."""
    out = {}
    for k, v in model.state_dict().items():
        if k in OWN:
            continue
        k = "mask_token" if k == "decoder.mask_token" else re.sub(r"^decoder\.", "decoder_", k)
        if getattr(model, "head_norm", None) and not isinstance(model.head_norm, torch.nn.Identity):
            k = re.sub(r"^head_norm\.", "head.0.", re.sub(r"^head\.", "head.1.", k))
        out[k] = v
    return out


def transformers(model, style):
    """`legacy` as the Hub's files, `memory` as version 5 holds it, `saved` as version 5 writes it."""
    old, out = style != "memory", {}
    for k, v in model.state_dict().items():
        if k in OWN:
            continue
        decoder = k.startswith("decoder.")
        k = k.removeprefix("decoder.")
        block = re.match(r"blocks\.(\d+)\.(.*)", k)
        if block:
            layers = {"memory": "decoder_layers", "legacy": "decoder_layers", "saved": "decoder_encoder.layer"}[style]
            root = f"decoder.{layers}" if decoder else "vit.encoder.layer" if old else "vit.layers"
            name, kind = block[2].rsplit(".", 1)
            if name == "attn.qkv":
                names = ["attention.attention.query", "attention.attention.key", "attention.attention.value"]
                names = names if old else ["attention.q_proj", "attention.k_proj", "attention.v_proj"]
                for part, tensor in zip(names, v.chunk(3)):
                    out[f"{root}.{block[1]}.{part}.{kind}"] = tensor.clone()
                continue
            name = {
                "norm1": "layernorm_before",
                "norm2": "layernorm_after",
                "attn.proj": "attention.output.dense" if old else "attention.o_proj",
                "mlp.fc1": "intermediate.dense" if old else "mlp.fc1",
                "mlp.fc2": "output.dense" if old else "mlp.fc2",
            }[name]
            out[f"{root}.{block[1]}.{name}.{kind}"] = v
        elif decoder:
            out["decoder." + ("" if k == "mask_token" else "decoder_") + k] = v
        elif k.startswith("head."):
            out[k.replace("head.", "classifier.")] = v
        elif k.startswith("norm."):
            out[k.replace("norm.", "vit.layernorm.")] = v
        else:
            names = {"pos_embed": "position_embeddings", "cls_token": "cls_token"}
            rest = names.get(k) or k.replace("patch_embed.proj", "patch_embeddings.projection")
            out[f"vit.embeddings.{rest}"] = v
    return out


def openmmlab(model):
    out = {}
    for k, v in model.state_dict().items():
        if k in OWN:
            out[f"data_preprocessor.{k}"] = v * 255
            continue
        decoder = k.startswith("decoder.")
        k = k.removeprefix("decoder.").replace("mlp.fc1", "ffn.layers.0.0").replace("mlp.fc2", "ffn.layers.1")
        k = re.sub(r"norm(\d)\.", r"ln\1.", k)
        if decoder:
            k = k if k == "mask_token" else re.sub(r"^decoder_norm\.", "ln1.", f"decoder_{k}")
            out[f"neck.{k}"] = v
        else:
            k = re.sub(r"^blocks\.", "layers.", re.sub(r"^norm\.", "ln1.", k))
            out[f"backbone.{k}".replace("patch_embed.proj", "patch_embed.projection")] = v
    return out


DIALECTS = {
    "authors, encoder": (lambda: mae(decoder_depth=0), authors),
    "authors, full": (mae, authors),
    "authors, fine-tuned": (classifier, authors),
    "authors, probe": (lambda: classifier(pool="token", head_norm=True), authors),
    "transformers, legacy": (mae, lambda x: transformers(x, "legacy")),
    "transformers, in memory": (mae, lambda x: transformers(x, "memory")),
    "transformers, saved": (mae, lambda x: transformers(x, "saved")),
    "transformers, classifier": (lambda: classifier(pool="token"), lambda x: transformers(x, "saved")),
    "openmmlab": (mae, openmmlab),
}
dialects = pytest.mark.parametrize("dialect", list(DIALECTS))


def pair(dialect):
    make, translate = DIALECTS[dialect]
    model = make()
    return model, {k: v.contiguous() for k, v in translate(model).items()}


def told(model):
    """What tensors do not tell."""
    heads = {"decoder_heads": 2} if model.zoo_config["arch"] == "mae_vit_tiny" else {}
    return {k: ARGS[k] for k in ("dim", "depth", "heads")} | heads


@dialects
def test_a_dialect_is_told_and_every_tensor_arrives(dialect):
    model, state = pair(dialect)
    found = zoo.convert(state, model.zoo_config["arch"], **told(model))
    wanted = model.state_dict()
    assert found.state_dict().keys() == wanted.keys()
    for k, v in found.state_dict().items():
        torch.testing.assert_close(v, wanted[k], msg=lambda text, k=k: f"{k}: {text}")
    assert found.takes.shape == model.takes.shape


@dialects
def test_a_missing_and_a_foreign_tensor_are_refused_by_name(dialect):
    model, state = pair(dialect)
    arch, args = model.zoo_config["arch"], told(model)
    gone = next(k for k in state if re.search(r"1\..*norm2|1\..*layernorm_after|1\.ln2", k))
    with pytest.raises(ValueError, match=r"1 missing \((decoder\.)?blocks\.1\.norm2"):
        zoo.convert({k: v for k, v in state.items() if k != gone}, arch, **args)
    with pytest.raises(ValueError, match=r"1 unexpected \(surplus\.weight first\)"):
        zoo.convert(state | {"surplus.weight": torch.zeros(3)}, arch, **args)


def test_a_file_with_the_authors_command_line_inside_is_read_and_nothing_else_is(tmp_path):
    model, state = pair("authors, full")
    torch.save({"model": state, "args": argparse.Namespace(lr=1e-3, output_dir="x"), "epoch": 7}, tmp_path / "a.pth")
    found = zoo.convert(tmp_path / "a.pth", "mae_vit_tiny", dim=24, depth=2, heads=2, decoder_heads=2)
    torch.testing.assert_close(found.decoder.pred.weight, model.decoder.pred.weight)
    torch.save({"model": state, "run": print}, tmp_path / "b.pth")
    with pytest.raises(ValueError, match="is not a file of plain tensors"):
        zoo.convert(tmp_path / "b.pth", "mae_vit_tiny")


def test_safetensors_and_prefixes(tmp_path):
    model, state = pair("transformers, saved")
    save_file(state, tmp_path / "model.safetensors")
    found = zoo.convert(tmp_path, "mae_vit_tiny", dim=24, depth=2, heads=2, decoder_heads=2)
    torch.testing.assert_close(found.cls_token, model.cls_token)
    model, state = pair("authors, encoder")
    wrapped = {"state_dict": {f"module.model.{k}": v for k, v in state.items()}}
    found = zoo.convert(wrapped, "mae_vit_tiny", dim=24, depth=2, heads=2, decoder_heads=2)
    assert found.decoder is None


def test_an_empty_position_table_is_filled_and_said():
    _, state = pair("transformers, in memory")
    for k in ("vit.embeddings.position_embeddings", "decoder.decoder_pos_embed"):
        state[k] = torch.zeros_like(state[k])
    with pytest.warns(UserWarning, match=r"pos_embed is empty in this file; the fixed table"):
        found = zoo.convert(state, "mae_vit_tiny", dim=24, depth=2, heads=2, decoder_heads=2)
    assert torch.equal(found.pos_embed, m.positions(24, 4, 4, 1))
    assert torch.equal(found.decoder.pos_embed, m.positions(16, 4, 4, 1))


def test_a_pixel_target_is_asked_for():
    _, state = pair("authors, full")
    assert (
        zoo.convert(state, "mae_vit_tiny", dim=24, depth=2, heads=2, decoder_heads=2, target="pixel").target_kind
        == "pixel"
    )


def test_another_size_of_network_is_refused():
    _, state = pair("authors, encoder")
    with pytest.raises(ValueError, match=r"does not fit mae_vit_tiny .* misshapen"):
        zoo.convert(state, "mae_vit_tiny")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"stem.weight": torch.zeros(2)}, r"\['stem.weight'\] are no known masked autoencoder; known are the authors'"),
        ({"blocks.0.attn.qkv.weight": torch.zeros(3, 1)}, "the file is no whole encoder"),
    ],
)
def test_what_is_no_autoencoder_is_said(state, message):
    with pytest.raises(ValueError, match=message):
        zoo.convert(state, "mae_vit_tiny")


def test_a_head_behind_a_batchnorm_has_no_place_in_timm(tmp_path):
    zoo.save(classifier(pool="token", head_norm=True), tmp_path / "ours")
    with pytest.raises(ValueError, match="timm has no BatchNorm before its head; export as safetensors"):
        zoo.export(tmp_path / "ours", tmp_path / "timm", to="timm")


def test_a_published_record_is_downloaded_checked_converted_and_its_terms_said(tmp_path, monkeypatch):
    """The way of Meta's files, with a small one in their place: hash, dialect, terms."""
    from zoo import hub

    model, state = pair("authors, encoder")
    file = tmp_path / "mae_pretrain.pth"
    torch.save({"model": state}, file)
    record = registry.Weights(
        **vars(registry.weights_info("mae_vit_base.in1k"))
        | {"name": "mae_vit_tiny.in1k", "url": file.as_uri(), "args": ARGS | {"decoder_depth": 0}}
        | {"md5": hub.hash_file(file, "md5")[:6]}
    )
    monkeypatch.setattr(registry, "records", lambda: {record.name: record})
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    with pytest.warns(UserWarning, match="mae_vit_tiny.in1k is under CC-BY-NC-4.0"):
        found = zoo.load("mae_vit_tiny.in1k")
    x = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(found.forward_features(x), model.forward_features(x))
    fine = zoo.create("mae_vit_tiny_classifier", "mae_vit_tiny.in1k", num_classes=3)
    torch.testing.assert_close(fine.blocks[0].attn.qkv.weight, model.blocks[0].attn.qkv.weight)

    cached = tmp_path / "home" / "hub" / "checkpoints" / file.name
    cached.write_bytes(b"x" + cached.read_bytes()[1:])
    with pytest.raises(ValueError, match=r"has hash .*, its publisher states .*; delete \S+\.pth and get"):
        zoo.load("mae_vit_tiny.in1k")
