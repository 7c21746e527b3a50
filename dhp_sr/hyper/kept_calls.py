"""Calls of functions with statistics over the kept channels, in a network with masked channels.

    forward of a module ---> x.mean(1) ---> what a cut network computes: the mean of the kept ones

Such calls are caught while the module runs, by their place in its source.
"""

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from contextvars import ContextVar
from types import FrameType, MethodType

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import checkpoint

from dhp_sr.channels.kept_channels import KeptCall
from dhp_sr.graph.call_sites import CallSite, call_site
from dhp_sr.utils.errors import UserError

_running: ContextVar["KeptCalls | None"] = ContextVar("_running", default=None)
"""Forward of the innermost module, of those with such calls, that runs at present."""


class KeptCalls:
    """Forward of a module in which some calls of functions see the kept channels alone.

    Put in place of the module's `forward`.

    Args:
        module: The module.
        calls: The calls in its forward.
    """

    def __init__(self, module: nn.Module, calls: Iterable[KeptCall]) -> None:
        self._module = module
        self.plain = vars(module).get("forward")
        """Forward that the module has instead of its class's; None for most."""
        self.calls = {call.site: call for call in calls}
        self.operators = {call.operator for call in self.calls.values()}
        self.kept: dict[CallSite, Tensor] = {}
        """Call -> indices of the kept channels; without those of which all are kept, or none."""

    @property
    def __signature__(self) -> inspect.Signature:
        """Inputs of the module, as `inspect.signature` states them."""
        return inspect.signature(self._forward)

    @property
    def _forward(self) -> Callable[..., object]:
        """The forward in whose place this one is."""
        return self.plain or MethodType(type(self._module).forward, self._module)

    def __call__(self, *args: object, **kwargs: object) -> object:
        """Run the module."""
        token = _running.set(self)
        try:
            with _CatchCalls(self) if self.kept else nullcontext():
                return self._forward(*args, **kwargs)
        finally:
            _running.reset(token)

    def set_kept(self, padded: Tensor) -> None:
        """Set the kept channels; `padded` is (plan.size + 1,), True for kept ones."""
        self.kept = {}
        for site, call in self.calls.items():
            kept = call.kept(padded)
            if kept is not None:
                self.kept[site] = kept

    def check_runs_once(self, call: KeptCall) -> None:
        """Check that the backward pass does not run a call again, outside of the forward.

        Raises:
            UserError: The call is in a function whose activations are checkpointed.
        """
        if not self._module.training and not torch.is_grad_enabled():
            return
        frame: FrameType | None = sys._getframe(2)
        while frame is not None and frame.f_code is not KeptCalls.__call__.__code__:
            if frame.f_code.co_filename == checkpoint.__file__:
                raise UserError(
                    f"{call.name} takes its statistics over the kept channels, and is in a "
                    "function given to torch.utils.checkpoint: the backward pass would run it "
                    "over all channels; train without checkpointing, checkpoint a module instead "
                    "of a function, or convert with kept_statistics=False"
                )
            frame = frame.f_back


class _CatchCalls(TorchFunctionMode):
    """Catches the calls of a module while it runs."""

    def __init__(self, forward: KeptCalls) -> None:
        super().__init__()
        self._forward = forward

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        # Of a module inside this one, that module's own mode has seen the call already.
        forward = self._forward
        if getattr(func, "__name__", "") in forward.operators and _running.get() is forward:
            site = call_site()
            if site in forward.kept and forward.calls[site].reads_channels(args, kwargs):
                forward.check_runs_once(forward.calls[site])
                return forward.calls[site].run(func, args, kwargs, forward.kept[site])
        return func(*args, **kwargs)


def keep_calls(network: nn.Module, calls: Iterable[KeptCall]) -> None:
    """Let calls in a network's forward take their statistics over kept channels, in place."""
    by_module: dict[str, list[KeptCall]] = {}
    for call in calls:
        by_module.setdefault(call.module, []).append(call)
    for name, calls_of_module in by_module.items():
        module = network.get_submodule(name)
        vars(module)["forward"] = KeptCalls(module, calls_of_module)


def kept_calls_of(network: nn.Module) -> Iterator[tuple[nn.Module, KeptCalls]]:
    """Yield the modules with such calls, and their forwards."""
    for module in network.modules():
        forward = vars(module).get("forward")
        if isinstance(forward, KeptCalls):
            yield module, forward
