"""Model files run by PyTorch, with the same arithmetic for small and for large images."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, final

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from dhp_sr.deploy.model_file import load_model
from dhp_sr.deploy.model_info import TileRequirements, info_of
from dhp_sr.deploy.runner import MAX_BATCH, Images, Runner, with_tiles
from dhp_sr.utils.devices import thread_count
from dhp_sr.utils.errors import UserError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Name on the command line -> type of weights and computation."""

_CONVOLUTIONS = (
    torch.conv2d,
    torch.conv_transpose2d,
    functional.conv2d,
    functional.conv_transpose2d,
)
_SMALL_IMAGE_VALUES = 20480


@final
class TorchRunner(Runner):
    """A safetensors file of dhp_sr, run by PyTorch.

    Args:
        path: The file.
        device: Where to compute.
        precision: Key of `PRECISIONS`.
        threads: Threads of the CPU; None: as many as PyTorch uses.
        mode: `compile`: by torch.compile, which is faster and rounds differently from tile to tile.

    Raises:
        UserError: The precision is not for this device, or the file cannot be loaded.
    """

    def __init__(
        self,
        path: Path,
        device: torch.device,
        precision: str,
        threads: int | None,
        mode: Literal["eager", "compile"] = "eager",
    ) -> None:
        if precision == "fp16" and device.type == "cpu":
            raise UserError("--precision fp16 is for graphics cards; on the CPU use bf16 or fp32")
        # On the CPU and in float32 first: the graph is traced there, whatever computes it later.
        network = load_model(path)
        info = with_tiles(info_of(network), network)
        self.device = device
        self.dtype = PRECISIONS[precision]
        self.threads = threads
        tiles = info.tiles or TileRequirements()
        # The memory is stated for float32; other types take less.
        memory = tiles.bytes_per_pixel * self.dtype.itemsize / torch.float32.itemsize
        tiles = replace(tiles, bytes_per_pixel=memory)
        super().__init__(path, replace(info, tiles=tiles))
        self.network = network.to(device=device, dtype=self.dtype).requires_grad_(False)
        self.runtime = "torch"
        if device.type != "cpu":
            self.max_batch = MAX_BATCH
            self.device_type = device.type
        # The modes take operations apart, which would hide them from the compiler.
        self._convolutions: type[contextlib.AbstractContextManager] = DeterministicConvolutions
        self._interpolation: type[contextlib.AbstractContextManager] = ExactInterpolation
        self._compute: Callable[[Tensor], Tensor] = self.network
        if mode == "compile":
            self.runtime = "torch.compile"
            self._convolutions = contextlib.nullcontext
            self._interpolation = contextlib.nullcontext
            # One program for all sizes: images of a folder rarely have the same.
            self._compute = torch.compile(self.network, dynamic=True)

    def compute(self, images: Images) -> Images:
        """Run the network."""
        x = torch.from_numpy(images).to(device=self.device, dtype=self.dtype)
        # Every setting that lets a library choose among kernels is fixed, so that a tile gives
        # the same numbers as the whole image.
        deterministic = torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        )
        with (
            torch.inference_mode(),
            thread_count(self.threads),
            deterministic,
            self._convolutions(),
            self._interpolation(),
        ):
            try:
                return self._compute(x).float().cpu().numpy()
            except torch._dynamo.exc.BackendCompilerFailed as error:
                # Most often a missing C++ compiler, which PyTorch does not bring along.
                lines = str(error).strip().splitlines()
                raise UserError(
                    f"torch.compile: {lines[0]}; install a C++ compiler, or use --runtime torch"
                ) from error
            except RuntimeError as error:
                # A number of channels that does not fit, or too little memory.
                lines = str(error).strip().splitlines() or [type(error).__name__]
                raise UserError(f"PyTorch: {lines[0]}") from error


