"""Facts about images that several packages need."""

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
"""First bytes of every PNG file."""
LUMA = (0.298936021293775, 0.587043074451121, 0.114020904255103)
"""Shares of red, green and blue in grey, full range: BT.601 with the digits of MATLAB's `rgb2gray`."""
