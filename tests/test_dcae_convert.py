"""DC-AEs of other houses: told apart by their tensors, every one of them in its place, or refused."""

import json
import re

import pytest
import torch
from safetensors.torch import save_file

import zoo
from zoo import cli, hub, registry
from zoo.families.dcae.convert import to_diffusers
from zoo.families.dcae.model import DCAE
from zoo.hub import foreign
from zoo.hub.give import DIFFUSERS

SMALL = {"image_size": 32, "latent_channels": 8, "widths": [32, 32, 64], "encoder_attention": [2]}
SMALL |= {"decoder_attention": [2], "batchnorm_stages": 2}
# What in/mix and Sana's networks differ in.
KINDS = {
    "dcae_f32c32": SMALL | {"encoder_depths": [0, 1, 2], "decoder_depths": [0, 2, 1]},
    "dcae_f32c32_sana": SMALL
    | {"encoder_depths": [1, 1, 1], "decoder_depths": [1, 2, 1], "batchnorm_stages": 0, "scales": [5]},
}
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def ours(arch: str) -> DCAE:
    torch.manual_seed(0)
    model = zoo.create(arch, **KINDS[arch])
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(0.05 * torch.rand_like(tensor))
    model.latent_std.fill_(1.0)
    model.latent_mean.zero_()
    return model.eval()


def efficientvit(model: DCAE) -> dict[str, torch.Tensor]:
    """Our tensors under the names that efficientvit and DC-Gen write."""
    strided = model.encoder.stages[1].down.strided
    inner = {
        r"\.conv(1|2)\.(weight|bias)$": r".main.conv\1.conv.\2",
        r"\.attn\.qkv\.": ".context_module.main.qkv.conv.",
        r"\.attn\.aggreg\.(\d)\.dw\.": r".context_module.main.aggreg.\1.0.",
        r"\.attn\.aggreg\.(\d)\.pw\.": r".context_module.main.aggreg.\1.1.",
        r"\.attn\.proj\.": ".context_module.main.proj.conv.",
        r"\.attn\.norm\.": ".context_module.main.proj.norm.",
        r"\.ffn\.inverted\.": ".local_module.main.inverted_conv.conv.",
        r"\.ffn\.depthwise\.": ".local_module.main.depth_conv.conv.",
        r"\.ffn\.point\.": ".local_module.main.point_conv.conv.",
        r"\.ffn\.norm\.": ".local_module.main.point_conv.norm.",
        r"(op_list\.\d)\.norm\.": r"\1.main.conv2.norm.",
    }
    outer = {
        r"^encoder\.stem\.conv\.": "encoder.project_in.conv.conv.",
        r"^encoder\.stem\.": "encoder.project_in.conv.",
        r"^encoder\.head\.": "encoder.project_out.main.op_list.0.conv.",
        r"^decoder\.stem\.": "decoder.project_in.main.conv.",
        r"^decoder\.norm\.": "decoder.project_out.op_list.0.",
        r"^decoder\.head\.conv\.": "decoder.project_out.op_list.2.conv.conv.",
        r"^decoder\.head\.": "decoder.project_out.op_list.2.conv.",
    }
    last, found = len(model.encoder.stages) - 1, {}
    for name, tensor in model.state_dict().items():
        if name.startswith("latent_"):
            continue
        if m := re.match(r"encoder\.stages\.(\d)\.down\.conv\.(.*)", name):
            depth = len(model.encoder.stages[int(m[1])].blocks)
            name = f"encoder.stages.{m[1]}.op_list.{depth}.main.conv.{'' if strided else 'conv.'}{m[2]}"
        elif m := re.match(r"decoder\.stages\.(\d)\.up\.conv\.(.*)", name):
            name = f"decoder.stages.{m[1]}.op_list.0.main.conv.conv.{m[2]}"
        elif m := re.match(r"(en|de)coder\.stages\.(\d)\.blocks\.(\d)\.(.*)", name):
            first = m[1] == "de" and int(m[2]) < last
            name = f"{m[1]}coder.stages.{m[2]}.op_list.{int(m[3]) + first}.{m[4]}"
            for pattern, new in inner.items():
                name = re.sub(pattern, new, name)
        else:
            for pattern, new in outer.items():
                name = re.sub(pattern, new, name)
        found[name] = tensor
    return found


DIALECTS = {"efficientvit": efficientvit, "diffusers": lambda model: to_diffusers(model)[0]}


@pytest.mark.parametrize("arch", KINDS)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_tensor_finds_its_place(dialect, arch):
    model = ours(arch)
    state = DIALECTS[dialect](model)
    assert not set(state) & set(model.state_dict()) - {k for k in state if "coder.norm" in k}
    back = foreign.convert(state, arch, **KINDS[arch])
    assert all(torch.equal(v, back.state_dict()[k]) for k, v in model.state_dict().items())
    assert torch.equal(back.reconstruct(IMAGES), model.reconstruct(IMAGES))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_file_converts_on_the_command_line(dialect, tmp_path, capsys):
    model = ours("dcae_f32c32")
    source = tmp_path / "source"
    source.mkdir()
    file = DIFFUSERS if dialect == "diffusers" else hub.WEIGHTS
    save_file({k: v.contiguous() for k, v in DIALECTS[dialect](model).items()}, source / file)
    args = json.dumps(KINDS["dcae_f32c32"] | {"latent_scale": 0.4552})
    assert cli.main(["convert", str(source), "dcae_f32c32", str(tmp_path / "ours"), "--args", args]) == 0
    back = zoo.load(str(tmp_path / "ours"))
    torch.testing.assert_close(back.normalise(back.encode(IMAGES)), 0.4552 * model.encode(IMAGES))


