"""How many threads of the CPU may be asked for."""

MOST_THREADS = 1024
"""More than this, and torch may end the process without a word."""
