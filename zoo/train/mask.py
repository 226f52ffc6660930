"""LitMAE, which pretrains masked autoencoders of images and of video."""

from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from zoo import registry
from zoo.metrics.probes import knn_accuracy, scored
from zoo.nn.masked import MaskedAutoencoder
from zoo.nn.protocols import FillsIn, HasTokens, Network, frames_of
from zoo.train import parallel
from zoo.train.autoencode import LitAutoencoder
from zoo.train.optim import Rate

if TYPE_CHECKING:

    class Masked(Network, FillsIn, HasTokens):
        """What LitMAE trains. A name for type checkers."""


class LitMAE(LitAutoencoder):
    """The published pretraining (He et al. 2021, A.1; Tong et al. 2022): AdamW, warm-up, cosine.

    A batch is (images (B, C, H, W) or clips (B, F, C, H, W) in [0, 1], labels (B,) int64). Labels never train anything:
    they score the online probe, in which each held-out sample of odd index is classified by its 20 nearest neighbours
    among those of even index, by the mean patch token.

    Args:
        weight_decay: decoupled, on every parameter of two or more axes; as published also on class and mask token, but
            for VideoMAE's mask token.
        probe_images: how many held-out samples the online probe looks at; 0 is off.

    Raises:
        ValueError: weights without a decoder, or trained for another target than `arch_args` asks for; an arch that
            hides nothing.
    """

    model: "Masked"
    averaged: "Masked"
    usual = Rate(base_lr=1.5e-4)

    def __init__(
        self,
        arch: str,
        *,
        weight_decay: float = 0.05,
        betas: tuple[float, float] = (0.9, 0.95),
        warmup_epochs: float = 40,
        min_lr: float = 0.0,
        probe_images: int = 5000,
        **common: Any,
    ):
        super().__init__(
            arch, weight_decay=weight_decay, betas=betas, warmup_epochs=warmup_epochs, min_lr=min_lr, **common
        )
        if probe_images < 0 or probe_images == 1:
            raise ValueError(
                f"probe_images={probe_images}, allowed 0 for none, or 2 and more, half of them to classify"
            )
        self.features: list[tuple[Tensor, Tensor]] = []

    def make_model(self) -> Network:
        model, h = super().make_model(), self.hparams
        if not (isinstance(model, FillsIn) and isinstance(model, HasTokens)):
            raise ValueError(f"{h.arch} hides nothing that it could predict; train it with zoo.LitAutoencoder")
        if isinstance(model, MaskedAutoencoder) and model.decoder is None:
            raise ValueError(f"{h.weights} is an encoder alone, pretraining needs a decoder; {_with_decoder(h.arch)}")
        return model

    def compile_model(self) -> None:
        self.model.compile(fullgraph=True, dynamic=False)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) or clips (B, F, C, H, W) in [0, 1] → tokens (B, T + N, D), nothing masked."""
        return self.averaged.forward_features(x)

    def on_validation_epoch_end(self) -> None:
        self._probe("val")

    def on_test_epoch_end(self) -> None:
        self._probe(self.tested)

    def evaluate(self, batch: tuple[Tensor, Tensor], batch_idx: int, split: str) -> None:
        x, y = batch
        model = self.averaged
        order = self._order(x, batch_idx)
        self.log(f"{split}/loss", model(x, order).loss, batch_size=len(y), sync_dist=True)
        if sum(len(labels) for _, labels in self.features) * self.trainer.world_size < self.hparams.probe_images:
            tokens = model.forward_features(x)[:, model.num_cls_tokens :]  # (B, N, D)
            self.features.append((tokens.mean(1).float(), y))  # (B, D), (B,)
        if split == "val" and batch_idx == 0:
            self.log_pictures("val/reconstruction", lambda: self._rows(x[:8], order[:8]), rows=4)

    def _order(self, x: Tensor, batch_idx: int) -> Tensor:
        # Each validation draws the same masks, whatever the training has drawn and however many processes there are,
        # so that its losses can be compared.
        rank, world = parallel.world()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(batch_idx)
            return self.model.draw(len(x) * world)[rank::world].to(x.device)

    def _probe(self, split: str) -> None:
        if self.features:
            joined = (parallel.rows(torch.cat(parts)) for parts in zip(*self.features))
            features, labels = (part[: self.hparams.probe_images] for part in joined)
            self.features.clear()
            if not scored(labels):
                rank_zero_warn(f"the {split} samples have no labels: there is no {split}/knn of their features")
                return
            bank = features[::2]
            accuracy = knn_accuracy(bank, labels[::2], features[1::2], labels[1::2], min(20, len(bank)))
            self.log(f"{split}/knn", accuracy, prog_bar=True, sync_dist=True)

    def _rows(self, x: Tensor, order: Tensor) -> Tensor:
        """Samples, masked, predicted, pasted, one below the other; of clips, the first, a frame a picture."""
        seen, predicted, pasted = (p.to(x) for p in self.averaged.reconstruct(x, order))
        pictures = [frames_of(x, pasted), seen, predicted, pasted]
        return torch.cat([p[0] if x.ndim == 5 else p for p in pictures])  # (4 B or 4 F', C, H, W)


def _with_decoder(arch: str) -> str:
    full = [w.name for w in registry.records().values() if w.arch == arch and w.kind == "full"]
    return f"these have one: {', '.join(full)}" if full else f"no weights of {arch} have one, start without weights"
