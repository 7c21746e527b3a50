"""What a run was made with."""

import platform
import sys
from typing import Any

import torch

from dhp_sr import __version__


def environment(processes: int, device: torch.device) -> dict[str, Any]:
    """Return versions, device and command, for environment.json."""
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else platform.processor() or platform.machine()
    )
    return {
        "dhp_sr": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "device": str(device),
        "device_name": name,
        "processes": processes,
        "threads": torch.get_num_threads(),
        "command": " ".join(sys.argv),
    }
