"""Scores of finished models: quality per image, cost, time, memory. The service of test.py."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from dhp_sr.archs import described
from dhp_sr.cli.measuring import Measuring, measure
from dhp_sr.cli.models import (
    ComparedModel,
    evaluated_input_row,
    evaluated_row,
    model_names,
    open_models,
    set_names,
)
from dhp_sr.cli.process import keep_memory, plain_warnings
from dhp_sr.config import load_options, resolve_paths, run_path
from dhp_sr.config.schema import Options
from dhp_sr.deploy import load_model
from dhp_sr.deploy.model_info import CLASSIFICATION
from dhp_sr.reports.tables import evaluation_text, text_table
from dhp_sr.tasks import task_named, task_of
from dhp_sr.tasks.base import FolderSettings, Task
from dhp_sr.tasks.evaluation import input_rows, model_row
from dhp_sr.training.model_writer import final_names
from dhp_sr.training.run_folder import RunFolder
from dhp_sr.utils.devices import MAX_THREADS, device_by_name, single_device
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.files import write_json
from dhp_sr.utils.overwriting import check_outputs
from dhp_sr.utils.strict_json import JsonObject, finite
from dhp_sr.zoo.model_zoo import asks_for_listing, resolve_model, zoo_listing
from dhp_sr.zoo.names import register_known
from dhp_sr.zoo.networks import EXAMPLE_SIDE, check_network_type, example_shape, image_shape

DATA_ARGUMENTS = ("sigma", "max_images", "crop_border", "device")
MEASURING_ARGUMENTS = ("size", "repeats", "threads", "runtime", "precision")


def run_evaluate(arguments: argparse.Namespace, root: Path) -> None:
    """Run test.py.

    Args:
        arguments: Parsed by `model_parsers.evaluate_parser`.
        root: Folder that relative paths of option files start from.

    Raises:
        UserError: Arguments contradict each other, or as for the functions below.
    """
    # Before anything else: a listing needs no data, no registry and no measuring.
    if asks_for_listing(arguments.model):
        print(zoo_listing(), end="")
        return
    models = [resolve_model(model) for model in arguments.model or ()]
    # Beside the graph of an OpenVINO model lie its weights.
    weights = [model.with_suffix(".bin") for model in models]
    inputs = [arguments.opt, *models, *weights, *(arguments.data or ())]
    check_outputs({"--json": arguments.json}, inputs, (".json",))
    register_known()
    # Measured times must not depend on the heap's state, see there.
    keep_memory()
    with plain_warnings():
        if arguments.opt:
            refuse_file_arguments(arguments)
            scores = evaluate_run(
                arguments.opt, arguments.set, root=root, models=models, output=arguments.json
            )
            text = f"{scores['name']}\n{text_table(scores)}"
        else:
            scores = evaluate_from(arguments, models)
            text = evaluation_text(scores, images=not arguments.no_images)
    # Printed first: an unwritable file must not lose the scores.
    print(text, end="")
    if arguments.json:
        write_json(arguments.json, scores)


def refuse_file_arguments(arguments: argparse.Namespace) -> None:
    """Check that no argument is given that only --model and --data use.

    Raises:
        UserError: Some are.
    """
    unused = []
    for name in ("data", *DATA_ARGUMENTS, *MEASURING_ARGUMENTS):
        if getattr(arguments, name) is not None:
            unused.append(f"--{name}")
    # A flag is never None.
    if arguments.no_images:
        unused.append("--no_images")
    if unused:
        raise UserError(
            f"{', '.join(unused)}: no effect with -opt, whose file says so; use --set, or "
            "--model --data"
        )


def evaluate_from(arguments: argparse.Namespace, models: Sequence[Path]) -> JsonObject:
    """Score the model files of a command line, see `evaluate_files`.

    Raises:
        UserError: Arguments are missing or out of range, or as for `evaluate_files`.
    """
    if not models or not arguments.data:
        raise UserError("expected -opt FILE, or --model FILE and --data FOLDER; see --help")
    if arguments.set:
        raise UserError("--set: no effect without -opt")
    for name, values, minimum in (
        ("size", arguments.size or (), 1),
        ("threads", (arguments.threads,), 1),
        ("repeats", (arguments.repeats,), 0),
    ):
        # None: not given, the default is valid.
        if any(value is not None and value < minimum for value in values):
            raise UserError(f"--{name}: expected at least {minimum}, got {list(values)}")
    if arguments.threads is not None and arguments.threads > MAX_THREADS:
        raise UserError(
            f"--threads: expected a number from 1 to {MAX_THREADS}, got {arguments.threads}"
        )
    repeats = 10 if arguments.repeats is None else arguments.repeats
    measuring = Measuring(
        arguments.size, repeats, arguments.threads, arguments.runtime, arguments.precision
    )
    choices = {name: getattr(arguments, name) for name in DATA_ARGUMENTS}
    return evaluate_files(models, arguments.data, measuring=measuring, **choices)


def evaluate_run(
    opt: str | Path,
    overrides: Sequence[str] = (),
    *,
    root: Path,
    models: Sequence[str | Path] = (),
    output: str | Path | None = None,
) -> JsonObject:
    """Score the final models of a run on the test sets of its option file.

    Args:
        opt: The option file.
        overrides: `section.key=value` each.
        root: The project's folder.
        models: Other model files to score instead.
        output: File that the scores will be written to; no file of the run.

    Returns:
        The form of metrics.json, without times.

    Raises:
        UserError: The options are wrong, the run has not finished, or images are missing.
    """
    # The option file is decoded as train.py decodes it, so that the same mistakes are reported.
    options = load_options(opt, overrides, check_network=check_network_type)
    run = RunFolder(run_path(options, root))
    paths = [Path(model) for model in models]
    # A run with several targets has a final model for each.
    if not paths:
        paths = [run.model(name) for name in final_names(options)]
    check_outputs({"--json": output}, [run.path / "metrics.json", *paths])
    device = single_device(options.num_gpu)
    # All are opened before the first is scored: a missing file is reported at once.
    networks = [open_for_run(path, options, opt, device) for path in paths]
    sets = task_of(options).test_sets(resolve_paths(options, root))
    if not sets:
        raise UserError("expected at least one test set (datasets.val), there is none")
    # Of the run: a network does not tell what its images suffer from.
    task = task_of(options)
    shape = list(example_shape(networks[0]))
    rows = input_rows(task, sets)
    for path, name, network in zip(paths, model_names(paths), networks, strict=True):
        # Each model is counted at the size that it is meant for.
        row = model_row(path.stem, network, task, sets, example_shape(network), device)
        rows.append({**row, "model": name})
    scores = {
        "name": str(paths[0]),
        "task": task.name,
        "scale": described(networks[0]).scale,
        "rows": rows,
        "macs_input": shape,
    }
    return finite(scores)


def open_for_run(path: Path, options: Options, opt: str | Path, device: torch.device) -> nn.Module:
    """Load a model file and check that it suits the images of an option file.

    Raises:
        UserError: There is no such file, or it does not fit.
    """
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
) -> JsonObject:
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
        device: Where to compute; default: auto. A runtime that cannot, does it on the CPU.
        measuring: Measurements of time and memory; default: not measured.

    Returns:
        The form of metrics.json. Every row has the scores of its images, a model's also its costs
        at several sizes. A classifier has scores of sets only, and its costs at its input size.

    Raises:
        UserError: A file is no model, a folder is missing, or an argument has no meaning for the
            model's task.
    """
    paths = [models] if isinstance(models, str | Path) else list(models)
    measuring = measuring or Measuring(repeats=0)
    threads = measuring.threads or torch.get_num_threads()
    compared = open_models(
        paths, device_by_name(device), threads, measuring.runtime, measuring.precision
    )
    choices: FolderSettings = {
        "sigma": sigma,
        "max_images": max_images,
        "crop_border": crop_border,
    }
    scores = evaluate_models(compared, folders, choices, measuring)
    return finite({"name": ", ".join(map(str, paths)), **scores})


