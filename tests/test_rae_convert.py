"""RAEs of other houses: the authors' decoder and statistics, diffusers' folder, both spellings of an encoder inside."""

import json
import re

import pytest
import torch
from safetensors.torch import save_file

import zoo
from zoo import cli, registry
from zoo.families.rae import encoder as encoders
from zoo.families.rae.dit import DiTDH
from zoo.families.rae.model import RAE
from zoo.hub import fetch, foreign

ENCODER = "timm:vit_small_patch14_reg4_dinov2.lvd142m"
ARGS = {"encoder": ENCODER, "latent_channels": 384, "dim": 32, "depth": 2, "heads": 2, "hidden": 64}
AUTHORS = [
    (r"^decoder\.embed\.", "decoder_embed."),
    (r"^decoder\.cls_token$", "trainable_cls_token"),
    (r"^decoder\.blocks\.", "decoder_layers."),
    (r"\.attn\.([qkv])\.", lambda m: f".attention.attention.{ {'q': 'query', 'k': 'key', 'v': 'value'}[m[1]] }."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"^decoder\.norm\.", "decoder_norm."),
    (r"^decoder\.head\.", "decoder_pred."),
]
OLD = [(r"\.attn\.([qkv])\.", AUTHORS[3][1]), (r"\.attn\.proj\.", ".attention.output.dense.")]
NEW = [(r"\.attn\.([qkv])\.", r".attention.\1_proj."), (r"\.attn\.proj\.", ".attention.o_proj.")]


def ours() -> RAE:
    torch.manual_seed(0)
    model = zoo.create("rae_vit_xl", **ARGS)
    model.latent_mean.normal_()
    model.latent_std.uniform_(0.5, 1.5)
    return model.eval()


