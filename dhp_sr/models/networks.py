"""Plain networks from the option file: our own table first, then those of other packages."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dhp_sr.archs import ARCHS, build
from dhp_sr.config.schema import Network, Options
from dhp_sr.deploy import load_into, load_weights
from dhp_sr.models.foreign import describe_by_images
from dhp_sr.models.named import build_named
from dhp_sr.utils.errors import UserError

TASKS = ("sr", "denoise")
EXAMPLE_SIDE = 128
"""Side of the square input for which costs are stated."""


def plain_type(network: Network) -> tuple[str, dict[str, Any]]:
    """Return name and arguments of the plain network behind `network_g`.

    `HyperEDSR` and `EDSR` both mean EDSR; `Hyper` names any network in its key `network`, see `named.build_named`.

    Raises:
        UserError: `Hyper` comes without `network: {type: ...}`, or with other keys beside it.
    """
    arguments = network.arguments
    if network.type != "Hyper":
        return network.type.removeprefix("Hyper"), arguments
    inner = arguments.pop("network", None)
    if not isinstance(inner, dict) or "type" not in inner or arguments:
        raise UserError(
            "network_g: type Hyper expects exactly `network: {type: NAME, ...}`, found "
            f"network={inner!r} and {sorted(arguments) or 'nothing'} beside it"
        )
    return inner["type"], {key: value for key, value in inner.items() if key != "type"}


def build_plain(options: Options) -> nn.Module:
    """Construct the plain network of `network_g` with fresh weights and check that it fits the images.

    Raises:
        UserError: type, arguments, scale or channels do not fit.
    """
    name, arguments = plain_type(options.network_g)
    if name in ARCHS or options.network_g.type != "Hyper":
        network = build(name, **arguments)
    else:
        network = describe_by_images(build_named(name, arguments), name, arguments, options)
    check_fit(network, name, options)
    return network


def example_input(network: nn.Module) -> Tensor:
    """Return the input (1, channels, 128, 128) with which a network is traced and its cost is stated."""
    return torch.zeros(1, network.in_channels, EXAMPLE_SIDE, EXAMPLE_SIDE)


def load_file(network: nn.Module, path: str | Path) -> None:
    """Load the weights in `path`, all of them and no others.

    Raises:
        UserError: the file cannot be read safely, or keys are missing, unexpected or of another shape.
    """
    try:
        load_into(network, load_weights(path))
    except UserError as error:
        raise error if str(path) in str(error) else UserError(f"{path}: {error}") from error


def check_fit(network: nn.Module, name: str, options: Options) -> None:
    """Check that a network suits the images of an option file.

    Raises:
        UserError: scale, channels, task or patch size differ.
    """
    if network.scale != options.scale:
        raise UserError(
            f"network_g: {name} enlarges {network.scale} times (upscale), the option file says scale: {options.scale}"
        )
    for key, data in options.datasets.items():
        channels = 3 if data.color == "rgb" else 1
        if channels != network.in_channels:
            raise UserError(
                f"network_g: {name} takes {network.in_channels} channel(s), datasets.{key} gives {channels} "
                f"(color: {data.color}); set num_in_ch or color"
            )
        task = "sr" if data.type == "SRDataset" else "denoise"
        if network.task != task and (options.scale > 1 or network.task not in TASKS):
            raise UserError(f"network_g: {name} is made for {network.task}, datasets.{key} is a {data.type}")
    side, multiple = options.datasets["train"].gt_size // options.scale, network.size_multiple
    if side % multiple:
        raise UserError(
            f"datasets.train.gt_size: {name} takes patches whose sides are multiples of {multiple}, found {side}; "
            f"set gt_size: {max(side // multiple, 1) * multiple * options.scale}"
        )
