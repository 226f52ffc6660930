"""What holds for every kind of model, whatever its family; of archs of a kind, which are sizes, their size."""

import functools

import pytest
import torch
from conftest import image_batch, small

import zoo
from zoo import hub, registry
from zoo.nn.protocols import Classifies, Samples

# An arch for each class, and for what else its models are built of; `test_every_kind…` finds one that is missing.
KINDS = (
    *("bilinear_d64", "dcae_f32c32", "dcae_f32c32_sana", "dcae15_f32c128", "dcae_tiny_f8c4", "ditdh_tiny"),
    *("mae_st_vit_base", "mae_st_vit_base_classifier", "mae_vit_tiny", "mae_vit_tiny_classifier", "rae_mae_vit_tiny"),
    *("videomae_vit_tiny", "videomae_vit_tiny_classifier", "vqgan_f16", "vqprior_tiny", "vqvae_conv_small"),
    *("ae_conv", "qlae_conv", "vae_conv", "vqvae_conv_latents"),
)


def built(arch):
    """An arch on no device, where a billion parameters take neither memory nor time, and what it is built of."""
    with torch.device("meta"):
        model = zoo.create(arch)
    return model, (type(model), frozenset(map(type, model.modules())))


@functools.cache
def kinds():
    return {built(arch)[1] for arch in KINDS}


def outputs(model, images):
    """What images give when nothing is masked or drawn: logits, or features."""
    return model(images) if isinstance(model, Classifies) else model.forward_features(images)


@pytest.mark.parametrize("arch", KINDS)
def test_gradient_reaches_every_parameter(arch):
    model = small(arch, depth=1)
    if isinstance(model, Samples):  # whose blocks may begin as the identity
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
    out = model(image_batch(model))
    (out.square().sum() if isinstance(out, torch.Tensor) else out.loss).backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


@pytest.mark.parametrize("arch", KINDS)
def test_images_of_a_batch_do_not_mix(arch):
    model = small(arch, depth=1).double().eval()
    images = image_batch(model).double()
    torch.testing.assert_close(outputs(model, images)[2:3], outputs(model, images[2:3]))


@pytest.mark.parametrize("arch", KINDS)
def test_folder_round_trip_is_bit_identical(arch, tmp_path):
    model = small(arch, depth=1).eval()
    loaded = zoo.load(str(zoo.save(model, tmp_path / "checkpoint")))
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in model.state_dict().items())
    assert torch.equal(outputs(model, image_batch(model)), outputs(loaded, image_batch(model)))
    assert not loaded.training
    assert all(p.requires_grad for p in loaded.parameters())


@pytest.mark.parametrize("arch", zoo.list_models())
def test_every_kind_is_tested_and_the_summary_states_the_true_size(arch):
    model, kind = built(arch)
    assert kind in kinds(), f"add {arch} to KINDS"
    assert f"{sum(p.numel() for p in model.parameters()):,} parameters" in registry.summary(arch)


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
