"""torch.fx tracer that works out what depends on the example's shape alone.

torch.fx follows a forward with proxies and stops at every branch, loop or `int()` on a value it
does not know. Sizes are known once an example is given: the graph, as far as it is traced, is run
on the meta device to find them.
"""

import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from dhp_sr.graph import checks, self_attention
from dhp_sr.graph.call_sites import record_call_site
from dhp_sr.graph.computed_weights import (
    Inputs,
    ModuleCall,
    may_compute_weights,
    modules_that_compute_weights,
)
from dhp_sr.graph.equal_modules import ComputedLayers
from dhp_sr.graph.patches import tracing_patches
from dhp_sr.graph.shape_inference import meta_copy
from dhp_sr.graph.traced_values import GrowingGraphInterpreter, Proxy

LEAF_TYPES: set[type[nn.Module]] = set()
"""Classes of modules outside torch.nn that count as single operators; `register_op` adds to it."""


LEAF_TESTS: list[Callable[[nn.Module, tuple[int, ...]], bool]] = []
"""Further tests of modules with weights that count as single operators, given the shape of their
input."""

LEAF_FORWARDS: set[type] = set()
"""Classes of forwards of single modules, put in place of their class's, that are not traced
into."""


class Tracer(fx.Tracer):
    """Follows a forward; what depends on shapes alone is decided as for the example."""

    # Sizes from the example can then be arguments of methods of buffers.
    proxy_buffer_attributes = True

    def __init__(
        self, root: nn.Module, inputs: Sequence[Tensor], single: Collection[str] = ()
    ) -> None:
        """Prepare to follow a forward.

        Args:
            root: The network, a copy that the forward may change.
            inputs: Examples of its inputs.
            single: Names of modules that are not followed, as any other of their class would be.
        """
        super().__init__(autowrap_functions=())
        self._single = frozenset(single)
        self._attention_weights: list[tuple[str, list[fx.Node]]] = []
        self._weight_calls: dict[str, ModuleCall] = {}
        self._root = meta_copy(root)
        self._inputs = [tensor.to("meta") for tensor in inputs]
        self._interpreter: GrowingGraphInterpreter | None = None
        self.guards: list[fx.Node] = []
        """Nodes whose values were used as Python numbers, so that the trace holds for these values
        alone."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether a module is a single operator, which is not traced into."""
        return type(m) in LEAF_TYPES or super().is_leaf_module(m, module_qualified_name)

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """Follow a forward; functions that torch.fx cannot see are patched meanwhile."""
        # Let einops work on proxies as on tensors: its calls become permutations and reshapes. Only
        # if a network has imported it; it finds the backend of a value by its class.
        backends = sys.modules.get("einops._backends")
        if backends is not None:
            backends._type2backend[Proxy] = backends.TorchBackend()
        self._plain_call = nn.Module.__call__
        # torch.fx looks through all tensors for every attribute that is read. Buffers first: a
        # parameter that is also one has the name of the parameter.
        tensors = [*root.named_buffers(), *root.named_parameters()]
        self._tensors = {id(tensor): (name, tensor) for name, tensor in tensors}
        self._modules = {id(module): module for module in root.modules()}
        with tracing_patches(root, self):
            return super().trace(root, concrete_args)

    def create_args_for_root(self, *args: Any, **kwargs: Any) -> Any:
        """Return the forward and its arguments; inputs without example have their defaults."""
        forward, given = super().create_args_for_root(*args, **kwargs)
        # As for None, see `trace_errors.optional_inputs`: what a call without them computes. The
        # placeholder stays, so that the traced forward has the same signature.
        for position, argument in enumerate(given):
            # The first argument is the module.
            has_example = position <= len(self._inputs)
            if not has_example and isinstance(argument, fx.Proxy) and argument.node.args:
                given[position] = argument.node.args[0]

        def recorded_call(module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
            return self.call_module(module, partial(self._plain_call, module), args, kwargs)

        def followed(*args: Any) -> Any:
            # In place of torch.fx's, which takes no keyword of the name `mod`; torch.fx itself
            # puts the plain one back.
            nn.Module.__call__ = recorded_call  # type: ignore[method-assign, assignment]
            return forward(*args)

        return followed, given

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Return an attribute of a module, the proxy of a tensor of the network."""
        name, tensor = self._tensors.get(id(attr_val), ("", None))
        if tensor is None:
            return attr_val
        if name not in parameter_proxy_cache:
            parameter_proxy_cache[name] = self.create_proxy("get_attr", name, (), {})
        return parameter_proxy_cache[name]

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Call a module; the forward of a module made during the forward is followed."""
        is_known = id(m) in self._modules
        # With weights it would be another layer in every call; torch.fx refuses it.
        if not is_known and next(m.parameters(), None) is None:
            return forward(*args, **kwargs)
        path = self.path_of_module(m)
        if path in self._single or type(vars(m).get("forward")) in LEAF_FORWARDS:
            return self.create_proxy("call_module", path, args, kwargs)
        if type(m) is nn.MultiheadAttention and self_attention.is_followed(m, args, kwargs):
            return self._attend(m, args, kwargs)
        if may_compute_weights(m):
            self._weight_calls.setdefault(path, ModuleCall(m, args, kwargs))
        if self._is_single(m, args, kwargs):
            return self.create_proxy("call_module", path, args, kwargs)
        return super().call_module(m, forward, args, kwargs)

    def _attend(self, module: nn.MultiheadAttention, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Follow an attention of torch."""
        given = self_attention.call_arguments(module, args, kwargs)
        result, operands = self_attention.attend(module, given["query"])
        if not given["need_weights"]:
            return result, None
        # Hardly ever are they read. They are taken out of the graph again then.
        before = len(self.graph.nodes)
        weights = self_attention.attention_weights(operands, given["average_attn_weights"])
        nodes = list(self.graph.nodes)[before:]
        self._attention_weights.append((self.path_of_module(module), nodes))
        return result, weights

    def erase_unread_weights(self) -> set[str]:
        """Take the weights of attentions out of the graph where the forward does not read them.

        Returns:
            The modules whose weights it reads: computed a second time, they cost what the network
            does not spend.
        """
        read = set()
        for name, nodes in self._attention_weights:
            if nodes[-1].users:
                read.add(name)
                continue
            for node in reversed(nodes):
                self.graph.erase_node(node)
        self._attention_weights.clear()
        return read

    def modules_that_compute_weights(self, layers: ComputedLayers) -> set[str]:
        """Return the modules that compute a layer's weight and count as single operators."""
        if not self._weight_calls:
            return set()

        def is_layer(module: nn.Module, inputs: Inputs) -> bool:
            return layers.find(module, inputs) is not None

        value_of = self._values.value
        return set(modules_that_compute_weights(self.graph, self._weight_calls, value_of, is_layer))

    @property
    def _values(self) -> GrowingGraphInterpreter:
        """The values of nodes, worked out as they are asked for."""
        if self._interpreter is None:
            self._interpreter = GrowingGraphInterpreter(
                self._root, self.root, self._inputs, self.graph, self._plain_call
            )
        return self._interpreter

    def _is_single(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Return whether a test of `LEAF_TESTS` takes a module's call for a single operator."""
        is_torch = type(module).__module__.startswith("torch.nn.")
        has_weights = any(weight is not None for weight in module._parameters.values())
        if not LEAF_TESTS or is_torch or not has_weights or module._modules:
            return False
        if len(args) != 1 or kwargs or not isinstance(args[0], fx.Proxy):
            return False
        # Last, since it runs the graph up to here.
        value = self.meta_value(args[0], is_decided_on=False)
        if not isinstance(value, Tensor):
            return False
        shape = tuple(value.shape)
        # The tests run modules, whose calls must not be recorded: torch.fx patches the class.
        call = nn.Module.__call__
        nn.Module.__call__ = self._plain_call  # type: ignore[method-assign]
        try:
            return any(test(module, shape) for test in LEAF_TESTS)
        finally:
            nn.Module.__call__ = call  # type: ignore[method-assign]

    def create_proxy(
        self, kind: str, target: Any, args: Any, kwargs: Any, *more: Any, **named: Any
    ) -> Any:
        """Record a call; the number of axes is a plain number, as no input changes it."""
        asks_rank = kind == "call_method" and target in ("dim", "ndimension")
        if asks_rank and isinstance(args[0], fx.Proxy):
            value = self.meta_value(args[0], is_decided_on=False)
            if isinstance(value, Tensor):
                return value.dim()
        if kind == "call_method" and target == "type" and len(args) == 1 and not kwargs:
            # `"Half" in x.type()`: the name of a class.
            value = self.meta_value(args[0], is_decided_on=False)
            if isinstance(value, Tensor):
                return torch.empty(0, dtype=value.dtype).type()
        proxy = super().create_proxy(kind, target, args, kwargs, *more, **named)
        if kind in ("call_function", "call_method"):
            record_call_site(proxy.node)
        return proxy

    def create_arg(self, a: Any) -> Any:
        """Return an argument as a node holds it; numbers of numpy become plain numbers."""
        # The code made from a graph does not import numpy.
        if type(a).__module__ == "numpy" and getattr(a, "shape", None) == ():
            a = a.item()
        return super().create_arg(a)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Return the proxy of a node's value."""
        return Proxy(node, self)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Decide a branch as for the example, unless it depends on values of tensors."""
        value = self.meta_value(obj, is_decided_on=False)
        if not isinstance(value, (bool, int, float, tuple)):
            return super().to_bool(obj)
        # The caller of `Proxy.__bool__`, which calls this.
        is_check = checks.belongs_to_check(sys._getframe(2))
        if not is_check:
            self.guards.append(obj.node)
        if not isinstance(value, tuple):
            checks.assert_as_traced(obj, value, is_check=is_check)
        return bool(value)

    def iter(self, obj: Any) -> Iterator[fx.Proxy]:
        """Iterate over a value that has as many items as for the example."""
        value = self.meta_value(obj, is_decided_on=False)
        if isinstance(value, (tuple, list)):
            return iter([obj[index] for index in range(len(value))])
        if isinstance(value, Tensor) and value.dim():
            return iter(obj.unbind(0))
        message = f"it is unknown how many items {obj.node.name} has"
        # The first value that could not be worked out is why others are unknown, too.
        for node, error in self._values.failures.items():
            message += f", as {node.format_node()} raised {type(error).__name__}: {error}"
            break
        raise TypeError(message)

    @property
    def meta_root(self) -> nn.Module:
        """The network on the meta device, with the constants that were collected."""
        for name, constant in vars(self.root).items():
            if name.startswith("_tensor_constant"):
                setattr(self._root, name, constant.to("meta"))
        return self._root

    @property
    def meta_values(self) -> dict[str, Any]:
        """Values of nodes worked out so far, by name; all tensors are on the meta device."""
        known = self._interpreter.env if self._interpreter else {}
        return {node.name: value for node, value in known.items()}

    def meta_value(self, proxy: fx.Proxy, is_decided_on: bool = True) -> Any:
        """Return a proxy's value for the example; tensors are on the meta device.

        Args:
            proxy: Proxy of a node that was traced.
            is_decided_on: Whether the trace depends on the number returned.

        Returns:
            None where it cannot be worked out.
        """
        value = self._values.value(proxy.node)
        if is_decided_on and not isinstance(value, (Tensor, type(None))):
            self.guards.append(proxy.node)
        return value
