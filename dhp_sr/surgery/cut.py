"""The smaller network: a copy whose tensors hold the kept channels alone."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dhp_sr.channels.plan import ChannelPlan
from dhp_sr.operators.resize import resize
from dhp_sr.surgery.rewrite import rewrite
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.modules import canonical_names, load_values

ADVICE = (
    "Does its forward compute with the width of a layer, such as `conv.out_channels`, or with a number worked out from "
    "it? A cut changes widths: read them from a tensor in the forward (`x.shape[1]`), so that its channels stay, or "
    "name the layers that must not lose channels in `exclude` (`compress.exclude` in an option file)"
)
"""What to do where a cut computes something else: the plan does not see numbers that layers hold."""


class CutError(UserError):
    """The cut network does not compute what the masked one does."""


def cut(
    network: nn.Module, plan: ChannelPlan, mask: Tensor, values: Mapping[str, Tensor]
) -> nn.Module:
    """Return a smaller copy of a network.

    Args:
        network: the plain network, unpruned; it is left as it was.
        plan: its plan.
        mask: (plan.size,) True for kept channels.
        values: parameters to use instead of the network's own, full size.

    Returns:
        A module of the same class, in eval mode; or, where the class's forward states numbers of channels that no
        longer hold, the traced forward with other numbers.
    """
    first = canonical_names(network)
    kept = kept_entries(plan, mask)
    state = {}
    for name, tensor in network.state_dict().items():
        tensor = values[first[name]].detach() if first.get(name) in values else tensor
        for dim in range(tensor.dim()):
            if (first.get(name, name), dim) in kept:
                tensor = tensor.index_select(
                    dim, kept[first.get(name, name), dim].to(tensor.device)
                )
        state[name] = tensor
    small = copy.deepcopy(network).eval()
    _slice_constants(small, kept)
    resize(small, {name: tuple(tensor.shape) for name, tensor in state.items()})
    load_values(small, state)
    return _with_numbers(network, small, plan, mask)


def _with_numbers(
    network: nn.Module, small: nn.Module, plan: ChannelPlan, mask: Tensor
) -> nn.Module:
    """Return `small` with the numbers of channels kept wherever its forward states them."""
    if not plan.size_patches:
        return small
    padded = _padded(mask)
    return rewrite(network, small, plan, [number.kept_size(padded) for number in plan.size_patches])


def kept_entries(plan: ChannelPlan, mask: Tensor) -> dict[tuple[str, int], Tensor]:
    """Return the entries that stay along every axis of every tensor."""
    padded = _padded(mask)
    return {(axis.tensor, axis.dim): padded[axis.index].nonzero().flatten() for axis in plan.axes}


def _padded(mask: Tensor) -> Tensor:
    return torch.cat((mask.cpu(), torch.ones(1, dtype=torch.bool)))


def _slice_constants(network: nn.Module, kept: Mapping[tuple[str, int], Tensor]) -> None:
    """Slice the buffers that are not part of the state dict."""
    state, first = network.state_dict().keys(), canonical_names(network)
    for name, tensor in list(network.named_buffers(remove_duplicate=False)):
        for dim in range(tensor.dim()):
            if name not in state and (first[name], dim) in kept:
                owner, _, leaf = name.rpartition(".")
                tensor = tensor.index_select(dim, kept[first[name], dim].to(tensor.device))
                network.get_submodule(owner).register_buffer(leaf, tensor, persistent=False)


@torch.no_grad()
def check_cut(masked: nn.Module, small: nn.Module, example_input: Tensor) -> float:
    """Compare a masked network and its cut copy, both in eval mode.

    Returns:
        The largest difference, relative to the largest output.

    Raises:
        CutError: the copy does not run, or differs by more than rounding.
    """
    modes = masked.training, small.training
    masked.eval(), small.eval()
    try:
        with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False):
            expected, found = masked(example_input), small(example_input)
    except Exception as error:  # whatever its forward raises
        raise CutError(f"the cut network does not run: {error}. {ADVICE}") from error
    finally:
        masked.train(modes[0]), small.train(modes[1])
    difference = relative_difference(expected, found)
    limit = 1e-9 if example_input.dtype == torch.float64 else 1e-3
    if not difference <= limit:
        raise CutError(
            f"the cut network differs from the masked one by {difference:.2e} of the largest output. {ADVICE}"
        )
    return difference


def relative_difference(expected: Any, found: Any) -> float:
    """Return the largest difference between two outputs of a network, relative to the largest entry of its tensor."""
    return max(map(_difference, _results(expected), _results(found)), default=0.0)


def _results(output: Any) -> list[Tensor]:
    """Return the tensors of an output, which may be a tuple, a list or a mapping of them."""
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, (tuple, list)):
        return [tensor for part in output for tensor in _results(part)]
    return [output] if isinstance(output, Tensor) else []


def _difference(expected: Tensor, found: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
