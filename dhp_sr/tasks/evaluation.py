"""Evaluation of models on test sets: rows of scores and costs, in the form of metrics.json.

The commands, the results of a run and the reports all use these functions, so a model gets the
same scores whoever asks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from dhp_sr.metrics import complexity
from dhp_sr.tasks.base import ImageScores, NamedTestSet, Scores, Task
from dhp_sr.tasks.test_sets import mean_scores
from dhp_sr.utils.strict_json import Json, JsonObject

Row = JsonObject
"""One model, or the input itself, in metrics.json; see `new_row`."""


@dataclass(frozen=True)
class SetScores:
    """Scores on several test sets, by their names."""

    sets: dict[str, Scores] = field(default_factory=dict)
    """Test set -> mean scores."""
    images: dict[str, list[ImageScores]] = field(default_factory=dict)
    """Test set -> scores of every image; without sets that are scored as a whole."""


def evaluate_sets(
    task: Task, network: nn.Module, sets: Sequence[NamedTestSet], device: torch.device | str
) -> SetScores:
    """Score a network on several test sets.

    Args:
        task: Task of the network.
        network: In float32, on `device`.
        sets: Test sets of the task.
        device: Device of the network.
    """
    result = SetScores()
    for test_set in sets:
        images = task.evaluate_images(network, test_set, device)
        # The means are made from the scores of images where there are any, rather than by running
        # the network again: both tables then agree to the last digit.
        if images:
            result.images[test_set.name] = images
            result.sets[test_set.name] = mean_scores(images)
        else:
            result.sets[test_set.name] = task.evaluate(network, test_set, device)
    return result


def evaluate_inputs(task: Task, sets: Sequence[NamedTestSet]) -> SetScores:
    """Score the inputs themselves, which a network has to beat.

    Args:
        task: With an `input_name`.
        sets: Test sets of the task.
    """
    result = SetScores()
    for test_set in sets:
        images = task.evaluate_input_images(test_set)
        result.images[test_set.name] = images
        result.sets[test_set.name] = mean_scores(images)
    return result


def new_row(name: str, sets: dict[str, Scores], **known: Json) -> Row:
    """Make a row with the keys that every row has; unknown values are None.

    Args:
        name: Name of the model, or of the input, in tables.
        sets: Test set -> mean scores.
        **known: Iterations, macs, params, latency_ms, and further entries.
    """
    # All keys in all rows, so that readers of metrics.json need not ask which there are.
    return {
        "model": name,
        "iterations": None,
        "macs": None,
        "params": None,
        "latency_ms": None,
        "sets": sets,
        **known,
    }


def input_rows(task: Task, sets: Sequence[NamedTestSet]) -> list[Row]:
    """Make the row of the input itself; none for a task whose input cannot be scored."""
    if not task.input_name:
        return []
    return [new_row(task.input_name, evaluate_inputs(task, sets).sets)]


def model_row(
    name: str,
    network: nn.Module,
    task: Task,
    sets: Sequence[NamedTestSet],
    shape: Sequence[int],
    device: torch.device | str,
) -> Row:
    """Score a network and count its cost.

    Args:
        name: Its name in tables.
        network: In float32, on `device`.
        task: Its task.
        sets: Test sets of the task.
        shape: (N, C, H, W) of the input that the cost is stated for.
        device: Device of the network.
    """
    # Counted by running the network, independently of the plan that the search counts with; the
    # two must agree.
    cost = complexity(network, shape)
    scores = evaluate_sets(task, network, sets, device)
    return new_row(name, scores.sets, macs=cost.macs, params=cost.params)
