"""An ONNX file as a module: called like the network that it was made from."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dhp_sr.utils.errors import UserError

from .onnx import open_onnx

MULTIPLES = (1, 2, 4, 8, 16, 32, 64)
_LEAST_SIDE = 16
_FATAL = 4
_TYPES = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16, "tensor(double)": torch.float64}


class OnnxNetwork(nn.Module):
    """A file that onnxruntime computes on the CPU; images go in and come out as float32.

    Args:
        path: one image (N, C, H, W) in, one out, sides free.
        threads: how many to compute with.

    Attributes:
        task, scale, in_channels, size_multiple: as on our networks, from the file's metadata where it has ours, else
            found out by small images.

    Raises:
        UserError: onnxruntime is missing, cannot read the file, or the file does not map one image to one.
    """

    def __init__(self, path: str | Path, threads: int = 1) -> None:
        super().__init__()
        self.session = open_onnx(path, threads)
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        self.in_channels = _channels(path, inputs, outputs)
        self.input_name, self.output_name = inputs[0].name, outputs[0].name
        if inputs[0].type not in _TYPES:
            raise UserError(f"{path}: expected an input of floating-point numbers, found {inputs[0].type}")
        self.input_type = _TYPES[inputs[0].type]
        self.scale, self.size_multiple = _size_rule(self, path)
        found = self.session.get_modelmeta().custom_metadata_map
        self.task = found.get("task", "sr" if self.scale > 1 else "denoise")

    def forward(self, x: Tensor) -> Tensor:
        """Return the result for (N, C, H, W), on the CPU, float32."""
        image = x.detach().cpu().to(self.input_type).numpy()
        (result,) = self.session.run([self.output_name], {self.input_name: image}, _quiet())
        return torch.from_numpy(result).float()


def _quiet() -> Any:
    """Return options that keep onnxruntime from printing an error that is raised as well."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.log_severity_level = _FATAL
    return options


def _channels(path: str | Path, inputs: list[Any], outputs: list[Any]) -> int:
    shapes = [[*map(str, one.shape)] for one in (*inputs, *outputs)]
    if len(inputs) != 1 or len(outputs) != 1 or any(len(shape) != 4 for shape in shapes):
        raise UserError(f"{path}: expected one image (N, C, H, W) in and one out, found {shapes}")
    channels = inputs[0].shape[1]
    if not isinstance(channels, int):
        raise UserError(f"{path}: expected a fixed number of channels on axis 1 of its input, found {channels!r}")
    return channels


def _size_rule(run: OnnxNetwork, path: str | Path) -> tuple[int, int]:
    """Return the enlargement, and the multiple that sides of inputs must be of, as small images show them."""
    reason = ""
    for multiple in MULTIPLES:
        side = multiple * (-(-_LEAST_SIDE // multiple) | 1)  # an odd number of multiples
        try:
            height, width = run(torch.zeros(1, run.in_channels, side, side)).shape[2:]
        except Exception as error:  # onnxruntime's own classes have no common base
            reason = str(error)[:300]
            continue
        if height == width and height % side == 0:
            return height // side, multiple
        reason = f"an input of {side} x {side} gives {height} x {width}"
    raise UserError(f"{path}: expected a graph for images of any size (multiples of at most 64), found: {reason}")
