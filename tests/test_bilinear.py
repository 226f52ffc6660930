"""The identities of the bilinear paper, and what a caller can get wrong."""

import pytest
import torch

import zoo
from zoo.families.bilinear.model import (
    BilinearClassifier,
    adversarial_masks,
    decompose,
    effective_rank,
    eigen_logits,
    hosvd,
    interaction_tensor,
    tensor_similarity,
    to_pixels,
    truncate,
    truncation_curve,
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return BilinearClassifier(dim=12, num_classes=5, image_size=6).double().eval()


@pytest.fixture
def images():
    return torch.rand(7, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def embedded(model, images):
    return model.embed(images.flatten(1)).detach()


def test_logits_are_the_eigenvectors_sum(model, images):
    eigen = decompose(model.interactions())
    torch.testing.assert_close(eigen_logits(embedded(model, images), eigen), model(images), rtol=1e-11, atol=1e-13)


def test_forward_is_the_product_of_two_linear_maps(model, images):
    h = embedded(model, images)
    left, right = model.blocks[0].weight[:12], model.blocks[0].weight[12:]
    by_hand = ((h @ left.T) * (h @ right.T)) @ model.head.weight.T
    torch.testing.assert_close(model(images), by_hand, rtol=1e-12, atol=1e-14)


def test_residual_adds_the_linear_path(images):
    torch.manual_seed(0)
    model = BilinearClassifier(dim=12, num_classes=5, image_size=6, residual=True).double().eval()
    h = embedded(model, images)
    quadratic = eigen_logits(h, decompose(model.interactions()))
    torch.testing.assert_close(model(images), quadratic + h @ model.head.weight.T, rtol=1e-11, atol=1e-13)


def test_last_layer_of_a_deep_model_is_exact_in_what_it_reads(images):
    torch.manual_seed(0)
    model = BilinearClassifier(dim=12, depth=3, num_classes=5, image_size=6).double().eval()
    reads = []
    model.blocks[-1].register_forward_hook(lambda _, inputs, __: reads.append(inputs[0].detach()))
    logits = model(images)
    torch.testing.assert_close(eigen_logits(reads[0], decompose(model.interactions())), logits, rtol=1e-10, atol=1e-16)


def test_any_output_direction_decomposes(model, images):
    left, right = model.blocks[0].weight.chunk(2)
    direction = (model.head.weight[3] - model.head.weight[1])[None]
    eigen = decompose(interaction_tensor(left, right, direction).detach())
    logits = model(images)
    torch.testing.assert_close(eigen_logits(embedded(model, images), eigen)[:, 0], logits[:, 3] - logits[:, 1])


def test_eigenvectors_in_pixels_act_on_pixels(model, images):
    eigen = decompose(model.interactions())
    pixels = to_pixels(eigen.vectors, model.embed.weight)  # (O, K, I)
    logits = torch.einsum("bi,oki->bok", images.flatten(1), pixels).square().mul(eigen.values).sum(-1)
    torch.testing.assert_close(logits, model(images))


def test_eigenvalues_come_by_size_and_truncation_keeps_the_first(model):
    eigen = decompose(model.interactions())
    assert (eigen.values.abs().diff(dim=-1) <= 0).all()
    assert (truncate(eigen, 3).values == eigen.values[:, :3]).all()
    with pytest.raises(ValueError, match="k=13, allowed 1 to 12"):
        truncate(eigen, 13)


def test_truncation_curve_equals_one_truncation_at_a_time(model, images):
    eigen, h = decompose(model.interactions()), embedded(model, images)
    labels = torch.tensor([0, 1, 2, 3, 4, 0, 1])
    slow = [(eigen_logits(h, truncate(eigen, k)).argmax(-1) == labels).double().mean() for k in range(1, 13)]
    torch.testing.assert_close(truncation_curve(h, labels, eigen, batch_size=3).double(), torch.stack(slow))


def test_effective_rank_counts_equal_eigenvalues():
    torch.testing.assert_close(
        effective_rank(torch.tensor([[2.0, -2, 0, 0], [1, 1, 1, 1], [5, 0, 0, 0]])), torch.tensor([2.0, 4, 1])
    )


def test_hosvd_rebuilds_the_tensor_from_orthonormal_parts(model):
    b = model.interactions()
    scale, outputs, core = hosvd(b)
    torch.testing.assert_close(torch.einsum("r,ro,rij->oij", scale, outputs, core), b)
    torch.testing.assert_close(outputs @ outputs.T, torch.eye(5, dtype=b.dtype))
    torch.testing.assert_close(torch.einsum("rij,sij->rs", core, core), torch.eye(5, dtype=b.dtype))
    torch.testing.assert_close(scale, torch.linalg.svdvals(b.flatten(1)))


def test_hosvd_of_a_rank_deficient_tensor_stays_finite(model):
    b = model.interactions()
    b[1] = b[0]
    scale, outputs, core = hosvd(b)
    assert core.isfinite().all()
    torch.testing.assert_close(torch.einsum("r,ro,rij->oij", scale, outputs, core), b)


def test_adversarial_mask_moves_one_eigenfeature_only(model, images):
    vectors = decompose(model.interactions()).vectors[:, 0]  # (O, D)
    masks = adversarial_masks(vectors, model.embed.weight.detach())
    moved = masks @ to_pixels(vectors, model.embed.weight.detach()).T
    torch.testing.assert_close(moved, torch.diag(moved.diag()), rtol=0, atol=1e-12)
    assert (moved.diag() > 0).all()
    torch.testing.assert_close(masks.square().mean(-1), torch.ones(5, dtype=masks.dtype))
    with pytest.raises(ValueError, match="allowed at most 12"):
        adversarial_masks(torch.rand(13, 12), torch.rand(12, 36))


def test_similarity_equals_the_cosine_of_the_full_tensors(model):
    torch.manual_seed(5)
    other = BilinearClassifier(dim=9, num_classes=5, image_size=6).double()

    def full(m):
        left, right = (m.blocks[0].weight @ m.embed.weight).chunk(2)
        return interaction_tensor(left, right, m.head.weight).detach().flatten()

    a, b = full(model), full(other)
    torch.testing.assert_close(tensor_similarity(model, other), a @ b / a.norm() / b.norm())
    torch.testing.assert_close(tensor_similarity(model, model).item(), 1.0)


def test_similarity_refuses_what_it_cannot_compare(model):
    with pytest.raises(ValueError, match="only one bilinear layer"):
        tensor_similarity(model, BilinearClassifier(dim=12, depth=2, num_classes=5, image_size=6))
    with pytest.raises(ValueError, match="same images and classes"):
        tensor_similarity(model, BilinearClassifier(dim=12, num_classes=4, image_size=6))


def test_similarity_never_builds_the_pixel_tensor():
    a, b = (BilinearClassifier(dim=8, num_classes=3, image_size=400) for _ in range(2))
    assert -1 <= tensor_similarity(a, b) <= 1  # 160,000² entries would be 205 GB a class


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_noise_reaches_the_stated_share_of_images_in_training_only(probability):
    torch.manual_seed(0)
    model = BilinearClassifier(dim=4, image_size=4, noise=0.5, noise_p=probability)
    images, clean = torch.rand(1, 1, 4, 4).expand(2000, -1, -1, -1), []
    clean = model.eval()(images)
    assert (model.eval()(images) == clean).all()
    noisy = (model.train()(images) != clean).any(dim=1).float().mean().item()
    assert noisy == pytest.approx(probability, abs=0.04)


@pytest.mark.parametrize("gate", ["relu", "silu", "gelu"])
def test_a_gated_model_runs_and_is_not_decomposed(gate):
    model = BilinearClassifier(dim=8, image_size=4, gate=gate).eval()
    assert model(torch.rand(2, 1, 4, 4)).shape == (2, 10)
    with pytest.raises(ValueError, match="use gate=None"):
        model.interactions()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"gate": "tanh"}, "allowed .None, 'relu'"),
        ({"depth": 0}, "at least 1"),
        ({"noise_p": 1.5}, r"noise_p in \[0, 1\]"),
        ({"noise": -1.0}, "noise ≥ 0"),
    ],
)
def test_bad_arguments_are_refused(args, message):
    with pytest.raises(ValueError, match=message):
        BilinearClassifier(**args)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(1, 28, 28), r"expected \(B, 1, 28, 28\); a single image needs x\[None\]"),
        (torch.rand(2, 3, 28, 28), "3 channels, this model takes 1; convert to grey"),
        (torch.rand(2, 1, 30, 28), "30×28 px, this model takes 28×28; resize"),
        (torch.zeros(2, 1, 28, 28, dtype=torch.uint8), r"torch.uint8, expected float pixels in \[0, 1\]; pass x.float"),
        (torch.rand(2, 1, 28, 28) * 255, r"expected \[0, 1\]; divide by 255"),
        (torch.rand(2, 1, 28, 28) - 0.5, "the model normalises by itself"),
        (torch.full((2, 1, 28, 28), torch.nan), "NaN"),
    ],
)
def test_bad_images_are_refused_with_a_next_step(images, message):
    with pytest.raises(ValueError, match=message):
        zoo.create("bilinear_d64").eval()(images)


def test_the_loss_falls_on_real_structure():
    torch.manual_seed(0)
    model = BilinearClassifier(dim=16, num_classes=4, image_size=8)
    images = torch.rand(256, 1, 8, 8)
    labels = images.unfold(2, 4, 4).unfold(3, 4, 4).mean((1, 4, 5)).flatten(1).argmax(1)  # the brightest quadrant
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_one_graph_without_breaks():
    model = zoo.create("bilinear_d64", noise=0.1)
    explained = torch._dynamo.explain(model)(torch.rand(2, 1, 28, 28))
    assert explained.graph_break_count == 0
    explained = torch._dynamo.explain(model.eval())(torch.rand(2, 1, 28, 28))
    assert explained.graph_break_count == 0
