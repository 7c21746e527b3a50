"""Bytes of memory that training takes, counted tensor by tensor.

Storage that several tensors share counts once.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from dhp_sr.training.trainer import Trainer

Storages = dict[int, int]
"""Address of a storage -> its bytes."""


def state_storages(trainer: Trainer) -> Storages:
    """Storages that last from step to step.

    These are parameters, buffers and gradients, and the states of optimizer and search.
    """
    network = trainer.network
    tensors = [*network.parameters(), *network.buffers()]
    tensors += [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    tensors += _tensors(trainer.phase.optimizer.state_dict())
    if trainer.phase.search is not None:
        tensors += _tensors(trainer.phase.search.state_dict())
    return _storages(tensors)


def saved_storages(trainer: Trainer, batch: dict[str, Tensor], iteration: int) -> Storages:
    """Storages that the forward pass saves for the backward pass, beside the state.

    Activations are among them, and generated weights. Takes one training step.
    """
    storages: Storages = {}
    # Keeps the storages alive: an address is used again once its tensor is freed.
    tensors: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        storages.update(_storages([tensor]))
        tensors.append(tensor.detach())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        trainer.step(batch, iteration)
    state = state_storages(trainer)
    return {address: size for address, size in storages.items() if address not in state}


def cuda_peak_bytes(trainer: Trainer, batch: dict[str, Tensor], iteration: int) -> int | None:
    """Peak memory of a training step on the graphics card; None without one.

    Other networks on the card are not counted, only the state of this one and what the step adds.
    """
    if trainer.context.device.type != "cuda":
        return None
    trainer.network.zero_grad(set_to_none=True)
    state_bytes = sum(state_storages(trainer).values())
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    trainer.step(batch, iteration)
    torch.cuda.synchronize()
    return state_bytes + torch.cuda.max_memory_allocated() - before


def _storages(tensors: Iterable[Tensor]) -> Storages:
    storages = {}
    for tensor in tensors:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    return storages


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from _tensors(value)
    elif isinstance(tree, (list, tuple)):
        for value in tree:
            yield from _tensors(value)
