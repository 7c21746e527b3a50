"""Errors, names and files: what every package may use."""
