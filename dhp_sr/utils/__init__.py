"""Helpers that every package may use; they import nothing else of dhp_sr.

Start with `errors.py` (`UserError`: every mistake a user can correct) and `files.py` (atomic
writes). `timing.py` and `devices.py` are behind every latency that the project reports.
"""
