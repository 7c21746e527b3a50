"""Following a forward: what torch.fx leaves to be decided is worked out from the example's shape on the way."""

import copy
import math
import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from dhp_sr.graph.shape_inference import to_meta


class Tracer(fx.Tracer):
    """Follows a forward; what depends on the example's shape alone is worked out on the way."""

    proxy_buffer_attributes = (
        True  # so that sizes from the example can be given to methods of buffers
    )

    def __init__(self, root: nn.Module, example: Tensor) -> None:
        super().__init__(autowrap_functions=())
        self._root, self._example = to_meta(copy.deepcopy(root)), example.to("meta")
        self._shapes: _Shapes | None = None
        self.guards: list[fx.Node] = []

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Return what stands for a node's value."""
        return _Proxy(node, self)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Decide a branch as for the example; one that depends on tensors cannot be followed."""
        value = self.meta_value(obj)
        if isinstance(value, (bool, int, float)):
            self.insert_guard(obj, value)
        return bool(value) if isinstance(value, (bool, int, float, tuple)) else super().to_bool(obj)

    def insert_guard(self, proxy: fx.Proxy, value: float) -> None:
        """Let the graph insist on a number that was decided on, rather than compute something else elsewhere."""
        message = f"this forward was followed with {proxy.node.name} = {value}, not so for an input of this shape"
        self.create_proxy("call_function", torch._assert, (proxy == value, message), {})

    def iter(self, obj: fx.Proxy) -> Iterator[fx.Proxy]:
        """Go through a value that has as many parts as for the example."""
        value = self.meta_value(obj, decides=False)
        if isinstance(value, (tuple, list)):
            return iter([obj[place] for place in range(len(value))])
        return super().iter(obj)

    def meta_value(self, proxy: fx.Proxy, decides: bool = True) -> Any:
        """Return what a proxy stands for, or a value without numbers in it where that depends on tensors."""
        if self._shapes is None:
            self._shapes = _Shapes(self._root, self._example, self.graph)
        value = self._shapes.of(proxy.node)
        if decides and not isinstance(value, (Tensor, type(None))):
            self.guards.append(proxy.node)
        return value


class _Proxy(fx.Proxy):
    """Stands for a value while a forward is followed; assignments to parts and sizes as numbers are allowed."""

    def __setitem__(self, place: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, place, value), {})

    def __index__(self) -> int:
        value = self.tracer.meta_value(self)
        if not isinstance(value, int):
            raise TypeError("a number that depends on the values of tensors is used as an integer")
        return value  # without `hold`: torch asks, too, where it reads arguments that then stay in the trace

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
        value = self.tracer.meta_value(self, decides=False)
        return len(value) if isinstance(value, (tuple, list)) else super().__len__()


class _Shapes(fx.Interpreter):
    """Runs a graph that is still growing, on the meta device."""

    def __init__(self, root: nn.Module, example: Tensor, graph: fx.Graph) -> None:
        super().__init__(root, garbage_collect_values=False, graph=graph)
        self._example, self._failed = example, set()

    def of(self, wanted: fx.Node) -> Any:
        """Return a node's value; None where it cannot be worked out."""
        for node in self.graph.nodes:
            if node not in self.env and node not in self._failed:
                try:
                    with torch.no_grad():
                        self.env[node] = self.run_node(node)
                except Exception:  # whatever an operator raises without values: this one is unknown
                    self._failed.add(node)
        return self.env.get(wanted)

    def placeholder(self, target: Any, args: Any, kwargs: Any) -> Any:
        return args[0] if args else self._example

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self.submodules[target].forward(
            *args, **kwargs
        )  # calls of modules are being followed
