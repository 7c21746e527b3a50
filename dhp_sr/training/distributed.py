"""Where a run computes: the device, and its place among several processes."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, distributed, nn

from dhp_sr.utils.errors import UserError

TIMEOUT = timedelta(hours=2)
"""One process validates while the others wait."""
Movable = TypeVar("Movable", nn.Module, Tensor)


@dataclass(frozen=True)
class Place:
    """A process of a run: its device, its number and how many there are."""

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @property
    def writes(self) -> bool:
        """Whether this process writes files and validates."""
        return self.rank == 0

    def take(self, value: Movable, channels_last: bool) -> Movable:
        """Return a network or tensor on the device of this process.

        Args:
            value: a network is moved in place.
            channels_last: keep the channels of what has four dimensions next to each other in memory.
        """
        last = channels_last and (isinstance(value, nn.Module) or value.dim() == 4)
        layout = torch.channels_last if last else torch.contiguous_format
        return value.to(self.device, non_blocking=True, memory_format=layout)

    def agree(self, flag: bool) -> bool:
        """Return whether any process raised its flag; all processes get the same answer."""
        if self.world_size == 1:
            return flag
        shared = torch.tensor(float(flag), device=self.device)
        distributed.all_reduce(shared, distributed.ReduceOp.MAX)
        return bool(shared.item())

    def first(self, compute: Callable[[], Any]) -> Any:
        """Return what `compute` gives in the first process, in all of them."""
        if self.world_size == 1:
            return compute()
        shared = [compute() if self.rank == 0 else None]
        distributed.broadcast_object_list(shared, src=0, device=self.device)
        return shared[0]

    def wait(self) -> None:
        """Wait until every process has come here."""
        if self.world_size > 1:
            distributed.barrier()


def device_named(name: Literal["auto", "cpu", "cuda"] | None) -> torch.device:
    """Return the device that a command line names; None is `auto`.

    Raises:
        UserError: there is no graphics card.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "--device cuda: found no CUDA device; use --device cpu, or install a CUDA build of torch"
        )
    return pick_device({"cpu": 0, "cuda": 1}.get(name or "auto", "auto"))


def one_device(num_gpu: int | Literal["auto"]) -> torch.device:
    """Return a device for what one process does, whatever number of cards a run trains on."""
    return pick_device(num_gpu if num_gpu in ("auto", 0) else 1)


def pick_device(num_gpu: int | Literal["auto"]) -> torch.device:
    """Return the device of a run with one process.

    Raises:
        UserError: more graphics cards are asked for than there are, or than one process can use.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if num_gpu == "auto":
        return torch.device("cuda" if available else "cpu")
    if num_gpu > available:
        raise UserError(
            f"expected {num_gpu} CUDA device(s) (num_gpu: {num_gpu}), found {available}; "
            "set num_gpu: 0 for the CPU or num_gpu: auto, or install a CUDA build of torch"
        )
    if num_gpu > 1:
        raise UserError(
            f"num_gpu: {num_gpu} needs one process per device: "
            f"torchrun --nproc_per_node={num_gpu} dhp_sr/train.py -opt FILE --launcher pytorch"
        )
    return torch.device("cuda" if num_gpu else "cpu")


def take_place(num_gpu: int | Literal["auto"], launcher: Literal["none", "pytorch"]) -> Place:
    """Return this process's place, joining the others (nccl on CUDA, gloo on the CPU) if torchrun started it.

    Raises:
        UserError: `launcher` is `pytorch`, but torchrun did not start this process; or see `pick_device`.
    """
    if launcher == "none":
        return Place(pick_device(num_gpu))
    if "LOCAL_RANK" not in os.environ:
        raise UserError(
            "--launcher pytorch expects to be started by torchrun, found no LOCAL_RANK in the environment; run "
            "torchrun --nproc_per_node=2 dhp_sr/train.py -opt FILE --launcher pytorch"
        )
    local, cuda = int(os.environ["LOCAL_RANK"]), num_gpu != 0 and torch.cuda.is_available()
    if cuda and local >= torch.cuda.device_count():
        raise UserError(
            f"process {local} of torchrun has no CUDA device: found {torch.cuda.device_count()}"
        )
    if num_gpu not in ("auto", 0) and not cuda:
        pick_device(1)
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if cuda else "gloo", timeout=TIMEOUT)
    return Place(device, distributed.get_rank(), distributed.get_world_size())


def leave() -> None:
    """Part from the other processes, if there are any."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