def test_what_does_not_fit_is_refused():
    state = efficientvit(ours("dcae_f32c32"))
    name = "encoder.project_out.main.op_list.0.conv.weight"
    with pytest.raises(ValueError, match=r"1 missing \(encoder\.head\.weight first\)"):
        foreign.convert({k: v for k, v in state.items() if k != name}, "dcae_f32c32", **KINDS["dcae_f32c32"])
    with pytest.raises(ValueError, match="1 unexpected"):
        foreign.convert(state | {"encoder.other": torch.zeros(1)}, "dcae_f32c32", **KINDS["dcae_f32c32"])
    with pytest.raises(ValueError, match="no known DC-AE"):
        foreign.convert({"a.weight": torch.zeros(1)}, "dcae_f32c32")
    cut = to_diffusers(ours("dcae_f32c32"))[0]
    key = next(k for k in cut if k.endswith("to_k.weight"))
    with pytest.raises(ValueError, match="no to_k or to_v beside it"):
        foreign.convert({k: v for k, v in cut.items() if k != key}, "dcae_f32c32", **KINDS["dcae_f32c32"])


@pytest.mark.parametrize(
    "args", [{"shortcut": "none"}, {"shortcut": "isotropic"}, {"low_rank": True}, {"stem": "haar"}]
)
def test_what_diffusers_has_no_words_for_is_not_exported(args):
    depths = {"encoder_depths": [0, 1, 1], "decoder_depths": [0, 1, 1]}
    with pytest.raises(ValueError, match="diffusers' AutoencoderDC has"):
        to_diffusers(zoo.create("dcae_f32c32", **SMALL | depths | args))


def test_the_exported_scale_makes_latents_of_rms_1():
    model = zoo.load("dcae_tiny_f8c4.tiny_imagenet")
    z = model.denormalise(torch.randn(1000, 4, 8, 8, generator=torch.Generator().manual_seed(0)))
    scale = to_diffusers(model)[1]["scaling_factor"]
    assert abs((scale * z).square().mean().sqrt() - 1) < 0.01
    assert to_diffusers(zoo.create("dcae_tiny_f4c4", latent_scale=0.4552))[1]["scaling_factor"] == pytest.approx(0.4552)


def test_official_records_state_their_scale_and_build():
    records = [w for w in registry.records().values() if w.name.startswith("dcae") and w.foreign]
    assert len(records) == 20
    for w in records:
        with torch.device("meta"):
            model = zoo.create(w.arch, **w.args)
        assert model.takes.shape[1] % model.factor == 0
        assert w.file == (DIFFUSERS if w.name.endswith("_diffusers") else hub.WEIGHTS)
    scales = {w.name: w.args.get("latent_scale") for w in records}
    assert scales["dcae_f32c32.mix"] == 0.4552 != scales["dcae_f32c32.in"] == 0.3189
    assert [n for n, s in scales.items() if s is None] == ["dcae_f32c32.in_256px", "dcae_f32c32.in_256px_diffusers"]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("file", "arch", "message"),
    [
        ("dcae_tiny_f4c4", "dcae_tiny_f8c4", "widths is .*, not .*shortcuts and activations .*it fits dcae_tiny_f4c4"),
        ("dcae_tiny_f16c16", "dcae_f32c32_sana", r"latent_channels is 16, not 32.*it fits dcae_tiny_f16c16"),
        ("dcae_tiny_f8c4", "dcae15_f32c128", r"latent_channels is 4, not 128.*it fits dcae_tiny_f8c4"),
    ],
)
def test_a_file_under_another_arch_is_refused_and_its_own_is_named(file, arch, message, dialect):
    state = DIALECTS[dialect](zoo.create(file))
    with pytest.raises(ValueError, match=f"the state dict is no {arch}: its {message}"):
        foreign.convert(state, arch)
    assert foreign.convert(state, file).zoo_config["args"] == {}


def test_a_network_of_ones_own_has_to_be_told_whole():
    state = efficientvit(ours("dcae_f32c32"))
    told = KINDS["dcae_f32c32"]
    with pytest.raises(
        ValueError, match=r'its decoder_depths is \[0, 2, 1\], .*; give \{"decoder_depths": \[0, 2, 1\]\}'
    ):
        foreign.convert(state, "dcae_f32c32", **told | {"decoder_depths": [0, 1, 1]})
    assumed = foreign.convert(state, "dcae_f32c32", **told).zoo_config["assumed"]
    assert assumed == {"head_act": "relu", "shortcut": "grouped", "latent_shortcut": True, "latent_scale": 1.0}
    other = foreign.convert(state, "dcae_f32c32", head_act="silu", latent_scale=0.5, **told)
    assert other.zoo_config["assumed"] == {"shortcut": "grouped", "latent_shortcut": True}
