"""Option files: their schema, how they are read and checked."""

from dhp_sr.config.loader import dump_options, load_options
from dhp_sr.config.paths import resolve_path, resolve_paths, run_path
from dhp_sr.config.schema import Options

__all__ = ["Options", "dump_options", "load_options", "resolve_path", "resolve_paths", "run_path"]
