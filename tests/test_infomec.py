"""InfoMEC: against scikit-learn term by term, the ideal and the hopeless case, and every case without an answer."""

import math

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from zoo.metrics.infomec import DEFINITIONS, infomec


def drawn(n: int = 1500) -> tuple[torch.Tensor, torch.Tensor]:
    """Sources of 3, 4 and 6 classes, unevenly used, and four latents that know some of them."""
    g = torch.Generator().manual_seed(0)
    sources = torch.stack([(torch.rand(n, generator=g) ** 2 * c).long() for c in (3, 4, 6)], 1)
    noise = torch.randn(n, 4, generator=g)
    latents = torch.stack([sources[:, 0], sources[:, 1] - sources[:, 2], sources[:, 2] ** 2 / 6, 0 * sources[:, 0]], 1)
    return latents + 0.4 * noise, sources


@pytest.mark.long
def test_discrete_information_is_scikit_learns():
    from sklearn.metrics import mutual_info_score

    latents, sources = drawn()
    codes = latents.round().long()
    nmi = infomec(codes, sources, discrete=True).nmi
    for i, s in enumerate(sources.T.numpy()):
        for j, z in enumerate(codes.T.numpy()):
            assert abs(nmi[i, j] - mutual_info_score(s, z) / mutual_info_score(s, s)) < 1e-12


@pytest.mark.long
@pytest.mark.parametrize("definition", DEFINITIONS)
def test_continuous_information_is_scikit_learns(definition):
    from sklearn.feature_selection import mutual_info_classif
    from sklearn.metrics import mutual_info_score

    latents, sources = drawn()
    latents = latents.double()
    nmi = infomec(latents, sources, discrete=False, definition=definition).nmi
    for i, s in enumerate(sources.T.numpy()):
        mi = mutual_info_classif(latents.numpy(), s, n_neighbors=DEFINITIONS[definition].neighbours, random_state=0)
        assert np.abs(nmi[i].numpy() - mi / mutual_info_score(s, s)).max() < 1e-9


