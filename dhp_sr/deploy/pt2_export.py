"""Export by torch.export: a file that needs PyTorch alone, with free batch, height and width."""

import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as symbolic_config

from dhp_sr.deploy.verify import Agreement, compare, noise_image, tolerance_of, unseen_shapes
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.files import atomic_path
from dhp_sr.utils.modules import deep_copy

METADATA = "dhp_sr.json"
"""Name of the extra file inside, which says what an ONNX file's metadata says."""


def export_pt2(
    network: nn.Module,
    path: str | Path,
    example_shape: Sequence[int],
    *,
    size_multiple: int = 1,
    half: bool = False,
    metadata: Mapping[str, str] | None = None,
    tolerance: float | None = None,
) -> Agreement:
    """Export a network: `torch.export.load(path).module()(x)` runs it in any process.

    The file is loaded again and compared with PyTorch at two sizes that it was not traced with.
    It takes its name only if the results agree.

    Args:
        network: Maps an image tensor (N, C, H, W) in [0, 1] to an image; left as it was.
        path: The file.
        example_shape: (N, C, H, W) to trace with; H and W multiples of `size_multiple`.
        size_multiple: Height and width of inputs must be multiples of it.
        half: Weights, computation, input and output in fp16.
        metadata: Stored in the file under `METADATA`.
        tolerance: Largest difference allowed; None: that of the precision in `TOLERANCES`.

    Raises:
        UserError: The network cannot be exported, or the file computes something else.
        OSError: The file cannot be written.
    """
    check_example_shape(example_shape, size_multiple)
    dtype = torch.float16 if half else torch.float32
    original = deep_copy(network).cpu().float().eval().requires_grad_(False)
    program = export_program(deep_copy(original).to(dtype), example_shape, size_multiple)
    with atomic_path(path) as temporary, quiet_exporters():
        # To memory first: where the disk is full, torch's writer would end the whole process from
        # its destructor, while Python raises an error.
        content = io.BytesIO()
        extra = {METADATA: json.dumps(dict(metadata or {}))}
        torch.export.save(program, content, extra_files=extra)
        temporary.write_bytes(content.getbuffer())
        # What was written is compared, not the program in memory.
        module = torch.export.load(io.BytesIO(temporary.read_bytes())).module()

        def run(x: Tensor) -> Tensor:
            return module(x.to(dtype))

        shapes = unseen_shapes(example_shape, size_multiple)
        return compare(original, run, shapes, tolerance_of(half, tolerance))


def check_example_shape(shape: Sequence[int], size_multiple: int) -> None:
    """Check the shape of an example input.

    Raises:
        UserError: It is no (N, C, H, W) with height and width of the required multiple.
    """
    if len(shape) != 4 or min(shape) < 1 or any(side % size_multiple for side in shape[2:]):
        raise UserError(
            "expected an example shape (N, C, H, W) with height and width in multiples of "
            f"{size_multiple}, got {tuple(shape)}"
        )


def dynamic_axes(network: nn.Module, size_multiple: int) -> dict[int, Dim]:
    """Return the free axes of an image tensor, by axis, in the form of torch.export.

    A classifier's images are at least as large as it is meant for: smaller ones may shrink to
    nothing on their way, and torch would insist on a proof that they do not.
    """
    minimum = max(getattr(network, "input_size", 0) // size_multiple, 1)
    height = Dim("height", min=minimum)
    width = Dim("width", min=minimum)
    if size_multiple > 1:
        return {0: Dim("batch"), 2: size_multiple * height, 3: size_multiple * width}
    return {0: Dim("batch"), 2: height, 3: width}


def example_image(network: nn.Module, shape: Sequence[int]) -> Tensor:
    """Return an image to trace a network with, in the type of its weights."""
    first = next(network.parameters(), torch.empty(0))
    # Tracing turns a batch of 1 into a constant.
    batch = max(2, shape[0])
    return noise_image((batch, *shape[1:])).to(first.dtype)


@contextmanager
def quiet_exporters(*loggers: str) -> Iterator[None]:
    """Suppress the warnings of torch's exporters about torch itself, and what some loggers say."""
    muted = [logging.getLogger(name) for name in loggers]
    levels = [logger.level for logger in muted]
    for logger in muted:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            for category in (FutureWarning, DeprecationWarning, UserWarning):
                warnings.filterwarnings("ignore", category=category)
            yield
    finally:
        for logger, level in zip(muted, levels, strict=True):
            logger.setLevel(level)


def export_program(network: nn.Module, shape: Sequence[int], size_multiple: int) -> ExportedProgram:
    """Trace a network with free batch, height and width.

    Raises:
        UserError: It has no form as a program.
    """
    inputs = (example_image(network, shape),)
    dynamic_shapes = (dynamic_axes(network, size_multiple),)
    with quiet_exporters():
        try:
            return torch.export.export(network, inputs, dynamic_shapes=dynamic_shapes)
        except Exception:
            # torch raises all kinds of exceptions for what it cannot follow.
            return export_with_runtime_checks(network, inputs, dynamic_shapes)


def export_with_runtime_checks(
    network: nn.Module, inputs: tuple[Tensor], dynamic_shapes: tuple[dict[int, Dim]]
) -> ExportedProgram:
    """Export a network whose sizes torch cannot prove to fit, such as sides padded inside.

    The exported program checks them when it runs.
    """
    try:
        # Without backed_size_oblivious, torch would also insist that no side on the way is 1,
        # since none was in the example.
        with symbolic_config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
            return torch.export.export(
                network,
                inputs,
                dynamic_shapes=dynamic_shapes,
                prefer_deferred_runtime_asserts_over_guards=True,
            )
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{type(network).__name__} has no form as a torch.export program: {lines[0]}"
        ) from error
