"""LitClassifier: trains any model of the zoo that turns images or clips into logits."""

import math
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from zoo import hub
from zoo.nn.checks import check_types
from zoo.train import optim, parallel


class LitClassifier(optim.Guarded, parallel.Sharded, L.LightningModule):
    """Fine-tuning and probing: cross-entropy, AdamW, linear warm-up, half a cosine (Loshchilov and Hutter 2017, 2019).

    A batch is (images (B, C, H, W) or clips (B, F, C, H, W) in [0, 1], labels (B,) int64). Of clips with V views,
    (B, V, F, C, H, W), probabilities are averaged. The model is `self.model`, a plain nn.Module.

    Args:
        arch: name of an arch, `zoo ls` lists them.
        weights: tag of that arch to start from, a checkpoint folder, a run or `hf://org/name`, or the name of an
            autoencoder whose encoder it takes ("mae_vit_tiny.cifar10"); None starts at random.
        arch_args: keywords of the arch (`{"image_size": 32, "channels": 3}`).
        num_classes: with weights, another number than theirs gives the model a new random head; without, it goes to
            the arch.
        probe: train the head alone, on frozen features.
        lr: peak learning rate, 1e-3 where neither it nor the next is given.
        base_lr: peak learning rate per 256 samples of an optimiser step, instead.
        weight_decay: decoupled, on every parameter of two or more axes; scaled by the learning rate, as in AdamW.
        layer_decay: each block learns so much slower than the next one (Clark et al. 2020; Bao et al. 2022).
        optimizer: "adamw" or "lars" (You et al. 2017), momentum 0.9 and trust 0.001, as the published linear probe.
        betas: of AdamW.
        warmup_epochs: length of the linear warm-up, in epochs, may be a fraction.
        min_lr: where the cosine ends.
        label_smoothing: in [0, 1).
        mixup, cutmix: the α of each (Zhang et al. 2018; Yun et al. 2019); with both, a batch gets either by chance.
        grad_checkpointing: keep no activations inside blocks; less memory, a third more time.
        compile: let torch compile the model.

    Raises:
        ValueError: the arch gives no logits; weights, optimiser or learning rates that do not go together.
    """

    def __init__(
        self,
        arch: str,
        weights: str | None = None,
        arch_args: dict[str, Any] | None = None,
        num_classes: int | None = None,
        probe: bool = False,
        lr: float | None = None,
        base_lr: float | None = None,
        weight_decay: float = 0.0,
        layer_decay: float | None = None,
        optimizer: str = "adamw",
        betas: tuple[float, float] = (0.9, 0.999),
        warmup_epochs: float = 0.0,
        min_lr: float = 0.0,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        grad_checkpointing: bool = False,
        compile: bool = False,
    ):
        check_types(LitClassifier, locals())
        super().__init__()
        self.save_hyperparameters()
        args = dict(arch_args or {})
        if weights is None and num_classes is not None:
            args["num_classes"] = num_classes
        self.model = hub.create(arch, weights, **args)
        if not hasattr(self.model, "head"):
            raise ValueError(f"{arch} gives no logits; train {arch}_classifier, with weights={weights or arch!r}")
        if not 0 <= label_smoothing < 1 or min(mixup, cutmix) < 0:
            raise ValueError(
                f"label_smoothing={label_smoothing}, mixup={mixup}, cutmix={cutmix}: allowed 0 to below 1, 0 and above"
            )
        if optimizer not in ("adamw", "lars"):
            raise ValueError(f"optimizer={optimizer!r}, allowed adamw and lars")
        if layer_decay is not None and not hasattr(self.model, "group_matcher"):
            raise ValueError(f"{arch} has no layers to decay; leave layer_decay out")
        outputs = self.model.head.out_features
        if weights is not None and num_classes not in (None, outputs):
            hub.reset_head(self.model, num_classes)
            outputs = num_classes
        if probe:
            self.model.requires_grad_(False)
            self.model.head.requires_grad_(True)
        if grad_checkpointing and not hasattr(self.model, "grad_checkpointing"):
            raise ValueError(f"{arch} has no blocks to make again; leave grad_checkpointing out")
        if grad_checkpointing:
            self.model.grad_checkpointing = True
        self.mix = None
        if mixup or cutmix:
            from timm.data import Mixup

            self.mix = Mixup(mixup, cutmix, label_smoothing=label_smoothing, num_classes=outputs)
        if compile:
            self.model.compile()
        self.val_accuracy = MulticlassAccuracy(outputs, average="micro")
        self.test_accuracy = MulticlassAccuracy(outputs, average="micro")

    @classmethod
    def from_weights(cls, name: str, **args) -> "LitClassifier":
        """Ready to go on training from `arch.tag`, a checkpoint folder or hf://org/name; keywords as above."""
        arch = hub.load(name).zoo_config["arch"]
        return cls(arch, name.removeprefix(f"{arch}."), **args)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) or clips (B, F, C, H, W) in [0, 1] → logits (B, O)."""
        return self.model(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        if self.mix is not None:
            if len(x) % 2:
                raise ValueError(f"mixup and cutmix pair images, and batch_size={len(x)} is odd; give an even one")
            mixed, y = self.mix(x.flatten(1, -3), y)  # all frames of a clip alike; (B, O), smoothed
            x = mixed.view_as(x)
        smoothing = 0.0 if self.mix is not None else self.hparams.label_smoothing
        loss = F.cross_entropy(self(x), y, label_smoothing=smoothing)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, "val", self.val_accuracy)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, "test", self.test_accuracy)

    def _evaluate(self, batch: tuple[Tensor, Tensor], split: str, accuracy: MulticlassAccuracy) -> None:
        x, y = batch
        views = x.shape[1] if x.ndim == 6 else 1
        scores = self(x.flatten(0, 1) if views > 1 else x).log_softmax(-1)  # (B V, O)
        scores = scores.unflatten(0, (-1, views)).logsumexp(1) - math.log(views)  # (B, O), of the mean probability
        accuracy(scores, y)
        self.log(f"{split}/loss", F.nll_loss(scores, y), batch_size=len(y), sync_dist=True)
        self.log(f"{split}/acc", accuracy, prog_bar=True)

    def on_fit_start(self) -> None:
        # Lightning keeps the mode a submodule is handed over in, and a model from zoo.load may be in eval mode.
        self.train()
        given, outputs = getattr(self.trainer.datamodule, "num_classes", 0), self.model.head.out_features
        if given > outputs:
            raise ValueError(f"the data has {given} classes, the model {outputs}; set model.num_classes to {given}")

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        super().on_save_checkpoint(checkpoint)
        # All that export needs to build the model again; the class names are the data's.
        classes = getattr(self.trainer.datamodule, "classes", ())
        known = {"classes": list(classes)} if len(classes) == self.model.head.out_features else {}
        checkpoint["zoo"] = self.model.zoo_config | known

    def configure_optimizers(self) -> dict:
        h = self.hparams
        lr = optim.learning_rate(self.trainer, 1e-3 if h.lr is h.base_lr is None else h.lr, h.base_lr)
        if h.layer_decay is None:
            groups = optim.decay_groups(self.model, h.weight_decay)
        else:
            from timm.optim import param_groups_layer_decay

            no_decay = getattr(self.model, "no_decay", ())
            groups = param_groups_layer_decay(self.model, h.weight_decay, no_decay, layer_decay=h.layer_decay)
            groups = [{**g, "lr": lr * g["lr_scale"]} for g in groups]
        if h.optimizer == "lars":
            from timm.optim import Lars

            # As published: matrices are scaled by their trust ratio though nothing decays, biases never.
            groups = [{**g, "always_adapt": g["params"][0].ndim > 1} for g in groups]
            optimizer = Lars(groups, lr, momentum=0.9, trust_coeff=0.001)
        else:
            optimizer = torch.optim.AdamW(groups, lr, tuple(h.betas), weight_decay=h.weight_decay, fused=True)
        return optim.warmup_cosine(optimizer, self.trainer, lr, h.min_lr, h.warmup_epochs)
