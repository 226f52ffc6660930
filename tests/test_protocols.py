"""Every class does what its capabilities say, and has those that it should."""

import functools
import inspect

import pytest
import torch
from conftest import classes, image_batch, small
from torch import Tensor, nn

import zoo
from zoo import hub, registry
from zoo.nn import protocols
from zoo.nn.protocols import (
    AdaptsState,
    Classifies,
    DecaysAlso,
    FillsIn,
    FixesArguments,
    HasCodes,
    HasFeatures,
    HasLatents,
    HasLayers,
    HasTokens,
    Input,
    KeepsBatchState,
    PrefersData,
    Recomputes,
    Reconstructs,
    Samples,
    SparesDecay,
    StartsFrom,
    can,
)

CLASSES = {kind.__name__: arch for kind, arch in classes().items()}
CAPABILITIES = [p for p in vars(protocols).values() if getattr(p, "_is_runtime_protocol", False)]
model = functools.cache(lambda name: small(CLASSES[name]).eval())


def able(capability: type) -> list[str]:
    """Names of the classes with a capability, each at a size of its own."""
    return [name for name in CLASSES if isinstance(model(name), capability)]


def where(capability: type):
    return pytest.mark.parametrize("name", able(capability))


@pytest.mark.parametrize("name", CLASSES)
def test_what_a_model_takes_is_what_goes_in(name):
    net = model(name)
    assert net.takes == Input(net.kind, net.takes.shape, net.takes.range)
    assert len(net.takes.layout.split()) == 1 + len(net.takes.shape)
    assert net.zoo_config["arch"] == CLASSES[name]
    x = image_batch(net, 2)
    out = net(x)
    if isinstance(net, Classifies):
        assert out.shape == (2, net.head.out_features)
    else:
        assert out._fields[0] == "loss"
        assert out.loss.shape == ()
    with pytest.raises(ValueError, match=r"expected|takes|multiple"):
        net(x[:, :1].repeat(1, 7, *[1] * (x.ndim - 2)))


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_can_be_asked_as_well_as_its_model(name):
    methods = [c for c in CAPABILITIES if not getattr(c, "__annotations__", {})]
    assert len(methods) >= 10
    for capability in methods:
        assert can(type(model(name)), capability) == isinstance(model(name), capability), capability


def test_no_question_loads_a_frozen_network():
    for arch in ("vqprior_tiny", "ditdh_tiny", "rae_mae_vit_tiny"):
        net = zoo.create(arch)
        assert any(isinstance(net, c) for c in CAPABILITIES)
        assert [v.network for v in vars(net).values() if hasattr(v, "network")] == [None]


def test_every_capability_is_public():
    assert {*CAPABILITIES, Input, protocols.Model} == {
        getattr(zoo, n) for n in ("Input", "Model", *registry.CAPABILITIES)
    }


def test_every_capability_is_one_of_some_class():
    parts = [m for name in CLASSES for m in model(name).modules()]
    for capability in CAPABILITIES:
        assert able(capability) or any(isinstance(m, capability) for m in parts), capability


@where(HasFeatures)
def test_features_are_floats_of_each_sample(name):
    out = model(name).forward_features(image_batch(model(name), 3))
    assert out.is_floating_point()
    assert len(out) == 3
    assert out.ndim in (2, 3, 4)


@where(HasTokens)
def test_the_first_tokens_belong_to_no_place(name):
    net = model(name)
    places = net.num_patches if net.kind == "image" else net.num_cubes
    assert net.forward_features(image_batch(net, 2)).shape[1] == net.num_cls_tokens + places


