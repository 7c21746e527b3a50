"""Distributed context: the device of this process and its rank among the processes of a run."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from dhp_sr.utils.devices import select_device
from dhp_sr.utils.errors import UserError

TIMEOUT = timedelta(hours=2)
"""Longest wait for another process. Rank 0 validates alone while the others wait for it."""
ModuleOrTensor = TypeVar("ModuleOrTensor", nn.Module, Tensor)


@dataclass(frozen=True)
class DistributedContext:
    """Device, rank and number of processes; for a single process all collectives do nothing."""

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process validates and writes files."""
        return self.rank == 0

    def to_device(self, value: ModuleOrTensor, *, channels_last: bool) -> ModuleOrTensor:
        """Move a network (in place) or a tensor to the device of this process.

        Args:
            value: Network or tensor.
            channels_last: Store four-dimensional tensors as NHWC in memory.
        """
        has_channels = isinstance(value, nn.Module) or value.dim() == 4
        layout = torch.contiguous_format
        if channels_last and has_channels:
            layout = torch.channels_last
        moved: Any = value  # torch's stubs do not know memory_format for modules
        return moved.to(self.device, non_blocking=True, memory_format=layout)

    def average_gradients(self, network: nn.Module, *, find_unused_parameters: bool) -> nn.Module:
        """Wrap a network so that backward averages its gradients over all processes.

        Args:
            network: On the device of this process.
            find_unused_parameters: Whether a step may leave parameters without a gradient.

        Returns:
            The module to call in training; with a single process the network itself.
        """
        if self.world_size == 1:
            return network
        # Without device_ids DDP takes the CPU; with them it insists on a single CUDA device.
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(
            network, device_ids=devices, find_unused_parameters=find_unused_parameters
        )

    def any_rank(self, flag: bool) -> bool:
        """Return whether `flag` is true in any process; every process gets the same answer.

        A signal reaches the processes of a run at different iterations. Without an agreed answer
        a process would leave the loop while the others wait for its gradients for ever.
        """
        if self.world_size == 1:
            return flag
        # On the device of the process: nccl cannot send memory of the CPU.
        shared = torch.tensor(float(flag), device=self.device)
        distributed.all_reduce(shared, distributed.ReduceOp.MAX)
        return bool(shared.item())

    def broadcast(self, compute: Callable[[], Any]) -> Any:
        """Call `compute` in rank 0 and return its result in every process.

        Measured times differ from process to process. A search that decides by them must see the
        same ones everywhere, or the processes would prune different channels.
        """
        if self.world_size == 1:
            return compute()
        shared = [compute() if self.rank == 0 else None]
        distributed.broadcast_object_list(shared, src=0, device=self.device)
        return shared[0]

    def barrier(self) -> None:
        """Wait until every process has reached this call."""
        if self.world_size > 1:
            distributed.barrier()


def init_distributed(
    num_gpu: int | Literal["auto"], launcher: Literal["none", "pytorch"]
) -> DistributedContext:
    """Join the process group if torchrun started this process: nccl on CUDA, gloo on the CPU.

    Args:
        num_gpu: As in the option file; with a launcher it only chooses between CUDA and the CPU.
        launcher: `pytorch` where torchrun starts the processes.

    Raises:
        UserError: `launcher` is `pytorch` outside of torchrun, or a device is missing.
    """
    if launcher == "none":
        return DistributedContext(select_device(num_gpu))
    if "LOCAL_RANK" not in os.environ:
        raise UserError(
            "--launcher pytorch expects to be started by torchrun, got no LOCAL_RANK in the "
            "environment; run torchrun --nproc_per_node=2 dhp_sr/train.py -opt FILE "
            "--launcher pytorch"
        )
    local_rank = int(os.environ["LOCAL_RANK"])
    use_cuda = num_gpu != 0 and torch.cuda.is_available()
    if not use_cuda and num_gpu not in ("auto", 0):
        select_device(1)  # raises: the option file insists on CUDA and there is none
    if use_cuda and local_rank >= torch.cuda.device_count():
        raise UserError(
            f"process {local_rank} of torchrun has no CUDA device: "
            f"it sees {torch.cuda.device_count()}"
        )
    device = torch.device("cpu")
    if use_cuda:
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)  # nccl takes the current device
    distributed.init_process_group("nccl" if use_cuda else "gloo", timeout=TIMEOUT)
    return DistributedContext(device, distributed.get_rank(), distributed.get_world_size())


def destroy_process_group() -> None:
    """Leave the process group if this process is in one."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
