"""Import and load time, and a 2.5 GB checkpoint: time against reading the file, memory against its size."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import harness

IMPORT_TORCH = "import torch"
LOAD_EMBEDDED = "import zoo; zoo.load('bilinear_d256.mnist')"


def process_seconds(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start


def make_large(folder: Path, depth: int) -> int:
    """A checkpoint of many tensors, about 16.8 MB a layer; returns the bytes of its weights."""
    import torch

    import zoo

    model = zoo.create("bilinear_d512_l3", dim=1448, depth=depth)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_()
    zoo.save(model, folder)
    return (folder / "model.safetensors").stat().st_size


# Each in its own process: peak memory is a process's, and an allocator that has grown once is faster the next time.
CHILD = """
import json, re, time
import torch, safetensors, zoo, zoo.hub, zoo.families.bilinear.model
# The high-water mark of this program alone; getrusage would count the parent's from before the exec.
def peak(): return 1024 * int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])
before, t = peak(), time.perf_counter()
{body}
print(json.dumps({{"seconds": time.perf_counter() - t, "bytes": peak() - before}}))
"""


def child(body: str) -> dict[str, float]:
    done = subprocess.run([sys.executable, "-c", CHILD.format(body=body)], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def main(argv: list[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=149, help="of the large checkpoint; 149 make 2.5 GB")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args(argv)
    results = []

    torch_s, zoo_s = [], []
    for _ in range(args.repeats):
        torch_s.append(process_seconds(IMPORT_TORCH))
        zoo_s.append(process_seconds(LOAD_EMBEDDED))
    a, b = harness.median(torch_s), harness.median(zoo_s)
    results.append({"name": "import torch", "seconds": a})
    results.append(
        {"name": "zoo.load of an embedded checkpoint", "seconds": b, "over_import_torch": b - a, "target": 0.3}
    )

    with tempfile.TemporaryDirectory() as folder:
        size = make_large(Path(folder), args.layers)
        file = str(Path(folder) / "model.safetensors")
        read_body = (
            f"b, f, n = bytearray({size}), open({file!r}, 'rb', buffering=0), 0\n"
            f"while n < {size}: n += f.readinto(memoryview(b)[n:])"
        )
        load_body = f"model = zoo.load({folder!r})"
        use_body = load_body + "\nfor p in model.parameters(): p.sum()"
        runs = {"read": [], "load": [], "load and touch": []}
        for _ in range(args.repeats):
            for name, body in zip(runs, (read_body, load_body, use_body)):
                runs[name].append(child(body))
        seconds = {n: harness.median([r["seconds"] for r in v]) for n, v in runs.items()}
        memory = {n: max(r["bytes"] for r in v) / size for n, v in runs.items()}
    for name in runs:
        results.append(
            {
                "name": f"{size / 1e9:.2f} GB checkpoint: {name}",
                "seconds": seconds[name],
                "of_reading": seconds[name] / seconds["read"],
                "memory_of_size": memory[name],
            }
        )
    return results


if __name__ == "__main__":
    print(harness.table(main()))
