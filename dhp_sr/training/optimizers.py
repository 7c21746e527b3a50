"""Optimizers of the plain weights, and the transfer of their state from phase to phase.

Every phase has an optimizer of its own, because every phase has its own parameters. The state
(momentum buffers, second moments, step counts) goes along by parameter name: unchanged from the
dense network into the search, and sliced to the kept channels from there into each pruned model.
Fresh moments would make the first steps after pruning large and undo part of what was learned.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dhp_sr.config.schema import OptimizerSettings
from dhp_sr.operators.narrow import select_entries
from dhp_sr.utils.modules import StateTree

SGD_MOMENTUM = 0.9
"""Default momentum of SGD, as in the papers of the classification networks."""

MUON_MOMENTUM = 0.95
"""Default momentum of Muon (Jordan et al., 2024)."""

MIN_CHANNELS = 4
"""A weight with fewer output or input channels is no matrix worth orthogonalizing."""

NEWTON_SCHULZ_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""a, b, c of the iteration x -> a x + b x^3 + c x^5, which moves singular values in (0, 1] to
about 1 (Jordan et al., 2024)."""
NEWTON_SCHULZ_STEPS = 5

LEAST_NORM = 1e-12
"""Norm below which a momentum counts as none. That of a layer without gradients, whose inputs are
all zero, falls by itself: far below, squares of its values are zero in float32 before they are."""

STEP_RMS = 0.2
"""Root mean square of a step at learning rate 1, that of AdamW in practice (Liu et al., 2025)."""

OptimizerState = dict[str, dict[str, Any]]
"""Parameter name -> state of the optimizer for that parameter."""


def build_optimizer(settings: OptimizerSettings, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """Build Adam, AdamW, Muon or SGD.

    Args:
        settings: `train.optim_g`.
        parameters: Parameters of a network.
    """
    parameters = list(parameters)
    beta1, beta2 = settings.betas
    if settings.type == "SGD":
        return torch.optim.SGD(
            parameters,
            lr=settings.lr,
            momentum=SGD_MOMENTUM if settings.momentum is None else settings.momentum,
            nesterov=settings.nesterov,
            weight_decay=settings.weight_decay,
        )
    if settings.type == "Muon":
        return Muon(
            parameters,
            lr=settings.lr,
            momentum=MUON_MOMENTUM if settings.momentum is None else settings.momentum,
            betas=(beta1, beta2),
            weight_decay=settings.weight_decay,
        )
    optimizer_classes = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}
    return optimizer_classes[settings.type](
        parameters, lr=settings.lr, betas=(beta1, beta2), weight_decay=settings.weight_decay
    )


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the learning rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate


class Muon(torch.optim.AdamW):
    """Orthogonalized momentum for weights of convolutions and linear layers, AdamW for the rest.

    The momentum of a weight, as a matrix of outputs x (inputs times kernel size), is replaced by
    about the closest orthogonal matrix, so that directions with small gradients are learned as
    fast as those with large ones. Steps have the size of AdamW's and take its learning rates.
    Weight decay is decoupled for all parameters.

    References:
        Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024: step and
        coefficients.
        Liu et al., Muon is Scalable for LLM Training, 2025, section 2.2: size of a step.

    Args:
        params: Parameters of a network; matrices have at least `MIN_CHANNELS` x `MIN_CHANNELS`
            channels.
        lr: Learning rate.
        momentum: Momentum of the matrices, in Nesterov's form.
        betas: Betas of AdamW, for the rest.
        weight_decay: Factor on lr.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        lr: float,
        momentum: float = MUON_MOMENTUM,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, weight_decay=weight_decay)
        self.defaults["momentum"] = momentum
        for group in self.param_groups:
            group.setdefault("momentum", momentum)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient; closures are not called."""
        gradients: list[tuple[nn.Parameter, Tensor]] = []
        for group in self.param_groups:
            matrices = []
            for parameter in group["params"]:
                if parameter.grad is not None and is_matrix(parameter):
                    matrices.append(parameter)
                    gradients.append((parameter, parameter.grad))
            self._step_matrices(matrices, group)
        # AdamW skips parameters without a gradient, so those of the matrices are put aside.
        for parameter, _ in gradients:
            parameter.grad = None
        super().step()
        for parameter, gradient in gradients:
            parameter.grad = gradient

    def _step_matrices(self, matrices: list[nn.Parameter], group: dict[str, Any]) -> None:
        # Matrices of one shape are orthogonalized in one batch: small networks have many of them.
        batches: dict[tuple[torch.Size, torch.device], list[tuple[nn.Parameter, Tensor]]] = (
            defaultdict(list)
        )
        for weight in matrices:
            assert weight.grad is not None
            state = self.state[weight]
            if not state:
                state["step"] = torch.tensor(0.0)
                state["momentum_buffer"] = torch.zeros_like(weight)
            # Muon does not use the count, but AdamW looks for one in every state that it loads.
            state["step"] += 1
            momentum = state["momentum_buffer"].mul_(group["momentum"]).add_(weight.grad)
            direction = weight.grad.add(momentum, alpha=group["momentum"]).flatten(1)
            batches[direction.shape, direction.device].append((weight, direction))

        for (shape, _), members in batches.items():
            stacked = torch.stack([direction for _, direction in members])
            scale = STEP_RMS * max(shape) ** 0.5
            for (weight, _), direction in zip(members, orthogonalize(stacked), strict=True):
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(direction.view(weight.shape), alpha=-group["lr"] * scale)


