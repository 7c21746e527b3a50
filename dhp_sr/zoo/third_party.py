"""A network of another package in a run: what it takes and gives, and whether its files can be loaded again."""

import copy
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from dhp_sr.config.schema import Options
from dhp_sr.deploy import Origin, check_saved
from dhp_sr.deploy.probe_shapes import MULTIPLES, trial_side
from dhp_sr.deploy.third_party import is_registered, mark, origin_of
from dhp_sr.graph.shape_inference import infer_output
from dhp_sr.utils.errors import UserError
from dhp_sr.zoo.names import full_name
from dhp_sr.zoo.specs import register_known


def describe_by_images(
    network: nn.Module, name: str, arguments: Mapping[str, Any], options: Options, task: str
) -> nn.Module:
    """Note on a network what the images of an option file say about it, and what its files have to say.

    Args:
        network: With fresh weights.
        name: As in `network_g.network.type`.
        arguments: Those that it was constructed from.
        options: The run's options.
        task: Name of the run's task.

    Returns:
        The same network. It carries an `Origin`; its attributes `scale`, `in_channels`, `size_multiple` and `task` are
        those of our own networks.

    Raises:
        UserError: it does not make images of the right size of the option file's images.
    """
    register_known()
    data = next(iter(options.datasets.values()))
    multiple, side = _sides(network, name, data.channels, options.scale)
    return mark(
        network,
        Origin(full_name(name), arguments, task, options.scale, data.channels, multiple, side),
    )


def describe_by_output(network: nn.Module, name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Note on a network what its output says about it: scale, task, and which sides its input may have.

    Args:
        network: with any weights.
        name: as in `build_named`.
        arguments: those that it was constructed from.

    Returns:
        The same network, with an `Origin`.

    Raises:
        UserError: no image passes through it, or its output is not an enlargement by a whole number.
    """
    register_known()
    channels = next(
        (arguments[key] for key in ("num_in_ch", "in_channels", "in_nc") if key in arguments), 3
    )
    reason = ""
    for multiple, side, found in _trials(network, channels):
        if isinstance(found, str):
            reason = found
            continue
        scale, rest = divmod(found.shape[-1], side)
        if found.dim() == 4 and scale > 0 and not rest and found.shape[-1] == found.shape[-2]:
            task = "sr" if scale > 1 else "denoise"
            return mark(
                network, Origin(full_name(name), arguments, task, scale, channels, multiple, side)
            )
        reason = f"an input of {side} x {side} gives an output of {tuple(found.shape)}"
    raise UserError(
        f"{name}: expected a network that restores images of {channels} channels: {reason}"
    )


def can_be_loaded(network: nn.Module) -> bool:
    """Return whether a file can name the network, so that it is loaded again from the file alone."""
    origin = origin_of(network)
    return origin is None or is_registered(origin.name)


def check_files(network: nn.Module) -> None:
    """Find out before the training what kind of files a run will write.

    Raises:
        UserError: files can name the network, but not describe it.
    """
    origin = origin_of(network)
    if origin is None:
        return
    if can_be_loaded(network):
        check_saved(network)
        return
    warnings.warn(
        f"network_g: {origin.name} is not among the networks that model files can name; the files of this run will "
        f"hold weights alone. dhp_sr.deploy.register({origin.name!r}, CLASS) before the run lets them name it",
        stacklevel=2,
    )


def _sides(network: nn.Module, name: str, channels: int, scale: int) -> tuple[int, int]:
    """Return the multiple that sides of inputs must be of, and a side that passes."""
    reason = ""
    for multiple, side, found in _trials(network, channels):
        expected = (1, channels, side * scale, side * scale)
        if not isinstance(found, str) and tuple(found.shape) == expected:
            return multiple, side
        wanted = f"expected an output of {expected} for an input of {side} x {side}"
        reason = found if isinstance(found, str) else f"{wanted}, found {tuple(found.shape)}"
    raise UserError(
        f"network_g: {name} does not suit the images (scale: {scale}, {channels} channels): {reason}"
    )


def _trials(network: nn.Module, channels: int) -> Iterator[tuple[int, int, torch.Tensor | str]]:
    """Yield multiple, side, and the output for an image of that side or why it has none; only shapes are computed."""
    copied = copy.deepcopy(network).eval()
    for multiple in MULTIPLES:
        side = trial_side(multiple)
        try:
            found = infer_output(copied, (1, channels, side, side))
        except Exception as error:  # the author's code: whatever it raises, the image did not pass
            yield multiple, side, f"an input of {side} x {side} does not pass: {str(error)[:300]}"
            continue
        what = f"an input of {side} x {side} gives an output of type {type(found).__name__}"
        yield multiple, side, found if isinstance(found, torch.Tensor) else what
