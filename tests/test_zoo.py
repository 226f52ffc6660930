"""What holds for every kind of model, whatever its family; of archs of a kind, which are sizes, their size."""

import re

import pytest
import torch
from conftest import image_batch, kinds, small

import zoo
from zoo import hub, registry
from zoo.nn.protocols import Classifies, Samples

HEADS = {  # of attention in encoder and decoder, which no count of parameters tells
    arch: heads
    for heads, archs in {
        (3,): "mae_vit_tiny mae_vit_tiny_classifier rae_mae_vit_tiny videomae_vit_tiny videomae_vit_tiny_classifier "
        "vqprior_tiny",
        (6,): "mae_vit_small_classifier videomae_vit_small_classifier vqprior_small",
        (
            12,
        ): "mae_vit_base_classifier rae_vit_base videomae_vit_base_classifier mae_st_vit_base_classifier vqprior_base",
        (16,): "mae_vit_large mae_vit_huge mae_vit_large_classifier mae_vit_huge_classifier mae_st_vit_large "
        "mae_st_vit_huge mae_st_vit_large_classifier mae_st_vit_huge_classifier videomae_vit_large_classifier "
        "videomae_vit_huge_classifier videomae_v2_vit_giant_classifier rae_vit_large rae_vit_xl ditdh_xl",
        (3, 4): "mae_vit_tiny_fast",
        (6, 3): "mae_vit_small mae_vit_small_fast videomae_vit_small videomae_v2_vit_small",
        (12, 6): "mae_vit_base_fast videomae_vit_base videomae_v2_vit_base",
        (12, 16): "mae_vit_base mae_st_vit_base",
        (
            16,
            8,
        ): "videomae_vit_large videomae_vit_huge videomae_v2_vit_large videomae_v2_vit_huge videomae_v2_vit_giant",
        (2, 4): "ditdh_tiny",
        (6, 16): "ditdh_s",
    }.items()
    for arch in archs.split()
}


def built_of(model):
    return {type(module) for module in model.modules()}


def outputs(model, images):
    """What images give when nothing is masked or drawn: logits, or features."""
    return model(images) if isinstance(model, Classifies) else model.forward_features(images)


@pytest.mark.parametrize("arch", kinds())
def test_gradient_reaches_every_parameter(arch):
    model = small(arch)
    if isinstance(model, Samples):  # whose blocks may begin as the identity
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
    out = model(image_batch(model))
    (out.square().sum() if isinstance(out, torch.Tensor) else out.loss).backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


@pytest.mark.parametrize("arch", kinds())
def test_images_of_a_batch_do_not_mix(arch):
    model = small(arch).double().eval()
    images = image_batch(model).double()
    torch.testing.assert_close(outputs(model, images)[2:3], outputs(model, images[2:3]))


@pytest.mark.parametrize("arch", kinds())
def test_folder_round_trip_is_bit_identical(arch, tmp_path):
    model = small(arch).eval()
    loaded = zoo.load(str(zoo.save(model, tmp_path / "checkpoint")))
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in model.state_dict().items())
    assert torch.equal(outputs(model, image_batch(model)), outputs(loaded, image_batch(model)))
    assert not loaded.training
    assert all(p.requires_grad for p in loaded.parameters())


@pytest.mark.parametrize("arch", zoo.list_models())
def test_an_arch_has_the_size_that_its_summary_states_and_the_small_model_is_built_of_the_same(arch):
    with torch.device("meta"):  # where a billion parameters take neither memory nor time
        whole, tiny = zoo.create(arch), small(arch)
    summary = registry.summary(arch)
    assert f"{sum(p.numel() for p in whole.parameters()):,} parameters" in summary
    heads = [module.heads for module in whole.modules() if hasattr(module, "heads")]
    assert tuple(dict.fromkeys(heads)) == HEADS.get(arch, ())
    assert not heads or {*map(str, whole.takes.shape), "1", "3"} <= {*re.findall(r"\d+", summary), "1", "3"}
    assert built_of(whole) <= built_of(tiny), f"TINY of {registry.family_of(arch)} leaves these out"
    assert sum(p.numel() for p in tiny.parameters()) < 10**6


@pytest.mark.parametrize("family", registry.families())
def test_a_family_says_of_each_class_what_makes_it_small_and_of_nothing_else(family):
    facts = registry.facts(family)
    assert {hub.model_class(arch).__name__ for arch in facts.archs} == facts.tiny.keys() - facts.archs.keys()


