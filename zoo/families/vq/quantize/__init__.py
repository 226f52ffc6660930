"""Quantisers: continuous tokens in, codes and their indices out, one interface for all.

    out = quantizer(z, mask)                     # out.z_q like z, out.indices int64, out.losses, out.stats
    quantizer.decode(quantizer.encode(z))        # equals quantizer(z).z_q in eval mode, bit for bit

They compute in float32 at least, whatever the precision around them. Indices come from an argmin or a rounding, never
from codes looked up again. Masked tokens get index -1, count nowhere and come out as zero. A token that is NaN or
infinite gets index -1 and counts nowhere either, and stays what it is, so that the loss shows it; in eval mode it is an
error.
"""

from collections.abc import Callable

from zoo.families.vq.quantize.binary import BinaryQuantizer
from zoo.families.vq.quantize.codebook import VectorQuantizer, nearest_code, rotate
from zoo.families.vq.quantize.common import QuantizeOutput, Quantizer, VQOutput, straight_through
from zoo.families.vq.quantize.compose import Product, Residual
from zoo.families.vq.quantize.fsq import FSQ
from zoo.families.vq.quantize.scalar import ScalarCodebooks

__all__ = [
    "QUANTIZERS",
    "BinaryQuantizer",
    "FSQ",
    "Product",
    "QuantizeOutput",
    "Quantizer",
    "Residual",
    "ScalarCodebooks",
    "VQOutput",
    "VectorQuantizer",
    "nearest_code",
    "rotate",
    "straight_through",
]

# What a network calls a quantiser -> what makes it of K, D and keywords of its own. Levels say both K and D of "fsq",
# and D says K of "lfq" and "bsq".
QUANTIZERS: dict[str, Callable[..., Quantizer]] = {
    "vq": VectorQuantizer,
    "fsq": lambda codebook_size, code_dim, /, **args: FSQ(**args),
    "lfq": lambda codebook_size, code_dim, /, **args: BinaryQuantizer(code_dim, spherical=False, **args),
    "bsq": lambda codebook_size, code_dim, /, **args: BinaryQuantizer(code_dim, spherical=True, **args),
}