def evaluate_models(
    models: Sequence[ComparedModel],
    folders: Sequence[str],
    choices: FolderSettings,
    measuring: Measuring,
) -> JsonObject:
    """Score opened models; arguments and result are those of `evaluate_files`."""
    network = models[0].network
    task = task_named(described(network).task)
    scores: JsonObject = {"task": task.name, "scale": described(network).scale}
    if task.name == CLASSIFICATION:
        sets = _open_sets(models[0], task, folders, {"size": measuring.size, **choices})
        first_rows = []
        shape = list(example_shape(network))
    else:
        sets = _open_sets(models[0], task, folders, choices)
        first_rows = [evaluated_input_row(task, sets)]
        shape = image_shape(network, *(measuring.size or (EXAMPLE_SIDE, EXAMPLE_SIDE)))
        # Named as in the first metrics.json files, which reports still read.
        scores["shaved"] = {test_set.name: test_set.crop_border for test_set in sets}
    model_rows = [evaluated_row(model, task, sets) for model in models]
    if measuring.repeats:
        measure(model_rows, models, shape, measuring)
    scores["rows"] = [*first_rows, *model_rows]
    # Rows state MACs for the first of their inputs.
    first_cost = next(iter(model_rows[0]["costs"].values()))
    scores["macs_input"] = first_cost["input"]
    return scores


def _open_sets(
    model: ComparedModel, task: Task, folders: Sequence[str], choices: FolderSettings
) -> list[Any]:
    # Names, not folders, identify sets in tables and JSON.
    by_name = dict(zip(set_names(folders), map(str, folders), strict=True))
    try:
        return task.open_folders(model.network, by_name, choices)
    except UserError as error:
        raise UserError(f"{model.path}: {error}") from error
