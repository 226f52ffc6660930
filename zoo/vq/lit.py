"""LitVQ: trains VQ-VAE, QLAE and its baselines; codebook use over whole epochs, InfoMEC where factors are known."""

from typing import Any

import lightning as L
import torch
from torch import Tensor
from torchvision.utils import make_grid

from zoo import hub, optim
from zoo.infomec import infomec
from zoo.vq.usage import CodebookUsage


class LitVQ(L.LightningModule):
    """The published training (van den Oord et al. 2017, A.1; Hsu et al. 2023, C): Adam with decoupled weight decay.

    A batch is (images (B, C, H, W) in [0, 1], labels). Labels never train anything: factors, (B, S) int64, score the
    latents by InfoMEC. Statistics of codes wait for the last of accumulated batches, as gradients do.

    Args:
        arch: `zoo ls '*vq*'` and `zoo ls '*_conv'` list them.
        weights: a tag of that arch to go on from, a checkpoint folder, a run or `hf://org/name`; None starts at random.
        arch_args: keywords of the arch.
        lr: peak learning rate; or leave it out for
        base_lr: peak learning rate per 256 images of an optimiser step.
        weight_decay: decoupled; on what has two axes or more, and on what the model lists besides.
        betas: of Adam.
        clip: largest absolute entry of a gradient, of decayed parameters (QLAE's).
        warmup_epochs: length of the linear warm-up.
        min_lr: where the cosine ends; None keeps the step size.
        infomec_images: how many validation images InfoMEC is measured on; 0 is off.
        compile: let torch compile the model.
    """

    def __init__(
        self,
        arch: str,
        weights: str | None = None,
        arch_args: dict[str, Any] | None = None,
        lr: float | None = None,
        base_lr: float | None = None,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        clip: float | None = None,
        warmup_epochs: float = 0.0,
        min_lr: float | None = None,
        infomec_images: int = 10_000,
        compile: bool = False,
    ):
        super().__init__()
        self.save_hyperparameters()
        self.model = hub.create(arch, weights, **dict(arch_args or {})).to(memory_format=torch.channels_last)
        quantizer = self.model.quantizer
        self.usage = None if quantizer is None else CodebookUsage(quantizer.codebook_size, quantizer.num_codebooks)
        self.latents: list[tuple[Tensor, Tensor]] = []
        if compile:
            self.model.compile()

    @classmethod
    def from_weights(cls, name: str, **args) -> "LitVQ":
        """Ready to go on training from `arch.tag`, a checkpoint folder or hf://org/name; keywords as above."""
        arch = hub.load(name).zoo_config["arch"]
        return cls(arch, name.removeprefix(f"{arch}."), **args)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] → the same after the bottleneck."""
        return self.model.reconstruct(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x = batch[0].contiguous(memory_format=torch.channels_last)
        steps = (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0 or self.trainer.is_last_batch
        out = self.model(x, update=steps)
        self.log_dict({f"train/{k}": v for k, v in (out.losses | out.stats).items()})
        self.log("train/loss", out.loss, prog_bar=True)
        return out.loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, batch_idx, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, batch_idx, "test")

    def on_validation_epoch_end(self) -> None:
        self._summarise("val")

    def on_test_epoch_end(self) -> None:
        self._summarise("test")

    def _evaluate(self, batch: tuple[Tensor, Tensor], batch_idx: int, split: str) -> None:
        x, y = batch
        out = self.model(x)
        error = (out.recon.clamp(0, 1) - x).square().mean((1, 2, 3))  # (B,)
        figures = {"loss": out.loss, "mse": error.mean(), "psnr": (-10 * error.clamp(min=1e-10).log10()).mean()}
        if hasattr(self.model, "variance"):
            figures["error"] = figures["mse"] / self.model.variance
        self.log_dict({f"{split}/{k}": v for k, v in figures.items()}, batch_size=len(x), sync_dist=True)
        if self.usage is not None:
            self.usage.update(out.indices)
        if y.ndim == 2 and sum(len(f) for _, f in self.latents) < self.hparams.infomec_images:
            self.latents.append((out.indices if out.indices.numel() else self.model.forward_features(x).float(), y))
        if split == "val" and batch_idx == 0:
            self._draw(x[:8], out.recon[:8])

    def _summarise(self, split: str) -> None:
        if self.usage is not None:
            self.log_dict({f"{split}/{k}": v.float() for k, v in self.usage.compute().items()})
            self.usage.reset()
        if self.latents:
            latents, factors = (torch.cat(parts)[: self.hparams.infomec_images] for parts in zip(*self.latents))
            self.latents.clear()
            scores = infomec(latents, factors, discrete=not latents.is_floating_point())
            for name in ("infom", "infoe", "infoc"):
                self.log(f"{split}/{name}", getattr(scores, name), prog_bar=True, sync_dist=True)

    def _draw(self, x: Tensor, recon: Tensor) -> None:
        """Originals above reconstructions, where a logger takes pictures."""
        for board in (b.experiment for b in self.loggers if hasattr(b.experiment, "add_image")):
            grid = make_grid(torch.cat([x, recon.clamp(0, 1).to(x)]), nrow=len(x))  # (C, H', W')
            board.add_image("val/reconstruction", grid, self.global_step)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self.hparams.clip is not None:
            torch.nn.utils.clip_grad_value_(optimizer.param_groups[0]["params"], self.hparams.clip)

    def on_fit_start(self) -> None:
        # Lightning keeps the mode a submodule is handed over in, and a model from zoo.load may be in eval mode.
        self.train()

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        # All that export needs to build the model again.
        checkpoint["zoo"] = self.model.zoo_config

    def configure_optimizers(self) -> dict:
        h = self.hparams
        lr = optim.learning_rate(self.trainer, h.lr, h.base_lr)
        optimizer = torch.optim.AdamW(optim.decay_groups(self.model, h.weight_decay), lr, tuple(h.betas), fused=True)
        return optim.warmup_cosine(optimizer, self.trainer, lr, lr if h.min_lr is None else h.min_lr, h.warmup_epochs)
