"""Pruned models as files that load anywhere, and weights that come from elsewhere."""

from dhp_sr.deploy.model_file import check_saved, load_model, read_manifest, save_model
from dhp_sr.deploy.safetensors_io import ModelFileError
from dhp_sr.deploy.third_party import Origin, register
from dhp_sr.deploy.weights import load_into, load_weights

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
