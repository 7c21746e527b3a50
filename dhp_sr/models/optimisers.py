"""The optimiser of the plain weights, and how its moments move from one state of the network to the next."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dhp_sr.config.schema import Optimiser


def build_optimiser(options: Optimiser, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """Return Adam, AdamW or SGD over `parameters`."""
    parameters = list(parameters)
    common = {"lr": options.lr, "weight_decay": options.weight_decay}
    if options.type == "SGD":
        return torch.optim.SGD(parameters, momentum=options.momentum, **common)
    kind = torch.optim.AdamW if options.type == "AdamW" else torch.optim.Adam
    return kind(parameters, betas=tuple(options.betas), **common)


def set_learning_rate(optimiser: Optimizer, rate: float) -> None:
    """Set the learning rate of the next step."""
    for group in optimiser.param_groups:
        group["lr"] = rate


def carry_moments(old: Optimizer, before: nn.Module, new: Optimizer, after: nn.Module) -> None:
    """Give the weights of `after` the moments that those of the same name and shape had in `before`."""
    optimised = {parameter for group in new.param_groups for parameter in group["params"]}
    earlier = dict(before.named_parameters())
    for name, parameter in after.named_parameters():
        source = earlier.get(name)
        if source is not None and parameter in optimised and source.shape == parameter.shape and source in old.state:
            new.state[parameter] = old.state[source]


def restore(optimiser: Optimizer, state: dict) -> None:
    """Load an optimiser's state; moments take the memory layout of their weights, for the same bits as before."""
    optimiser.load_state_dict(state)
    for parameter, values in optimiser.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
