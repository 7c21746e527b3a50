"""Fixtures for the whole suite: one thread, fixed seeds, optional benchmark images."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from fake_clock import clock  # noqa: E402, F401 - fixture of the tests of latency
from tiny_runs import image_folder, make_options  # noqa: E402, F401 - fixtures of many tests

from dhp_sr.graph import tracer  # noqa: E402
from dhp_sr.operators import registry  # noqa: E402


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--regen`, which rewrites the golden files."""
    parser.addoption(
        "--regen",
        action="store_true",
        help="rewrite the golden files instead of comparing with them",
    )


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare a text with tests/golden/NAME, or write it there with `--regen`."""

    def compare(name: str, text: str) -> None:
        path = ROOT / "tests" / "golden" / name
        if request.config.getoption("--regen"):
            path.write_text(text)
        assert path.read_text() == text, f"{path} differs; if that is meant, run pytest --regen"

    return compare


@pytest.fixture(autouse=True)
def _repeatable(monkeypatch: pytest.MonkeyPatch):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    # `train.amp: auto` must not make results depend on the machine; unknown ones have float32.
    monkeypatch.setattr("dhp_sr.utils.devices.CPUINFO", Path(os.devnull))


@pytest.fixture
def registry_restored(monkeypatch: pytest.MonkeyPatch):
    """Undo registrations of operators after the test."""
    monkeypatch.setattr(registry, "_TABLE", dict(registry._TABLE))
    before = set(tracer.LEAF_TYPES)
    yield
    tracer.LEAF_TYPES.intersection_update(before)


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory):
    """Small networks and their ONNX files, see exported.py; needs the extra `onnx`."""
    from exported import Exports

    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    folder = folder / "onnx"
    folder.mkdir(exist_ok=True)
    return Exports(folder)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of benchmark images: DHP_SR_DATA, or one beside the project."""
    folder = Path(os.environ.get("DHP_SR_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("no benchmark images: set DHP_SR_DATA, see datasets/README.md")
    return folder


@pytest.fixture(scope="session")
def shared_weights() -> Path:
    """The folder of published checkpoints beside the project."""
    folder = ROOT.parent / "shared" / "weights"
    if not folder.is_dir():
        pytest.skip("published checkpoints are not beside the project")
    return folder
