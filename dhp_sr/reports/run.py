"""Contents of a run folder, finished or not, as a typed object."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from dhp_sr.config.datasets import IMAGES, TASKS
from dhp_sr.config.yaml import parse
from dhp_sr.reports.plan import with_current_keys
from dhp_sr.reports.run_files import (
    LatentHistory,
    Sample,
    csv_rows,
    read_json,
    read_latents,
    read_samples,
)
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.strict_json import JsonObject

Row = JsonObject
"""Entry of `rows` in metrics.json: a model with its scores and costs, or an input with scores."""


@dataclass(frozen=True)
class TrainingPoint:
    """Row of curves.csv; a value that was not written is None."""

    iteration: int
    """Iterations done, all phases together."""
    phase: str
    """`dense`, `search` or `finetune`."""
    loss: float | None = None
    """Training loss."""
    lr: float | None = None
    """Learning rate."""
    macs_ratio: float | None = None
    """Kept fraction of the dense network's multiply-adds, masks applied."""
    params_ratio: float | None = None
    """Kept fraction of the dense network's parameters, masks applied."""


@dataclass(frozen=True)
class ValidationPoint:
    """Row of validation.csv: the mean scores over one test set."""

    iteration: int
    """Iterations done, all phases together."""
    phase: str
    """`dense`, `search` or `finetune`."""
    set: str
    """Name of the test set."""
    psnr_y_db: float | None = None
    """PSNR of the Y channel, or of the only channel of gray images."""
    ssim_y: float | None = None
    """SSIM of the Y channel."""
    psnr_rgb_db: float | None = None
    """PSNR over all channels."""
    ssim_rgb: float | None = None
    """SSIM, mean over channels."""
    top1_error_percent: float | None = None
    """Images whose class is not the first prediction."""
    top5_error_percent: float | None = None
    """Images whose class is not among the first five predictions."""
    cross_entropy: float | None = None
    """Mean over the images, without label smoothing."""


Point = TypeVar("Point", TrainingPoint, ValidationPoint)


@dataclass(frozen=True)
class Run:
    """Contents of a run folder that reports are made from."""

    folder: Path
    """Folder, or file of saved results, that was read."""
    metrics: JsonObject | None = None
    """metrics.json, None while the run is unfinished."""
    widths: JsonObject | None = None
    """widths.json, None before the cut and for a run with several targets."""
    curves: tuple[TrainingPoint, ...] = ()
    """curves.csv, in order."""
    validation: tuple[ValidationPoint, ...] = ()
    """validation.csv, in order."""
    options: JsonObject = field(default_factory=dict)
    """options.yml as written, unchecked."""
    environment: JsonObject = field(default_factory=dict)
    """environment.json."""
    plan: JsonObject | None = None
    """plan.json (the channel groups), None for a run that did not write it."""
    cut_widths: Mapping[str, JsonObject] = field(default_factory=dict)
    """Name of a pruned model -> its widths, as there is a model for each target."""
    latents: tuple[LatentHistory, ...] = ()
    """latents.csv, by channel group."""
    samples: tuple[Sample, ...] = ()
    """images/: crops of test images."""
    shown_name: str = ""
    """Name beside other runs, see `page.write`; empty: the run's own."""

    @property
    def results(self) -> JsonObject:
        """metrics.json, empty while the run is unfinished."""
        return self.metrics or {}

    @property
    def rows(self) -> Sequence[Row]:
        """Rows of metrics.json: inputs, the dense network, pruned networks."""
        return self.results.get("rows", ())

    @property
    def name(self) -> str:
        """Name of the run."""
        own_name = self.results.get("name") or self.options.get("name") or self.folder.name
        return self.shown_name or str(own_name)

    @property
    def task(self) -> str | None:
        """`sr`, `denoise`, `restoration` or `classification`.

        An unfinished run has the task of its data sets; without options the task is None.
        """
        if self.metrics:
            return self.metrics.get("task")
        datasets = self.options.get("datasets")
        if isinstance(datasets, Mapping):
            # All data sets of a run are of the same task, so the first tells it.
            for section in datasets.values():
                if isinstance(section, Mapping):
                    task = TASKS.get(str(section.get("type")))
                    return self._restoration() if task == TASKS[IMAGES] else task
        return None

    def _restoration(self) -> str:
        """Task of a run on an ImageDataset, which its scale tells."""
        scale = self.options.get("scale", 1)
        return TASKS["SRDataset" if isinstance(scale, int) and scale > 1 else IMAGES]


def dense_row(rows: Iterable[Row]) -> Row | None:
    """Find the dense network among the rows of metrics.json."""
    for row in rows:
        if row["model"] == "dense":
            return row
    return None


def set_names(rows: Iterable[Row]) -> list[str]:
    """Collect the names of the test sets in rows of metrics.json, each once, in order."""
    names: dict[str, None] = {}
    for row in rows:
        names.update(dict.fromkeys(row["sets"]))
    return list(names)


