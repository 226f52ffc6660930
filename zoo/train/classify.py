"""LitClassifier: trains any model of the zoo that turns images or clips into logits."""

import math
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer
from torchmetrics.classification import MulticlassAccuracy

from zoo import hub
from zoo.data.classes import count_classes
from zoo.nn.protocols import Classifies, HasLayers, Network, SparesDecay
from zoo.train import optim
from zoo.train.common import Training


class LitClassifier(Training):
    """Fine-tuning and probing: cross-entropy, AdamW, linear warm-up, half a cosine (Loshchilov and Hutter 2017, 2019).

    A batch is (images (B, C, H, W) or clips (B, F, C, H, W) in [0, 1], labels (B,) int64). Of clips with V views,
    (B, V, F, C, H, W), probabilities are averaged. The model is `self.model`, a plain nn.Module.
    The data's classes are the head's, each and no more; where weights bring names, by name.

    Args:
        weights: tag of that arch to start from, a checkpoint folder, a run or `hf://org/name`, or the name of an
            autoencoder whose encoder it takes ("mae_vit_tiny.cifar10"); None starts at random.
        num_classes: with weights, another number than theirs gives the model a new random head; without, it goes to
            the arch.
        reset_head: with weights, a new random head though they have one of as many classes.
        probe: train the head alone, on frozen features.
        layer_decay: each block learns so much slower than the next one (Clark et al. 2020; Bao et al. 2022).
        optimizer: "adamw" or "lars" (You et al. 2017), momentum 0.9 and trust 0.001, as the published linear probe.
        label_smoothing: in [0, 1).
        mixup, cutmix: the α of each (Zhang et al. 2018; Yun et al. 2019); with both, a batch gets either by chance.

    Raises:
        ValueError: the arch gives no logits; weights, optimiser or learning rates that do not go together.
    """

    def __init__(
        self,
        arch: str,
        *,
        num_classes: int | None = None,
        reset_head: bool = False,
        probe: bool = False,
        layer_decay: float | None = None,
        optimizer: str = "adamw",
        min_lr: float = 0.0,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        **common: Any,
    ):
        super().__init__(arch, min_lr=min_lr, **common)
        if not 0 <= label_smoothing < 1 or min(mixup, cutmix) < 0:
            raise ValueError(
                f"label_smoothing={label_smoothing}, mixup={mixup}, cutmix={cutmix}: allowed 0 to below 1, 0 and above"
            )
        if optimizer not in ("adamw", "lars"):
            raise ValueError(f"optimizer={optimizer!r}, allowed adamw and lars")
        if layer_decay is not None and not isinstance(self.model, HasLayers):
            raise ValueError(f"{arch} has no layers to decay; leave layer_decay out")
        self.measure_classes()

    def measure_classes(self) -> None:
        """What depends on how many classes the head tells apart."""
        h = self.hparams
        self.outputs: int = count_classes(self.model)  # O
        self.mix: Callable[..., Any] | None = None
        if h.mixup or h.cutmix:
            from timm.data import Mixup

            self.mix = Mixup(h.mixup, h.cutmix, label_smoothing=h.label_smoothing, num_classes=self.outputs)
        self.val_accuracy = MulticlassAccuracy(self.outputs, average="micro")
        self.test_accuracy = MulticlassAccuracy(self.outputs, average="micro")

    @property
    def reads_labels(self) -> bool:
        return True

    def make_model(self) -> Network:
        h = self.hparams
        args = dict(h.arch_args or {})
        if h.weights is None and h.num_classes is not None:
            args["num_classes"] = h.num_classes
        model = hub.create(h.arch, h.weights, **args)
        if not isinstance(model, Classifies):
            raise ValueError(
                f"{h.arch} gives no logits; train {h.arch}_classifier, with weights={h.weights or h.arch!r}"
            )
        outputs = h.num_classes or model.head.out_features
        if h.weights is not None and (h.reset_head or outputs != model.head.out_features):
            hub.reset_head(model, outputs)
        if h.probe:
            model.requires_grad_(False)
            model.head.requires_grad_(True)
        return model

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) or clips (B, F, C, H, W) in [0, 1] → logits (B, O)."""
        return self.model(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch[0], self.labels(batch[1])
        if self.mix is not None:
            x, y = self._mixed(x, y, self.mix)
        smoothing = 0.0 if self.mix is not None else self.hparams.label_smoothing
        loss = F.cross_entropy(self(x), y, label_smoothing=smoothing)
        self.log_step(loss)
        return loss

    def _mixed(self, x: Tensor, y: Tensor, mix: Callable[..., Any]) -> tuple[Tensor, Tensor]:
        """Images or clips, mixed in pairs, and their labels as (B, O), smoothed; the last of an odd batch is not mixed.

        Odd is what an epoch ends with where a run goes on with another batch size, and a set smaller than a batch.
        """
        from timm.data.mixup import mixup_target

        even = len(x) // 2 * 2
        target = mixup_target(y, self.outputs, smoothing=self.hparams.label_smoothing)  # (B, O)
        if even:
            mixed, pairs = mix(x[:even].flatten(1, -3), y[:even])  # all frames of a clip alike
            x, target = torch.cat([mixed.view_as(x[:even]), x[even:]]), torch.cat([pairs, target[even:]])
        return x, target

    def evaluate(self, batch: tuple[Tensor, Tensor], batch_idx: int, split: str) -> None:
        x, y = batch[0], self.labels(batch[1])
        accuracy = self.val_accuracy if split == "val" else self.test_accuracy
        scores = self._scores(x)  # (B, O)
        accuracy(scores, y)
        self.log(f"{split}/loss", F.nll_loss(scores, y), batch_size=len(y), sync_dist=True)
        self.log(f"{split}/acc", accuracy, prog_bar=True)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Probabilities (B, O) of a batch of samples, with or without labels; of V views, their mean."""
        return self._scores(batch if isinstance(batch, Tensor) else batch[0]).exp()  # (B, O)

    def _scores(self, x: Tensor) -> Tensor:
        """Logarithms of the probabilities (B, O) of samples (B, …), of V views (B, V, …) of their mean."""
        views = x.shape[1] if x.ndim == 6 else 1
        scores = self(x.flatten(0, 1) if x.ndim == 6 else x).log_softmax(-1)  # (B V, O)
        return scores.unflatten(0, (-1, views)).logsumexp(1) - math.log(views)  # (B, O)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        h = self.hparams
        lr = self.peak()
        if h.layer_decay is None:
            groups = optim.decay_groups(self.model, h.weight_decay)
        else:
            from timm.optim import param_groups_layer_decay

            no_decay = self.model.no_decay if isinstance(self.model, SparesDecay) else ()
            groups = param_groups_layer_decay(self.model, h.weight_decay, no_decay, layer_decay=h.layer_decay)
            groups = [{**g, "lr": lr * g["lr_scale"]} for g in groups]
        if h.optimizer == "lars":
            from timm.optim import Lars

            # As published: matrices are scaled by their trust ratio though nothing decays, biases never.
            groups = [{**g, "always_adapt": g["params"][0].ndim > 1} for g in groups]
            optimizer: Optimizer = Lars(groups, lr, momentum=0.9, trust_coeff=0.001)
        else:
            optimizer = torch.optim.AdamW(groups, lr, tuple(h.betas), weight_decay=h.weight_decay, fused=True)
        return self.schedule(optimizer, lr)
