"""The checksum of a model file: a weight changed by one bit looks like any other weight."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from dhp_sr.deploy.safetensors_io import ModelFileError

CHECKSUM = "sha256"
"""Key in a model file's metadata; the first files had none."""


def checksum(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of a file's description and weights: keys, types, shapes and numbers.

    Args:
        metadata: with the manifest's text.
        tensors: all of the file by key, on any device.
    """
    total = hashlib.sha256(metadata["manifest"].encode())
    for key, tensor in sorted(tensors.items()):
        total.update(f"{key}\n{tensor.dtype}\n{tuple(tensor.shape)}\n".encode())
        total.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def check_sum(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
    """Compare a file's checksum, where it has one, with what was read.

    Raises:
        ModelFileError: they differ.
    """
    if metadata.get(CHECKSUM) not in (None, checksum(metadata, tensors)):
        raise ModelFileError(
            "the file is damaged: weights or description differ from its checksum; copy it again"
        )
