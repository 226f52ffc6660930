# Written by `python -m zoo.hub`: what is public, and which class a name gives.

from zoo.families.rae.dit import DiTDH as DiTDH
from zoo.families.rae.encoder import FrozenEncoder as FrozenEncoder
from zoo.families.rae.lit import LitDiT as LitDiT
from zoo.families.rae.lit import LitRAE as LitRAE
from zoo.families.rae.model import RAE as RAE

__all__: list[str]
