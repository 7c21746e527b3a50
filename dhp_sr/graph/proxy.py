"""Values of a traced forward: where only their shape counts, they answer as for the example.

torch.fx gives a forward proxies, and refuses all that needs a plain number: `int(h)`, `len(x)`,
`for part in x.chunk(n)`. Here such a number is asked of the tracer, which has worked it out.
"""

import math
import operator
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, fx

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
        return self.tracer.create_proxy("call_method", self.attr, (self.root, *args), kwargs)
