"""LitMAE, which pretrains masked autoencoders of images and of video."""

from typing import Any

import torch
from torch import Tensor

from zoo import hub, registry
from zoo.metrics.probes import knn_accuracy
from zoo.nn.checks import check_types
from zoo.train import parallel
from zoo.train.common import Pretraining


class LitMAE(Pretraining):
    """The published pretraining (He et al. 2021, A.1; Tong et al. 2022): AdamW, warm-up, cosine.

    A batch is (images (B, C, H, W) or clips (B, F, C, H, W) in [0, 1], labels (B,) int64). Labels never train anything:
    they score the online probe, in which each held-out sample of odd index is classified by its 20 nearest neighbours
    among those of even index, by the mean patch token.

    Args:
        arch: `zoo ls '*mae*'` lists them.
        weights: a tag of that arch to go on from, a checkpoint folder, a run or `hf://org/name`; None starts at random.
        arch_args: keywords of the arch (`{"image_size": 32, "patch_size": 4}`).
        lr: peak learning rate; or leave it out for
        base_lr: peak learning rate per 256 samples of an optimiser step.
        weight_decay: decoupled, on every parameter of two or more axes, as published also on class and mask token.
        betas: of AdamW.
        warmup_epochs: length of the linear warm-up.
        min_lr: where the cosine ends.
        probe_images: how many held-out samples the online probe looks at; 0 is off.
        grad_checkpointing: keep no activations inside blocks; less memory, a third more time.
        compile: let torch compile the model into one graph.

    Raises:
        ValueError: weights without a decoder, or trained for another target than `arch_args` asks for.
    """

    def __init__(
        self,
        arch: str,
        weights: str | None = None,
        arch_args: dict[str, Any] | None = None,
        lr: float | None = None,
        base_lr: float | None = None,
        weight_decay: float = 0.05,
        betas: tuple[float, float] = (0.9, 0.95),
        warmup_epochs: float = 40,
        min_lr: float = 0.0,
        probe_images: int = 5000,
        grad_checkpointing: bool = False,
        compile: bool = False,
    ):
        check_types(LitMAE, locals())
        super().__init__()
        self.save_hyperparameters()
        if probe_images < 0 or probe_images == 1:
            raise ValueError(
                f"probe_images={probe_images}, allowed 0 for none, or 2 and more, half of them to classify"
            )
        args = dict(arch_args or {})
        self.model = hub.create(arch, weights, **args)
        if self.model.decoder is None:
            raise ValueError(f"{weights} is an encoder alone, pretraining needs a decoder; {_with_decoder(arch)}")
        self.model.grad_checkpointing = grad_checkpointing
        if compile:
            self.model.compile(fullgraph=True, dynamic=False)
        self.features: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) or clips (B, F, C, H, W) in [0, 1] → tokens (B, T + N, D), nothing masked."""
        return self.model.forward_features(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = self.model(batch[0]).loss
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def on_validation_epoch_end(self) -> None:
        self._probe("val")

    def on_test_epoch_end(self) -> None:
        self._probe("test")

    def _evaluate(self, batch: tuple[Tensor, Tensor], batch_idx: int, split: str) -> None:
        x, y = batch
        order = self._order(x, batch_idx)
        self.log(f"{split}/loss", self.model(x, order).loss, batch_size=len(y), sync_dist=True)
        if sum(len(labels) for _, labels in self.features) * self.trainer.world_size < self.hparams.probe_images:
            tokens = self.model.forward_features(x)[:, self.model.num_cls_tokens :]  # (B, N, D)
            self.features.append((tokens.mean(1).float(), y))  # (B, D), (B,)
        if split == "val" and batch_idx == 0:
            across = getattr(self.model, "pred_frames", x.shape[1]) if x.ndim == 5 else len(x[:8])
            self.log_pictures("val/reconstruction", lambda: self._rows(x[:8], order[:8]), across)

    def _order(self, x: Tensor, batch_idx: int) -> Tensor:
        # The same masks at every validation, whatever the training has drawn and on however many processes: losses
        # compare.
        rank, world = parallel.world()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(batch_idx)
            return self.model.draw(len(x) * world)[rank::world].to(x.device)

    def _probe(self, split: str) -> None:
        if self.features:
            joined = (parallel.rows(torch.cat(parts)) for parts in zip(*self.features))
            features, labels = (part[: self.hparams.probe_images] for part in joined)
            self.features.clear()
            bank = features[::2]
            accuracy = knn_accuracy(bank, labels[::2], features[1::2], labels[1::2], min(20, len(bank)))
            self.log(f"{split}/knn", accuracy, prog_bar=True, sync_dist=True)

    def _rows(self, x: Tensor, order: Tensor) -> Tensor:
        """Samples, masked, predicted, pasted, one below the other; of clips, the first, a frame a picture."""
        pictures = [x, *(p.to(x) for p in self.model.reconstruct(x, order))]
        if x.ndim == 5:  # of a model that predicts some frames, the others are left out
            frames = torch.linspace(0, x.shape[1] - 1, pictures[1].shape[1]).long()
            pictures = [p[0, frames] if p is x else p[0] for p in pictures]  # (F, C, H, W) each
        return torch.cat(pictures)  # (4 B or 4 F, C, H, W)


def _with_decoder(arch: str) -> str:
    full = [w.name for w in registry.records().values() if w.arch == arch and w.kind == "full"]
    return f"these have one: {', '.join(full)}" if full else f"no weights of {arch} have one, start without weights"
