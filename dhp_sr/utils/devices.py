"""Choice of the device that a process computes on."""

from typing import Literal

import torch

from dhp_sr.utils.errors import UserError


def device_by_name(name: Literal["auto", "cpu", "cuda"] | None) -> torch.device:
    """Return the device that a command line names.

    Args:
        name: `cpu`, `cuda`, or `auto` for a CUDA device where there is one; None means `auto`.

    Raises:
        UserError: `cuda` is asked for and there is no CUDA device.
    """
    if name == "cpu":
        return torch.device("cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "--device cuda: found no CUDA device; use --device cpu, "
            "or install a CUDA build of torch"
        )
    return select_device(1 if name == "cuda" else "auto")


def single_device(num_gpu: int | Literal["auto"]) -> torch.device:
    """Return the device for work that one process does, however many cards a run trains on.

    Raises:
        UserError: `num_gpu` asks for a CUDA device and there is none.
    """
    if num_gpu == "auto":
        return select_device("auto")
    return select_device(min(num_gpu, 1))


def select_device(num_gpu: int | Literal["auto"]) -> torch.device:
    """Return the device of a run with one process.

    Args:
        num_gpu: Number of CUDA devices, 0 for the CPU, or `auto` for CUDA where there is any.

    Raises:
        UserError: `num_gpu` is more than there are, or more than one process can use.
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
            f"num_gpu: {num_gpu} needs one process per device: torchrun "
            f"--nproc_per_node={num_gpu} dhp_sr/train.py -opt FILE --launcher pytorch"
        )
    return torch.device("cuda" if num_gpu else "cpu")
