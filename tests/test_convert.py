"""Somebody else's checkpoints in: detected, strict, and nothing in them runs."""

import argparse
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import zoo
from zoo import cli, hub

ARGS = {"dim": 6, "depth": 2, "num_classes": 3, "image_size": 4}


@pytest.fixture
def foreign():
    """A classifier in the authors' layout, and its logits by their formula."""
    torch.manual_seed(0)
    state = {
        "embed.weight": torch.randn(6, 16),
        "blocks.0.weight": torch.randn(12, 6),
        "blocks.1.weight": torch.randn(12, 6),
        "head.weight": torch.randn(3, 6),
    }

    def logits(images):
        h = images.flatten(1) @ state["embed.weight"].T
        for i in range(2):
            left, right = (h @ state[f"blocks.{i}.weight"].T).chunk(2, dim=-1)
            h = left * right
        return h @ state["head.weight"].T

    return state, logits


def under(*prefixes):
    return lambda state: {"".join(prefixes) + k: v for k, v in state.items()}


def wrong(state):
    """Other weights of the same names."""
    return {k: torch.zeros_like(v) for k, v in state.items()}


def averaged(state):
    """What torch's own AveragedModel writes."""
    return {"n_averaged": torch.tensor(7)} | under("module.")(state)


# What trainers write around a state dict; every one holds the fixture's weights where they are to be taken from.
WRAPPINGS = {
    "plain": lambda s: s,
    "half": lambda s: {k: v.half() for k, v in s.items()},
    **{
        " ".join(p): under(*p)
        for p in (
            *(("module.",), ("_orig_mod.",), ("model.",), ("backbone.",), ("net.",), ("_fsdp_wrapped_module.",)),
            *(("module.", "_orig_mod."), ("_orig_mod.", "module."), ("model.", "_orig_mod."), ("module.", "model.")),
            ("_orig_mod.", "module.", "model.", "backbone."),
        )
    },
    "each block compiled": lambda s: {k.replace("blocks.0.", "blocks.0._orig_mod."): v for k, v in s.items()},
    "a loss beside": lambda s: under("model.")(s) | {"criterion.weight": torch.ones(3)},
    "a metric beside": lambda s: under("net.")(s) | {"val_acc.tp": torch.zeros(3, dtype=torch.long)},
    "AveragedModel": averaged,
    "DDP in AveragedModel": lambda s: averaged(under("module.")(s)),
    "model, optimizer": lambda s: {"model": s, "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}, "epoch": 3},
    "state_dict in a state_dict": lambda s: {"state_dict": {"model": under("module.")(s)}},
    "timm": lambda s: {"arch": "x", "state_dict": wrong(s), "state_dict_ema": s},
    "DeiT": lambda s: {"model": wrong(s), "model_ema": s, "args": argparse.Namespace(lr=1.0)},
    "RAE, LlamaGen": lambda s: {"model": wrong(s), "ema": under("module.")(s), "steps": 4},
    "AveragedModel beside": lambda s: {"model": wrong(s), "ema": averaged(s)},
    "efficientvit": lambda s: {"state_dict": wrong(s), "ema": {0.9998: s}, "epoch": 1},
    "efficientvit without": lambda s: {"state_dict": s, "ema": None},
    "ema of settings": lambda s: {"state_dict": s, "ema": {"decay": 0.9, "updates": 7}},
    "ema of a wrapper": lambda s: {"model": wrong(s), "ema": {"decay": 0.9, "module": s}},
    "in one dict": lambda s: under("model.")(wrong(s)) | under("ema_model.")(s) | {"step": torch.tensor(3)},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_the_authors_layout_however_it_is_wrapped(foreign, tmp_path, wrapping):
    state, logits = foreign
    torch.save(WRAPPINGS[wrapping](state), tmp_path / "theirs.pt")
    model = zoo.convert(tmp_path / "theirs.pt", "bilinear_d64", image_size=4)
    images = torch.rand(5, 1, 4, 4)
    tolerance = {"rtol": 1e-2, "atol": 1e-2} if wrapping == "half" else {}
    torch.testing.assert_close(model(images), logits(images), **tolerance)


@pytest.mark.parametrize(
    ("wrapping", "taken", "left"),
    [
        ("timm", "state_dict_ema", ["state_dict"]),
        ("RAE, LlamaGen", "ema/module", ["model"]),
        ("in one dict", "ema_model", ["model", "step"]),
        ("a loss beside", "model", ["criterion"]),
    ],
)
def test_what_was_taken_and_left_is_said_and_kept(foreign, tmp_path, caplog, wrapping, taken, left):
    state, _ = foreign
    model = zoo.convert(WRAPPINGS[wrapping](state), "bilinear_d64", image_size=4)
    zoo.save(zoo.load(str(zoo.save(model, tmp_path / "a"))), tmp_path / "b")
    for folder in "ab":
        config = json.loads((tmp_path / folder / "config.json").read_text())
        assert (config["taken"], config["left"]) == (taken, left)
    assert f"the state dict: took {taken}, left {', '.join(left)}" in caplog.text


@pytest.mark.parametrize("wrapping", ["timm", "efficientvit", "in one dict"])
def test_either_is_taken_on_request(foreign, tmp_path, wrapping):
    state, _ = foreign
    torch.save(WRAPPINGS[wrapping](state), tmp_path / "theirs.pt")
    argv = ["convert", str(tmp_path / "theirs.pt"), "bilinear_d64", "OUT", "--args", '{"image_size": 4}', "--take"]
    for take, wanted in (("ema", state), ("model", wrong(state))):
        argv[3] = str(tmp_path / take)
        assert cli.main([*argv, take]) == 0
        assert torch.equal(zoo.load(argv[3]).head.weight, wanted["head.weight"])


def test_what_is_not_there_cannot_be_taken(foreign):
    state, _ = foreign
    with pytest.raises(ValueError, match="holds no average of the weights; leave take='ema' out"):
        zoo.convert({"model": state}, "bilinear_d64", take="ema", image_size=4)
    with pytest.raises(ValueError, match="holds no weights but an average; leave take='model' out"):
        zoo.convert({"ema": state}, "bilinear_d64", take="model", image_size=4)
    with pytest.raises(ValueError, match="take='average', allowed ema, model"):
        zoo.convert(state, "bilinear_d64", take="average", image_size=4)


@pytest.mark.parametrize("wrapping", ["AveragedModel", "DDP in AveragedModel"])
def test_torchs_own_average_is_one(foreign, wrapping):
    state, _ = foreign
    held = WRAPPINGS[wrapping](state)
    model = zoo.convert(held, "bilinear_d64", take="ema", image_size=4)
    assert torch.equal(model.head.weight, state["head.weight"])
    with pytest.raises(ValueError, match="holds no weights but an average; leave take='model' out"):
        zoo.convert(held, "bilinear_d64", take="model", image_size=4)


def test_an_average_that_is_cut_is_not_replaced_by_the_last_weights(foreign):
    state, _ = foreign
    cut = {k: v for k, v in state.items() if k != "blocks.1.weight"}
    with pytest.raises(ValueError, match="bias is not part"):
        zoo.convert({"model": state, "ema": state | {"head.bias": torch.zeros(3)}}, "bilinear_d64", image_size=4)
    both = under("model.")(state) | under("ema_model.")(state | {"head.bias": torch.zeros(3)})
    with pytest.raises(ValueError, match="bias is not part"):
        zoo.convert(both, "bilinear_d64", image_size=4)
    found = zoo.convert({"model": state, "ema": cut}, "bilinear_d64", image_size=4)  # of one layer, as it says
    assert len(found.blocks) == 1


@pytest.mark.parametrize("wrapping", ["plain", "timm"])
def test_what_no_tensor_tells_is_assumed_said_and_kept(foreign, tmp_path, caplog, wrapping):
    state, _ = foreign
    model = zoo.convert(WRAPPINGS[wrapping](state), "bilinear_d64", image_size=4, residual=True)
    assert model.zoo_config["assumed"] == {"gate": None}
    assert "no tensor tells gate=None: the arch's" in caplog.text
    assert json.loads((zoo.save(model, tmp_path) / "config.json").read_text())["assumed"] == {"gate": None}
    images = torch.rand(5, 1, 4, 4)
    assert torch.equal(zoo.load(str(tmp_path))(images), model(images))
    assert not torch.equal(zoo.convert(state, "bilinear_d64", image_size=4)(images), model(images))


@pytest.mark.parametrize(
    "number", [np.float64(0.1), np.float32(2.5), np.float16(0.5), np.int64(-3), np.uint8(7), np.bool_(True)]
)
@pytest.mark.parametrize("module", ["numpy._core.multiarray", "numpy.core.multiarray"])
def test_numpy_numbers_in_a_file_are_numbers(tmp_path, number, module):
    torch.save({"lr": number, "t": torch.ones(2)}, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    data = (tmp_path / "a.pth").read_bytes()
    assert b"cnumpy._core.multiarray\n" in data
    (tmp_path / "a.pth").write_bytes(data.replace(b"cnumpy._core.multiarray\n", f"c{module}\n".encode()))
    found = hub.read_pickle(tmp_path / "a.pth")["lr"]
    assert type(found) is type(number.item())
    assert found == number.item()


@pytest.mark.parametrize(
    "value", [np.zeros(3), np.str_("x"), np.complex64(1), np.datetime64("2020"), np.array([print])[:1], print]
)
def test_what_is_no_number_is_refused_in_a_line_with_a_next_step(tmp_path, value):
    torch.save({"lr": value}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"is not a file of plain tensors \(") as error:
        hub.read_pickle(tmp_path / "a.pth")
    assert "save its state dict alone" in str(error.value) or "a numpy scalar that is no number" in str(error.value)
    assert "\n" not in str(error.value)
    assert "\x1b" not in str(error.value)


def test_safetensors_a_folder_and_a_state_dict(foreign, tmp_path):
    state, logits = foreign
    save_file(state, tmp_path / "model.safetensors")
    images = torch.rand(5, 1, 4, 4)
    for source in (tmp_path / "model.safetensors", tmp_path, state):
        torch.testing.assert_close(zoo.convert(source, "bilinear_d64", image_size=4)(images), logits(images))


def test_the_command_writes_a_folder_that_loads(foreign, tmp_path):
    state, logits = foreign
    save_file(state, tmp_path / "theirs.safetensors")
    argv = ["convert", str(tmp_path / "theirs.safetensors"), "bilinear_d64", str(tmp_path / "ours")]
    assert cli.main([*argv, "--args", '{"image_size": 4}']) == 0
    images = torch.rand(5, 1, 4, 4)
    torch.testing.assert_close(zoo.load(str(tmp_path / "ours"))(images), logits(images))


class Hostile:
    def __reduce__(self):
        import pathlib

        return (pathlib.Path.touch, (pathlib.Path("hostile-was-here"),))


def test_a_hostile_pickle_is_refused_through_every_door_and_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Hostile()}, tmp_path / "bad.pt")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    torch.save({"state_dict": Hostile()}, tmp_path / "run" / "checkpoints" / "last.ckpt")
    (tmp_path / "folder").mkdir()
    torch.save({"state_dict": Hostile()}, tmp_path / "folder" / "model.safetensors")
    for door in (
        lambda: zoo.convert(tmp_path / "bad.pt", "bilinear_d64"),
        lambda: zoo.export(tmp_path / "run", tmp_path / "out"),
        lambda: zoo.convert(tmp_path / "folder", "bilinear_d64"),
    ):
        with pytest.raises(ValueError, match=r"not a file of plain tensors|is not safetensors"):
            door()
    assert not (tmp_path / "hostile-was-here").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update({"head.bias": torch.zeros(3)}), "head.bias: a bias is not part of a bilinear form"),
        (lambda s: s.pop("embed.weight"), "are no known bilinear classifier; expected embed.weight"),
        (lambda s: s.update(extra=torch.zeros(1)), r"1 unexpected \(extra first\)"),
    ],
)
def test_what_does_not_fit_is_named(foreign, change, message):
    state, _ = foreign
    change(state)
    with pytest.raises(ValueError, match=message):
        zoo.convert(state, "bilinear_d64", image_size=4)


def test_files_that_are_none(tmp_path):
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(ValueError, match="not a file of plain tensors"):
        zoo.convert(tmp_path / "text.pt", "bilinear_d64")
    with pytest.raises(FileNotFoundError, match="no file"):
        zoo.convert(tmp_path / "nothing.pt", "bilinear_d64")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"holds none of model.safetensors"):
        zoo.convert(tmp_path / "empty", "bilinear_d64")
    with pytest.raises(ValueError, match="no tensors among"):
        zoo.convert({"epoch": 1}, "bilinear_d64")
