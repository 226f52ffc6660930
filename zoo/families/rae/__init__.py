"""Representation autoencoders: a decoder for a frozen encoder, and a diffusion transformer in its latents."""

from zoo.registry import lazily

__all__, __getattr__, __dir__ = lazily(__name__)
