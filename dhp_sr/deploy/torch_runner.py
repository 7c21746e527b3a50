"""Model files run by PyTorch, with the same arithmetic for small and for large images."""

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, final

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from dhp_sr.deploy.interpolation import ExactInterpolation
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
        # The modes take operations apart, which would hide them from the compiler.
        self._convolutions: type[contextlib.AbstractContextManager] = DeterministicConvolutions
        self._interpolation: type[contextlib.AbstractContextManager] = ExactInterpolation
        self._compute: Any = self.network
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


class DeterministicConvolutions(TorchFunctionMode):
    """Convolutions of a single small image on the CPU, computed by the kernel for large images.

    Up to 20,480 values, PyTorch takes another kernel, which sums in another order. Two copies of
    the image are above the limit or in another branch of the choice; the second result is
    discarded.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _CONVOLUTIONS or not args:
            return func(*args, **kwargs)
        image: Tensor = args[0]
        single_on_cpu = image.device.type == "cpu" and len(image) == 1
        if not single_on_cpu or image.numel() > _SMALL_IMAGE_VALUES:
            return func(*args, **kwargs)
        twice = torch.cat((image, image))
        return func(twice, *args[1:], **kwargs)[:1]
