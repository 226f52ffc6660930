"""VQGANs of other houses: told apart by their tensors, every one of them in its place, or refused."""

import re
import sys
import types

import pytest
import torch

from zoo import hub, registry
from zoo.families.vq.vqgan import VQGAN
from zoo.hub import foreign

TINY = {"image_size": 16, "width": 32, "mults": (1, 2, 2), "attention": (2,), "z_channels": 8, "codebook_size": 12}
TINY |= {"code_dim": 4}
IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def ours(**args) -> VQGAN:
    torch.manual_seed(0)
    model = VQGAN(**TINY | args)
    model.quantizer.codebook.data.normal_()
    return model.eval()


def taming(model: VQGAN) -> dict[str, torch.Tensor]:
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("quantizer.")}
    return state | {"quantize.embedding.weight": model.quantizer.codebook.data, "loss.logvar": torch.zeros(())}


def coarse_first(name: str) -> str:
    return re.sub(r"^decoder\.up\.(\d)", lambda m: f"decoder.up.{2 - int(m[1])}", name)


def llamagen(model: VQGAN) -> dict[str, torch.Tensor]:
    found = {}
    for name, tensor in taming(model).items():
        name = coarse_first(name).replace("mid.block_1", "mid.0").replace("mid.attn_1", "mid.1")
        name = re.sub(r"(down|up)\.(\d)", r"conv_blocks.\2", name.replace("mid.block_2", "mid.2"))
        found[name.replace(".block.", ".res.")] = tensor
    del found["loss.logvar"]
    return found | {"quantize.codebook_used": torch.zeros(65536)}


