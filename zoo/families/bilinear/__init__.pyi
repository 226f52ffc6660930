# Written by `python -m zoo.hub`: what is public, and which class a name gives.

from zoo.families.bilinear.model import BilinearClassifier as BilinearClassifier
from zoo.families.bilinear.model import adversarial_masks as adversarial_masks
from zoo.families.bilinear.model import decompose as decompose
from zoo.families.bilinear.model import effective_rank as effective_rank
from zoo.families.bilinear.model import eigen_logits as eigen_logits
from zoo.families.bilinear.model import hosvd as hosvd
from zoo.families.bilinear.model import interaction_tensor as interaction_tensor
from zoo.families.bilinear.model import tensor_similarity as tensor_similarity
from zoo.families.bilinear.model import to_pixels as to_pixels
from zoo.families.bilinear.model import truncate as truncate
from zoo.families.bilinear.model import truncation_curve as truncation_curve

__all__: list[str]
