"""`make bench`: every benchmark, and one table at the end."""

from benchmarks import (
    dcae,
    estimate,
    harness,
    infomec,
    load,
    loader,
    mae,
    quantize,
    rae,
    shards,
    train,
    videomae,
    vqvae,
)

if __name__ == "__main__":
    modules = (load, loader, shards, train, estimate, mae, videomae, quantize, vqvae, infomec, dcae, rae)
    results = [r for module in modules for r in module.main([])]
    print(harness.table(results))
