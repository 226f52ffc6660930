"""ONNX: any batch, equal to torch in onnxruntime; what cannot be exported yet is said in a line."""

import sys

import numpy as np
import pytest
import torch
from test_lit import TINY_DCAE, TINY_MAE, TINY_RAE

import zoo
from zoo import cli
from zoo.hub import give

TINY_VIT = {key: TINY_MAE[key] for key in ("image_size", "patch_size", "dim", "depth", "heads")}
TINY_DIT = {"latent_channels": 4, "grid": 4, "num_classes": 3, "dim": [32, 32], "depth": [1, 1], "heads": [2, 2]}
EXPORTED = [
    ("mae_vit_tiny", TINY_MAE, "image", "features"),
    ("mae_vit_tiny_classifier", TINY_VIT | {"num_classes": 5}, "image", "logits"),
    ("dcae_tiny_f4c4", TINY_DCAE, "image", "latents"),
    ("ditdh_tiny", TINY_DIT, "latent", "features"),
]


@pytest.mark.long
@pytest.mark.parametrize(("arch", "args", "takes", "gives"), EXPORTED)
def test_an_export_is_the_same_function_for_any_batch(arch, args, takes, gives, tmp_path, capsys):
    import onnxruntime

    torch.manual_seed(0)
    model = zoo.create(arch, **args).eval()
    for parameter in model.parameters():  # some begin as zeros, which would hide what they multiply
        parameter.data = parameter.data + 0.05 * torch.randn_like(parameter)
    zoo.export(zoo.save(model, tmp_path / "folder"), tmp_path / "onnx", to="onnx")
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx")
    assert [i.name for i in session.get_inputs()] == [takes]
    assert [o.name for o in session.get_outputs()] == [gives]
    assert f"model.onnx: {takes}s (B" in (said := capsys.readouterr().out)
    assert f"→ {gives} (B, " in said
    function, _ = give._map(model)
    for count in (1, 3, 5):
        x = torch.rand(count, *model.takes.shape)
        with torch.no_grad():
            expected = function(x)
        (found,) = session.run(None, {takes: x.numpy()})
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)


TINY_PRIOR = {"dim": 32, "depth": 1, "heads": 2}


@pytest.mark.parametrize(
    ("arch", "args", "message"),
    [
        ("rae_mae_vit_tiny", TINY_RAE, "makes latents with its encoder mae_vit_tiny.tiny_imagenet, which no ONNX file"),
        ("vqprior_tiny", TINY_PRIOR, "makes features with its tokenizer vqvae_conv_small.mnist, which no ONNX file"),
    ],
)
def test_what_needs_another_network_is_not_exported_and_that_is_a_line(arch, args, message, tmp_path, capsys):
    zoo.save(zoo.create(arch, **args), tmp_path / "folder")
    assert cli.main(["export", str(tmp_path / "folder"), str(tmp_path / "onnx"), "--to", "onnx"]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"zoo export: {arch} {message}" in said
    assert said.endswith("export it as safetensors, which holds every model")
    assert "delete" not in said
    assert len(said) < 400
    assert not (tmp_path / "onnx").exists()


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_an_export_without_its_extra_names_it_in_a_line(package, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    assert cli.main(["export", "bilinear_d256.mnist", str(tmp_path / "onnx"), "--to", "onnx"]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said == "zoo export: ONNX needs the packages onnx and onnxscript; pip install 'latentzoo[onnx]'"
    assert not (tmp_path / "onnx").exists()


def test_what_torch_cannot_write_is_a_line_and_no_folder(tmp_path, capsys, monkeypatch):
    def refuses(*args, **kwargs):
        try:
            raise KeyError("no function of ONNX for aten.lerp\nmore")
        except KeyError as error:
            raise RuntimeError("Next steps:\n" + "a page of advice\n" * 60) from error

    monkeypatch.setattr(torch.onnx, "export", refuses)
    assert cli.main(["export", "bilinear_d256.mnist", str(tmp_path / "onnx"), "--to", "onnx"]) == 2
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert said.startswith(
        "zoo export: torch cannot write bilinear_d256 as ONNX (KeyError: 'no function of ONNX for aten"
    )
    assert said.endswith("export it as safetensors, which holds every model")
    assert not (tmp_path / "onnx").exists()
