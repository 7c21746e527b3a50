"""The page of a run: one HTML file with everything in it."""

from .write import page, write_page

__all__ = ["page", "write_page"]
