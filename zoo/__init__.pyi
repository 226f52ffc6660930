# Written by `python -m zoo.hub`: what is public, and which class a name gives.

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

from torch import nn

from zoo.nn.protocols import Network
from zoo.data.clips import ClipData as ClipData
from zoo.data.factors import FactorData as FactorData
from zoo.data.images import ImageData as ImageData
from zoo.data.latents import ImageLatentData as ImageLatentData
from zoo.data.latents import LatentData as LatentData
from zoo.data.synthetic import RandomImages as RandomImages
from zoo.data.transforms import collate as collate
from zoo.data.transforms import preprocess as preprocess
from zoo.data.transforms import transform as transform
from zoo.families.bilinear.model import BilinearClassifier as BilinearClassifier
from zoo.families.dcae.lit import LitDCAE as LitDCAE
from zoo.families.dcae.model import DCAE as DCAE
from zoo.families.mae.model import MAE as MAE
from zoo.families.mae.model import MAEClassifier as MAEClassifier
from zoo.families.rae.dit import DiTDH as DiTDH
from zoo.families.rae.encoder import FrozenEncoder as FrozenEncoder
from zoo.families.rae.lit import LitDiT as LitDiT
from zoo.families.rae.lit import LitRAE as LitRAE
from zoo.families.rae.model import RAE as RAE
from zoo.families.videomae.model import VideoMAE as VideoMAE
from zoo.families.videomae.model import VideoMAEClassifier as VideoMAEClassifier
from zoo.families.videomae.spacetime import SpaceTimeMAE as SpaceTimeMAE
from zoo.families.vq.lit import LitPrior as LitPrior
from zoo.families.vq.lit import LitVQ as LitVQ
from zoo.families.vq.lit import LitVQGAN as LitVQGAN
from zoo.families.vq.model import VQVAE as VQVAE
from zoo.families.vq.prior import CodePrior as CodePrior
from zoo.families.vq.qlae import LatentAutoencoder as LatentAutoencoder
from zoo.families.vq.quantize import BinaryQuantizer as BinaryQuantizer
from zoo.families.vq.quantize import FSQ as FSQ
from zoo.families.vq.quantize import Product as Product
from zoo.families.vq.quantize import Residual as Residual
from zoo.families.vq.quantize import ScalarCodebooks as ScalarCodebooks
from zoo.families.vq.quantize import VectorQuantizer as VectorQuantizer
from zoo.families.vq.vqgan import VQGAN as VQGAN
from zoo.hub.give import export as export
from zoo.hub.give import push as push
from zoo.hub.give import save as save
from zoo.hub.give import verify as verify
from zoo.nn.checks import unchecked as unchecked
from zoo.nn.protocols import AdaptsState as AdaptsState
from zoo.nn.protocols import Classifies as Classifies
from zoo.nn.protocols import DecaysAlso as DecaysAlso
from zoo.nn.protocols import FillsIn as FillsIn
from zoo.nn.protocols import FixesArguments as FixesArguments
from zoo.nn.protocols import HasCodes as HasCodes
from zoo.nn.protocols import HasFeatures as HasFeatures
from zoo.nn.protocols import HasLatents as HasLatents
from zoo.nn.protocols import HasLayers as HasLayers
from zoo.nn.protocols import HasTokens as HasTokens
from zoo.nn.protocols import Input as Input
from zoo.nn.protocols import KeepsBatchState as KeepsBatchState
from zoo.nn.protocols import Model as Model
from zoo.nn.protocols import PrefersData as PrefersData
from zoo.nn.protocols import Recomputes as Recomputes
from zoo.nn.protocols import Reconstructs as Reconstructs
from zoo.nn.protocols import Samples as Samples
from zoo.nn.protocols import SparesDecay as SparesDecay
from zoo.nn.protocols import StartsFrom as StartsFrom
from zoo.registry import Metric as Metric
from zoo.registry import Weights as Weights
from zoo.registry import list_models as list_models
from zoo.registry import list_weights as list_weights
from zoo.registry import weights_info as weights_info
from zoo.train.autoencode import LitAutoencoder as LitAutoencoder
from zoo.train.classify import LitClassifier as LitClassifier
from zoo.train.finetune import LitFinetune as LitFinetune
from zoo.train.mask import LitMAE as LitMAE

