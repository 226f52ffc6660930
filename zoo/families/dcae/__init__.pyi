# Written by `python -m zoo.hub`: what is public, and which class a name gives.

from zoo.families.dcae.blocks import attend_linearly as attend_linearly
from zoo.families.dcae.blocks import haar as haar
from zoo.families.dcae.lit import LitDCAE as LitDCAE
from zoo.families.dcae.model import DCAE as DCAE
from zoo.families.dcae.model import mask_channels as mask_channels

__all__: list[str]
