"""Report page of a run: one HTML file with everything in it.

Start with `write.py`, which collects the content and renders the template. The other modules
prepare one section of the page each; templates, style and scripts are in `assets/`.
"""

from dhp_sr.reports.page.write import page_html, write_page

__all__ = ["page_html", "write_page"]
