"""The processor or graphics card: its name, its threads, and whether it is fast at bfloat16.

torch is imported inside the functions: option files and reports use the constants without it.
"""

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

MAX_THREADS = 1024
"""Upper bound on CPU threads; beyond it torch may end the process without a message."""

CPUINFO = Path("/proc/cpuinfo")
BF16_FLAGS = {"avx512_bf16", "amx_bf16"}
"""CPU flags of instructions that multiply bfloat16 faster than float32."""
BF16_CAPABILITY = (8, 0)
"""First CUDA compute capability with bfloat16 tensor cores (Ampere)."""


def device_name(device: "torch.device") -> str:
    """Name of the graphics card, or of the processor with its vector instructions."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    for line in _cpuinfo():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            name = value.strip()
            break
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def has_fast_bf16(device: "torch.device") -> bool:
    """Whether the device computes faster in bfloat16 than in float32.

    A CPU without these instructions emulates bfloat16 and is slower than in float32. Systems
    without /proc/cpuinfo count as not fast.

    Args:
        device: device of the run.
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
