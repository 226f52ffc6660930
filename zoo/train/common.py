"""What every training here shares: the hyperparameters, the optimiser, pictures; and an average of the model."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Self, TypeVar

import lightning as L
import torch
from lightning.fabric.utilities.data import AttributeDict
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.types import OptimizerLRScheduler, OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.utils import make_grid

from zoo import hub
from zoo.data import own
from zoo.data.classes import Matched, check_labels, count_classes, match, names_of
from zoo.data.readers import STAGES, serves
from zoo.nn.checks import check_types
from zoo.nn.protocols import LAYOUTS, Classifies, Network, Recomputes
from zoo.nn.signatures import keywords
from zoo.registry import suggest
from zoo.train import optim, parallel

M = TypeVar("M", bound=nn.Module)


def frozen_name(arch: str, args: Mapping[str, Any], attribute: str) -> str:
    """The weights of the frozen network that an arch has by default, without making either."""
    with torch.device("meta"):
        name: str = getattr(hub.create(arch, **args), attribute).name
    return name


def check_class(model: Network, kind: type[M]) -> M:
    """The model, if it is of this class, for a training that knows no other.

    Raises:
        ValueError: it is of another class.
    """
    if not isinstance(model, kind):
        raise ValueError(
            f"{model.zoo_config['arch']} is a {type(model).__name__}, this LightningModule trains {kind.__name__}"
        )
    return model


class Training(optim.Guarded, parallel.Sharded, L.LightningModule):
    """What every training of this zoo shares: a `model` with its `zoo_config`, AdamW, linear warm-up, half a cosine.

    A child declares what is its own and hands on the rest, `def __init__(self, arch, *, own=1.0, **common)` with
    `super().__init__(arch, **common)`. It declares one of these again only where its default differs, and then hands
    it on by name. All of them are saved and checked here, so `self.hparams` is complete from `make_model` on.

    Args:
        arch: name of an arch, `zoo ls` lists them.
        weights: a tag of that arch to go on from, a checkpoint folder, a run or `hf://org/name`; None starts at random.
        arch_args: keywords of the arch (`{"image_size": 32}`).
        lr: peak learning rate; or leave it out for
        base_lr: peak learning rate per 256 images or videos of an optimiser step; a video counts once, however many
            clips are cut from it. Without either, the class's `usual` one.
        weight_decay: decoupled, on every parameter of two or more axes and on what the model names besides.
        betas: of AdamW.
        warmup_epochs: length of the linear warm-up, in epochs, may be a fraction.
        min_lr: where the cosine ends; None keeps the peak.
        grad_checkpointing: keep no activations inside blocks; less memory, a third more time.
        compile: let torch compile the model.

    Raises:
        ValueError: a keyword that the class does not take, or a value of another type; grad_checkpointing of a model
            that has no blocks.
    """

    hparams: AttributeDict  # the arguments, by name
    matched: Matched | None = None  # the data's classes among the model's, once a stage has begun
    looked = False  # whether a batch of this stage was looked at closely
    usual: ClassVar[optim.Rate] = optim.Rate(lr=1e-3)

    def __init__(
        self,
        arch: str,
        weights: str | None = None,
        arch_args: dict[str, Any] | None = None,
        lr: float | None = None,
        base_lr: float | None = None,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        warmup_epochs: float = 0.0,
        min_lr: float | None = None,
        grad_checkpointing: bool = False,
        compile: bool = False,
        **unknown: Any,
    ):
        super().__init__()
        for key in unknown:
            allowed = keywords(type(self))
            near = suggest(key, allowed) or f"; allowed {', '.join(allowed)}"
            raise ValueError(f"{type(self).__name__} takes no {key}{near}")
        self.save_hyperparameters()
        check_types(type(self), self.hparams)
        self.model = self.make_model()
        if grad_checkpointing:
            if not isinstance(self.model, Recomputes):
                raise ValueError(f"{arch} has no blocks to make again; leave grad_checkpointing out")
            self.model.grad_checkpointing = True
        if compile:
            self.compile_model()

    @classmethod
    def from_weights(cls, name: str, **args: Any) -> Self:
        """Ready to go on training from `arch.tag`, a checkpoint folder or hf://org/name; keywords as the class's."""
        arch = hub.load(name).zoo_config["arch"]
        return cls(arch, weights=name.removeprefix(f"{arch}."), **args)

    def make_model(self) -> Network:
        """The model that the hyperparameters ask for."""
        h = self.hparams
        return hub.create(h.arch, h.weights, **dict(h.arch_args or {}))

    def compile_model(self) -> None:
        self.model.compile()

    @property
    def datamodule(self) -> L.LightningDataModule | None:
        """What the Trainer trains on; None where it was given loaders, and without a Trainer."""
        try:
            return getattr(self.trainer, "datamodule", None)
        except RuntimeError:  # of Lightning, without a Trainer
            return None

    @property
    def reads_labels(self) -> bool:
        """Whether the labels of a batch are the model's classes."""
        return False

    def setup(self, stage: str) -> None:
        """Before anything runs: see that the data's classes are the model's, and its labels classes.

        Of pictures that are cut closer than whole for evaluation, the model notes it, and is shown others so, too.

        Raises:
            ValueError: they are not; a label that is missing or out of range.
        """
        super().setup(stage)
        data = self.datamodule
        self._take_own_batches(data)
        if stage == "fit" and data is not None and "crop_pct" in data.hparams:
            self.model.zoo_config.pop("crop_pct", None)  # of the weights it started from
            self.model.zoo_config |= {} if data.hparams["crop_pct"] == 1 else {"crop_pct": data.hparams["crop_pct"]}
        if not self.reads_labels or data is None:
            return
        names: list[str] = list(getattr(data, "classes", ()))
        known, count, found = names_of(self.model), count_classes(self.model), getattr(data, "num_classes", len(names))
        if found > count or (0 < found < count and (stage == "fit" or not known)):
            raise ValueError(f"the data has {found} classes, the model {count}; {self._other_classes(found)}")
        if names and known:
            head = "set model.reset_head for a new head" if isinstance(self.model, Classifies) else "leave weights out"
            self.matched = match(known, names, mend=f"{head}, or give the data the model's names")
        elif names and stage == "fit":
            self.model.zoo_config["classes"] = names
        elif names:
            rank_zero_warn(f"{self.hparams.arch} has no names of its classes: the data's are taken in their order")
        for split in STAGES.get(stage, ()):
            labels = getattr(data, "splits", {}).get(split, (None, None))[1]
            if isinstance(labels, Tensor) and not labels.is_meta:  # a stream's are seen as they come
                source = f"{data.hparams.get('source', type(data).__name__)}, {split}"
                mend = "give some that have"
                if stage == "fit" and split == "val" and "val_fraction" in data.hparams:
                    mend += ", or hold out a share of the training with data.val_fraction"
                check_labels(labels, found or count, source, mend=mend)

    def _take_own_batches(self, data: L.LightningDataModule | None) -> None:
        """Have the batches of the user's own loaders put in order, where no DataModule does that itself.

        The hook is put on whichever object Lightning asks: where both have it by their class, it warns.
        """
        hook = "on_after_batch_transfer"
        vars(self).pop(hook, None)
        before = getattr(getattr(data, hook, None), "__func__", None) is Training.own_batch  # of another stage
        if self.model.takes.kind in LAYOUTS and (data is None or before or not is_overridden(hook, data)):
            self.looked = False
            setattr(self if data is None else data, hook, self.own_batch)

    def own_batch(self, batch: Any, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """A batch of a DataLoader of one's own as training takes it; the first one is looked at closely.

        Raises:
            ValueError: it cannot be understood, or its labels are no classes of the model.
        """
        x, y = own.batch(batch, self.model.takes, self.reads_labels, not self.looked)
        if self.reads_labels and not self.looked and not y.is_meta:  # of an estimate
            check_labels(y, count_classes(self.model), "the DataLoader", mend="give (images, labels)")
        self.looked = True
        return x, y

    def _other_classes(self, count: int) -> str:
        """What to do about another number of classes: a model that draws keeps those that it learned."""
        if "num_classes" not in self.hparams:
            return "give data with the model's"
        fixed = self.hparams.weights is not None and not isinstance(self.model, Classifies)
        return ("set model.weights to null and " if fixed else "set ") + f"model.num_classes to {count}"

    def labels(self, y: Tensor) -> Tensor:
        """The data's labels (B,) as the model's classes."""
        return y if self.matched is None else self.matched.labels(y)  # (B,)

    @property
    def tested(self) -> str:
        """The split that a test looks at: "val" where the data has no test set of its own."""
        return serves(self.datamodule, "test")

    def evaluate(self, batch: Any, batch_idx: int, split: str) -> Any:
        """Log figures of a held-out batch under its split, "val/loss"; gives the output, for a child to go on with."""
        raise NotImplementedError

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.evaluate(batch, batch_idx, "val")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.evaluate(batch, batch_idx, self.tested)

    def log_step(self, loss: Tensor, figures: Mapping[str, Tensor | float] | None = None) -> None:
        """The loss of a training step as train/loss, and other figures of it by their names."""
        self.log_dict({f"train/{name}": figure for name, figure in (figures or {}).items()})
        self.log("train/loss", loss, prog_bar=True)

    def log_pictures(self, name: str, draw: Callable[[], Tensor], rows: int = 2) -> None:
        """Images (B, C, H, W) in [0, 1] in so many rows; they are only made where a logger takes pictures.

        That is one with a `log_image(key, images, step)` of its own, as Weights & Biases', or whose experiment has
        TensorBoard's `add_image`.
        """
        own: list[Any] = [logger for logger in self.loggers if hasattr(logger, "log_image")]
        experiments: list[Any] = [getattr(logger, "experiment", None) for logger in self.loggers if logger not in own]
        boards = [experiment for experiment in experiments if hasattr(experiment, "add_image")]
        if not own and not boards:
            return
        images = draw()
        grid = make_grid(images, nrow=len(images) // rows)  # (C, H', W'); torchvision's nrow is of a row
        for logger in own:
            logger.log_image(key=name, images=[grid], step=self.global_step)
        for board in boards:
            board.add_image(name, grid, self.global_step)

    def log_samples(self, sample: Callable[[Tensor], Tensor], num_classes: int) -> None:
        """Sixteen images that the model draws, of the classes in turn; `sample` takes labels, of which -1 is any."""
        count = torch.arange(16, device=self.device)
        labels = count % num_classes if num_classes else torch.full_like(count, -1)  # (16,)
        self.log_pictures("val/samples", lambda: sample(labels))

    def on_fit_start(self) -> None:
        # Lightning keeps the mode a submodule is handed over in, and a model from zoo.load may be in eval mode.
        self.train()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        # All that export needs to build the model again.
        checkpoint["zoo"] = self.model.zoo_config

    def configure_optimizers(self) -> OptimizerLRScheduler:
        h, lr = self.hparams, self.peak()
        optimizer = torch.optim.AdamW(optim.decay_groups(self.model, h.weight_decay), lr, tuple(h.betas), fused=True)
        return self.schedule(optimizer, lr)

    def peak(self, accumulate: int = 1) -> float:
        """The peak learning rate.

        Args:
            accumulate: batches of an optimiser step, where the trainer does not count them.
        """
        given = optim.Rate(self.hparams.lr, self.hparams.base_lr)
        lr, base_lr = self.usual if given == optim.Rate() else given
        return optim.learning_rate(self.trainer, lr, base_lr, accumulate)

    def schedule(self, optimizer: Optimizer, lr: float, accumulate: int = 1) -> OptimizerLRSchedulerConfig:
        """The optimiser with its step sizes, for Lightning: warm-up to `lr`, then half a cosine.

        Args:
            accumulate: batches of an optimiser step, where the trainer does not count them.
        """
        h = self.hparams
        least = lr if h.min_lr is None else h.min_lr
        return optim.warmup_cosine(optimizer, self.trainer, lr, least, h.warmup_epochs, accumulate)


def _average(decay: float, averages: Any, current: Any, count: Any) -> None:
    """torch's exponential average, whose own function is a local one that no pickle takes."""
    get_ema_multi_avg_fn(decay)(averages, current, count)


class Average(AveragedModel):
    """torch's moving average, of a model of this zoo."""

    module: Network


class Averaging(Training):
    """Keeps an exponential moving average of the model: what is evaluated, exported and saved as the best.

    Of a model that needs a frozen network, that one is not copied.

    Args:
        ema: decay of the moving average, an optimiser step; 0 is off.

    Raises:
        ValueError: a decay that is not from 0 to below 1.
    """

    def __init__(self, arch: str, *, ema: float = 0.0, **common: Any):
        super().__init__(arch, **common)
        if not 0 <= ema < 1:
            raise ValueError(f"ema={ema}, allowed 0 to below 1")
        self.average = Average(self.model, multi_avg_fn=partial(_average, ema)) if ema else None
        if self.average is not None:
            self.average.requires_grad_(False)

    @property
    def averaged(self) -> Network:
        """The average once there is one, else the model."""
        return self.model if self.average is None or not self.average.n_averaged else self.average.module

    def update_average(self) -> None:
        """After each step of the model's optimiser; without effect if that step had no gradient."""
        if self.average is not None and self.learned:
            self.average.update_parameters(self.model)
        self.learned = False

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.update_average()
