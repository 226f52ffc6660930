"""Vector quantisation: VQ-VAE, VQGAN, QLAE, and the quantisers they share."""
