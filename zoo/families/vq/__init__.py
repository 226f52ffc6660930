"""Vector quantisation: VQ-VAE, VQGAN, QLAE, and the quantisers they share."""

from zoo.registry import lazily

__all__, __getattr__, __dir__ = lazily(__name__)
