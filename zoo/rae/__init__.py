"""Representation autoencoders: a decoder for a frozen encoder, and a diffusion transformer in its latents."""
