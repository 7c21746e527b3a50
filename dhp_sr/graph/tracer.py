"""torch.fx tracer that works out what depends on the example's shape alone.

torch.fx follows a forward with proxies and stops at every branch, loop or `int()` on a value it
does not know. Sizes are known once an example is given: the graph, as far as it is traced, is run
on the meta device to find them.
"""

import copy
import math
import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from dhp_sr.graph.shape_inference import to_meta

LEAF_TYPES: set[type[nn.Module]] = set()
"""Classes of modules outside torch.nn that count as single operators; `register_op` adds to it."""


class Tracer(fx.Tracer):
    """Follows a forward; what depends on shapes alone is decided as for the example."""

    # Sizes from the example can then be arguments of methods of buffers.
    proxy_buffer_attributes = True

    def __init__(self, root: nn.Module, example: Tensor) -> None:
        super().__init__(autowrap_functions=())
        self._root = to_meta(copy.deepcopy(root))
        self._example = example.to("meta")
        self._interpreter: _GrowingGraphInterpreter | None = None
        self.guards: list[fx.Node] = []
        """Nodes whose values were used as Python numbers, so that the trace holds for these values
        alone."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether a module is a single operator, which is not traced into."""
        return type(m) in LEAF_TYPES or super().is_leaf_module(m, module_qualified_name)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Return the proxy of a node's value."""
        return _Proxy(node, self)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Decide a branch as for the example, unless it depends on values of tensors."""
        value = self.meta_value(obj)
        if isinstance(value, (bool, int, float)):
            self.insert_guard(obj, value)
        if isinstance(value, (bool, int, float, tuple)):
            return bool(value)
        return super().to_bool(obj)

    def insert_guard(self, proxy: fx.Proxy, value: float) -> None:
        """Assert in the graph that a number is as it was when a branch was decided."""
        message = (
            f"this forward was followed with {proxy.node.name} = {value}, "
            "not so for an input of this shape"
        )
        self.create_proxy("call_function", torch._assert, (proxy == value, message), {})

    def iter(self, obj: Any) -> Iterator[fx.Proxy]:
        """Iterate over a value that has as many items as for the example."""
        value = self.meta_value(obj, is_decided_on=False)
        if isinstance(value, (tuple, list)):
            return iter([obj[index] for index in range(len(value))])
        return super().iter(obj)

    def meta_value(self, proxy: fx.Proxy, is_decided_on: bool = True) -> Any:
        """Return a proxy's value for the example; tensors are on the meta device.

        Args:
            proxy: of a node that was traced.
            is_decided_on: whether the trace depends on the number returned.

        Returns:
            None where it cannot be worked out.
        """
        if self._interpreter is None:
            self._interpreter = _GrowingGraphInterpreter(self._root, self._example, self.graph)
        value = self._interpreter.value(proxy.node)
        if is_decided_on and not isinstance(value, (Tensor, type(None))):
            self.guards.append(proxy.node)
        return value


class _Proxy(fx.Proxy):
    """A value of the traced forward, which may be assigned to and used as a Python number."""

    tracer: Tracer

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})

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
        self.tracer.insert_guard(self, value)
        return float(value)

    def __round__(self, digits: int | None = None) -> float:
        return round(float(self), digits)

    def __ceil__(self) -> int:
        return math.ceil(float(self))

    def __floor__(self) -> int:
        return math.floor(float(self))

    def __len__(self) -> int:
        value = self.tracer.meta_value(self, is_decided_on=False)
        return len(value) if isinstance(value, (tuple, list)) else super().__len__()


class _GrowingGraphInterpreter(fx.Interpreter):
    """Runs a graph that is still being traced, on the meta device, each node once."""

    def __init__(self, root: nn.Module, example: Tensor, graph: fx.Graph) -> None:
        super().__init__(root, garbage_collect_values=False, graph=graph)
        self._example = example
        self._failed: set[fx.Node] = set()

    def value(self, wanted: fx.Node) -> Any:
        """Return a node's value; None where it cannot be worked out."""
        for node in self.graph.nodes:
            if node in self.env or node in self._failed:
                continue
            try:
                with torch.no_grad():
                    self.env[node] = self.run_node(node)
            except Exception:
                # Whatever an operator raises without values: its result, and what follows from it,
                # stay unknown.
                self._failed.add(node)
        return self.env.get(wanted)

    def placeholder(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Return the example for the first input, the default for others."""
        return args[0] if args else self._example

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Run the forward of a module."""
        # Not the module itself: its `__call__` is patched while the tracer follows the network.
        return self.submodules[target].forward(*args, **kwargs)
