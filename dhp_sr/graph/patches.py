"""Patches that are in place while a forward is traced: what torch.fx cannot see by itself.

`torch.zeros(n, c)` and `int(h * s)` ask for plain numbers before torch.fx can record the call.
While a network is traced, such functions record themselves if they are given a traced number.
"""

import builtins
import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.fx._symbolic_trace import _wrapped_fns_to_patch

from dhp_sr.graph import call_sites, checks
from dhp_sr.graph.traced_values import Proxy

_FACTORIES = (
    *("zeros", "ones", "empty", "rand", "randn", "full", "arange", "linspace", "eye"),
    *("randint", "randperm", "tensor", "meshgrid"),
)
"""Functions of torch whose sizes must be plain numbers."""

_CONVOLUTIONS = (
    *("conv1d", "conv2d", "conv3d"),
    *("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
)
"""Functions of torch that take their groups for a plain number before torch.fx records the call."""


@contextlib.contextmanager
def tracing_patches(root: nn.Module, tracer: Any) -> Iterator[None]:
    """Patch torch's factories, and built-in functions in the files of a network's classes."""
    with torch.device("meta"):
        # torch collects the functions that a device applies to on first use, and keeps them: that
        # must not be while they are patched.
        torch.empty(0)
    undo: list[tuple[Any, str, Any]] = []
    patched = [(torch, name) for name in (*_FACTORIES, *_CONVOLUTIONS)]
    patched += [(F, name) for name in _CONVOLUTIONS]
    for package, name in patched:
        function = getattr(package, name)
        undo.append((package, name, function))
        setattr(package, name, _recorded(function, tracer))
    builtin_functions: dict[str, Any] = {
        "int": _number_class(int, tracer),
        "float": _number_class(float, tracer),
        "str": _TextType("str", (), {"_plain": str, "_tracer": tracer}),
        "max": _recorded_number(max, tracer),
        "min": _recorded_number(min, tracer),
        "range": _guarded(range, tracer),
        "callable": _is_callable,
    }
    torch_as_seen = _TorchModule(tracer)
    # Functions that a package told torch.fx not to follow, as plain torch.fx cannot; they are
    # followed here.
    not_followed = dict(_wrapped_fns_to_patch)
    _wrapped_fns_to_patch.clear()
    for file in _files_of(root):
        for name, replacement in _replacements(file, builtin_functions, torch_as_seen).items():
            undo.append((file, name, vars(file).get(name, _MISSING)))
            setattr(file, name, replacement)
    try:
        yield
    finally:
        _wrapped_fns_to_patch.update(not_followed)
        for holder, name, value in reversed(undo):
            if value is _MISSING:
                delattr(holder, name)
            else:
                setattr(holder, name, value)


_MISSING = object()


def _replacements(
    file: ModuleType, builtin_functions: Mapping[str, Any], torch_as_seen: "_TorchModule"
) -> dict[str, Any]:
    """Return the names in a file of the network that are patched during a trace -> their values."""
    replacements = {}
    for name, function in builtin_functions.items():
        # A file may have a function of its own with such a name.
        if name not in vars(file):
            replacements[name] = function
    for name, value in vars(file).items():
        if value is torch:
            replacements[name] = torch_as_seen
        elif value is torch.Tensor:
            replacements[name] = torch_as_seen.Tensor
        elif isinstance(value, torch.jit.ScriptFunction):
            # torch keeps the function that was compiled, for torch.compile to follow.
            plain = getattr(value, "_torchdynamo_inline", value)
            replacements[name] = _scripted(plain) if inspect.isfunction(plain) else value
    return replacements


class _TorchModule(ModuleType):
    """The package torch as a network's files see it: its `Tensor` knows traced values."""

    def __init__(self, tracer: Any) -> None:
        super().__init__("torch")
        self.Tensor = _TensorType("Tensor", (), {"_plain": torch.Tensor, "_tracer": tracer})

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def is_tensor(self, value: object) -> bool:
        """Return whether a value is a tensor, or stands for one."""
        return isinstance(value, self.Tensor)


class _StandIn(type):
    """Class of a stand-in for a class: `isinstance` and comparisons see what a proxy stands for."""

    _plain: type
    _tracer: Any

    def __getattr__(cls, name: str) -> Any:
        return getattr(cls._plain, name)

    def __instancecheck__(cls, instance: Any) -> bool:
        if isinstance(instance, fx.Proxy):
            value = cls._tracer.meta_value(instance, is_decided_on=False)
            return isinstance(value, cls._plain)
        return isinstance(instance, cls._plain)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, cls._plain)

    def __eq__(cls, other: object) -> bool:
        return other is cls._plain or other is cls

    def __hash__(cls) -> int:
        return hash(cls._plain)


