"""Networks from files: model files of ours, and other projects' weights of a named network."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from dhp_sr.archs import ARCHS
from dhp_sr.deploy import (
    ModelFileError,
    load_into,
    load_model,
    load_weights,
    read_manifest,
)
from dhp_sr.deploy.weights import check_fit
from dhp_sr.deploy.without_memory import without_memory
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.strict_json import JsonObject
from dhp_sr.zoo.names import build_named, full_name, named_arguments
from dhp_sr.zoo.third_party import describe_by_output


def load_own_network(model: Path, arguments: Sequence[str]) -> tuple[nn.Module, JsonObject]:
    """Load a model file of ours, with the facts of its manifest.

    Raises:
        UserError: It cannot be loaded, or constructor arguments are given.
    """
    if arguments:
        raise UserError(
            f"{', '.join(arguments)}: no effect without --arch; a model file describes its network"
        )
    return load_model(model).float(), read_manifest(model)


def load_third_party_network(
    model: Path, arch: str, arguments: Sequence[str]
) -> tuple[nn.Module, JsonObject]:
    """Return a dense network with the weights of another project's file."""
    # Arguments first: reading a large file takes seconds.
    parsed = named_arguments(arguments)
    weights = load_weights(model)
    check_weight_shapes(model, arch, parsed, weights)
    # The real network, with memory, only now that the shapes are known to fit.
    network = build_named(arch, parsed).eval()
    # Our classes state their scale and sizes; of others they are probed.
    if full_name(arch) not in ARCHS:
        describe_by_output(network, arch, parsed)
    try:
        load_into(network, weights)
    except ModelFileError as error:
        raise ModelFileError(f"{model}: {error}") from error
    return network.float(), {"parent": valid_utf8(model.name)}


def check_weight_shapes(
    model: Path, arch: str, arguments: Mapping[str, object], weights: Mapping[str, Tensor]
) -> None:
    """Compare shapes before the network takes memory and time, which wrong arguments multiply."""
    try:
        network = without_memory(lambda: build_named(arch, arguments), len(weights))
    except UserError:
        raise
    except Exception:
        # A constructor that reads the values of its weights cannot do without them.
        return
    try:
        check_fit(network, weights)
    except ModelFileError as error:
        raise ModelFileError(f"{model}: {error}") from error


def valid_utf8(text: str) -> str:
    """Return text that can be stored: bytes that are no UTF-8 become question marks.

    Arguments and file names arrive with such bytes as lone surrogates.
    """
    return text.encode("utf-8", "replace").decode("utf-8")
