"""Scores of a run's models on the test sets of its option file, for test.py -opt."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dhp_sr.config import load_options, resolve_paths, run_path
from dhp_sr.config.schema import Options
from dhp_sr.deploy import load_model
from dhp_sr.metrics import complexity
from dhp_sr.models.devices import pick_device
from dhp_sr.models.finals import final_names
from dhp_sr.models.networks import EXAMPLE_SIDE, check_fit
from dhp_sr.models.numbers import finite
from dhp_sr.models.run_folder import RunFolder
from dhp_sr.models.validation import TestSet, build_test_sets, evaluate, evaluate_input
from dhp_sr.reports.tables import text_table
from dhp_sr.utils.errors import UserError


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
    options = load_options(opt, overrides)
    run = RunFolder(run_path(options, root))
    paths = [Path(model) for model in models] or [run.model(name) for name in final_names(options)]
    device = pick_device(options.num_gpu if options.num_gpu in ("auto", 0) else 1)
    networks = [_open(path, options, opt, device) for path in paths]
    sets = build_test_sets(resolve_paths(options, root))
    first, *others = [score(network, path, sets, str(device)) for network, path in zip(networks, paths, strict=True)]
    return {**first, "rows": [*first["rows"], *(scores["rows"][-1] for scores in others)]}


def _open(path: Path, options: Options, opt: str | Path, device: torch.device) -> nn.Module:
    if not path.exists():
        raise UserError(f"{path}: expected the model of run {options.name!r}, found no file; train it first")
    network = load_model(path, device).float()
    try:
        check_fit(network, path.name, options)
    except UserError as error:
        raise UserError(f"{path} does not fit {opt}: {error}") from error
    return network


def score(network: nn.Module, path: Path, sets: Sequence[TestSet], device: str) -> dict[str, Any]:
    """Return rows for the input and for `network`, in the form of metrics.json."""
    if not sets:
        raise UserError("expected at least one test set (datasets.val), found none")
    shape = [1, network.in_channels, EXAMPLE_SIDE, EXAMPLE_SIDE]
    cost = complexity(network, shape)
    before = {test_set.name: evaluate_input(test_set) for test_set in sets}
    after = {test_set.name: evaluate(network, test_set, device) for test_set in sets}
    plain = "bicubic" if network.task == "sr" else "noisy"
    empty = {"iterations": None, "latency_ms": None}
    rows = [
        {"model": plain, **empty, "macs": None, "params": None, "sets": before},
        {"model": path.stem, **empty, "macs": cost.macs, "params": cost.params, "sets": after},
    ]
    return finite({"name": str(path), "task": network.task, "scale": network.scale, "rows": rows, "macs_input": shape})


def report(scores: dict[str, Any]) -> str:
    """Return scores as a table."""
    return f"{scores['name']}\n{text_table(scores)}"
