"""Masked autoencoders and their classifiers."""

from zoo.registry import lazily

__all__, __getattr__, __dir__ = lazily(__name__)
