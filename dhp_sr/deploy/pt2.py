"""A network as a program of torch.export, with free batch, height and width: one file that needs torch alone."""

import copy
import io
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as symbolic_config

from dhp_sr.deploy.verify import Agreement, allowed, compare, image, unseen_shapes
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.files import atomic_path

FACTS = "dhp_sr.json"
"""Name of the extra file inside, which says about the network what an ONNX file's metadata says."""


def export_pt2(
    network: nn.Module,
    path: str | Path,
    example_shape: Sequence[int],
    *,
    size_multiple: int = 1,
    half: bool = False,
    facts: Mapping[str, str] | None = None,
    tolerance: float | None = None,
) -> Agreement:
    """Write `network` as a program that any process with torch runs: `torch.export.load(path).module()(x)`.

    The file is loaded again and run at two sizes that it was not made with, and takes its name only if the results are
    the network's.

    Args:
        network: takes one image tensor (N, C, H, W) in [0, 1] and returns one; it is left as it was.
        path: the file.
        example_shape: (N, C, H, W) that the graph is traced with; H and W multiples of `size_multiple`.
        size_multiple: sides of the input must be multiples of it.
        half: weights, computation, input and output in fp16.
        facts: what the file says about the network, under `FACTS`.
        tolerance: largest difference allowed; default: that of the precision in `TOLERANCES`.

    Raises:
        UserError: the network cannot be exported, or the file computes something else.
        OSError: the file cannot be written.
    """
    check_shape(example_shape, size_multiple)
    dtype = torch.float16 if half else torch.float32
    plain = copy.deepcopy(network).cpu().float().eval().requires_grad_(False)
    program = _program(copy.deepcopy(plain).to(dtype), example_shape, size_multiple)
    with atomic_path(path) as temporary, exporters_quiet():
        with open(temporary, "wb") as stream:  # given a name, torch insists on its suffix
            torch.export.save(program, stream, extra_files={FACTS: json.dumps(dict(facts or {}))})
        module = torch.export.load(io.BytesIO(temporary.read_bytes())).module()

        def run(x: Tensor) -> Tensor:
            return module(x.to(dtype))

        return compare(
            plain, run, unseen_shapes(example_shape, size_multiple), allowed(half, tolerance)
        )


def dynamic_sides(network: nn.Module, multiple: int) -> dict[int, Dim]:
    """Return the free axes of an image tensor, by axis, as torch.export wants them.

    Sides of a classifier's images are at least those it is meant for: smaller ones may shrink to nothing on the way.
    """
    least = max(getattr(network, "input_size", 0) // multiple, 1)
    height, width = Dim("height", min=least), Dim("width", min=least)
    sides = (height, width) if multiple == 1 else (multiple * height, multiple * width)
    return {0: Dim("batch"), 2: sides[0], 3: sides[1]}


def check_shape(shape: Sequence[int], multiple: int) -> None:
    """Check an example's shape.

    Raises:
        UserError: it is no (N, C, H, W) with sides of the right multiple.
    """
    if len(shape) != 4 or any(side % multiple for side in shape[2:]) or min(shape) < 1:
        raise UserError(
            f"expected an example shape (N, C, H, W) with sides that are multiples of {multiple}, found {tuple(shape)}"
        )


def traced_image(network: nn.Module, shape: Sequence[int]) -> Tensor:
    """Return an image to trace a network with, of its type; two at least: a batch of 1 would become a constant."""
    first = next(network.parameters(), torch.empty(0))
    return image((max(2, shape[0]), *shape[1:])).to(first.dtype)


@contextmanager
def exporters_quiet() -> Iterator[None]:
    """Silence what torch's exporters say about torch itself."""
    with warnings.catch_warnings():
        for category in (FutureWarning, DeprecationWarning, UserWarning):
            warnings.filterwarnings("ignore", category=category)
        yield


def _program(network: nn.Module, shape: Sequence[int], multiple: int) -> ExportedProgram:
    given = (traced_image(network, shape),)
    options: dict[str, Any] = {"dynamic_shapes": (dynamic_sides(network, multiple),)}
    with exporters_quiet():
        try:
            return torch.export.export(network, given, **options)
        except Exception:  # torch raises all kinds for what it cannot follow
            return _with_checks(network, given, options)


def _with_checks(
    network: nn.Module, given: tuple[Tensor], options: dict[str, Any]
) -> ExportedProgram:
    """Export a network whose sizes torch cannot prove to fit, such as sides that are filled up: the program checks.

    Without `backed_size_oblivious` it would also insist that no side on the way is 1, since none was in the example.
    """
    try:
        with symbolic_config.patch(backed_size_oblivious=True):
            return torch.export.export(
                network, given, prefer_deferred_runtime_asserts_over_guards=True, **options
            )
    except Exception as error:
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise UserError(
            f"{type(network).__name__} has no form as a torch.export program: {reason[0]}"
        ) from error
