"""Channels of a module that computes its weights, found by experiment.

Which axes of its tensors, its inputs and its output hold the same channels is found by permuting
them: permuted together, they leave the result as it was, but for the order of its channels.

    weight (1, O, I, k, k), modulation.weight (I, S), modulation.bias (I), x (N, I, H, W), style
    (N, S)
        O    weight axis 1, output
        I    weight axis 2, modulation axis 0 of weight and bias, x axis 1
        S    modulation.weight axis 1, style axis 1
"""

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from dhp_sr.graph.computed_weights import Inputs, call_with
from dhp_sr.operators.narrow import TensorAxis, narrow

_T = TypeVar("_T")

InputAxis = tuple[int | str, int]
"""Position or keyword of an argument, and axis of it."""

_TOLERANCE = 1e-9
_SIDE = 9
"""Rows and columns of the maps that are tried, at most."""
_MOST_AXES = 6
"""Axes of a length among which those that belong together are looked for."""
_MOST_TENSORS = 8


@dataclass(frozen=True)
class CoupledAxes:
    """Axes that hold the same channels; each element stands for channels that are cut together."""

    width: int
    """Number of elements."""
    tensors: Mapping[TensorAxis, Tensor] = field(default_factory=dict)
    """Axis of a tensor of the module -> (length,) element of each entry."""
    inputs: Mapping[InputAxis, Tensor] = field(default_factory=dict)
    """Likewise of its inputs."""
    output: Tensor | None = None
    """(C,) element of each channel of the result; None where these are others."""
    is_exact: bool = False
    """Whether the layer with zeros in its tensors computes what it does without them."""


@dataclass(frozen=True)
class ComputedLayer:
    """Channels of a layer that computes its weights."""

    sets: tuple[CoupledAxes, ...]
    out_dim: int
    """Axis of the result that holds its channels."""
    is_exact: bool
    """Whether zeros do for all sets together."""


def entries_of(element_of_entry: Tensor, elements: Tensor) -> Tensor:
    """Return the indices of the entries that belong to some elements, in their order."""
    return torch.isin(element_of_entry, elements).nonzero().flatten()


def kept_axes(
    sets: Iterable[CoupledAxes], elements: Sequence[Tensor | None]
) -> dict[TensorAxis, Tensor]:
    """Return the kept entries along axes of a module's tensors.

    Args:
        sets: of a module.
        elements: for each set the elements that are kept; None for all.
    """
    kept = {}
    for axes, chosen in zip(sets, elements, strict=True):
        if chosen is not None:
            for axis, element_of_entry in axes.tensors.items():
                kept[axis] = entries_of(element_of_entry, chosen)
    return kept


def channel_dim(shape: Sequence[int], module: nn.Module) -> int:
    """Return the axis of the channels of a feature that a module reads or gives."""
    if len(shape) != 3:
        return min(1, len(shape) - 1)
    # (N, C, L) of a convolution along one axis, (N, L, C) of a linear layer.
    weights = [
        parameter.dim() for parameter in module._parameters.values() if parameter is not None
    ]
    return 1 if max(weights, default=0) > 2 else 2


@torch.no_grad()
def find_computed_layer(module: nn.Module, inputs: Inputs) -> ComputedLayer | None:
    """Return the channels of a module, None where they are not found.

    Args:
        module: any module; it is left as it was.
        inputs: examples of its inputs, whose shapes count.
    """
    try:
        return _Experiment(module, inputs).result()
    except Exception:  # whatever a module raises that is no such layer
        return None


