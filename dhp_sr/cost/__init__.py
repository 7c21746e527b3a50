"""Costs of a pruned network: multiply-adds, parameters, activations, latency.

Start with `model.CostModel`: every cost is a function of the kept sizes of weight axes
(`axis_sizes`). `counted` has the kinds that follow from the widths alone; `latency_benchmark`
measures, `latency_lut` keeps what was measured, and `latency_model` interpolates in it.
`activation_memory` is apart: peak memory of inference. The facts of each kind, such as its unit and
tolerance, are in `utils.cost_kinds`.
"""
