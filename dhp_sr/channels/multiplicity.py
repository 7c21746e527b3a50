"""How many channels of a layer each channel of a group stands for.

Where a group feeds a grouped convolution, the channels at the same place of all its groups live and die together: one
place in the group is as many channels of the layers. Before a PixelShuffle one place is r^2 channels, behind it one.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def channels_per_element(
    spans: Sequence[slice], axes: Iterable[tuple[Tensor, int]], size: int
) -> list[tuple[int, ...]]:
    """Return for each group all numbers of channels that a place of it is among the layers, ascending.

    A place that is not as many channels of some layer as its neighbors are counts as one channel there.

    Args:
        spans: of the groups, without gaps, in the flat vector of prunable channels.
        axes: for each axis of a tensor, the place in the flat vector of each entry, `size` for a pinned one; and how
            many times the layer has these channels, which is the number of groups for the weight of a grouped
            convolution.
        size: length of the flat vector.
    """
    owner = torch.repeat_interleave(
        torch.tensor([span.stop - span.start for span in spans], dtype=torch.long)
    )
    found: list[set[int]] = [set() for _ in spans]
    for index, times in axes:
        held = torch.bincount(index, minlength=size + 1)[:size]
        for place in owner[held > 0].unique().tolist():
            least, most = held[spans[place]].aminmax()
            found[place].add(int(least) * times if least == most else 1)
    return [tuple(sorted(one or {1})) for one in found]
