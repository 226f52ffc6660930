"""Whatever is given, it works or one line says what was given, what is allowed and what to do; no traceback."""

import copy
import functools
import inspect
import warnings

import pytest
import torch
import yaml
from conftest import classes, image_batch, small
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lightning import LightningDataModule

import zoo
from zoo import cli, registry
from zoo.data.clips import ClipData
from zoo.data.factors import FactorData
from zoo.data.images import ImageData
from zoo.data.latents import ImageLatentData, LatentData
from zoo.data.synthetic import RandomImages
from zoo.nn.checks import FLOATS, check_ints
from zoo.nn.protocols import FillsIn, HasLatents, Samples, can
from zoo.nn.signatures import keywords
from zoo.recipe import list_recipes, recipe_path
from zoo.train.mask import LitMAE

CLASSES = classes()
ARCHS = list(CLASSES.values())
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
    """What it gives, or what its error says where that is a documented one; another exception is a failure."""
    try:
        return call(x), None
    except (ValueError, FileNotFoundError) as error:
        return None, str(error)


@pytest.mark.parametrize("method", ["forward", "forward_features", "reconstruct"])
@pytest.mark.parametrize("arch", ARCHS)
@settings(max_examples=25, **BOUNDED)
@given(data=st.data())
def test_a_model_takes_what_is_given_or_says_why_not(arch, method, data):
    net = model(arch)
    call = getattr(net, method, None)
    x = data.draw(images(net.takes.shape))
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
@pytest.mark.parametrize("arch", ARCHS)
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


@pytest.mark.parametrize("arch", ARCHS)
def test_a_model_trains_on_images_of_any_precision(arch):
    net = small(arch).train()
    for dtype in FLOATS:
        out = net(image_batch(net, 2).to(dtype))
        (out.sum() if isinstance(out, torch.Tensor) else out.loss).backward()
        assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)


@pytest.mark.parametrize("arch", ARCHS)
@torch.no_grad()
def test_under_autocast_images_of_either_precision_are_computed_alike(arch):
    net = model(arch)
    x = image_batch(net, 2).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(net.forward_features(x), net.forward_features(x.float()), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("of", [lambda x: x.numpy(), lambda x: x.tolist(), lambda x: None, lambda x: x.to_sparse()])
def test_what_is_no_dense_tensor_is_refused(arch, of):
    net = model(arch)
    with pytest.raises(ValueError, match="expected a dense tensor"):
        net(of(image_batch(net, 2)))


def near(x):
    """Whatever is nearly x: other types, ranks, lengths, dtypes, values."""
    yield from (None, [1], x[0], x[None], x.flatten(), x.flatten()[0], x[:0], x.to_sparse(), x - 1000, x + 100_000)
    yield from (x.repeat_interleave(2, axis) for axis in range(1, x.ndim))
    yield from (x.narrow(axis, 0, x.shape[axis] - 1) for axis in range(1, x.ndim))
    yield from (x.to(d) for d in (*FLOATS, torch.float8_e4m3fn, torch.int64, torch.int32, torch.uint8, torch.bool))


LABELS = torch.tensor([1, 2])


def latents(net, x):
    return x if net.kind == "latent" else net.encode(x)


def places(net, x):
    """What the encoder of a transformer takes, and images of any other."""
    return next((getattr(net, cut)(x) for cut in ("patches", "cubes") if hasattr(net, cut)), x)


METHODS = {  # which take a tensor: what they take, of a model and its samples
    **dict.fromkeys(("forward", "forward_features", "forward_intermediates", "encode_tiled"), lambda net, x: x),
    **dict.fromkeys(("decode", "decode_tiled", "add_noise"), latents),
    **dict.fromkeys(("sample", "sample_codes", "sample_latents"), lambda net, x: LABELS),
    "encode": places,
}
OF_LATENTS = dict.fromkeys(("normalise", "denormalise"), latents)
CASES = [
    (arch, method, takes)
    for kind, arch in CLASSES.items()
    for method, takes in (METHODS | (OF_LATENTS if can(kind, HasLatents) else {})).items()
    if hasattr(kind, method)
]
CASES += [(arch, "forward", latents) for kind, arch in CLASSES.items() if hasattr(kind, "sample_codes")]  # codes, too


@pytest.mark.parametrize(("arch", "method", "takes"), CASES, ids=lambda given: getattr(given, "__name__", given))
@torch.no_grad()
def test_samples_codes_latents_and_labels_fit_or_are_refused_by_name(arch, method, takes):
    net = model(arch)
    right, call = takes(net, image_batch(net, 2)), getattr(net, method)
    if "steps" in inspect.signature(call).parameters:
        call = functools.partial(call, steps=1)
    call(right)
    refused = [said for said in (outcome(call, x)[1] for x in near(right)) if said is not None]
    assert len(refused) >= 10
    assert all(any(word in said for word in ("expected", "takes", "allowed", "multiple")) for said in refused), refused


@pytest.mark.parametrize("arch", [arch for kind, arch in CLASSES.items() if can(kind, FillsIn) or can(kind, Samples)])
def test_an_order_or_labels_beside_the_images_fit_them_or_are_refused(arch):
    net = model(arch)
    x, right = image_batch(net, 2), net.draw(2) if isinstance(net, FillsIn) else LABELS
    assert outcome(functools.partial(net, x), right)[1] is None
    refused = [said for said in (outcome(functools.partial(net, x), o)[1] for o in near(right)) if said is not None]
    assert len(refused) >= 15
    assert all("expected" in said or "allowed" in said for said in refused), refused


@torch.no_grad()
def test_times_are_one_for_each_latent():
    net = model("ditdh_tiny")
    z, right = image_batch(net, 2), torch.tensor([0.1, 0.9])
    refused = [said for said in (outcome(functools.partial(net.velocity, z), t)[1] for t in near(right)) if said]
    assert len(refused) >= 10
    assert all(said.startswith("times are ") for said in refused), refused


def test_entries_are_looked_at_where_nothing_waits_for_it():
    labels = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="labels span 0 to 0, allowed 5 to 6; none"):
        check_ints(labels, "labels", ("B",), 5, 7, "none")
    check_ints(labels.to("meta"), "labels", ("B",), 5, 7, "none")  # as on a GPU, there is nothing to read here
    compiled = torch.compile(
        lambda x: check_ints(x, "labels", ("B",), 5, 7, "none") + 1, backend="eager", fullgraph=True
    )
    assert compiled(labels).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("arch", "method", "given"),
    [
        *(("ditdh_tiny", "sample_latents", {key: value}) for key, value in (
            ("steps", 0), ("steps", 1.5), ("steps", "x"), ("guidance", "x"), ("guidance", float("nan")), ("end", "x"),
            ("end", 2), ("interval", (1,)), ("interval", None), ("solver", None), ("trace", 1), ("generator", 1),
        )),
        *(("vqprior_tiny", "sample_codes", {key: value}) for key, value in (
            ("temperature", 0), ("temperature", "x"), ("temperature", float("nan")), ("top_k", 0), ("top_k", 1.5),
            ("guidance", None), ("generator", 1),
        )),
        *(("dcae_tiny_f8c4", "encode_tiled", {key: value}) for key, value in (
            ("tile", "x"), ("tile", 0), ("tile", 12), ("overlap", 1.5), ("overlap", 1024), ("batch_size", 0),
        )),
    ],
    ids=str,
)  # fmt: skip
def test_numbers_of_other_types_or_out_of_range_are_refused(arch, method, given):
    net = model(arch)
    x = LABELS if "sample" in method else image_batch(net, 1)
    with pytest.raises(ValueError, match=next(iter(given))):
        getattr(net, method)(x, **given)


