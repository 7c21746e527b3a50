"""Pruned models as files that load anywhere, and weights that come from elsewhere."""

from .checkpoint import check_saved, load_model, read_manifest, save_model
from .container import ModelFileError
from .foreign import load_into, load_weights
from .origins import Origin, register

__all__ = [
    "ModelFileError",
    "Origin",
    "check_saved",
    "load_into",
    "load_model",
    "load_weights",
    "read_manifest",
    "register",
    "save_model",
]
