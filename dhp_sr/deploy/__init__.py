"""Finished models as files, and the runtimes that compute them.

Start with `model_info` (the facts about a network) and `model_file` (save and load). `manifest`
and `rebuild` are the file format; `weights` reads other projects' checkpoints; `onnx_export`,
`pt2_export` and `verify` write other formats; `runtimes` opens any of them, ready to run.
"""

from dhp_sr.deploy.model_file import check_saved, load_model, read_manifest, save_model
from dhp_sr.deploy.model_info import ModelInfo, SizeRequirements, register
from dhp_sr.deploy.safetensors_io import ModelFileError
from dhp_sr.deploy.weights import load_into, load_weights

__all__ = [
    "ModelFileError",
    "ModelInfo",
    "SizeRequirements",
    "check_saved",
    "load_into",
    "load_model",
    "load_weights",
    "read_manifest",
    "register",
    "save_model",
]