class DeterministicConvolutions(TorchFunctionMode):
    """Convolutions of a single small image on the CPU, computed by the kernel for large images.

    Up to 20,480 values, PyTorch takes another kernel, which sums in another order. Two copies of
    the image are above the limit or in another branch of the choice; the second result is
    discarded.
    """

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        if func not in _CONVOLUTIONS or not args:
            return func(*args, **kwargs)
        image: Tensor = args[0]
        single_on_cpu = image.device.type == "cpu" and len(image) == 1
        if not single_on_cpu or image.numel() > _SMALL_IMAGE_VALUES:
            return func(*args, **kwargs)
        twice = torch.cat((image, image))
        return func(twice, *args[1:], **kwargs)[:1]


class ExactInterpolation(TorchFunctionMode):
    """Interpolation by a whole number, with the same weights wherever a tile begins.

    PyTorch computes the weights of a pixel from its position, in float32, and sums in another
    order at the end of a row. The rounding differs from position to position, so a tile and the
    whole image would differ by one level now and then. Here the weights follow from the remainder
    of the position alone.
    """

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        if func is not functional.interpolate:
            return func(*args, **kwargs)
        scale = _whole_scale(*args, **kwargs)
        if scale is None:
            return func(*args, **kwargs)
        mode = kwargs.get("mode", args[3] if len(args) > 3 else "nearest")
        enlarged: Tensor = args[0] if args else kwargs["input"]
        for axis in (2, 3):
            enlarged = _enlarge_axis(enlarged, axis, scale, mode)
        return enlarged


_FIRST_TAPS = {"bilinear": 0, "bicubic": -1}
"""Mode -> position of the first pixel that is read, relative to the one before the new pixel."""
_BICUBIC = -0.75
"""Coefficient of the cubic kernel that PyTorch uses (Keys, 1981)."""


def _whole_scale(
    input: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> int | None:
    """Return by which whole number an image is enlarged; None: leave it to PyTorch.

    The arguments are those of `torch.nn.functional.interpolate`.
    """
    if mode not in _FIRST_TAPS or input.dim() != 4 or align_corners or antialias:
        return None
    if scale_factor is not None:
        factors = scale_factor if isinstance(scale_factor, tuple | list) else (scale_factor,) * 2
    else:
        sizes = size if isinstance(size, tuple | list) else (size,) * 2
        factors = [new / old for new, old in zip(sizes, input.shape[2:], strict=True)]
    scale = int(factors[0])
    if scale < 2 or any(factor != scale for factor in factors):
        return None
    return scale


def _enlarge_axis(image: Tensor, axis: int, scale: int, mode: str) -> Tensor:
    """Enlarge a tensor (N, C, H, W) along an axis."""
    length = image.shape[axis]
    # In whole numbers: twice the scale times the position, in input pixels.
    position = 2 * torch.arange(length * scale) + 1 - scale
    if mode == "bilinear":
        position = position.clamp(min=0)
    before = position.div(2 * scale, rounding_mode="floor")
    fraction = (position - 2 * scale * before).double() / (2 * scale)
    enlarged: Tensor | None = None
    shape = [-1 if dim == axis else 1 for dim in range(4)]
    for tap, weight in enumerate(_tap_weights(fraction, mode), start=_FIRST_TAPS[mode]):
        index = (before + tap).clamp(0, length - 1).to(image.device)
        # Products and sums apart: a fused operation might round otherwise at the edge of a row.
        product = image.index_select(axis, index) * weight.to(image).reshape(shape)
        enlarged = product if enlarged is None else enlarged + product
    assert enlarged is not None
    return enlarged


def _tap_weights(fraction: Tensor, mode: str) -> list[Tensor]:
    """Return the weights of the pixels around a position, in their order."""
    if mode == "bilinear":
        return [1 - fraction, fraction]
    weights = []
    for distance in (1 + fraction, fraction, 1 - fraction, 2 - fraction):
        near = ((_BICUBIC + 2) * distance - (_BICUBIC + 3)) * distance * distance + 1
        far = ((distance - 5) * distance + 8) * distance - 4
        weights.append(torch.where(distance <= 1, near, _BICUBIC * far))
    return weights
