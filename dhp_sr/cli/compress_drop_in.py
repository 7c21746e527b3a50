"""Results that keep the constructor's shape, for programs that know only the original class.

Such programs read a network's settings from the shapes of its weights: one width for all layers,
and a number of blocks. So these are chosen first, as the constructor makes them, and the search
chooses the channels. Of the few pairs that cost as much, narrower with all blocks to full width
with fewer, the one is taken whose output is nearest to the original's.
"""

import functools
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dhp_sr.deploy.safetensors_io import write_tensors
from dhp_sr.deploy.without_memory import without_memory
from dhp_sr.hyper import HyperNet
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.files import atomic_write
from dhp_sr.utils.strict_json import JsonObject
from dhp_sr.zoo.checkpoints import Checkpoint
from dhp_sr.zoo.names import build_named
from dhp_sr.zoo.networks import image_shape
from dhp_sr.zoo.value_range import SCALE_ARGUMENT

WIDTH_ARGUMENTS = {
    "DnCNN": "num_feat",
    "EDSR": "num_feat",
    "RLFN": "num_feat",
    "spandrel:Compact.SRVGGNetCompact": "num_feat",
    "spandrel:DnCNN.DnCNN": "nc",
    "spandrel:ESRGAN.RRDBNet": "num_filters",
    "spandrel:PLKSR.PLKSR": "dim",
    "spandrel:PLKSR.RealPLKSR": "dim",
    "spandrel:RCAN.RCAN": "n_feats",
    "spandrel:SAFMN.SAFMN": "dim",
    "spandrel:SPAN.SPAN": "feature_channels",
}
"""Network -> argument of its constructor that is the single width."""

_SIDE = 32
"""Pixels of the image that a network is run on once."""

MULTIPLE = 4
"""Widths are tried in steps of this, where the original's is a multiple of it."""


@dataclass(frozen=True)
class DropInShape:
    """A smaller shape that the constructor can make."""

    arguments: JsonObject
    """Arguments of the constructor."""
    widths: dict[str, int]
    """Name of every prunable group -> its width."""
    kept: float
    """Fraction of the cost."""


def find_shape(
    checkpoint: Checkpoint, hyper: HyperNet, kind: str, keep_ratio: float
) -> DropInShape:
    """Find the largest shape of the constructor whose cost is within a budget.

    Args:
        checkpoint: The original.
        hyper: The same network, converted; its masks are changed and restored.
        kind: Cost kind that is counted.
        keep_ratio: Fraction to keep, at most.

    Raises:
        UserError: The class has no single width, the widths of its layers cannot be reached by
            pruning, or every shape costs more.
    """
    name = WIDTH_ARGUMENTS.get(checkpoint.name)
    if name is None or SCALE_ARGUMENT in checkpoint.arguments:
        raise UserError(
            f"--drop_in: {checkpoint.title} has no single width that is known here; known: "
            f"{', '.join(WIDTH_ARGUMENTS)}"
        )
    width = checkpoint.arguments[name]
    # In steps of 1 where the network is narrow: 4 channels would be a large share of it.
    step = MULTIPLE if width % MULTIPLE == 0 and width > 2 * MULTIPLE else 1
    mask = hyper.mask.clone()
    smallest = 1.0
    reason = ""
    try:
        # From the widest down: the first within the budget is the largest.
        for candidate in range(width - step, 0, -step):
            arguments = {**checkpoint.arguments, name: candidate}
            # Some widths do not exist, such as those that a number of heads does not divide.
            try:
                shape = _shape_of(checkpoint, hyper, arguments, kind)
            except UserError as error:
                reason = reason or f": {error}"
                continue
            smallest = min(smallest, shape.kept)
            if shape.kept <= keep_ratio:
                return shape
    finally:
        hyper.mask.copy_(mask)
    raise UserError(
        f"--drop_in: no {name} below {width} keeps {keep_ratio:g} of {kind} or less; the least "
        f"possible is {smallest:.4f}{reason}"
    )


