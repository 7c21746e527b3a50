"""Everything that is told about finished models: quality per image, cost, time, memory. For test.py --model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from dhp_sr.metrics import latencies
from dhp_sr.models.candidates import Candidate, open_candidates
from dhp_sr.models.devices import device_named
from dhp_sr.models.memory import peak_memory
from dhp_sr.models.networks import EXAMPLE_SIDE, image_shape
from dhp_sr.models.numbers import finite
from dhp_sr.models.rows import Row, new_row
from dhp_sr.models.task import Task
from dhp_sr.models.tasks import task_named
from dhp_sr.models.titles import set_titles
from dhp_sr.models.validation import TestSet, enlarge, mean_scores, restore, scores_of
from dhp_sr.utils.errors import UserError

HD_OUTPUT = (720, 1280)
"""Height and width of the output for which papers on super-resolution state costs."""


@dataclass(frozen=True)
class Measuring:
    """How time and memory are measured."""

    size: tuple[int, int] = (EXAMPLE_SIDE, EXAMPLE_SIDE)
    """Height and width of the input."""
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
    """Score model files on folders of ground-truth images; inputs are made by exact bicubic or by adding noise.

    Args:
        models: One file or several, of the same task, scale and channels; `.onnx` files too.
        folders: One test set each, named after the folder.
        sigma: Noise level (0-255 scale), which a denoiser needs.
        max_images: Only the first so many of each set.
        crop_border: Pixels shaved before scoring; default: the scale, 0 for denoising.
        device: Where torch computes; default: auto.
        measuring: Of time and memory; default: not measured.

    Returns:
        The form of metrics.json; every row with the scores of its images, a model's with its costs at several sizes.

    Raises:
        UserError: a file is no model, a folder is missing, or `sigma` does not fit the task.
    """
    measuring = measuring or Measuring(repeats=0)
    place = device_named(device)
    paths = [models] if isinstance(models, str | Path) else list(models)
    candidates = open_candidates(paths, place, measuring.threads or torch.get_num_threads())
    first, task = candidates[0].network, task_named(candidates[0].network.task)
    choices = {"sigma": sigma, "max_images": max_images, "crop_border": crop_border}
    sets = _open_sets(candidates[0], task, folders, **choices)
    rows = [_input_row(sets, task.input_name), *(_row(candidate, sets) for candidate in candidates)]
    if measuring.repeats:
        _measure(rows[1:], candidates, measuring)
    return _metrics(", ".join(map(str, paths)), first, rows, sets)


def _metrics(name: str, network: torch.nn.Module, rows: Sequence[Row], sets: Sequence[TestSet]) -> dict[str, Any]:
    found = {"name": name, "task": network.task, "scale": network.scale, "rows": list(rows)}
    shaved = {test_set.name: test_set.shave for test_set in sets}
    return finite({**found, "macs_input": image_shape(network, EXAMPLE_SIDE, EXAMPLE_SIDE), "shaved": shaved})


def _open_sets(candidate: Candidate, task: Task, folders: Sequence[str], **choices: Any) -> list[TestSet]:
    named = dict(zip(set_titles(folders), map(str, folders), strict=True))
    try:
        return task.folder_sets(candidate.network, named, choices)
    except UserError as error:
        raise UserError(f"{candidate.path}: {error}") from error


def _input_row(sets: Sequence[TestSet], name: str) -> Row:
    each = {one.name: scores_of(lambda item, one=one: enlarge(item, one.scale), one) for one in sets}
    return new_row(name, _means(each), images=each)


def _row(candidate: Candidate, sets: Sequence[TestSet]) -> Row:
    network, device = candidate.network, candidate.device
    each = {one.name: scores_of(lambda item, one=one: restore(network, item, one.scale, device), one) for one in sets}
    costs = {name: _cost(candidate, shape) for name, shape in _cost_shapes(candidate.network).items()}
    stated = {name: costs["128x128"][name] for name in ("macs", "params", "convs")}
    told = {"file": str(candidate.path), "runtime": candidate.runtime, "costs": costs, "images": each}
    return new_row(candidate.name, _means(each), **stated, **told)


def _means(each: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    return {name: mean_scores(images) for name, images in each.items()}


def _cost_shapes(network: torch.nn.Module) -> dict[str, list[int]]:
    """Return the inputs for which costs are stated: 128 x 128, 256 x 256, and what gives an output of 1280 x 720."""
    out_height, out_width = HD_OUTPUT
    return {
        "128x128": image_shape(network, EXAMPLE_SIDE, EXAMPLE_SIDE),
        "256x256": image_shape(network, 256, 256),
        "1280x720 output": image_shape(network, -(-out_height // network.scale), -(-out_width // network.scale)),
    }


def _cost(candidate: Candidate, shape: list[int]) -> dict[str, Any]:
    found = candidate.cost(shape)
    names = ("macs", "params", "activations", "convs")
    return {"input": shape, **{name: getattr(found, name) if found else None for name in names}}


def _measure(rows: Sequence[dict[str, Any]], candidates: Sequence[Candidate], measuring: Measuring) -> None:
    """Add time and memory to the rows of models; all take turns, on the CPU and on the graphics card."""
    shape = image_shape(candidates[0].network, *measuring.size)
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
