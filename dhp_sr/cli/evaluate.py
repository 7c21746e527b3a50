"""Scores of finished models: quality per image, cost, time, memory. The service of test.py."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from dhp_sr.cli.memory import peak_memory
from dhp_sr.cli.models import ComparedModel, model_names, open_models, set_names
from dhp_sr.cli.process import keep_memory, plain_warnings
from dhp_sr.config import load_options, resolve_paths, run_path
from dhp_sr.config.schema import Options
from dhp_sr.deploy import load_model
from dhp_sr.deploy.model_info import CLASSIFICATION
from dhp_sr.metrics import latencies
from dhp_sr.reports.tables import evaluation_text, text_table
from dhp_sr.tasks import task_named, task_of
from dhp_sr.tasks.base import Task
from dhp_sr.tasks.evaluation import (
    Row,
    evaluate_inputs,
    evaluate_sets,
    input_rows,
    model_row,
    new_row,
)
from dhp_sr.training.model_writer import final_names
from dhp_sr.training.run_folder import RunFolder
from dhp_sr.utils.devices import MAX_THREADS, device_by_name, single_device
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.files import write_json
from dhp_sr.utils.strict_json import finite
from dhp_sr.zoo.model_zoo import asks_for_listing, resolve_model, zoo_listing
from dhp_sr.zoo.names import register_known
from dhp_sr.zoo.networks import EXAMPLE_SIDE, check_network_type, example_shape, image_shape

HD_OUTPUT = (720, 1280)
"""Height and width of the output that papers on super-resolution state costs for."""

DATA_ARGUMENTS = ("sigma", "max_images", "crop_border", "device")
MEASURING_ARGUMENTS = ("size", "repeats", "threads")


@dataclass(frozen=True)
class Measuring:
    """Settings of the measurement of time and memory."""

    size: tuple[int, int] | None = None
    """Height and width of the input; None: 128 x 128, for a classifier its input size."""
    repeats: int = 10
    """Timed passes of each model; 0: neither time nor memory is measured."""
    threads: int | None = None
    """Of the CPU; None: as many as torch takes."""


def run_evaluate(arguments: argparse.Namespace, root: Path) -> None:
    """Run test.py.

    Args:
        arguments: Of `parsers.evaluate_parser`.
        root: Folder that relative paths of option files start from.

    Raises:
        UserError: Arguments contradict each other, or as for the functions below.
    """
    if asks_for_listing(arguments.model):
        print(zoo_listing(), end="")
        return
    register_known()
    keep_memory()
    models = [resolve_model(model) for model in arguments.model or ()]
    with plain_warnings():
        if arguments.opt:
            _refuse_file_arguments(arguments)
            scores = evaluate_run(arguments.opt, arguments.set, root=root, models=models)
            text = f"{scores['name']}\n{text_table(scores)}"
        else:
            scores = _evaluate_arguments(arguments, models)
            text = evaluation_text(scores, images=not arguments.no_images)
    print(text, end="")
    if arguments.json:
        write_json(arguments.json, scores)


def _refuse_file_arguments(arguments: argparse.Namespace) -> None:
    unused = []
    for name in ("data", *DATA_ARGUMENTS, *MEASURING_ARGUMENTS):
        if getattr(arguments, name) is not None:
            unused.append(f"--{name}")
    if arguments.no_images:
        unused.append("--no_images")
    if unused:
        raise UserError(
            f"{', '.join(unused)}: no effect with -opt, whose file says so; use --set, or "
            "--model --data"
        )


def _evaluate_arguments(arguments: argparse.Namespace, models: Sequence[Path]) -> dict[str, Any]:
    if not models or not arguments.data:
        raise UserError("expected -opt FILE, or --model FILE and --data FOLDER; see --help")
    if arguments.set:
        raise UserError("--set: no effect without -opt")
    for name, values, minimum in (
        ("size", arguments.size or (), 1),
        ("threads", (arguments.threads,), 1),
        ("repeats", (arguments.repeats,), 0),
    ):
        if any(value is not None and value < minimum for value in values):
            raise UserError(f"--{name}: expected at least {minimum}, got {list(values)}")
    if arguments.threads is not None and arguments.threads > MAX_THREADS:
        raise UserError(
            f"--threads: expected a number from 1 to {MAX_THREADS}, got {arguments.threads}"
        )
    measuring = Measuring(
        arguments.size, 10 if arguments.repeats is None else arguments.repeats, arguments.threads
    )
    choices = {name: getattr(arguments, name) for name in DATA_ARGUMENTS}
    return evaluate_files(models, arguments.data, measuring=measuring, **choices)


def evaluate_run(
    opt: str | Path, overrides: Sequence[str] = (), *, root: Path, models: Sequence[str | Path] = ()
) -> dict[str, Any]:
    """Score the final models of a run on the test sets of its option file.

    Args:
        opt: The option file.
        overrides: `section.key=value` each.
        root: The project's folder.
        models: Other model files to score instead.

    Returns:
        The form of metrics.json, without times.

    Raises:
        UserError: The options are wrong, the run has not finished, or images are missing.
    """
    options = load_options(opt, overrides, check_network=check_network_type)
    run = RunFolder(run_path(options, root))
    paths = [Path(model) for model in models]
    if not paths:
        paths = [run.model(name) for name in final_names(options)]
    device = single_device(options.num_gpu)
    networks: list[Any] = [_open_for(path, options, opt, device) for path in paths]
    sets = task_of(options).test_sets(resolve_paths(options, root))
    if not sets:
        raise UserError("expected at least one test set (datasets.val), there is none")
    task = task_named(networks[0].task)
    shape = list(example_shape(networks[0]))
    rows = input_rows(task, sets)
    for path, name, network in zip(paths, model_names(paths), networks, strict=True):
        row = model_row(path.stem, network, task, sets, example_shape(network), device)
        rows.append({**row, "model": name})
    scores = {
        "name": str(paths[0]),
        "task": task.name,
        "scale": networks[0].scale,
        "rows": rows,
        "macs_input": shape,
    }
    return finite(scores)


def _open_for(path: Path, options: Options, opt: str | Path, device: torch.device) -> nn.Module:
    if not path.exists():
        raise UserError(
            f"{path}: expected the model of run {options.name!r}, there is no such file; "
            "train it first"
        )
    network = load_model(path, device).float()
    try:
        task_of(options).check_fit(network, path.name, options)
    except UserError as error:
        raise UserError(f"{path} does not fit {opt}: {error}") from error
    return network


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

    Of ground-truth images, inputs are made by exact bicubic or by adding noise; a classifier's
    images are labeled.

    Args:
        models: Files of the same task, scale and channels; `.onnx` files too, classifiers' if
            they are ours.
        folders: Test sets, each named after its folder.
        sigma: Noise level (0-255 scale), which a denoiser needs.
        max_images: Only the first so many of each set.
        crop_border: Pixels cropped before scoring; default: the scale, 0 for denoising. This,
            `sigma`, `max_images` and the size of `measuring` mean nothing for classifiers, and
            are refused.
        device: Where torch computes; default: auto.
        measuring: Of time and memory; default: not measured.

    Returns:
        The form of metrics.json. Every row has the scores of its images, a model's also its costs
        at several sizes. A classifier has scores of sets only, and its costs at its input size.

    Raises:
        UserError: A file is no model, a folder is missing, or an argument has no meaning for the
            model's task.
    """
    measuring = measuring or Measuring(repeats=0)
    paths = [models] if isinstance(models, str | Path) else list(models)
    threads = measuring.threads or torch.get_num_threads()
    compared = open_models(paths, device_by_name(device), threads)
    network: Any = compared[0].network
    task = task_named(network.task)
    choices = {"sigma": sigma, "max_images": max_images, "crop_border": crop_border}
    scores: dict[str, Any] = {
        "name": ", ".join(map(str, paths)),
        "task": network.task,
        "scale": network.scale,
    }
    if network.task == CLASSIFICATION:
        sets = _open_sets(compared[0], task, folders, size=measuring.size, **choices)
        first_rows = []
        model_rows = [_row(model, task, sets) for model in compared]
        shape = list(example_shape(network))
    else:
        sets = _open_sets(compared[0], task, folders, **choices)
        first_rows = [_input_row(task, sets)]
        model_rows = [_row(model, task, sets) for model in compared]
        shape = image_shape(network, *(measuring.size or (EXAMPLE_SIDE, EXAMPLE_SIDE)))
        scores["shaved"] = {test_set.name: test_set.crop_border for test_set in sets}
    if measuring.repeats:
        _measure(model_rows, compared, shape, measuring)
    scores["rows"] = [*first_rows, *model_rows]
    # Rows state MACs for the first of their inputs.
    first_cost = next(iter(model_rows[0]["costs"].values()))
    scores["macs_input"] = first_cost["input"]
    return finite(scores)


