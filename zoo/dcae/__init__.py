"""Deep compression autoencoders, and their training in three phases."""
