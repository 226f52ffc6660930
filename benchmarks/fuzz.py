"""Damaged and hostile checkpoints at every door: how many load, are refused in a line, or crash; time and memory.

`python -m benchmarks.fuzz --cases 20000 --seed 0`. Files are damaged with config.json vouching for the new bytes, so
that the parsers behind the hash are reached.
"""

import argparse
import copy
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import harness

MEMORY = 6 << 30  # bytes of address space, torch's own libraries included
SECONDS = 10  # of one case


def attempt(name: str, work: Callable[[], Any], place: str = "case") -> dict[str, Any]:
    """Do it and say what became of it."""
    start, said = time.perf_counter(), ""
    try:
        work()
        outcome = "loaded"
    except (ValueError, OSError) as error:
        said = str(error)
        outcome = "refused" if place in said else "refused without the file's name"
    except Exception as error:
        outcome, said = "crashed", f"{type(error).__name__}: {error}"
    return {"case": name, "outcome": outcome, "said": said[:500], "seconds": time.perf_counter() - start}


def run(argv: list[str]) -> list[dict[str, Any]]:
    """Cases in a child under limits; one row each. A child that dies or hangs adds a row that says so."""
    command = [sys.executable, "-m", "benchmarks.fuzz", "--child", *argv]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=1800)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode:
        rows.append({"case": "child", "outcome": "died", "said": done.stderr[-1000:], "seconds": 0.0})
    return rows


class Folder:
    """A small checkpoint to damage, written anew for each case."""

    def __init__(self, root: Path):
        import zoo

        self.path = root / "case"
        zoo.save(zoo.create("bilinear_d64", dim=8, image_size=4), self.path)
        self.config = json.loads((self.path / "config.json").read_text())
        self.weights = (self.path / "model.safetensors").read_bytes()
        length = int.from_bytes(self.weights[:8], "little")
        self.header, self.data = json.loads(self.weights[8 : 8 + length]), self.weights[8 + length :]

    def write(self, config: Any = None, weights: bytes | None = None, text: bytes | None = None) -> None:
        """Config and weights, the config vouching for the weights, unless `text` is the whole config."""
        from hashlib import sha256

        weights = self.weights if weights is None else weights
        for name in ("config.json", "model.safetensors"):
            (self.path / name).unlink(missing_ok=True)
        (self.path / "model.safetensors").write_bytes(weights)
        config = copy.deepcopy(self.config) if config is None else config
        if isinstance(config, dict) and isinstance(config.get("weights"), dict) and "kept" not in config:
            config["weights"] |= {"sha256": sha256(weights).hexdigest(), "size": len(weights)}
        (self.path / "config.json").write_bytes(json.dumps(config).encode() if text is None else text)

    def pack(self, header: Any, data: bytes | None = None) -> bytes:
        """A safetensors file of a header, as JSON or as bytes."""
        head = header if isinstance(header, bytes) else json.dumps(header).encode()
        return len(head).to_bytes(8, "little") + head + (self.data if data is None else data)


