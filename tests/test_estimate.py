"""`zoo validate --estimate`: what is counted with shapes alone is what a real step allocates and computes."""

import json
import socket

import lightning as L
import pytest
import torch
from conftest import tiny_flags
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from zoo import cli
from zoo.nn import frozen
from zoo.recipe import list_recipes
from zoo.train import estimate

OTHERWISE = {  # what a CPU's kernels keep otherwise than a GPU's, or a step without a perceptual loss lacks
    *("dcae/smoke", "rae/smoke", "rae/ditdh_smoke", "vq/vqgan_smoke"),
}
KEPT = [name for name in list_recipes("*smoke") if name not in OTHERWISE]
KEPT += ["mae/cifar10_finetune_noaug", "vq/cifar10_fsq"]  # a classifier of patches, and another quantiser


def overridden(name, precision="32-true"):
    """Flags of a recipe's small model, two samples a step, nothing computed twice."""
    again = ["--model.grad_checkpointing", "false"] if "mae" in name else []
    return ["--trainer.precision", precision, "--data.batch_size", "2", *again, *tiny_flags(name)]


class Real(L.Callback):
    """A step with values: what it keeps for its backward pass, what it computes, and its optimisers."""

    def __init__(self, name, overrides):
        plan = estimate.resolve(name, overrides)
        self.module, b = plan.module(), plan.data["batch_size"]
        self.batch = torch.rand(b, *self.module.model.takes.shape), torch.zeros(b, dtype=torch.int64)
        self.own, self.kept = set(), {}
        trainer = estimate.trainer(self, precision=plan.precision)
        with saved_tensors_hooks(self.keep, lambda t: t), FlopCounterMode(display=False) as counter:
            trainer.fit(self.module, estimate.Batches([self.batch], b))
        self.flops, self.optimizers = counter.get_total_flops(), trainer.optimizers

    def on_train_batch_start(self, *_):
        tensors = (*self.module.parameters(), *self.module.buffers())
        self.own = {t.untyped_storage().data_ptr() for t in tensors}

    def keep(self, t):
        storage = t.untyped_storage()
        if storage.data_ptr() not in self.own:
            self.kept[storage.data_ptr()] = storage.nbytes()
        return t

    @property
    def activation_bytes(self):
        return sum(self.kept.values()) + sum(t.nbytes for t in self.batch)


@pytest.mark.parametrize("name", KEPT)
def test_activations_are_those_of_a_real_step_to_the_byte(name):
    overrides = overridden(name)
    found = estimate.estimate(name, overrides)
    assert found["activation_bytes"] == Real(name, overrides).activation_bytes


@pytest.mark.parametrize("name", ["bilinear/smoke", "vq/smoke", "vq/cifar10_fsq"])
def test_operations_and_optimiser_are_those_of_a_real_step(name):
    overrides = overridden(name)
    found, real = estimate.estimate(name, overrides), Real(name, overrides)
    assert found["flops_per_image"] * found["batch"] == real.flops
    states = [s for o in real.optimizers for s in o.state.values()]
    assert found["optimizer_bytes"] == sum(v.nbytes for s in states for v in s.values())
    assert found["trained"] == sum(p.numel() for p in real.module.parameters())
    assert found["total_bytes"] == sum(
        found[f"{part}_bytes"] for part in ("parameter", "gradient", "optimizer", "average", "activation")
    )


@pytest.mark.parametrize(
    ("layer", "x", "products"),
    [
        (nn.Conv2d(8, 8, 3, padding=1, groups=8), (2, 8, 6, 6), 2 * 8 * 36 * 9),
        (nn.Conv2d(4, 8, 3, 2, 1), (2, 4, 6, 6), 2 * 8 * 9 * 4 * 9),
        (nn.ConvTranspose2d(4, 8, 4, 2, 1), (2, 4, 6, 6), 2 * 4 * 36 * 8 * 16),
        (nn.Linear(4, 8), (2, 4), 2 * 4 * 8),
    ],
)
def test_a_backward_pass_computes_twice_a_forward_pass(layer, x, products):
    with estimate.shapes() as count:
        layer, x = layer.to("meta"), torch.empty(x, requires_grad=True)
        y = layer(x)
        assert count.flops.total() == 2 * products
        y.sum().backward()
        assert count.flops.total() == 3 * 2 * products


def test_attention_keeps_no_scores_and_makes_them_again():
    b, heads, n, d = 2, 3, 64, 8
    with estimate.shapes() as count, estimate.Casts(torch.bfloat16, count):
        q, k, v = (torch.empty(b, heads, n, d, requires_grad=True) for _ in range(3))
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        assert y.dtype == torch.bfloat16
        forward = count.flops["half"]
        y.sum().backward()
    assert forward == 4 * b * heads * n * n * d
    assert count.flops == {"half": 3.5 * forward}


