"""Networks of option files, the inputs that their costs are stated for, and their weights."""

from pathlib import Path

import torch
from torch import Tensor, nn

from dhp_sr.archs import ARCHS, described
from dhp_sr.config.schema import Network
from dhp_sr.deploy import load_into, load_weights
from dhp_sr.utils.errors import UserError, unknown_name
from dhp_sr.utils.pixels import round_up

EXAMPLE_SIDE = 128
"""Height and width of the input that costs are stated for, unless a network is meant for a
single size."""


def plain_type(network: Network) -> tuple[str, dict[str, object]]:
    """Return name and arguments of the plain network behind `network_g`.

    `HyperEDSR` and `EDSR` both mean EDSR; `Hyper` names any network in its key `network`, see
    `names.build_named`.

    Raises:
        UserError: `Hyper` comes without `network: {type: ...}`, or with other keys beside it.
    """
    arguments = network.arguments
    # `arguments` is a copy, so taking keys out of it leaves the options as they were.
    if network.type != "Hyper":
        return network.type.removeprefix("Hyper"), arguments
    # Whatever is left beside `network` after this would be ignored without a word.
    inner = arguments.pop("network", None)
    if not isinstance(inner, dict) or not isinstance(inner.get("type"), str) or arguments:
        raise UserError(
            "network_g: type Hyper expects exactly `network: {type: NAME, ...}`, got "
            f"network={inner!r} and {sorted(arguments) or 'nothing'} beside it"
        )
    return inner["type"], {key: value for key, value in inner.items() if key != "type"}


def check_network_type(type: str) -> str | None:
    """Message about a `network_g.type` that does not exist, or None.

    Names below `Hyper`, of other packages, are looked up when the network is built.
    """
    # To look up a name of another package, that package would have to be imported.
    if type == "Hyper" or type.removeprefix("Hyper") in ARCHS:
        return None
    known = [*ARCHS, *(f"Hyper{name}" for name in ARCHS), "Hyper"]
    return unknown_name("network type", type, known)


def example_shape(network: nn.Module) -> tuple[int, int, int, int]:
    """Return the input shape (1, C, H, W) that a network's costs are stated for.

    It is as large as the network is meant for, or 128 x 128.
    """
    plain = described(network)
    side = getattr(plain, "input_size", EXAMPLE_SIDE)
    return 1, plain.in_channels, side, side


def image_shape(network: nn.Module, height: int, width: int) -> list[int]:
    """Return [1, C, H, W] of an image whose sides are rounded up to the network's multiple."""
    plain = described(network)
    multiple = plain.size_multiple
    return [1, plain.in_channels, round_up(height, multiple), round_up(width, multiple)]


def example_input(network: nn.Module) -> Tensor:
    """Return an input of zeros of `example_shape`, to trace a network with."""
    return torch.zeros(example_shape(network))


def load_file(network: nn.Module, path: str | Path) -> None:
    """Load the weights of a file, all of them and no others.

    Raises:
        UserError: The file cannot be read safely, or keys are missing, unexpected or of another
            shape; the message names the file.
    """
    try:
        load_into(network, load_weights(path))
    except UserError as error:
        # Errors of reading name the file already, errors of fitting do not.
        if str(path) in str(error):
            raise
        raise UserError(f"{path}: {error}") from error
