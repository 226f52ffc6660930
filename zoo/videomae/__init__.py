"""Masked autoencoders and their classifiers."""
