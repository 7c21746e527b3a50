"""Graph capture: trace a network and record every value's shape for an example.

    network -> copies, followed once or twice -> graph -> graph run on the meta device -> values

`trace` does this. `check_capture` then compares the graph with the network on an image.
"""

import contextlib
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from dhp_sr.graph.cheap_convolutions import CheapConvolutions
from dhp_sr.graph.equal_modules import ComputedLayers
from dhp_sr.graph.in_place import make_plain_where_equal
from dhp_sr.graph.shape_inference import ValueRecorder, meta_copy
from dhp_sr.graph.trace_errors import (
    TraceError,
    advice_for,
    check_shapes,
    line_of_error,
    optional_inputs,
)
from dhp_sr.graph.tracer import Tracer
from dhp_sr.utils.modules import copy_network, deep_copy
from dhp_sr.utils.network_io import Example, first_samples, relative_difference

ArgPath = tuple[Any, ...]
"""Path to an argument of a node: ("args", 1, 0), ("kwargs", "dim"), ("args", 1, 1, "stop"),
..."""


_REDUCTION = 4
"""Divisor of the sides of the example, for the check of a captured graph."""
_MIN_SIDE = 16
"""Pixels that the smaller image must have."""
_MANY_PIXELS = 2**16
"""Pixels of an image on which convolutions take long."""
_MAX_MACS = 5e10
"""Multiply-adds of convolutions that a pass over such an image may take: about a second."""
_MAX_DIFFERENCE = 1e-3
"""Largest relative difference of the outputs that passes for rounding."""


class TracedNetwork(NamedTuple):
    """A traced copy of a network."""

    graph_module: fx.GraphModule
    """The network as a graph; module and parameter names are those of the original."""
    values: dict[fx.Node, Any]
    """Value of each node for the example, batch size 1; tensors on the meta device where
    possible."""
    guards: tuple[fx.Node, ...]
    """Numbers on which a branch, a loop or an assertion depended."""
    computed_layers: ComputedLayers
    """Findings about modules that compute the weight of a layer."""


def trace(
    network: nn.Module,
    example_input: Example,
    training: bool = False,
    *,
    join_computed_weights: bool = False,
) -> TracedNetwork:
    """Trace a copy of `network` and run it once, without arithmetic where the operators allow it.

    Branches, loops and assertions on shapes are decided as for the example.

    Args:
        network: Any module that torch.fx can follow; it is left as it was.
        example_input: (N, C, H, W) or whatever the network takes, or a tuple of its inputs; only
            the first sample is used.
        training: Trace the forward in training mode.
        join_computed_weights: Whether modules that compute the weight of a layer are single
            operators where their channels are known, see `dhp_sr.graph.computed_weights`. In
            training mode all are followed: what they compute then may be another weight.

    Raises:
        TraceError: The network has weights without shapes, takes other inputs than the example
            has, depends on values of tensors, or does not accept the example.
        UserError: It cannot be copied, or the example is neither a tensor nor a tuple of tensors.
    """
    check_shapes(network)
    inputs = first_samples(example_input)
    absent = optional_inputs(network, len(inputs))
    copied = copy_network(network)
    layers = ComputedLayers()
    try:
        joined_layers = layers if join_computed_weights and not training else None
        tracer, graph_module = _traced(copied, inputs, absent, joined_layers, training=training)
    except Exception as error:  # whatever a forward raises when it is given proxies
        raise TraceError(
            f"{type(network).__name__} cannot be traced: {error}; at "
            f"{line_of_error(network, error)}. "
            f"{advice_for(error)}"
        ) from error
    # GraphModule copies the graph: the nodes in it have the same names.
    nodes = {node.name: node for node in graph_module.graph.nodes}
    guards = tuple(nodes[node.name] for node in tracer.guards)
    values = record_values(graph_module, inputs, tracer)
    if make_plain_where_equal(graph_module.graph, values):
        graph_module.recompile()
    return TracedNetwork(graph_module, values, guards, layers)


def _followed_copy(network: nn.Module, training: bool) -> nn.Module:
    """Return a copy to follow, which shares the parameters: none of their values is read."""
    memo = {id(parameter): parameter for parameter in network.parameters()}
    return deep_copy(network, memo).train(training)


def _traced(
    untouched: nn.Module,
    inputs: Sequence[Tensor],
    absent: dict[str, None],
    joined_layers: ComputedLayers | None,
    *,
    training: bool,
) -> tuple[Tracer, fx.GraphModule]:
    """Follow a network, and return the tracer and the graph.

    The first pass follows all modules that can be followed. It shows which of them have to be
    single operators: attentions whose weights are read, and modules that compute the weight of a
    layer. Where there are any, a second pass does not follow these.

    Args:
        untouched: A copy of the network, to which the graph is attached. Further copies of it are
            followed, since a forward may leave values in its module (`self.mean = ...`).
        inputs: Examples.
        absent: Inputs that are not given.
        joined_layers: Finds the modules that compute weights; None: these are all followed.
        training: Whether the forward is followed in training mode.
    """
    root = _followed_copy(untouched, training)
    tracer = Tracer(root, inputs)
    graph = tracer.trace(root, absent or None)
    single = tracer.erase_unread_weights()  # attentions whose weights are read
    if joined_layers is not None:
        single |= tracer.modules_that_compute_weights(joined_layers)
    if single:
        root = _followed_copy(untouched, training)
        tracer = Tracer(root, inputs, single=single)
        graph = tracer.trace(root, absent or None)
        tracer.erase_unread_weights()
    # The graph reads tensors that the forward made, where the tracer has put them: in the root.
    for name, constant in root.__dict__.items():
        if name.startswith("_tensor_constant"):
            setattr(untouched, name, constant)
    return tracer, fx.GraphModule(untouched.eval(), graph)


