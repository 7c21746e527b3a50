"""A network made again from its description and the shapes of its tensors, without memory for weights.

The file is not trusted: the layers are made on the meta device and counted, and everything that does not fit is found
before a single weight is read.
"""

import copy
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from dhp_sr.archs import ARCHS, build
from dhp_sr.channels.plan import SizePatch, make_plan
from dhp_sr.deploy.manifest import LARGEST_SIDE, check_counts, derived, describe, origin
from dhp_sr.deploy.probe_shapes import passing_side
from dhp_sr.deploy.safetensors_io import ModelFileError
from dhp_sr.deploy.third_party import CLASSIFICATION, builder, mark, origin_of
from dhp_sr.graph.shape_inference import infer_output
from dhp_sr.operators.resize import resize
from dhp_sr.surgery.rewrite import rewrite
from dhp_sr.utils.errors import UserError

MOST_TENSORS = 4096
"""Of a network; more layers than that take longer than a second to make, also where they are not those of the file."""

_MOST_VALUES = 2**26


def rebuild(manifest: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> nn.Module:
    """Make the network that `manifest` describes, with tensors of the given shapes.

    Args:
        manifest: checked by `manifest.unpack`.
        shapes: of every tensor of the network's state dict.

    Returns:
        The network in eval mode. Its weights are on the meta device; constants that are not part of a file are real.

    Raises:
        ModelFileError: description and shapes do not make one working network; the message lists every key.
    """
    if len(shapes) > MOST_TENSORS:
        raise ModelFileError(f"expected at most {MOST_TENSORS} tensors, found {len(shapes)}")
    check_counts(manifest["arguments"], len(shapes))
    source = origin(manifest)
    network = _build(manifest, len(shapes)).eval()
    whole = copy.deepcopy(network)
    _fit(network, shapes, manifest["arguments"])
    if source is not None:
        network = mark(_with_forward(whole, network, manifest.get("forward")), source)
    _check_description(network, manifest)
    _check_forward(network)
    return network


def _with_forward(whole: nn.Module, small: nn.Module, forward: Any) -> nn.Module:
    """Put the numbers that a file states into the traced forward of `whole`; only places that a plan names are set."""
    if forward is None:
        return small
    try:
        shape = [int(side) for side in forward["example_shape"]]
        if not 0 < len(shape) < 6 or not 0 < math.prod(shape) < _MOST_VALUES:
            raise ValueError(f"example_shape {shape}")
        plan = make_plan(whole, torch.zeros(shape, device="meta"))
        stated = [
            _checked(*pair) for pair in zip(plan.size_patches, forward["stated"], strict=True)
        ]
        return rewrite(whole, small, plan, stated)
    except Exception as error:  # a file's numbers: whatever goes wrong, they are the reason
        raise ModelFileError(
            f"manifest: the forward cannot be rewritten as stated: {str(error)[:500]}"
        ) from error


def _checked(number: SizePatch, stated: Any) -> int | list[int]:
    """Return a number if it counts no more channels than there are."""
    counts = stated if number.is_list else [stated]
    for count, index in zip(counts, number.counted, strict=True):
        if not isinstance(count, int) or not 0 <= count <= len(index):
            raise ValueError(
                f"{number.node}: expected at most {len(index)} channels, found {count!r}"
            )
    return stated


class TooLargeError(ModelFileError):
    """More layers or constants than a file can belong to."""


def without_memory(make: Callable[[], nn.Module], tensors: int) -> nn.Module:
    """Return a network whose weights are on the meta device.

    Args:
        make: constructs it.
        tensors: of the file that it is made for; about as many weights are allowed.

    Raises:
        TooLargeError: it has many more.
        Whatever `make` raises.
    """
    with _MetaWeights(tensors + tensors // 4 + 16):
        return make()


class _MetaWeights(TorchFunctionMode):
    """Puts the weights of layers made inside (by `torch.empty`) on the meta device; too many are an error."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.left, self.values_left = most, _MOST_VALUES

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            self.left -= 1
            kwargs["device"] = "meta"
        if any(
            isinstance(one, torch.Tensor) and one.is_meta for one in args
        ):  # weights that are set from constants
            args = [one.to("meta") if isinstance(one, torch.Tensor) else one for one in args]
        result = func(*args, **kwargs)
        if isinstance(result, torch.Tensor) and not result.is_meta:
            self.values_left -= result.numel()
        if self.left < 0 or self.values_left < 0:
            raise TooLargeError("the arguments describe a larger network than the file holds")
        return result


def _build(manifest: Mapping[str, Any], tensors: int) -> nn.Module:
    try:
        name, arguments = manifest["architecture"], manifest["arguments"]
        make = functools.partial(build, name) if name in ARCHS else builder(name)
        return without_memory(lambda: make(**arguments), tensors)
    except TooLargeError as error:
        raise ModelFileError(f"manifest: {error}") from error
    except ModelFileError:
        raise
    except Exception as error:  # whatever a constructor raises, the file's arguments are the reason
        raise ModelFileError(f"manifest: {str(error)[:500]}") from error


def _fit(
    network: nn.Module, shapes: Mapping[str, tuple[int, ...]], arguments: Mapping[str, Any]
) -> None:
    own = network.state_dict()
    missing, unexpected = (
        [key for key in own if key not in shapes],
        [key for key in shapes if key not in own],
    )
    lines = [*_listing("missing", missing), *_listing("unexpected", unexpected)]
    try:
        resize(network, {key: shape for key, shape in shapes.items() if key in own})
    except UserError as error:
        lines += ["wrong shape: " + line.strip() for line in str(error).splitlines()[1:]]
    if lines:
        described = f"{type(network).__name__}({_call(arguments)})"
        raise ModelFileError(f"the tensors are not those of {described}:\n  " + "\n  ".join(lines))


def _check_description(network: nn.Module, manifest: Mapping[str, Any]) -> None:
    rebuilt = describe(network)
    if (
        0 < manifest["size_multiple"] <= LARGEST_SIDE
        and manifest["size_multiple"] % rebuilt["size_multiple"] == 0
    ):
        rebuilt["size_multiple"] = manifest[
            "size_multiple"
        ]  # a UNet once took multiples of a power of two alone
    for key in derived(manifest):
        if key not in ("arguments", "widths") and manifest[key] != rebuilt[key]:
            raise ModelFileError(
                f"manifest: {key} is {manifest[key]!r}, but the tensors make it {rebuilt[key]!r}"
            )
    for name in {**rebuilt["widths"], **manifest["widths"]}:
        stated, actual = manifest["widths"].get(name), rebuilt["widths"].get(name)
        if stated != actual:
            raise ModelFileError(
                f"manifest: width of {name} is {stated!r}, but the tensors make it {actual!r}"
            )


def _check_forward(network: nn.Module) -> None:
    """Pass shapes through the network: layers that do not fit each other show here, at no cost."""
    source, side = origin_of(network) or network, passing_side(network)
    try:
        result = infer_output(network, (1, source.in_channels, side, side))
    except Exception as error:  # shapes from a file: any failure means that they do not fit
        raise ModelFileError(
            f"the layers' widths do not fit each other: {str(error)[:500]}"
        ) from error
    shape = tuple(result.shape)
    fits = (
        len(shape) == 2
        if source.task == CLASSIFICATION
        else shape[-2:] == (side * source.scale,) * 2
    )
    if not fits:
        expected = (
            "(images, classes)"
            if source.task == CLASSIFICATION
            else f"{source.scale} times that size"
        )
        raise ModelFileError(
            f"expected an output of {expected} for a {side}x{side} input, found {shape}"
        )


def _listing(what: str, keys: list[str]) -> list[str]:
    return [f"{what}: {key}" for key in keys[:50]] + (
        [f"{what}: and {len(keys) - 50} more"] if len(keys) > 50 else []
    )


def _call(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in arguments.items())
