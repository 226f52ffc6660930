"""LitClassifier: trains any model of the zoo that turns images into logits."""

import math

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from zoo import hub


class LitClassifier(L.LightningModule):
    """Cross-entropy, AdamW, linear warm-up and half a cosine (Loshchilov and Hutter 2017, 2019).

    A batch is (images (B, C, H, W) in [0, 1], labels (B,) int64). The model is `self.model`, a plain nn.Module.

    Args:
        arch: name of an arch, `zoo ls` lists them.
        weights: tag of that arch to start from, a checkpoint folder or `hf://org/name`; None starts at random.
        arch_args: keywords of the arch (`{"image_size": 32, "channels": 3}`).
        num_classes: with weights, another number than theirs gives the model a new random head; without, it goes to
            the arch.
        probe: train the head alone, on frozen features.
        lr: peak learning rate.
        weight_decay: decoupled, on every parameter of two or more axes; scaled by the learning rate, as in AdamW.
        betas: of AdamW.
        warmup_epochs: length of the linear warm-up, in epochs, may be a fraction.
        min_lr: where the cosine ends.
        label_smoothing: in [0, 1).
    """

    def __init__(
        self,
        arch: str,
        weights: str | None = None,
        arch_args: dict | None = None,
        num_classes: int | None = None,
        probe: bool = False,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        warmup_epochs: float = 0.0,
        min_lr: float = 0.0,
        label_smoothing: float = 0.0,
    ):
        super().__init__()
        self.save_hyperparameters()
        args = dict(arch_args or {})
        if weights is None and num_classes is not None:
            args["num_classes"] = num_classes
        self.model = hub.create(arch, weights, **args)
        outputs = self.model.head.out_features
        if weights is not None and num_classes not in (None, outputs):
            hub.reset_head(self.model, num_classes)
            outputs = num_classes
        if probe:
            self.model.requires_grad_(False)
            self.model.head.requires_grad_(True)
        self.val_accuracy = MulticlassAccuracy(outputs, average="micro")
        self.test_accuracy = MulticlassAccuracy(outputs, average="micro")

    @classmethod
    def from_weights(cls, name: str, **args) -> "LitClassifier":
        """Ready to go on training from `arch.tag`, a checkpoint folder or hf://org/name; keywords as above."""
        arch = hub.load(name).zoo_config["arch"]
        return cls(arch, name.removeprefix(f"{arch}."), **args)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] → logits (B, O)."""
        return self.model(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = F.cross_entropy(self(x), y, label_smoothing=self.hparams.label_smoothing)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, "val", self.val_accuracy)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, "test", self.test_accuracy)

    def _evaluate(self, batch: tuple[Tensor, Tensor], split: str, accuracy: MulticlassAccuracy) -> None:
        x, y = batch
        logits = self(x)
        accuracy(logits, y)
        self.log(f"{split}/loss", F.cross_entropy(logits, y), batch_size=len(y), sync_dist=True)
        self.log(f"{split}/acc", accuracy, prog_bar=True)

    def on_fit_start(self) -> None:
        # Lightning keeps the mode a submodule is handed over in, and a model from zoo.load may be in eval mode.
        self.train()
        given, outputs = getattr(self.trainer.datamodule, "num_classes", 0), self.model.head.out_features
        if given > outputs:
            raise ValueError(f"the data has {given} classes, the model {outputs}; set model.num_classes to {given}")

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        # All that export needs to build the model again; the class names are the data's.
        classes = getattr(self.trainer.datamodule, "classes", ())
        known = {"classes": list(classes)} if len(classes) == self.model.head.out_features else {}
        checkpoint["zoo"] = self.model.zoo_config | known

    def configure_optimizers(self) -> dict:
        h = self.hparams
        matrices = [p for p in self.model.parameters() if p.requires_grad and p.ndim > 1]
        vectors = [p for p in self.model.parameters() if p.requires_grad and p.ndim < 2]
        groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(
            [g for g in groups if g["params"]], h.lr, tuple(h.betas), weight_decay=h.weight_decay
        )
        steps = self.trainer.estimated_stepping_batches
        warmup = h.warmup_epochs * steps / self.trainer.max_epochs if h.warmup_epochs else 0

        def scale(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            done = (step - warmup) / max(1, steps - warmup)
            return (h.min_lr + (h.lr - h.min_lr) * (1 + math.cos(math.pi * min(1, done))) / 2) / h.lr

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, scale)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
