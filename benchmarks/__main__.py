"""What is measured, and kept.

python -m benchmarks [--record]                  every race, one after the other: `make bench`
python -m benchmarks NAME [--record] [FLAGS]     one benchmark; --help lists its flags
python -m benchmarks.pages                       the pages that show results, written again

--record keeps the figures in benchmarks/results/NAME.json, with machine, versions, commit, date, seeds and command, and
writes the pages again.
"""

import importlib
import sys
from pathlib import Path

from benchmarks import harness, pages

RACES = (
    "load",
    "loader",
    "shards",
    "train",
    "estimate",
    "mae",
    "videomae",
    "quantize",
    "vqvae",
    "infomec",
    "dcae",
    "rae",
)


def main(argv: list[str]) -> None:
    keep = "--record" in argv
    name, *flags = [word for word in argv if word != "--record"] or [""]
    if name and not Path(__file__).with_name(f"{name}.py").is_file():
        raise SystemExit(f"no benchmark {name!r}\n\n{__doc__}")
    results = []
    for each in (name,) if name else RACES:
        work = importlib.import_module(f"benchmarks.{each}").main
        if keep:
            record = harness.measure(each, work, flags)
            harness.write(record, harness.RESULTS / f"{each}.json")
            results += record["results"]
        else:
            results += work(flags)
    print(harness.table(results))
    if keep:
        pages.write()


if __name__ == "__main__":
    main(sys.argv[1:])
