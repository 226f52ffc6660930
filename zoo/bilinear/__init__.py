"""Bilinear classifiers: networks that are read from their weights (Pearce, Dooms et al. 2024)."""
