"""A run folder, read: whatever it holds so far, typed."""

import csv
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from dhp_sr.config.datasets import TASKS
from dhp_sr.config.yaml import parse
from dhp_sr.reports.latents import Latents, read_latents, readable
from dhp_sr.reports.samples import Picture, read_pictures
from dhp_sr.utils.errors import UserError


@dataclass(frozen=True)
class TrainingPoint:
    """One line of `curves.csv`; a value that was not written is None."""

    iteration: int
    """Iterations done, all phases together."""
    phase: str
    """dense, search or finetune."""
    loss: float | None = None
    """Training loss."""
    lr: float | None = None
    """Learning rate."""
    macs_ratio: float | None = None
    """Kept fraction of the dense network's multiply-adds."""
    params_ratio: float | None = None
    """Kept fraction of the dense network's parameters."""


@dataclass(frozen=True)
class ValidationPoint:
    """One line of `validation.csv`: the mean scores over one test set."""

    iteration: int
    """Iterations done."""
    phase: str
    """dense, search or finetune."""
    set: str
    """Name of the test set."""
    psnr_y_db: float | None = None
    """PSNR of the Y channel (grey: of the only one)."""
    ssim_y: float | None = None
    """SSIM of the Y channel."""
    psnr_rgb_db: float | None = None
    """PSNR over all channels."""
    ssim_rgb: float | None = None
    """SSIM, mean over channels."""
    top1_error_percent: float | None = None
    """Classification: images whose class is not the first one named."""
    top5_error_percent: float | None = None
    """Images whose class is not among the first five named."""
    cross_entropy: float | None = None
    """Mean over the images, without smoothing."""


Row = TypeVar("Row", TrainingPoint, ValidationPoint)


@dataclass(frozen=True)
class Run:
    """The contents of a run folder that reports are made from."""

    folder: Path
    """Where it was read."""
    metrics: Mapping[str, Any] | None
    """`metrics.json`, or None while the run is unfinished."""
    widths: Mapping[str, Any] | None
    """`widths.json`, or None before the cut."""
    curves: tuple[TrainingPoint, ...]
    """`curves.csv` in order."""
    validation: tuple[ValidationPoint, ...]
    """`validation.csv` in order."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """`options.yml` as it stands, unchecked."""
    environment: Mapping[str, Any] = field(default_factory=dict)
    """`environment.json`."""
    plan: Mapping[str, Any] | None = None
    """`plan.json`: what could be pruned, or None where the run did not write it."""
    cuts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Name of a cut model -> its widths; several where the run had several targets."""
    latents: tuple[Latents, ...] = ()
    """`latents.csv`, by group."""
    pictures: tuple[Picture, ...] = ()
    """`images/`: pieces of test pictures."""

    @property
    def results(self) -> Mapping[str, Any]:
        """`metrics.json`, empty while the run is unfinished."""
        return self.metrics or {}

    @property
    def name(self) -> str:
        """What the run is called."""
        return str(self.results.get("name") or self.options.get("name") or self.folder.name)

    @property
    def task(self) -> str | None:
        """`sr`, `denoise` or `classification`; of an unfinished run what its data make of it, None without options."""
        if self.metrics:
            return self.metrics.get("task")
        data = self.options.get("datasets")
        sections = data.values() if isinstance(data, Mapping) else ()
        return next(
            (TASKS.get(str(one.get("type"))) for one in sections if isinstance(one, Mapping)), None
        )


def read_run(folder: str | Path) -> Run:
    """Read a run folder, finished or not.

    Args:
        folder: `experiments/<name>`.

    Raises:
        UserError: there is no such folder, nothing to report in it, or a file of it is not well formed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(
            f"{folder}: expected a run folder (experiments/<name>), found {_what(folder)}"
        )
    run = Run(
        folder=folder,
        metrics=_read_json(folder / "metrics.json"),
        widths=_read_json(folder / "widths.json"),
        curves=_read_csv(folder / "curves.csv", TrainingPoint),
        validation=_read_csv(folder / "validation.csv", ValidationPoint),
        options=_read_options(folder / "options.yml"),
        environment=_read_json(folder / "environment.json") or {},
        plan=_read_json(folder / "plan.json"),
        cuts=_read_cuts(folder),
        latents=read_latents(folder / "latents.csv"),
        pictures=read_pictures(folder / "images"),
    )
    if not (run.metrics or run.cuts or run.plan or run.curves or run.validation):
        raise UserError(
            f"{folder}: nothing to report: no metrics.json, widths.json, curves.csv or validation.csv in it; is it a "
            "run folder (experiments/<name>), and has the run begun?"
        )
    return run


def _what(path: Path) -> str:
    return "a file" if path.exists() else "nothing there"


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    if not path.is_file():
        raise UserError(f"{path}: expected a file, found something else of that name")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def _read_options(path: Path) -> dict[str, Any]:
    content = parse(path.read_text(encoding="utf-8"), str(path))[0] if path.exists() else None
    return content if isinstance(content, dict) else {}


def _read_cuts(folder: Path) -> dict[str, dict[str, Any]]:
    paths = [folder / "widths.json", *sorted(folder.glob("widths_*.json"))]
    return {
        path.stem.replace("widths", "pruned"): found
        for path in paths
        if (found := _read_json(path)) is not None
    }


def _read_csv(path: Path, kind: type[Row]) -> tuple[Row, ...]:
    """Read one `kind` per line; columns that it does not have are ignored, empty cells take its default."""
    if not path.exists():
        return ()
    converters = {field.name: _CONVERTERS[str(field.type)] for field in fields(kind)}
    rows = []
    with open(path, newline="", encoding="utf-8") as stream, readable(path):
        for number, cells in enumerate(csv.DictReader(stream), start=2):
            try:
                rows.append(
                    kind(
                        **{
                            name: converters[name](cells[name])
                            for name in converters
                            if cells.get(name)
                        }
                    )
                )
            except (ValueError, TypeError) as error:
                raise UserError(f"{path}, line {number}: {error}") from error
    return tuple(rows)


_CONVERTERS: dict[str, Callable[[str], Any]] = {
    str(int): int,
    str(str): str,
    str(float | None): float,
}