@torch.no_grad()
def check_capture(network: nn.Module, traced: TracedNetwork, example_input: Example) -> None:
    """Compare the graph with the network on a random image, in evaluation mode.

    All tensors of the output are compared, whatever structure they are in.

    Raises:
        TraceError: The graph computes something else, or fails where the network does not.
    """
    tensors = [*network.parameters(), *network.buffers()]
    if any(tensor.is_meta for tensor in tensors):
        return
    image, *further = first_samples(example_input)
    small = image[..., : image.shape[-2] // _REDUCTION, : image.shape[-1] // _REDUCTION]
    # A small image that agrees says the same in a fraction of the time. One that does not says
    # nothing: the graph holds for the example's size alone where there are windows or branches.
    if not further and image.dim() == 4 and min(small.shape[-2:]) >= _MIN_SIDE:
        with contextlib.suppress(TraceError):
            difference = _difference(network, traced, small, further)
            if difference is not None and difference <= _MAX_DIFFERENCE:
                return
    try:
        difference = _difference(network, traced, image, further)
    except TraceError:
        # The graph fails. It is right if the network does, too, on a random image.
        if _output_of_network(network, traced, image, further) is None:
            return
        raise
    if difference is not None and difference > _MAX_DIFFERENCE:
        raise TraceError(
            f"{type(network).__name__}: expected the captured graph to compute what the "
            f"network does, found a difference of {difference:.1e} of the largest output"
        )


def _difference(
    network: nn.Module, traced: TracedNetwork, image: Tensor, further: Sequence[Tensor]
) -> float | None:
    """Return the largest difference on a random image of a size, relative to the largest output.

    None where the network cannot compute it, or computes entries that are no numbers.

    Raises:
        TraceError: The graph fails, which is a fault where the network does not.
    """
    # The graph first: on another size than the example's it often fails at once.
    try:
        actual = _output(traced.graph_module, image, further)
    except Exception as error:  # whatever an operator raises
        raise TraceError(
            f"{type(network).__name__}: the captured graph does not run on an image of shape "
            f"{tuple(image.shape)}: {error}"
        ) from error
    expected = _output_of_network(network, traced, image, further)
    if expected is None:
        return None
    if math.isnan(relative_difference(expected, expected)):
        return None
    difference = relative_difference(expected, actual)
    return math.inf if math.isnan(difference) else difference


def _output_of_network(
    network: nn.Module, traced: TracedNetwork, image: Tensor, further: Sequence[Tensor]
) -> Any:
    """Run the network on a random image; None where it cannot."""
    # The graph runs on a copy of the network's parameters already, which do for both.
    copies = dict(traced.graph_module.named_parameters())
    memo = {}
    for name, parameter in network.named_parameters():
        if name in copies:
            memo[id(parameter)] = copies[name]
    try:
        return _output(deep_copy(network, memo).eval(), image, further)
    except Exception:  # values of another kind may be needed than these
        return None


def _output(module: nn.Module, image: Tensor, further: Sequence[Tensor]) -> Any:
    """Run a module on a random image, the same one in every call."""
    is_large = image.dim() > 2 and image.shape[-2:].numel() >= _MANY_PIXELS
    # Not for small images: the first operator that it sees imports torch's compiler.
    bounded = CheapConvolutions(after_macs=_MAX_MACS) if is_large else contextlib.nullcontext()
    with torch.random.fork_rng(devices=[]), bounded:
        torch.manual_seed(0)
        noise = torch.rand_like(image)
        # Copied for operators that write into them.
        return module(noise, *[tensor.clone() for tensor in further])


def record_values(
    graph_module: fx.GraphModule, inputs: Sequence[Tensor], tracer: Tracer | None = None
) -> dict[fx.Node, Any]:
    """Return the value of every node of a graph for its inputs, on the meta device if possible.

    Args:
        graph_module: The graph.
        inputs: Inputs of its forward.
        tracer: The one that made the graph; what it has worked out is not worked out again.

    Raises:
        TraceError: The network does not accept the inputs.
    """
    with torch.no_grad():
        try:
            if tracer is None:
                recorder = ValueRecorder(meta_copy(graph_module), graph_module.graph)
            else:
                module = tracer.meta_root.eval()
                recorder = ValueRecorder(module, graph_module.graph, tracer.meta_values)
            recorder.run(*[tensor.to("meta") for tensor in inputs])
        except Exception:
            # Some operator has no shape rule, or a constant stayed on its device: run the whole
            # graph with values.
            recorder = ValueRecorder(graph_module, graph_module.graph)
            try:
                # Copied for operators that write into them.
                recorder.run(*[tensor.clone() for tensor in inputs])
            except Exception as error:
                shapes = " and ".join(str(tuple(tensor.shape)) for tensor in inputs)
                raise TraceError(
                    f"the network does not run on an example of shape {shapes}: {error}"
                ) from error
    return recorder.values
