"""The controls of a run: finished runs of the same network and task in the same folder, cut without a search."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dhp_sr.config.methods import BASELINES
from dhp_sr.config.renamed import use_current_names
from dhp_sr.config.yaml import parse
from dhp_sr.reports.run import Run
from dhp_sr.utils.errors import UserError


def method_of(options: Mapping[str, Any]) -> str:
    """Return the method of an option file: `none` for a run that only trains the dense network.

    Former names of methods, in the options of older runs, are translated.
    """
    compress = use_current_names(options)[0].get("compress")
    return str(compress.get("method", "dhp")) if isinstance(compress, Mapping) else "none"


def controls_beside(run: Run) -> list[Run]:
    """Return the controls of a run, sorted by name: scores and costs alone.

    A neighbor that cannot be read is no control; archived runs are none either.
    """
    found = []
    for folder in sorted(run.folder.resolve().parent.iterdir()):
        if folder == run.folder.resolve() or "_archived_" in folder.name:
            continue
        other = _light(folder)
        if other is not None and _is_control(other, run):
            found.append(other)
    return found


def _light(folder: Path) -> Run | None:
    paths = folder / "metrics.json", folder / "options.yml"
    try:
        if not all(path.is_file() for path in paths):
            return None
        metrics = json.loads(paths[0].read_text(encoding="utf-8"))
        options = parse(paths[1].read_text(encoding="utf-8"), str(paths[1]))[0]
    except (UserError, OSError, ValueError, RecursionError):
        return None
    if (
        not isinstance(metrics, dict)
        or not isinstance(options, dict)
        or not isinstance(metrics.get("rows"), list)
    ):
        return None
    return Run(folder, metrics, None, (), (), options=options)


def _is_control(other: Run, run: Run) -> bool:
    same = all(other.options.get(key) == run.options.get(key) for key in ("network_g", "scale"))
    same_task = run.results.get("task") == other.results.get("task") and _sigmas(other) == _sigmas(
        run
    )
    return same and same_task and method_of(other.options) in (*BASELINES, "none")


def _sigmas(run: Run) -> set[Any]:
    return set(sigmas(run.options).values()) - {None}


def sigmas(options: Mapping[str, Any]) -> dict[str, float | None]:
    """Return name -> noise level of every test set of an option file."""
    data = options.get("datasets")
    sets = (
        {key: one for key, one in data.items() if isinstance(one, Mapping)}
        if isinstance(data, Mapping)
        else {}
    )
    return {
        str(one.get("name") or key): one.get("sigma") for key, one in sets.items() if key != "train"
    }
