"""Least-squares correction after a cut: layers behind pruned channels are re-solved, not trained.

    dense network    x -> ... -> layer -> y       targets: y at the kept outputs
    masked network   x -> ... -> layer -> y'      inputs: from the masked, already corrected prefix

Both networks run side by side through one captured graph, operator by operator. At every layer
with a weight, the masked network's weight and bias are replaced by those that bring its output
closest to the dense network's:

    min over D, d of   sum |y - y' - D x - d|^2 + ridge |D|^2,      W' = W + D,  b' = b + d

Of a removed branch (`channels.branches`) a constant is left, which becomes the mean of what the
dense branch gives: d alone.

The ridge pulls towards the weights as they are, not towards zero. So a network that lost nothing
stays exactly as it is, and a layer's squared error on the calibration images never rises.

References:
    ThiNet (Luo et al., ICCV 2017) and Channel Pruning (He et al., ICCV 2017): least squares on the
        layer that reads pruned channels.
    SparseGPT (Frantar and Alistarh, ICML 2023), OSSCAR (Meng et al., ICML 2024): layer-wise normal
        equations, one layer after the other.
    GRAIL (CPAL 2026): a ridge relative to the mean diagonal, statistics of the pruned prefix.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from dhp_sr.channels.plan import BranchLayer, ChannelPlan, Leaves
from dhp_sr.graph.capture import trace
from dhp_sr.graph.tracer import LEAF_FORWARDS
from dhp_sr.operators.computed_layers import COMPUTED_LAYER
from dhp_sr.operators.registry import spec_for
from dhp_sr.surgery.cut import kept_entries
from dhp_sr.surgery.layer_regression import RegressionSampler, regressions
from dhp_sr.surgery.layer_samples import (
    add_to_layer,
    in_dim,
    is_transposed,
    num_features,
    num_groups,
)
from dhp_sr.surgery.least_squares import solve_with_held_out_ridge
from dhp_sr.surgery.norms import norms_of_reference, stored_mean_behind
from dhp_sr.surgery.remove import Bypass, find_bypass, fit_constant, removed_layers
from dhp_sr.surgery.side_by_side import Execution, execution_order, last_uses
from dhp_sr.utils.modules import out_dim
from dhp_sr.utils.network_io import Example, first_samples

ROWS_PER_FEATURE = 100
"""Output positions sampled for each unknown of a layer, over all calibration images together."""

MAX_FEATURES = 12_000
"""Layers that read more values at once stay as they are: their normal equations take 1.2 GB each,
several times. Convolutions of 3 x 3 have them from 1334 channels on; vgg16's first linear layer,
with 25088, is the one that is met."""


@dataclass(frozen=True)
class LayerCorrection:
    """Distance of a layer's output from the dense network's, before and after its correction."""

    layer: str
    error_before: float
    """Squared error over squared target, on the held-out samples."""
    error_after: float
    ridge: float
    """Relative ridge chosen; 0 where the layer was left as it was, or is the constant of a removed
    branch."""


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
    batches: Sequence[Example],
    *,
    reference: Mapping[str, Tensor] | None = None,
    left_out: Collection[str] = (),
    rows_per_feature: int = ROWS_PER_FEATURE,
) -> tuple[dict[str, Tensor], CorrectionReport]:
    """Re-solve the layers of a masked network so that their outputs come close to the dense one's.

    Batch normalizations get the statistics and factors of the dense network: the convolutions
    before them are brought back to the outputs that these were learned for.

    Args:
        network: The network at full width, in eval mode; it is left as it was. Layers whose
            statistics are over the kept channels know which these are.
        plan: Its plan.
        mask: (plan.size,) True for kept channels.
        values: Full-size parameters of the masked network, zero where channels are cut.
        batches: Calibration inputs, each (N, C, H, W) or whatever the network takes, or a tuple of
            its inputs.
        reference: Parameters and buffers of the dense network that gives the targets; default: the
            network's. Statistics of norms that were trained under masks are no dense network's.
        left_out: Blocks that the cut network does not have: their result is their input.
        rows_per_feature: Output positions sampled for each unknown of a layer.

    Returns:
        Full-size parameters for `cut`, with the statistics of norms, and a report.

    Raises:
        ValueError: There are no calibration inputs.
        UserError: A block cannot be left out.
    """
    if not batches:
        raise ValueError("correction needs calibration inputs, found none")
    traced = trace(
        network,
        first_samples(batches[0]),
        plan.training_time_form,
        join_computed_weights=True,
    ).graph_module
    reference = reference or {}
    values = {**values, **norms_of_reference(network, reference, kept_entries(plan, mask))}
    dense = Execution(traced, reference, batches, is_dense=True)
    masked = Execution(traced, values, batches, kept_calls=plan.kept_channels_of_calls(mask))
    bypass = find_bypass(traced.graph, left_out)
    correction = _Correction(plan, mask, values, dense, masked, bypass, rows_per_feature)
    correction.run(traced.graph)
    report = CorrectionReport(tuple(correction.layers), correction.skipped)
    return correction.values, report


class _Correction:
    """One pass over the graph, with the corrected values so far."""

    def __init__(
        self,
        plan: ChannelPlan,
        mask: Tensor,
        values: Mapping[str, Tensor],
        dense: Execution,
        masked: Execution,
        bypass: Bypass,
        rows_per_feature: int,
    ) -> None:
        self.values = {name: value.detach().clone() for name, value in values.items()}
        self.layers: list[LayerCorrection] = []
        self.skipped: dict[str, str] = {}
        self._dense = dense
        self._masked = masked
        self._kept = kept_entries(plan, mask)
        self._removed = {layer.name: layer for layer in removed_layers(plan.removed_branches(mask))}
        self._bypass = bypass
        self._sampler = RegressionSampler(dense, masked, rows_per_feature)

    def run(self, graph: fx.Graph) -> None:
        """Compute every node in both networks, and correct the layers on the way."""
        order = execution_order(graph, self._masked)
        released = last_uses(order)
        for node in order:
            self._dense.compute(node)
            if node not in self._bypass.inside:
                self._masked.compute(node)
                # Later layers of the masked network read what the corrected layer gives.
                if not self._is_untouched(node) and self._solve(node):
                    self._masked.compute(node)
                self._masked.copy(node, self._bypass.results.get(node, ()))
            # Else the values of all operators, for all calibration images, would pile up.
            self._dense.release(released.get(node, []))
            self._masked.release(released.get(node, []))

    def _is_untouched(self, node: fx.Node) -> bool:
        """Whether a layer gives exactly what it gives in the dense network.

        Where blocks are left out of a network that has lost no channels, the layers before the
        first of them do, and have nothing to make up for. Not asked where no block is left out.
        """
        if not self._bypass.inside or not self._masked.is_layer(node):
            return False
        for dense, masked in zip(self._dense.values, self._masked.values, strict=True):
            if not torch.equal(dense[node], masked[node]):
                return False
        return True

    def _solve(self, node: fx.Node) -> bool:
        """Re-solve what a node holds; return whether it changed."""
        if node.op == "call_module" and str(node.target) in self._removed:
            layer = self._removed[str(node.target)]
            if layer.leaves is Leaves.BIAS:
                self._correct_constant(node, layer)
            return layer.leaves is Leaves.BIAS
        if node.op == "call_module":
            module = self._masked.module(node)
            if spec_for(node, module) is COMPUTED_LAYER:
                self.skipped[str(node.target)] = "it computes its weights"
        return self._masked.is_layer(node) and self._can_change(node) and self._correct(node)

    def _correct_constant(self, node: fx.Node, layer: BranchLayer) -> None:
        """Move the constant of a removed branch to the mean of what the dense branch gives."""
        name = f"{layer.name}.bias"
        bias = self._masked.module(node).get_parameter("bias")
        kept = self._kept.get((name, 0), torch.arange(len(bias)))
        fit = fit_constant(node, layer, self._dense, self._masked, kept)
        bias[kept] += fit.shift_C.to(bias)
        self.values[name] = bias.detach().clone()
        scale = max(fit.target_square, torch.finfo(torch.float64).tiny)
        errors = (fit.square_before / scale, fit.square_after / scale)
        self.layers.append(LayerCorrection(layer.name, *errors, ridge=0.0))

    def _can_change(self, node: fx.Node) -> bool:
        """Whether a layer's weights can be re-solved; the reason is noted where they cannot."""
        layer = self._masked.layer(node)
        reason = ""
        if f"{node.target}.weight" not in self.values:
            reason = "its weight is not a plain parameter"
        elif self._masked.num_uses(layer) > 1:
            # Its later inputs depend on its weights: that is no linear problem. And a bias that two
            # layers share has no value that is right for both.
            reason = "its weight or bias is used several times"
        elif type(vars(layer).get("forward")) in LEAF_FORWARDS:
            reason = "it slides along the channels"
        elif is_transposed(layer) and num_groups(layer) > 1:
            reason = "it is a grouped transposed convolution"
        else:
            features = num_features(layer, len(self._kept_channels(node, in_dim(layer))))
            if features > MAX_FEATURES:
                reason = f"it reads {features} values at once, more than {MAX_FEATURES}"
        if reason:
            self.skipped[str(node.target)] = reason
        return not reason

    def _kept_channels(self, node: fx.Node, dim: int) -> Tensor:
        """Kept entries along an axis of a layer's weight."""
        size = self._masked.layer(node).weight.shape[dim]
        return self._kept.get((f"{node.target}.weight", dim), torch.arange(size))

    def _correct(self, node: fx.Node) -> bool:
        """Re-solve a layer; return whether it changed."""
        layer = self._masked.layer(node)
        mean = stored_mean_behind(node, self._masked) if layer.bias is None else None
        has_constant = layer.bias is not None or mean is not None
        kept_in = self._kept_channels(node, in_dim(layer))
        kept_out = self._kept_channels(node, out_dim(layer))
        error_before = 0.0
        error_after = 0.0
        target_square = 0.0
        chosen_ridge = 0.0
        for ins, outs in regressions(layer, kept_in, kept_out):
            train, held_out = self._sampler.normal_equations(node, ins, outs)
            solution = solve_with_held_out_ridge(train, held_out, has_constant)
            error_before += held_out.residual_square
            target_square += held_out.target_square
            # No ridge lowered the error on samples that were not used to solve.
            if solution is None:
                error_after += held_out.residual_square
                continue
            error_after += solution.held_out_error
            chosen_ridge = solution.ridge
            add_to_layer(layer, solution, kept_in, outs)
            if mean is not None:
                mean[1][outs] -= solution.intercepts.to(mean[1])
        # Targets that are all zero, as behind a dead ReLU, must not divide by zero.
        scale = max(target_square, torch.finfo(torch.float64).tiny)
        self.layers.append(
            LayerCorrection(
                str(node.target), error_before / scale, error_after / scale, chosen_ridge
            )
        )
        self.values[f"{node.target}.weight"] = layer.weight.detach().clone()
        if layer.bias is not None:
            self.values[f"{node.target}.bias"] = layer.bias.detach().clone()
        if mean is not None:
            self.values[mean[0]] = mean[1].clone()
        return chosen_ridge > 0
