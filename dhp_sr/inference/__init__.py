"""Images through a finished model: read, restored tile by tile, written."""
