"""A captured network run operator by operator, for all batches at once.

Two versions of a network share the nodes of a graph, so their values can be compared node by node.
The caller may change the weights of an operator and compute it again before anything reads it.
"""

import copy
import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from dhp_sr.channels.kept_channels import KeptCall
from dhp_sr.graph.in_place import written_argument
from dhp_sr.graph.tracer import LEAF_FORWARDS
from dhp_sr.surgery.layer_samples import LAYERS, Layer
from dhp_sr.utils.network_io import Example, inputs_of

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Execution:
    """One version of a network on its way through the graph, with the values still needed.

    Args:
        traced: The captured network; it is left as it was.
        values: Parameters and buffers that take the place of its own, by name.
        batches: Inputs, each (N, C, H, W) or a tuple of the network's inputs.
        kept_calls: Node -> its call as the plan has it, and the indices of the kept channels that
            it is given alone.
        is_dense: Whether all channels are kept, so that layers whose statistics are over the kept
            ones run as they are.
    """

    def __init__(
        self,
        traced: fx.GraphModule,
        values: Mapping[str, Tensor],
        batches: Sequence[Example],
        *,
        kept_calls: Mapping[str, tuple[KeptCall, Tensor]] | None = None,
        is_dense: bool = False,
    ) -> None:
        self.values: list[dict[fx.Node, Any]] = []
        """For each batch: node -> its value."""
        self.num_samples = 0
        self._batches: list[tuple[Tensor, ...]] = []
        self._kept_calls = kept_calls or {}
        for batch in batches:
            inputs = inputs_of(batch)
            self.values.append({})
            self.num_samples += len(inputs[0])
            self._batches.append(inputs)
        self._network = copy.deepcopy(traced).eval()
        for name, tensor in [*self._network.named_parameters(), *self._network.named_buffers()]:
            if name in values:
                tensor.copy_(values[name])
        for module in self._network.modules():
            if is_dense and type(vars(module).get("forward")) in LEAF_FORWARDS:
                del vars(module)["forward"]
        # A copy has nodes of its own; with the original graph both versions share their keys.
        self._network.graph = traced.graph
        self._interpreter = fx.Interpreter(self._network, garbage_collect_values=False)
        # A network may have more inputs than the example gives: the others have their defaults.
        self._input_position: dict[fx.Node, int] = {}
        # By identity: tied layers have one tensor, and the forward may read it besides.
        self._num_uses: Counter[int] = Counter()
        for node in traced.graph.nodes:
            if node.op == "placeholder":
                self._input_position[node] = len(self._input_position)
            elif self.is_layer(node):
                layer = self.layer(node)
                self._num_uses.update(id(part) for part in (layer.weight, layer.bias))
            elif self.is_norm(node):
                self._num_uses[id(self.module(node).running_mean)] += 1
            elif node.op == "get_attr":
                self._num_uses[id(self._interpreter.fetch_attr(str(node.target)))] += 1

    def module(self, node: fx.Node) -> nn.Module:
        """Module that a node calls."""
        return self._network.get_submodule(str(node.target))

    def layer(self, node: fx.Node) -> Layer:
        """Convolution or linear layer that a node calls, see `is_layer`."""
        module = self.module(node)
        assert isinstance(module, Layer), f"{node.target} is no layer"
        return module

    def num_uses(self, layer: Layer) -> int:
        """Number of nodes, of this layer or others, that its weight or its bias has a part in."""
        parts = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
        return max(map(self.num_reads, parts))

    def num_reads(self, tensor: Tensor) -> int:
        """Number of nodes that read a weight or bias of a layer, or the stored mean of a norm."""
        return self._num_uses[id(tensor)]

    def is_layer(self, node: fx.Node) -> bool:
        """Whether a node calls a convolution or a linear layer."""
        return node.op == "call_module" and type(self.module(node)) in LAYERS

    def is_norm(self, node: fx.Node) -> bool:
        """Whether a node calls a batch normalization."""
        return node.op == "call_module" and type(self.module(node)) in BATCH_NORMS

    def compute(self, node: fx.Node) -> None:
        """Compute a node's value for every batch."""
        for inputs, values in zip(self._batches, self.values, strict=True):
            if node.op == "placeholder":
                position = self._input_position[node]
                if position < len(inputs):
                    # Copied for operators that write into it.
                    values[node] = inputs[position].clone()
                else:
                    # Absent, as it was when the graph was captured.
                    values[node] = next(iter(node.args), None)
            elif node.op != "output":
                self._interpreter.env = values
                values[node] = self._run(node)

    def _run(self, node: fx.Node) -> Any:
        """Compute a node's value from those of its inputs."""
        if node.name not in self._kept_calls:
            return self._interpreter.run_node(node)
        call, kept = self._kept_calls[node.name]
        args, kwargs = self._interpreter.fetch_args_kwargs_from_env(node)
        run = self._interpreter.call_function
        if node.op == "call_method":
            run = self._interpreter.call_method

        def function(*args: Any, **kwargs: Any) -> Any:
            return run(node.target, args, kwargs)

        return call.run(function, args, kwargs, kept)

    def copy(self, node: fx.Node, results: Sequence[fx.Node]) -> None:
        """Give some nodes the value of another, for every batch."""
        for values in self.values:
            for result in results:
                # A copy: an operator behind it may write into it.
                values[result] = values[node].clone()

    def release(self, nodes: Sequence[fx.Node]) -> None:
        """Forget values that nothing reads any more."""
        for values in self.values:
            for node in nodes:
                values.pop(node, None)


