"""Recipes and the command line into a model, its data and a Trainer, or one line that says what is wrong."""

import logging
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonargparse
import lightning as L
from jsonargparse.typing import NonNegativeInt, PositiveInt
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher

from zoo.data.images import follow
from zoo.nn.protocols import Input
from zoo.train import keys
from zoo.train.optim import Guarded
from zoo.train.parallel import JoinBatchNorms

# What Lightning says at every start or checkpoint; whoever reads a run's output is looking for something else.
NOISE = {
    "lightning.pytorch.utilities.rank_zero": ("Tip:", "TPU available", "Loading `train_dataloader` to estimate"),
    "lightning.pytorch.trainer.connectors.checkpoint_connector": ("`weights_only` was not set",),
    "lightning.fabric.utilities.seed": ("Seed set to",),  # which recipe.yaml and metrics.json say
}


def _without(lines: tuple[str, ...]) -> Callable[[logging.LogRecord], bool]:
    return lambda record: not any(line in record.getMessage() for line in lines)


for logger, lines in NOISE.items():
    logging.getLogger(logger).addFilter(_without(lines))
warnings.filterwarnings("ignore", message=".*treespec.*")
warnings.filterwarnings("ignore", message=".*is smaller than the logging interval.*")  # the last step of it is logged
warnings.filterwarnings("ignore", message=".*does not have many workers.*")  # what fits is decoded before, in memory
warnings.filterwarnings("ignore", message=".*exists and is not empty.*")  # of a run that is gone on with


def parse(file: Path, overrides: list[str]) -> LightningCLI:
    """Build model, data and Trainer from a recipe and the command line.

    Raises:
        ValueError: what the parser refuses, in one line, with the nearest names for an unknown key.
    """
    cli = _parse(_CLI, file, overrides)
    if cli.config["skip_nonfinite"] and not isinstance(cli.model, Guarded):
        raise ValueError(
            f"skip_nonfinite={cli.config['skip_nonfinite']}: {type(cli.model).__name__} cannot leave batches out; "
            "leave it out, or derive the class from zoo.train.optim.Guarded"
        )
    if isinstance(cli.trainer.strategy.launcher, _MultiProcessingLauncher):
        raise ValueError(
            f"trainer.strategy={cli.config['trainer']['strategy']} trains in copies of this process, out of which "
            "neither losses nor optimisers come back; give ddp, which begins the command once for each process"
        )
    cli.model.skip_nonfinite = cli.config["skip_nonfinite"]
    takes: Input | None = getattr(getattr(cli.model, "model", None), "takes", None)
    if takes is not None:
        follow(cli.datamodule, takes)
    return cli


def resolve(file: Path, overrides: list[str]) -> jsonargparse.Namespace:
    """What a recipe and the command line say, checked and filled in; nothing is built. Errors as `parse`'s."""
    return _parse(_Resolved, file, overrides).config


def _parse(kind: type[LightningCLI], file: Path, overrides: list[str]) -> LightningCLI:
    overrides = keys.spelled_out(file, overrides)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "LightningCLI's args parameter")
        try:
            cli = kind(
                args=["--config", str(file), *overrides],
                run=False,
                save_config_callback=None,
                auto_configure_optimizers=False,
                seed_everything_default=0,
                parser_kwargs={"exit_on_error": False, "allow_abbrev": False},
            )
        except (jsonargparse.ArgumentError, TypeError, ValueError) as error:
            raise ValueError(_short(str(error), file, overrides)) from error
    if "max_epochs" not in cli.config["trainer"]:  # the parser drops what is no mapping, and all defaults with it
        raise ValueError(f"{file}: trainer holds no keys; give some of Lightning's Trainer, as `zoo cp` shows")
    if cli.config.get("data") is None:
        raise ValueError(f"{file} names no data; give class_path and init_args under data:, as `zoo cp` shows")
    return cli


class _CLI(LightningCLI):
    def add_arguments_to_parser(self, parser: jsonargparse.ArgumentParser) -> None:
        parser.add_argument("--expect", type=dict | None, default=None, help="the figure the recipe should reach")
        parser.add_argument("--save_steps", type=PositiveInt | None, default=None, help="a checkpoint each so many")
        parser.add_argument("--skip_nonfinite", type=NonNegativeInt, default=0, help="batches that may be left out")

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        if self.config["trainer"]["sync_batchnorm"]:
            given = self.config_init["trainer"]["plugins"] or []
            kwargs["plugins"] = [*(given if isinstance(given, list) else [given]), JoinBatchNorms()]
        return super().instantiate_trainer(**kwargs)


class _Resolved(_CLI):
    def instantiate_classes(self) -> None:
        pass


def _short(error: str, file: Path, overrides: list[str]) -> str:
    """A parser's complaint in one line, with the nearest of the keys there are."""
    sections = re.findall(r'Parser key "([\w.]+)"', error)
    unknown = re.search(r"(?:[Oo]ption|[Kk]ey|[Uu]nrecognized arguments:) '?(?:--)?([\w.]+)'?(?: is not|[ =]|$)", error)
    if unknown is not None:
        section, _, key = ".".join([*sections[:1], unknown[1]]).replace(".init_args", "").rpartition(".")
        meant = keys.suggest(section, key, file, overrides)
        return f"{file}: no key {'.'.join(filter(None, (section, key)))!r}{meant}; `zoo fit RECIPE --help` lists them"
    given = re.search(r"G(?:iven|ot) value: (.*)", error)
    types = [t for t in re.findall(r"Expected an? <class '(\w+)'>", error) if t != "NoneType"]
    if sections and given and types:
        return f"{file}: {sections[-1]} is {given[1]!r}, expected {' or '.join(types)}"
    reason = re.sub(
        r"^.*?Errors:\s*-|- Expected a <class 'NoneType'>.*|Problem with given class_path [^:]*:",
        "",
        error,
        flags=re.DOTALL,
    )
    return f"{file}: {' '.join(reason.split())[:400]}"
