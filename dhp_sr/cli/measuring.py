"""Time of models in turns, and memory of a single pass, measured in a separate process.

A process that has run other networks keeps memory that it freed, so its peak says nothing about
the last network. The measuring process only imports, loads the model and runs it once:
`python -m dhp_sr.cli.measuring FILE ...`.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import dhp_sr
from dhp_sr.cli.models import ComparedModel, open_network
from dhp_sr.deploy.runner import RunnerModule
from dhp_sr.metrics import latencies
from dhp_sr.tasks.evaluation import Row
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.strict_json import JsonObject
from dhp_sr.zoo.names import register_known

MIB = 2**20
_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
"""Written to `clear_refs`, it resets the peak resident size (Linux, proc(5))."""


@dataclass(frozen=True)
class Measuring:
    """Settings of the measurement of time and memory."""

    size: tuple[int, int] | None = None
    """Height and width of the input; None: 128 x 128, for a classifier its input size."""
    repeats: int = 10
    """Timed passes of each model; 0: neither time nor memory is measured."""
    threads: int | None = None
    """Threads of the CPU; None: as many as torch takes."""
    runtime: str | None = None
    """Key of `deploy.runtimes.RUNTIMES`; None: each file's own."""
    precision: str | None = None
    """As for `deploy.runtimes.open_runner`."""


def measure(
    rows: Sequence[Row],
    models: Sequence[ComparedModel],
    shape: list[int],
    measuring: Measuring,
) -> None:
    """Add time and memory to the rows of models, in place.

    All models are timed in turns, so that a slow phase of the machine affects all of them.
    """
    device_types = dict.fromkeys(["cpu", *(model.device_type for model in models)])
    for device_type in device_types:
        timed = {}
        for model in models:
            # A plain network is timed on every device, a runner on the one that it was opened for.
            is_runner = isinstance(model.network, RunnerModule)
            if not is_runner or model.device_type == device_type:
                timed[model.name] = model.network.to(device_type)
        latency = latencies(timed, shape, repeats=measuring.repeats, threads=measuring.threads)
        for row in rows:
            if row["model"] in latency:
                measured = latency[row["model"]]
                entry = {**vars(measured), "input": shape}
                if device_type == "cuda":
                    # A runner has no parameters that would tell.
                    entry["device"] = device_type
                row.setdefault("latency", {})[device_type] = entry
                row["latency_ms"] = measured.median_ms
    threads = measuring.threads or torch.get_num_threads()
    # Last, in processes of their own: the timings above must not run beside them.
    for row, model in zip(rows, models, strict=True):
        row["memory"] = peak_memory(
            model.path, shape, model.device_type, threads, measuring.runtime, measuring.precision
        )


def peak_memory(
    path: str | Path,
    shape: Sequence[int],
    device: str = "cpu",
    threads: int = 1,
    runtime: str | None = None,
    precision: str | None = None,
) -> JsonObject:
    """Measure the memory of one pass of a model in a fresh process.

    Args:
        path: Model file, `.safetensors` or `.onnx`.
        shape: (N, C, H, W) of the input.
        device: `cpu` or `cuda`.
        threads: Threads of the CPU.
        runtime: Key of `deploy.runtimes.RUNTIMES`; None: the file's own.
        precision: As for `deploy.runtimes.open_runner`.

    Returns:
        `process_mib`, the peak size of the process, with Python and libraries; `pass_mib`, what
        the pass added to the loaded model; `cuda_peak_mib`, the peak that torch allocated on the
        graphics card, weights included, None without one; `input`.

    Raises:
        UserError: The process failed.
    """
    arguments = [str(Path(path).absolute()), json.dumps([*shape]), device, str(threads)]
    arguments += [runtime or "", precision or ""]
    # The process must find this package, also where it is not installed.
    search_path = [str(Path(dhp_sr.__file__).parents[1])]
    if os.environ.get("PYTHONPATH"):
        search_path.append(os.environ["PYTHONPATH"])
    done = subprocess.run(
        [sys.executable, "-m", "dhp_sr.cli.measuring", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(search_path)},
        check=False,
    )
    # The last line of a traceback is the error itself.
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        raise UserError(f"{path}: its memory could not be measured: {lines[-1]}")
    return {**json.loads(done.stdout), "input": [*shape]}


def measure_this_process(
    path: str,
    shape: Sequence[int],
    device: str,
    threads: int,
    runtime: str | None = None,
    precision: str | None = None,
) -> dict[str, float | None]:
    """Run a model once and return the memory of this process, see `peak_memory`."""
    torch.set_num_threads(threads)
    network = open_network(Path(path), torch.device(device), threads, runtime, precision)
    x = torch.full(tuple(shape), 0.5, device=device)
    # Before the pass, with the input already there: it belongs to the caller, not to the pass.
    loaded_bytes = _status_bytes("VmRSS") if _STATUS.exists() else _peak_bytes()
    # Loading can take more than the pass, and would hide it.
    if _CLEAR_REFS.exists():
        _CLEAR_REFS.write_text(_RESET_PEAK)
    with torch.no_grad():
        network(x)
    peak_bytes = _peak_bytes()
    cuda_peak = torch.cuda.max_memory_allocated() / MIB if device == "cuda" else None
    return {
        "process_mib": peak_bytes / MIB,
        "pass_mib": max(peak_bytes - loaded_bytes, 0) / MIB,
        "cuda_peak_mib": cuda_peak,
    }


def _peak_bytes() -> int:
    if _STATUS.exists():
        return _status_bytes("VmHWM")
    import resource

    # macOS counts bytes, other systems kilobytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status_bytes(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise ValueError(f"{_STATUS}: no line {name}")


if __name__ == "__main__":
    register_known()
    file, shape_text, device_type, num_threads, runtime_name, precision_name = sys.argv[1:]
    measured = measure_this_process(
        file,
        json.loads(shape_text),
        device_type,
        int(num_threads),
        runtime_name or None,
        precision_name or None,
    )
    print(json.dumps(measured))
