"""What the gallery shows of a deep compression autoencoder."""

GALLERY = ("dcae_tiny_f8c4.tiny_imagenet", "photographs, through 256 numbers")
