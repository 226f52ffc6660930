"""`make bench`: every benchmark, and one table at the end."""

from benchmarks import harness, infomec, load, loader, mae, quantize, train, videomae, vqvae

if __name__ == "__main__":
    results = [r for module in (load, loader, train, mae, videomae, quantize, vqvae, infomec) for r in module.main([])]
    print(harness.table(results))
