"""Smaller copies of a network."""
