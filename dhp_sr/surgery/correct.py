"""Least-squares correction after a cut: layers behind pruned channels are re-solved, without training.

    dense network    x -> ... -> layer -> y         targets: y at the kept outputs
    masked network   x -> ... -> layer -> y'        inputs: from the masked, already corrected prefix

Both networks run side by side through one captured graph, operator by operator. At every layer with a
weight, the masked network's weight and bias are replaced by those that bring its output closest to the
dense network's:

    min over D, d of   sum |y - y' - D x - d|^2 + ridge |D|^2,      W' = W + D,  b' = b + d

The ridge pulls towards the weights as they are, not towards zero. So a network that lost nothing stays
exactly as it is, and the squared error of a layer on the calibration images never rises.

References:
    ThiNet (Luo et al., ICCV 2017) and Channel Pruning (He et al., ICCV 2017): least squares on the
        layer that reads pruned channels.
    SparseGPT (Frantar and Alistarh, ICML 2023), OSSCAR (Meng et al., ICML 2024): layer-wise normal
        equations, one layer after the other.
    GRAIL (CPAL 2026): a ridge relative to the mean diagonal, statistics of the pruned prefix.
"""

import copy
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from dhp_sr.channels.plan import ChannelPlan
from dhp_sr.graph.capture import trace
from dhp_sr.surgery.cut import kept_entries
from dhp_sr.surgery.layer_samples import (
    LAYERS,
    as_kernel,
    choose_positions,
    is_transposed,
    num_features,
    sample_features,
    sample_outputs,
)
from dhp_sr.surgery.least_squares import NormalEquations, solve_with_held_out_ridge

ROWS_PER_FEATURE = 100
"""Output positions sampled for each unknown of a layer, over all calibration images together."""

HELD_OUT = 5
"""Every fifth sample is held out while the ridge is chosen."""

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
_PRODUCTS = (operator.mul, operator.imul, torch.mul, "mul", "mul_")


@dataclass(frozen=True)
class LayerCorrection:
    """Distance of a layer's output from the dense network's, before and after its correction."""

    layer: str
    error_before: float
    """Squared error over squared target, on the held-out samples."""
    error_after: float
    ridge: float
    """Relative ridge chosen; 0 where the layer was left as it was."""


@dataclass(frozen=True)
class CorrectionReport:
    """Layers that were corrected, in the order of the graph, and those that could not be."""

    layers: tuple[LayerCorrection, ...]
    skipped: Mapping[str, str]
    """Layer -> reason why its weights were left as they were."""


@torch.no_grad()
def correct(
    network: nn.Module,
    plan: ChannelPlan,
    mask: Tensor,
    values: Mapping[str, Tensor],
    batches: Sequence[Tensor],
    *,
    reference: Mapping[str, Tensor] | None = None,
    rows_per_feature: int = ROWS_PER_FEATURE,
) -> tuple[dict[str, Tensor], CorrectionReport]:
    """Re-solve the layers of a masked network so that their outputs come close to the dense one's.

    Normalizations keep their statistics: the convolutions before them are brought back to the
    outputs that these statistics were taken of.

    Args:
        network: the plain network at full width, in eval mode; it is left as it was.
        plan: its plan.
        mask: (plan.size,) True for kept channels.
        values: full-size parameters of the masked network, zero where channels are cut.
        batches: calibration inputs, each (N, C, H, W), or whatever the network takes.
        reference: parameters of the dense network that gives the targets; default: the network's.
        rows_per_feature: output positions sampled for each unknown of a layer.

    Returns:
        Full-size parameters for `cut`, and a report.

    Raises:
        ValueError: there are no calibration inputs.
    """
    if not batches:
        raise ValueError("correction needs calibration inputs, found none")
    traced = trace(network, batches[0][:1], plan.training_time_form).graph_module
    dense = _Execution(_with_values(traced, reference or {}), batches)
    masked = _Execution(_with_values(traced, values), batches)
    pass_over_graph = _Correction(plan, mask, values, dense, masked, rows_per_feature)
    pass_over_graph.run(traced.graph)
    report = CorrectionReport(tuple(pass_over_graph.layers), pass_over_graph.skipped)
    return pass_over_graph.values, report


