"""Tiling: which pixels around a tile of an image a network needs, so that results are those of the whole image.

Start with `receptive.receptive_field`. The rules of single operators are in `operators`.
"""