@pytest.mark.parametrize(
    "args", [{"depth": 10**9}, {"depth": 2**63}, {"decoder_depth": 10**9}, {"dim": 2**63}], ids=str
)
def test_a_billion_layers_and_numbers_that_no_tensor_holds_are_refused_at_once(args):
    with pytest.raises(ValueError, match=r"too many layers|expected at most|expected int"):
        small("mae_vit_tiny", **args)


@pytest.mark.parametrize("indices", [0, 99, [], [99], [-99], [1.5], 1.5, "x"], ids=str)
@pytest.mark.parametrize("arch", [arch for kind, arch in CLASSES.items() if hasattr(kind, "forward_intermediates")])
def test_blocks_that_are_not_there_are_refused(arch, indices):
    net = model(arch)
    with pytest.raises(ValueError, match=r"indices=.*allowed"):
        net.forward_intermediates(image_batch(net, 1), indices)


@pytest.mark.parametrize("arch", ARCHS)
def test_no_images_give_no_outputs_or_are_refused(arch):
    net = model(arch)
    out, said = outcome(net.forward_features, image_batch(net, 2)[:0])
    assert len(out) == 0 if said is None else "expected at least one" in said


DATA = {
    ImageData: {"source": "samples/mnist"},
    ClipData: {"source": "sprites"},
    FactorData: {},
    LatentData: {"folder": "nowhere"},
    ImageLatentData: {"folder": "nowhere"},
    RandomImages: {},
}


def test_every_data_module_is_asked():
    named = [getattr(zoo, name) for name in registry.PUBLIC]
    assert {kind for kind in named if isinstance(kind, type) and issubclass(kind, LightningDataModule)} == DATA.keys()


VALUES = st.sampled_from(
    [None, True, "x", "", [], [1], [1, 1], [0.5, 1.0], [1.0, 0.5], ["x", "y"], {}, -1, 0, 1, 2, 3, 2**63, 0.5, 1.5,
     -0.5, float("nan"), float("inf"), "none", "skip", "rand-m9-mstd0.5-inc1"]
)  # fmt: skip


