"""Second moments of the inputs of all layers that read prunable channels, from forward passes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dhp_sr.channels.plan import ChannelPlan, Layer
from dhp_sr.surgery.layer_samples import Layer as WeightedLayer
from dhp_sr.surgery.layer_samples import (
    as_matrix,
    choose_positions,
    layer_of_weight,
    num_features,
    num_groups,
    num_positions,
    sample_features,
)
from dhp_sr.utils.modules import call_input, canonical_names
from dhp_sr.utils.network_io import with_further_inputs

MAX_FEATURES = 2400
"""Layers that read more values than this are described by channels alone, see `LayerStatistics`."""

ROWS_PER_FEATURE = 30
"""Output positions sampled for each feature."""


@dataclass(frozen=True)
class LayerStatistics:
    """A layer as a regression on its input: what is needed to re-solve it for any kept channels.

    With `features_per_channel` = kernel size the features are those of each output position. With 1
    they are the input's channels alone, and every tap of the kernel is an output of its own, as in
    GRAIL; that takes far less memory and mixes channels, not taps.
    """

    weight: str
    """Name of the weight."""
    weight_OF: Tensor
    """Dense weight, flattened to (outputs, features), float64."""
    bias: Tensor | None
    """Dense bias, float64, shape (out channels,)."""
    covariance_FF: Tensor
    """Covariance of the features, or without a bias their second moment; float64."""
    mean_F: Tensor
    """Mean of the features, float64; zeros without a bias."""
    channel_index: Tensor
    """For each input channel its channel in the flat vector, or that vector's length if pinned."""
    features_per_channel: int
    uses: int = 1
    """Calls of layers with this weight in a forward. One of several uses cannot be re-solved: its
    later inputs depend on it."""

    def features_of(self, channels: Tensor) -> Tensor:
        """Indices of the features of some input channels, (channels * features per channel,)."""
        offsets = torch.arange(self.features_per_channel)
        return (channels[:, None] * self.features_per_channel + offsets).flatten()

    @property
    def output_variance(self) -> float:
        """Variance of the layer's output, summed over outputs: what errors are relative to."""
        return float(((self.weight_OF @ self.covariance_FF) * self.weight_OF).sum())


@torch.no_grad()
def layer_statistics(
    network: nn.Module,
    plan: ChannelPlan,
    values: Mapping[str, Tensor],
    batches: Sequence[Tensor],
    ridge: float,
) -> list[LayerStatistics]:
    """Run a dense network and gather the statistics of the layers that read prunable channels.

    Grouped convolutions are left out: they pass channels on rather than mix them. So are layers
    without a module of their own.

    Args:
        network: The plain network, in eval mode.
        plan: Its plan.
        values: Its parameters at full width.
        batches: Inputs; further ones of the network are fixed, those of the plan.
        ridge: Added to the diagonal of every covariance, relative to its mean.
    """
    readers = {}
    for layer in plan.layers:
        module = layer_of_weight(network, layer.weight)
        index = _input_channels(plan, layer)
        # A grouped convolution does not mix the channels of its groups: it passes them on.
        if module is None or index is None or num_groups(module) > 1:
            continue
        if bool((index < plan.size).any()):
            readers[layer.weight] = _InputMoments(module, len(index))
    # Hooks see each layer's input as it is in the dense network: one pass serves all layers.
    handles = []
    try:
        for name, moments in readers.items():
            for reader in _layers_with(network, name):
                handles.append(reader.register_forward_hook(moments.add, with_kwargs=True))
        num_samples = sum(map(len, batches))
        for batch in batches:
            for moments in readers.values():
                moments.begin_batch(len(batch), num_samples)
            inputs = with_further_inputs(batch, plan.further_inputs)
            functional_call(network, dict(values), inputs)
    finally:
        for handle in handles:
            handle.remove()
    statistics = []
    for layer in plan.layers:
        if layer.weight in readers:
            index = _input_channels(plan, layer)
            assert index is not None, "readers have an axis of input channels"
            statistics.append(readers[layer.weight].finish(layer.weight, values, index, ridge))
    return statistics


def _layers_with(network: nn.Module, weight: str) -> list[nn.Module]:
    """Return the layers that hold a weight: several where it is tied."""
    layers: list[nn.Module] = []
    for name, first_name in canonical_names(network).items():
        layer = network.get_submodule(name.rpartition(".")[0])
        # A module may have several names, too.
        if first_name == weight and layer not in layers:
            layers.append(layer)
    return layers