def is_matrix(weight: Tensor) -> bool:
    """Whether a weight has enough input and output channels to be orthogonalized."""
    return weight.dim() >= 2 and min(weight.shape[:2]) >= MIN_CHANNELS


def orthogonalize(matrices: Tensor) -> Tensor:
    """Approximate the closest orthogonal matrices; singular values end between 0.7 and 1.2.

    Args:
        matrices: (number, rows, columns), floating point; rows and columns of zeros stay zero, and
            matrices far below `LEAST_NORM` come out as small as they are.

    Reference: Jordan et al., 2024, the quintic Newton-Schulz iteration.
    """
    a, b, c = NEWTON_SCHULZ_COEFFICIENTS
    # The iteration multiplies by x x^T, which is cheaper for the short side.
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if is_tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(LEAST_NORM)
    for _ in range(NEWTON_SCHULZ_STEPS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if is_tall else x


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


def _slice(
    name: str, value: object, shape: torch.Size, kept: Mapping[tuple[str, int], Tensor]
) -> object:
    if not isinstance(value, Tensor):
        return value
    # Moments have the shape of their parameter; a step count is a scalar and is kept as it is.
    if value.shape == shape:
        value = select_entries(value, name, kept)
    return value.clone()  # several targets continue from the same state


def transfer_state(state: OptimizerState, optimizer: Optimizer, network: nn.Module) -> None:
    """Let an optimizer continue with the state of another.

    Args:
        state: By parameter name. Entries without a parameter of that name and shape are dropped,
            such as those of weights that a hypernetwork generates from now on.
        optimizer: Changed in place.
        network: The network whose parameters it optimizes.
    """
    # Frozen parameters are in the network, but their state would never be used or freed.
    optimized = set()
    for group in optimizer.param_groups:
        optimized.update(group["params"])
    for name, parameter in network.named_parameters():
        values = state.get(name)
        if values is None or parameter not in optimized:
            continue
        # Scalars, such as step counts, have no shape to compare.
        shapes = {v.shape for v in values.values() if isinstance(v, Tensor) and v.dim()}
        if shapes <= {parameter.shape}:
            optimizer.state[parameter] = {
                key: _like_parameter(value, parameter) for key, value in values.items()
            }


def load_optimizer(optimizer: Optimizer, state: StateTree) -> None:
    """Load a saved optimizer state with the memory layout of the parameters.

    A state file holds contiguous tensors. Moments in another layout than their parameter (such as
    channels_last) are summed in another order by some kernels, and a resumed run would differ from
    an uninterrupted one in the last bits.
    """
    # torch matches parameters by their position, so they must come in the order of the saved run.
    optimizer.load_state_dict(state)
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            values[key] = _like_parameter(value, parameter)


def _like_parameter(value: object, parameter: Tensor) -> object:
    """Return a moment in the memory layout of its parameter; other values as they are."""
    if not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
