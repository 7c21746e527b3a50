"""Images through a finished model, tile by tile.

Start with `pipeline.py`: it takes a list of tasks (`task_list.py`) and decodes, restores
(`restore.py`, in tiles of `tiles.py`) and encodes (`encode.py`) at the same time.
"""
