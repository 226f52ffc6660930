"""The reproduce recipes: from nothing, on samples that ship, held against what five seeds came to."""

import json
import socket
import statistics

import pytest

from benchmarks import reproduce
from zoo import recipe, registry
from zoo.train.parse import parse

RESULT = json.loads(reproduce.RESULT.read_text(encoding="utf-8"))


def test_every_family_has_one():
    assert [f"{family}/reproduce" for family in sorted(registry.families())] == reproduce.NAMES


@pytest.mark.parametrize("name", reproduce.NAMES)
def test_it_expects_what_five_seeds_came_to(name):
    values = {row["seed"]: row["value"] for row in RESULT["results"] if row["recipe"] == name}
    expect = reproduce.expected(name)
    assert list(values) == [0, 1, 2, 3, 4]
    assert expect == RESULT["expect"][name]
    assert expect["range"] == [min(values.values()), max(values.values())]
    assert expect["value"] == pytest.approx(statistics.mean(values.values()), rel=1e-4)
    assert min(values.values()) < max(values.values())  # else no other seed would be within


@pytest.mark.parametrize("name", reproduce.NAMES)
def test_it_needs_nothing_that_does_not_ship(name, monkeypatch, tmp_path):
    def refuses(*_):
        raise AssertionError(f"{name} asks the network")

    monkeypatch.setattr(socket.socket, "connect", refuses)
    monkeypatch.setattr(socket, "getaddrinfo", refuses)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    built = parse(recipe.recipe_path(name), ["--trainer.default_root_dir", str(tmp_path)])
    assert built.config["model"].get("init_args", {}).get("weights") is None
    built.datamodule.setup("fit")
    built.datamodule.setup("test")
    samples = next(iter(built.datamodule.train_dataloader()))
    x, _ = built.datamodule.on_after_batch_transfer(samples, 0)
    assert x.shape[1:] == built.model.model.takes.shape
    assert list(tmp_path.iterdir()) == []


def test_a_figure_outside_fails(capsys):
    rows = {row["recipe"]: row for row in RESULT["results"] if row["seed"] == 0}
    assert reproduce.compare(list(rows.values())) == 0
    assert "outside" not in capsys.readouterr().out
    for name in rows:
        low, high = reproduce.expected(name)["range"]
        for value in (low - 1.01 * (high - low), high + 1.01 * (high - low)):
            assert reproduce.compare(list((rows | {name: rows[name] | {"value": value}}).values())) == 1
            (line,) = (line for line in capsys.readouterr().out.splitlines() if "outside" in line)
            assert line.startswith(name)


def test_what_is_expected_is_written_into_a_recipe_and_read_again(tmp_path):
    rows = [
        {"recipe": "bilinear/reproduce", "seed": seed, "metric": "test/acc", "value": value}
        for seed, value in enumerate((0.25, 0.75, 0.5))
    ]
    (expect,) = reproduce.ranges(rows).values()
    assert (expect["value"], expect["range"]) == (0.5, [0.25, 0.75])
    mine = recipe.copy_recipe("bilinear/reproduce", tmp_path / "mine.yaml")
    before = recipe.read_yaml(mine)
    reproduce.write_expect(mine, expect)
    assert recipe.read_yaml(mine) == before | {"expect": expect}
    mine.write_text("model: {}\n")
    with pytest.raises(ValueError, match="has 0 lines that begin with expect:"):
        reproduce.write_expect(mine, expect)


@pytest.mark.long
def test_a_recipe_is_reproduced_by_a_seed_that_its_range_does_not_know(tmp_path, capfd):
    assert reproduce.main(["--recipes", "bilinear/reproduce", "--runs", str(tmp_path)]) == 0
    assert "within" in capfd.readouterr().out
    measured = json.loads((tmp_path / "bilinear-reproduce-5" / "metrics.json").read_text())
    assert (measured["seed"], measured["expect"]) == (5, reproduce.expected("bilinear/reproduce"))
