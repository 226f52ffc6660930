# Written by `python -m zoo.hub`: what is public, and which class a name gives.

from zoo.families.mae.model import MAE as MAE
from zoo.families.mae.model import MAEClassifier as MAEClassifier

__all__: list[str]
