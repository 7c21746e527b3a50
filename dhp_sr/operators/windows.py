"""Windows of an image as entries of their own: unfold, fold, and the inverse of maximum pooling.

unfold    (N, C, H, W) -> (N, C k k, windows)    every channel becomes k k consecutive ones
fold      (N, C k k, windows) -> (N, C, H, W)    which become one again
"""

import torch.nn.functional as F
from torch import Tensor, nn

from dhp_sr.operators.channel_ids import union_blocks
from dhp_sr.operators.context import OpContext
from dhp_sr.operators.resampling import whole_image_field
from dhp_sr.operators.spec import OpSpec, Unsupported, spellings


def unfold_channels(op: OpContext) -> Tensor:
    """Turn every channel into the entries of a window, which are consecutive."""
    channels = op.channels(op.source, dim=-3)
    copies = op.value.shape[-2] // len(channels)
    return op.broadcast_along(channels.repeat_interleave(copies), dim=-2)


def fold_channels(op: OpContext) -> Tensor:
    """Turn the entries of a window into one channel, so that they are pruned together."""
    channels = op.channels(op.source, dim=-2)
    blocks = union_blocks(channels, op.value.shape[-3], op.analysis.union_find)
    return op.broadcast_along(blocks[:, 0], dim=-3)


def windows_along_axis_channels(op: OpContext) -> Tensor:
    """Keep the channels where windows are taken along another axis: `x.unfold(2, 3, 1)`.

    Raises:
        Unsupported: The windows are of channels.
    """
    if op.varies_along(op.source, op.arg_value(1, "dimension")):
        raise Unsupported(f"windows of channels at {op.layer}")
    return op.ids[op.source].unsqueeze(-1)


def unpooled_channels(op: OpContext) -> Tensor:
    """Unite the channels with those of the indices, each of which is for a channel."""
    channels = op.channels(op.source)
    op.analysis.union_find.union(op.channels(op.argument(1, "indices")), channels)
    return op.broadcast_along(channels)


OPS = (
    OpSpec("unfold", (nn.Unfold, F.unfold), unfold_channels, whole_image_field),
    OpSpec("fold", (nn.Fold, F.fold), fold_channels, whole_image_field),
    OpSpec("windows along an axis", ("unfold",), windows_along_axis_channels, whole_image_field),
    OpSpec(
        "maximum unpooling",
        (nn.MaxUnpool2d, *spellings("max_unpool2d", F)),
        channels=unpooled_channels,
        receptive_field=whole_image_field,
        takes_sizes=True,
    ),
)
