"""Ours and theirs by turns in one run, medians, their ratio: speeds compare in no other way. And what keeps results."""

import json
import os
import platform
import re
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
UNITS = {  # of figures by their key; a row's own "unit" is that of "ours" and "theirs"
    **dict.fromkeys(("ratio", "ratio_range"), "ours over theirs"),
    **dict.fromkeys(("accuracy", "pooled", "whole", "share", "detail"), "share"),
    **dict.fromkeys(("psnr", "psnr 64", "psnr 128"), "dB"),
    **dict.fromkeys(("seconds", "slowest_s", "import_torch_s"), "s"),
    **dict.fromkeys(("estimate_gb", "measured_gb", "whole_gb", "tiled_gb", "ours_peak_gb", "theirs_peak_gb"), "GB"),
    **dict.fromkeys(("state_gb", "activations_gb", "again_gb"), "GB"),
    "peak_MB": "MB",
    "gflop_an_image": "GFLOP",
    "gflop_per_second": "GFLOP/s",
    "images_per_second": "images/s",
    **dict.fromkeys(("of_reading", "memory_of_size"), "of reading the file"),
}
PEERS = {  # module -> distribution whose version a record states, where it was imported
    **{name: name for name in ("torch", "torchvision", "lightning", "timm", "transformers", "diffusers", "lightly")},
    "sklearn": "scikit-learn",
    "vector_quantize_pytorch": "vector-quantize-pytorch",
    "webdataset": "webdataset",
}


def compare(
    name: str, ours: Callable[[], int], theirs: Callable[[], int], repeats: int = 5, **facts: Any
) -> dict[str, Any]:
    """Run both by turns; each returns how many items it did. One round of each comes first, uncounted.

    Returns:
        Items a second of each (median), and `ratio`, ours over theirs (median of the rounds' ratios).
    """
    rates: dict[str, list[float]] = {"ours": [], "theirs": []}
    for round_ in range(repeats + 1):
        for who, work in (("ours", ours), ("theirs", theirs)):
            start = time.perf_counter()
            items = work()
            if round_:
                rates[who].append(items / (time.perf_counter() - start))
    ratios = [a / b for a, b in zip(rates["ours"], rates["theirs"])]
    return {
        "name": name,
        "ours": median(rates["ours"]),
        "theirs": median(rates["theirs"]),
        "ratio": median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "unit": "images/s",
        **facts,
    }


def median(values: list[float]) -> float:
    return statistics.median(values)


def machine() -> dict[str, Any]:
    """What the figures were measured on; `load` is the mean of processes that ran or waited when they began."""
    import torch

    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.is_file() else []
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def versions() -> dict[str, str]:
    """Of Python and of whatever was raced or raced with, as far as it was imported."""
    found = {dist: metadata.version(dist) for module, dist in PEERS.items() if module in sys.modules}
    return {"python": platform.python_version(), **found}


def memory(key: str = "VmHWM") -> int:
    """Bytes of this process: the most that it has held, or held now by "VmRSS"."""
    return 1024 * int(re.search(rf"{key}:\s*(\d+) kB", Path("/proc/self/status").read_text())[1])


def commit() -> str | None:
    """Of this checkout, with -dirty where files differ."""
    from zoo.train import fit  # here: Lightning comes along, and the children of `fuzz` count their memory

    return fit.commit()


def measure(name: str, work: Callable[[list[str]], list[dict[str, Any]]], flags: list[str]) -> dict[str, Any]:
    """The record of one benchmark: what it measured, how, where, with what.

    Raises:
        SystemExit: the checkout differs from its commit, so that nobody could measure the same again.
    """
    import torch

    at = commit()
    if at is None or at.endswith("-dirty"):
        raise SystemExit("files differ from the last commit: commit them, then measure")
    torch.manual_seed(0)
    told = {
        "command": shlex.join(["python", "-m", "benchmarks", name, *flags]),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": at,
        "machine": machine(),
    }
    results = work(flags)
    keys = {key for row in results for key in row}
    return told | {
        "versions": versions(),
        "seeds": sorted({row["seed"] for row in results if "seed" in row}) or [0],
        "units": {key: unit for key, unit in UNITS.items() if key in keys},
        "results": results,
    }


def write(record: dict[str, Any], path: Path) -> None:
    """A record as JSON, a row of results a line."""
    rows = ",\n".join(f"    {json.dumps(row, ensure_ascii=False)}" for row in record["results"])
    head = json.dumps({key: value for key, value in record.items() if key != "results"}, indent=2, ensure_ascii=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{head[:-2]},\n  "results": [\n{rows}\n  ]\n}}\n', encoding="utf-8")


class Kept:
    """Rows of a benchmark that takes long, in a file as they come: a second call goes on with what is missing.

    Args:
        path: of the file.
        settings: what all rows have in common; rows of other settings, or of another commit, are measured again.
    """

    def __init__(self, path: Path, settings: dict[str, Any]):
        self.path, self.head = path, {"commit": commit(), **settings}
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        self.rows: list[dict[str, Any]] = found["rows"] if found.get("head") == self.head else []

    def lacks(self, **key: Any) -> bool:
        return not self.where(**key)

    def where(self, **key: Any) -> list[dict[str, Any]]:
        """The rows that have all of these values."""
        return where(self.rows, **key)

    def add(self, **row: Any) -> None:
        self.rows.append({"name": " ".join(map(str, [v for v in row.values() if not isinstance(v, float)])), **row})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps({"head": self.head, "rows": self.rows}, ensure_ascii=False) + "\n")
        print(table(self.rows[-1:]), flush=True)


def where(rows: Sequence[dict[str, Any]], **key: Any) -> list[dict[str, Any]]:
    """The rows that have all of these values."""
    return [row for row in rows if all(row.get(k) == v for k, v in key.items())]


def table(results: list[dict[str, Any]]) -> str:
    """One line a result."""

    def show(value: Any) -> str:
        return (
            f"{value:,.0f}"
            if isinstance(value, float) and value > 100
            else f"{value:.3g}"
            if isinstance(value, float)
            else str(value)
        )

    return "\n".join(
        f"{r['name']:<58} "
        + "  ".join(f"{k} {show(v)}" for k, v in r.items() if k not in ("name", "ratio_range", "unit"))
        for r in results
    )
