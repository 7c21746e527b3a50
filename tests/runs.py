"""Whole runs, killed where a test says so, and their comparison."""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dhp_sr.cli.process import seed_everything
from dhp_sr.config.schema import Options
from dhp_sr.training.checkpoint import load_state, pack
from dhp_sr.training.driver import train
from dhp_sr.training.run_folder import RunFolder
from dhp_sr.training.trainer import Trainer


class Killed(Exception):
    """Raised in place of a training step."""


@contextmanager
def empty_pages() -> Iterator[None]:
    """Write empty report pages: drawing them takes longer than the run of a tiny network."""

    def write(folder: RunFolder, *, only_missing: bool = False) -> None:
        page = folder.path / "report.html"
        if not (only_missing and page.exists()):
            page.touch()

    with pytest.MonkeyPatch.context() as patch:
        for module in ("driver", "results"):
            patch.setattr(f"dhp_sr.training.{module}.write_pages", write)
        yield


def run(options: Options, root: Path, *, pages: bool = False, **arguments: Any) -> dict[str, Any]:
    """Train as train.py does; plots and report.html are drawn only where `pages` asks for them."""
    seed_everything(options.manual_seed)
    with contextlib.nullcontext() if pages else empty_pages():
        return train(options, root=root, **arguments)


def kill_before(monkeypatch: pytest.MonkeyPatch, step_number: int) -> None:
    """Let a run die before a step, counted from 1."""
    original = Trainer.step

    def step(self: Trainer, batch: Any, iteration: int) -> dict[str, float]:
        if iteration + 1 == step_number:
            raise Killed
        return original(self, batch, iteration)

    monkeypatch.setattr(Trainer, "step", step)


def run_with_kills(
    options: Options, root: Path, monkeypatch: pytest.MonkeyPatch, step_numbers: tuple[int, ...]
) -> dict[str, Any]:
    """Kill a run before each of these steps and resume it; return its results."""
    for step_number in step_numbers:
        with monkeypatch.context() as patch:
            kill_before(patch, step_number)
            with pytest.raises(Killed):
                run(options, root, auto_resume=True)
    return run(options, root, auto_resume=True)


def saved_state(folder: Path, iteration: int = 12) -> tuple[dict[str, torch.Tensor], Any]:
    """Return a saved state as named tensors and the plain rest."""
    state = load_state(folder / "training_states" / f"{iteration}.state")
    state["extra"].pop("log_bytes")  # the log also says when a run was resumed
    return pack(state)


def assert_same_tensors(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    """Compare two sets of named tensors bit for bit."""
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


def assert_same_state(left: Path, right: Path, iteration: int = 12) -> None:
    """Compare the saved states of two runs bit for bit."""
    (tensors, plain), (other_tensors, other_plain) = (
        saved_state(folder, iteration) for folder in (left, right)
    )
    assert plain == other_plain
    assert_same_tensors(tensors, other_tensors)


def _tables(folder: Path) -> set[str]:
    tables = {path.name for path in folder.iterdir() if path.suffix == ".csv"}
    return tables | {path.name for path in folder.glob("widths*")}


def assert_same_run(left: Path, right: Path, iteration: int = 12) -> None:
    """Compare two run folders: tables, widths, models and the last state."""
    tables = _tables(left)
    # A run without a search has no table of latents.
    assert {"curves.csv", "validation.csv"} <= tables
    for name in tables:
        assert (left / name).read_text() == (right / name).read_text(), name
    models = {path.name for path in (left / "models").iterdir()}
    assert models == {path.name for path in (right / "models").iterdir()}
    for name in models:
        assert_same_tensors(load_file(left / "models" / name), load_file(right / "models" / name))
    assert_same_state(left, right, iteration)
