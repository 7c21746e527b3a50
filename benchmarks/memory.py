"""How many bytes training takes, counted tensor by tensor; storage that several tensors share counts once."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from dhp_sr.training.trainer import Trainer

Storages = dict[int, int]
"""Address of a storage -> its bytes."""


def held(training: Trainer) -> Storages:
    """Return what lasts from step to step: parameters, buffers, gradients, moments, and the state of the search."""
    network = training.network
    tensors = [*network.parameters(), *network.buffers()]
    tensors += [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    search = training.phase.search.state_dict() if training.phase.search is not None else {}
    return _storages(
        [*tensors, *_tensors(training.phase.optimizer.state_dict()), *_tensors(search)]
    )


def kept_for_backward(training: Trainer, batch: dict[str, Tensor], iteration: int) -> Storages:
    """Take one training step; return what its forward keeps for the backward, beside what is held anyway.

    Activations are among it, and generated weights.
    """
    storages: Storages = {}
    alive: list[Tensor] = []  # an address is taken again once its tensor is gone

    def pack(tensor: Tensor) -> Tensor:
        storages.update(_storages([tensor]))
        alive.append(tensor.detach())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        training.step(batch, iteration)
    lasting = held(training)
    return {address: size for address, size in storages.items() if address not in lasting}


def cuda_peak_bytes(training: Trainer, batch: dict[str, Tensor], iteration: int) -> int | None:
    """Take one training step; return the most memory it held on the graphics card, None without one.

    Other networks on the card are not counted: what this one holds, and what the step adds at its peak.
    """
    if training.context.device.type != "cuda":
        return None
    training.network.zero_grad(set_to_none=True)
    own = sum(held(training).values())
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    training.step(batch, iteration)
    torch.cuda.synchronize()
    return own + torch.cuda.max_memory_allocated() - before


def _storages(tensors: Iterable[Tensor]) -> Storages:
    return {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors
    }


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from _tensors(value)
    elif isinstance(tree, (list, tuple)):
        for value in tree:
            yield from _tensors(value)
