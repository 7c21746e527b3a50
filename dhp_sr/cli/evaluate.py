"""Everything that is told about finished models: quality per image, cost, time, memory. For test.py --model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from dhp_sr.cli.candidates import Candidate, open_candidates
from dhp_sr.cli.memory import peak_memory
from dhp_sr.cli.titles import set_titles
from dhp_sr.metrics import latencies
from dhp_sr.tasks.base import Task
from dhp_sr.tasks.classification import Classification
from dhp_sr.tasks.registry import task_named
from dhp_sr.tasks.test_sets import TestSet, enlarge, mean_scores, restore, scores_of
from dhp_sr.training.result_rows import Row, new_row
from dhp_sr.utils.devices import device_by_name
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.strict_json import finite
from dhp_sr.zoo.networks import EXAMPLE_SIDE, example_shape, image_shape

HD_OUTPUT = (720, 1280)
"""Height and width of the output for which papers on super-resolution state costs."""


@dataclass(frozen=True)
class Measuring:
    """How time and memory are measured."""

    size: tuple[int, int] | None = None
    """Height and width of the input; None: 128 x 128, for a classifier what it is meant for."""
    repeats: int = 10
    """Timed passes of each model; 0: neither time nor memory is measured."""
    threads: int | None = None
    """Of the CPU; None: as many as torch takes."""


def evaluate_files(
    models: str | Path | Sequence[str | Path],
    folders: Sequence[str],
    *,
    sigma: float | None = None,
    max_images: int | None = None,
    crop_border: int | None = None,
    device: Literal["auto", "cpu", "cuda"] | None = None,
    measuring: Measuring | None = None,
) -> dict[str, Any]:
    """Score model files on folders of images.

    Of ground-truth images, inputs are made by exact bicubic or by adding noise; a classifier's images are labeled.

    Args:
        models: One file or several, of the same task, scale and channels; `.onnx` files too, classifiers' if ours.
        folders: One test set each, named after the folder.
        sigma: Noise level (0-255 scale), which a denoiser needs.
        max_images: Only the first so many of each set.
        crop_border: Pixels shaved before scoring; default: the scale, 0 for denoising. This, `sigma`, `max_images` and
            the size of `measuring` mean nothing for classifiers, and are refused.
        device: Where torch computes; default: auto.
        measuring: Of time and memory; default: not measured.

    Returns:
        The form of metrics.json; every row with the scores of its images, a model's with its costs at several sizes. A
        classifier's scores are those of a set alone, its costs those of the size it is meant for.

    Raises:
        UserError: a file is no model, a folder is missing, or an argument has no meaning for the model's task.
    """
    measuring = measuring or Measuring(repeats=0)
    place = device_by_name(device)
    paths = [models] if isinstance(models, str | Path) else list(models)
    candidates = open_candidates(paths, place, measuring.threads or torch.get_num_threads())
    first, task = candidates[0].network, task_named(candidates[0].network.task)
    choices = {"sigma": sigma, "max_images": max_images, "crop_border": crop_border}
    found = {"name": ", ".join(map(str, paths)), "task": first.task, "scale": first.scale}
    if first.task == Classification.name:
        sets = _open_sets(candidates[0], task, folders, **choices, size=measuring.size)
        inputs, rows, shape = (
            [],
            [_class_row(one, task, sets) for one in candidates],
            list(example_shape(first)),
        )
    else:
        sets = _open_sets(candidates[0], task, folders, **choices)
        inputs, rows = [_input_row(sets, task.input_name)], [_row(one, sets) for one in candidates]
        shape = image_shape(first, *(measuring.size or (EXAMPLE_SIDE, EXAMPLE_SIDE)))
        found |= {"shaved": {one.name: one.shave for one in sets}}
    if measuring.repeats:
        _measure(rows, candidates, shape, measuring)
    return finite(
        {
            **found,
            "rows": [*inputs, *rows],
            "macs_input": next(iter(rows[0]["costs"].values()))["input"],
        }
    )


def _open_sets(
    candidate: Candidate, task: Task, folders: Sequence[str], **choices: Any
) -> list[TestSet]:
    named = dict(zip(set_titles(folders), map(str, folders), strict=True))
    try:
        return task.folder_sets(candidate.network, named, choices)
    except UserError as error:
        raise UserError(f"{candidate.path}: {error}") from error


def _input_row(sets: Sequence[TestSet], name: str) -> Row:
    each = {
        one.name: scores_of(lambda item, one=one: enlarge(item, one.scale), one) for one in sets
    }
    return new_row(name, _means(each), images=each)


def _row(candidate: Candidate, sets: Sequence[TestSet]) -> Row:
    network, device = candidate.network, candidate.device
    each = {
        one.name: scores_of(lambda item, one=one: restore(network, item, one.scale, device), one)
        for one in sets
    }
    return _model_row(candidate, _means(each), _cost_shapes(network), images=each)


def _class_row(candidate: Candidate, task: Task, sets: Sequence[Any]) -> Row:
    scores = {one.name: task.evaluate(candidate.network, one, candidate.device) for one in sets}
    side = candidate.network.input_size
    return _model_row(candidate, scores, {f"{side}x{side}": list(example_shape(candidate.network))})


def _model_row(
    candidate: Candidate, scores: dict[str, Any], shapes: dict[str, list[int]], **known: Any
) -> Row:
    """Return a row with costs for several inputs; those of the first stand for all."""
    costs = {name: _cost(candidate, shape) for name, shape in shapes.items()}
    first = next(iter(costs.values()))
    stated = {name: first[name] for name in ("macs", "params", "convs")}
    told = {"file": str(candidate.path), "runtime": candidate.runtime, "costs": costs, **known}
    return new_row(candidate.name, scores, **stated, **told)


def _means(each: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    return {name: mean_scores(images) for name, images in each.items()}


def _cost_shapes(network: torch.nn.Module) -> dict[str, list[int]]:
    """Return the inputs for which costs are stated: 128 x 128, 256 x 256, and what gives an output of 1280 x 720."""
    out_height, out_width = HD_OUTPUT
    return {
        "128x128": image_shape(network, EXAMPLE_SIDE, EXAMPLE_SIDE),
        "256x256": image_shape(network, 256, 256),
        "1280x720 output": image_shape(
            network, -(-out_height // network.scale), -(-out_width // network.scale)
        ),
    }


def _cost(candidate: Candidate, shape: list[int]) -> dict[str, Any]:
    found = candidate.cost(shape)
    names = ("macs", "params", "activations", "convs")
    return {"input": shape, **{name: getattr(found, name) if found else None for name in names}}


def _measure(
    rows: Sequence[dict[str, Any]],
    candidates: Sequence[Candidate],
    shape: list[int],
    measuring: Measuring,
) -> None:
    """Add time and memory to the rows of models; all take turns, on the CPU and on the graphics card."""
    for kind in dict.fromkeys(["cpu", *(candidate.device.type for candidate in candidates)]):
        timed = [one for one in candidates if one.runtime == "torch" or kind == "cpu"]
        networks = {one.name: one.network.to(kind) for one in timed}
        found = latencies(networks, shape, repeats=measuring.repeats, threads=measuring.threads)
        for row in rows:
            if row["model"] in found:
                row.setdefault("latency", {})[kind] = {**vars(found[row["model"]]), "input": shape}
                row["latency_ms"] = found[row["model"]].median_ms
    threads = measuring.threads or torch.get_num_threads()
    for row, candidate in zip(rows, candidates, strict=True):
        row["memory"] = peak_memory(candidate.path, shape, candidate.device.type, threads)
