"""Short trainings of every family, by one process or by two: `torchrun --nproc_per_node 2 tests/two_processes.py FILE`.

In float64, so that what is left between the two is rounding. Two processes with batches of B see the very images, and
draw the very masks and noises, that one process with batches of 2 B does.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torchvision.transforms.v2.functional import to_pil_image

import zoo
from zoo.data import sharding
from zoo.data.batches import Batches
from zoo.data.clips import ClipData
from zoo.data.factors import FactorData
from zoo.data.images import ImageData
from zoo.data.synthetic import RandomImages
from zoo.families.dcae.lit import LitDCAE
from zoo.families.rae.lit import LitDiT, LitRAE
from zoo.families.vq.lit import LitPrior, LitVQ, LitVQGAN
from zoo.hub import tiny
from zoo.nn.frozen import Frozen
from zoo.train import parallel
from zoo.train.classify import LitClassifier
from zoo.train.mask import LitMAE

JOINED = 12  # images of a step, over all processes
FOLDERS: list[tempfile.TemporaryDirectory] = []


def images(shape: tuple[int, int, int], count: int = 51) -> RandomImages:
    """51 over two processes: 26 and 25 to evaluate."""
    return RandomImages(shape, count, JOINED // parallel.world()[1])


def shared(write: Callable[[Path], Any]) -> str:
    """A folder for all processes, into which the first one has written; it is there until the end."""
    folder = tempfile.TemporaryDirectory()
    FOLDERS.append(folder)
    if parallel.world()[0] == 0:
        write(Path(folder.name))
    return parallel.gather(folder.name)[0]


def classifier() -> tuple[L.LightningModule, L.LightningDataModule]:
    args = tiny("mae_vit_tiny_classifier") | {"num_classes": 4, "head_norm": True}
    return LitClassifier("mae_vit_tiny_classifier", arch_args=args, lr=1e-3), images((3, 16, 16))


def bilinear() -> tuple[L.LightningModule, L.LightningDataModule]:
    args = tiny("bilinear_d64") | {"num_classes": 4}
    return LitClassifier("bilinear_d64", arch_args=args, lr=1e-2, weight_decay=0.01), images((1, 16, 16))


def shards() -> tuple[L.LightningModule, L.LightningDataModule]:
    """From a stream; each process reads its lanes."""
    how = {"image_size": 16, "crop_scale": (0.5, 1.0), "num_workers": 0, "shuffle_buffer": 5}
    size = JOINED // parallel.world()[1]
    data = ImageData(f"shards:{shared(write_shards)}/shards", batch_size=size, eval_batch_size=size, **how)
    args = tiny("bilinear_d64") | {"num_classes": 4}
    return LitClassifier("bilinear_d64", arch_args=args, lr=1e-2, weight_decay=0.01), data


def write_shards(folder: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    for split in ("train", "val", "test"):
        for i in range(51):
            file = folder / "images" / split / str(i % 4) / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            to_pil_image(torch.randint(256, (1, 20, 20), generator=draw, dtype=torch.uint8)).save(file)
    list(sharding.write(f"{folder}/images", folder / "shards", samples=7))


def mae() -> tuple[L.LightningModule, L.LightningDataModule]:
    return LitMAE("mae_vit_tiny", arch_args=tiny("mae_vit_tiny"), lr=1e-3, warmup_epochs=1), images((3, 16, 16), 48)


def videomae() -> tuple[L.LightningModule, L.LightningDataModule]:
    args = tiny("videomae_vit_tiny")
    size = JOINED // parallel.world()[1]
    data = ClipData("sprites", 8, 64, limit=5, batch_size=size, eval_batch_size=size)
    return LitMAE("videomae_vit_tiny", arch_args=args, lr=1e-3, warmup_epochs=1, probe_images=24), data


def vq() -> tuple[L.LightningModule, L.LightningDataModule]:
    quantizer = {"init": "kmeans", "restart": 0.1, "decay": 0.9}
    args = tiny("vqvae_conv_small") | {"codebook_size": 16, "quantizer_args": quantizer}
    return LitVQ("vqvae_conv_small", arch_args=args, lr=3e-3), images((3, 16, 16))


def qlae() -> tuple[L.LightningModule, L.LightningDataModule]:
    size = JOINED // parallel.world()[1]
    data = FactorData(image_size=32, num_images=51, num_test=51, batch_size=size, eval_batch_size=size)
    how = {"lr": 1e-3, "weight_decay": 0.1, "clip": 1.0, "infomec_images": 40}
    return LitVQ("qlae_conv", arch_args=tiny("qlae_conv"), **how), data


def vqgan() -> tuple[L.LightningModule, L.LightningDataModule]:
    args = tiny("vqgan_f4") | {"mults": [1, 1]}
    lit = LitVQGAN("vqgan_f4", arch_args=args, lr=1e-3, perceptual_weight=0, disc_start=1, disc_warmup=1, accumulate=2)
    return lit, images((3, 24, 24), 27)


def prior() -> tuple[L.LightningModule, L.LightningDataModule]:
    args = tiny("vqprior_tiny")
    lit = LitPrior("vqprior_tiny", "vqvae_conv_small.mnist", arch_args=args, num_classes=4, lr=1e-3)
    return lit, images((1, 28, 28))


def dcae() -> tuple[L.LightningModule, L.LightningDataModule]:
    lit = LitDCAE("dcae_tiny_f4c4", arch_args=tiny("dcae_tiny_f4c4"), lr=1e-3, perceptual_weight=0)
    return lit, images((3, 16, 16))


def dcae_phase3() -> tuple[L.LightningModule, L.LightningDataModule]:
    before = zoo.create("dcae_tiny_f4c4", **tiny("dcae_tiny_f4c4") | {"image_size": 24})
    weights = shared(lambda folder: zoo.save(before, folder))
    lit = LitDCAE("dcae_tiny_f4c4", weights=weights, phase=3, lr=1e-3, perceptual_weight=0, disc_warmup=1)
    return lit, images((3, 24, 24), 27)


def rae() -> tuple[L.LightningModule, L.LightningDataModule]:
    frozen = zoo.create("mae_vit_tiny", **tiny("mae_vit_tiny"))
    encoder = shared(lambda folder: zoo.save(frozen, folder))
    args = tiny("rae_mae_vit_tiny") | {"image_size": 16, "encoder": encoder, "encoder_size": 16}
    args |= {"latent_channels": 32, "grid": 4}
    how = {
        "disc_backbone": encoder,
        "disc_taps": [0],
        "disc_weight": 0.75,
        "disc_start": 1,
        "disc_warmup": 1,
        "ema": 0.9,
    }
    return LitRAE("rae_mae_vit_tiny", arch_args=args, lr=1e-3, perceptual_weight=0, **how), images((3, 16, 16), 27)


def ditdh() -> tuple[L.LightningModule, L.LightningDataModule]:
    args = tiny("ditdh_tiny")
    lit = LitDiT("ditdh_tiny", "dcae_tiny_f8c4.tiny_imagenet", arch_args=args, num_classes=4, lr=1e-3, ema=0.9)
    return lit, images((4, 8, 8), 48)


CASES: dict[str, Callable[[], tuple[L.LightningModule, L.LightningDataModule]]] = {
    f.__name__: f
    for f in (bilinear, classifier, shards, mae, videomae, vq, qlae, vqgan, prior, dcae, dcae_phase3, rae, ditdh)
}
SHARDED = ("classifier", "mae", "vqgan", "dcae_phase3", "rae", "ditdh")  # what the others have, these have
AUTOMATIC = {"gradient_clip_val": 0.5, "accumulate_grad_batches": 2}  # the others clip and accumulate themselves


class JoinedDraws(TorchFunctionMode):
    """What is drawn at random for a batch of B is this process's part of a draw for the joined batch."""

    DRAWS = (torch.rand, torch.randn, torch.randint, torch.randn_like)

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs, (rank, world) = kwargs or {}, parallel.world()
        mine = JOINED // world
        if func is torch.randn_like:  # which of itself fills memory in the order in which its argument lies there
            drawn = func(args[0].new_empty([JOINED if s == mine else s for s in args[0].shape]))
        elif func not in self.DRAWS or world == 1 or kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        else:
            widened = [tuple(JOINED if s == mine else s for s in a) if isinstance(a, tuple) else a for a in args]
            bounds = 2 if func is torch.randint else 0
            drawn = func(*widened[:bounds], *(JOINED if a == mine else a for a in widened[bounds:]), **kwargs)
        for dim, size in enumerate(drawn.shape):
            if size == JOINED and world > 1:
                drawn = drawn.narrow(dim, rank * mine, mine)
        return drawn


