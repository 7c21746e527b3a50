"""The page of a run: one HTML file with everything in it."""

from dhp_sr.reports.page.write import page, write_page

__all__ = ["page", "write_page"]
