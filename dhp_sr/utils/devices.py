"""Devices: choice, name, threads, whether bfloat16 is fast there, and the programs that use them.

torch is imported inside the functions: option files and reports use the constants without it.
"""

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from dhp_sr.utils.errors import UserError

if TYPE_CHECKING:
    import torch

RuntimeName = Literal[
    "torch",
    "torch.compile",
    "onnxruntime",
    "openvino",
    "openvino-gpu",
    "openvino-npu",
    "tensorrt",
]
"""Program that computes networks, a key of `deploy.runtimes.RUNTIMES`."""
RUNTIME_NAMES: tuple[RuntimeName, ...] = get_args(RuntimeName)

MAX_THREADS = 1024
"""Upper bound on CPU threads; beyond it torch may end the process without a message."""

CPUINFO = Path("/proc/cpuinfo")
_ARM_KEYS = ("CPU implementer", "CPU part", "CPU variant", "CPU revision")
"""Lines of `CPUINFO` that tell ARM's processors apart."""
BF16_FLAGS = {"avx512_bf16", "amx_bf16"}
"""CPU flags of instructions that multiply bfloat16 faster than float32."""
BF16_CAPABILITY = (8, 0)
"""First CUDA compute capability with bfloat16 tensor cores (Ampere)."""


def device_by_name(name: Literal["auto", "cpu", "cuda"] | None) -> "torch.device":
    """Return the device that a command line names.

    Args:
        name: `cpu`, `cuda`, or `auto` for a CUDA device where there is one; None means `auto`.

    Raises:
        UserError: `cuda` is asked for and there is no CUDA device.
    """
    import torch

    if name == "cpu":
        return torch.device("cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "--device cuda: found no CUDA device; use --device cpu, "
            "or install a CUDA build of torch"
        )
    if name == "cuda":
        return select_device(1)
    return select_device("auto")


def single_device(num_gpu: int | Literal["auto"]) -> "torch.device":
    """Return the device for work of a single process, however many cards a run trains on.

    Raises:
        UserError: `num_gpu` asks for a CUDA device and there is none.
    """
    if num_gpu == "auto":
        return select_device("auto")
    return select_device(min(num_gpu, 1))


def select_device(num_gpu: int | Literal["auto"]) -> "torch.device":
    """Return the device of a run with a single process.

    Args:
        num_gpu: Number of CUDA devices, 0 for the CPU, or `auto` for CUDA where there is any.

    Raises:
        UserError: `num_gpu` is more than there are, or more than a process can use.
    """
    import torch

    available = 0
    # device_count alone can be positive where the driver is too old to be used.
    if torch.cuda.is_available():
        available = torch.cuda.device_count()
    if num_gpu == "auto":
        return select_device(min(available, 1))
    if num_gpu > available:
        raise UserError(
            f"expected {num_gpu} CUDA device(s) (num_gpu: {num_gpu}), got {available}; "
            "set num_gpu: 0 for the CPU or num_gpu: auto, or install a CUDA build of torch"
        )
    if num_gpu > 1:
        raise UserError(
            f"num_gpu: {num_gpu} needs one process per device: torchrun "
            f"--nproc_per_node={num_gpu} dhp_sr/train.py -opt FILE --launcher pytorch"
        )
    # Without a number: torchrun sets the current card of every process.
    return torch.device("cuda" if num_gpu else "cpu")


def device_name(device: "torch.device") -> str:
    """Name of the graphics card, or of the processor with its vector instructions."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    stated: dict[str, str] = {}
    for line in _cpuinfo():
        key, _, value = line.partition(":")
        # The first processor stands for all.
        stated.setdefault(key.strip(), value.strip())
    name = platform.processor() or platform.machine()
    # ARM's processors have numbers instead of a name; without them, all would be one device.
    numbers = [stated[key] for key in _ARM_KEYS if key in stated]
    if "model name" in stated:
        name = stated["model name"]
    elif numbers:
        name = f"{name} {' '.join(numbers)}"
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def has_fast_bf16(device: "torch.device") -> bool:
    """Whether the device computes faster in bfloat16 than in float32.

    A CPU without these instructions emulates bfloat16 and is slower than in float32. Systems
    without /proc/cpuinfo count as not fast.

    Args:
        device: Device of the run.
    """
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= BF16_CAPABILITY
    for line in _cpuinfo():
        key, _, value = line.partition(":")
        if key.strip() == "flags":
            return not BF16_FLAGS.isdisjoint(value.split())
    return False


def resolve_amp(
    amp: Literal["auto", "none", "bf16"], device: "torch.device"
) -> Literal["none", "bf16"]:
    """Precision of a run: `auto` becomes `bf16` where the device is fast at it, else `none`."""
    if amp != "auto":
        return amp
    return "bf16" if has_fast_bf16(device) else "none"


@contextmanager
def thread_count(threads: int | None) -> Iterator[None]:
    """Set the number of CPU threads of torch inside the block; None leaves it unchanged."""
    # The number is global to the process, so it is restored even after an error.
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _cpuinfo() -> list[str]:
    if not CPUINFO.exists():  # not Linux
        return []
    return CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
