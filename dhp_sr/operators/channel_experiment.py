"""Experiments that show which axes of a module hold the same channels.

Permuted together, axes that hold the same channels leave the result as it was, but for the order
of its channels. With zeros in all but some channels, a module that takes no statistics over them
computes what it does when the others are cut. For y = conv(x, weight):

    permute     weight axis 0                     y with its channels permuted: same channels
                weight axis 1 and x axis 1        y unchanged: same channels
                weight axis 1 alone               another y: the set is incomplete
    zero        weight axis 0 but for [0 2]       y is zero but for [0 2]: as cut
                the same, weight standardized
                over axis 0                       y differs in [0 2]: not as cut
"""

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from dhp_sr.graph.computed_weights import Inputs, call_with
from dhp_sr.graph.equal_modules import channel_dim
from dhp_sr.operators.narrow import CoupledAxes, TensorAxis, entries_of, kept_axes, narrow

_TOLERANCE = 1e-9


class ChannelExperiment:
    """A copy of a module, run with permuted, masked and cut tensors.

    Args:
        module: Any module; it is left as it was.
        inputs: Examples of its inputs, whose shapes count.
    """

    def __init__(self, module: nn.Module, inputs: Inputs) -> None:
        # Emptied, as a network on the meta device has no values to move; all are random here.
        self.twin = copy.deepcopy(module).to_empty(device="cpu").double().eval()
        # Frozen ones, too: what the experiment shows must not depend on it.
        self.twin.requires_grad_(True)
        vars(self.twin).pop("forward", None)
        self._generator = torch.Generator().manual_seed(0)
        for parameter in self.twin.parameters():
            # Random, as initial gains of 1 and biases of 0 look alike when permuted. Vectors are
            # around 1, where gains usually are.
            is_vector = parameter.dim() < 2
            parameter.data = self._random(parameter.shape) + is_vector
        self.inputs: Inputs = {}
        for key, value in inputs.items():
            self.inputs[key] = self._random(value.shape) if isinstance(value, Tensor) else value
        self.tensors = dict(self.twin.named_parameters())
        self.result = self._run(self.twin, self.inputs)
        self.out_dim = channel_dim(self.result.shape, module)

    def _random(self, shape: Sequence[int]) -> Tensor:
        return torch.randn(tuple(shape), generator=self._generator, dtype=torch.double)

    def _run(self, module: nn.Module, inputs: Inputs) -> Tensor:
        # A forward that adds noise draws the same every time.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            result = call_with(module, inputs)
        assert isinstance(result, Tensor) and bool(torch.isfinite(result).all())
        return result

    def permutes(self, axes: CoupledAxes) -> bool:
        """Return whether a permutation of channels changes nothing but their order."""
        if axes.width < 2:
            return True
        order = torch.randperm(axes.width, generator=self._generator)
        if torch.equal(order, torch.arange(axes.width)):
            order = order.roll(1)

        def permute(tensor: Tensor, dim: int, element_of_entry: Tensor) -> Tensor:
            # Entries of an element go where those of another were, in their order. Elements
            # [0 1 0 1] and order [1 0]: by_element [[0 2] [1 3]], entry_at [1 0 3 2].
            by_element = element_of_entry.argsort(stable=True).reshape(axes.width, -1)
            entry_at = torch.empty_like(element_of_entry)
            entry_at[by_element] = by_element[order]
            return tensor.index_select(dim, entry_at)

        twin = self._with_tensors(axes.tensors, permute)
        inputs = dict(self.inputs)
        for (key, dim), element_of_entry in axes.inputs.items():
            inputs[key] = permute(inputs[key], dim, element_of_entry)
        expected = self.result
        if axes.output is not None:
            expected = permute(expected, self.out_dim, axes.output)
        return self._agree(self._run(twin, inputs), expected)

    def masks_as_cut(self, sets: Sequence[CoupledAxes]) -> bool:
        """Return whether zeros along the axes of some sets do what cutting these entries does.

        Half of the elements of each set are kept, at random. The cut result, with zeros in the
        output channels that it lacks, must be that of the masked module.
        """
        elements: list[Tensor] = []
        masked_twin = self.twin
        cut_inputs = dict(self.inputs)
        kept_outputs = torch.arange(self.result.shape[self.out_dim])
        for axes in sets:
            order = torch.randperm(axes.width, generator=self._generator)
            chosen = order[: (axes.width + 1) // 2].sort().values
            elements.append(chosen)
            masked_twin = self._masked(masked_twin, axes, chosen)
            for (key, dim), element_of_entry in axes.inputs.items():
                index = entries_of(element_of_entry, chosen)
                cut_inputs[key] = cut_inputs[key].index_select(dim, index)
            if axes.output is not None:
                kept_outputs = entries_of(axes.output, chosen)
        # Outside of `try`: a module that does not run when it is cut is no such layer at all.
        cut = self._run(narrow(self.twin, kept_axes(sets, elements)), cut_inputs)
        expected = torch.zeros_like(self.result).index_copy(self.out_dim, kept_outputs, cut)
        try:
            # Inputs stay as they are: a masked channel of a network need not arrive as zeros, since
            # a normalization before the layer may have shifted it.
            with torch.enable_grad():
                masked = self._run(masked_twin, self.inputs)
                gradients = torch.autograd.grad(
                    masked.sum(), list(masked_twin.parameters()), allow_unused=True
                )
        except Exception:  # not finite: divided by a deviation of zero
            return False
        for gradient in gradients:
            # A search would learn from them: that of a root of zero is infinite.
            if gradient is not None and not bool(torch.isfinite(gradient).all()):
                return False
        return self._agree(masked.detach(), expected)

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
        twin = copy.deepcopy(twin or self.twin)
        parameters = dict(twin.named_parameters())
        for (name, dim), element_of_entry in axes.items():
            parameters[name].data = change(parameters[name].data, dim, element_of_entry)
        return twin

    def _agree(self, result: Tensor, expected: Tensor) -> bool:
        if result.shape != expected.shape:
            return False
        largest = expected.abs().max().clamp_min(1e-12)
        return bool((result - expected).abs().max() <= _TOLERANCE * largest)
