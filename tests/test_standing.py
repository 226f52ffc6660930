"""`zoo verify --eval`: whether a published figure stands, and within which interval."""

import dataclasses

import pytest

import zoo
from zoo import cli
from zoo.registry import Metric
from zoo.report import standing

NAME = "bilinear_d256.mnist"


def metric(name, value, unit="", protocol="`zoo eval`", **more):
    return Metric(name, value, unit, "some images", protocol, **more)


SHARE = {"accuracy": 0.973, "accuracy_interval": [0.961, 0.981], "images": 1000}


@pytest.mark.parametrize(
    ("published", "figures", "stands", "interval"),
    [
        (metric("accuracy", 97.73, "%"), SHARE, True, "Wilson's 95 % interval of 1,000 samples"),
        (metric("accuracy", 98.2, "%"), SHARE, False, "Wilson's 95 % interval of 1,000 samples"),
        (metric("accuracy_15", 97.0, "%"), {"accuracy_15": 0.975, "images": 1000}, True, "Wilson's 95 % interval of 1"),
        (metric("accuracy_15", 99.0, "%"), {"accuracy_15": 0.975, "images": 1000}, False, "Wilson's 95 % interval of"),
        (metric("knn_accuracy", 50.0, "%"), {"knn": 0.5, "knn_interval": [0.4, 0.6]}, True, "Wilson's 95 % interval"),
        (metric("usage", 100, "%"), {"usage": 0.97, "images": 9}, False, "the last printed digit"),
        (metric("psnr", 23.72, "dB"), {"psnr": 23.7299}, True, "the last printed digit"),
        (metric("psnr", 23.72, "dB"), {"psnr": 23.7301}, False, "the last printed digit"),
        (metric("psnr", 25.64, "dB", "psnr_of_mse of `zoo eval`"), {"psnr": 26.0, "psnr_of_mse": 25.64}, True, "the l"),
        (metric("rank", 21.0), {"rank": 21.9}, True, "the last printed digit"),
        (metric("psnr", 23.72, "dB", interval=[23.0, 24.0]), {"psnr": 23.1}, True, "its published interval"),
        (metric("psnr", 23.72, "dB", interval=[23.0, 24.0]), {"psnr": 22.9}, False, "its published interval"),
    ],
)
def test_a_figure_stands_within_its_interval_or_does_not(published, figures, stands, interval):
    (verdict,) = standing.compare([published], figures)
    assert verdict.stands == stands
    assert verdict.interval.startswith(interval)


def test_what_is_not_measured_is_no_figure_that_stands(capsys, monkeypatch):
    (verdict,) = standing.compare([metric("read_as_asked", 87.6, "%")], SHARE | {"read_as_asked": None})
    assert verdict.measured is None
    monkeypatch.setattr(standing, "published", lambda name: (metric("read_as_asked", 87.6, "%"),))
    assert cli.main(["verify", NAME, "--eval", "samples/mnist"]) == 2
    assert "zoo eval measures nothing of what is published, read_as_asked" in capsys.readouterr().err


def test_verify_says_of_each_published_figure_whether_it_stands(capsys, monkeypatch):
    assert cli.main(["verify", NAME, "--eval", "samples/mnist"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(zoo.weights_info(NAME).metrics)
    assert (
        "accuracy 97.73 % on MNIST test: 97.3 on samples/mnist, test, stands within Wilson's 95 % interval" in lines[1]
    )

    first, *others = zoo.weights_info(NAME).metrics
    better = dataclasses.replace(first, value=99.9), *others
    monkeypatch.setattr(standing, "published", lambda name: better)
    assert cli.main(["verify", NAME, "--eval", "samples/mnist"]) == 1
    assert "97.3 on samples/mnist, test, does not stand within Wilson's" in capsys.readouterr().out


def test_a_folder_is_held_against_the_figures_that_it_publishes(capsys, tmp_path):
    claimed = (Metric("accuracy", 97.3, "%", "MNIST", "once"), Metric("loss", 0.5, "", "MNIST", "once"))
    folder = zoo.save(zoo.load(NAME), tmp_path / "folder", claimed)
    assert cli.main(["verify", str(folder), "--eval", "samples/mnist"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [("does not stand" in line) for line in lines] == [False, False, True]


def test_figures_are_measured_on_what_they_were_published_on():
    assert standing.source(NAME, standing.published(NAME)) == "ylecun/mnist"
    name = "mae_vit_tiny.tiny_imagenet"  # trained on one set, measured on another
    assert standing.source(name, standing.published(name)) == "samples/sprites"
    with pytest.raises(ValueError, match="no figures of"):
        standing.published("vqgan_f16.amused_256")


@pytest.mark.parametrize("argv", [["--eval", NAME], ["--all", "--eval"], [NAME, "--all"]])
def test_flags_that_name_nothing_or_too_much_are_refused(argv, capsys):
    assert cli.main(["verify", *argv]) == 2
    assert "zoo verify" in capsys.readouterr().err.partition(": ")[2]
