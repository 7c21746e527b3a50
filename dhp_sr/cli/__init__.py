"""Services behind the entry points."""
