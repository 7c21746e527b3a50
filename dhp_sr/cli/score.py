"""Scores of a run's models on the test sets of its option file, for test.py -opt."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dhp_sr.cli.titles import model_titles
from dhp_sr.config import load_options, resolve_paths, run_path
from dhp_sr.config.schema import Options
from dhp_sr.deploy import load_model
from dhp_sr.reports.tables import text_table
from dhp_sr.tasks.registry import task_named, task_of
from dhp_sr.training.final_names import final_names
from dhp_sr.training.result_rows import input_rows, model_row
from dhp_sr.training.run_folder import RunFolder
from dhp_sr.utils.devices import single_device
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.strict_json import finite
from dhp_sr.zoo.networks import check_network_type, example_shape


def score_run(
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
        UserError: the options are wrong, the run has not finished, or images are missing.
    """
    options = load_options(opt, overrides, check_network=check_network_type)
    run = RunFolder(run_path(options, root))
    paths = [Path(model) for model in models] or [run.model(name) for name in final_names(options)]
    device = single_device(options.num_gpu)
    networks = [_open(path, options, opt, device) for path in paths]
    sets = task_of(options).test_sets(resolve_paths(options, root))
    return _side_by_side(
        paths,
        [score(network, path, sets, device) for network, path in zip(networks, paths, strict=True)],
    )


def _open(path: Path, options: Options, opt: str | Path, device: torch.device) -> nn.Module:
    if not path.exists():
        raise UserError(
            f"{path}: expected the model of run {options.name!r}, found no file; train it first"
        )
    network = load_model(path, device).float()
    try:
        task_of(options).check_fit(network, path.name, options)
    except UserError as error:
        raise UserError(f"{path} does not fit {opt}: {error}") from error
    return network


def _side_by_side(paths: Sequence[str | Path], several: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the scores of several models as one table: the input's row of the first, and a row for each model."""
    rows = [
        {**scores["rows"][-1], "model": title}
        for scores, title in zip(several, model_titles(paths), strict=True)
    ]
    return {**several[0], "rows": [*several[0]["rows"][:-1], *rows]}


def score(
    network: nn.Module, path: Path, sets: Sequence[Any], device: torch.device | str
) -> dict[str, Any]:
    """Return rows for the input (where it can be scored) and for `network`, in the form of metrics.json."""
    if not sets:
        raise UserError("expected at least one test set (datasets.val), found none")
    task = task_named(network.task)
    shape = list(example_shape(network))
    rows = [*input_rows(task, sets), model_row(path.stem, network, task, sets, shape, device)]
    return finite(
        {
            "name": str(path),
            "task": task.name,
            "scale": network.scale,
            "rows": rows,
            "macs_input": shape,
        }
    )


def report(scores: dict[str, Any]) -> str:
    """Return scores as a table."""
    return f"{scores['name']}\n{text_table(scores)}"