@pytest.mark.parametrize("kind", DATA)
@settings(max_examples=150, **BOUNDED)
@given(data=st.data())
def test_a_data_module_takes_its_keywords_or_says_why_not(kind, data):
    names = list(inspect.signature(kind).parameters)
    args = data.draw(st.dictionaries(st.sampled_from(names), VALUES, min_size=1, max_size=2))
    _, said = outcome(lambda args: kind(**args), DATA[kind] | args)
    if said is not None and "zoo latents" not in said:  # of latents that nobody wrote
        assert any(name in said for name in args), said
        assert any(word in said for word in ("allowed", "expected", "at least", "give", "leave", "lower", "multiple"))


@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize(
    "args",
    [
        *({"batch_size": value} for value in ("x", 0, True)),
        *({"image_size": value} for value in (0, -8, [28])),
        *({"shape": value} for value in (28, [1, 28], [1, 0, 28])),
        *({"seed": None}, {"seed": -1}, {"num_workers": -1}, {"channels": 2}, {"crop_scale": 1}, {"crop": -1}),
        *({"eval_batch_size": 0}, {"erase": float("nan")}, {"limit": 1.5}, {"folder": None}, {"encoder": 1}),
    ],
    ids=str,
)
def test_a_keyword_of_another_type_or_out_of_range_is_refused(kind, args):
    if args.keys() <= inspect.signature(kind).parameters.keys():
        with pytest.raises(ValueError, match=next(iter(args))):
            kind(**DATA[kind] | args)


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
    assert status in ((0, 1, 2) if verb == "verify" else (0, 2))  # 1: what was named is not sound


RECIPES = {
    "empty": "",
    "a list": "- 1\n",
    "text": "hello",
    "unicode": "модель: 1\n",
    "no data": "model:\n  class_path: zoo.LitClassifier\n  init_args: {arch: bilinear_d64}\n",
    "an unknown class": "model:\n  class_path: zoo.Nothing\n",
    "a class that is no model": "model:\n  class_path: os.system\n  init_args: {command: ls}\n",
    "other text": "model: {class_path: zoo.LitClassifier, init_args: {arch: 5}}\n",
    "bad YAML": "model: [\n",
    "NUL": "model: \0\n",
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_that_is_none_is_refused_in_a_line(tmp_path, capsys, name):
    (tmp_path / "x.yaml").write_text(RECIPES[name], encoding="utf-8")
    assert cli.main(["validate", str(tmp_path / "x.yaml")]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("zoo validate: ")


SMOKE = {name: yaml.safe_load(recipe_path(name).read_text("utf-8")) for name in list_recipes("*smoke")}
SMOKE = {  # those that are validated in no time: they load no weights and read no clips
    name: tree
    for name, tree in SMOKE.items()
    if tree["data"]["class_path"] == "zoo.RandomImages"
    and not registry.records().keys() & {str(value) for value in tree["model"]["init_args"].values()}
}
NEW = [
    *((key,) for key in ("typo", "save_steps", "skip_nonfinite")),
    *(("model", "init_args", key) for key in ("typo", *keywords(LitMAE))),
    *(("data", "init_args", key) for key in ("typo", *inspect.signature(RandomImages).parameters)),
    *(("trainer", key) for key in ("typo", "limit_train_batches", "overfit_batches", "gradient_clip_val", "precision")),
    *(("trainer", key) for key in ("accumulate_grad_batches", "max_time", "val_check_interval", "logger", "callbacks")),
]
EDITS = st.sampled_from(
    [None, True, "x", "1", "", "é", [], [1], [1, 1], [0.5, 1.0], ["x"], {}, {"a": 1}, -1, 0, 1, 2, 7, 10**9, 2**63,
     10**30, 0.5, 1.5, -0.5, 1e-30, 1e30, float("nan"), float("inf"), "bilinear_d64", "samples/mnist"]
)  # fmt: skip


def keys(tree, *above):
    """Where the values of a recipe stand: keys, from the outermost."""
    for key, value in tree.items():
        yield *above, key
        if isinstance(value, dict):
            yield from keys(value, *above, key)


@st.composite
def edited(draw):
    """A smoke recipe of which one or two values are others, gone or new."""
    tree = copy.deepcopy(SMOKE[draw(st.sampled_from(sorted(SMOKE)))])
    for _ in range(draw(st.integers(1, 2))):
        *above, key = draw(st.sampled_from(draw(st.sampled_from([list(keys(tree)), NEW]))))
        node = tree
        for name in above:
            node = node.get(name) if isinstance(node, dict) else None
        if isinstance(node, dict):
            node[key] = draw(EDITS)
            if draw(st.integers(0, 9)) == 0:
                del node[key]
    return tree


@settings(max_examples=50, **BOUNDED)
@given(tree=edited())
def test_a_recipe_with_random_edits_is_valid_or_refused_in_a_line(tmp_path, capsys, tree):
    file = tmp_path / "x.yaml"
    file.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(action="ignore"):
        patch.chdir(tmp_path)
        status = cli.main(["validate", str(file)])
    said = capsys.readouterr().err.splitlines()
    assert status == 0 or (status == 2 and said[-1].startswith("zoo validate: ")), (tree, said)
    assert sum(line.startswith("zoo validate: ") for line in said) == (status == 2)
    assert list(tmp_path.iterdir()) == [file]
