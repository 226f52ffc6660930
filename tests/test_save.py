"""What `zoo.save` writes can be loaded, or is not written; a head of other classes is asked for by number."""

import json
import logging

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import zoo
from zoo import hub

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
SMALL = {"image_size": 16, "patch_size": 8, "dim": 24, "depth": 2, "heads": 2, "num_classes": 4}


def made() -> nn.Module:
    torch.manual_seed(0)
    return zoo.create("mae_vit_tiny_classifier", **SMALL).eval()


def compile_whole(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")


def compile_blocks(model: nn.Module) -> nn.Module:
    for i, block in enumerate(model.blocks):
        model.blocks[i] = torch.compile(block, backend="eager")
    return model


def tie(model: nn.Module) -> nn.Module:
    model.blocks[1].attn.qkv.weight = model.blocks[0].attn.qkv.weight
    return model


def view(model: nn.Module) -> nn.Module:
    both = torch.randn(2, 24)
    model.fc_norm.weight, model.fc_norm.bias = (nn.Parameter(row) for row in both)
    return model


@pytest.mark.parametrize("change", [compile_whole, compile_blocks, tie, view, lambda m: nn.DataParallel(m).module])
def test_a_model_in_another_coat_is_saved_as_what_it_is(change, tmp_path):
    model = change(made())
    wanted = model(IMAGES)
    loaded = zoo.load(str(zoo.save(model, tmp_path)))
    assert torch.equal(loaded(IMAGES), wanted)
    assert loaded.state_dict().keys() == made().state_dict().keys()


@pytest.mark.parametrize("change", [compile_whole, compile_blocks])
def test_a_run_of_a_compiled_model_loads(change, tmp_path):
    model = change(made())
    state = {f"model.{k}": v for k, v in model.state_dict().items()}
    assert any("_orig_mod" in k for k in state)
    torch.save({"zoo": model.zoo_config, "state_dict": state}, tmp_path / "last.ckpt")
    assert torch.equal(zoo.load(str(tmp_path / "last.ckpt"))(IMAGES), model(IMAGES))


def other_head(model: nn.Module) -> nn.Module:
    model.head = nn.Linear(24, 7)
    return model


def no_head(model: nn.Module) -> nn.Module:
    model.head = nn.Identity()
    return model


def weight_norm(model: nn.Module) -> nn.Module:
    nn.utils.parametrizations.weight_norm(model.blocks[0].mlp.fc1)
    return model


def a_layer_more(model: nn.Module) -> nn.Module:
    model.extra = nn.Linear(2, 2)
    return model


def nan(model: nn.Module) -> nn.Module:
    model.blocks[1].norm1.weight.data[3] = torch.nan
    return model


def quantised(model: nn.Module) -> nn.Module:
    """As dynamic quantisation leaves a layer: what it holds is no tensor."""

    class Packed(nn.Module):
        def get_extra_state(self):
            return torch.qint8

        def set_extra_state(self, state): ...

    model.head = Packed()
    return model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_head, r"2 misshapen \(head.weight is \(7, 24\), not \(4, 24\)\); nothing.*zoo\.hub\.reset_head"),
        (no_head, r"2 missing \(head.weight first\); nothing was written\. zoo\.hub\.reset_head"),
        (weight_norm, r"2 unexpected \(blocks.0.mlp.fc1.parametrizations.*remove_parametrizations"),
        (a_layer_more, r"2 unexpected \(extra.weight first\).*a family of its own"),
        (nan, r"1 tensors of this mae_vit_tiny_classifier hold NaN \(blocks\.1\.norm1\.weight first\)"),
        (quantised, r"is quantised \(head\._extra_state\)"),
        (AveragedModel, r"this AveragedModel does not know its arch; give its `module`"),
    ],
)
def test_what_nobody_could_load_is_not_written(change, message, tmp_path):
    zoo.save(made(), tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=message):
        zoo.save(change(made()), tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("door", [zoo.load, lambda name, **args: zoo.create("mae_vit_tiny_classifier", name, **args)])
def test_another_number_of_classes_is_a_new_head_that_is_said_and_kept(door, tmp_path, caplog):
    model = made()
    model.zoo_config |= {"classes": list("abcd"), "name": "mae_vit_tiny_classifier.cifar10"}
    zoo.save(model, tmp_path / "four")
    found = door(str(tmp_path / "four"), num_classes=3).eval()
    assert found(IMAGES).shape == (2, 3)
    assert torch.equal(found.forward_features(IMAGES), model.forward_features(IMAGES))
    assert "a new random head of 3 classes in place of its 4" in caplog.text
    config = json.loads((zoo.save(found, tmp_path / "three") / "config.json").read_text())
    assert config["reset_head"] == {"from": 4, "to": 3}
    assert config["args"]["num_classes"] == 3
    assert config["parent"] == "mae_vit_tiny_classifier.cifar10"
    assert not {"classes", "name"} & config.keys()
    assert torch.equal(zoo.load(str(tmp_path / "three"))(IMAGES), found(IMAGES))


def test_the_same_number_of_classes_is_the_same_head(tmp_path, caplog):
    zoo.save(made(), tmp_path)
    with caplog.at_level(logging.WARNING, "zoo"):
        assert torch.equal(zoo.load(str(tmp_path), num_classes=4)(IMAGES), made()(IMAGES))
    assert not caplog.text


@pytest.mark.parametrize(("number", "message"), [("3", "num_classes='3'; expected int"), (10**8, "too few for num_cl")])
def test_a_head_that_cannot_be_is_refused(number, message, tmp_path):
    zoo.save(made(), tmp_path)
    with pytest.raises(ValueError, match=message):
        zoo.load(str(tmp_path), num_classes=number)


def test_what_has_no_head_gets_none(tmp_path):
    args = {k: v for k, v in SMALL.items() if k != "num_classes"}
    hub.save(zoo.create("mae_vit_tiny", decoder_depth=0, **args), tmp_path)
    with pytest.raises(ValueError, match="mae_vit_tiny takes no 'num_classes'"):
        zoo.load(str(tmp_path), num_classes=3)
