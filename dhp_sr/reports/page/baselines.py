"""Networks that a run is compared with: baselines in the same folder, and published results."""

import functools
from collections.abc import Collection, Mapping
from importlib.resources import files

from dhp_sr.config.renamed import use_current_names
from dhp_sr.reports.run import Run, read_options
from dhp_sr.reports.run_files import read_json
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.methods import BASELINES
from dhp_sr.utils.strict_json import JsonObject, parse_json

NO_METHOD = "none"
"""Method of a run that trains the dense network and prunes nothing."""


def method_of(options: JsonObject) -> str:
    """Look up the search method in the contents of an option file, old ones included."""
    current_options, _ = use_current_names(options)
    compress = current_options.get("compress")
    if not isinstance(compress, Mapping):
        return NO_METHOD
    return str(compress.get("method", "dhp"))


def is_baseline(method: str) -> bool:
    """Whether a method prunes without a search that looks at the loss."""
    return method in BASELINES


def baselines_of(run: Run) -> list[Run]:
    """Find the finished baseline runs of the same network and task beside a run, by name.

    The result holds their metrics and options alone. A neighbor that cannot be read is left out,
    because a report must not fail for what lies beside its run; archived runs are left out too.
    """
    own_folder = run.folder.resolve()
    try:
        folders = sorted(own_folder.parent.iterdir())
    except OSError:
        return []  # a folder whose contents only others may list
    baselines = []
    for folder in folders:
        if folder == own_folder or "_archived_" in folder.name:
            continue
        try:
            metrics = read_json(folder / "metrics.json")
            options = read_options(folder / "options.yml")
            other = Run(folder, metrics, options=options)
            if metrics and options and has_models(other) and is_comparable(other, run):
                baselines.append(other)
        # TypeError: a value of another kind, such as a list of noise levels.
        except (UserError, OSError, TypeError):
            continue
    return baselines


def has_models(run: Run) -> bool:
    """Whether the rows of metrics.json are models with scores."""
    if not isinstance(run.rows, list) or not run.rows:
        return False
    for row in run.rows:
        if not isinstance(row, dict) or "model" not in row or not isinstance(row.get("sets"), dict):
            return False
    return True


def noise_levels(options: JsonObject) -> dict[str, float | None]:
    """Look up the noise level (0 to 255) of every test set in the contents of an option file."""
    datasets = options.get("datasets")
    if not isinstance(datasets, Mapping):
        return {}
    levels = {}
    for key, section in datasets.items():
        if key != "train" and isinstance(section, Mapping):
            levels[str(section.get("name") or key)] = section.get("sigma")
    return levels


def published_points(
    task: str | None, scale: int | None, levels: Mapping[str, float | None]
) -> list[JsonObject]:
    """Collect published networks that were scored on the same task and on a common test set.

    Args:
        task: `sr` or `denoise`.
        scale: Upscaling factor.
        levels: Name of each test set -> its noise level (0 to 255); None without noise.

    Returns:
        Points of the scatter chart, see `charts.scatter_chart`.
    """
    points = []
    for table in published_tables():
        # Scores at another scale or noise level would be in another range altogether.
        if (table["task"], table["scale"]) != (task, scale):
            continue
        sets = [name for name, level in levels.items() if level == table["sigma"]]
        for row in table["rows"]:
            if not set(sets).isdisjoint(row["scores"]):
                points.append(published_point(table, row, sets))
    return points


def is_comparable(other: Run, run: Run) -> bool:
    """Whether a finished run is a baseline of another: same network, task and noise levels."""
    for key in ("network_g", "scale"):
        if other.options.get(key) != run.options.get(key):
            return False
    if other.task != run.task or _sigmas(other) != _sigmas(run):
        return False
    # A run without a method trains the dense network to its end: the upper bound.
    method = method_of(other.options)
    return is_baseline(method) or method == NO_METHOD


def _sigmas(run: Run) -> set[float]:
    # As a set, because test sets may have other names in the other run.
    return {level for level in noise_levels(run.options).values() if level is not None}


@functools.cache
def published_tables() -> list[JsonObject]:
    """Tables of published results, with their sources and conventions."""
    path = files(__package__) / "assets" / "published.json"
    tables: list[JsonObject] = parse_json(path.read_text(encoding="utf-8"))["tables"]
    return tables


def published_point(table: JsonObject, row: JsonObject, sets: Collection[str]) -> JsonObject:
    """Convert a row of published.json, with its scores on `sets`, into a point of the chart."""
    # The chart has space for few names: those of DHP's rows and of what they are compared with.
    short = ""
    if row["method"].startswith(("DHP", "Base")):
        short = f"{row['network'].split()[0]} {row['method']}"
    return {
        "kind": "published",
        "run": "published",
        "label": f"{row['network']}, {row['method']}",
        "short": short,
        "detail": f"{table['source']}. {table['conventions']}",
        "macs": row["macs"],
        "params": row["params"],
        # A time that was measured on other hardware cannot be compared.
        "latency_ms": None,
        "iterations": None,
        "sets": {
            name: {table["score"]: value} for name, value in row["scores"].items() if name in sets
        },
    }
