"""What `zoo eval` prints and `zoo show` draws of a deep compression autoencoder."""

from zoo.report.reconstruction import evaluate, explain, figure

GALLERY = ("dcae_tiny_f8c4.tiny_imagenet", "photographs, through 256 numbers")
__all__ = ["evaluate", "explain", "figure"]
