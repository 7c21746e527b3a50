"""Description of a graph file (ONNX, OpenVINO): stated in the file, completed by running it.

Files of dhp_sr carry their description as metadata; those of other programs are probed with small
images. What a file states is checked by running it: metadata may belong to another graph.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dhp_sr.deploy.model_info import (
    CLASSIFICATION,
    DEFAULT_BYTES_PER_PIXEL,
    SIZE_MULTIPLES,
    ModelInfo,
    SizeRequirements,
    TileRequirements,
    trial_side,
)
from dhp_sr.deploy.onnx_metadata import unpack_metadata
from dhp_sr.deploy.runner import Images
from dhp_sr.deploy.safetensors_io import ModelFileError
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.strict_json import JsonObject

Compute = Callable[[Images], Images]

_MAX_OUTPUT = 16
"""Bound of a gray image's output: far above values from 0 to 1, far below those up to 255."""
_GRAY_TOLERANCE = 0.1
"""Difference, relative to the range, up to which a gray image counts as restored."""
_MAX_SIZE = 4096
"""Bound of scales, multiples, sides and overlaps in other people's files."""
_MAX_VALUES = 2**28
"""Bound of the values of an image that a graph is tried with."""

_UNKNOWN_HALO = "the file does not say how far a pixel's influence reaches"


@dataclass(frozen=True)
class Graph:
    """A network for a runtime other than PyTorch: a file, or an export in memory."""

    path: Path
    """The model file that the user named."""
    content: bytes | None = None
    """An ONNX model made from the file; None: the runtime reads the file itself."""
    info: ModelInfo | None = None
    """Description of the exported network; None: the file describes itself, or is probed."""


def describe_graph(
    compute: Compute, metadata: Mapping[str, str], channels: int | None, path: Path
) -> ModelInfo:
    """Return the description in a file, completed and checked by running the graph.

    Args:
        compute: Runs the graph.
        metadata: Texts that the file carries; those of other programs are ignored.
        channels: Channels of the input; None where the file leaves them free.
        path: Named in errors.

    Raises:
        ModelFileError: The metadata is malformed, or belongs to another graph.
        UserError: The graph is no network that restores images of any size.
    """
    stated = read_stated_facts(metadata, path)
    channels = channels or stated.get("in_channels", 3)
    if stated.get("task") == CLASSIFICATION:
        _check_classifier(compute, stated, path)
        return _stated_info(stated)
    probed = _probe(compute, channels, path, stated)
    if not stated:
        check_range(compute, channels, probed.sizes.multiple, path)
        return probed
    if stated["scale"] != probed.scale:
        raise ModelFileError(
            f"{path}: expected scale {stated['scale']}, as its metadata says, got {probed.scale}"
        )
    return replace(
        _stated_info(stated),
        in_channels=channels,
        out_channels=probed.out_channels,
        sizes=replace(probed.sizes, lower_limit=stated.get("smallest_side", 1)),
    )


def read_stated_facts(metadata: Mapping[str, str], path: Path) -> JsonObject:
    """Return a file's description of itself; empty for a file of another program."""
    try:
        stated = unpack_metadata(metadata) or {}
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error
    # Each of them becomes the size of an image that is allocated.
    for key in ("scale", "size_multiple", "smallest_side", "tile_multiple", "halo"):
        if stated.get(key, 1) > _MAX_SIZE:
            raise ModelFileError(
                f"{path}: metadata: expected {key} up to {_MAX_SIZE}, got {stated[key]}"
            )
    return stated


def _check_classifier(compute: Compute, stated: JsonObject, path: Path) -> None:
    side = stated.get("input_size", 0)
    classes = stated["out_channels"]
    if not 0 < side <= _MAX_SIZE:
        raise ModelFileError(
            f"{path}: metadata: expected input_size from 1 to {_MAX_SIZE}, got {side}"
        )
    _check_values(stated["in_channels"], side, path)
    result = compute(_gray_image(stated["in_channels"], side))
    if result.shape != (1, classes):
        raise ModelFileError(
            f"{path}: expected {classes} classes, as its metadata says, got {result.shape}"
        )


def _check_values(channels: int, side: int, path: Path) -> None:
    """Check the size of an image that is about to be allocated, which a file states."""
    if channels * side**2 > _MAX_VALUES:
        raise ModelFileError(
            f"{path}: expected a network for images, got one for {channels} channels of "
            f"{side} x {side} pixels"
        )


def _probe(compute: Compute, channels: int, path: Path, stated: JsonObject) -> ModelInfo:
    """Find scale, output channels and size multiple by running small images."""
    reason: UserError | None = None
    stated_multiple = stated.get("size_multiple", 1)
    # Only multiples of the stated one: the file knows more than a few trials can show.
    candidates = {multiple for multiple in SIZE_MULTIPLES if multiple % stated_multiple == 0}
    for multiple in sorted({stated_multiple, *candidates}):
        side = trial_side(multiple)
        while side < stated.get("smallest_side", 1):
            side += 2 * multiple  # still an odd number of times
        _check_values(channels, side, path)
        try:
            result = compute(_gray_image(channels, side))
        except UserError as error:
            reason = error
            continue
        is_square = result.ndim == 4 and result.shape[2] == result.shape[3]
        if is_square and result.shape[2] > 0 and result.shape[2] % side == 0:
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
        reason = UserError(f"an input of {side} x {side} gives an output of {tuple(result.shape)}")
    raise UserError(
        f"{path}: expected a network that restores images of any size; {reason}"
    ) from reason


def _stated_info(stated: JsonObject) -> ModelInfo:
    multiple: int = stated["size_multiple"]
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


def check_range(compute: Compute, channels: int, multiple: int, path: Path) -> None:
    """Check by trial that a file of another program works on values from 0 to 1.

    A network that restores images gives back about the gray that it gets.

    Raises:
        UserError: It gives, or takes and gives, values from 0 to 255.
    """
    side = trial_side(multiple)
    output = _gray_level(compute, channels, side, 0.5)
    bright = _gray_level(compute, channels, side, 127.5)
    advice = (
        "The file works on values from 0 to 255: add a division by 255 to the end of its graph "
        "and a multiplication by 255 where it takes such values, or export it again"
    )
    if abs(output) > _MAX_OUTPUT:
        raise UserError(
            f"{path}: expected values from 0 to 1, got {output:.4g} for a gray image of 0.5. "
            f"{advice}"
        )
    # Near its own range it restores; near ours, which is almost black to it, it does not.
    if abs(bright / 255 - 0.5) < _GRAY_TOLERANCE < abs(output - 0.5) / 2:
        raise UserError(
            f"{path}: expected a network for values from 0 to 1, got {output:.4g} for a gray "
            f"image of 0.5, but {bright:.4g} for 127.5. {advice}"
        )


def _gray_level(compute: Compute, channels: int, side: int, level: float) -> float:
    """Return the median of the output for a gray image."""
    # In fp16 a value may overflow, which says nothing about the range.
    with np.errstate(all="ignore"):
        return float(np.median(compute(level / 0.5 * _gray_image(channels, side))))


def _gray_image(channels: int, side: int) -> Images:
    return np.full((1, channels, side, side), 0.5, dtype=np.float32)