def test_checkpointing_trades_memory_for_operations_and_the_table_says_so(capsys):
    argv = ["--data.batch_size", "8", "--trainer.devices", "4", "--estimate", "--utilisation", "0.5", "--tflops", "100"]
    assert cli.main(["validate", "mae/in1k_pretrain_base", *argv]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    found, rows = json.loads(last), {line[:24].strip(): line[25:] for line in lines}
    assert found["trained"] == 111_655_680
    assert "111,655,680 trained" in rows["parameters"]
    assert found["other_activation_bytes"] < 0.4 * found["activation_bytes"]
    assert 1.15 < found["other_flops_per_image"] / found["flops_per_image"] < 4 / 3
    assert found["ddp_bytes"] - found["total_bytes"] == found["gradient_bytes"]
    assert found["fsdp_bytes"] < found["total_bytes"]
    assert found["images_per_step"] == 32
    assert found["images_per_second"] == pytest.approx(4 * 0.5 * 100e12 / found["flops_per_image"])
    assert found["hours"] == pytest.approx(found["epochs"] * 1_281_167 / found["images_per_second"] / 3600)
    assert {"gradients", "optimiser", "activations", "grad_checkpointing true", "of 4, DDP", "of 4, FSDP2"} <= set(rows)


@pytest.mark.parametrize(
    ("name", "frozen"),
    [
        ("mae/in1k_finetune_base", 0),  # official weights
        ("dcae/in1k_f64c128_phase1", 14_716_160),  # LPIPS' VGG
        ("dcae/in1k_f32c32_phase3", 338_044_448),  # the weights of a run that is not there
        ("rae/in1k_dinov2_base", 122_113_664),  # timm's encoder, DINO, VGG
        ("rae/in1k_ditdh_s", 415_056_640),  # the autoencoder, which draws samples
        ("vq/mnist_prior", 206_497),
    ],
)
def test_nothing_is_read_or_fetched_whatever_the_recipe_names(name, frozen, monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise AssertionError("network")

    for call in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, call, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for place in ("HF_HOME", "TORCH_HOME"):
        monkeypatch.setenv(place, str(tmp_path))
    found = estimate.estimate(name, ["--model.arch_args.depth", "2"] if "dinov2" in name else [])
    assert found["frozen"] == frozen
    assert found["trained"] > 0
    assert found["flops_per_image"] > 0
    assert found["activation_bytes"] > found["batch"]
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize("name", ["bilinear/smoke", "vq/smoke"])
def test_so_are_those_of_mixed_precision(name):
    overrides = overridden(name, "bf16-mixed")
    found = estimate.estimate(name, overrides)
    assert found["activation_bytes"] == Real(name, overrides).activation_bytes


def hours(name, *overrides, images=None):
    return estimate.speed(estimate.estimate(name, overrides), 0.4, (1, 1, 1), images)["hours"]


def test_hours_are_those_of_the_steps_that_lightning_takes():
    two_epochs = hours("bilinear/smoke")
    assert hours("bilinear/smoke", "--trainer.max_steps", "1000") == two_epochs  # whichever ends first
    assert hours("bilinear/smoke", "--trainer.max_epochs", "1") == two_epochs / 2
    assert hours("bilinear/smoke", "--trainer.limit_train_batches", "0.5") == two_epochs / 2
    by_hand = [
        hours("vq/vqgan_smoke", "--trainer.max_steps", n) for n in ("2", "4")
    ]  # Lightning counts both optimisers
    found = estimate.estimate("vq/vqgan_smoke")
    assert by_hand[0] == pytest.approx(4 * found["flops_per_image"] / 0.4 / 1e12 / 3600)
    assert by_hand[1] == pytest.approx(2 * by_hand[0])
    twice = hours("videomae/smoke", "--data.repeats", "2", images=100)
    assert twice == pytest.approx(2 * hours("videomae/smoke", "--data.repeats", "1", images=100))


def test_operations_in_full_precision_take_their_own_time():
    mixed = ["--trainer.precision", "bf16-mixed"]
    found = estimate.estimate("rae/smoke", mixed)
    kinds = [found[f"{kind}_flops_per_image"] for kind in estimate.KINDS]
    assert (
        min(kinds) > 0
    )  # the decoder; VGG or heads that convolve; the transformer that the discriminator sees through
    assert sum(kinds) == found["flops_per_image"]
    fast, slow = (estimate.speed(found, 1.0, (100, 100, peak))["images_per_second"] for peak in (100, 1))
    assert 1 / slow - 1 / fast == pytest.approx(0.99 * kinds[2] / 1e12)


def test_fsdp_shares_what_is_frozen_too():
    found = estimate.estimate("mae/in1k_probe_base", ["--data.batch_size", "2", "--trainer.devices", "0,1,2,3"])
    assert found["devices"] == 4
    assert found["fsdp_bytes"] - found["activation_bytes"] < found["parameter_bytes"] / 3


def test_an_estimate_that_fails_leaves_nothing_behind():
    from torch.nn.modules import module

    hooks = [len(h) for h in (module._global_forward_hooks, module._global_forward_pre_hooks)]
    with pytest.raises(ValueError, match="lr=-1"):
        estimate.estimate("bilinear/smoke", ["--model.lr", "-1"])
    assert [len(h) for h in (module._global_forward_hooks, module._global_forward_pre_hooks)] == hooks
    assert torch.zeros(1).device.type == "cpu"
    assert torch.autocast("cpu", enabled=False)
    assert not frozen.weights_are_random()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--utilisation", "2"], "--utilisation 2, allowed above 0 up to 1"),
        (["--device", "h1000"], "--device h1000, did you mean h100"),
        (["--tflops", "many"], "--tflops many, allowed a number above 0"),
        (["--tflops", "1,2"], "--tflops 1,2, allowed one number, or three"),
        (["--trainer.devices", "0"], "devices=0"),
        (["--images", "-5"], "--images -5, allowed a number above 0"),
        (["--model.nonsense", "1"], "no key 'model.nonsense'"),
        (["--data.batch_size", "0"], "batch_size=0, must be at least 1"),
        (["--trainer.precision", "transformer-engine"], "precision=transformer-engine has no estimate"),
    ],
)
def test_what_makes_no_estimate_is_refused_in_a_line(argv, said, capsys):
    assert cli.main(["validate", "bilinear/smoke", "--estimate", *argv]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("zoo validate: ")
    assert said in line
