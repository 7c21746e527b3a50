"""Least squares of a single layer, from samples of two networks that run side by side."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, fx

from dhp_sr.surgery.layer_samples import (
    Layer,
    choose_positions,
    in_dim,
    num_features,
    num_groups,
    num_positions,
    sample_features,
    sample_outputs,
)
from dhp_sr.surgery.least_squares import NormalEquations
from dhp_sr.surgery.shortcuts import find_shortcut_error
from dhp_sr.surgery.side_by_side import Execution
from dhp_sr.utils.modules import out_dim

HELD_OUT = 5
"""Every fifth sample is held out while the ridge is chosen."""


def regressions(layer: Layer, kept_in: Tensor, kept_out: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (kept input channels, kept output channels) of each regression of a layer.

    The groups of a grouped convolution are separate regressions, each on separate inputs; along
    the weight's axis of input channels, which they share, all groups keep the same.

    Args:
        layer: A convolution or a linear layer.
        kept_in: Kept entries along its weight's axis of input channels.
        kept_out: Kept entries along its weight's axis of output channels.
    """
    groups = num_groups(layer)
    if groups == 1:
        yield kept_in, kept_out
        return
    outs_per_group = layer.weight.shape[out_dim(layer)] // groups
    ins_per_group = layer.weight.shape[in_dim(layer)]
    for group in range(groups):
        outs = kept_out[kept_out // outs_per_group == group]
        # The input's channels are numbered through, those of the weight anew in each group.
        if len(outs) > 0:
            yield kept_in + group * ins_per_group, outs


class RegressionSampler:
    """Draws output positions of layers, and sums their normal equations.

    Args:
        dense: Values of the dense network, which gives the targets.
        masked: Values of the masked network, which gives the inputs.
        rows_per_feature: Output positions sampled for each unknown of a layer.
    """

    def __init__(self, dense: Execution, masked: Execution, rows_per_feature: int) -> None:
        self._dense = dense
        self._masked = masked
        self._rows_per_feature = rows_per_feature
        # Seeded here: the same cut must give the same weights, whatever was drawn before.
        self._generator = torch.Generator().manual_seed(0)

    def normal_equations(
        self, node: fx.Node, ins: Tensor, outs: Tensor
    ) -> tuple[NormalEquations, NormalEquations]:
        """Sum over the training samples and over the held-out ones.

        Args:
            node: Call of the layer.
            ins: Input channels that the regression reads.
            outs: Output channels that it is for.
        """
        layer = self._masked.layer(node)
        source = node.all_input_nodes[0]
        features = num_features(layer, len(ins))
        train = NormalEquations(features, len(outs))
        held_out = NormalEquations(features, len(outs))
        num_samples = self._masked.num_samples
        rows_per_sample = math.ceil(self._rows_per_feature * features / num_samples)
        shortcut_error = find_shortcut_error(node, self._dense, self._masked)
        sample_index = 0
        for batch, values in enumerate(self._masked.values):
            targets = self._dense.values[batch][node]
            # The layer is added to a shortcut, and makes up for what that has lost, too.
            if shortcut_error is not None:
                targets = targets + shortcut_error(batch)
            for sample, output, target in zip(values[source], values[node], targets, strict=True):
                count = num_positions(layer, output)
                positions = choose_positions(count, rows_per_sample, self._generator)
                positions = positions.to(output.device)
                x = sample_features(layer, sample, output, ins, positions)
                y = sample_outputs(layer, target, outs, positions)
                residuals = y - sample_outputs(layer, output, outs, positions)
                if num_samples >= HELD_OUT:
                    # Whole images are held out: neighboring positions of one tell too little.
                    held = torch.full((len(x),), sample_index % HELD_OUT == HELD_OUT - 1)
                else:
                    held = torch.arange(len(x)) % HELD_OUT == HELD_OUT - 1
                held = held.to(x.device)
                train.add(x[~held], residuals[~held], y[~held])
                held_out.add(x[held], residuals[held], y[held])
                sample_index += 1
        return train, held_out