class _Experiment:
    """A copy of a module, run with permuted, masked and cut tensors."""

    def __init__(self, module: nn.Module, inputs: Inputs) -> None:
        # Emptied, as a network on the meta device has no values to move; all are random here.
        self._twin = copy.deepcopy(module).to_empty(device="cpu").double().eval()
        vars(self._twin).pop("forward", None)
        self._generator = torch.Generator().manual_seed(0)
        for parameter in self._twin.parameters():
            # Initial values such as gains of 1 and biases of 0 look alike when permuted.
            parameter.data = self._random(parameter.shape) + (parameter.dim() < 2)
        self._inputs: Inputs = {}
        for key, value in inputs.items():
            self._inputs[key] = value
            if isinstance(value, Tensor):
                sizes = [2, *value.shape[1:2]]
                dim = channel_dim(value.shape, module)
                for axis, size in enumerate(value.shape[2:], start=2):
                    sizes.append(size if axis == dim else min(size, _SIDE))
                self._inputs[key] = self._random(sizes)
        self._tensors = dict(self._twin.named_parameters())
        self._result = self._run(self._twin, self._inputs)
        self._out_dim = channel_dim(self._result.shape, module)

    def _random(self, shape: Sequence[int]) -> Tensor:
        return torch.randn(tuple(shape), generator=self._generator, dtype=torch.double)

    def _run(self, module: nn.Module, inputs: Inputs) -> Tensor:
        # A forward that adds noise draws the same every time.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            result = call_with(module, inputs)
        assert isinstance(result, Tensor) and bool(torch.isfinite(result).all())
        return result

    def result(self) -> ComputedLayer | None:
        """Return the channels of the module, or None."""
        if dict(self._twin.named_buffers()) or len(self._tensors) > _MOST_TENSORS:
            return None
        sets = self._known_sets() or self._found_sets()
        if not sets or not all(map(self._permutes, sets)):
            return None
        settled = []
        for axes in sets:
            settled.append(replace(axes, is_exact=self._masks_as_cut((axes,))))
        is_exact = all(axes.is_exact for axes in settled) and self._masks_as_cut(settled)
        return ComputedLayer(tuple(settled), self._out_dim, is_exact)

    def _known_sets(self) -> list[CoupledAxes]:
        """Return the channels of a class derived from one of torch's convolutions."""
        layer = self._twin
        if not isinstance(layer, _ConvNd) or isinstance(layer, _ConvTransposeNd):
            return []
        out_channels, per_group = layer.weight.shape[:2]
        groups = layer.groups
        key = next(iter(self._inputs))
        outs: dict[TensorAxis, Tensor] = {}
        is_depthwise = groups > 1 and per_group == 1
        # A depthwise layer passes its channels through, with a multiplier; the groups of any other
        # must lose channels at the same positions.
        of_output = torch.arange(out_channels) % (out_channels // groups)
        if is_depthwise:
            of_output = torch.arange(out_channels) // (out_channels // groups)
        for name, tensor in self._tensors.items():
            if name == "weight" or max(tensor.shape, default=1) == tensor.numel() == out_channels:
                dim = list(tensor.shape).index(out_channels)
                outs[name, dim] = of_output
            elif tensor.numel() > 1:
                return []
        if is_depthwise:
            inputs = {(key, 1): torch.arange(groups)}
            return [CoupledAxes(groups, outs, inputs, of_output)]
        of_input = torch.arange(per_group * groups) % per_group
        ins = CoupledAxes(per_group, {("weight", 1): torch.arange(per_group)}, {(key, 1): of_input})
        return [CoupledAxes(out_channels // groups, outs, {}, of_output), ins]

    def _found_sets(self) -> list[CoupledAxes]:
        """Return the channels of any other module; nothing where they are not found."""
        inputs = {}
        for key, value in self._inputs.items():
            if isinstance(value, Tensor) and value.dim() > 1:
                inputs[key, channel_dim(value.shape, self._twin)] = value
        (first, first_dim), *others = inputs
        width = inputs[first, first_dim].shape[first_dim]
        outs = self._find(self._result.shape[self._out_dim], [], others, with_output=True)
        ins = self._find(width, [(first, first_dim)], others, with_output=False)
        if outs is None or ins is None:
            # A depthwise layer: its channels pass through.
            joint = self._find(width, [(first, first_dim)], others, with_output=True)
            sets = [joint] if joint is not None else []
        else:
            sets = [outs, ins]
        for axis in others if sets else []:
            if any(axis in axes.inputs for axes in sets):
                continue
            further = self._find(inputs[axis].shape[axis[1]], [axis], [], with_output=False)
            if further is not None:
                sets.append(further)
        return sets

    def _find(
        self,
        width: int,
        given: Sequence[InputAxis],
        others: Sequence[InputAxis],
        *,
        with_output: bool,
    ) -> CoupledAxes | None:
        """Return the axes that hold the same channels as given axes of inputs, or the result's.

        Args:
            width: number of channels.
            given: axes of inputs that do.
            others: axes of further inputs that may.
            with_output: whether the result has these channels.
        """
        if width < 2 or (with_output and self._result.shape[self._out_dim] != width):
            return None
        candidates: list[TensorAxis] = []
        for name, tensor in self._tensors.items():
            for dim, size in enumerate(tensor.shape):
                if size == width:
                    candidates.append((name, dim))
        own = [axis for axis in others if self._inputs[axis[0]].shape[axis[1]] == width]
        if not candidates or len(candidates) + len(own) > _MOST_AXES:
            return None
        entries = torch.arange(width)
        for tensors, chosen in self._subsets(candidates, own, first=with_output and not given):
            axes = CoupledAxes(
                width,
                dict.fromkeys(tensors, entries),
                dict.fromkeys([*given, *chosen], entries),
                entries if with_output else None,
            )
            if self._permutes(axes):
                return axes
        return None

    def _subsets(
        self, candidates: Sequence[TensorAxis], inputs: Sequence[InputAxis], *, first: bool
    ) -> Iterator[tuple[tuple[TensorAxis, ...], tuple[InputAxis, ...]]]:
        """Yield sets of axes with a tensor's among them, likely ones and small ones first.

        A large set may hold two sets that have nothing to do with each other.

        Args:
            candidates: axes of tensors.
            inputs: axes of inputs.
            first: whether a weight's first axis of the length is likelier than its last: weights
                hold their output channels before their input channels.
        """
        weight = max(self._tensors, key=lambda name: self._tensors[name].dim())
        of_weight = [axis for axis in candidates if axis[0] == weight]
        likely = of_weight[:1] if first else of_weight[-1:]
        subsets: list[tuple[Any, tuple[TensorAxis, ...], tuple[InputAxis, ...]]] = []
        for tensors in _all_subsets(candidates):
            is_likely = [axis for axis in tensors if axis[0] == weight] == likely
            for chosen in _all_subsets(inputs):
                if tensors:
                    rank = (not is_likely, len(tensors) + len(chosen), len(subsets))
                    subsets.append((rank, tensors, chosen))
        for _, tensors, chosen in sorted(subsets, key=lambda subset: subset[0]):
            yield tensors, chosen

    def _permutes(self, axes: CoupledAxes) -> bool:
        """Return whether a permutation of channels changes nothing but their order."""
        if axes.width < 2:
            return True
        order = torch.randperm(axes.width, generator=self._generator)
        if torch.equal(order, torch.arange(axes.width)):
            order = order.roll(1)

        def moved(element_of_entry: Tensor) -> Tensor:
            # Entries of an element go where those of another were, in their order.
            by_element = element_of_entry.argsort(stable=True).reshape(axes.width, -1)
            index = torch.empty_like(element_of_entry)
            index[by_element] = by_element[order]
            return index

        twin = self._with_tensors(
            axes.tensors,
            lambda tensor, dim, element_of_entry: tensor.index_select(dim, moved(element_of_entry)),
        )
        inputs = self._with_inputs(axes, moved)
        expected = self._result
        if axes.output is not None:
            expected = expected.index_select(self._out_dim, moved(axes.output))
        return self._agree(self._run(twin, inputs), expected)

    def _masks_as_cut(self, sets: Sequence[CoupledAxes]) -> bool:
        """Return whether zeros along the axes of some sets do what cutting these entries does."""
        elements: list[Tensor] = []
        twin = self._twin
        cut_inputs = dict(self._inputs)
        outs = torch.arange(self._result.shape[self._out_dim])
        for axes in sets:
            order = torch.randperm(axes.width, generator=self._generator)
            chosen = order[: (axes.width + 1) // 2].sort().values
            elements.append(chosen)
            twin = self._masked(twin, axes, chosen)
            for (key, dim), element_of_entry in axes.inputs.items():
                index = entries_of(element_of_entry, chosen)
                cut_inputs[key] = cut_inputs[key].index_select(dim, index)
            if axes.output is not None:
                outs = entries_of(axes.output, chosen)
        # It must run, whatever the masked one does.
        cut = self._run(narrow(self._twin, kept_axes(sets, elements)), cut_inputs)
        expected = torch.zeros_like(self._result).index_copy(self._out_dim, outs, cut)
        try:
            # The inputs are not masked: a shift leaves numbers in channels that are.
            return self._agree(self._run(twin, self._inputs), expected)
        except Exception:  # not finite: divided by a deviation of zero
            return False

    def _masked(self, twin: nn.Module, axes: CoupledAxes, chosen: Tensor) -> nn.Module:
        """Return a copy with zeros in the entries of all but some elements."""

        def mask(tensor: Tensor, dim: int, element_of_entry: Tensor) -> Tensor:
            shape = [1] * tensor.dim()
            shape[dim] = -1
            return tensor * torch.isin(element_of_entry, chosen).reshape(shape)

        return self._with_tensors(axes.tensors, mask, twin)

    def _with_tensors(
        self,
        axes: Mapping[TensorAxis, Tensor],
        change: Callable[[Tensor, int, Tensor], Tensor],
        twin: nn.Module | None = None,
    ) -> nn.Module:
        """Return a copy of the module with other values in some tensors of the same shape."""
        twin = copy.deepcopy(twin or self._twin)
        parameters = dict(twin.named_parameters())
        for (name, dim), element_of_entry in axes.items():
            parameters[name].data = change(parameters[name].data, dim, element_of_entry)
        return twin

    def _with_inputs(self, axes: CoupledAxes, moved: Callable[[Tensor], Tensor]) -> Inputs:
        """Return the inputs with entries moved along the axes that a set has of them."""
        inputs = dict(self._inputs)
        for (key, dim), element_of_entry in axes.inputs.items():
            inputs[key] = inputs[key].index_select(dim, moved(element_of_entry))
        return inputs

    def _agree(self, result: Tensor, expected: Tensor) -> bool:
        if result.shape != expected.shape:
            return False
        largest = expected.abs().max().clamp_min(1e-12)
        return bool((result - expected).abs().max() <= _TOLERANCE * largest)


def _all_subsets(items: Sequence[_T]) -> Iterator[tuple[_T, ...]]:
    for size in range(len(items) + 1):
        yield from itertools.combinations(items, size)
