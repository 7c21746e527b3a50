"""Optimizer of the plain weights, and the transfer of its state from phase to phase.

Every phase has its own optimizer, because every phase has its own parameters. The state (momentum
buffers, second moments, step counts) goes along by parameter name: unchanged from the dense network
into the search, and sliced to the kept channels from there into each pruned model. Fresh moments
would make the first steps after pruning large and undo part of what was learned.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dhp_sr.config.schema import OptimizerSettings
from dhp_sr.training.muon import Muon

SGD_MOMENTUM = 0.9
"""Default momentum of SGD, as in the papers of the classification networks."""

OptimizerState = dict[str, dict[str, Any]]
"""Parameter name -> state of the optimizer for that parameter."""


def build_optimizer(settings: OptimizerSettings, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """Build Adam, AdamW, Muon or SGD.

    Args:
        settings: `train.optim_g`.
        parameters: Of one network.
    """
    parameters = list(parameters)
    beta1, beta2 = settings.betas
    if settings.type == "SGD":
        momentum = SGD_MOMENTUM if settings.momentum is None else settings.momentum
        return torch.optim.SGD(
            parameters,
            lr=settings.lr,
            momentum=momentum,
            nesterov=settings.nesterov,
            weight_decay=settings.weight_decay,
        )
    if settings.type == "Muon":
        optional = {} if settings.momentum is None else {"momentum": settings.momentum}
        return Muon(
            parameters,
            lr=settings.lr,
            betas=(beta1, beta2),
            weight_decay=settings.weight_decay,
            **optional,
        )
    optimizer_class = torch.optim.AdamW if settings.type == "AdamW" else torch.optim.Adam
    return optimizer_class(
        parameters, lr=settings.lr, betas=(beta1, beta2), weight_decay=settings.weight_decay
    )


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the learning rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def named_state(optimizer: Optimizer, network: nn.Module) -> OptimizerState:
    """Return the optimizer's state by parameter name; tensors are shared, not copied."""
    state = {}
    for name, parameter in network.named_parameters():
        if parameter in optimizer.state:
            state[name] = optimizer.state[parameter]
    return state


def slice_state(
    state: OptimizerState, network: nn.Module, kept: Mapping[tuple[str, int], Tensor]
) -> OptimizerState:
    """Return a copy of an optimizer state that covers the kept channels only.

    Args:
        state: By parameter name, of the unpruned network.
        network: The unpruned network.
        kept: (parameter name, axis) -> indices that are kept, see `surgery.cut.kept_entries`.
    """
    parameters = dict(network.named_parameters())
    sliced: OptimizerState = {}
    for name, values in state.items():
        shape = parameters[name].shape
        sliced[name] = {key: _slice(name, value, shape, kept) for key, value in values.items()}
    return sliced


def _slice(name: str, value: Any, shape: torch.Size, kept: Mapping[tuple[str, int], Tensor]) -> Any:
    if not isinstance(value, Tensor):
        return value
    # Moments have the shape of their parameter; a step count is a scalar and goes on as it is.
    if value.shape == shape:
        for dim in range(value.dim()):
            if (name, dim) in kept:
                value = value.index_select(dim, kept[name, dim].to(value.device))
    return value.clone()


def transfer_state(state: OptimizerState, optimizer: Optimizer, network: nn.Module) -> None:
    """Let an optimizer continue with the state of another one.

    Args:
        state: By parameter name. Entries without a parameter of that name and shape are dropped,
            such as those of weights that a hypernetwork generates from now on.
        optimizer: Changed in place.
        network: The network whose parameters it optimizes.
    """
    optimized = set()
    for group in optimizer.param_groups:
        optimized.update(group["params"])
    for name, parameter in network.named_parameters():
        values = state.get(name)
        if values is not None and parameter in optimized and _fits(values, parameter):
            optimizer.state[parameter] = {
                key: _like_parameter(value, parameter) for key, value in values.items()
            }


def _fits(values: Mapping[str, Any], parameter: Tensor) -> bool:
    for value in values.values():
        if isinstance(value, Tensor) and value.dim() and value.shape != parameter.shape:
            return False
    return True


def load_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load a saved optimizer state with the memory layout of the parameters.

    A state file holds contiguous tensors. Moments in another layout than their parameter (such as
    channels_last) are summed in another order by some kernels, and a resumed run would differ from
    an uninterrupted one in the last bits.
    """
    optimizer.load_state_dict(state)
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            values[key] = _like_parameter(value, parameter)


def _like_parameter(value: Any, parameter: Tensor) -> Any:
    """Return a moment in the memory layout of its parameter; other values as they are."""
    if not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
