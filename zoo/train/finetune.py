"""LitFinetune: a linear probe, then fine-tuning, on few pictures; the better of both is kept."""

import math
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple, Self

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.nn import functional as F

from zoo import hub, registry
from zoo.hub.places import open_source
from zoo.metrics.probes import head_inputs, linear_head
from zoo.nn.protocols import Classifies, HasLayers, Network, can
from zoo.train.classify import LitClassifier

STEPS, FEWEST, MOST = 450, 10, 60  # optimiser steps of a training without an end, and its epochs
PROBE = -1  # the probe's place among the epochs


class Kept(NamedTuple):
    """What a run keeps: the probe, or the weights after an epoch."""

    epoch: int  # counted from 0; PROBE
    acc: float  # of the validation pictures, in [0, 1]
    loss: float  # of the same, in nats
    state: dict[str, Tensor]  # of the model


class LitFinetune(LitClassifier):
    """Makes a classifier of few pictures out of a pretrained encoder: a linear probe first, then fine-tuning.

    The classes are the data's: the head is made for them, whatever the weights tell apart. Before the first step the
    frozen network's features of all training pictures, as they are, are fitted to the end by L-BFGS (softmax
    regression): the probe, whose accuracy is `val/probe_acc`. Fine-tuning then begins with a new head, nearly zero, and
    not with the probe's: that is so steep on few pictures that its first steps spoil the encoder. What is kept is the
    probe or the weights after an epoch, whichever has the higher `val/acc`: of epochs that are equal the last one, and
    the probe where none is better than it. The kept weights are what the training ends with, what the checkpoint gives
    as a model, and what is tested.

    Where the Trainer has no end, `max_epochs=-1`, it trains for as many epochs as make 450 steps, from 10 to 60.
    ImageData with `batch_size=None` has about 16 steps an epoch, and with `keep_test=True` never chooses by its test
    split. Loaders without a DataModule do not name their classes: the head is then the model's, and there is no probe.

    Args:
        arch: one that classifies; None takes the weights' own, or the one that starts from their encoder.
        weights: a name of the zoo ("mae_vit_tiny.tiny_imagenet"), a checkpoint folder, a run or `hf://org/name`, of a
            classifier or of an autoencoder that one starts from. With an arch, a tag of it too, or None: at random.
        num_classes: those of the data; another number is refused.
        layer_decay: of models with layers; all of any other learns at one rate.
        probe_decay: weight decay of the probe, on standardised features.

    Raises:
        ValueError: neither arch nor weights, or weights from which no classifier starts; data with less than two
            classes.
    """

    def __init__(
        self,
        arch: str | None = None,
        *,
        weights: str | None = None,
        weight_decay: float = 0.05,
        warmup_epochs: float = 1.0,
        layer_decay: float | None = 0.75,
        label_smoothing: float = 0.1,
        probe_decay: float = 1e-4,
        **common: Any,
    ):
        arch = arch or classifier_of(weights)
        if arch in registry.archs() and not can(hub.model_class(arch), HasLayers):
            layer_decay = None
        super().__init__(
            arch,
            weights=weights,
            weight_decay=weight_decay,
            warmup_epochs=warmup_epochs,
            layer_decay=layer_decay,
            label_smoothing=label_smoothing,
            **common,
        )
        self.kept: Kept | None = None
        self.probe_acc: float | None = None

    @classmethod
    def from_weights(cls, name: str, **args: Any) -> Self:
        """As `LitFinetune(weights=name)`."""
        return cls(weights=name, **args)

    def make_model(self) -> Network:
        self.hparams.arch = self.hparams.arch or classifier_of(
            self.hparams.weights
        )  # the parser notes what it was given
        return super().make_model()

    def setup(self, stage: str) -> None:
        """Before anything runs: make the head for the data's classes."""
        data = self.datamodule
        if stage == "fit" and self.kept is None and data is not None:
            self._size(data)
        super().setup(stage)

    def _size(self, data: L.LightningDataModule) -> None:
        names: list[str] = list(getattr(data, "classes", ()))
        found: int = getattr(data, "num_classes", len(names))
        source, given = data.hparams.get("source", type(data).__name__), self.hparams.num_classes
        if found < 2:
            has = f"one class, {', '.join(names)}" if found else "no classes"
            raise ValueError(
                f"{source} has {has}; to tell classes apart takes two: put the pictures in folders by class, CLASS/*, "
                "or name a table's column with --data.label_column"
            )
        splits: dict[str, Any] = getattr(data, "splits", {})
        there = [set(splits[role][-1].tolist()) for role in ("train", "val") if role in splits]
        if len(there) == 2 and not set.intersection(*there):
            raise ValueError(
                f"{source}: no class of the pictures that are held out is among those that are trained on; add "
                "pictures, two or more of a class, or a folder val/"
            )
        if given not in (None, found):
            raise ValueError(f"{source} has {found} classes, not model.num_classes={given}; leave that out")
        hub.reset_head(self.model, found)
        self.measure_classes()

    def on_fit_start(self) -> None:
        super().on_fit_start()
        trainer, data = self.trainer, self.datamodule
        batch = getattr(trainer.train_dataloader, "batch_size", "?")
        rank_zero_info(
            f"fine-tuning for {trainer.max_epochs} epochs of {trainer.num_training_batches} steps, batch {batch}"
        )
        if self.kept is not None or data is None:
            return
        if not hasattr(data, "in_order"):
            rank_zero_warn(f"{type(data).__name__} has no in_order to read its pictures by: there is no probe")
            return
        self._fit_probe(data)

    def _fit_probe(self, data: Any) -> None:
        """The head by L-BFGS on frozen features; the same on every process, as each reads all pictures."""
        self.eval()
        head: Any = self.model.head
        fresh = {key: tensor.clone() for key, tensor in head.state_dict().items()}
        with torch.no_grad():
            features, labels = head_inputs(self.model, self._read(data, "train"))  # (N, D), (N,)
            weight, bias = linear_head(features, labels, self.outputs, self.hparams.probe_decay, head.bias is not None)
            head.weight.copy_(weight)  # (O, D)
            if bias is not None:
                head.bias.copy_(bias)  # (O,)
            features, labels = head_inputs(self.model, self._read(data, "val"))
            logits = F.linear(features, weight, bias)  # (M, O)
        self.probe_acc = (logits.argmax(-1) == labels).float().mean().item()
        self._keep(PROBE, self.probe_acc, F.cross_entropy(logits, labels).item())
        head.load_state_dict(fresh)
        self.train()
        rank_zero_info(f"the probe: val/acc {self.probe_acc:.4f} of {len(labels)} pictures")

    def _read(self, data: Any, split: str) -> Iterator[tuple[Tensor, Tensor]]:
        """A split in order, in float on the device, nothing changed; a batch where one of each loop is run."""
        batches = iter(data.in_order(split, 64))
        for batch in islice(batches, 1) if getattr(self.trainer, "fast_dev_run", False) else batches:
            x, y = self.trainer.strategy.batch_to_device(batch, self.device)  # (B, C, H, W), (B,)
            yield x, y

    def on_validation_epoch_end(self) -> None:
        if self.probe_acc is not None:
            self.log("val/probe_acc", self.probe_acc)

    def on_validation_end(self) -> None:
        """Keep the weights where they are better; the figures of all processes are one by now."""
        trainer = self.trainer
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        acc, loss = (float(trainer.callback_metrics[f"val/{figure}"]) for figure in ("acc", "loss"))
        kept = self.kept
        if kept is None or acc > kept.acc or (acc == kept.acc and kept.epoch != PROBE):
            self._keep(trainer.current_epoch, acc, loss)

    def _keep(self, epoch: int, acc: float, loss: float) -> None:
        state = {key: tensor.detach().cpu().clone() for key, tensor in self.model.state_dict().items()}
        self.kept = Kept(epoch, acc, loss, state)

    def on_fit_end(self) -> None:
        """The kept weights in place of the last ones."""
        if self.kept is not None:
            self.model.load_state_dict(self.kept.state)

    @property
    def said(self) -> str:
        """What is kept, in words: "kept: fine-tuned for 27 epochs: val/acc 0.7100; the probe had 0.6500"."""
        kept = self.kept
        if kept is None:
            return "kept: nothing yet"
        if kept.epoch == PROBE:
            return f"kept: the probe: val/acc {kept.acc:.4f}; no epoch of fine-tuning had more"
        probe = "" if self.probe_acc is None else f"; the probe had {self.probe_acc:.4f}"
        return f"kept: fine-tuned for {kept.epoch + 1} epochs: val/acc {kept.acc:.4f}{probe}"

    @property
    def kept_figures(self) -> dict[str, float]:
        """Figures of the kept weights, and after how many epochs, 0 of the probe: what stands in metrics.json."""
        if self.kept is None:
            return {}
        probe = {} if self.probe_acc is None else {"val/probe_acc": self.probe_acc}
        return {"val/acc": self.kept.acc, "val/loss": self.kept.loss, **probe, "kept_epochs": self.kept.epoch + 1.0}

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        trainer = self.trainer
        if trainer.max_epochs == -1 and trainer.max_steps == -1:
            trainer.fit_loop.setup_data()
            trainer.fit_loop.max_epochs = fitting_epochs(trainer.num_training_batches / trainer.accumulate_grad_batches)
        return super().configure_optimizers()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.kept is not None:  # what `zoo.load` takes of this file
            epoch, acc, loss, checkpoint["kept"] = self.kept
            checkpoint["kept_at"] = {"epoch": epoch, "acc": acc, "loss": loss, "probe_acc": self.probe_acc}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The head as the checkpoint has it.

        Raises:
            ValueError: the data has other classes than the run began with.
        """
        super().on_load_checkpoint(checkpoint)
        made, config = checkpoint["zoo"], self.model.zoo_config
        count, names = len(checkpoint["state_dict"]["model.head.weight"]), made.get("classes", [])
        fits = self.datamodule is not None and self.trainer.state.fn == TrainerFn.FITTING
        if fits and (count, names) != (self.outputs, config.get("classes", [])):
            raise ValueError(
                f"the run began with {count} classes, {', '.join(names)}; the data has {self.outputs} now, "
                f"{', '.join(config.get('classes', []))}: begin a new run with --model.weights RUN"
            )
        if count != self.outputs:
            hub.reset_head(self.model, count)
            self.measure_classes()
            config["classes"] = names
        if "kept" in checkpoint:
            at = checkpoint["kept_at"]
            self.probe_acc = at["probe_acc"]
            self.kept = Kept(at["epoch"], at["acc"], at["loss"], checkpoint["kept"])


def classifier_of(weights: str | None) -> str:
    """The arch that tells classes apart and starts from weights: their own, or one that takes their encoder.

    Raises:
        ValueError: there is none, or no weights.
    """
    if weights is None:
        raise ValueError("weights=None and no arch; give model.weights, or a model.arch to start at random")
    arch = open_source(weights).config["arch"]
    if can(hub.model_class(arch), Classifies):
        return arch
    facts = [registry.facts(family) for family in registry.families()]
    starts = {held: name for known in facts for name, those in known.starts.items() for held in those}
    if arch not in starts:
        some = [w.name for w in registry.records().values() if w.embedded and w.arch in {*starts, *starts.values()}]
        raise ValueError(f"{weights} holds {arch}, from which no classifier starts; these do: {', '.join(some)}")
    return starts[arch]


def fitting_epochs(steps: float) -> int:
    """Epochs of so many optimiser steps that make 450, from 10 to 60."""
    return MOST if steps < 1 or math.isinf(steps) else min(MOST, max(FEWEST, round(STEPS / steps)))
