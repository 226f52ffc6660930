"""Somebody else's checkpoints in: detected, strict, and nothing in them runs."""

import pytest
import torch
from safetensors.torch import save_file

import zoo
from zoo import cli

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


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_the_authors_layout_however_it_is_wrapped(foreign, tmp_path, prefix, wrapper):
    state, logits = foreign
    saved = {prefix + k: v for k, v in state.items()}
    torch.save({wrapper: saved, "epoch": 3} if wrapper else saved, tmp_path / "theirs.pt")
    model = zoo.convert(tmp_path / "theirs.pt", "bilinear_d64", image_size=4)
    images = torch.rand(5, 1, 4, 4)
    torch.testing.assert_close(model(images), logits(images))


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
