"""The optimizer of the plain weights, and how its moments move from one state of the network to the next."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dhp_sr.config.schema import OptimizerSettings
from dhp_sr.training.muon import Muon

MOMENTUM = 0.9
"""Of SGD, as the networks' papers have it."""


def build_optimizer(options: OptimizerSettings, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """Return Adam, AdamW, Muon or SGD over `parameters`."""
    parameters = list(parameters)
    common = {"lr": options.lr, "weight_decay": options.weight_decay}
    momentum = {} if options.momentum is None else {"momentum": options.momentum}
    if options.type == "SGD":
        return torch.optim.SGD(
            parameters, **({"momentum": MOMENTUM} | momentum), nesterov=options.nesterov, **common
        )
    if options.type == "Muon":
        return Muon(parameters, betas=(options.betas[0], options.betas[1]), **momentum, **common)
    kind = torch.optim.AdamW if options.type == "AdamW" else torch.optim.Adam
    return kind(parameters, betas=tuple(options.betas), **common)


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the learning rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def carry_moments(old: Optimizer, before: nn.Module, new: Optimizer, after: nn.Module) -> None:
    """Give the weights of `after` the moments that those of the same name and shape had in `before`."""
    optimized = {parameter for group in new.param_groups for parameter in group["params"]}
    earlier = dict(before.named_parameters())
    for name, parameter in after.named_parameters():
        source = earlier.get(name)
        if (
            source is not None
            and parameter in optimized
            and source.shape == parameter.shape
            and source in old.state
        ):
            new.state[parameter] = old.state[source]


Moments = dict[str, dict[str, Any]]
"""Parameter name -> what the optimizer keeps for it."""


def cut_moments(
    optimizer: Optimizer, network: nn.Module, kept: Mapping[tuple[str, int], Tensor]
) -> Moments:
    """Return the moments of the weights that a cut keeps.

    Args:
        optimizer: of the uncut network.
        network: the uncut network.
        kept: (parameter name, axis) -> entries that stay, see `structure.cut.kept_entries`.
    """
    return {
        name: {
            key: _kept(name, value, parameter, kept)
            for key, value in optimizer.state[parameter].items()
        }
        for name, parameter in network.named_parameters()
        if parameter in optimizer.state
    }


def _kept(name: str, value: Any, parameter: Tensor, kept: Mapping[tuple[str, int], Tensor]) -> Any:
    if not isinstance(value, Tensor):
        return value
    if value.shape == parameter.shape:
        for dim in range(value.dim()):
            if (name, dim) in kept:
                value = value.index_select(dim, kept[name, dim].to(value.device))
    return value.clone()


def give_moments(optimizer: Optimizer, network: nn.Module, moments: Moments) -> None:
    """Let an optimizer go on with moments of another one, in the memory layout of the weights."""
    for name, parameter in network.named_parameters():
        if name in moments:
            optimizer.state[parameter] = {
                key: _laid_out(value, parameter) for key, value in moments[name].items()
            }


def _laid_out(value: Any, parameter: Tensor) -> Any:
    if not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


def restore(optimizer: Optimizer, state: dict) -> None:
    """Load an optimizer's state; moments take the memory layout of their weights, for the same bits as before."""
    optimizer.load_state_dict(state)
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            values[name] = _laid_out(value, parameter)
