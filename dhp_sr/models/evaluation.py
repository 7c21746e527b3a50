"""Everything that is told about finished models: quality per image, cost, time, memory. For test.py --model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError

from dhp_sr.config.datasets import ValDataset
from dhp_sr.metrics import latencies
from dhp_sr.models.candidates import Candidate, open_candidates
from dhp_sr.models.devices import pick_device
from dhp_sr.models.footprint import footprint
from dhp_sr.models.networks import EXAMPLE_SIDE
from dhp_sr.models.numbers import finite
from dhp_sr.models.validation import TestSet, enlarge, mean_scores, restore, scores_of
from dhp_sr.utils.errors import UserError

PLAIN_FOLDERS = ("HR", "GT", "hr", "gt", "original", "images")
"""Beginnings of folder names that do not tell which set it is."""

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
    place = pick_device({"cpu": 0, "cuda": 1}.get(device or "auto", "auto"))
    paths = [models] if isinstance(models, str | Path) else list(models)
    candidates = open_candidates(paths, place, measuring.threads or torch.get_num_threads())
    sets = _open_sets(candidates[0], folders, sigma=sigma, max_images=max_images, crop_border=crop_border)
    first = candidates[0].network
    rows = [_input_row(sets, first.task), *(_row(candidate, sets) for candidate in candidates)]
    if measuring.repeats:
        _measure(rows[1:], candidates, measuring)
    return finite(
        {
            "name": ", ".join(map(str, paths)),
            "task": first.task,
            "scale": first.scale,
            "rows": rows,
            "macs_input": _shape(first, EXAMPLE_SIDE, EXAMPLE_SIDE),
            "shaved": {test_set.name: test_set.shave for test_set in sets},
        }
    )


def _open_sets(candidate: Candidate, folders: Sequence[str], *, sigma: float | None, **fields: Any) -> list[TestSet]:
    network, where = candidate.network, candidate.path
    if network.task == "denoise" and sigma is None:
        raise UserError(f"{where}: a denoiser; expected --sigma, the noise level on the 0-255 scale, found none")
    if network.task != "denoise" and sigma is not None:
        raise UserError(f"{where}: super-resolution, --sigma has no effect; leave it out")
    kind = "NoiseDataset" if network.task == "denoise" else "SRDataset"
    color = "grey" if network.in_channels == 1 else "rgb"
    sets = []
    for name, folder in zip(set_names(folders), folders, strict=True):
        described = {"type": kind, "name": name, "dataroot_gt": str(folder), "color": color, "cache": "none"}
        try:
            options = ValDataset.model_validate({**described, **fields, "sigma": sigma})
        except ValidationError as error:
            raise UserError("; ".join(f"--{part['loc'][0]}: {part['msg']}" for part in error.errors())) from None
        sets.append(TestSet.from_options(name, options, network.scale))
    return sets


def _input_row(sets: Sequence[TestSet], task: str) -> dict[str, Any]:
    each = {one.name: scores_of(lambda item, one=one: enlarge(item, one.scale), one) for one in sets}
    empty = {"iterations": None, "latency_ms": None, "macs": None, "params": None}
    return {"model": "bicubic" if task == "sr" else "noisy", **empty, **_means(each)}


def _row(candidate: Candidate, sets: Sequence[TestSet]) -> dict[str, Any]:
    network, device = candidate.network, candidate.device
    each = {one.name: scores_of(lambda item, one=one: restore(network, item, one.scale, device), one) for one in sets}
    costs = {name: _cost(candidate, shape) for name, shape in _cost_shapes(candidate.network).items()}
    stated = costs["128x128"]
    return {
        "model": candidate.name,
        "iterations": None,
        "latency_ms": None,
        **{name: stated[name] for name in ("macs", "params", "convs")},
        **_means(each),
        "file": str(candidate.path),
        "runtime": candidate.runtime,
        "costs": costs,
    }


def _means(each: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    return {"sets": {name: mean_scores(images) for name, images in each.items()}, "images": each}


def _cost_shapes(network: torch.nn.Module) -> dict[str, list[int]]:
    """Return the inputs for which costs are stated: 128 x 128, 256 x 256, and what gives an output of 1280 x 720."""
    out_height, out_width = HD_OUTPUT
    return {
        "128x128": _shape(network, EXAMPLE_SIDE, EXAMPLE_SIDE),
        "256x256": _shape(network, 256, 256),
        "1280x720 output": _shape(network, -(-out_height // network.scale), -(-out_width // network.scale)),
    }


def _shape(network: torch.nn.Module, height: int, width: int) -> list[int]:
    """Return (1, C, H, W), sides rounded up to what the network takes."""
    multiple = network.size_multiple
    return [1, network.in_channels, -(-height // multiple) * multiple, -(-width // multiple) * multiple]


def _cost(candidate: Candidate, shape: list[int]) -> dict[str, Any]:
    found = candidate.cost(shape)
    names = ("macs", "params", "activations", "convs")
    return {"input": shape, **{name: getattr(found, name) if found else None for name in names}}


def _measure(rows: Sequence[dict[str, Any]], candidates: Sequence[Candidate], measuring: Measuring) -> None:
    """Add time and memory to the rows of models; all take turns, on the CPU and on the graphics card."""
    shape = _shape(candidates[0].network, *measuring.size)
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
        row["memory"] = footprint(candidate.path, shape, candidate.device.type, threads)


def set_names(folders: Sequence[str]) -> list[str]:
    """Name sets after their folders (Set5/HR is Set5); a name that occurs twice gets a number."""
    names: list[str] = []
    for folder in folders:
        path = Path(folder)
        name = (path.parent.name if path.name.startswith(PLAIN_FOLDERS) else path.name) or str(folder)
        number = sum(other.split("#")[0] == name for other in names)
        names.append(f"{name}#{number + 1}" if number else name)
    return names
