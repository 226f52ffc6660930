"""Whatever is given, it works or one line says what was given, what is allowed and what to do; no traceback."""

import functools

import pytest
import torch
from conftest import image_batch, small
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zoo import cli
from zoo.layers import FLOATS

FAMILIES = ("bilinear_d64", "mae_vit_tiny", "videomae_vit_tiny", "vqvae_conv_small", "qlae_conv", "dcae_tiny_f8c4")
BOUNDED = {"derandomize": True, "deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
model = functools.cache(lambda arch: small(arch).eval())
DTYPES = (*FLOATS, torch.float8_e4m3fn, torch.uint8, torch.int64, torch.bool)


@st.composite
def images(draw, shape):
    """Tensors about the shape (B, …) that a model takes: other ranks, sizes, dtypes, values, strides."""
    size = [draw(st.integers(0, 3)), *shape]
    match draw(st.sampled_from(["as it is", "side", "rank less", "rank more", "turned"])):
        case "side":
            size[draw(st.integers(1, len(shape)))] = draw(st.integers(0, 40))
        case "rank less":
            size = size[1:]
        case "rank more":
            size = [1, *size]
        case "turned":
            size[1], size[-1] = size[-1], size[1]
    x = torch.rand(size) * draw(st.sampled_from([1.0, 1.0, 255.0, float("nan"), float("inf"), -1.0]))
    x = x.mT.contiguous().mT if draw(st.booleans()) and x.ndim > 1 else x
    return x.to(draw(st.sampled_from(DTYPES)))


@torch.no_grad()
def outcome(call, x):
    """What it gives, or what its ValueError says; another exception is a failure."""
    try:
        return call(x), None
    except ValueError as error:
        return None, str(error)


@pytest.mark.parametrize("method", ["forward", "forward_features", "reconstruct"])
@pytest.mark.parametrize("arch", FAMILIES)
@settings(max_examples=25, **BOUNDED)
@given(data=st.data())
def test_a_model_takes_what_is_given_or_says_why_not(arch, method, data):
    net = model(arch)
    call = getattr(net, method, None)
    x = data.draw(images(net.input_shape))
    if call is None:
        return
    out, said = outcome(call, x)
    if said is not None:
        assert any(g in said for g in (*map(str, x.shape), str(x.dtype), "NaN", "pixels span")), said
        assert any(word in said for word in ("expected", "takes", "multiple")), said
        return
    assert x.dtype in FLOATS
    first = out if isinstance(out, torch.Tensor) else next(o for o in out if isinstance(o, torch.Tensor) and o.ndim)
    assert len(first) == len(x)


@pytest.mark.parametrize("computes", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("arch", [*FAMILIES, "vqgan_f16", "rae_mae_vit_tiny", "ditdh_tiny"])
@torch.no_grad()
def test_a_model_computes_in_its_own_precision_whatever_comes_in(arch, computes):
    net = small(arch).eval().to(computes)
    x = image_batch(net, 2).bfloat16()  # exact in every other dtype but float16
    expected = net.forward_features(x.to(computes))
    for dtype in FLOATS:
        found = net.forward_features(x.to(dtype))
        assert found.dtype == computes
        coarse = max(torch.finfo(dtype).eps, torch.finfo(computes).eps)
        assert (found - expected).norm() <= 20 * coarse * expected.norm(), dtype
        assert net(x.to(dtype))[0].isfinite().all()


@pytest.mark.parametrize("arch", [*FAMILIES, "vqgan_f16", "rae_mae_vit_tiny", "ditdh_tiny"])
def test_a_model_trains_on_images_of_any_precision(arch):
    net = small(arch).train()
    for dtype in FLOATS:
        out = net(image_batch(net, 2).to(dtype))
        (out.sum() if isinstance(out, torch.Tensor) else out.loss).backward()
        assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)


@pytest.mark.parametrize("arch", FAMILIES)
@torch.no_grad()
def test_under_autocast_images_of_either_precision_are_computed_alike(arch):
    net = model(arch)
    x = image_batch(net, 2).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(net.forward_features(x), net.forward_features(x.float()), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("arch", [*FAMILIES, "mae_vit_tiny_classifier", "vqgan_f16"])
@pytest.mark.parametrize("of", [lambda x: x.numpy(), lambda x: x.tolist(), lambda x: None, lambda x: x.to_sparse()])
def test_what_is_no_dense_tensor_is_refused(arch, of):
    net = model(arch)
    with pytest.raises(ValueError, match="expected a dense tensor"):
        net(of(image_batch(net, 2)))


@pytest.mark.parametrize("arch", [a for a in FAMILIES if not a.startswith("dcae")])
def test_no_images_give_no_outputs(arch):
    net = model(arch)
    assert len(net.forward_features(image_batch(net, 2)[:0])) == 0


WORDS = st.sampled_from(
    ["", "-", "--", "--json", "-o", "x", "../x", "bilinear_d64", "bilinear/smoke", "*", "[", "hf://", "hf://a/b@..",
     "é", "\u202e", "a" * 300, "--data", "--args", "{}", "[1]", "--to", "onnx", "--classes", "-1", "1e999", "\0", "nan"]
)  # fmt: skip
VERBS = ["ls", "info", "cp", "eval", "show", "sample", "export", "push", "verify", "convert", "latents", "nonsense"]


@settings(max_examples=300, **BOUNDED)
@given(verb=st.sampled_from(VERBS), words=st.lists(WORDS, max_size=4))
def test_any_command_line_ends_in_0_or_2(tmp_path_factory, verb, words):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.getbasetemp())
        patch.setenv("HF_HUB_OFFLINE", "1")
        try:
            status = cli.main([verb, *words])
        except SystemExit as left:  # argparse's
            status = left.code
    assert status in (0, 2)


RECIPES = {
    "empty": "",
    "a list": "- 1\n",
    "text": "hello",
    "unicode": "модель: 1\n",
    "no data": "model:\n  class_path: zoo.classify.LitClassifier\n  init_args: {arch: bilinear_d64}\n",
    "an unknown class": "model:\n  class_path: zoo.classify.Nothing\n",
    "a class that is no model": "model:\n  class_path: os.system\n  init_args: {command: ls}\n",
    "other text": "model: {class_path: zoo.classify.LitClassifier, init_args: {arch: 5}}\n",
    "bad YAML": "model: [\n",
    "NUL": "model: \0\n",
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_that_is_none_is_refused_in_a_line(tmp_path, capsys, name):
    (tmp_path / "x.yaml").write_text(RECIPES[name], encoding="utf-8")
    assert cli.main(["validate", str(tmp_path / "x.yaml")]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("zoo validate: ")
