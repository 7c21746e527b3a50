"""A model file ready to restore images: safetensors through PyTorch, ONNX through onnxruntime, called alike."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dhp_sr.cost.activation_memory import peak_activation_bytes
from dhp_sr.deploy.deterministic_conv import SteadyConvolutions
from dhp_sr.deploy.manifest import colour_of
from dhp_sr.deploy.model_file import load_model
from dhp_sr.deploy.probe_shapes import out_channels
from dhp_sr.deploy.third_party import check_restores
from dhp_sr.tiling.receptive import receptive_field
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.hardware import thread_count

Images = NDArray[np.float32]
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
UNKNOWN_BYTES = 48 * 1024.0
"""Memory per input pixel that is assumed where the network cannot be looked at: a wide network for x4."""


@dataclass(frozen=True)
class Runner:
    """A model that can be called, and what has to be known to call it."""

    path: Path
    task: str
    """`sr` or `denoise`; empty where the file does not say."""
    scale: int
    in_channels: int
    out_channels: int
    size_multiple: int
    """Sides of inputs are multiples of it."""
    halo: int | None
    """Input pixels around a tile that its result depends on; None: unknown, or the whole image."""
    tile_multiple: int
    """Tiles begin at multiples of it."""
    reason: str
    """Why `halo` is None."""
    pixel_bytes: float
    """Memory that one pixel of an input takes while the network runs."""
    compute: Callable[[Images], Images]

    @property
    def colour(self) -> str:
        """What the channels are: `grey`, `RGB` or `other`."""
        return colour_of(self.in_channels)

    def __call__(self, images: Images | Tensor) -> Images | Tensor:
        """Restore images.

        Args:
            images: (N, in_channels, H, W) in [0, 1], sides multiples of `size_multiple`; array or tensor.

        Returns:
            (N, out_channels, scale H, scale W), float32, not clipped; an array for an array, a tensor on the CPU for a
            tensor.
        """
        if isinstance(images, Tensor):
            return torch.from_numpy(self.compute(images.detach().float().cpu().numpy()))
        return self.compute(np.ascontiguousarray(images, dtype=np.float32))


def open_model(
    path: str | Path,
    device: str | torch.device = "cpu",
    precision: str = "fp32",
    threads: int | None = None,
) -> Runner:
    """Return a model file ready to run. Nothing in it is executed but its arithmetic.

    Args:
        path: safetensors of dhp_sr, or any `.onnx` with one image in and one out.
        device: where to compute; ONNX files run on the CPU.
        precision: `fp32`, `bf16` or `fp16`; an ONNX file has its own.
        threads: of the CPU; None: as many as the library takes by itself.

    Raises:
        UserError: the file is no such model, is for another task, or cannot run in this way.
    """
    path, device = Path(path), torch.device(device)
    if precision not in PRECISIONS:
        raise UserError(f"expected a precision among {', '.join(PRECISIONS)}, found {precision!r}")
    if path.suffix.lower() == ".onnx":
        from dhp_sr.deploy.onnx_runner import open_onnx_model

        return open_onnx_model(path, device, precision, threads)
    return _open_safetensors(path, device, precision, threads)


def _open_safetensors(
    path: Path, device: torch.device, precision: str, threads: int | None
) -> Runner:
    if precision == "fp16" and device.type == "cpu":
        raise UserError("--precision fp16 is for graphics cards; on the CPU use bf16 or fp32")
    network = load_model(path)
    check_restores(network.task, path)
    field = receptive_field(network, network.in_channels, network.size_multiple)
    memory = (
        peak_activation_bytes(network, network.in_channels, network.size_multiple) or UNKNOWN_BYTES
    )
    dtype = PRECISIONS[precision]
    return Runner(
        path=path,
        task=network.task,
        scale=network.scale,
        in_channels=network.in_channels,
        out_channels=out_channels(network),
        size_multiple=network.size_multiple,
        halo=field.halo,
        tile_multiple=field.multiple,
        reason=field.reason,
        pixel_bytes=memory * dtype.itemsize / 4,
        compute=_compute(
            network.to(device=device, dtype=dtype).requires_grad_(False), device, dtype, threads
        ),
    )


def _compute(
    network: nn.Module, device: torch.device, dtype: torch.dtype, threads: int | None
) -> Callable[[Images], Images]:
    def compute(images: Images) -> Images:
        given = torch.from_numpy(images).to(device=device, dtype=dtype)
        with (
            torch.inference_mode(),
            thread_count(threads),
            torch.backends.cudnn.flags(
                enabled=True, benchmark=False, deterministic=True, allow_tf32=False
            ),
            SteadyConvolutions(),
        ):
            return network(given).float().cpu().numpy()

    return compute