@where(Reconstructs)
@torch.no_grad()
def test_a_reconstruction_is_a_sample_again(name):
    net = model(name)
    x = image_batch(net, 2)
    recon = net.reconstruct(x)
    assert recon.shape == x.shape
    assert recon.is_floating_point()
    if net.takes.range is not None:
        low, high = net.takes.range
        assert low <= recon.min() <= recon.max() <= high
    torch.testing.assert_close(net.decode(net.encode(x)), recon, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("arch", ["ae_conv", "vae_conv", "vqvae_conv_latents", "qlae_conv"])
@torch.no_grad()
def test_one_class_with_or_without_codes(arch):
    net = small(arch).eval()
    z = net.encode(image_batch(net, 2))
    assert z.is_floating_point() == (net.count_codes() == 0)
    assert net.decode(z).shape == (2, 3, 32, 32)


@where(HasLatents)
@torch.no_grad()
def test_latents_have_a_shape_and_statistics(name):
    net = model(name)
    z = net.encode(image_batch(net, 2))
    assert z.is_floating_point()
    assert z.shape[1:] == net.latent_shape
    assert net.latent_mean.shape == net.latent_std.shape
    assert net.latent_mean.numel() in (net.latent_shape[0], torch.Size(net.latent_shape).numel())
    assert isinstance(net.measured, bool)
    torch.testing.assert_close(net.denormalise(net.normalise(z)), z)


@where(HasCodes)
@torch.no_grad()
def test_codes_lie_in_the_codebook(name):
    net = model(name)
    codes = net.encode(image_batch(net, 2))
    assert codes.dtype == torch.int64
    assert 0 <= codes.min() <= codes.max() < net.count_codes()


@where(FillsIn)
@torch.no_grad()
def test_what_is_filled_in_is_three_pictures(name):
    net = model(name)
    x = image_batch(net, 2)
    order = net.draw(2)
    assert len(order) == 2
    pictures = net.reconstruct(x, order)
    assert len(pictures) == 3
    for picture in pictures:
        assert picture.shape[-3:] == x.shape[-3:]
        assert picture.ndim == x.ndim
        assert 0 <= picture.min() <= picture.max() <= 1
    assert all(torch.equal(a, b) for a, b in zip(pictures, net.reconstruct(x, order)))
    assert not torch.equal(pictures[1], net.reconstruct(x, order.flip(0))[1])


@where(FillsIn)
def test_what_fills_in_is_no_autoencoder_of_whole_samples(name):
    assert not isinstance(model(name), Reconstructs)


@where(Classifies)
def test_a_new_head_gives_other_logits(name):
    net = small(CLASSES[name]).eval()
    x = image_batch(net, 2)
    assert net(x).shape == (2, net.head.out_features)
    weight = net.head.weight
    net.reset_head(len(weight))
    assert not torch.equal(net.head.weight, weight)
    net.reset_head(3)
    assert net.head.out_features == 3
    assert net(x).shape == (2, 3)


@where(Samples)
@torch.no_grad()
def test_what_is_drawn_is_what_the_model_says_it_draws(name):
    shipped = [w.name for w in registry.records().values() if w.embedded and w.arch == CLASSES[name]]
    net = zoo.load(shipped[0]) if shipped else small(CLASSES[name]).eval()
    labels = torch.tensor([0, -1])
    steps = {"steps": 1} if "steps" in inspect.signature(getattr(net, "sample_latents", net.sample)).parameters else {}
    drawn = [net.sample(labels, generator=torch.Generator().manual_seed(seed), **steps) for seed in (0, 0, 1)]
    assert drawn[0].shape == (2, *net.draws().shape)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    with pytest.raises(ValueError, match="labels"):
        net.sample(torch.tensor([net.num_classes]), **steps)


@where(StartsFrom)
def test_an_encoder_is_taken_out_of_an_autoencoder(name):
    from zoo import registry

    arch = CLASSES[name]
    source = small(registry.facts(registry.family_of(arch)).starts[arch][0])
    net = small(arch)
    net.start_from(source.state_dict())
    shared = [k for k, v in net.state_dict().items() if torch.equal(v, source.state_dict().get(k, v + 1))]
    assert len(shared) > 10


@where(AdaptsState)
def test_a_models_own_state_stays_as_it_is(name):
    own = model(name).state_dict()
    adapted = model(name).adapt_state(dict(own))
    assert adapted.keys() == own.keys()
    assert all(torch.equal(adapted[k], own[k]) for k in own)


@where(FixesArguments)
def test_what_training_fixes_are_keywords(name):
    assert {*model(name).fixed_by_training} <= {
        *hub.keywords(CLASSES[name]),
        *(
            k
            for arch in zoo.list_models()
            if hub.model_class(arch).kind == model(name).kind
            for k in hub.keywords(arch)
        ),
    }


@pytest.mark.parametrize(
    "name", [n for n in CLASSES if any(isinstance(m, KeepsBatchState) for m in model(n).modules())]
)
def test_a_batchs_state_are_attributes_and_no_buffers(name):
    for module in (m for m in model(name).modules() if isinstance(m, KeepsBatchState)):
        buffers = dict(module.named_buffers())
        assert all(hasattr(module, attribute) and attribute not in buffers for attribute in module.batch_state)


@where(SparesDecay)
def test_what_decay_spares_are_parameters(name):
    axes = {}  # of the parameters of all archs of the class
    for arch in (a for a in zoo.list_models() if hub.model_class(a) is type(model(name))):
        axes |= {n: p.ndim for n, p in small(arch).named_parameters()}
    assert model(name).no_decay
    assert all(axes[n] > 1 for n in model(name).no_decay)


@where(DecaysAlso)
def test_what_decays_also_are_parameters_of_one_axis(name):
    parameters = dict(model(name).named_parameters())
    assert model(name).decay_also
    assert all(parameters[n].ndim == 1 for n in model(name).decay_also)


@where(HasLayers)
def test_layers_hold_every_parameter(name):
    from timm.models import group_parameters

    groups = group_parameters(model(name), model(name).group_matcher())
    assert {n for names in groups.values() for n in names} == {n for n, _ in model(name).named_parameters()}


@where(Recomputes)
def test_activations_that_are_made_again_give_the_same_gradient(name):
    grads = []
    for again in (False, True):
        torch.manual_seed(0)
        net = small(CLASSES[name]).train()
        net.grad_checkpointing = again
        assert net.grad_checkpointing is again
        torch.manual_seed(1)
        out = net(image_batch(net, 2))
        (out.square().mean() if isinstance(out, Tensor) else out.loss).backward()
        grads.append(torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]))
    torch.testing.assert_close(*grads)


@where(PrefersData)
def test_preferred_data_can_be_read(name):
    from zoo.report.inputs import batches

    net = model(name)
    x, _ = next(batches(net, net.default_data, 4))
    assert x.shape == (4, *net.takes.shape)


@pytest.mark.parametrize(
    ("takes", "layout", "channels"),
    [
        (Input("image", (3, 8, 12)), "B C H W", 3),
        (Input("clip", (4, 1, 8, 12)), "B F C H W", 1),
        (Input("latent", (5, 8, 12)), "B c h w", 5),
        (Input("latent", (7,)), "B D", 7),
        (Input("activation", (7,)), "B D", 7),
    ],
)
def test_an_input_says_its_layout_channels_and_size(takes, layout, channels):
    assert takes.layout == layout
    assert takes.channels == channels
    if len(takes.shape) > 1:
        assert takes.size == (8, 12)
    else:
        with pytest.raises(ValueError, match=r"\(7,\) has no height and width"):
            takes.size  # noqa: B018


def test_a_module_that_only_looks_like_one_has_no_capability():
    class Lookalike(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(2, 2)
            self.sample = 5

    assert not any(isinstance(Lookalike(), c) for c in (Classifies, Samples, HasFeatures, Reconstructs))
