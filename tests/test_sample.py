"""The flags of `zoo sample` are the keywords of the model's `sample`."""

import inspect

import pytest
import torch
from torch import Tensor, nn

from zoo import cli
from zoo.report import sampling


class Draws(nn.Module):
    def sample(
        self,
        labels: Tensor,
        *,
        rounds: int = 3,
        noise: float | None = None,
        span: tuple[int, int] = (0, 9),
        critic: nn.Module | None = None,
        trace: list[Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draws.

        Args:
            rounds: how often, 50 % of them
                twice.
            critic: who judges.
        """


def test_flags_have_type_default_and_meaning_of_the_signature():
    assert sampling.flags(Draws) == {
        "rounds": (int, None, "how often, 50 % of them twice. (default: 3)"),
        "noise": (float, None, ""),
        "span": (int, 2, " (default: 0 9)"),
        "critic": (nn.Module, None, "who judges."),
    }
    assert sampling.flags(nn.Linear) == {}


@pytest.mark.parametrize("name", ["ditdh_tiny.tiny_imagenet", "vqprior_tiny.mnist"])
def test_the_help_of_a_model_lists_its_flags(name, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["sample", name, "--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    sample = inspect.signature(sampling.class_of(name).sample).parameters
    for key in set(sample) - {"self", "labels", "generator"}:
        assert f"--{key.replace('_', '-')} " in text
    assert "generator" not in text


def test_a_flag_reaches_the_model(monkeypatch, tmp_path):
    calls, kind = [], sampling.class_of("ditdh_tiny.tiny_imagenet")

    def spy(self, labels, generator, trace, **how):
        calls.append({"labels": labels.tolist(), "guide": type(how.pop("guide")), **how})
        trace.append(torch.zeros(len(labels), *self.takes.shape))
        return trace[0]

    monkeypatch.setattr(kind, "sample_latents", spy)
    argv = ["--classes", "3,any", "--each", "1", "--steps", "7", "--interval", "0.25", "0.5"]
    argv += ["--guide", "ditdh_tiny.tiny_imagenet", "-o", str(tmp_path / "a.png")]
    assert cli.main(["sample", "ditdh_tiny.tiny_imagenet", *argv]) == 0
    assert calls == [{"labels": [3, -1], "guide": kind, "steps": 7, "interval": [0.25, 0.5]}]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["ditdh_tiny.tiny_imagenet", "--step", "5"], "takes no --step, did you mean --steps"),
        (["vqprior_tiny.mnist", "--temprature=2"], "takes no --temprature, did you mean --temperature"),
        (["vqprior_tiny.mnist", "--steps", "5"], "it takes --temperature, --top-k, --guidance"),
        (["ditdh_tiny.tiny_imagenet", "--guide", "vqprior_tiny.mnist"], "vqprior_tiny.mnist draws (1, 28, 28), ditdh_"),
        (["--steps", "5", "ditdh_tiny.tiny_imagenet"], "NAME comes first"),
    ],
)
def test_a_flag_that_the_model_does_not_take_is_refused_with_the_nearest(argv, message, capsys, tmp_path):
    assert cli.main(["sample", *argv, "-o", str(tmp_path / "a.png")]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.strip().splitlines()) == 1
