"""A model file's description as one of its tensors, for programs that hand on tensors alone.

Loaders of model collections (spandrel, ComfyUI, converters) drop the metadata of a safetensors file. Widths can be read
from shapes, but not the range and the mean of EDSR, nor which network it is. So the part of the manifest that rebuilds
the network lies in the file a second time, as bytes under a key that is no weight, with a checksum of its own: weights
may have been converted on their way. `load_model` reads the metadata.
"""

import json
import zlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dhp_sr.deploy.manifest import CLASSIFIER, DERIVED, unpack
from dhp_sr.deploy.safetensors_io import DESCRIPTION, ModelFileError
from dhp_sr.deploy.strict_json import read_json

LARGEST_BYTES = 2**22
_KEPT = (*DERIVED, *CLASSIFIER, "forward", "smallest_side")
_SUM = "crc32"


def embed(metadata: Mapping[str, str]) -> Tensor:
    """Return the bytes (uint8, one axis) of a file's metadata without its facts (scores, versions, ...)."""
    manifest = json.loads(metadata["manifest"])
    kept = {key: manifest[key] for key in _KEPT if key in manifest}
    text = json.dumps(kept, separators=(",", ":"))
    stated = {key: metadata[key] for key in ("format", "format_version")}
    whole = json.dumps({**stated, _SUM: _sum(text), "manifest": text}, separators=(",", ":"))
    return torch.frombuffer(bytearray(whole.encode()), dtype=torch.uint8)


def extract(tensors: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the manifest that lies among the tensors of a state dict, checked, and the others: the weights.

    Raises:
        ModelFileError: there is none, or it is not well formed.
    """
    found = tensors.get(DESCRIPTION)
    if found is None:
        raise ModelFileError(
            f"expected the key {DESCRIPTION!r} among the tensors, found none: save the model again"
        )
    if found.dtype != torch.uint8 or found.dim() != 1 or found.numel() > LARGEST_BYTES:
        raise ModelFileError(
            f"{DESCRIPTION}: expected bytes, found {found.dtype} of shape {tuple(found.shape)}"
        )
    weights = {key: tensor for key, tensor in tensors.items() if key != DESCRIPTION}
    stated = _metadata(bytes(found.cpu().numpy()))
    manifest = unpack(stated)
    if stated.get(_SUM) != _sum(stated["manifest"]):
        raise ModelFileError(
            f"{DESCRIPTION}: damaged, it differs from its checksum; copy the file again"
        )
    return manifest, weights


def _sum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"


def _metadata(text: bytes) -> dict[str, str]:
    found = read_json(text, DESCRIPTION)
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ModelFileError(
            f"{DESCRIPTION}: expected a JSON object of texts, found something else"
        )
    return found
