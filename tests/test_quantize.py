"""Quantisers: what they promise for any of them, the papers' identities, processes, bad input."""

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import multiprocessing as mp
from torch.nn import functional as F

from zoo.families.vq.quantize import (
    FSQ,
    QUANTIZERS,
    BinaryQuantizer,
    Product,
    Residual,
    ScalarCodebooks,
    VectorQuantizer,
    nearest_code,
)

MADE = {
    "ema": lambda: VectorQuantizer(16, 6),
    "grad": lambda: VectorQuantizer(16, 6, update="grad"),
    "cosine": lambda: VectorQuantizer(16, 6, metric="cosine", restart=0.1),
    "rotation": lambda: VectorQuantizer(16, 6, gradient="rotation"),
    "simvq": lambda: VectorQuantizer(16, 6, update="grad", codebook="simvq"),
    "kmeans": lambda: VectorQuantizer(16, 6, init="kmeans"),
    "fsq": lambda: FSQ([8, 5, 2, 3, 4, 2]),
    "lfq": lambda: BinaryQuantizer(6),
    "bsq": lambda: BinaryQuantizer(6, spherical=True),
    "qlae": lambda: ScalarCodebooks(6, 10),
    "qlae_shared": lambda: ScalarCodebooks(6, 10, shared=True),
    "residual": lambda: Residual(VectorQuantizer(16, 6), VectorQuantizer(8, 6)),
    "product": lambda: Product(VectorQuantizer(16, 2), FSQ([3, 3, 3, 3])),
}
every = pytest.mark.parametrize("name", MADE)


