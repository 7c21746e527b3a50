"""The memory that a model takes, measured in a process of its own.

A process that has run other networks keeps memory that it freed, and its peak cannot be told apart. So the measured
process does nothing but import, load the model and run it once: `python -m dhp_sr.cli.memory FILE ...`.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import dhp_sr
from dhp_sr.cli.candidates import open_network
from dhp_sr.utils.errors import UserError
from dhp_sr.zoo.specs import register_known

MIB = 2**20
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_FORGET_PEAK = "5"


def peak_memory(
    path: str | Path, shape: Sequence[int], device: str = "cpu", threads: int = 1
) -> dict[str, Any]:
    """Return the memory of one pass of a model in a fresh process.

    Args:
        path: a model file, `.safetensors` or `.onnx`.
        shape: (N, C, H, W) of the input.
        device: `cpu` or `cuda`.
        threads: of the CPU.

    Returns:
        `process_mib`, the largest size of the process, with Python and libraries; `pass_mib`, what the pass added to
        that of the loaded model; `cuda_peak_mib`, the most that torch held on the graphics card, weights included, None
        without one; `input`.

    Raises:
        UserError: the process failed.
    """
    arguments = [str(Path(path).absolute()), json.dumps([*shape]), device, str(threads)]
    source = str(Path(dhp_sr.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([source, *_given("PYTHONPATH")])}
    command = [sys.executable, "-m", "dhp_sr.cli.memory", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f"it ended with {done.returncode}"]
        raise UserError(f"{path}: its memory could not be measured: {reason[0]}")
    return {**json.loads(done.stdout), "input": [*shape]}


def _given(name: str) -> list[str]:
    return [os.environ[name]] if os.environ.get(name) else []


def _measure(path: str, shape: Sequence[int], device: str, threads: int) -> dict[str, float | None]:
    torch.set_num_threads(threads)
    network = open_network(Path(path), torch.device(device), threads)
    image = torch.full(tuple(shape), 0.5, device=device)
    loaded = _resident()
    if _CLEAR.exists():
        _CLEAR.write_text(_FORGET_PEAK)
    with torch.no_grad():
        network(image)
    peak = _peak()
    on_card = torch.cuda.max_memory_allocated() / MIB if device == "cuda" else None
    return {
        "process_mib": peak / MIB,
        "pass_mib": max(peak - loaded, 0) / MIB,
        "cuda_peak_mib": on_card,
    }


def _resident() -> int:
    """Return the bytes of memory that the process has now; where that is not told, the most that it ever had."""
    return _status("VmRSS") if _STATUS.exists() else _peak()


def _peak() -> int:
    if _STATUS.exists():
        return _status("VmHWM")
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    register_known()
    print(json.dumps(_measure(sys.argv[1], json.loads(sys.argv[2]), sys.argv[3], int(sys.argv[4]))))