class _TensorType(_StandIn):
    """Class of a stand-in for `torch.Tensor`: `Tensor(n, c, h, w)`."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if _proxies(args):
            # Sizes given one by one make a tensor without values.
            return cls._tracer.create_proxy("call_function", torch.empty, (args,), kwargs)
        return torch.Tensor(*args, **kwargs)


def _is_callable(value: object) -> bool:
    """Return whether a value can be called; a traced one cannot, though its stand-in can."""
    return not isinstance(value, fx.Proxy) and callable(value)


def _files_of(root: nn.Module) -> list[ModuleType]:
    """Return the files of a network's classes, and all others of their packages.

    A package keeps helpers beside its classes: functions that divide an image into windows, pad
    it, or make a table of positions.
    """
    names = {type(module).__module__ for module in root.modules()}
    packages = {name.partition(".")[0] for name in names}
    packages -= {"torch", __name__.partition(".")[0]}
    files = []
    for name, file in sorted(sys.modules.items()):
        is_beside = name.partition(".")[0] in packages
        is_own = name in names and not name.startswith("torch.")
        if isinstance(file, ModuleType) and (is_beside or is_own):
            files.append(file)
    return files


def _proxies(arguments: Any) -> list[fx.Proxy]:
    """Return the proxies in nested arguments."""
    if isinstance(arguments, fx.Proxy):
        return [arguments]
    if isinstance(arguments, dict):
        arguments = list(arguments.values())
    proxies: list[fx.Proxy] = []
    if isinstance(arguments, (tuple, list)):
        for argument in arguments:
            proxies.extend(_proxies(argument))
    return proxies


def _recorded(function: Callable[..., Any], tracer: fx.Tracer) -> Callable[..., Any]:
    """Return a function that is recorded where it is given a proxy."""

    def call(*args: Any, **kwargs: Any) -> Any:
        if _proxies((args, kwargs)):
            return tracer.create_proxy("call_function", function, args, kwargs)
        return function(*args, **kwargs)

    return call


def _scripted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the plain function of a compiled one; nothing inside it is seen where it runs."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with call_sites.hidden():
            return function(*args, **kwargs)

    return call


def _recorded_number(function: Callable[..., Any], tracer: Any) -> Callable[..., Any]:
    """Return `max` or `min`, recorded where it compares traced numbers."""

    def call(*args: Any, **kwargs: Any) -> Any:
        if _proxies(args) and not kwargs:
            arguments = args
            if len(args) == 1:
                arguments = tuple(args[0])
            return tracer.create_proxy("call_function", function, arguments, {})
        return function(*args, **kwargs)

    return call


def _guarded(function: Callable[..., Any], tracer: Any) -> Callable[..., Any]:
    """Return `range`, which holds only for the numbers that it was given."""

    def call(*args: Any) -> Any:
        numbers = []
        for argument in args:
            if isinstance(argument, Proxy):
                value = argument.__index__()
                checks.assert_as_traced(argument, value)
                argument = value
            numbers.append(argument)
        return function(*numbers)

    return call


class _NumberType(_StandIn):
    """Class of a stand-in for `int` or `float` that keeps traced numbers in the trace."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if args and isinstance(args[0], fx.Proxy):
            value = cls._tracer.meta_value(args[0], is_decided_on=False)
            if isinstance(value, (int, float)):
                plain = getattr(builtins, cls._plain.__name__)
                return cls._tracer.create_proxy("call_function", plain, args, kwargs)
        return cls._plain(*args, **kwargs)


class _TextType(_StandIn):
    """Class of a stand-in for `str`: the text of a traced number holds for that number alone."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and isinstance(args[0], fx.Proxy):
            value = cls._tracer.meta_value(args[0])
            if isinstance(value, (int, float)):
                checks.assert_as_traced(args[0], value)
                return str(value)
        return str(*args, **kwargs)


def _number_class(plain: type, tracer: fx.Tracer) -> _NumberType:
    """Return a stand-in for `int` or `float`, which is also used in isinstance()."""
    return _NumberType(plain.__name__, (), {"_plain": plain, "_tracer": tracer})
