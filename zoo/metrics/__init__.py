"""Figures that torchmetrics lacks: how well features tell classes apart, and how disentangled latents are."""

from zoo.metrics.infomec import infomec
from zoo.metrics.intervals import wilson
from zoo.metrics.moments import Moments
from zoo.metrics.probes import knn_accuracy, linear_accuracy
from zoo.metrics.verdicts import classification

__all__ = ["Moments", "classification", "infomec", "knn_accuracy", "linear_accuracy", "wilson"]
