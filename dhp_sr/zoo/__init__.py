"""Networks by name or from a file."""
