"""InfoMEC's information terms against scikit-learn's, equal first: 10,000 samples, 6 sources, 12 latents."""

import argparse

import numpy as np
import torch
from sklearn.feature_selection import mutual_info_classif
from sklearn.metrics import mutual_info_score

from benchmarks import harness
from zoo.metrics.infomec import _information, _knn_information, _standard


def main(argv: list[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args(argv)
    g = torch.Generator().manual_seed(0)
    sources = torch.randint(10, (args.samples, 6), generator=g)
    codes = torch.cat([(sources + torch.randint(3, sources.shape, generator=g)) % 10, sources], 1)  # (N, 12)
    latents = _standard(codes + torch.randn(codes.shape, generator=g, dtype=torch.float64))

    def ours_discrete() -> torch.Tensor:
        return torch.stack([torch.stack([_information(s, z) for z in codes.T]) for s in sources.T])

    def theirs_discrete() -> np.ndarray:
        return np.array([[mutual_info_score(s, z) for z in codes.T.numpy()] for s in sources.T.numpy()])

    def ours_continuous() -> torch.Tensor:
        return torch.stack([_knn_information(latents, s, 10) for s in sources.T])

    def theirs_continuous() -> np.ndarray:
        x = latents.numpy()
        return np.array([mutual_info_classif(x, s, n_neighbors=10, random_state=0) for s in sources.T.numpy()])

    results = []
    for name, ours, theirs, exact in (
        ("discrete latents", ours_discrete, theirs_discrete, 1e-12),
        ("continuous latents", ours_continuous, theirs_continuous, 1e-3),
    ):
        assert np.abs(ours().numpy() - theirs()).max() < exact
        pairs = sources.shape[1] * codes.shape[1]

        def count(work, pairs=pairs) -> int:
            work()
            return pairs

        result = harness.compare(
            f"information, {name}", lambda o=ours: count(o), lambda t=theirs: count(t), args.repeats, target=10
        )
        results.append(result | {"unit": "pairs/s"})
    return results


if __name__ == "__main__":
    print(harness.table(main()))