def started(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    quantizer = MADE[name]()
    quantizer(torch.randn(4, 30, 6))
    return quantizer


@pytest.mark.parametrize(
    ("name", "args", "size", "dim"),
    [("vq", {}, 16, 6), ("fsq", {"levels": [4, 3]}, 12, 2), ("lfq", {}, 64, 6), ("bsq", {}, 64, 6)],
)
def test_a_network_makes_any_quantiser_of_a_size_a_width_and_its_own_keywords(name, args, size, dim):
    quantizer = QUANTIZERS[name](16, 6, **args).eval()
    codes = quantizer.decode(torch.arange(size))  # (K, D)
    assert codes.shape == (quantizer.codebook_size, quantizer.code_dim) == (size, dim)
    assert len(codes.unique(dim=0)) == size
    if name == "bsq":
        torch.testing.assert_close(codes.norm(dim=1), torch.ones(size))
    with pytest.raises(TypeError, match="lvels"):
        QUANTIZERS[name](16, 6, **args, lvels=3)


@every
def test_decoding_what_was_encoded_is_the_forward_bit_for_bit(name):
    quantizer, z = started(name).eval(), torch.randn(2, 5, 7, 6)
    out = quantizer(z)
    indices = quantizer.encode(z)
    assert indices.dtype == out.indices.dtype == torch.int64
    assert torch.equal(indices, out.indices)
    assert torch.equal(quantizer.decode(indices), out.z_q)
    assert out.z_q.shape == z.shape


@every
def test_eval_changes_no_buffer_and_training_leaves_no_token_behind(name):
    quantizer, z = started(name).eval(), torch.randn(3, 9, 6)
    before = copy.deepcopy(quantizer.state_dict())
    quantizer(z)
    quantizer.encode(z)
    assert all(torch.equal(v, before[k]) for k, v in quantizer.state_dict().items())
    assert (quantizer.train()(z).indices >= 0).all()


@every
def test_gradients_reach_the_tokens_and_every_parameter(name):
    quantizer, z = started(name), torch.randn(3, 9, 6, requires_grad=True)
    out = quantizer(z)
    (out.z_q.square().sum() + sum(out.losses.values())).backward()
    assert z.grad.abs().sum() > 0
    for parameter in quantizer.parameters():
        assert parameter.grad.abs().sum() > 0


@every
def test_losses_do_not_depend_on_the_batch_size(name):
    quantizer, z = started(name), torch.randn(4, 9, 6)
    once, twice = copy.deepcopy(quantizer)(z), copy.deepcopy(quantizer)(torch.cat([z, z]))
    for key in once.losses:
        assert torch.allclose(once.losses[key], twice.losses[key], rtol=1e-5)


@every
def test_masked_tokens_count_nowhere(name):
    a, b = started(name), started(name)
    z, mask = torch.randn(3, 9, 6), torch.rand(3, 9) < 0.6
    out, alone = a(z, mask), b(z[mask])
    assert torch.equal(out.indices[mask], alone.indices)
    assert (out.indices[~mask] == -1).all()
    assert not out.z_q[~mask].any()
    for key in out.losses:
        assert torch.allclose(out.losses[key], alone.losses[key], rtol=1e-5)
    for key in out.stats:
        assert torch.allclose(out.stats[key], alone.stats[key], rtol=1e-5)
    for (key, x), y in zip(a.state_dict().items(), b.state_dict().values()):
        assert torch.allclose(x.float(), y.float(), rtol=1e-5, atol=1e-7), key


@every
def test_nan_neither_moves_a_codebook_nor_looks_like_a_code(name):
    a, b = started(name), started(name)
    z = torch.randn(3, 9, 6, requires_grad=True)
    bad = z.detach().clone()
    bad[1, 4] = math.nan
    bad.requires_grad_()
    mask = torch.ones(3, 9, dtype=torch.bool)
    mask[1, 4] = False
    out = a(bad)
    b(z, mask)
    assert (out.indices[1, 4] == -1).all() or name == "product"
    assert out.z_q[1, 4].isnan().any()
    assert out.z_q[~torch.isnan(bad)].isfinite().all()
    sum(out.losses.values()).backward() if out.losses else None
    for parameter in a.parameters():
        assert parameter.grad.isfinite().all()
    for (key, x), y in zip(a.state_dict().items(), b.state_dict().values()):
        assert torch.allclose(x.float(), y.float(), rtol=1e-5, atol=1e-7), key
    with pytest.raises(ValueError, match="NaN or infinity"):
        a.eval()(bad)


def test_running_means_in_half_precision_are_refused_and_a_frozen_codebook_is_not():
    quantizer = VectorQuantizer(8, 4).train().bfloat16()
    z = torch.randn(16, 4)
    with pytest.raises(ValueError, match=r"the codebook is torch\.bfloat16.*bf16-mixed"):
        quantizer(z)
    quantizer.freeze()
    quantizer(z)


@every
@pytest.mark.parametrize(
    "given",
    [None, [1.0], torch.zeros(()), torch.zeros(4, 6).long(), torch.zeros(4, 6).to_sparse(), torch.zeros(4, 7)],
    ids=["None", "list", "0-d", "int64", "sparse", "wide"],
)
def test_what_are_no_tokens_or_no_indices_is_refused_by_name(name, given):
    quantizer = started(name).eval()
    for method in (quantizer, quantizer.encode):
        with pytest.raises(ValueError, match=r"tokens are .* expected"):
            method(given)
    if isinstance(given, torch.Tensor) and given.dtype == torch.int64:
        given = given.int()
    with pytest.raises(ValueError, match=r"indices are .* expected"):
        quantizer.decode(given)


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_finds_the_codes_of_float32(name, dtype):
    quantizer = started(name).eval()
    z = torch.randn(1000, 6).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        out = quantizer(z)
    assert out.z_q.dtype == dtype
    assert torch.equal(out.indices, quantizer(z.float()).indices)


def test_the_nearest_code_is_the_nearest():
    torch.manual_seed(0)
    x, codes = torch.randn(300, 5, dtype=torch.float64), torch.randn(40, 5, dtype=torch.float64)
    assert torch.equal(nearest_code(x, codes), torch.cdist(x, codes).argmin(1))


def test_running_means_are_the_papers():
    quantizer = VectorQuantizer(4, 3, decay=0.9)
    z, sums, counts = torch.randn(50, 3), quantizer.sums.clone(), quantizer.counts.clone()
    indices = quantizer(z).indices
    one_hot = F.one_hot(indices, 4).float()
    counts = 0.9 * counts + 0.1 * one_hot.sum(0)
    sums = 0.9 * sums + 0.1 * one_hot.T @ z
    smooth = (counts + 1e-5) / (counts.sum() + 4e-5) * counts.sum()
    assert torch.allclose(quantizer.codebook, sums / smooth[:, None], atol=1e-6)


def test_losses_are_the_papers_and_the_legacy_ones_are_swapped():
    z, beta = torch.randn(50, 3), 0.25
    for legacy in (False, True):
        torch.manual_seed(0)
        quantizer = VectorQuantizer(4, 3, update="grad", beta=beta, legacy_beta=legacy)
        out = quantizer(z)
        error = (z - quantizer.codebook[out.indices]).square().mean()
        assert torch.allclose(out.losses["commitment"], error * (1 if legacy else beta))
        assert torch.allclose(out.losses["codebook"], error * (beta if legacy else 1))


def test_accumulated_batches_move_the_codebook_as_the_joined_batch_does():
    a, b = VectorQuantizer(16, 6), VectorQuantizer(16, 6)
    b.load_state_dict(a.state_dict())
    z = torch.randn(4, 30, 6)
    a(z)
    for i, part in enumerate(z):
        b(part, update=i == 3)
    assert torch.allclose(a.codebook, b.codebook, atol=1e-6)
    assert torch.equal(a.steps, b.steps)


def test_frozen_stays():
    quantizer = VectorQuantizer(16, 6)
    before = quantizer.codebook.clone()
    quantizer.freeze()
    quantizer(torch.randn(50, 6))
    assert torch.equal(quantizer.codebook, before)
    quantizer.freeze(False)
    quantizer(torch.randn(50, 6))
    assert not torch.equal(quantizer.codebook, before)


def test_restarts_bring_every_code_into_use():
    torch.manual_seed(0)
    data = torch.randn(2000, 8) * 3 + 10  # far from where the codes begin
    use = {}
    for restart in (0.0, 0.1):
        quantizer = VectorQuantizer(64, 8, restart=restart)
        for _ in range(150):
            quantizer(data[torch.randint(2000, (500,))])
        use[restart] = quantizer.eval()(data).stats["usage"].item()
    assert use[0.0] < 0.2
    assert use[0.1] > 0.95


def test_kmeans_starts_on_the_clusters():
    torch.manual_seed(0)
    centres = torch.randn(8, 4) * 10
    quantizer = VectorQuantizer(8, 4, init="kmeans", decay=1.0)
    quantizer((centres[:, None] + 0.01 * torch.randn(8, 100, 4))[:, torch.randperm(100)])
    assert quantizer.started
    assert torch.cdist(centres, quantizer.codebook).min(1).values.median() < 0.05
    again = VectorQuantizer(8, 4, init="kmeans")
    again.load_state_dict(quantizer.state_dict())
    assert torch.equal(again.eval()(centres).z_q, quantizer.eval()(centres).z_q)


def test_the_rotation_gives_the_code_and_turns_the_gradient():
    torch.manual_seed(0)
    quantizer = VectorQuantizer(16, 6, gradient="rotation", update="grad")
    z = torch.randn(20, 6, dtype=torch.float32, requires_grad=True)
    out = quantizer(z)
    q = quantizer.codebook[out.indices].detach()
    assert torch.allclose(out.z_q, q, atol=1e-6)
    # The map is a rotation times ‖q‖/‖z‖: gradients keep their angle to the code's, and their length but for the scale.
    g = torch.randn(20, 6)
    (grad,) = torch.autograd.grad(out.z_q, z, g)
    scale = q.norm(dim=-1) / z.detach().norm(dim=-1)
    assert torch.allclose(grad.norm(dim=-1), g.norm(dim=-1) * scale, rtol=1e-4)
    assert torch.allclose((grad * z.detach()).sum(-1), (g * q).sum(-1), atol=1e-5)


def test_simvq_moves_all_codes_by_one_matrix():
    quantizer = VectorQuantizer(16, 6, update="grad", codebook="simvq")
    assert [n for n, _ in quantizer.named_parameters()] == ["proj.weight"]
    assert torch.allclose(quantizer.codes(), quantizer.codebook @ quantizer.proj.weight.T)


@pytest.mark.parametrize("levels", [[8, 5, 5, 5], [2, 3], [7, 5, 5, 5, 5]])
def test_fsq_uses_exactly_its_levels(levels):
    quantizer = FSQ(levels).eval()
    grid = torch.linspace(-9, 9, 5000)[:, None].expand(-1, len(levels))
    digits = quantizer.encode(grid)[:, None] // quantizer.basis % quantizer.levels  # (5000, D)
    places = [[grid[(digits[:, i] == v).nonzero()[0, 0], 0] for v in range(n)] for i, n in enumerate(levels)]
    every_code = torch.cartesian_prod(*(torch.stack(p) for p in reversed(places))).flip(-1)  # the first entry fastest
    assert torch.equal(quantizer.encode(every_code), torch.arange(math.prod(levels)))
    codes = quantizer.decode(torch.arange(math.prod(levels)))
    assert len(codes.unique(dim=0)) == math.prod(levels)
    assert codes.abs().max() <= 1


def test_bits_grouped_or_not_give_the_entropy_of_the_whole_softmax():
    torch.manual_seed(0)
    x, d = torch.randn(40, 5) * 0.02, 5
    for spherical in (False, True):
        together = BinaryQuantizer(d, spherical, temperature=0.1, entropy_weight=1.0, beta=0.0)
        codes = together.decode(torch.arange(2**d))
        y = F.normalize(x, dim=-1) if spherical else x
        p = (-torch.cdist(y, codes).square() / 0.1).softmax(-1)
        mean = p.mean(0)
        expected = -(p * p.log()).sum(-1).mean() + (mean * mean.log()).sum()
        assert torch.allclose(together(x).losses["entropy"], expected, atol=1e-4)


def test_qlae_takes_the_nearest_value_of_each_latent_and_learns_both_ways():
    torch.manual_seed(0)
    quantizer = ScalarCodebooks(12, 10)
    quantizer.values.data += 0.2 * torch.randn(12, 10)  # no longer sorted
    z = torch.randn(500, 12, requires_grad=True)
    out = quantizer(z)
    distance = (z[..., None] - quantizer.values).abs()
    assert torch.equal(out.indices, distance.argmin(-1))
    of_values = torch.autograd.grad(
        out.losses["quantization"], [z, quantizer.values], retain_graph=True, allow_unused=True
    )
    of_tokens = torch.autograd.grad(out.losses["commitment"], [z, quantizer.values], allow_unused=True)
    assert of_values[0] is None
    assert of_values[1].abs().sum() > 0
    assert of_tokens[0].abs().sum() > 0
    assert of_tokens[1] is None


def test_residual_stages_leave_less_and_less():
    torch.manual_seed(0)
    z, errors = torch.randn(2000, 4), []
    for n in (1, 2, 4):
        quantizer = Residual(*(VectorQuantizer(32, 4, init="kmeans") for _ in range(n)))
        for _ in range(10):
            quantizer(z)
        errors.append((quantizer.eval()(z).z_q - z).square().mean())
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_a_shared_stage_moves_once_for_all_stages():
    stage = VectorQuantizer(16, 6)
    quantizer = Residual(stage, stage)
    quantizer(torch.randn(50, 6))
    assert stage.steps == 1
    assert torch.isclose(stage.counts.sum(), torch.tensor(0.99 * 16 + 0.01 * 100))


# Processes


def _batches(accumulate: int) -> torch.Tensor:
    return torch.randn(3 * accumulate, 2, 40, 6, generator=torch.Generator().manual_seed(1)) + 3


def _masks(accumulate: int) -> torch.Tensor:
    mask = torch.rand(3 * accumulate, 2, 40, generator=torch.Generator().manual_seed(2)) < 0.9
    mask[-1, 1] = False  # the second process has no token in the last batch
    return mask


def _train(quantizer, batches, masks, accumulate):
    indices = [
        quantizer(z, m, update=(i + 1) % accumulate == 0).indices for i, (z, m) in enumerate(zip(batches, masks))
    ]
    return quantizer.state_dict(), indices


JOINED = [
    ({"init": "kmeans", "restart": 0.3}, 1),
    ({"restart": 0.3}, 2),
    ({"metric": "cosine", "init": "kmeans"}, 1),
    ({"update": "grad", "restart": 0.5}, 1),
]


def _process(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    for case, (args, accumulate) in enumerate(JOINED):
        torch.manual_seed(0)
        quantizer = VectorQuantizer(16, 6, **args)  # as Lightning does: built before the processes are joined
        torch.distributed.init_process_group("gloo", f"file://{folder}/meet{case}", rank=rank, world_size=2)
        batches, masks = _batches(accumulate)[:, rank], _masks(accumulate)[:, rank]
        torch.save(_train(quantizer, batches, masks, accumulate), folder / f"{case}.{rank}")
        torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """A folder of what each of two processes has after each case, CASE.RANK."""
    folder = tmp_path_factory.mktemp("two")
    mp.start_processes(_process, (folder,), nprocs=2, start_method="spawn")
    return folder


@pytest.mark.parametrize("case", range(len(JOINED)), ids=lambda case: str(JOINED[case][0]))
def test_two_processes_are_one_with_the_joined_batch(case, two):
    args, accumulate = JOINED[case]
    (first, indices0), (second, indices1) = (torch.load(two / f"{case}.{r}", weights_only=True) for r in (0, 1))
    torch.manual_seed(0)
    one = VectorQuantizer(16, 6, **args)
    batches, masks = _batches(accumulate), _masks(accumulate)
    state, indices = _train(one, batches.flatten(1, 2), masks.flatten(1, 2), accumulate)
    assert all(torch.equal(torch.cat([a, b]), c) for a, b, c in zip(indices0, indices1, indices))
    for key, value in state.items():
        assert torch.equal(first[key], second[key]), key
        assert torch.allclose(first[key].float(), value.float(), atol=1e-5), key


# Bad input


def test_a_batch_too_small_for_kmeans_says_what_to_do():
    with pytest.raises(ValueError, match=r"needs 16 different tokens.*holds 10.*init='uniform'"):
        VectorQuantizer(16, 6, init="kmeans")(torch.randn(10, 6))
    with pytest.raises(ValueError, match="of 16 drawn 2 differ"):
        VectorQuantizer(16, 6, init="kmeans")(torch.randn(2, 6).repeat(50, 1))
    with pytest.raises(ValueError, match="k-means has not started"):
        VectorQuantizer(16, 6, init="kmeans").eval()(torch.randn(100, 6))


def test_one_code_and_a_batch_smaller_than_the_codebook_work():
    out = VectorQuantizer(1, 6, restart=0.1)(torch.randn(5, 6))
    assert out.stats["perplexity"] == 1
    assert not out.indices.any()
    out = VectorQuantizer(512, 6, restart=0.5)(torch.randn(5, 6))
    assert out.z_q.isfinite().all()
    empty = VectorQuantizer(16, 6, restart=0.5)
    before = empty.codebook.clone()
    empty(torch.randn(0, 6))
    assert torch.equal(empty.codebook, before)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VectorQuantizer(16, 6, metric="cosin"), "metric='cosin', allowed l2, cosine"),
        (lambda: VectorQuantizer(0, 6), "codebook_size=0"),
        (lambda: VectorQuantizer(16, 6, codebook="simvq"), "needs update='grad'"),
        (lambda: FSQ([8, 1]), r"levels=\[8, 1\]"),
        (lambda: BinaryQuantizer(63), "dim=63"),
        (lambda: ScalarCodebooks(0), "latents=0"),
        (lambda: Residual(VectorQuantizer(4, 2), VectorQuantizer(4, 3)), "the same width"),
        (lambda: VectorQuantizer(16, 6)(torch.randn(3, 5)), r"tokens are \(3, 5\), expected \(…, 6\)"),
        (
            lambda: VectorQuantizer(16, 6)(torch.randn(3, 6), torch.ones(4).bool()),
            r"mask is torch.bool \(4,\), expected bool \(3,\)",
        ),
        (lambda: VectorQuantizer(16, 6).decode(torch.tensor([16])), "span 16 to 16, allowed 0 to 15"),
        (lambda: FSQ([3, 3]).decode(torch.tensor([-1])), "-1 marks a masked token"),
        (lambda: ScalarCodebooks(2).decode(torch.tensor([[0.0, 1.0]])), "expected int64"),
        (lambda: Product(FSQ([3, 3]), FSQ([3]))(torch.randn(4, 2)), r"take 2 \+ 1"),
    ],
)
def test_bad_input_is_refused_with_its_message(make, message):
    with pytest.raises(ValueError, match=message):
        make()
