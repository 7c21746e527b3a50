"""ONNX files as models to run: those of dhp_sr say what they are, of others it is found out by trial."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dhp_sr.deploy.onnx_metadata import unpack_metadata
from dhp_sr.deploy.onnx_session import open_onnx
from dhp_sr.deploy.probe_shapes import MULTIPLES, trial_side
from dhp_sr.deploy.runner import UNKNOWN_BYTES, Images, Runner
from dhp_sr.deploy.safetensors_io import ModelFileError
from dhp_sr.deploy.third_party import CLASSIFICATION, check_restores
from dhp_sr.utils.errors import UserError

_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_LARGEST = 4096
_UNSAID = "the file does not say how far a pixel's influence reaches"


@dataclass(frozen=True)
class Classifier:
    """An ONNX file of ours that names classes, and can be called."""

    in_channels: int
    input_size: int
    """Side of the images that it is meant for."""
    classes: int
    compute: Callable[[Images], Images]
    """(N, in_channels, input_size, input_size) in [0, 1] -> (N, classes)."""


def open_onnx_model(
    path: Path, device: torch.device, precision: str, threads: int | None
) -> Runner:
    """Return an ONNX file ready to run; arguments and errors are those of `open_model`."""
    if device.type != "cpu":
        raise UserError(
            f"{path}: ONNX files run on the CPU; use --device cpu, or the safetensors file for {device}"
        )
    found = open_onnx_any(path, precision, threads)
    if isinstance(found, Classifier):
        check_restores(CLASSIFICATION, path)
    return found


def open_onnx_any(
    path: Path, precision: str = "fp32", threads: int | None = None
) -> Runner | Classifier:
    """Return an ONNX file ready to run, of a network that restores images or, if it is ours, that names classes.

    Raises:
        UserError: it is neither, or computes in another precision.
    """
    session = open_onnx(path, threads or torch.get_num_threads())
    given, kind = _picture_in(session, path)
    own = "fp16" if kind is np.float16 else "fp32"
    if precision not in ("fp32", own):
        raise UserError(
            f"{path}: computes in {own}, --precision {precision} has no effect; export another file"
        )
    said = _said(session, path)
    channels = given.shape[1] if isinstance(given.shape[1], int) else said.get("in_channels", 3)
    compute = _compute(session, given.name, kind)
    if said.get("task") == CLASSIFICATION:
        return _classifier(compute, said, path)
    check_restores(said.get("task", "sr"), path)
    multiple, scale, out_channels = _by_trial(compute, channels, path, said.get("size_multiple", 1))
    if said.get("scale", scale) != scale:
        raise ModelFileError(
            f"{path}: expected scale {said['scale']}, as its metadata says, found {scale}"
        )
    return Runner(
        path=path,
        task=said.get("task", "sr" if scale > 1 else ""),
        scale=scale,
        in_channels=channels,
        out_channels=out_channels,
        size_multiple=multiple,
        halo=said.get("halo"),
        reason="" if "halo" in said else _UNSAID,
        tile_multiple=said.get("tile_multiple", multiple),
        pixel_bytes=said.get("bytes_per_pixel", UNKNOWN_BYTES),
        compute=compute,
    )


def _classifier(
    compute: Callable[[Images], Images], said: dict[str, Any], path: Path
) -> Classifier:
    side, channels, classes = said.get("input_size", 0), said["in_channels"], said["out_channels"]
    if not 0 < side <= _LARGEST:
        raise ModelFileError(
            f"{path}: metadata: expected input_size from 1 to {_LARGEST}, found {side}"
        )
    found = compute(np.full((1, channels, side, side), 0.5, dtype=np.float32))
    if found.shape != (1, classes):
        raise ModelFileError(
            f"{path}: expected {classes} classes, as its metadata says, found {found.shape}"
        )
    return Classifier(channels, side, classes, compute)


def _said(session: Any, path: Path) -> dict[str, Any]:
    """Return the file's own description; empty for a file of another program."""
    try:
        said = unpack_metadata(session.get_modelmeta().custom_metadata_map) or {}
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error
    for key in ("scale", "size_multiple", "tile_multiple", "halo"):
        if said.get(key, 1) > _LARGEST:
            raise ModelFileError(
                f"{path}: metadata: expected {key} up to {_LARGEST}, found {said[key]}"
            )
    return said


def _picture_in(session: Any, path: Path) -> tuple[Any, type]:
    """Return the input and its type; one image goes in, one comes out."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if (
        len(inputs) != 1
        or len(outputs) != 1
        or len(inputs[0].shape) != 4
        or inputs[0].type not in _TYPES
    ):
        listing = ", ".join(f"{one.name} {one.type} {one.shape}" for one in inputs)
        raise UserError(
            f"{path}: expected one image (N, C, H, W) of floating-point numbers in and one out, "
            f"found {len(outputs)} out and in: {listing}"
        )
    if any(isinstance(side, int) for side in inputs[0].shape[2:]):
        raise UserError(
            f"{path}: expected a free height and width, found an input of {inputs[0].shape}; export it again"
        )
    return inputs[0], _TYPES[inputs[0].type]


def _compute(session: Any, name: str, kind: type) -> Callable[[Images], Images]:
    def compute(images: Images) -> Images:
        try:
            (result,) = session.run(None, {name: np.ascontiguousarray(images, dtype=kind)})
        except Exception as error:  # onnxruntime's own classes have no common base
            raise UserError(f"onnxruntime: {error}") from error
        return np.asarray(result, dtype=np.float32)

    return compute


def _by_trial(
    compute: Callable[[Images], Images], channels: int, path: Path, multiple: int
) -> tuple[int, int, int]:
    """Return the multiple that sides must be of, the enlargement and the channels of the result."""
    reason: UserError | None = None
    for tried in sorted({multiple, *(one for one in MULTIPLES if one % multiple == 0)}):
        side = trial_side(tried)
        try:
            result = compute(np.full((1, channels, side, side), 0.5, dtype=np.float32))
        except UserError as error:
            reason = error
            continue
        if result.ndim == 4 and result.shape[2] == result.shape[3] and result.shape[2] % side == 0:
            return tried, result.shape[2] // side, result.shape[1]
        reason = UserError(f"an input of {side} x {side} gives an output of {result.shape}")
    raise UserError(
        f"{path}: expected a network that restores images of any size; {reason}"
    ) from reason