class _Execution:
    """One network on its way through the graph, with the values that are still needed."""

    def __init__(self, graph_module: fx.GraphModule, batches: Sequence[Tensor]) -> None:
        self.graph_module = graph_module
        self.values: list[dict[fx.Node, Any]] = [{} for _ in batches]
        """For each batch: node -> its value."""
        self.num_samples = sum(len(batch) for batch in batches)
        self._batches = batches
        self._interpreter = fx.Interpreter(graph_module, garbage_collect_values=False)
        self._nodes = {node.name: node for node in graph_module.graph.nodes}

    def compute(self, node: fx.Node) -> None:
        """Compute a node's value for every batch."""
        for batch, values in zip(self._batches, self.values, strict=True):
            if node.op == "placeholder":
                # Inputs behind the first one are absent, as they were when the graph was captured.
                is_image = not any(other.op == "placeholder" for other in values)
                values[node] = batch.clone() if is_image else next(iter(node.args), None)
            elif node.op != "output":
                self._interpreter.env = values
                values[node] = self._interpreter.run_node(node)

    def release(self, nodes: Sequence[fx.Node]) -> None:
        """Forget values that nothing reads any more."""
        for values in self.values:
            for node in nodes:
                values.pop(node, None)


class _Correction:
    """State of one pass over the graph."""

    def __init__(
        self,
        plan: ChannelPlan,
        mask: Tensor,
        values: Mapping[str, Tensor],
        dense: _Execution,
        masked: _Execution,
        rows_per_feature: int,
    ) -> None:
        self.values = {name: value.detach().clone() for name, value in values.items()}
        self.layers: list[LayerCorrection] = []
        self.skipped: dict[str, str] = {}
        self._dense, self._masked = dense, masked
        self._kept = kept_entries(plan, mask)
        self._rows_per_feature = rows_per_feature
        self._num_samples = masked.num_samples
        self._generator = torch.Generator().manual_seed(0)
        self._num_calls: dict[nn.Module, int] = {}

    def run(self, graph: fx.Graph) -> None:
        """Compute every node in both networks, and correct the layers on the way."""
        for node in graph.nodes:
            if node.op == "call_module":
                module = self._module(node)
                self._num_calls[module] = self._num_calls.get(module, 0) + 1
        order = list(graph.nodes)
        if not any(self._is_order_sensitive(node) for node in graph.nodes):
            order = _layers_last(graph, self._is_layer)
        released = _last_uses(order)
        for node in order:
            self._dense.compute(node)
            self._masked.compute(node)
            if self._is_layer(node) and self._may_change(node) and self._correct_layer(node):
                self._masked.compute(node)
            self._dense.release(released.get(node, []))
            self._masked.release(released.get(node, []))

    def _module(self, node: fx.Node) -> nn.Module:
        return self._masked.graph_module.get_submodule(str(node.target))

    def _is_layer(self, node: fx.Node) -> bool:
        return node.op == "call_module" and type(self._module(node)) in LAYERS

    def _is_order_sensitive(self, node: fx.Node) -> bool:
        """Whether a node writes into a value that something else may read.

        Activations in place are safe behind layers, norms and sums, whose result is a new tensor.
        """
        name = str(node.target)
        if node.op == "call_module":
            in_place = getattr(self._module(node), "inplace", False)
        else:
            is_method = node.op == "call_method" and name.endswith("_")
            is_function = node.op == "call_function" and getattr(
                node.target, "__name__", ""
            ).endswith("_")
            in_place = is_method or is_function or node.kwargs.get("inplace", False)
            in_place = in_place or node.target in (operator.iadd, operator.imul, operator.setitem)
        if not in_place:
            return False
        source = node.all_input_nodes[0]
        makes_new = source.target in (operator.add, torch.add) or (
            source.op == "call_module" and type(self._module(source)) in (*LAYERS, *_BATCH_NORMS)
        )
        return not makes_new or len(source.users) > 1

    def _may_change(self, node: fx.Node) -> bool:
        """Whether a layer's weights can be re-solved; the reason is noted where they cannot."""
        module, reason = self._module(node), ""
        if f"{node.target}.weight" not in self.values:
            reason = "its weight is no parameter of its own"
        elif self._num_calls[module] > 1:
            reason = "it is called several times"
        elif is_transposed(module) and module.groups > 1:
            reason = "it is a grouped transposed convolution"
        if reason:
            self.skipped[str(node.target)] = reason
        return not reason

    def _kept_channels(self, node: fx.Node, dim: int) -> Tensor:
        """Kept entries along an axis of a layer's weight."""
        size = self._module(node).weight.shape[dim]
        return self._kept.get((f"{node.target}.weight", dim), torch.arange(size))

    def _correct_layer(self, node: fx.Node) -> bool:
        """Re-solve one layer; return whether it changed.

        The groups of a grouped convolution are regressions of their own: each reads its own inputs.
        """
        layer, groups = self._module(node), getattr(self._module(node), "groups", 1)
        out_dim, in_dim = (1, 0) if is_transposed(layer) else (0, 1)
        kept_out, kept_in = self._kept_channels(node, out_dim), self._kept_channels(node, in_dim)
        outs_per_group = layer.weight.shape[out_dim] // groups
        error_before = error_after = target_square = chosen_ridge = 0.0
        for group in range(groups):
            outs = kept_out[kept_out // outs_per_group == group]
            if len(outs) == 0:
                continue
            ins = kept_in + group * layer.weight.shape[in_dim] * (groups > 1)
            train, held_out = self._normal_equations(node, ins, outs)
            solution = solve_with_held_out_ridge(train, held_out, layer.bias is not None)
            error_before += held_out.residual_square
            target_square += held_out.target_square
            if solution is None:
                error_after += held_out.residual_square
                continue
            error_after += solution.held_out_error
            chosen_ridge = solution.ridge
            change = as_kernel(layer, solution.coefficients).to(layer.weight)
            rows, columns = (kept_in, outs) if is_transposed(layer) else (outs, kept_in)
            layer.weight[rows[:, None], columns] += change
            if layer.bias is not None:
                layer.bias[outs] += solution.intercepts.to(layer.bias)
        scale = max(target_square, torch.finfo(torch.float64).tiny)
        result = LayerCorrection(
            str(node.target), error_before / scale, error_after / scale, chosen_ridge
        )
        self.layers.append(result)
        self.values[f"{node.target}.weight"] = layer.weight.detach().clone()
        if layer.bias is not None:
            self.values[f"{node.target}.bias"] = layer.bias.detach().clone()
        return chosen_ridge > 0

    def _normal_equations(
        self, node: fx.Node, ins: Tensor, outs: Tensor
    ) -> tuple[NormalEquations, NormalEquations]:
        """Sums over the training samples and over the held-out ones."""
        layer, source = self._module(node), node.all_input_nodes[0]
        features = num_features(layer, len(ins))
        train = NormalEquations(features, len(outs))
        held_out = NormalEquations(features, len(outs))
        wanted = -(-self._rows_per_feature * features // self._num_samples)
        stream_error = self._stream_error(node)
        index = 0
        for batch, values in enumerate(self._masked.values):
            targets = self._dense.values[batch][node]
            if stream_error is not None:
                targets = targets + stream_error(batch)
            for sample, output, target in zip(values[source], values[node], targets, strict=True):
                spatial = () if isinstance(layer, nn.Linear) else output.shape[1:]
                count = output.numel() // layer.weight.shape[1 if is_transposed(layer) else 0]
                positions = choose_positions(count, wanted, self._generator).to(output.device)
                x = sample_features(layer, sample, ins, spatial, positions)
                y = sample_outputs(layer, target, outs, positions)
                residuals = y - sample_outputs(layer, output, outs, positions)
                if self._num_samples >= HELD_OUT:
                    equations = held_out if index % HELD_OUT == HELD_OUT - 1 else train
                    equations.add(x, residuals, y)
                else:  # too few images to set some aside: positions of each are
                    held = torch.arange(len(x), device=x.device) % HELD_OUT == HELD_OUT - 1
                    train.add(x[~held], residuals[~held], y[~held])
                    held_out.add(x[held], residuals[held], y[held])
                index += 1
        return train, held_out

    def _stream_error(self, node: fx.Node) -> Callable[[int], Tensor] | None:
        """Error that a layer's output meets when it is added to a residual stream.

        The sum is what the rest of the network reads, so the layer also makes up for what the
        stream lost before it. Between layer and addition there may be normalizations and constant
        factors, which scale each channel.

        Returns:
            For a batch's index the error in the layer's own units, (N, C, H, W); None where the
            output goes anywhere else than into one addition with a value that is known by now.
        """
        example = self._masked.values[0]
        shape, scale = example[node].shape, torch.ones(())
        while len(node.users) == 1:
            user = next(iter(node.users))
            if user.op == "call_module" and type(self._module(user)) in _BATCH_NORMS:
                norm = self._module(user)
                if norm.running_var is None:
                    return None
                gain = (norm.running_var + norm.eps).rsqrt()
                if norm.weight is not None:
                    gain = gain * norm.weight
                scale = scale * gain.reshape(-1, *[1] * (len(shape) - 2))
                node = user
                continue
            others = [value for value in user.args if value is not node]
            if len(user.args) != 2 or len(others) != 1:
                return None
            other = others[0]
            if user.target in _PRODUCTS and isinstance(other, (int, float)):
                scale, node = scale * other, user
            elif user.target in _ADDITIONS and isinstance(other, fx.Node):
                if other not in example or example[other].shape != shape:
                    return None
                # A channel whose gain is (nearly) zero cannot make up for anything.
                usable = scale.abs() > 1e-3 * scale.abs().max()
                inverse = torch.where(usable, scale, torch.ones_like(scale)).reciprocal() * usable
                return lambda batch: (
                    inverse * (self._dense.values[batch][other] - self._masked.values[batch][other])
                )
            else:
                return None
        return None


def _with_values(traced: fx.GraphModule, values: Mapping[str, Tensor]) -> fx.GraphModule:
    """Copy of a captured network in eval mode, with other parameters."""
    copied = copy.deepcopy(traced).eval()
    for name, parameter in copied.named_parameters():
        if name in values:
            parameter.copy_(values[name])
    # The interpreters work through the nodes of the original graph, which are the keys of all values.
    copied.graph = traced.graph
    return copied


def _layers_last(graph: fx.Graph, is_layer: Callable[[fx.Node], bool]) -> list[fx.Node]:
    """Order the nodes so that a layer comes as late as what is ready beside it allows.

    What a layer's output is added to is then known when the layer is corrected, also where the
    forward computes a shortcut after the branch.
    """
    missing = {node: len(node.all_input_nodes) for node in graph.nodes}
    ready = [node for node in graph.nodes if missing[node] == 0]
    position = {node: index for index, node in enumerate(graph.nodes)}
    order: list[fx.Node] = []
    while ready:
        node = min(ready, key=lambda node: (is_layer(node), position[node]))
        ready.remove(node)
        order.append(node)
        for user in node.users:
            missing[user] -= 1
            if missing[user] == 0:
                ready.append(user)
    return order


def _last_uses(order: Sequence[fx.Node]) -> dict[fx.Node, list[fx.Node]]:
    """Node -> the nodes whose values nothing reads after it."""
    position = {node: index for index, node in enumerate(order)}
    released: dict[fx.Node, list[fx.Node]] = {}
    for node in order:
        last_user = max(node.users, key=position.__getitem__, default=node)
        released.setdefault(last_user, []).append(node)
    return released
