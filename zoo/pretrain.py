"""What training without labels shares, and LitMAE, which pretrains masked autoencoders of images and of video."""

from collections.abc import Callable
from typing import Any, Self

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.utils import make_grid

from zoo import adversarial, hub, optim, parallel, registry
from zoo.layers import check_types
from zoo.metrics import knn_accuracy


class Pretraining(optim.Guarded, parallel.Sharded, L.LightningModule):
    """What training without labels shares: a `model` with its `zoo_config`, AdamW, warm-up, cosine.

    Hyperparameters read here: lr, base_lr, weight_decay, betas, warmup_epochs and min_lr, of which None keeps the peak.
    """

    @classmethod
    def from_weights(cls, name: str, **args) -> Self:
        """Ready to go on training from `arch.tag`, a checkpoint folder or hf://org/name; keywords as the class's."""
        arch = hub.load(name).zoo_config["arch"]
        return cls(arch, name.removeprefix(f"{arch}."), **args)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate(batch, batch_idx, "val")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate(batch, batch_idx, "test")

    def log_pictures(self, name: str, draw: Callable[[], Tensor], across: int = 8) -> None:
        """Images (B, C, H, W) in [0, 1] as a grid; they are only made where a logger takes pictures."""
        boards = [b.experiment for b in self.loggers if hasattr(b.experiment, "add_image")]
        if boards:
            grid = make_grid(draw(), nrow=across)  # (C, H', W')
            for board in boards:
                board.add_image(name, grid, self.global_step)

    def log_reconstructions(self, x: Tensor, recon: Tensor) -> None:
        """Eight originals (B, C, H, W) above what was made of them."""
        self.log_pictures("val/reconstruction", lambda: torch.cat([x[:8], recon[:8].clamp(0, 1).to(x)]), len(x[:8]))

    def on_fit_start(self) -> None:
        # Lightning keeps the mode a submodule is handed over in, and a model from zoo.load may be in eval mode.
        self.train()

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        super().on_save_checkpoint(checkpoint)
        # All that export needs to build the model again.
        checkpoint["zoo"] = self.model.zoo_config

    def configure_optimizers(self) -> dict:
        h = self.hparams
        lr = optim.learning_rate(self.trainer, h.lr, h.base_lr)
        optimizer = torch.optim.AdamW(optim.decay_groups(self.model, h.weight_decay), lr, tuple(h.betas), fused=True)
        return optim.warmup_cosine(optimizer, self.trainer, lr, lr if h.min_lr is None else h.min_lr, h.warmup_epochs)


class Averaging(Pretraining):
    """Keeps an exponential moving average of the model: what is evaluated, exported and saved as the best.

    Hyperparameter read here: ema, the decay an optimiser step; 0 is off. Of a model that needs a frozen network, that
    one is not copied.
    """

    def keep_average(self) -> None:
        """Called at the end of `__init__`, before anything is compiled."""
        decay = self.hparams.ema
        if not 0 <= decay < 1:
            raise ValueError(f"ema={decay}, allowed 0 to below 1")
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(decay)) if decay else None
        if self.average is not None:
            self.average.requires_grad_(False)

    @property
    def averaged(self) -> nn.Module:
        """The average once there is one, else the model."""
        return self.model if self.average is None or not self.average.n_averaged else self.average.module

    def update_average(self) -> None:
        """After each step of the model's optimiser; without effect if that step had no gradient."""
        if self.average is not None and self.learned:
            self.average.update_parameters(self.model)
        self.learned = False


class Adversarial(Pretraining):
    """Training against a `discriminator`, by hand: what VQGAN, DC-AE's third phase and RAE share.

    Gradients of either never reach the other, and both step once in `accumulate` batches. Read here: hyperparameters
    accumulate and disc_weight; `last_layer`, whose gradients weigh the two losses.
    """

    largest_weight, weight_eps = 1e4, 1e-4

    def __init__(self):
        super().__init__()
        self.steps = 0  # of the model's optimiser: the trainer counts both optimisers'

    def judge(self, x: Tensor) -> Tensor:
        """The discriminator's logits of images (B, C, H, W) in [-1, 1]."""
        return self.discriminator(x)

    def adversarial_step(
        self,
        loss: Tensor,
        reconstruction: Tensor,
        real: Tensor,
        fake: Tensor,
        last: bool,
        figures: dict[str, Tensor],
        counts: bool = True,
        learns: bool = True,
        adaptive: bool = True,
        clip: float | None = None,
    ) -> Tensor:
        """Both optimisers' part of a step; the loss of the model.

        Args:
            loss: all of it, but for the adversarial term; `reconstruction` is the part that λ weighs against.
            real, fake: images (B, C, H, W) in [-1, 1].
            last: whether this batch completes an optimiser step.
            figures: where terms are written down.
            counts, learns: whether the adversarial term counts, and whether the discriminator learns; where there is
                none, neither.
            adaptive: False sets λ to 1.
            clip: largest norm of the model's gradient.
        """
        h = self.hparams
        if counts:
            self.discriminator.requires_grad_(False)
            against = adversarial.generator_loss(self.judge(fake))
            weight = 1.0
            if adaptive:
                weight = adversarial.adaptive_weight(
                    reconstruction, against, self.last_layer, self.largest_weight, self.weight_eps
                )
            loss = loss + weight * h.disc_weight * against
            figures |= {"generator": against, "adaptive_weight": weight}
        with parallel.by_hand(self.trainer.strategy):
            self.manual_backward(loss / h.accumulate)
            if learns:
                self.discriminator.requires_grad_(True)
                judged = adversarial.discriminator_loss(self.judge(real.detach()), self.judge(fake.detach()))
                self.manual_backward(judged / h.accumulate)
                figures["discriminator"] = judged
        if last:
            parallel.average_gradients(self.parameters())
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip)
            optimizers = self.optimizers()
            for optimizer in optimizers[: 1 + learns] if isinstance(optimizers, list) else [optimizers]:
                optimizer.step()
                optimizer.zero_grad()
            self.steps += 1
        return loss

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["steps"] = self.steps

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        super().on_load_checkpoint(checkpoint)
        self.steps = checkpoint["steps"]


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
