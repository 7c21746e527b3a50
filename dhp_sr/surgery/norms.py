"""Batch normalizations in a correction: the dense network's statistics, and constants they hold."""

from collections.abc import Mapping

from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dhp_sr.surgery.cut import KeptEntries, zero_outside
from dhp_sr.surgery.side_by_side import BATCH_NORMS, Execution


def norms_of_reference(
    network: nn.Module, reference: Mapping[str, Tensor], kept: KeptEntries
) -> dict[str, Tensor]:
    """Tensors of the dense network's batch normalizations, zero where channels are cut.

    Args:
        network: The network at full width.
        reference: Tensors of the dense network, as far as they are given.
        kept: Indices of the kept entries.
    """
    norms = {}
    for path, module in network.named_modules():
        if type(module) not in BATCH_NORMS:
            continue
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            name = f"{path}.{leaf}".lstrip(".")  # the root module has an empty path
            if name not in reference:
                continue
            tensor = reference[name].detach()
            norms[name] = tensor
            if (name, 0) in kept:
                norms[name] = zero_outside(tensor, kept[name, 0], 0)
    return norms


def stored_mean_behind(node: fx.Node, masked: Execution) -> tuple[str, Tensor] | None:
    """Stored mean of a batch normalization that can hold the constant of a layer without bias.

        layer x + d  -->  ((y + d) - mean) / deviation         mean' = mean - d

    It is then that of the masked network, as if it were measured again.

    Args:
        node: Call of the layer.
        masked: Values of the masked network.

    Returns:
        Name and tensor of the mean of the norm that alone reads the layer's output, and reads
        nothing else; None where there is none.
    """
    user = next(iter(node.users), node)
    if len(node.users) != 1 or not masked.is_norm(user):
        return None
    norm = masked.module(user)
    assert isinstance(norm, _BatchNorm), f"{user.target} is no batch normalization"
    if norm.running_mean is None or masked.num_reads(norm.running_mean) > 1:
        return None
    return f"{user.target}.running_mean", norm.running_mean
