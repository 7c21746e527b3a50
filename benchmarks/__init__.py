"""Measurements of the engine behind the tables in README.md; run `python benchmarks/engine.py --help`."""
