"""Ours and theirs by turns in one run, medians, their ratio, the machine: speeds compare in no other way."""

import json
import os
import platform
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


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


def spread(values: list[float], digits: int = 1, unit: str = "") -> str:
    """The mean, and the range where there are several."""
    mean = f"{statistics.mean(values):.{digits}f}{unit}" if values else ""
    return mean if len(values) < 2 else f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import torch

    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.is_file() else []
    cpu = names[0] if names else platform.processor()
    return {
        "cpu": cpu,
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def memory(key: str = "VmHWM") -> int:
    """Bytes of this process: the most that it has held, or held now by "VmRSS"."""
    return 1024 * int(re.search(rf"{key}:\s*(\d+) kB", Path("/proc/self/status").read_text())[1])


def write(results: list[dict[str, Any]], path: Path) -> None:
    """Results and machine as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine(), "results": results}, indent=2) + "\n")
    print(table(results))


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