def _input_channels(plan: ChannelPlan, layer: Layer) -> Tensor | None:
    """Flat channel of every input channel of a layer; None if the plan does not know them."""
    for axis in plan.axes:
        if axis.tensor == layer.weight and axis.dim == 1 - layer.out_dim:
            return axis.index
    return None


def taps_to_outputs(weight_OF: Tensor, taps: int) -> Tensor:
    """Make every tap of a kernel an output of its own: (out, in * taps) -> (out * taps, in)."""
    return weight_OF.unflatten(1, (-1, taps)).transpose(1, 2).flatten(0, 1)


def taps_to_features(weight_OF: Tensor, taps: int) -> Tensor:
    """Invert `taps_to_outputs`: (out * taps, in) -> (out, in * taps)."""
    return weight_OF.unflatten(0, (-1, taps)).transpose(1, 2).flatten(1)


class _InputMoments:
    """Streamed sums of a layer's features; its calls are summed where it has several."""

    def __init__(self, module: WeightedLayer, channels: int) -> None:
        self._by_channel = num_features(module, channels) > MAX_FEATURES
        self._features = num_features(module, channels)
        if self._by_channel:
            self._features = channels
        self._rows_of_batch = 0
        self._channels = torch.arange(channels)
        self._module = module
        self._rows = 0
        self._uses = 0
        self._sum = torch.zeros(self._features, dtype=torch.float64)
        self._square = torch.zeros(self._features, self._features, dtype=torch.float64)
        # Seeded here: a resumed search must sample the same positions.
        self._generator = torch.Generator().manual_seed(0)

    def begin_batch(self, batch_size: int, num_samples: int) -> None:
        """Set how many rows the next batch gives: by its share in all samples."""
        # The last batch may be smaller than the others; its samples must not count more.
        rows = ROWS_PER_FEATURE * self._features
        self._rows_of_batch = math.ceil(rows * batch_size / num_samples)
        self._uses = 0

    def add(
        self,
        module: nn.Module,
        args: tuple[Tensor, ...],
        kwargs: Mapping[str, Tensor],
        output: Tensor,
    ) -> None:
        """Forward hook: add rows of a batch."""
        self._uses += 1
        # A tied layer of another kind reads other channels along the axes of the weight.
        if type(module) is not type(self._module):
            return
        assert isinstance(module, WeightedLayer), "it is of the type of a layer"
        if num_groups(module) > 1:
            return
        rows_per_sample = math.ceil(self._rows_of_batch / len(output))
        image = call_input(args, kwargs)
        for sample, result in zip(image, output, strict=True):
            rows = self._sample(module, sample, result, rows_per_sample)
            self._rows += len(rows)
            # Added up in double precision, since thousands of rows follow each other.
            self._sum += rows.double().sum(0).cpu()
            self._square += (rows.T @ rows).double().cpu()

    def _sample(self, module: WeightedLayer, sample: Tensor, output: Tensor, wanted: int) -> Tensor:
        """Features at randomly chosen positions, shape (rows, features)."""
        if self._by_channel:
            values = sample.flatten(1).T
            if isinstance(module, nn.Linear):
                values = sample.reshape(-1, sample.shape[-1])
            return values[choose_positions(len(values), wanted, self._generator)]
        count = num_positions(module, output)
        positions = choose_positions(count, wanted, self._generator)
        return sample_features(module, sample, output, self._channels, positions)

    def finish(
        self, name: str, values: Mapping[str, Tensor], index: Tensor, ridge: float
    ) -> LayerStatistics:
        """Turn the sums into the statistics of the layer."""
        weight_OF = as_matrix(self._module, values[name].detach().double().cpu())
        features_per_channel = weight_OF.shape[1] // len(self._channels)
        if self._by_channel:
            weight_OF = taps_to_outputs(weight_OF, features_per_channel)
            features_per_channel = 1
        # A layer that the forward never calls has no rows.
        rows = max(self._rows, 1)
        mean = self._sum / rows
        second = self._square / rows
        bias = values.get(f"{name.rpartition('.')[0]}.bias")
        if bias is None:
            # Without an intercept the mean cannot be made up for: keep it in the second moment.
            mean = torch.zeros_like(mean)
        else:
            bias = bias.detach().double().cpu()
            second = second - torch.outer(mean, mean)
        second.diagonal().add_(ridge * second.diagonal().mean().clamp_min(1e-300))
        return LayerStatistics(
            weight=name,
            weight_OF=weight_OF,
            bias=bias,
            covariance_FF=second,
            mean_F=mean,
            channel_index=index,
            features_per_channel=features_per_channel,
            uses=self._uses,
        )
