"""Benchmarks of this repository; their results are in results/, the tables made by tables.py.

`engine.py`, `method_comparison.py` and `stability_analysis.py` are the commands.
"""