class RankByRank(L.Callback):
    """One process sees a batch in the order of two: first what rank 0 holds."""

    def on_fit_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        order = Batches._order

        def reordered(self: Batches, epoch: int) -> Tensor:
            whole = order(self, epoch)
            if not self.shuffle:
                return whole
            return torch.cat([half for b in whole.split(self.batch_size) for half in (b[0::2], b[1::2])])

        Batches._order, self.order = reordered, order

    def on_fit_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        Batches._order = self.order


class Joined(L.Callback):
    """What the processes see of every step together, drawn as one process would: which images, and the loss."""

    def __init__(self):
        self.images: list[Tensor] = []
        self.losses: list[Tensor] = []
        self.draws = JoinedDraws()

    def on_train_start(self, *args: Any) -> None:
        L.seed_everything(0, verbose=False)  # the strategies differ in what they draw before

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, *args: Any) -> None:
        self.images.append(parallel.rows(batch[0].double().flatten(1).square().mean(1)).sort().values)
        self.draws.__enter__()

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        self.draws.__exit__(None, None, None)
        self.losses.append(parallel.mean(trainer.callback_metrics["train/loss"].double()))


def train(name: str, strategy: str | Any = "auto") -> dict[str, Tensor]:
    """Three epochs and a test: every tensor of the state, every figure, the loss of every step."""
    L.seed_everything(0, verbose=False)
    lit, data = CASES[name]()
    lit.double()  # by hand: ModelParallelStrategy knows no precision "64-true"
    for frozen in [f for holder in (lit, lit.model) for f in vars(holder).values() if isinstance(f, Frozen)]:
        frozen().double()
    transferred = data.on_after_batch_transfer
    data.on_after_batch_transfer = lambda batch, i: [
        x.double() if x.is_floating_point() else x for x in transferred(batch, i)
    ]
    world, joined = parallel.world()[1], Joined()
    trainer = L.Trainer(
        accelerator="cpu",
        devices=world,
        strategy=strategy,
        max_epochs=3,
        limit_val_batches=2 if name == "videomae" else None,
        limit_test_batches=2 if name == "videomae" else None,
        num_sanity_val_steps=0,
        sync_batchnorm=False,
        plugins=[parallel.JoinBatchNorms()] if world > 1 else [],
        callbacks=[joined] if world > 1 else [joined, RankByRank()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **(AUTOMATIC if lit.automatic_optimization else {}),
    )
    torch.set_default_dtype(torch.float64)
    try:
        trainer.fit(lit, data)
        metrics, state = dict(trainer.callback_metrics), trainer.strategy.lightning_module_state_dict()
        (tested,) = trainer.test(lit, data, verbose=False)
    finally:
        torch.set_default_dtype(torch.float32)
    found = {f"state {k}": v for k, v in state.items() if not k.startswith("moments.")}  # which are of one process
    figures = {k: v for k, v in (metrics | tested).items() if not k.startswith("train/")}
    found |= {f"figure {k}": torch.as_tensor(v) for k, v in figures.items()}
    steps = {"loss of each step": torch.stack(joined.losses), "images of each step": torch.stack(joined.images)}
    return found | steps


def fsdp() -> ModelParallelStrategy:
    return ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1, save_distributed_checkpoint=False)


def main(file: str, *names: str) -> None:
    torch.distributed.init_process_group("gloo")
    found = {}
    for name in names or CASES:
        found[name, "ddp"] = train(name, "ddp")
        if name in SHARDED:
            found[name, "fsdp"] = train(name, fsdp())
    torch.save(found, f"{file}.{parallel.world()[0]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
