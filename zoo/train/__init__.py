"""Training: what is shared, the loops that fit many families, and the run around them."""