def score_keys(rows: Iterable[Row]) -> set[str]:
    """Collect the keys of the scores in rows of metrics.json, whichever test set has them."""
    keys: set[str] = set()
    for row in rows:
        for scores in row["sets"].values():
            for key, value in scores.items():
                # Counts, such as the number of images, are integers and no scores.
                if isinstance(value, float):
                    keys.add(key)
    return keys


def phase_spans(points: Collection[TrainingPoint | ValidationPoint]) -> list[tuple[str, int, int]]:
    """Find (phase, first, last iteration) of each phase, in order.

    A phase begins with the last iteration recorded of the phase before it.
    """
    last_iteration: dict[str, int] = {}
    for point in sorted(points, key=lambda point: point.iteration):
        last_iteration[point.phase] = point.iteration
    spans = []
    start = 0
    for phase, end in last_iteration.items():
        if end > start:
            spans.append((phase, start, end))
        start = end
    return spans


def read_run(folder: str | Path) -> Run:
    """Read a run folder, finished or not.

    Args:
        folder: `experiments/<name>`.

    Raises:
        UserError: The folder does not exist or holds nothing to report, or a file in it is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        kind = "a file" if folder.exists() else "nothing there"
        raise UserError(f"{folder}: expected a run folder (experiments/<name>), found {kind}")
    run = Run(
        folder=folder,
        metrics=read_json(folder / "metrics.json"),
        widths=read_json(folder / "widths.json"),
        curves=_read_points(folder / "curves.csv", TrainingPoint),
        validation=_read_points(folder / "validation.csv", ValidationPoint),
        options=read_options(folder / "options.yml"),
        environment=read_json(folder / "environment.json") or {},
        plan=with_current_keys(read_json(folder / "plan.json")),
        cut_widths=read_cut_widths(folder),
        latents=read_latents(folder / "latents.csv"),
        samples=read_samples(folder / "images"),
    )
    if not (run.metrics or run.cut_widths or run.plan or run.curves or run.validation):
        raise UserError(
            f"{folder}: nothing to report: no metrics.json, widths.json, plan.json, curves.csv or "
            "validation.csv; is it a run folder (experiments/<name>), and has the run begun?"
        )
    return run


def read_run_or_saved(path: str | Path) -> Run:
    """Read a run folder, or saved results: a file `results/<name>.json`.

    `scripts/results.py add` writes such files; they hold scores, costs and the environment of a
    run whose folder is no longer needed.

    Raises:
        UserError: The path is neither, or cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        return read_run(path)
    content = read_json(path) or {}
    metrics = content.get("metrics")
    if not isinstance(metrics, dict) or not isinstance(metrics.get("rows"), list):
        raise UserError(f"{path}: expected a run folder or the saved results of a run")
    environment = {}
    for key in ("hardware", "minutes", "note"):
        if content.get(key):
            environment[key] = content[key]
    if isinstance(content.get("environment"), Mapping):
        environment.update(content["environment"])
    return Run(path, metrics, environment=environment)


def read_options(path: Path) -> JsonObject:
    """Read an option file without checking it; empty where it is missing or holds no mapping.

    Raises:
        UserError: The file is not text, or not YAML.
    """
    if not path.exists():
        return {}
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeError as error:
        raise UserError(f"{path}: expected text in UTF-8, found: {error}") from error
    content, _ = parse(text, str(path))
    return content if isinstance(content, dict) else {}


def read_cut_widths(folder: Path) -> dict[str, JsonObject]:
    """Read the widths of every pruned model in a run folder, by the name of the model.

    Raises:
        UserError: A file is damaged.
    """
    # A run with a single target writes widths.json, with several widths_<target>.json. The models
    # are named alike: pruned, or pruned_<target>.
    cut_widths = {}
    for path in (folder / "widths.json", *sorted(folder.glob("widths_*.json"))):
        widths = read_json(path)
        if widths is not None:
            cut_widths[path.stem.replace("widths", "pruned")] = widths
    return cut_widths


def _read_points(path: Path, point_type: type[Point]) -> tuple[Point, ...]:
    """Read one point per row; unknown columns are ignored, empty cells take the default."""
    points = []
    for line, cells in csv_rows(path):
        values: dict[str, Any] = {}
        try:
            for column in fields(point_type):
                text = cells.get(column.name)
                if not text:
                    continue
                if column.name in ("phase", "set"):
                    values[column.name] = text
                elif column.name == "iteration":
                    values[column.name] = int(text)
                else:
                    values[column.name] = float(text)
            points.append(point_type(**values))
        except (ValueError, TypeError) as error:
            # TypeError: a column without a default, such as the iteration, is missing.
            raise UserError(f"{path}, line {line}: {error}") from error
    return tuple(points)
