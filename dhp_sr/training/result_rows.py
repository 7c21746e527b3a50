"""Rows of metrics.json: what the input scores by itself, and what models score and cost."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from dhp_sr.metrics import complexity
from dhp_sr.tasks.base import Task

Row = dict[str, Any]


def new_row(name: str, sets: dict[str, Any], **known: Any) -> Row:
    """Return a row with the keys that every row has; what is not known is None.

    Args:
        name: What tables call the model, or the input.
        sets: Name of a test set -> mean scores.
        **known: iterations, macs, params, latency_ms, and whatever else a caller adds.
    """
    return {
        "model": name,
        "iterations": None,
        "macs": None,
        "params": None,
        "latency_ms": None,
        "sets": sets,
        **known,
    }


def input_rows(task: Task, sets: Sequence[Any]) -> list[Row]:
    """Return the row of the input itself; none for a task whose input cannot be scored."""
    if not task.input_name:
        return []
    return [
        new_row(
            task.input_name, {test_set.name: task.evaluate_input(test_set) for test_set in sets}
        )
    ]


def model_row(
    name: str,
    network: nn.Module,
    task: Task,
    sets: Sequence[Any],
    shape: Sequence[int],
    device: torch.device | str,
    iterations: int | None = None,
) -> Row:
    """Score a network and count its cost.

    Args:
        name: What tables call it.
        network: In float32, on `device`.
        task: Its task.
        sets: Test sets of the task.
        shape: (N, C, H, W) of the input that the cost is stated for.
        device: Where to compute.
        iterations: How long it was trained.
    """
    cost = complexity(network, shape)
    scores = {test_set.name: task.evaluate(network, test_set, device) for test_set in sets}
    return new_row(name, scores, iterations=iterations, macs=cost.macs, params=cost.params)