def _shape_of(
    checkpoint: Checkpoint, hyper: HyperNet, arguments: Mapping[str, object], kind: str
) -> DropInShape:
    """Widths of all groups in the network of some arguments, and what they keep."""
    dense = hyper.network.state_dict()
    smaller = without_memory(lambda: build_named(checkpoint.name, arguments), len(dense))
    shapes = {key: tuple(tensor.shape) for key, tensor in smaller.state_dict().items()}
    widths = {}
    masks = {}
    for group in hyper.plan.prunable:
        width = _group_width(group.members, group.width, dense, shapes)
        widths[group.name] = width
        # Any channels: the cost depends on their number alone, and the search chooses later.
        masks[group.name] = torch.arange(group.width) < width
    hyper.set_masks(masks)
    # A layer that no group decides about may still differ, so all shapes are compared.
    small = merged_for_inference(hyper.cut(check=False), checkpoint.network)
    cut = {key: tuple(tensor.shape) for key, tensor in small.state_dict().items()}
    if cut != shapes:
        differing = [key for key in shapes if cut.get(key) != shapes[key]]
        raise UserError(f"pruning cannot give the shapes of {', '.join(differing[:3])}")
    return DropInShape(dict(arguments), widths, hyper.cost_ratio(kind))


def _group_width(
    members: tuple[str, ...],
    width: int,
    dense: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
) -> int:
    """Width of a group, from the output channels of the first of its layers that has a weight."""
    for member in members:
        key = f"{member}.weight"
        if key in dense and key in shapes:
            # A layer may have several channels per element of the group, as before a PixelShuffle.
            kept, rest = divmod(width * shapes[key][0], dense[key].shape[0])
            if rest == 0 and 0 < kept <= width:
                return kept
    raise UserError(f"the width of {members[0]} does not follow from the constructor")


def _width_of(checkpoint: Checkpoint, tensors: Mapping[str, Tensor]) -> int:
    """Find the width whose network has the first weight of the result."""
    name = WIDTH_ARGUMENTS[checkpoint.name]
    key = next(iter(tensors))
    for width in range(1, checkpoint.arguments[name] + 1):
        arguments = {**checkpoint.arguments, name: width}
        make = functools.partial(build_named, checkpoint.name, arguments)
        try:
            network = without_memory(make, len(tensors))
        except UserError:  # a width that does not exist
            continue
        if network.state_dict()[key].shape == tensors[key].shape:
            return width
    raise UserError(f"--drop_in: no {name} gives {key} of {tuple(tensors[key].shape)}")


@torch.no_grad()
def merged_for_inference(network: nn.Module, original: nn.Module) -> nn.Module:
    """Run a network once in evaluation mode; return it.

    Re-parameterized ones, such as SPAN, write the weights that they infer with only then.

    Args:
        network: A cut copy of the original.
        original: Says which inputs it takes.
    """
    network.eval()(torch.zeros(image_shape(original, _SIDE, _SIDE)))
    return network


def write_drop_in(network: nn.Module, checkpoint: Checkpoint, path: Path) -> None:
    """Write bare weights that the original class takes.

    Args:
        network: The result.
        checkpoint: The original.
        path: `.safetensors`, or `.pth` for programs that know no other.

    Raises:
        UserError: The class does not take them.
    """
    merged = merged_for_inference(network, checkpoint.network)
    tensors = {key: value.detach().clone() for key, value in merged.state_dict().items()}
    name = WIDTH_ARGUMENTS[checkpoint.name]
    # The width is read off the first weight of the result that the arguments decide about.
    arguments = {**checkpoint.arguments, name: _width_of(checkpoint, tensors)}
    built = build_named(checkpoint.name, arguments)
    try:
        built.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise UserError(f"--drop_in: the class does not take the result: {error}") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        write_tensors(path, tensors, {})
        return
    # In memory first: a full disk ends torch.save with an error that does not say so.
    content = io.BytesIO()
    torch.save({"params": tensors}, content)
    with atomic_write(path) as file:
        file.write(content.getbuffer())
