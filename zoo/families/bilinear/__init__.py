"""Bilinear classifiers: networks that are read from their weights (Pearce, Dooms et al. 2024)."""

from zoo.registry import lazily

__all__, __getattr__, __dir__ = lazily(__name__)
