"""ONNX files run by onnxruntime: those of dhp_sr describe themselves, others are probed."""

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from dhp_sr.deploy.model_info import (
    CLASSIFICATION,
    DEFAULT_BYTES_PER_PIXEL,
    SIZE_MULTIPLES,
    ModelInfo,
    SizeRequirements,
    TileRequirements,
    trial_side,
)
from dhp_sr.deploy.onnx_check import check_onnx
from dhp_sr.deploy.onnx_metadata import unpack_metadata
from dhp_sr.deploy.runner import Images, Runner
from dhp_sr.deploy.safetensors_io import ModelFileError
from dhp_sr.utils.errors import UserError

if TYPE_CHECKING:
    import onnxruntime

_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_MAX_SIZE = 4096
"""Bound of scales, multiples and overlaps in other people's files."""

_UNKNOWN_HALO = "the file does not say how far a pixel's influence reaches"


def require_onnx() -> ModuleType:
    """Import onnxruntime.

    Raises:
        UserError: It, onnx or onnxscript is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"ONNX files need the package {error.name}, which is not installed: "
            "pip install 'dhp_sr[onnx]'"
        ) from error
    return onnxruntime


def open_session(path: str | Path, threads: int = 1) -> "onnxruntime.InferenceSession":
    """Check an ONNX file and load it into onnxruntime, on the CPU.

    Args:
        path: The file.
        threads: SizePatch of threads to compute with.

    Raises:
        UserError: onnxruntime is missing.
        ModelFileError: The file is damaged, refers to other files, declares tensors that it does
            not hold or would need too much memory, or onnxruntime cannot run it.
    """
    runtime = require_onnx()
    # Before onnxruntime, which opens other files that a model names and computes its constants.
    check_onnx(path)
    options = runtime.SessionOptions()
    # Threads inside an operator; side by side, operators of a chain only wait for each other.
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # fatal alone: errors arrive as exceptions
    try:
        # The fallback prints to stdout and tries the same provider again.
        return runtime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
    except Exception as error:
        # onnxruntime's exceptions have no common base class.
        reason = first_line(error)
        raise ModelFileError(
            f"{path}: expected a file that onnxruntime can run, got: {reason[:300]}"
        ) from error


def first_line(error: Exception) -> str:
    """Return the first line of an exception's text, or its class where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@dataclass(frozen=True)
class _Input:
    """The input of a session."""

    name: str
    dtype: type
    channels: int | None
    """None: the file leaves it free."""


@final
class OnnxRunner(Runner):
    """An ONNX file from an image to an image or to scores of classes.

    Args:
        path: The file, of dhp_sr or of any other program.
        device: Must be the CPU.
        precision: `fp32`, or that of the file.
        threads: Of the CPU; None: as many as PyTorch uses.

    Raises:
        UserError: The file does not suit the arguments, or is no such network.
    """

    runtime = "onnxruntime"

    def __init__(
        self, path: Path, device: torch.device, precision: str, threads: int | None
    ) -> None:
        if device.type != "cpu":
            raise UserError(
                f"{path}: ONNX files run on the CPU; use --device cpu, or the safetensors file "
                f"for {device}"
            )
        self._session = open_session(path, threads or torch.get_num_threads())
        self._input = read_input(self._session, path)
        # The precision is part of the graph: a file cannot be run in another.
        own_precision = "fp16" if self._input.dtype is np.float16 else "fp32"
        if precision not in ("fp32", own_precision):
            raise UserError(
                f"{path}: computes in {own_precision}, --precision {precision} has no effect; "
                "export another file"
            )
        super().__init__(path, self._describe(path))

    def compute(self, images: Images) -> Images:
        """Run the graph."""
        x: NDArray[Any] = np.ascontiguousarray(images, dtype=self._input.dtype)
        try:
            (result,) = self._session.run(None, {self._input.name: x})
        except Exception as error:
            # onnxruntime's exceptions have no common base class.
            raise UserError(f"onnxruntime: {error}") from error
        return np.asarray(result, dtype=np.float32)

    def _describe(self, path: Path) -> ModelInfo:
        """Return the description in the file, completed and checked by running the graph."""
        stated = read_stated_facts(self._session, path)
        channels = self._input.channels or stated.get("in_channels", 3)
        if stated.get("task") == CLASSIFICATION:
            self._check_classifier(stated, path)
            return _stated_info(stated)
        # What the file says is checked by running it: the metadata may belong to another graph.
        probed = self._probe(channels, path, stated.get("size_multiple", 1))
        if not stated:
            return probed
        if stated["scale"] != probed.scale:
            raise ModelFileError(
                f"{path}: expected scale {stated['scale']}, as its metadata says, "
                f"got {probed.scale}"
            )
        info = _stated_info(stated)
        return ModelInfo(
            architecture=info.architecture,
            task=info.task,
            scale=info.scale,
            in_channels=channels,
            out_channels=probed.out_channels,
            sizes=probed.sizes,
            tiles=info.tiles,
            license=info.license,
            parent=info.parent,
        )

    def _check_classifier(self, stated: dict[str, Any], path: Path) -> None:
        side = stated.get("input_size", 0)
        classes = stated["out_channels"]
        if not 0 < side <= _MAX_SIZE:
            raise ModelFileError(
                f"{path}: metadata: expected input_size from 1 to {_MAX_SIZE}, got {side}"
            )
        result = self.compute(_gray_image(stated["in_channels"], side))
        if result.shape != (1, classes):
            raise ModelFileError(
                f"{path}: expected {classes} classes, as its metadata says, got {result.shape}"
            )

    def _probe(self, channels: int, path: Path, stated_multiple: int) -> ModelInfo:
        """Find scale, output channels and size multiple by running small images."""
        reason: UserError | None = None
        # Only multiples of the stated one: the file knows more than a few trials can show.
        candidates = {multiple for multiple in SIZE_MULTIPLES if multiple % stated_multiple == 0}
        for multiple in sorted({stated_multiple, *candidates}):
            side = trial_side(multiple)
            try:
                result = self.compute(_gray_image(channels, side))
            except UserError as error:
                reason = error
                continue
            if _enlarges(result.shape, side):
                scale = result.shape[2] // side
                return ModelInfo(
                    architecture="",
                    task="sr" if scale > 1 else "",
                    scale=scale,
                    in_channels=channels,
                    out_channels=result.shape[1],
                    sizes=SizeRequirements(multiple),
                    # A few trials cannot bound a receptive field.
                    tiles=TileRequirements(multiple=multiple, reason=_UNKNOWN_HALO),
                )
            reason = UserError(
                f"an input of {side} x {side} gives an output of {tuple(result.shape)}"
            )
        raise UserError(
            f"{path}: expected a network that restores images of any size; {reason}"
        ) from reason


