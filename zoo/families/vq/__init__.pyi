# Written by `python -m zoo.hub`: what is public, and which class a name gives.

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
from zoo.families.vq.quantize import nearest_code as nearest_code
from zoo.families.vq.quantize import rotate as rotate
from zoo.families.vq.quantize import straight_through as straight_through
from zoo.families.vq.vqgan import VQGAN as VQGAN

__all__: list[str]
