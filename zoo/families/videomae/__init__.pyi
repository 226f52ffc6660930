# Written by `python -m zoo.hub`: what is public, and which class a name gives.

from zoo.families.videomae.model import VideoMAE as VideoMAE
from zoo.families.videomae.model import VideoMAEClassifier as VideoMAEClassifier
from zoo.families.videomae.spacetime import SpaceTimeMAE as SpaceTimeMAE

__all__: list[str]
