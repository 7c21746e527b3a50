"""Requirements of a network that is traced, and errors for the user where it misses them."""

import inspect
import linecache
import re
import traceback

from torch import nn
from torch.nn.parameter import is_lazy

from dhp_sr.utils.errors import UserError


class TraceError(UserError):
    """The network's forward cannot be traced; the message names the line and what to do."""


def check_shapes(network: nn.Module) -> None:
    """Check that all weights have their shapes.

    Raises:
        TraceError: Some have none yet.
    """
    tensors = [*network.named_parameters(), *network.named_buffers()]
    # A lazy layer takes its shapes from its first input; until then there is nothing to plan with.
    lazy = []
    for name, tensor in tensors:
        if is_lazy(tensor):
            lazy.append(name)
    if lazy:
        raise TraceError(
            f"{type(network).__name__}: expected weights that have their shapes, found "
            f"{', '.join(lazy[:3])} without (of a lazy layer, which takes them from its first "
            "input); run the network once on an example before"
        )


def optional_inputs(network: nn.Module, num_given: int = 1) -> dict[str, None]:
    """Return the inputs that are not given, which are None where they are omitted.

    Args:
        network: Its forward is looked at, not called.
        num_given: Number of inputs that the example has, in the order of the forward.

    Raises:
        TraceError: The first input has no name (`*inputs`), the forward takes fewer inputs than
            are given, or one that is not given has no default.
    """
    signature = inspect.signature(network.forward)
    parameters = list(signature.parameters.values())
    count = "one input" if num_given == 1 else f"{num_given} inputs"
    mistake = f"{type(network).__name__}: expected a forward with {count}, found {signature}"
    if parameters and parameters[0].kind is inspect.Parameter.VAR_POSITIONAL:
        raise TraceError(
            f"{mistake}; give the image a name, as in forward(self, x); of a wrapper "
            "(DataParallel, torch.compile) give the network inside"
        )
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    num_positional = sum(parameter.kind in positional for parameter in parameters)
    if num_given > max(1, num_positional):
        raise TraceError(f"{mistake}; give examples of the inputs that it takes by position")
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    absent: dict[str, None] = {}
    needed = []
    for parameter in parameters[num_given:]:
        if parameter.kind not in named:
            continue
        if parameter.default is inspect.Parameter.empty:
            needed.append(parameter.name)
        elif parameter.default is None:
            absent[parameter.name] = None
    if needed:
        raise TraceError(
            f"{mistake}; give {', '.join(needed)} a default, or an example: a tuple of examples "
            "stands for all inputs, in the order of the forward"
        )
    # torch.fx makes a proxy of every argument. Given as None, an optional input is None while
    # traced, and `if mask is not None` is decided as for a call without it.
    return absent


def line_of_error(network: nn.Module, error: Exception) -> str:
    """Return the innermost line of the network's code in a traceback."""
    # The packages, or the script, that the modules are from; not torch, whose lines tell nothing.
    packages = {type(module).__module__.partition(".")[0] for module in network.modules()}
    packages.discard("torch")
    tracing = __name__.rpartition(".")[0]
    line = "its forward"
    for frame, number in traceback.walk_tb(error.__traceback__):
        module = frame.f_globals.get("__name__", "")
        path = frame.f_code.co_filename
        if module.partition(".")[0] in packages and not module.startswith(tracing):
            line = f"{path}:{number} ({linecache.getline(path, number).strip()})"
    return line


def advice_for(error: Exception) -> str:
    """Advise how to change a forward that cannot be traced."""
    # torch takes separate sizes only as plain numbers, not as proxies.
    maker = re.match(r"(zeros|ones|empty|rand|randn)\(\) takes 1 positional argument", str(error))
    if maker:
        return (
            "Sizes taken from a tensor must be a tuple: write "
            f"torch.{maker[1]}((n, c, h, w)), or {maker[1]}_like"
        )
    if "not installed as a submodule" in str(error):
        return (
            "Layers are made in __init__ and kept as attributes or in a ModuleList, not made in "
            "forward or in a list"
        )
    return (
        "Shapes and branches must not depend on the values of tensors: write this line with "
        "tensor operations"
    )
