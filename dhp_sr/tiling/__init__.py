"""Tiling: the pixels around a tile that a network needs, for the results of the whole image.

Start with `receptive.receptive_field`. The rules of single operators are in `operators`.
"""
