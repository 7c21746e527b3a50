"""The interface of a model that is ready to run, whatever runtime computes it."""

from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dhp_sr.cost.activation_memory import peak_activation_bytes
from dhp_sr.deploy.model_info import (
    CLASSIFICATION,
    DEFAULT_BYTES_PER_PIXEL,
    ModelInfo,
    TileRequirements,
)
from dhp_sr.deploy.safetensors_io import ModelFileError
from dhp_sr.graph.shape_inference import infer_output
from dhp_sr.tiling import receptive_field
from dhp_sr.utils.modules import floating_dtype

Images = NDArray[np.float32]
"""Images (N, C, H, W) in [0, 1], float32."""


MAX_BATCH = 8
"""Tiles at once on a graphics card, which a single small tile leaves idle for the most part."""


class Runner(ABC):
    """A model that can be called, and the facts needed to call it.

    A runtime adds a final class that implements `compute`, and a row in `runtimes.RUNTIMES`.

    Args:
        path: The model's file.
        info: Its description, with `tiles`.
    """

    runtime: str
    """Name of the runtime, as in `runtimes.RUNTIMES`."""
    device_type = "cpu"
    """Type of torch device that it computes on; images come from the CPU and go there."""
    note = ""
    """A line for the user about what was chosen without being asked."""

    def __init__(self, path: Path, info: ModelInfo) -> None:
        self.path = path
        self.info = info
        self.tiles = info.tiles or TileRequirements(multiple=info.sizes.multiple)

    max_batch = 1
    """Tiles that are computed at once if the memory allows it: more is no faster on a processor,
    whose cores a single tile keeps busy."""

    is_single = False
    """Whether the file has a fixed batch of a single image, as other programs write some."""

    @abstractmethod
    def compute(self, images: Images) -> NDArray[np.float32]:
        """Run the network on a contiguous array; arguments and result as in `__call__`."""

    def __call__(self, images: Images | Tensor) -> Images | Tensor:
        """Run the network.

        Args:
            images: (N, in_channels, H, W) in [0, 1], array or tensor on any device; height and
                width as `info.sizes` requires.

        Returns:
            (N, out_channels, scale H, scale W) float32, not clipped, or (N, classes); an array
            for an array, a tensor on the CPU for a tensor.

        Raises:
            UserError: The sizes do not suit the network, or the runtime refuses the input.
        """
        # Runtimes report wrong sizes from deep inside the graph, or pad without a word.
        self.info.sizes.check(*images.shape[2:])
        if isinstance(images, Tensor):
            array = images.detach().float().cpu().numpy()
            return torch.from_numpy(self._compute_batch(np.ascontiguousarray(array)))
        return self._compute_batch(np.ascontiguousarray(images, dtype=np.float32))

    def _compute_batch(self, images: Images) -> Images:
        if not self.is_single or len(images) == 1:
            return self.compute(images)
        return np.concatenate([self.compute(image[None]) for image in images])

    @property
    def scale(self) -> int:
        """Enlargement of height and width."""
        return self.info.scale

    @property
    def in_channels(self) -> int:
        """Channels of the input."""
        return self.info.in_channels

    @property
    def out_channels(self) -> int:
        """Channels of the output."""
        return self.info.out_channels

    @property
    def size_multiple(self) -> int:
        """Height and width of inputs are multiples of it."""
        return self.info.sizes.multiple


class RunnerModule(nn.Module):
    """A runner as a module, for code that scores and times networks.

    Args:
        runner: Its images lie on the CPU, wherever it computes.
    """

    def __init__(self, runner: Runner) -> None:
        super().__init__()
        self.runner = runner
        self.info = runner.info
        # Another program's file does not say its task; an image of the same size is scored as
        # a denoised one.
        self.task = runner.info.task or "denoise"
        self.scale = runner.info.scale
        self.in_channels = runner.info.in_channels
        self.size_multiple = runner.info.sizes.multiple
        if runner.info.input_size is not None:
            self.input_size = runner.info.input_size

    def forward(self, x: Tensor) -> Tensor:
        """Return the runner's result for (N, C, H, W), float32 on the CPU."""
        info = self.info
        # Shape inference asks with tensors that have no values, which a runtime cannot compute.
        if x.is_meta and info.restores_images:
            height, width = x.shape[2:]
            return x.new_empty(len(x), info.out_channels, info.scale * height, info.scale * width)
        if x.is_meta:
            return x.new_empty(len(x), info.out_channels)
        return torch.as_tensor(self.runner(x))


def with_tiles(info: ModelInfo, network: nn.Module) -> ModelInfo:
    """Return the description with the network's receptive field, memory and least sides.

    They are properties of the pruned network, and tracing it takes a moment, so this is done
    where tiles matter: by runners and exports. Classifiers have no tiles.
    """
    if not info.restores_images:
        return info
    receptive = receptive_field(network, info.in_channels, info.sizes.multiple)
    memory = peak_activation_bytes(network, info.in_channels, info.sizes.multiple)
    tiles = TileRequirements(
        halo=receptive.halo,
        multiple=receptive.multiple,
        bytes_per_pixel=memory or DEFAULT_BYTES_PER_PIXEL,
        reason=receptive.reason,
    )
    sizes = replace(info.sizes, lower_limit=find_lower_limit(network, info))
    return replace(info, tiles=tiles, sizes=sizes)


def find_lower_limit(network: nn.Module, info: ModelInfo) -> int:
    """Return the least height and width that pass through a network; only shapes are computed.

    PyTorch refuses smaller images, such as those whose features a window does not fit into. Other
    runtimes do not: onnxruntime may end the process, OpenVINO returns nothing.
    """
    multiple = info.sizes.multiple
    for side in range(multiple, info.example_side, multiple):
        shape = (1, info.in_channels, side, side)
        try:
            infer_output(network, shape, floating_dtype(network))
        except Exception:
            # Whatever the network's forward raises, the image did not pass.
            continue
        return side
    return info.example_side


def check_restores_images(info: ModelInfo, where: object) -> None:
    """Check that a network's output is an image.

    Args:
        info: The network's description.
        where: Named in the error, such as the file.

    Raises:
        ModelFileError: It is a classifier.
    """
    if not info.restores_images:
        raise ModelFileError(
            f"{where}: expected a network that restores images, got a network for {CLASSIFICATION}"
        )