def read_input(session: Any, path: Path) -> _Input:
    """Return the input of a session that maps an image to a single result."""
    inputs = session.get_inputs()
    outputs = session.get_outputs()
    single = len(inputs) == 1 and len(outputs) == 1
    if not single or len(inputs[0].shape) != 4 or inputs[0].type not in _DTYPES:
        listing = ", ".join(f"{entry.name} {entry.type} {entry.shape}" for entry in inputs)
        raise UserError(
            f"{path}: expected an image (N, C, H, W) of floating-point numbers in and a single "
            f"result out, got {len(outputs)} out and in: {listing}"
        )
    shape = inputs[0].shape
    if any(isinstance(side, int) for side in shape[2:]):
        raise UserError(
            f"{path}: expected a free height and width, got an input of {shape}; export it again"
        )
    channels = shape[1] if isinstance(shape[1], int) else None
    return _Input(inputs[0].name, _DTYPES[inputs[0].type], channels)


def read_stated_facts(session: Any, path: Path) -> dict[str, Any]:
    """Return the file's description of itself; empty for a file of another program."""
    try:
        stated = unpack_metadata(session.get_modelmeta().custom_metadata_map) or {}
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error
    # Each of them becomes the size of an image that is allocated.
    for key in ("scale", "size_multiple", "tile_multiple", "halo"):
        if stated.get(key, 1) > _MAX_SIZE:
            raise ModelFileError(
                f"{path}: metadata: expected {key} up to {_MAX_SIZE}, got {stated[key]}"
            )
    return stated


def _stated_info(stated: dict[str, Any]) -> ModelInfo:
    multiple = stated["size_multiple"]
    halo = stated.get("halo")
    tiles = TileRequirements(
        halo=halo,
        multiple=stated.get("tile_multiple", multiple),
        bytes_per_pixel=stated.get("bytes_per_pixel", DEFAULT_BYTES_PER_PIXEL),
        reason=_UNKNOWN_HALO if halo is None else "",
    )
    return ModelInfo(
        architecture=stated["architecture"],
        task=stated["task"],
        scale=stated["scale"],
        in_channels=stated["in_channels"],
        out_channels=stated["out_channels"],
        sizes=SizeRequirements(multiple),
        input_size=stated.get("input_size"),
        tiles=tiles,
        license=stated.get("licence"),
        parent=stated.get("parent"),
    )


def _gray_image(channels: int, side: int) -> Images:
    return np.full((1, channels, side, side), 0.5, dtype=np.float32)


def _enlarges(shape: tuple[int, ...], side: int) -> bool:
    """Return whether an output is an image enlarged by a whole number."""
    return len(shape) == 4 and shape[2] == shape[3] and shape[2] > 0 and shape[2] % side == 0