def execution_order(graph: fx.Graph, execution: Execution) -> list[fx.Node]:
    """Order the nodes so that a layer comes as late as what is ready beside it allows.

    What a layer's output is added to is then known when the layer is corrected, also where the
    forward computes a shortcut after the branch. Where some operator writes into a value that
    something else may read, the order of the forward stays.
    """
    if any(_may_disturb_others(node, execution) for node in graph.nodes):
        return list(graph.nodes)
    position: dict[fx.Node, int] = {}
    missing: dict[fx.Node, int] = {}
    ready: list[fx.Node] = []
    for node in graph.nodes:
        position[node] = len(position)
        missing[node] = len(node.all_input_nodes)
        if missing[node] == 0:
            ready.append(node)
    order: list[fx.Node] = []
    while ready:
        # Layers last; beside that, the order of the forward.
        node = min(ready, key=lambda node: (execution.is_layer(node), position[node]))
        ready.remove(node)
        order.append(node)
        for user in node.users:
            missing[user] -= 1
            if missing[user] == 0:
                ready.append(user)
    return order


def _may_disturb_others(node: fx.Node, execution: Execution) -> bool:
    """Whether a node writes into a value that another node may read.

    Activations in place are safe behind layers, norms and sums, whose result is a new tensor that
    nothing else reads.
    """
    module = execution.module(node) if node.op == "call_module" else None
    source = written_argument(node, module)
    if source is None:
        return False
    if not isinstance(source, fx.Node):
        return True
    is_new = source.target in (operator.add, torch.add)
    if source.op == "call_module":
        is_new = type(execution.module(source)) in (*LAYERS, *BATCH_NORMS)
    return not is_new or len(source.users) > 1


def last_uses(order: Sequence[fx.Node]) -> dict[fx.Node, list[fx.Node]]:
    """Node -> the nodes whose values nothing reads after it."""
    position: dict[fx.Node, int] = {}
    for node in order:
        position[node] = len(position)
    released: dict[fx.Node, list[fx.Node]] = {}
    for node in order:
        # What nothing reads, such as an assertion, is forgotten at once.
        last_user = max(node.users, key=position.__getitem__, default=node)
        released.setdefault(last_user, []).append(node)
    return released