def _open_sets(
    model: ComparedModel, task: Task, folders: Sequence[str], **choices: Any
) -> list[Any]:
    by_name = dict(zip(set_names(folders), map(str, folders), strict=True))
    try:
        return task.open_folders(model.network, by_name, choices)
    except UserError as error:
        raise UserError(f"{model.path}: {error}") from error


def _input_row(task: Task, sets: Sequence[Any]) -> Row:
    """Score the input itself: bicubic upscaling, or the noisy image."""
    scores = evaluate_inputs(task, sets)
    return new_row(task.input_name, scores.sets, images=scores.images)


def _row(model: ComparedModel, task: Task, sets: Sequence[Any]) -> Row:
    network: Any = model.network
    scores = evaluate_sets(task, network, sets, model.device)
    if network.task == CLASSIFICATION:
        side = network.input_size
        return _model_row(model, scores.sets, {f"{side}x{side}": list(example_shape(network))})
    scale = network.scale
    out_height, out_width = HD_OUTPUT
    shapes = {
        "128x128": image_shape(network, EXAMPLE_SIDE, EXAMPLE_SIDE),
        "256x256": image_shape(network, 256, 256),
        # The input whose output is at least HD: divisions rounded up.
        "1280x720 output": image_shape(network, -(-out_height // scale), -(-out_width // scale)),
    }
    return _model_row(model, scores.sets, shapes, images=scores.images)


def _model_row(
    model: ComparedModel, scores: dict[str, Any], shapes: dict[str, list[int]], **values: Any
) -> Row:
    """Return a row with costs for several inputs; the row itself states those of the first."""
    costs = {name: _cost(model, shape) for name, shape in shapes.items()}
    first = next(iter(costs.values()))
    return new_row(
        model.name,
        scores,
        macs=first["macs"],
        params=first["params"],
        convs=first["convs"],
        file=str(model.path),
        runtime=model.runtime,
        costs=costs,
        **values,
    )


def _cost(model: ComparedModel, shape: list[int]) -> dict[str, Any]:
    cost = model.cost(shape)
    values: dict[str, Any] = {"input": shape}
    for name in ("macs", "params", "activations", "convs", "uncounted"):
        values[name] = None if cost is None else getattr(cost, name)
    return values


def _measure(
    rows: Sequence[dict[str, Any]],
    models: Sequence[ComparedModel],
    shape: list[int],
    measuring: Measuring,
) -> None:
    """Add time and memory to the rows of models, in place.

    All models are timed in turns, so that a slow phase of the machine affects all of them.
    """
    device_types = dict.fromkeys(["cpu", *(model.device.type for model in models)])
    for device_type in device_types:
        timed = {}
        for model in models:
            # Other runtimes compute on the CPU alone.
            if model.runtime == "torch" or device_type == "cpu":
                timed[model.name] = model.network.to(device_type)
        latency = latencies(timed, shape, repeats=measuring.repeats, threads=measuring.threads)
        for row in rows:
            if row["model"] in latency:
                measured = latency[row["model"]]
                row.setdefault("latency", {})[device_type] = {**vars(measured), "input": shape}
                row["latency_ms"] = measured.median_ms
    threads = measuring.threads or torch.get_num_threads()
    for row, model in zip(rows, models, strict=True):
        row["memory"] = peak_memory(model.path, shape, model.device.type, threads)
