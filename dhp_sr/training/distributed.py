"""Distributed context: the device of this process and its rank among the processes of a run."""

import os
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from dhp_sr.utils.devices import select_device
from dhp_sr.utils.errors import LostProcessError, UserError

TIMEOUT = timedelta(hours=2)
"""Longest wait for another process. Rank 0 validates alone while the others wait for it."""
LOST_CONNECTION = ("connection closed", "connection reset", "broken pipe", "remote error", "gloo")
"""Words in the errors of torch's backends when another process has ended, in lower case."""
ModuleOrTensor = TypeVar("ModuleOrTensor", nn.Module, Tensor)
Result = TypeVar("Result")


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

    def average_gradients(self, network: nn.Module) -> nn.Module:
        """Wrap a network so that backward averages its gradients over all processes.

        Parameters that a step leaves without a gradient stay without one, as in a single process:
        those of fully masked channels, and layers of a user's network that its forward skips.

        Args:
            network: On the device of this process.

        Returns:
            The module to call in training; with a single process the network itself.
        """
        if self.world_size == 1:
            return network
        # DDP copies buffers from rank 0 through one flat tensor. In channels_last, a buffer with a
        # single pixel has strides that a flat view cannot have, and torch refuses to copy.
        for buffer in network.buffers():
            buffer.data = buffer.data.clone(memory_format=torch.contiguous_format)
        # Without device_ids DDP takes the CPU; with them it insists on a single CUDA device.
        devices = [self.device] if self.device.type == "cuda" else None
        # torch advises against the search for parameters without a gradient where there are none.
        # Without it, the second step of a network that has some would fail.
        warnings.filterwarnings("ignore", message="find_unused_parameters=True was specified")
        return DistributedDataParallel(network, device_ids=devices, find_unused_parameters=True)

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

    def broadcast(self, compute: Callable[[], Result]) -> Result:
        """Call `compute` in rank 0 and return its result in every process.

        Measured times differ from process to process. A search that decides by them must see the
        same ones everywhere, or the processes would prune different channels.

        Raises:
            UserError: `compute` raised it; every process raises it, or the others would wait.
            OSError: `compute` raised it, as above.
        """
        if self.world_size == 1:
            return compute()
        result = failure = None
        if self.rank == 0:
            try:
                result = compute()
            except (UserError, OSError) as error:
                failure = error
        shared: list[Any] = [result, failure]
        distributed.broadcast_object_list(shared, src=0, device=self.device)
        result, failure = shared
        if failure is not None:
            raise failure
        return result

    def gather(self, samples: Tensor) -> Tensor:
        """Concatenate the samples of all processes, in the order of their ranks, on the CPU.

        Args:
            samples: (N, ...), of the same shape in every process.
        """
        samples = samples.detach().cpu()
        if self.world_size == 1:
            return samples
        gathered = [samples] * self.world_size  # replaced below
        distributed.all_gather_object(gathered, samples)
        return torch.cat(gathered)

    def mean(self, value: float) -> float:
        """Return the mean of a number over all processes; every process gets the same."""
        if self.world_size == 1:
            return value
        # float64: the mean must not be less exact than the losses.
        shared = torch.tensor(value, dtype=torch.float64, device=self.device)
        distributed.all_reduce(shared)
        return shared.item() / self.world_size

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
    store, rank, world_size = next(iter(distributed.rendezvous("env://", timeout=TIMEOUT)))
    # Processes that torchrun starts again share its store with those that failed. Without keys of
    # their own they would wait for ever for connections to the old addresses.
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    distributed.init_process_group(
        "nccl" if use_cuda else "gloo",
        store=distributed.PrefixStore(f"restart_{restarts}", store),
        rank=rank,
        world_size=world_size,
        timeout=TIMEOUT,
    )
    return DistributedContext(device, distributed.get_rank(), distributed.get_world_size())


@contextmanager
def explain_lost_processes(context: DistributedContext) -> Iterator[None]:
    """Turn an error of the connection to another process into a message that says what it means.

    Raises:
        LostProcessError: Another process of the run has ended inside the block.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        is_lost = isinstance(error, distributed.DistError) or any(
            words in text.lower() for words in LOST_CONNECTION
        )
        if context.world_size == 1 or not is_lost:
            raise
        raise LostProcessError(
            f"process {context.rank} of this run lost the connection to another one, which has "
            "ended. Unless that one says why, it was killed, most often because the memory ran "
            "out: lower batch_size_per_gpu or num_worker_per_gpu. (torch says: "
            f"{text.splitlines()[0][:200]})"
        ) from error


def launch_id() -> str | None:
    """Return an identifier of the torchrun command that started this process; None without it.

    The processes that it starts again after a failure (`--max-restarts`) have the same.
    """
    run_id = os.environ.get("TORCHELASTIC_RUN_ID")
    if run_id in (None, "none"):
        # torchrun was given no id, but it is the parent of all its processes.
        if "TORCHELASTIC_RESTART_COUNT" not in os.environ:
            return None
        parent = os.getppid()
        return f"{socket.gethostname()}/{parent}/{_start_time(parent)}"
    return run_id


def is_restarted() -> bool:
    """Return whether torchrun started this process in place of one that failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def _start_time(pid: int) -> str:
    """Return when a process was started; numbers of processes are used again."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():  # not Linux
        return ""
    # The name, in parentheses, may hold spaces; the time is the 20th field after it.
    return stat.read_text(errors="replace").rpartition(")")[2].split()[19]


def destroy_process_group() -> None:
    """Leave the process group if this process is in one."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