def diffusers(model: VQGAN, old: bool = False) -> dict[str, torch.Tensor]:
    names = {"q": "query", "k": "key", "v": "value", "proj_out": "proj_attn"}
    names = names if old else {"q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
    found = {}
    for name, tensor in taming(model).items():
        attends = re.search(r"\.(?:attn\.\d|attn_1)\.(q|k|v|proj_out)\.(weight|bias)$", name)
        if attends:
            name = name.removesuffix(f"{attends[1]}.{attends[2]}") + f"{names[attends[1]]}.{attends[2]}"
            tensor = tensor[:, :, 0, 0] if attends[2] == "weight" else tensor
        name = (
            coarse_first(name)
            .replace("encoder.down.", "encoder.down_blocks.")
            .replace("decoder.up.", "decoder.up_blocks.")
        )
        name = name.replace("mid.block_1", "mid_block.resnets.0").replace("mid.block_2", "mid_block.resnets.1")
        name = name.replace("mid.attn_1", "mid_block.attentions.0").replace("nin_shortcut", "conv_shortcut")
        name = name.replace("attentions.0.norm.", "attentions.0.group_norm.").replace(".block.", ".resnets.")
        name = re.sub(r"\.attn\.(\d)\.norm\.", r".attn.\1.group_norm.", name).replace(".attn.", ".attentions.")
        name = re.sub(r"(down|up)sample\.conv", r"\1samplers.0.conv", name).replace("norm_out", "conv_norm_out")
        found[name] = tensor
    del found["loss.logvar"]
    return found


def simvq(model: VQGAN) -> dict[str, torch.Tensor]:
    state, codes = taming(model), model.quantizer.codebook.data
    matrix, bias = torch.randn(4, 4), torch.randn(4)
    state["quantize.embedding.weight"] = torch.linalg.solve(matrix, (codes - bias).T).T
    return state | {"quantize.embedding_proj.weight": matrix, "quantize.embedding_proj.bias": bias}


DIALECTS = {
    "taming": taming,
    "taming's checkpoint": lambda m: {"state_dict": taming(m), "epoch": 3},
    "LlamaGen": llamagen,
    "LlamaGen's running mean": lambda m: {"model": {"x": torch.zeros(2)}, "ema": llamagen(m), "steps": 7},
    "diffusers": diffusers,
    "diffusers, old": lambda m: diffusers(m, old=True),
    "SimVQ": simvq,
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_gives_the_same_pictures(dialect):
    model = ours(metric="cosine" if dialect.startswith("LlamaGen") else "l2")
    found = foreign.convert(DIALECTS[dialect](model), "vqgan_f16", image_size=16)
    assert torch.equal(found.encode(IMAGES), model.encode(IMAGES))
    torch.testing.assert_close(found.reconstruct(IMAGES), model.reconstruct(IMAGES), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "args", [{"attention": ()}, {"attention": (1, 2)}, {"mid_attention": False}, {"res_blocks": 1}]
)
def test_the_tensors_tell_the_network(args):
    model = ours(**args)
    found = foreign.convert(diffusers(model), "vqgan_f16", image_size=16)
    assert torch.equal(found.reconstruct(IMAGES), model.reconstruct(IMAGES))


@pytest.mark.parametrize("make", [taming, llamagen, diffusers])
def test_a_tensor_too_few_or_too_many_is_refused(make):
    state = make(ours(res_blocks=1))
    needed = [name for name in state if not name.startswith(("loss.", "quantize.codebook_used"))]
    first = {re.sub(r"\d+", "#", name): name for name in reversed(needed)}
    last = {re.sub(r"\d+", "#", name): name for name in needed}
    for name in {*first.values(), *last.values()}:  # of each part of a network, where it is first and last
        short = {k: v for k, v in state.items() if k != name}
        with pytest.raises((ValueError, KeyError)) as error:
            foreign.convert(short, "vqgan_f16", image_size=16)
        assert isinstance(error.value, ValueError), name
    with pytest.raises(ValueError, match="1 unexpected"):
        foreign.convert(state | {"encoder.extra": torch.zeros(1)}, "vqgan_f16", image_size=16)


def test_a_lightning_checkpoint_of_esser_is_read_without_lightning(tmp_path, monkeypatch):
    """Its callbacks are filed under a class of pytorch_lightning, and its losses hold other networks."""
    model, path = ours(), "pytorch_lightning.callbacks.model_checkpoint"
    module = types.ModuleType(path)
    module.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": path})
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "pytorch_lightning", types.ModuleType("pytorch_lightning"))
        patched.setitem(sys.modules, "pytorch_lightning.callbacks", types.ModuleType("pytorch_lightning.callbacks"))
        patched.setitem(sys.modules, path, module)
        callbacks = {module.ModelCheckpoint: {"best_model_path": "x", "best_model_score": torch.tensor(0.1)}}
        torch.save({"epoch": 3, "callbacks": callbacks, "state_dict": taming(model)}, tmp_path / "last.ckpt")
    found = foreign.convert(tmp_path / "last.ckpt", "vqgan_f16", image_size=16)
    assert torch.equal(found.reconstruct(IMAGES), model.reconstruct(IMAGES))


def test_what_is_no_vqgan_is_refused():
    with pytest.raises(ValueError, match="are no known VQGAN"):
        foreign.convert({"weight": torch.zeros(2)}, "vqgan_f16")


def test_a_converted_model_is_saved_and_loaded(tmp_path):
    model = foreign.convert(taming(ours()), "vqgan_f16", image_size=16)
    loaded = hub.load(str(hub.save(model, tmp_path)))
    assert torch.equal(loaded.reconstruct(IMAGES), model.reconstruct(IMAGES))


def test_no_two_downloads_share_a_name_in_the_cache():
    """What stands behind the last slash of an address is the file's name there."""
    urls = {record.url for record in registry.records().values() if record.url}
    assert len({url.rpartition("/")[2] for url in urls}) == len(urls)


def test_any_multiple_of_the_side_of_a_code_goes_through():
    model = ours()
    images = torch.rand(1, 3, 24, 16)
    assert model.encode(images).shape == (1, 6, 4)
    assert model.reconstruct(images).shape == images.shape
    with pytest.raises(ValueError, match="26×16 px, no multiples of 4, the side of a code; resize to 24×16"):
        model(torch.rand(1, 3, 26, 16))
    with pytest.raises(ValueError, match=r"attention=\(3,\), allowed levels are 0 to 2"):
        ours(attention=(3,))


def test_codes_without_unit_length_are_taken_on_request():
    model = ours(metric="l2")
    found = foreign.convert(llamagen(model), "vqgan_f16", image_size=16, metric="l2")
    assert torch.equal(found.encode(IMAGES), model.encode(IMAGES))
    assert foreign.convert(llamagen(model), "vqgan_f16", image_size=16).zoo_config["assumed"]["metric"] == "cosine"
    assert foreign.convert(taming(model), "vqgan_f16", image_size=16).zoo_config["assumed"]["metric"] == "l2"


def test_a_gumbel_quantiser_is_said_to_be_unsupported():
    state = taming(ours())
    state["quantize.embed.weight"] = state.pop("quantize.embedding.weight")
    state |= {"quantize.proj.weight": torch.zeros(12, 4, 1, 1), "quantize.proj.bias": torch.zeros(12)}
    with pytest.raises(ValueError, match=r"its quantiser is Gumbel's softmax .* no model here has"):
        foreign.convert({"state_dict": state}, "vqgan_f16", image_size=16)
