"""Database of widths: for every width of a group, the re-solved weights of the layers that read it.

The entries rest on the inputs of the dense network, so they can be put together for any combination
of widths without another pass over the data: one forward pass per combination gives its true loss.

Reference:
    SPDY (Frantar and Alistarh, ICML 2022) and ZipLM (Kurtic et al., NeurIPS 2023): a database of
    reconstructed layers per compression level.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from dhp_sr.channels.plan import Branch, Leaves, append_pinned
from dhp_sr.hyper import HyperNet
from dhp_sr.search.obs.statistics import LayerStatistics, taps_to_features
from dhp_sr.surgery.cut import kept_entries, zero_outside
from dhp_sr.surgery.layer_samples import Layer, as_kernel, layer_of_weight
from dhp_sr.utils.modules import out_dim
from dhp_sr.utils.network_io import tensors_of, with_further_inputs


class WidthDatabase:
    """Weights of a network for any width of its groups, channels kept in a fixed order.

    Args:
        hyper: The network; its weights are the dense ones.
        orders: For each prunable group its channels, (width,), the most valuable first.
        layers: Statistics of the layers that are re-solved; those of several uses are not.
    """

    def __init__(
        self, hyper: HyperNet, orders: Sequence[Tensor], layers: Sequence[LayerStatistics]
    ) -> None:
        self._hyper = hyper
        self._orders = orders
        # As in the correction of the cut, a weight of several uses stays as it is.
        self._layers = [layer for layer in layers if layer.uses == 1]
        self._solved: dict[tuple[str, tuple[int, ...]], tuple[Tensor, Tensor | None]] = {}
        self._groups_of: list[list[int]] = []
        """For each layer, the positions of the groups that it reads among the prunable ones."""
        for layer in self._layers:
            positions = []
            for position, group in enumerate(hyper.plan.prunable):
                end = group.start + group.width
                inside = (layer.channel_index >= group.start) & (layer.channel_index < end)
                if bool(inside.any()):
                    positions.append(position)
            self._groups_of.append(positions)

    def mask(self, widths: Sequence[int]) -> Tensor:
        """Mask (plan.size,) that keeps the first `widths` channels of every group's order."""
        mask = torch.zeros(self._hyper.plan.size, dtype=torch.bool)
        for group, order, width in zip(
            self._hyper.plan.prunable, self._orders, widths, strict=True
        ):
            mask[group.start + order[:width]] = True
        return mask

    @torch.no_grad()
    def values(self, widths: Sequence[int]) -> dict[str, Tensor]:
        """Full-size parameters of the network with these widths, zero where channels are cut."""
        hyper = self._hyper
        mask = self.mask(widths)
        values = hyper.generate_with(mask)
        kept = kept_entries(hyper.plan, mask)
        for layer, groups in zip(self._layers, self._groups_of, strict=True):
            # A layer is solved by its inputs alone; the channels that it writes are cut below. So
            # the key holds the widths of the groups it reads, and few layers are solved anew.
            key = (layer.weight, tuple(widths[group] for group in groups))
            if key not in self._solved:
                self._solved[key] = self._solve(layer, mask)
            weight, bias = self._solved[key]
            dim = out_dim(self._module(layer))
            # No entry: nothing of this axis is prunable, so all of it is kept.
            outputs = kept.get((layer.weight, dim), torch.arange(weight.shape[dim]))
            values[layer.weight] = zero_outside(weight, outputs, dim).to(values[layer.weight])
            name = f"{layer.weight.rpartition('.')[0]}.bias"
            if bias is not None:
                values[name] = zero_outside(bias, outputs, 0).to(values[name])
        for branch in hyper.plan.removed_branches(mask):
            for name, bias in self._biases_of_means(branch):
                outputs = kept.get((name, 0), torch.arange(len(bias)))
                values[name] = zero_outside(bias, outputs, 0).to(values[name])
        return values

    def _biases_of_means(self, branch: Branch) -> Iterator[tuple[str, Tensor]]:
        """Yield biases with which a removed branch gives its mean, by name.

        A convolution without bias cannot take over what its inputs gave on average. The batch
        normalization behind it can: it has stored that average.
        """
        for before, layer in pairwise(branch.layers):
            source = self._hyper.network.get_submodule(before.name)
            norm = self._hyper.network.get_submodule(layer.name)
            lacks_bias = isinstance(source, Layer) and source.bias is None
            if layer.leaves is Leaves.BIAS and lacks_bias and isinstance(norm, _BatchNorm):
                if norm.running_mean is None or norm.running_var is None:
                    continue
                scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
                yield f"{layer.name}.bias", norm.bias + scale * norm.running_mean

    @torch.no_grad()
    def outputs(self, widths: Sequence[int], batches: Sequence[Tensor]) -> list[object]:
        """Outputs of the network with these widths, whatever it returns."""
        values = self.values(widths)
        outputs = []
        for batch in batches:
            inputs = with_further_inputs(batch, self._hyper.plan.further_inputs)
            outputs.append(functional_call(self._hyper.network, values, inputs))
        return outputs

    def _module(self, layer: LayerStatistics) -> Layer:
        module = layer_of_weight(self._hyper.network, layer.weight)
        assert module is not None, "statistics are of layers alone"
        return module

    def _solve(self, layer: LayerStatistics, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        """Weight and bias that bring a layer with kept inputs closest to the dense layer."""
        # Pinned channels have the index past the end of the mask, where `append_pinned` puts True.
        channels = append_pinned(mask)[layer.channel_index].nonzero().flatten()
        kept = layer.features_of(channels)
        covariance = layer.covariance_FF
        # min over V of E|W x - V x_kept|^2: V = W C[:, kept] C[kept, kept]^-1
        cross_FO = covariance[kept] @ layer.weight_OF.T
        solution_OF = torch.linalg.solve(covariance[kept][:, kept], cross_FO).T
        weight_OF = torch.zeros_like(layer.weight_OF)
        weight_OF[:, kept] = solution_OF
        bias = layer.bias
        if bias is not None:
            # The bias takes over what the removed inputs gave on average.
            shift = layer.weight_OF @ layer.mean_F - weight_OF @ layer.mean_F
            bias = bias + shift.reshape(len(bias), -1).sum(1)
        module = self._module(layer)
        # More rows than output channels: every tap of the kernel is an output of its own.
        taps = len(weight_OF) // module.weight.shape[out_dim(module)]
        return as_kernel(module, taps_to_features(weight_OF, taps)), bias


def output_loss(outputs: Sequence[object], targets: Sequence[object]) -> float:
    """Distance of outputs from the dense network's, the mean over the samples.

    Images: mean squared error. Logits (N, classes): Kullback-Leibler divergence, in nats. Of
    several tensors, as a network with further heads returns them, the sum.
    """
    total = 0.0
    count = 0
    for output, target in zip(outputs, targets, strict=True):
        pairs = list(zip(tensors_of(output), tensors_of(target), strict=True))
        for (_, actual), (_, expected) in pairs:
            # The classes that a segmentation names have no distance.
            if actual.is_floating_point() and actual.dim() > 0:
                total += _loss_of_batch(actual, expected)
        count += len(pairs[0][0][1])
    return total / max(count, 1)


def _loss_of_batch(output: Tensor, target: Tensor) -> float:
    """Sum of the losses of the samples of a batch."""
    # Two axes are those of logits; an image has four.
    if output.dim() == 2:
        expected = target.log_softmax(1)
        return float((expected.exp() * (expected - output.log_softmax(1))).sum())
    return float((output - target).square().flatten(1).mean(1).sum())
