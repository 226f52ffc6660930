"""Damaged and hostile files at every door of a checkpoint: a model, or one ValueError or OSError that names the file.

A child process does the work under limits of address space and time, so that a crash, a hang and a flood are seen.
"""

import json
import sys

import pytest

from benchmarks import fuzz


@pytest.fixture(scope="module")
def explicit():
    """What became of every case that was thought of, by name."""
    return {row["case"]: row for row in fuzz.run(["--explicit"])}


def test_every_case_thought_of_is_refused_in_a_line_or_loads(explicit):
    wrong = {name: row["said"] for name, row in explicit.items() if row["outcome"] not in ("loaded", "refused")}
    assert not wrong
    assert len(explicit) > 60


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("config: dim=10**9", "too few for dim=1000000000"),
        ("config: depth=10**9", "too few for depth=1000000000"),
        ("config: depth=10**6", "far more tensors than the file"),
        ("config: dim is text", "takes no dim='64'; expected int"),
        ("config: a key twice", "a key is there twice"),
        ("config: 20 MB", "bytes, a config up to"),
        ("config: 100,000 lists", "is not a checkpoint's config"),
        ("header: 10**12 elements", "is not safetensors"),
        ("file: a FIFO", "model.safetensors is missing"),
        ("torch: compressed", "it is compressed"),
        ("torch: 10**12 elements of one", "more than the file holds of it"),
        ("convert: layer 999,999,999 of mae_vit_tiny", "names more layers than it has tensors"),
    ],
)
def test_what_is_said(explicit, case, message):
    assert explicit[case]["outcome"] == "refused"
    assert message in explicit[case]["said"]


def test_weights_that_are_nan_load_as_they_are(explicit):
    assert explicit["tensors: NaN"]["outcome"] == "loaded"


def test_random_damage_is_refused_in_a_line_or_loads():
    rows = fuzz.run(["--random", "1500", "--seed", "0"])
    assert len(rows) == 1500
    assert not [row for row in rows if row["outcome"] not in ("loaded", "refused")]


def test_a_crash_would_be_seen(tmp_path):
    """The harness itself: an exception from the depths is not taken for a refusal."""
    assert fuzz.attempt("case", lambda: [][1])["outcome"] == "crashed"
    assert fuzz.attempt("case", lambda: json.loads("{"))["outcome"] == "refused without the file's name"
    assert fuzz.attempt("case", lambda: sys.modules)["outcome"] == "loaded"
