"""Values of a graph that is still being traced.

torch.fx gives a forward proxies, and refuses all that needs a plain number: `int(h)`, `len(x)`,
`for part in x.chunk(n)`. Here such a number is asked of the tracer (`Proxy`), which has worked it
out for the example (`GrowingGraphInterpreter`).
"""

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from dhp_sr.graph import checks
from dhp_sr.graph.in_place import PLAIN_ARITHMETIC
from dhp_sr.graph.shape_inference import ShapeInterpreter, infer_layer, inferred_result

_PLAIN_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "ceil": math.ceil,
    "floor": math.floor,
    "sqrt": math.sqrt,
    "multiply": operator.mul,
    "subtract": operator.sub,
    "divide": operator.truediv,
    "floor_divide": operator.floordiv,
}
"""Functions of numpy by name -> of plain numbers, where the module operator has another name."""


_MOVES_IN_PLACE = ("unsqueeze_", "squeeze_", "transpose_", "t_", "swapaxes_", "swapdims_")
"""Methods that give a tensor other axes, and write no values."""


def _recorded_in_place(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the method of `y += x`, which Python else takes for `y = y + x`."""

    def method(self: "Proxy", other: Any) -> Any:
        # By the name of the plain function: it mostly becomes that one, see `in_place`.
        name = PLAIN_ARITHMETIC[function].__name__
        return self.tracer.create_proxy("call_function", function, (self, other), {}, name)

    return method


class Proxy(fx.Proxy):
    """A value of the traced forward, which may be assigned to and used as a Python number."""

    tracer: Any
    """The `Tracer`, which knows the value for the example."""

    def __getattr__(self, name: str) -> Any:
        # numpy asks for these, and takes any answer for an array.
        if name.startswith("__array"):
            raise AttributeError(name)
        if name == "ndim":
            value = self.tracer.meta_value(self, is_decided_on=False)
            if isinstance(value, Tensor):
                return value.ndim
        return Attribute(self, name)

    def __array_ufunc__(self, function: Any, method: str, *inputs: Any, **named: Any) -> Any:
        # `np.ceil(h / 8)`: a number of Python, not of numpy, so that it stays in the trace.
        name = function.__name__
        plain = _PLAIN_FUNCTIONS.get(name) or getattr(operator, name, None)
        if plain is None or method != "__call__" or named:
            return NotImplemented
        return self.tracer.create_proxy("call_function", plain, inputs, {})

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})

    __iadd__ = _recorded_in_place(operator.iadd)
    __isub__ = _recorded_in_place(operator.isub)
    __imul__ = _recorded_in_place(operator.imul)
    __itruediv__ = _recorded_in_place(operator.itruediv)
    __ifloordiv__ = _recorded_in_place(operator.ifloordiv)
    __imod__ = _recorded_in_place(operator.imod)
    __ipow__ = _recorded_in_place(operator.ipow)
    __iand__ = _recorded_in_place(operator.iand)
    __ior__ = _recorded_in_place(operator.ior)
    __ixor__ = _recorded_in_place(operator.ixor)

    def __index__(self) -> int:
        value = self.tracer.meta_value(self)
        if not isinstance(value, int):
            raise TypeError("a number that depends on the values of tensors is used as an integer")
        # No guard here: torch also asks for the index of arguments that then stay in the trace as
        # nodes.
        return value

    def __int__(self) -> int:
        return int(float(self))

    def __float__(self) -> float:
        value = self.tracer.meta_value(self)
        if not isinstance(value, (int, float)):
            raise TypeError(
                "a number that depends on the values of tensors is used as a Python number"
            )
        checks.assert_as_traced(self, value)
        return float(value)

    # Unlike int() and float(), these may return anything: the number stays in the trace.
    def __round__(self, digits: int | None = None) -> Any:
        arguments = (self,) if digits is None else (self, digits)
        return self.tracer.create_proxy("call_function", round, arguments, {})

    def __ceil__(self) -> Any:
        return self.tracer.create_proxy("call_function", math.ceil, (self,), {})

    def __floor__(self) -> Any:
        return self.tracer.create_proxy("call_function", math.floor, (self,), {})

    def __iter__(self) -> Iterator[Any]:
        return self.tracer.iter(self)

    def __len__(self) -> int:
        value = self.tracer.meta_value(self, is_decided_on=False)
        if isinstance(value, Tensor):
            return self.size(0).__index__()
        return len(value) if isinstance(value, (tuple, list)) else super().__len__()


class Attribute(Proxy):
    """An attribute or method of a value; recorded as an attribute only if it is not called."""

    def __init__(self, root: fx.Proxy, name: str) -> None:
        self.root = root
        self.attr = name
        self.tracer = root.tracer
        self._node: fx.Node | None = None

    @property
    def node(self) -> fx.Node:  # type: ignore[override]
        """The node of the attribute."""
        if self._node is None:
            arguments = (self.root, self.attr)
            self._node = self.tracer.create_proxy("call_function", getattr, arguments, {}).node
        return self._node

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Record a call of the method; the attribute itself is not recorded then."""
        if self.attr in _MOVES_IN_PLACE and type(self.root) is Proxy:
            # As a plain view. Whatever reads this value later reads the view, as it would here.
            view = self.tracer.create_proxy(
                "call_method", self.attr.rstrip("_"), (self.root, *args), kwargs
            )
            self.root.node = view.node
            return self.root
        return self.tracer.create_proxy("call_method", self.attr, (self.root, *args), kwargs)


class GrowingGraphInterpreter(ShapeInterpreter):
    """Runs a graph that is still being traced, on the meta device, each node once.

    Args:
        root: Copy of the network on the meta device.
        traced_root: The network that is followed.
        inputs: Examples of its inputs, on the meta device.
        graph: The graph.
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
