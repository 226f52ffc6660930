"""Deep compression autoencoders, and their training in three phases."""

from zoo.registry import lazily

__all__, __getattr__, __dir__ = lazily(__name__)
