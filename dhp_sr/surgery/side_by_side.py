"""A captured network run operator by operator, for all batches at once.

Two versions of a network share the nodes of a graph, so their values can be compared node by node.
The caller may change the weights of an operator and compute it again before anything reads it.
"""

import copy
import operator
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dhp_sr.channels.kept_channels import KeptCall
from dhp_sr.graph.in_place import written_argument
from dhp_sr.graph.tracer import LEAF_FORWARDS
from dhp_sr.surgery.layer_samples import LAYERS, Layer
from dhp_sr.utils.network_io import Example, inputs_of

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
SUBTRACTIONS = (operator.sub, operator.isub, torch.sub, "sub", "sub_")
PRODUCTS = (operator.mul, operator.imul, torch.mul, "mul", "mul_")


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
        return max(self._num_uses[id(part)] for part in parts)

    def is_layer(self, node: fx.Node) -> bool:
        """Whether a node calls a convolution or a linear layer."""
        return node.op == "call_module" and type(self.module(node)) in LAYERS

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


SMALLEST_GAIN = 1e-3
"""A channel that is scaled by less than this, relative to the largest scale, is not asked to make
up for the error of the sum that it is added to: it would have to grow a thousandfold."""


def find_shortcut_error(
    node: fx.Node, dense: Execution, masked: Execution
) -> Callable[[int], Tensor] | None:
    """Error of the value that a layer's output is added to, as at the end of a residual block.

        shortcut --------------------(error e)---------------> + --> read by all that follows
           '-----> ... --> layer --> norm --> * constant ------^

    The sum is what the rest of the network reads, so the layer also makes up for what the
    shortcut has lost: its target is y + e / (gain of the norm * constant), channel by channel.
    Behind a difference (shortcut - branch), or `add(..., alpha=0.2)`, the factors of both operands
    count as well.

    Args:
        node: Call of the layer.
        dense: Values of the dense network.
        masked: Values of the masked network.

    Returns:
        For a batch's index the error in units of the layer's output, (N, C, H, W); None where
        the output goes anywhere else than into an addition with a value that is known by now.
    """
    # Only values that are still needed are there: others were computed and released, or come
    # later, and their error is not known now.
    example = masked.values[0]
    shape = example[node].shape
    scale = torch.ones(())
    # With two users, the other one would read what was meant for the sum.
    while len(node.users) == 1:
        user = next(iter(node.users))
        if user.op == "call_module" and type(masked.module(user)) in BATCH_NORMS:
            gain = _norm_gain(masked.module(user))
            if gain is None:
                return None
            scale = scale * gain.reshape(-1, *[1] * (len(shape) - 2))
            node = user
            continue
        # A value added to itself or multiplied by itself leaves no other operand.
        others = [value for value in user.args if value is not node]
        if len(user.args) != 2 or len(others) != 1:
            return None
        other = others[0]
        if user.target in PRODUCTS and isinstance(other, (int, float)):
            scale = scale * other
            node = user
            continue
        factors = _factors_of_operands(user)
        if factors is None or not isinstance(other, fx.Node):
            return None
        if other not in example or example[other].shape != shape:
            return None
        position = user.args.index(node)
        scale = scale * factors[position]
        factor = factors[1 - position]
        usable = scale.abs() > SMALLEST_GAIN * scale.abs().max()
        # Where nothing is usable the inverse is zero, not infinite.
        inverse = torch.where(usable, scale, torch.ones_like(scale)).reciprocal() * usable
        inverse = inverse * factor
        return lambda batch: inverse * (dense.values[batch][other] - masked.values[batch][other])
    return None


def _factors_of_operands(node: fx.Node) -> tuple[float, float] | None:
    """Factors of both operands in a sum or difference; None for other operators."""
    alpha = node.kwargs.get("alpha", 1)
    if not isinstance(alpha, (int, float)):
        return None
    if node.target in ADDITIONS:
        return 1, alpha
    return (1, -alpha) if node.target in SUBTRACTIONS else None


def _norm_gain(norm: nn.Module) -> Tensor | None:
    """Factor by which a normalization scales each channel in eval mode; None without statistics."""
    assert isinstance(norm, _BatchNorm)
    if norm.running_var is None:
        return None
    gain = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        gain = gain * norm.weight
    return gain
