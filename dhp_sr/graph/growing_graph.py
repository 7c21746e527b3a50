"""Values of a graph that is still being traced."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from dhp_sr.graph.shape_inference import ShapeInterpreter, infer_layer, inferred_result


class GrowingGraphInterpreter(ShapeInterpreter):
    """Runs a graph that is still being traced, on the meta device, each node once.

    Args:
        root: copy of the network on the meta device.
        traced_root: the network that is followed.
        inputs: examples of its inputs, on the meta device.
        graph: the graph.
        plain_call: `nn.Module.__call__`, in whose place a patch records calls meanwhile.
    """

    def __init__(
        self,
        root: nn.Module,
        traced_root: nn.Module,
        inputs: Sequence[Tensor],
        graph: fx.Graph,
        plain_call: Callable[..., Any],
    ) -> None:
        super().__init__(root, garbage_collect_values=False, graph=graph)
        self._traced_root = traced_root
        self._inputs = iter(inputs)
        self._plain_call = plain_call
        # The root, which every graph has, comes before its first node and after its last.
        self._last: fx.Node = graph._root
        self.failures: dict[fx.Node, Exception] = {}
        """Nodes whose values cannot be worked out -> what they raised, in order."""

    def value(self, wanted: fx.Node) -> Any:
        """Return a node's value; None where it cannot be worked out."""
        # Nodes are only added at the end: all before the last one have been seen.
        node = self._last.next
        while node.op != "root":
            self._last = node
            try:
                # Tensors that a forward makes belong on the meta device as well.
                with torch.no_grad(), torch.device("meta"):
                    value = inferred_result(self, node)
                    self.env[node] = self.run_node(node) if value is None else value
            except Exception as error:
                # Whatever an operator raises without values: its result, and what follows from it,
                # stay unknown.
                self.failures[node] = error
            node = node.next
        return self.env.get(wanted)

    def placeholder(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Return the example for the inputs that have one, the default for others."""
        # Inputs come first in a graph, in the order of the forward, and each is asked for once.
        default = args[0] if args else ()
        return next(self._inputs, default)

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Return a parameter or buffer, or a constant that the tracer has collected."""
        if str(target).startswith("_tensor_constant"):
            return getattr(self._traced_root, target).to("meta")
        return super().get_attr(target, args, kwargs)

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Run the forward of a module."""
        result = None if kwargs else infer_layer(self.submodules[target], args)
        if result is not None:
            return result
        # Not the module itself: its `__call__` is patched while the tracer follows the network.
        module = self.submodules[target]
        if not module._modules:
            return module.forward(*args, **kwargs)
        call = nn.Module.__call__
        nn.Module.__call__ = self._plain_call  # type: ignore[method-assign, assignment]
        try:
            return module(*args, **kwargs)
        finally:
            nn.Module.__call__ = call  # type: ignore[method-assign]
