"""Receptive fields, for exact tiled inference."""
