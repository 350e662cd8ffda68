"""Layers of the encoder."""