def levels(count: int, told: float, n: int = 2000) -> tuple[torch.Tensor, torch.Tensor]:
    """A latent of so many values, and a source of 4 classes that it tells in a share of the samples."""
    g = torch.Generator().manual_seed(count)
    source = torch.randint(4, (n,), generator=g)
    value = torch.where(torch.rand(n, generator=g) < told, source * count // 4, torch.randint(count, (n,), generator=g))
    return (value / count).double()[:, None], source[:, None]


@pytest.mark.long
@pytest.mark.parametrize("told", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("count", [2, 8, 100])
def test_repeated_values_keep_their_information(count, told):
    from sklearn.feature_selection import mutual_info_classif
    from sklearn.metrics import mutual_info_score

    latents, source = levels(count, told)
    found = infomec(latents, source, discrete=False).nmi.item()
    entropy = mutual_info_score(source[:, 0], source[:, 0])
    expected = mutual_info_classif(latents.numpy(), source[:, 0].numpy(), n_neighbors=10, random_state=0).item()
    assert abs(found * entropy - expected) < 1e-9  # nats


def test_continuous_codes_of_the_sources_are_perfect():
    g = torch.Generator().manual_seed(0)
    sources = torch.randint(5, (4000, 3), generator=g)
    assert min(infomec(sources.double(), sources, discrete=False)[:3]) > 0.98


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounded_latents_score_as_they_did(dtype):
    latents, sources = drawn(4000)
    latents = latents[:, :3]
    exact, rounded = (infomec(z, sources, discrete=False) for z in (latents, latents.to(dtype)))
    assert abs(exact.infom - rounded.infom) < 0.02
    assert abs(exact.infoc - rounded.infoc) < 0.02


def test_a_latent_far_from_zero_keeps_its_information():
    latents, sources = drawn()
    near, far = (infomec(z, sources, discrete=False) for z in (latents.double(), latents.double() + 100))
    assert (near.nmi - far.nmi).abs().max() < 1e-3


class Placed(TorchFunctionMode):
    """Refuses tensors that are made on no device in particular: beside latents on a GPU these lie elsewhere."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        made = (torch.arange, torch.empty, torch.full, torch.ones, torch.tensor, torch.zeros)
        assert func not in made or "device" in (kwargs or {}), func.__name__
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("discrete", [True, False])
def test_everything_is_made_where_the_latents_lie(discrete):
    latents, sources = drawn(200)
    with Placed():
        infomec(latents.round().long() if discrete else latents, sources, discrete)


@pytest.mark.long
@pytest.mark.parametrize("discrete", [True, False])
def test_explicitness_is_a_logistic_regressions(discrete):
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    latents, sources = drawn()
    x = latents.round().long() if discrete else latents
    scores = infomec(x, sources, discrete)
    if discrete:
        columns = [np.eye(int(z.max()) + 1)[z] for z in (c.unique(return_inverse=True)[1].numpy() for c in x.T)]
        features = np.concatenate(columns, 1)
    else:
        features = ((x - x.mean(0)) / x.std(0, correction=0)).numpy()
    expected = []
    for s in sources.T.numpy():
        fitted = LogisticRegression(C=np.inf, class_weight="balanced", max_iter=1000, tol=1e-6).fit(features, s)
        expected.append(1 - log_loss(s, fitted.predict_proba(features)) / math.log(len(np.unique(s))))
    assert abs(scores.infoe - np.mean(expected)) < 1e-3


def test_a_permutation_is_perfect_and_noise_is_not():
    g = torch.Generator().manual_seed(0)
    sources = torch.randint(5, (3000, 3), generator=g)
    perfect = infomec((4 - sources)[:, [2, 0, 1]], sources, discrete=True)
    assert min(perfect[:3]) > 0.99
    noise = infomec(torch.randint(5, (3000, 3), generator=g), sources, discrete=True)
    assert abs(noise.infoe) < 0.01
    assert noise.nmi.max() < 0.01


def test_scores_follow_their_definition():
    latents, sources = drawn()
    scores = infomec(latents[:, :3].round().long(), sources, discrete=True)
    assert scores.active.tolist() == [True, True, True]
    nmi = scores.nmi.numpy()
    infom = ((nmi.max(0) / nmi.sum(0)).mean() - 1 / 3) / (1 - 1 / 3)
    infoc = ((nmi.max(1) / nmi.sum(1)).mean() - 1 / 3) / (1 - 1 / 3)
    assert abs(scores.infom - infom) < 1e-9
    assert abs(scores.infoc - infoc) < 1e-9


def test_active_latents_depend_on_the_definition():
    _, sources = drawn()
    g = torch.Generator().manual_seed(0)
    latents = torch.randn(1500, 3, generator=g) * torch.tensor([1.0, 0.08, 0.01])
    active = {d: infomec(latents, sources, discrete=False, definition=d).active.tolist() for d in DEFINITIONS}
    assert active == {
        "standalone": [True, True, False],
        "training": [True, False, False],
        "tripod": [True, False, False],
    }


def test_cases_without_an_answer_are_defined():
    _, sources = drawn()
    constant = infomec(torch.zeros(1500, 4, dtype=torch.int64), sources, discrete=True)
    assert (constant.infom, constant.infoc) == (0, 0)
    assert not constant.active.any()
    assert abs(constant.infoe) < 0.7  # balanced, the constant predictor is uniform
    one = infomec(sources[:, :1], sources, discrete=True)
    assert one.infoc == 1
    alone = infomec(sources, sources[:, :1], discrete=True)
    assert alone.infom == 1
    half = torch.stack([sources[:, 0], torch.arange(1500) % 2], 1)
    assert all(math.isfinite(v) for v in infomec(half, torch.stack([sources[:, 0], 0 * sources[:, 0]], 1), True)[:3])


@pytest.mark.parametrize(
    ("latents", "sources", "args", "message"),
    [
        (torch.rand(50, 2), torch.rand(50, 2), {}, "expected classes, int64"),
        (torch.rand(50, 2), torch.zeros(50, 2).long(), {}, "one class only"),
        (torch.rand(50, 2), torch.zeros(40, 2).long(), {}, r"expected \(N, L\) and \(N, S\)"),
        (torch.full((50, 2), math.nan), torch.zeros(50, 2).long(), {}, "NaN or infinity"),
        (torch.rand(9, 2), torch.zeros(9, 2).long(), {}, "9 samples, needed are more than 10"),
        (torch.rand(50, 2), torch.zeros(50, 2).long(), {"definition": "paper"}, "allowed standalone, training, tripod"),
    ],
)
def test_bad_input_is_refused_with_its_message(latents, sources, args, message):
    with pytest.raises(ValueError, match=message):
        infomec(latents, sources, False, **args)
