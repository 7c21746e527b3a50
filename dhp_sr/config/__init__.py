"""Option files: their schema, how they are read and checked.

Start with `schema.py`, which lists every key, and `load_options` in `loader.py`. `paths.py` says
where the named files lie, `checks.py` holds what types cannot express, and `messages.py` turns
errors of pydantic into messages for users.
"""

from dhp_sr.config.loader import dump_options, load_options
from dhp_sr.config.paths import resolve_path, resolve_paths, run_path
from dhp_sr.config.schema import Options

__all__ = ["Options", "dump_options", "load_options", "resolve_path", "resolve_paths", "run_path"]
