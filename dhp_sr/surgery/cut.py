"""Cutting a network: a smaller copy whose tensors hold the kept channels alone."""

import math
from collections.abc import Container, Mapping, Sequence

import torch
from torch import Tensor, nn

from dhp_sr.channels.plan import ChannelPlan, append_pinned
from dhp_sr.operators.narrow import select_entries
from dhp_sr.operators.resize import resize
from dhp_sr.surgery.remove import constants_left, removed_layers, replace_layers
from dhp_sr.surgery.rewrite import rewrite, runs_only_as_traced
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.modules import canonical_names, deep_copy, evaluating, load_values
from dhp_sr.utils.network_io import Example, inputs_of, relative_difference, with_further_inputs

ADVICE = (
    "Does its forward compute with the width of a layer, such as `conv.out_channels`, or with a "
    "number derived from it? A cut changes widths: read them from a tensor in the forward "
    "(`x.shape[1]`), so that its channels are kept, or name the layers that must not lose channels "
    "in `exclude` (`compress.exclude` in an option file)"
)
"""Advice if a cut computes something else: the plan does not see numbers that layers hold."""

MAX_DIFFERENCE = 1e-3
"""Largest relative difference between cut and masked network that passes for rounding."""

MAX_DIFFERENCE_FLOAT64 = 1e-9
ROUNDING_SHRINKS = 1e-6
"""Largest difference in float64 relative to that in float32 which rounding explains; the digits
alone make it 2e-9."""

KeptEntries = Mapping[tuple[str, int], Tensor]
"""(name of a tensor, axis) -> indices of the entries that are kept."""


class CutError(UserError):
    """The cut network does not compute what the masked network does."""


def cut(
    network: nn.Module, plan: ChannelPlan, mask: Tensor, values: Mapping[str, Tensor]
) -> nn.Module:
    """Return a smaller copy of a network.

    Args:
        network: The plain network, unpruned; it is left as it was.
        plan: Its plan.
        mask: (plan.size,) True for kept channels.
        values: Parameters to use instead of the network's, unpruned.

    Returns:
        A module of the same class, in eval mode; or, where the class's forward has hard-coded sizes
        that no longer hold, the traced forward with other sizes.
    """
    kept = kept_entries(plan, mask)
    removed = removed_layers(plan.removed_branches(mask))
    removed_names = {layer.name for layer in removed}
    # The plan knows a tensor that several modules share by its first name.
    canonical = canonical_names(network)
    state = {}
    for name, tensor in network.state_dict().items():
        if name.rpartition(".")[0] in removed_names:
            continue
        first_name = canonical.get(name, name)
        if first_name in values:
            tensor = values[first_name].detach()
        state[name] = select_entries(tensor, first_name, kept)
    small = deep_copy(network).eval()
    if removed:
        constants = constants_left(network, plan, removed, values, kept)
        replace_layers(small, removed, constants)
        for name, constant in constants.items():
            state[f"{name}.bias"] = constant
    _slice_unsaved_buffers(small, state, canonical, kept)
    resize(small, {name: tuple(tensor.shape) for name, tensor in state.items()})
    load_values(small, state)
    # Numbers of channels that the forward states or checks are others now.
    states_none = not plan.size_patches and not plan.checks
    if states_none and not runs_only_as_traced(network, small):
        return small
    padded = append_pinned(mask)
    sizes = [patch.kept_size(padded) for patch in plan.size_patches]
    return rewrite(network, small, plan, sizes)


def kept_entries(plan: ChannelPlan, mask: Tensor) -> dict[tuple[str, int], Tensor]:
    """Return the indices of the kept entries along every axis of the plan's tensors."""
    padded = append_pinned(mask)
    kept = {}
    for axis in plan.axes:
        kept[axis.tensor, axis.dim] = padded[axis.index].nonzero().flatten()
    return kept


def zero_outside(tensor: Tensor, entries: Tensor, dim: int) -> Tensor:
    """Copy of a tensor that is zero outside some entries of an axis."""
    result = torch.zeros_like(tensor)
    entries = entries.to(tensor.device)
    return result.index_copy_(dim, entries, tensor.index_select(dim, entries))


def _slice_unsaved_buffers(
    small: nn.Module, saved: Container[str], canonical: Mapping[str, str], kept: KeptEntries
) -> None:
    """Slice the buffers outside the state dict, such as a constant gain, in place."""
    for name, tensor in list(small.named_buffers(remove_duplicate=False)):
        if name in saved:
            continue
        sliced = select_entries(tensor, canonical[name], kept)
        if sliced.shape != tensor.shape:
            module_name, _, leaf = name.rpartition(".")
            module = small.get_submodule(module_name)
            module.register_buffer(leaf, sliced, persistent=False)


@torch.no_grad()
def check_cut(masked: nn.Module, small: nn.Module, example_input: Example) -> float:
    """Compare a masked network and its cut copy, both in eval mode.

    Args:
        masked: What the copy must compute.
        small: The cut copy.
        example_input: An input, or the tuple of the networks' inputs.

    Returns:
        The largest difference, relative to the largest output.

    Raises:
        CutError: The copy does not run, or differs by more than rounding.
    """
    inputs = inputs_of(example_input)
    difference = _difference(masked, small, inputs)
    is_double = inputs[0].dtype == torch.float64
    # Written so that a difference of nan is refused, too.
    if difference <= (MAX_DIFFERENCE_FLOAT64 if is_double else MAX_DIFFERENCE):
        return difference
    # Weights from least squares may be large and cancel each other, so that rounding alone gives
    # more than that; it goes away with more digits, and a wrong cut does not.
    if not is_double and _difference_in_double(masked, small, inputs) <= max(
        MAX_DIFFERENCE_FLOAT64, ROUNDING_SHRINKS * difference
    ):
        return difference
    raise CutError(
        f"the cut network differs from the masked one by {difference:.2e} of the largest output. "
        f"{ADVICE}"
    )


def _difference(masked: nn.Module, small: nn.Module, inputs: Sequence[Tensor]) -> float:
    # TF32 rounds to 10 bits of mantissa, differently for differently shaped weights.
    cudnn = torch.backends.cudnn
    exact = cudnn.flags(enabled=cudnn.enabled, allow_tf32=False)
    outputs = []
    devices = [inputs[0].device] if inputs[0].is_cuda else []
    try:
        with evaluating(masked), evaluating(small), exact:
            for network in (masked, small):
                # A forward that adds noise draws the same for both.
                with torch.random.fork_rng(devices):
                    torch.manual_seed(0)
                    outputs.append(network(*inputs))
    except Exception as error:  # whatever its forward raises
        raise CutError(f"the cut network does not run: {error}. {ADVICE}") from error
    return relative_difference(*outputs)


def _difference_in_double(masked: nn.Module, small: nn.Module, inputs: Sequence[Tensor]) -> float:
    """Difference of copies in float64; infinite where a forward does not take it."""
    try:
        wide_masked = deep_copy(masked).double()
        wide_small = deep_copy(small).double()
        doubled = with_further_inputs(inputs[0].double(), inputs[1:])
        return _difference(wide_masked, wide_small, doubled)
    except (CutError, RuntimeError, TypeError):
        return math.inf
