"""Whether published figures stand: the evaluation is run again, and each is held against its interval."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from zoo import registry
from zoo.hub.places import open_source
from zoo.metrics.intervals import wilson
from zoo.registry import Metric
from zoo.report.figures import evaluate

SHARES = ("accuracy", "top5", "knn")  # how names of figures begin that are shares of the samples
KEYS = {"linear_probe_accuracy": "linear", "knn_accuracy": "knn"}  # published name -> its name in `zoo eval`


class Verdict(NamedTuple):
    """A published figure beside what was measured now, both in the published unit."""

    published: Metric
    measured: float | None  # None: `zoo eval` does not measure it
    low: float
    high: float
    interval: str  # which one that is
    stands: bool


def published(name: str) -> tuple[Metric, ...]:
    """The figures that are published of weights: of their record, or of the config.json of a folder.

    Raises:
        ValueError: there are none.
    """
    if name in registry.records():
        metrics = registry.weights_info(name).metrics
    else:
        metrics = tuple(map(registry.metric_of, registry.whole_figures(open_source(name).config)))
    if not metrics:
        raise ValueError(f"no figures of {name} are published; zoo eval {name} measures some")
    return metrics


def source(name: str, metrics: tuple[Metric, ...]) -> str | None:
    """What figures were published on, as SOURCE of `zoo eval`; None leaves it to the model."""
    if named := re.match(r"samples/\w+", metrics[0].data):
        return named[0]
    return registry.weights_info(name).data if name in registry.records() else None


def again(name: str, given: str | list[str] | None = None, **how: Any) -> tuple[list[Verdict], str]:
    """Each published figure, held against what is measured now; and what it is measured on.

    Args:
        given: the data, instead of what the figures were published on.
        how: keywords of `zoo.report.figures.evaluate`.

    Raises:
        ValueError: nothing is published, or nothing that `zoo eval` measures.
    """
    metrics = published(name)
    figures = evaluate(name, given or source(name, metrics), **how)
    verdicts = list(compare(metrics, figures))
    if all(v.measured is None for v in verdicts):
        names = ", ".join(m.name for m in metrics)
        raise ValueError(f"{name}: zoo eval measures nothing of what is published, {names}; the card says what did")
    return verdicts, f"{figures['data']}, {figures['split']}"


def compare(metrics: Iterable[Metric], figures: Mapping[str, Any]) -> Iterable[Verdict]:
    """Published figures against those that `evaluate` gave.

    A record's own interval holds the measured figure. Without one, a share of the samples is held against the 95 %
    interval of the measured share (Wilson 1927), which holds the published figure; any other, and a share of an unknown
    number, may differ by one of the last printed digit.
    """
    for metric in metrics:
        key = _key(metric, figures)
        if key is None:
            yield Verdict(metric, None, 0, 0, "", True)
            continue
        share = metric.unit == "%"
        measured = figures[key] * (100 if share else 1)
        interval, count = metric.interval, figures.get("images") or figures.get("clips")
        if interval:
            low, high = interval
            yield Verdict(metric, measured, low, high, "its published interval", low <= measured <= high)
        elif share and f"{key}_interval" in figures:
            low, high = (100 * end for end in figures[f"{key}_interval"])
            yield Verdict(metric, measured, low, high, _wilson(count), low <= metric.value <= high)
        elif share and count and key.startswith(SHARES):
            low, high = (100 * end for end in wilson(round(figures[key] * count), count))
            yield Verdict(metric, measured, low, high, _wilson(count), low <= metric.value <= high)
        else:
            digit = 10.0 ** -len(f"{metric.value:g}".partition(".")[2])
            low, high = metric.value - digit, metric.value + digit
            slack = digit * 1e-6  # of the subtraction
            within = low - slack <= measured <= high + slack
            yield Verdict(metric, measured, low, high, "the last printed digit", within)


def _wilson(count: int | None) -> str:
    return f"Wilson's 95 % interval{f' of {count:,} samples' if count else ''}"


def _key(metric: Metric, figures: Mapping[str, Any]) -> str | None:
    """Under which name `zoo eval` gives a published figure: its protocol's, "psnr_of_mse of `zoo eval`", or its own."""
    named = re.search(r"(\w+) of `zoo eval`", metric.protocol)
    keys = [named[1] if named else metric.name, metric.name, KEYS.get(metric.name, "")]
    return next((key for key in keys if isinstance(figures.get(key), int | float)), None)