__version__: str
__all__: list[str]

M = TypeVar("M", bound=nn.Module)

@overload
def create(arch: Literal[
    "bilinear_d64", "bilinear_d256", "bilinear_d512_l3"
], weights: str | None = None, **args: Any) -> BilinearClassifier: ...
@overload
def create(arch: Literal[
    "dcae_f32c32", "dcae_f64c128", "dcae_f128c512", "dcae_f32c32_sana", "dcae_f32c32_lite", "dcae15_f32c128",
    "dcae15_f64c128", "dcae_tiny_f4c4", "dcae_tiny_f8c4", "dcae_tiny_f16c16", "dcae_tiny_f32c64"
], weights: str | None = None, **args: Any) -> DCAE: ...
@overload
def create(arch: Literal[
    "mae_vit_tiny", "mae_vit_small", "mae_vit_base", "mae_vit_large", "mae_vit_huge", "mae_vit_tiny_fast",
    "mae_vit_small_fast", "mae_vit_base_fast"
], weights: str | None = None, **args: Any) -> MAE: ...
@overload
def create(arch: Literal[
    "mae_vit_tiny_classifier", "mae_vit_small_classifier", "mae_vit_base_classifier", "mae_vit_large_classifier",
    "mae_vit_huge_classifier"
], weights: str | None = None, **args: Any) -> MAEClassifier: ...
@overload
def create(arch: Literal[
    "rae_mae_vit_tiny", "rae_vit_base", "rae_vit_large", "rae_vit_xl"
], weights: str | None = None, **args: Any) -> RAE: ...
@overload
def create(arch: Literal[
    "ditdh_tiny", "ditdh_s", "ditdh_xl"
], weights: str | None = None, **args: Any) -> DiTDH: ...
@overload
def create(arch: Literal[
    "videomae_vit_tiny", "videomae_vit_small", "videomae_vit_base", "videomae_vit_large", "videomae_vit_huge",
    "videomae_v2_vit_small", "videomae_v2_vit_base", "videomae_v2_vit_large", "videomae_v2_vit_huge",
    "videomae_v2_vit_giant"
], weights: str | None = None, **args: Any) -> VideoMAE: ...
@overload
def create(arch: Literal[
    "mae_st_vit_base", "mae_st_vit_large", "mae_st_vit_huge"
], weights: str | None = None, **args: Any) -> SpaceTimeMAE: ...
@overload
def create(arch: Literal[
    "videomae_vit_tiny_classifier", "videomae_vit_small_classifier", "videomae_vit_base_classifier",
    "videomae_vit_large_classifier", "videomae_vit_huge_classifier", "videomae_v2_vit_giant_classifier",
    "mae_st_vit_base_classifier", "mae_st_vit_large_classifier", "mae_st_vit_huge_classifier"
], weights: str | None = None, **args: Any) -> VideoMAEClassifier: ...
@overload
def create(arch: Literal[
    "vqvae_conv_small", "vqvae_conv_base", "vqvae_conv_large"
], weights: str | None = None, **args: Any) -> VQVAE: ...
@overload
def create(arch: Literal[
    "qlae_conv", "ae_conv", "vae_conv", "vqvae_conv_latents"
], weights: str | None = None, **args: Any) -> LatentAutoencoder: ...
@overload
def create(arch: Literal[
    "vqgan_f16", "vqgan_f8", "vqgan_f4", "llamagen_ds16", "llamagen_ds8"
], weights: str | None = None, **args: Any) -> VQGAN: ...
@overload
def create(arch: Literal[
    "vqprior_tiny", "vqprior_small", "vqprior_base"
], weights: str | None = None, **args: Any) -> CodePrior: ...
@overload
def create(arch: str, weights: str | None = None, **args: Any) -> Network: ...
@overload
def load(name: Literal[
    "bilinear_d256.mnist", "bilinear_d256.mnist_noise"
], *, mmap: bool | None = None, **args: Any) -> BilinearClassifier: ...
@overload
def load(name: Literal[
    "dcae_tiny_f8c4.tiny_imagenet", "dcae_tiny_f32c64.tiny_imagenet", "dcae_f32c32.in", "dcae_f32c32.in_diffusers",
    "dcae_f32c32.mix", "dcae_f32c32.mix_diffusers", "dcae_f32c32.in_256px", "dcae_f32c32.in_256px_diffusers",
    "dcae_f64c128.in", "dcae_f64c128.in_diffusers", "dcae_f64c128.mix", "dcae_f64c128.mix_diffusers",
    "dcae_f128c512.in", "dcae_f128c512.in_diffusers", "dcae_f128c512.mix", "dcae_f128c512.mix_diffusers",
    "dcae_f32c32_sana.1_0", "dcae_f32c32_sana.1_0_diffusers", "dcae_f32c32_sana.1_1",
    "dcae_f32c32_sana.1_1_diffusers", "dcae_f32c32_lite.1_1", "dcae_f32c32_lite.1_1_diffusers"
], *, mmap: bool | None = None, **args: Any) -> DCAE: ...
@overload
def load(name: Literal[
    "mae_vit_tiny.cifar10", "mae_vit_tiny.tiny_imagenet", "mae_vit_base.in1k", "mae_vit_base.in1k_full",
    "mae_vit_base.in1k_visualize", "mae_vit_large.in1k", "mae_vit_large.in1k_full", "mae_vit_large.in1k_visualize",
    "mae_vit_huge.in1k", "mae_vit_huge.in1k_full", "mae_vit_huge.in1k_visualize",
    "mae_vit_large.in1k_visualize_gan", "mae_vit_base.in1k_timm", "mae_vit_base.in1k_hf", "mae_vit_large.in1k_timm",
    "mae_vit_large.in1k_hf", "mae_vit_huge.in1k_timm", "mae_vit_huge.in1k_hf", "mae_vit_base.in1k_mmpretrain_300e",
    "mae_vit_base.in1k_mmpretrain_400e", "mae_vit_base.in1k_mmpretrain_800e", "mae_vit_base.in1k_mmpretrain_1600e",
    "mae_vit_large.in1k_mmpretrain_400e", "mae_vit_large.in1k_mmpretrain_800e",
    "mae_vit_large.in1k_mmpretrain_1600e", "mae_vit_huge.in1k_mmpretrain_1600e"
], *, mmap: bool | None = None, **args: Any) -> MAE: ...
@overload
def load(name: Literal[
    "mae_vit_tiny_classifier.cifar10", "mae_vit_base_classifier.in1k", "mae_vit_large_classifier.in1k",
    "mae_vit_huge_classifier.in1k"
], *, mmap: bool | None = None, **args: Any) -> MAEClassifier: ...
@overload
def load(name: Literal[
    "rae_mae_vit_tiny.tiny_imagenet", "rae_vit_xl.dinov2_small", "rae_vit_xl.dinov2_small_diffusers",
    "rae_vit_xl.dinov2_base", "rae_vit_xl.dinov2_base_diffusers", "rae_vit_xl.dinov2_base_512",
    "rae_vit_xl.dinov2_base_512_diffusers", "rae_vit_xl.dinov2_large", "rae_vit_xl.dinov2_large_diffusers",
    "rae_vit_xl.mae_base", "rae_vit_xl.mae_base_diffusers", "rae_vit_xl.siglip2_base",
    "rae_vit_xl.siglip2_base_diffusers"
], *, mmap: bool | None = None, **args: Any) -> RAE: ...
@overload
def load(name: Literal[
    "ditdh_tiny.tiny_imagenet", "ditdh_xl.imagenet256", "ditdh_s.imagenet256", "ditdh_xl.imagenet512",
    "ditdh_s.imagenet512"
], *, mmap: bool | None = None, **args: Any) -> DiTDH: ...
@overload
def load(name: Literal[
    "videomae_vit_tiny.sprites", "videomae_vit_base.k400", "videomae_vit_base.k400_800e", "videomae_vit_large.k400",
    "videomae_vit_base.ssv2", "videomae_vit_base.ssv2_800e", "videomae_v2_vit_giant.hybrid"
], *, mmap: bool | None = None, **args: Any) -> VideoMAE: ...
@overload
def load(name: Literal[
    "videomae_vit_small_classifier.k400", "videomae_vit_small_classifier.ssv2", "videomae_vit_base_classifier.k400",
    "videomae_vit_base_classifier.k400_800e", "videomae_vit_base_classifier.ssv2",
    "videomae_vit_base_classifier.ssv2_800e", "videomae_vit_large_classifier.k400",
    "videomae_vit_huge_classifier.k400", "videomae_v2_vit_giant_classifier.k710",
    "videomae_v2_vit_giant_classifier.ssv2", "videomae_vit_small_classifier.k710_distilled",
    "videomae_vit_base_classifier.k710_distilled", "videomae_vit_base_classifier.v2_features",
    "videomae_vit_large_classifier.v2_features", "videomae_vit_huge_classifier.v2_features"
], *, mmap: bool | None = None, **args: Any) -> VideoMAEClassifier: ...
@overload
def load(name: Literal[
    "mae_st_vit_large.k400", "mae_st_vit_large.k600", "mae_st_vit_large.k700", "mae_st_vit_huge.k400",
    "mae_st_vit_huge.k600", "mae_st_vit_huge.k700", "mae_st_vit_base.k400", "mae_st_vit_large.k400_pyslowfast",
    "mae_st_vit_huge.k400_pyslowfast"
], *, mmap: bool | None = None, **args: Any) -> SpaceTimeMAE: ...
@overload
def load(name: Literal[
    "vqvae_conv_small.cifar10", "vqvae_conv_small.mnist"
], *, mmap: bool | None = None, **args: Any) -> VQVAE: ...
@overload
def load(name: Literal[
    "qlae_conv.rendered"
], *, mmap: bool | None = None, **args: Any) -> LatentAutoencoder: ...
@overload
def load(name: Literal[
    "vqprior_tiny.mnist"
], *, mmap: bool | None = None, **args: Any) -> CodePrior: ...
@overload
def load(name: Literal[
    "vqgan_f16.in1k_1024", "vqgan_f16.in1k_1024_hf", "vqgan_f16.in1k_16384", "vqgan_f16.in1k_16384_hf",
    "llamagen_ds16.in1k", "llamagen_ds8.in1k", "llamagen_ds16.t2i", "vqgan_f4.celebahq", "vqgan_f16.amused_256",
    "vqgan_f16.amused_512", "vqgan_f8.ithq"
], *, mmap: bool | None = None, **args: Any) -> VQGAN: ...
@overload
def load(name: str, model_class: type[M], *, mmap: bool | None = None, **args: Any) -> M: ...
@overload
def load(name: str, *, mmap: bool | None = None, **args: Any) -> Network: ...
@overload
def convert(source: str | Path | Mapping[str, Any], arch: Literal[
    "bilinear_d64", "bilinear_d256", "bilinear_d512_l3"
], *, take: str | None = None, stats: str | Path | Mapping[str, Any] | None = None, **args: Any) -> BilinearClassifier: ...
@overload
def convert(source: str | Path | Mapping[str, Any], arch: Literal[
    "dcae_f32c32", "dcae_f64c128", "dcae_f128c512", "dcae_f32c32_sana", "dcae_f32c32_lite", "dcae15_f32c128",
    "dcae15_f64c128", "dcae_tiny_f4c4", "dcae_tiny_f8c4", "dcae_tiny_f16c16", "dcae_tiny_f32c64"
], *, take: str | None = None, stats: str | Path | Mapping[str, Any] | None = None, **args: Any) -> DCAE: ...
@overload
def convert(source: str | Path | Mapping[str, Any], arch: Literal[
    "mae_vit_tiny", "mae_vit_small", "mae_vit_base", "mae_vit_large", "mae_vit_huge", "mae_vit_tiny_fast",
    "mae_vit_small_fast", "mae_vit_base_fast"
], *, take: str | None = None, stats: str | Path | Mapping[str, Any] | None = None, **args: Any) -> MAE: ...
@overload
def convert(source: str | Path | Mapping[str, Any], arch: Literal[
    "mae_vit_tiny_classifier", "mae_vit_small_classifier", "mae_vit_base_classifier", "mae_vit_large_classifier",
    "mae_vit_huge_classifier"
], *, take: str | None = None, stats: str | Path | Mapping[str, Any] | None = None, **args: Any) -> MAEClassifier: ...
@overload
def convert(source: str | Path | Mapping[str, Any], arch: Literal[
    "rae_mae_vit_tiny", "rae_vit_base", "rae_vit_large", "rae_vit_xl"
], *, take: str | None = None, stats: str | Path | Mapping[str, Any] | None = None, **args: Any) -> RAE: ...
@overload
def convert(source: str | Path | Mapping[str, Any], arch: Literal[
    "ditdh_tiny", "ditdh_s", "ditdh_xl"
], *, take: str | None = None, stats: str | Path | Mapping[str, Any] | None = None, **args: Any) -> DiTDH: ...
@overload
def convert(source: str | Path | Mapping[str, Any], arch: Literal[
    "videomae_vit_tiny", "videomae_vit_small", "videomae_vit_base", "videomae_vit_large", "videomae_vit_huge",
    "videomae_v2_vit_small", "videomae_v2_vit_base", "videomae_v2_vit_large", "videomae_v2_vit_huge",
    "videomae_v2_vit_giant"
], *, take: str | None = None, stats: str | Path | Mapping[str, Any] | None = None, **args: Any) -> VideoMAE: ...
@overload
def convert(source: str | Path | Mapping[str, Any], arch: Literal[
    "mae_st_vit_base", "mae_st_vit_large", "mae_st_vit_huge"
], *, take: str | None = None, stats: str | Path | Mapping[str, Any] | None = None, **args: Any) -> SpaceTimeMAE: ...
@overload
def convert(source: str | Path | Mapping[str, Any], arch: Literal[
    "videomae_vit_tiny_classifier", "videomae_vit_small_classifier", "videomae_vit_base_classifier",
    "videomae_vit_large_classifier", "videomae_vit_huge_classifier", "videomae_v2_vit_giant_classifier",
    "mae_st_vit_base_classifier", "mae_st_vit_large_classifier", "mae_st_vit_huge_classifier"
], *, take: str | None = None, stats: str | Path | Mapping[str, Any] | None = None, **args: Any) -> VideoMAEClassifier: ...
@overload
def convert(source: str | Path | Mapping[str, Any], arch: Literal[
    "vqvae_conv_small", "vqvae_conv_base", "vqvae_conv_large"
], *, take: str | None = None, stats: str | Path | Mapping[str, Any] | None = None, **args: Any) -> VQVAE: ...
@overload
def convert(source: str | Path | Mapping[str, Any], arch: Literal[
    "qlae_conv", "ae_conv", "vae_conv", "vqvae_conv_latents"
], *, take: str | None = None, stats: str | Path | Mapping[str, Any] | None = None, **args: Any) -> LatentAutoencoder: ...
@overload
def convert(source: str | Path | Mapping[str, Any], arch: Literal[
    "vqgan_f16", "vqgan_f8", "vqgan_f4", "llamagen_ds16", "llamagen_ds8"
], *, take: str | None = None, stats: str | Path | Mapping[str, Any] | None = None, **args: Any) -> VQGAN: ...
@overload
def convert(source: str | Path | Mapping[str, Any], arch: Literal[
    "vqprior_tiny", "vqprior_small", "vqprior_base"
], *, take: str | None = None, stats: str | Path | Mapping[str, Any] | None = None, **args: Any) -> CodePrior: ...
@overload
def convert(source: str | Path | Mapping[str, Any], arch: str, *, take: str | None = None, stats: str | Path | Mapping[str, Any] | None = None, **args: Any) -> Network: ...
