"""Tables, plots and the HTML page of a run, made from the files in its folder alone.

Start with `run.py` (what a run folder holds), then `tables.py` (text), `plots.py` (PNG files, need
matplotlib) and `page/` (report.html, needs Jinja2). Nothing here imports torch.
"""