def explicit(root: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Every case that was thought of: name, and what to try once it is written."""
    import torch

    import zoo
    from zoo.data.latents import LatentData

    folder = Folder(root)
    path, place = folder.path, str(folder.path)

    def load() -> Any:
        return zoo.load(place)

    def args(**changes: Any) -> dict:
        return copy.deepcopy(folder.config) | {"args": folder.config["args"] | changes}

    big = 10**9
    configs = {
        "dim=10**9": args(dim=big),
        "depth=10**9": args(depth=big),
        "depth=10**6": args(depth=10**6),
        "image_size=10**9": args(image_size=[big, big]),
        "num_classes=10**6": args(num_classes=10**6),
        "dim=10**400": args(dim=10**400),
        "dim is text": args(dim="64"),
        "dim is true": args(dim=True),
        "dim is null": args(dim=None),
        "dim=0": args(dim=0),
        "dim=-8": args(dim=-8),
        "dim=NaN": args(dim=float("nan")),
        "image_size of three": args(image_size=[4, 4, 4]),
        "image_size nested": args(image_size=[[4], 4]),
        "noise is a list": args(noise=[1]),
        "residual is text": args(residual="yes"),
        "an unknown argument": args(evil=1),
        "args a list": folder.config | {"args": []},
        "arch a number": folder.config | {"arch": 5},
        "arch unknown": folder.config | {"arch": "../../x"},
        "classes a number": folder.config | {"classes": 5},
        "classes of numbers": folder.config | {"classes": [1, 2]},
        "name a list": folder.config | {"name": ["a"]},
        "input null": folder.config | {"input": None},
        "weights a list": folder.config | {"weights": []},
        "sha256 a number": folder.config | {"weights": folder.config["weights"] | {"sha256": 1}, "kept": 1},
        "size a text": folder.config | {"weights": folder.config["weights"] | {"size": "1"}, "kept": 1},
        "a list": [],
        "null": None.__class__,
        **{
            f"file {file!r}": folder.config | {"weights": {"file": file, "sha256": "0", "size": 1}}
            for file in ("../../etc/passwd", "/etc/passwd", "a\0b", ".", "x" * 5000, "\udcff", "..\\x", "")
        },
    }  # fmt: skip
    for name, config in configs.items():
        if config is type(None):
            folder.write(text=b"null")
        else:
            folder.write(config)
        yield f"config: {name}", load
    whole = json.dumps(folder.config).encode()
    texts = {
        "a key twice": whole[:-1] + b', "arch": "mae_vit_tiny"}',
        "20 MB": whole[:-1] + b', "x": "' + b"x" * 20_000_000 + b'"}',
        "100,000 lists": b"[" * 100_000,
        "100,000 objects": b'{"a":' * 100_000,
        "not UTF-8": b"\xff\xfe" + whole,
        "empty": b"",
        "cut": whole[:50],
        "a number of a million digits": whole[:-1] + b', "x": ' + b"9" * 1_000_000 + b"}",
    }
    for name, text in texts.items():
        folder.write(text=text)
        yield f"config: {name}", load

    first, *_ = (k for k in folder.header if k != "__metadata__")

    def header(**changes: Any) -> dict:
        return folder.header | {first: folder.header[first] | changes}

    end, size = len(folder.data), len(json.dumps(folder.header))
    files = {
        "header: empty file": b"",
        "header: 7 bytes": folder.weights[:7],
        "header: length 0": bytes(8) + folder.weights[8:],
        "header: length 2**63": (2**63).to_bytes(8, "little") + folder.weights[8:],
        "header: length beyond the file": (len(folder.weights) + 1).to_bytes(8, "little") + folder.weights[8:],
        "header: 10**12 elements": folder.pack(header(shape=[10**6, 10**6])),
        "header: shape overflows": folder.pack(header(shape=[2**62, 8, 2**62])),
        "header: a negative side": folder.pack(header(shape=[-1, 16])),
        "header: offsets beyond": folder.pack(header(data_offsets=[0, end + 400])),
        "header: offsets turned": folder.pack(header(data_offsets=[400, 0])),
        "header: offsets negative": folder.pack(header(data_offsets=[-4, 508])),
        "header: offsets overlap": folder.pack(
            {k: v if k == "__metadata__" else v | {"data_offsets": [0, v["data_offsets"][1] - v["data_offsets"][0]]}
             for k, v in folder.header.items()}
        ),
        "header: dtype lies": folder.pack(header(dtype="F64")),
        "header: dtype unknown": folder.pack(header(dtype="F128")),
        "header: dtype of 4 bits": folder.pack(header(dtype="F4", shape=[1, 1024])),
        "header: integers": folder.pack(header(dtype="I32")),
        "header: complex": folder.pack(header(dtype="C64")),
        "header: a name twice": folder.pack(
            f'{json.dumps(folder.header)[:-1]}, "{first}": {json.dumps(folder.header[first])}}}'.encode()
        ),
        "header: 100,000 lists": folder.pack(b"[" * 100_000),
        "header: not UTF-8": folder.pack(b"\xff" * size),
        "header: a list": folder.pack([]),
        "header: metadata of numbers": folder.pack(folder.header | {"__metadata__": {"a": 1}}),
        "tensors: NaN": folder.pack(folder.header, b"\xff" * end),
        "tensors: more bytes": folder.weights + bytes(64),
        "tensors: cut": folder.weights[:-8],
    }  # fmt: skip
    for name, data in files.items():
        folder.write(weights=data)
        yield name, load
        (root / "case.safetensors").write_bytes(data)
        yield f"convert, {name}", lambda: zoo.convert(root / "case.safetensors", "bilinear_d64", image_size=4)

    weights = path / "model.safetensors"

    def replace(make: Callable[[], Any]) -> None:
        folder.write()
        weights.unlink()
        make()

    for name, make in {
        "a FIFO": lambda: os.mkfifo(weights),
        "a directory": weights.mkdir,
        "a link to itself": lambda: weights.symlink_to(weights),
        "a link to /etc/passwd": lambda: weights.symlink_to("/etc/passwd"),
        "a link to /dev/zero": lambda: weights.symlink_to("/dev/zero"),
    }.items():
        replace(make)
        yield f"file: {name}", load
        yield f"convert, file: {name}", lambda: zoo.convert(path, "bilinear_d64")
        if weights.is_dir() and not weights.is_symlink():
            weights.rmdir()
    folder.write()

    file, state = root / "case.ckpt", zoo.load(place).state_dict()
    made = {"arch": "bilinear_d64", "args": folder.config["args"]}
    named = {f"model.{k}": v for k, v in state.items()}
    checkpoints = {
        "good": {"zoo": made, "state_dict": named},
        "a tensor": torch.zeros(3),
        "a list": [1],
        "no state": {"zoo": made},
        "zoo a list": {"zoo": [], "state_dict": named},
        "args of numbers": {"zoo": made | {"args": {1: 2}}, "state_dict": named},
        "names are numbers": {"zoo": made, "state_dict": dict(enumerate(state.values()))},
        "10**12 elements of one": {
            "zoo": made | {"args": {"dim": 10**6, "image_size": 1000}},
            "state_dict": named | {"model.embed.weight": torch.zeros(1).expand(10**6, 10**6)},
        },
        "sparse": {"zoo": made, "state_dict": {k: v.to_sparse() for k, v in named.items()}},
        "meta": {"zoo": made, "state_dict": {k: v.to("meta") for k, v in named.items()}},
        "depth=10**9": {"zoo": made | {"args": {"depth": big}}, "state_dict": named},
    }
    for name, checkpoint in checkpoints.items():
        torch.save(checkpoint, file)
        yield f"torch: {name}", lambda: zoo.load(str(file))
        yield f"convert, torch: {name}", lambda: zoo.convert(file, "bilinear_d64", image_size=4)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(200_000_000))
    yield "torch: compressed", lambda: zoo.load(str(file))
    for name, data in {"empty": b"", "a magic alone": b"PK\3\4", "text": b"x" * 100, "old": b"\x80\x02."}.items():
        file.write_bytes(data)
        yield f"torch: {name}", lambda: zoo.load(str(file))
    file.unlink()
    os.mkfifo(file)
    yield "torch: a FIFO", lambda: zoo.load(str(file))
    for arch in ("mae_vit_tiny", "dcae_tiny_f8c4", "vqgan_f16", "videomae_vit_tiny", "ditdh_tiny", "vqvae_conv_small"):
        for name in ("encoder.stages.{}.blocks.0.norm.weight", "decoder.up.{}.block.0.conv1.weight", "blocks.{}.q"):
            foreign = {name.format(999_999_999): torch.zeros(1)}
            torch.save(foreign, root / "case.pt")
            yield f"convert: layer 999,999,999 of {arch}", lambda arch=arch: zoo.convert(root / "case.pt", arch)

    fieldless = b'{"format": "latentzoo latents 1"}'
    for name, text in {"deep": b"[" * 100_000, "a list": b"[]", "empty": b"", "no fields": fieldless}.items():
        (path / "config.json").write_bytes(text)
        yield f"latents: {name}", lambda: LatentData(place)


def damaged(root: Path, count: int, seed: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Random damage of the weights, their header or the config, through zoo.load or zoo.convert."""
    import zoo

    folder, draw = Folder(root), random.Random(seed)
    whole, head = json.dumps(folder.config).encode(), len(folder.weights) - len(folder.data)
    values = [None, True, -1, 0, 2**31, 2**63, 1e308, "", "x", [], {}, [[]], "../x", float("nan")]

    def corrupt(data: bytes, within: int) -> bytes:
        out = bytearray(data)
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(max(1, min(within, len(out))))
            match draw.randrange(4):
                case 0:
                    out[at : at + 1] = bytes([draw.randrange(256)])
                case 1:
                    del out[at:]
                case 2:
                    out[at:at] = bytes(out[at : at + draw.randrange(1, 30)])
                case 3:
                    out[at : at + 8] = draw.choice([0, 1, 2**31, 2**63, 2**64 - 1]).to_bytes(8, "little")
        return bytes(out)

    def change(value: Any) -> Any:
        if isinstance(value, dict) and value and draw.random() < 0.8:
            key = draw.choice(list(value))
            return value | {key: change(value[key])}
        return draw.choice(values)

    for n in range(count):
        match draw.randrange(5):
            case 0:
                folder.write(weights=corrupt(folder.weights, head))
            case 1:
                folder.write(weights=corrupt(folder.weights, len(folder.weights)))
            case 2:
                folder.write(text=corrupt(whole, len(whole)))
            case 3:
                folder.write(change(copy.deepcopy(folder.config)))
            case 4:
                folder.write(weights=folder.pack(change(folder.header)))
        if draw.random() < 0.7:
            yield f"load {n}", lambda: zoo.load(str(folder.path))
        else:
            yield f"convert {n}", lambda: zoo.convert(folder.path, "bilinear_d64", image_size=4)


def child(cases: Iterator[tuple[str, Callable[[], Any]]]) -> None:
    """Rows on stdout; the alarm ends a case that hangs, and with it the process."""
    import signal

    import torch  # noqa: F401, what it maps by itself is not counted against a case

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for name, work in cases:
        signal.alarm(2 * SECONDS)
        print(json.dumps(attempt(name, work)), flush=True)
        signal.alarm(0)
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(peak, file=sys.stderr)


def main(argv: list[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000, help="of random damage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--explicit", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--random", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        with tempfile.TemporaryDirectory() as root:
            child(explicit(Path(root)) if args.explicit else damaged(Path(root), args.random, args.seed))
        return []
    results = []
    for name, given in (
        ("cases thought of", ["--explicit"]),
        (f"random damage, seed {args.seed}", ["--random", str(args.cases), "--seed", str(args.seed)]),
    ):
        rows = run(given)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024  # MB, of the larger child so far
        outcomes = Counter(row["outcome"] for row in rows)
        slowest = max(row["seconds"] for row in rows)
        told = {"refused": outcomes["refused"], "loaded": outcomes["loaded"]}
        told["failed"] = len(rows) - sum(told.values())  # crashed, died, or refused without saying what
        results.append({"name": name, "cases": len(rows), **told, "slowest_s": slowest, "peak_MB": peak})
    return results


if __name__ == "__main__":
    if results := main():
        print(harness.table(results))
