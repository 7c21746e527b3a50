"""Blocks that are left out: in a graph, their result is their input.

    features --> block 3 --> block 4 --> ...        of the dense network
    features --------------> block 4 --> ...        with block 3 left out

The graph stays that of the dense network, so that both can be run side by side.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import fx

from dhp_sr.utils.errors import UserError


@dataclass(frozen=True)
class Bypass:
    """What is left out of a graph."""

    inside: frozenset[fx.Node]
    """Nodes of the blocks, which are not computed."""
    results: Mapping[fx.Node, tuple[fx.Node, ...]]
    """Input of a block -> results that are the same as it; several where blocks follow each
    other."""


def find_bypass(graph: fx.Graph, blocks: Collection[str]) -> Bypass:
    """Find the nodes of blocks, and what goes past them.

    Args:
        graph: a captured network.
        blocks: names of modules.

    Raises:
        UserError: a block has several inputs or results, or is not called.
    """
    inside: set[fx.Node] = set()
    passed: dict[fx.Node, fx.Node] = {}
    for block in blocks:
        nodes = {node for node in graph.nodes if _is_within(node, block)}
        inputs: set[fx.Node] = set()
        results: list[fx.Node] = []
        for node in nodes:
            inputs.update(value for value in node.all_input_nodes if value not in nodes)
            if any(user not in nodes for user in node.users):
                results.append(node)
        if len(inputs) != 1 or len(results) != 1:
            raise UserError(
                f"{block} cannot be left out: expected a block with one input and one result, "
                f"found {len(inputs)} and {len(results)}"
            )
        inside |= nodes
        passed[results[0]] = inputs.pop()
    copies: dict[fx.Node, tuple[fx.Node, ...]] = {}
    for result in passed:
        source = passed[result]
        # The input of a block may be the result of another that is left out.
        while source in passed:
            source = passed[source]
        copies[source] = (*copies.get(source, ()), result)
    return Bypass(frozenset(inside), copies)


def _is_within(node: fx.Node, block: str) -> bool:
    """Return whether a node was recorded in the forward of a module, or calls it."""
    if node.op == "call_module" and str(node.target) == block:
        return True
    return any(path == block for path, _ in node.meta.get("nn_module_stack", {}).values())
