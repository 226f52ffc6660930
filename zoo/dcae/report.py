"""What `zoo eval` prints and `zoo show` draws of a deep compression autoencoder."""

from zoo.reconstruction import evaluate, explain, figure

__all__ = ["evaluate", "explain", "figure"]