def test_a_class_of_which_that_is_not_said_has_no_small_model(monkeypatch):
    monkeypatch.delitem(registry.facts("mae").tiny, "MAE")
    with pytest.raises(ValueError, match=r"zoo\.families\.mae .*facts\.py does not say what makes a MAE small; add it"):
        hub.tiny("mae_vit_tiny")


def test_every_builder_is_registered_and_every_arch_has_a_builder():
    import inspect

    for family in registry.families():
        module = registry.families()[family].part("model")
        builders = {
            name
            for name, f in vars(module).items()
            if inspect.isfunction(f) and f.__module__ == module.__name__ and not name.startswith("_")
            if list(inspect.signature(f).parameters) == ["args"]
        }
        assert builders == set(registry.facts(family).archs)


@pytest.mark.parametrize("name", zoo.list_weights())
def test_a_record_is_complete(name):
    w = zoo.weights_info(name)
    assert w.licence
    assert w.data_terms
    assert all(m.protocol and m.data for m in w.metrics)
    assert w.arch in zoo.list_models(pretrained=True)
    if w.foreign:  # what publishers do not state cannot be stated: such files say so when they are loaded
        assert w.repo or w.url
        assert w.notes
    else:
        assert all([w.size, w.metrics, w.recipe, w.command, w.hardware, w.wall_time, w.commit])
        assert len(w.sha256) == 64
        assert w.embedded or len(w.revision) == 40


def test_args_go_through_and_are_remembered(tmp_path):
    model = zoo.create("bilinear_d64", num_classes=3, image_size=[8, 12], channels=3)
    assert model(torch.rand(2, 3, 8, 12)).shape == (2, 3)
    assert zoo.load(str(zoo.save(model, tmp_path))).takes.shape == (3, 8, 12)


def test_args_that_change_no_tensor_go_on_top_of_the_checkpoint(tmp_path):
    zoo.save(zoo.create("bilinear_d64"), tmp_path)
    assert zoo.load(str(tmp_path), noise=0.3).noise == 0.3
    with pytest.raises(ValueError, match=r"1 misshapen \(embed.weight"):
        zoo.load(str(tmp_path), image_size=14)


def test_half_precision_storage_loads_into_the_models_own_dtype(tmp_path):
    half = zoo.create("bilinear_d64").half()
    assert zoo.load(str(zoo.save(half, tmp_path))).embed.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: zoo.create("bilinear_d65"), "no arch 'bilinear_d65', did you mean bilinear_d64"),
        (lambda: zoo.create("bilinear_d64", depht=2), "takes no 'depht', did you mean depth"),
        (lambda: zoo.create("bilinear_d256", weights="mnits"), "has no weights 'mnits'; it has bilinear_d256.mnist"),
        (lambda: zoo.load("bilinear_d256"), "names an arch, not weights; it has bilinear_d256.mnist"),
        (lambda: zoo.load("bilinear_d64"), "no weights for bilinear_d64; train some with a recipe"),
        (lambda: zoo.save(torch.nn.Linear(2, 2), "x"), "make it with zoo.create"),
        (lambda: zoo.export("bilinear_d256.mnist", "x", to="timn"), "to='timn', did you mean timm"),
        (lambda: zoo.export("bilinear_d256.mnist", "x", to="timm"), "timm has no twin"),
    ],
)
def test_a_wrong_name_gets_the_nearest_one(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_missing_folder_is_named():
    with pytest.raises(FileNotFoundError, match="no folder nowhere/at/all"):
        zoo.load("nowhere/at/all")


def test_loading_draws_no_random_numbers():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    zoo.load("bilinear_d256.mnist")
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.long
def test_onnx_export_gives_the_same_logits_for_any_batch(tmp_path):
    import onnxruntime

    model = zoo.load("bilinear_d256.mnist")
    zoo.export("bilinear_d256.mnist", tmp_path, to="onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for count in (1, 5):
        images = image_batch(model, count)
        (out,) = session.run(None, {"image": images.numpy()})
        torch.testing.assert_close(torch.from_numpy(out), model(images).detach(), rtol=1e-4, atol=1e-4)


def test_a_new_head_forgets_the_old_classes():
    model = zoo.load("bilinear_d256.mnist")
    assert model.zoo_config["classes"] == [str(c) for c in range(10)]
    hub.reset_head(model, 3)
    assert model(image_batch(model)).shape == (4, 3)
    assert "classes" not in model.zoo_config


def test_a_tag_wins_over_a_folder_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnist").mkdir()
    zoo.create("bilinear_d256", weights="mnist")
