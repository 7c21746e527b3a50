"""Shape inference: run networks on the meta device, where only shapes are computed."""

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from dhp_sr.graph.in_place import PLAIN_ARITHMETIC, infer_in_place
from dhp_sr.utils.modules import deep_copy

_ARITHMETIC = (operator.add, operator.sub, operator.mul, operator.truediv)


def to_meta(network: nn.Module) -> nn.Module:
    """Move a network to the meta device in place."""
    # Plain tensors that are attributes (`self.mean = torch.tensor(...)`) are not moved by `to`.
    for module in network.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, Tensor):
                setattr(module, name, value.to("meta"))
    return network.to("meta")


def meta_copy(network: nn.Module) -> nn.Module:
    """Return a deep copy of a network on the meta device, without copying any values."""
    memo: dict[int, Any] = {}
    for module in network.modules():
        tensors = [*module._parameters.values(), *module._buffers.values(), *vars(module).values()]
        for tensor in tensors:
            if not isinstance(tensor, Tensor) or id(tensor) in memo:
                continue
            copied = tensor.detach().to("meta")
            if isinstance(tensor, nn.Parameter):
                copied = nn.Parameter(copied, requires_grad=tensor.requires_grad)
            memo[id(tensor)] = copied
    return deep_copy(network, memo)


@torch.no_grad()
def infer_output(
    network: nn.Module, shape: Sequence[int], dtype: torch.dtype = torch.float32
) -> Any:
    """Return a network's output for an input of a given shape, on the meta device.

    Args:
        network: In the mode that counts; it is left as it was.
        shape: (N, C, H, W) or whatever the network takes.
        dtype: Type of the input.

    Raises:
        Exception: Whatever the network's forward raises.
    """
    copied = meta_copy(network)
    image = torch.empty(tuple(shape), dtype=dtype, device="meta")
    try:
        return copied(image)
    except Exception:
        # A forward that creates tensors on no device in particular mixes them with those on the
        # meta device. It is run again with them there, too; not at first, since a forward may read
        # the values of what it creates.
        with torch.device("meta"):
            return copied(image)