def split(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Packed queries, keys and values one by one."""
    parts = {}
    for name, tensor in state.items():
        if ".attn.qkv." in name:
            parts |= {name.replace("qkv", p): t for p, t in zip("qkv", tensor.chunk(3))}
        else:
            parts[name] = tensor
    return parts


def renamed(state: dict[str, torch.Tensor], rules: list) -> dict[str, torch.Tensor]:
    found = {}
    for name, tensor in state.items():
        for pattern, new in rules:
            name = re.sub(pattern, new, name)
        found[name] = tensor.contiguous()
    return found


def authors(model: RAE) -> dict[str, torch.Tensor]:
    state = {k: v for k, v in model.state_dict().items() if k.startswith("decoder.") and "pos_embed" not in k}
    return renamed(split(state), AUTHORS) | {"decoder_pos_embed": torch.zeros(1, 257, 32)}


def under(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + k: v for k, v in state.items()}


def statistics(model: RAE) -> dict[str, torch.Tensor]:
    return {"mean": model.latent_mean, "var": model.latent_std.square() - 1e-5}


def same(a: RAE, b: RAE, but: tuple[str, ...] = ()) -> None:
    for name, tensor in a.state_dict().items():
        if name not in but:
            torch.testing.assert_close(b.state_dict()[name], tensor, rtol=0, atol=1e-6)


def test_the_authors_decoder_with_its_statistics():
    model = ours()
    found = foreign.convert(authors(model) | statistics(model), "rae_vit_xl", **ARGS)
    same(model, found)
    assert found.measured


def test_a_trainers_average_is_preferred_and_prefixes_fall():
    model = ours()
    state = {f"module.{k}": v for k, v in authors(model).items()}
    wrapped = {"model": {k: torch.zeros_like(v) for k, v in state.items()}, "ema": state}
    found = foreign.convert(wrapped, "rae_vit_xl", **ARGS)
    same(model, found, ("latent_mean", "latent_std"))
    assert not found.measured


@pytest.mark.parametrize("trainer", [False, True], ids=("diffusers", "stage 1"))
@pytest.mark.parametrize("spelling", ["old", "new"])
def test_an_encoder_inside_is_taken_in_either_spelling(spelling, trainer):
    model, vit = ours(), encoders.create_timm(ENCODER, 224)
    torch.nn.init.normal_(vit.cls_token)
    state = {k: v for k, v in vit.state_dict().items() if not k.startswith("norm.")}
    prefix = "encoder.encoder.layer." if spelling == "old" else "encoder.layer."
    rules = OLD if spelling == "old" else NEW
    rules = [
        (r"^blocks\.", prefix),
        *rules,
        (r"\.ls(\d)\.gamma$", r".layer_scale\1.lambda1"),
        (r"^patch_embed\.proj\.", "encoder.embeddings.patch_embeddings.projection."),
        (r"^cls_token$", "encoder.embeddings.cls_token"),
        (r"^reg_token$", "encoder.embeddings.register_tokens"),
    ]
    table = state.pop("pos_embed")
    inside = renamed(split(state), rules)
    inside["encoder.embeddings.position_embeddings"] = torch.cat([torch.zeros(1, 1, 384), table], 1)
    inside["encoder.embeddings.mask_token"] = torch.zeros(1, 384)
    bundle = {f"decoder.{k}": v for k, v in authors(model).items()}
    stats = None
    if trainer:  # {model, ema, disc, …} of train_stage1.py, whose encoder has a class around it
        bundle |= {f"encoder.{k}": v for k, v in inside.items()}
        stats = statistics(model)
        wrapped = {"model": {k: torch.zeros_like(v) for k, v in bundle.items()}, "ema": bundle, "disc": {"x": stats}}
        found = foreign.convert(wrapped, "rae_vit_xl", stats=stats, **ARGS)
        assert not foreign.convert(wrapped, "rae_vit_xl", **ARGS).measured
    else:
        bundle |= inside | {"_latents_mean": model.latent_mean, "_latents_std": model.latent_std - 1e-5}
        bundle |= {"encoder_mean": model.mean[None], "encoder_std": model.std[None]}
        found = foreign.convert(bundle, "rae_vit_xl", **ARGS)
    same(model, found)
    own = found.encoder.vit.state_dict()
    assert all(torch.equal(own[k], v) for k, v in vit.state_dict().items())
    del bundle[next(k for k in bundle if "layer_scale1" in k)]
    with pytest.raises(ValueError, match=r"1 tensors differ, blocks\.0\.ls1\.gamma first"):
        foreign.convert(bundle, "rae_vit_xl", stats=stats, **ARGS)


def test_statistics_of_a_file_beside_join_on_the_command_line(tmp_path):
    model = ours()
    torch.save({"ema": under("module.", authors(model)), "model": {}}, tmp_path / "decoder.pt")
    torch.save(statistics(model), tmp_path / "stat.pt")
    argv = ["convert", str(tmp_path / "decoder.pt"), "rae_vit_xl", str(tmp_path / "ours"), "--args", json.dumps(ARGS)]
    assert cli.main([*argv, "--stats", str(tmp_path / "stat.pt")]) == 0
    same(model, zoo.load(str(tmp_path / "ours")))
    half = foreign.convert(authors(model), "rae_vit_xl", stats={"mean": model.latent_mean}, **ARGS)
    same(model, half, ("latent_std",))
    assert (half.latent_std == 1).all()


@pytest.mark.parametrize(
    ("arch", "message"),
    [("rae_vit_xl", "dim is 768, not 1152, and the number of heads .* it fits rae_vit_base"), ("rae_vit_base", "")],
)
def test_a_decoder_under_another_arch_is_refused_for_its_heads(arch, message):
    state = {"decoder_embed.weight": torch.zeros(768, 768)}
    for i in range(12):
        state[f"decoder_layers.{i}.intermediate.dense.bias"] = torch.zeros(3072)
    with pytest.raises(ValueError, match=f"the state dict is no rae_vit_xl: its {message}" if message else "missing"):
        foreign.convert(state, arch)


def released(**args) -> tuple[DiTDH, dict[str, torch.Tensor]]:
    """A DiT^DH and the tensors its authors would write, tables besides."""
    torch.manual_seed(0)
    model = zoo.create(
        "ditdh_tiny", **{"latent_channels": 12, "dim": [16, 32], "depth": [1, 1], "heads": [2, 1]} | args
    )
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.1)
    state = dict(model.state_dict())
    for name, rotary in (("enc", model.rotary_deep), ("dec", model.rotary_wide)):
        cos, sin = (t.repeat_interleave(2, -1) for t in rotary)
        state |= {f"{name}_feat_rope.freqs_cos": cos, f"{name}_feat_rope.freqs_sin": sin}
    return model.eval(), state


TOLD = {"dim": [16, 32], "depth": [1, 1], "num_classes": 5}


def test_a_grid_and_heads_follow_from_the_tables():
    model, state = released(grid=6, num_classes=5, heads=[1, 2])
    found = foreign.convert({"ema": under("module.", state)}, "ditdh_tiny", **TOLD)
    assert found.takes.shape == (12, 6, 6)
    assert found.shift == model.shift
    z, t = torch.randn(2, 12, 6, 6), torch.tensor([0.3, 0.8])
    assert torch.equal(found.velocity(z, t, torch.tensor([4, -1])), model.velocity(z, t, torch.tensor([4, -1])))
    assert found.zoo_config["assumed"] == {"shift": model.shift, "autoencoder": "rae_mae_vit_tiny.tiny_imagenet"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("pos_embed"), "pos_embed is missing: a DiT.DH without fixed positions"),
        (lambda s: [s.pop(k) for k in list(s) if "rope" in k], "enc_feat_rope.freqs_cos is missing: .* without rotary"),
        (lambda s: s.update(pos_embed=torch.randn(1, 64, 16)), "pos_embed is not the fixed table of a grid"),
        (lambda s: s.update(pos_embed=s["pos_embed"][:, :60]), "pos_embed is of 60 places, no square grid"),
        (
            lambda s: s.update({"y_embedder.embedding_table.weight": torch.zeros(5, 16)}),
            r"its num_classes is 4, not 5, and a network that lacks the row for any class .*; give .\"num_classes\": 4",
        ),
        (
            lambda s: s.update({"x_embedder.proj.weight": torch.zeros(64, 12, 1, 1)}),
            r"1 misshapen \(x_embedder.proj.weight is \(64, 12, 1, 1\)",
        ),
    ],
)
def test_another_dit_is_refused(change, message):
    _, state = released(num_classes=5)
    foreign.convert(state, "ditdh_tiny", **TOLD)
    change(state)
    with pytest.raises(ValueError, match=message):
        foreign.convert(state, "ditdh_tiny", **TOLD)


def test_a_record_joins_the_statistics_beside_its_decoder(tmp_path, monkeypatch):
    model = ours()
    save_file(authors(model), tmp_path / "decoder.safetensors")
    save_file({k: v.contiguous() for k, v in statistics(model).items()}, tmp_path / "stat.safetensors")
    name = "rae_vit_xl.dinov2_base"
    record = registry.records()[name]
    local = {"file": "decoder.safetensors", "extra_file": "stat.safetensors", "args": ARGS}
    changed = type(record)(**vars(record) | local)
    monkeypatch.setattr(registry, "weights_info", lambda name: changed)
    monkeypatch.setattr(fetch, "download", lambda repo, file, *_: tmp_path / file)
    with fetch.fetching() as seen:
        same(model, zoo.load(name))
    assert [one.path.name for one in seen.came] == ["decoder.safetensors", "stat.safetensors"]  # what a bundle packs


def test_a_cut_file_is_refused():
    state = authors(ours())
    del state["decoder_layers.1.attention.attention.key.weight"]
    with pytest.raises(ValueError, match="no key or value beside it"):
        foreign.convert(state, "rae_vit_xl", **ARGS)


@pytest.mark.long
def test_an_encoder_of_mae_is_the_authors_at_another_size(monkeypatch, tmp_path):
    """By its name in timm and out of a diffusers folder alike: both fit the positions as transformers does."""
    import timm
    import transformers

    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
    their = transformers.ViTMAEModel(transformers.ViTMAEConfig(mask_ratio=0.0, **sizes)).eval()
    for p in their.parameters():
        torch.nn.init.normal_(p, std=0.2)
    torch.nn.init.ones_(their.layernorm.weight)
    torch.nn.init.zeros_(their.layernorm.bias)
    inside = {f"encoder.{k}": v for k, v in their.state_dict().items()}

    small = {"embed_dim": 24, "depth": 2, "num_heads": 2}
    weights = foreign.translate({"decoder.decoder_embed.weight": torch.zeros(1, 24)} | inside, "rae_vit_xl", {}).state
    encoder = {k.removeprefix("encoder."): v for k, v in weights.items() if k.startswith("encoder.")}
    create = timm.create_model

    native = create("vit_base_patch16_224.mae", **small, num_classes=0)
    native.load_state_dict({"norm.weight": torch.ones(24), "norm.bias": torch.zeros(24)} | encoder)
    save_file(native.state_dict(), tmp_path / "model.safetensors")
    asked = []
    monkeypatch.setattr(timm, "create_model", lambda name, **options: create(name, **small | options))
    monkeypatch.setattr(encoders, "fetch", lambda file, _: (asked.append(file), tmp_path / file.file)[1])
    name = "timm:vit_base_patch16_224.mae"
    images = torch.rand(2, 3, 256, 256)
    ours = encoders.load(name, 256)
    with torch.no_grad():
        pixels = (images - ours.mean) / ours.std
        noise = torch.arange(256).expand(2, -1)
        wanted = their(pixels, noise, interpolate_pos_encoding=True).last_hidden_state[:, 1:]  # (2, 256, 24)
    torch.testing.assert_close(ours(images).flatten(2).mT, wanted, rtol=0, atol=2e-5)
    assert torch.equal(encoders.from_tensors(name, dict(encoder), 256)(images), ours(images))
    assert encoders.load(name).vit.patch_embed.img_size == (224, 224)
    assert {file.address for file in asked} == {"hf://timm/vit_base_patch16_224.mae/model.safetensors"}