class ShapeInterpreter(fx.Interpreter):
    """Runs a graph whose values stay on the meta device where they are once there."""

    def call_method(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Call a method; `x.to("cpu")` of a tensor on the meta device changes its type alone."""
        # A forward may move a weight to the device of a constant, which is no proxy: the device is
        # then a plain argument. Values cannot leave the meta device.
        source = args[0] if args else None
        if target == "to" and isinstance(source, Tensor) and source.is_meta:
            args = tuple(map(_on_meta, args))
            kwargs = {name: _on_meta(value) for name, value in kwargs.items()}
        return super().call_method(target, args, kwargs)


def _on_meta(argument: Any) -> Any:
    """Return an argument of `Tensor.to` with the meta device for any other."""
    if isinstance(argument, Tensor):
        return argument.to("meta")
    is_device = isinstance(argument, (str, torch.device))
    return torch.device("meta") if is_device else argument


class ValueRecorder(ShapeInterpreter):
    """Runs a graph and keeps the value of every node.

    Args:
        module: Holds the modules and tensors that the graph uses.
        graph: The graph.
        known: Values of some nodes by name, all tensors on the meta device. They are taken, except
            for tensors that the forward makes, which have values here, and what depends on those.
    """

    def __init__(
        self, module: nn.Module, graph: fx.Graph, known: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(module, garbage_collect_values=False, graph=graph)
        self.values: dict[fx.Node, Any] = {}
        self._known = known or {}
        self._with_values: set[fx.Node] = set()
        """Nodes whose tensors have values."""

    def run_node(self, n: fx.Node) -> Any:
        """Run a node and keep its value."""
        if self._is_known(n):
            result = self._known[n.name]
        else:
            result = inferred_result(self, n)
            if result is None:
                result = super().run_node(n)
            if not _is_shape_alone(result):
                self._with_values.add(n)
        self.values[n] = result
        return result

    def _is_known(self, node: fx.Node) -> bool:
        """Return whether a node's known value is what running it would give."""
        if node.name not in self._known or node.op == "output":
            return False
        inputs = node.all_input_nodes
        if any(source in self._with_values for source in inputs):
            return False
        is_call = node.op.startswith("call_")
        makes_tensor = is_call and not any(isinstance(self.values[n], Tensor) for n in inputs)
        return not makes_tensor or not isinstance(self._known[node.name], Tensor)


def _is_shape_alone(value: Any) -> bool:
    """Return whether a value has no tensors but those on the meta device."""
    if isinstance(value, (tuple, list)):
        return all(map(_is_shape_alone, value))
    return value.is_meta if isinstance(value, Tensor) else isinstance(value, (int, float))


def inferred_result(interpreter: fx.Interpreter, node: fx.Node) -> Tensor | None:
    """Return the result of a node where it is an operator whose shape is known here."""
    if node.op != "call_function":
        return None
    if node.target in _ARITHMETIC:
        return infer_arithmetic(*interpreter.fetch_args_kwargs_from_env(node)[0])
    if node.target in PLAIN_ARITHMETIC:
        return infer_in_place(*interpreter.fetch_args_kwargs_from_env(node)[0])
    if node.target is F.interpolate:
        args, kwargs = interpreter.fetch_args_kwargs_from_env(node)
        return infer_interpolation(*args, **kwargs)
    return None


def infer_arithmetic(left: Any, right: Any) -> Tensor | None:
    """Return the result of an arithmetic operator by the rules of broadcasting and promotion.

    The first such operator on the meta device imports torch's compiler, which takes longer than
    planning a network.

    Args:
        left: First operand.
        right: Second operand.

    Returns:
        A tensor on the meta device; None where the rules are not that simple.
    """
    sizes = []
    for operand in (left, right):
        if isinstance(operand, Tensor):
            if not (operand.is_meta and operand.is_contiguous()):
                return None
            sizes.append(operand.shape)
        elif not isinstance(operand, int | float):
            return None
    # division of integers gives floats, and Python's numbers alone no tensor
    dtype = torch.result_type(left, right) if sizes else torch.int64
    if not dtype.is_floating_point:
        return None
    try:
        # not torch.broadcast_shapes, which imports a computer algebra system
        shape = np.broadcast_shapes(*sizes)
    except ValueError:
        return None  # torch's own message is better
    return torch.empty(shape, dtype=dtype, device="meta")


def infer_interpolation(
    x: Any, size: Any = None, scale_factor: Any = None, mode: str = "nearest", **more: Any
) -> Tensor | None:
    """Return the result of `torch.nn.functional.interpolate` of an image.

    torch's own inference computes the weights of the pixels, in Python.

    Args:
        x: (N, C, H, W).
        size: Size of the result.
        scale_factor: Given instead of a size.
        mode: Any.
        more: What else the function takes.

    Returns:
        A tensor on the meta device; None where the function itself has to say.
    """
    if not isinstance(x, Tensor) or not (x.is_meta and x.is_contiguous() and x.dim() == 4):
        return None
    if (size is None) == (scale_factor is None) or not x.is_floating_point() or mode == "area":
        return None
    given = scale_factor if size is None else size
    pair = (given, given) if isinstance(given, int | float) else tuple(given)
    if len(pair) != 2 or not all(isinstance(number, int | float) for number in pair):
        return None
    shape = list(x.shape[:2])
    for length, number in zip(x.shape[2:], pair, strict=True):
        shape.append(math.floor(length * number) if size is None else int(number))
    if min(shape) < 1:
        return None  # torch's own message is better
    return torch.empty(shape, dtype=x.dtype, device="meta")


_SHAPE_KEEPERS = (nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.LayerNorm, nn.Softmax)
"""Modules whose result has the shape of their input."""


def infer_layer(module: nn.Module, args: Sequence[Any]) -> Tensor | None:
    """Return the result of a linear layer, a norm or an activation by its shape alone.

    torch's own inference of these is a decomposition in Python, a thousand times as long.

    Args:
        module: On the meta device.
        args: The arguments of its call.

    Returns:
        A tensor on the meta device; None where the module itself has to say.
    """
    x = args[0] if len(args) == 1 else None
    if not isinstance(x, Tensor) or not (x.is_meta and x.is_contiguous() and x.dim()):
        return None
    shape = list(x.shape)
    weight = getattr(module, "weight", None)
    if weight is not None and weight.dtype != x.dtype:
        return None
    if type(module) is nn.Linear and shape[-1] == module.in_features:
        shape[-1] = module.out_features
        return torch.empty(shape, dtype=x.dtype, device="meta")
    if type(module) is nn.LayerNorm and shape[-len(module.normalized_shape) :] != list(
        module.normalized_shape
    ):
        return None
    if type(module) not in _SHAPE_KEEPERS or not x.is_floating_point():
        return None
    if getattr(module, "inplace", False):
        return x
    return torch.empty(shape, dtype=x.dtype, device="meta")
