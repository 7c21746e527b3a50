"""Finished models that are compared: opened, named, scored, for the same task."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from dhp_sr.archs import described
from dhp_sr.deploy import load_model
from dhp_sr.deploy.model_info import CLASSIFICATION
from dhp_sr.deploy.runner import RunnerModule
from dhp_sr.deploy.runtimes import (
    GRAPH_SUFFIXES,
    check_runtime,
    default_runtime,
    open_runner,
    usable_device,
)
from dhp_sr.metrics import Complexity, complexity
from dhp_sr.metrics.onnx_complexity import onnx_complexity
from dhp_sr.tasks.base import NamedTestSet, Scores, Task
from dhp_sr.tasks.evaluation import Row, evaluate_inputs, evaluate_sets, new_row
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.strict_json import Json, JsonObject
from dhp_sr.zoo.networks import EXAMPLE_SIDE, example_shape, image_shape

HD_OUTPUT = (720, 1280)
"""Height and width of the output that papers on super-resolution state costs for."""

GENERIC_FOLDERS = ("HR", "GT", "hr", "gt", "original", "images")
"""Prefixes of folder names that do not tell which test set it is."""


@dataclass(frozen=True)
class ComparedModel:
    """A model that is scored beside others."""

    name: str
    """Display name in tables, unique among the models."""
    path: Path
    network: nn.Module
    """Takes and gives float32 images; has `task`, `scale`, `in_channels`, `size_multiple`."""
    device: torch.device
    """Where its images lie."""
    precision: str | None = None
    """The one that was asked for; None: that of the file."""

    @property
    def device_type(self) -> str:
        """Type of the device that it computes on."""
        if isinstance(self.network, RunnerModule):
            return self.network.runner.device_type
        return self.device.type

    @property
    def runtime(self) -> str:
        """Name of the program that computes it."""
        if isinstance(self.network, RunnerModule):
            return self.network.runner.runtime
        return "torch"

    def cost(self, shape: Sequence[int]) -> Complexity | None:
        """Return its cost for an input (N, C, H, W); None where a graph does not tell."""
        suffix = self.path.suffix.lower()
        if suffix == ".onnx":
            return onnx_complexity(self.path, shape)
        # OpenVINO's operators are not counted: a row without costs is better than a wrong one.
        if suffix in GRAPH_SUFFIXES:
            return None
        if isinstance(self.network, RunnerModule):
            # The runtime's graph is not ours to count; the file it was made from is.
            return complexity(load_model(self.path), shape)
        return complexity(self.network, shape)


def open_models(
    paths: Sequence[str | Path],
    device: torch.device,
    threads: int,
    runtime: str | None = None,
    precision: str | None = None,
) -> list[ComparedModel]:
    """Open models for the same task.

    Args:
        paths: Model files.
        device: Where to compute; runtimes that cannot, do it on the CPU.
        threads: Threads of the CPU, for other runtimes.
        runtime: Key of `deploy.runtimes.RUNTIMES`; None: each file's own.
        precision: As for `open_runner`.

    Raises:
        UserError: A file is no model, or is for another task than the first.
    """
    models = []
    for path, name in zip(map(Path, paths), model_names(paths), strict=True):
        network = open_network(path, device, threads, runtime, precision)
        # A runner takes images from the CPU, wherever it computes.
        is_runner = isinstance(network, RunnerModule)
        images_on = torch.device("cpu") if is_runner else device
        models.append(ComparedModel(name, path, network, images_on, precision))
    # Scores of different tasks, scales or channels cannot stand in the same table.
    expected = _task_text(models[0].network)
    for model in models:
        task = _task_text(model.network)
        if task != expected:
            raise UserError(
                f"{model.path}: expected {expected} like {models[0].path}, got {task}; "
                "score them separately"
            )
    return models


def open_network(
    path: Path,
    device: torch.device,
    threads: int,
    runtime: str | None = None,
    precision: str | None = None,
) -> nn.Module:
    """Open a model file as a module for float32 images.

    Weights of ours in half precision become float32, which scores are computed in.

    Args:
        path: The file.
        device: Where to compute; a runtime that cannot, does it on the CPU.
        threads: Threads of the CPU, for other runtimes.
        runtime: Key of `deploy.runtimes.RUNTIMES`; None: the file's own.
        precision: As for `open_runner`.

    Raises:
        UserError: The file is no model, the runtime does not read it, or does not compute in the
            precision.
    """
    # Our files as plain modules: their costs can be counted, and they run on any device.
    name = runtime or default_runtime(path)
    check_runtime(name, path)
    if name == "torch" and precision in (None, "fp32"):
        return load_model(path, device).float()
    if not path.is_file():
        raise UserError(f"{path}: expected a model, there is no such file")
    runner = open_runner(
        path,
        name,
        device=usable_device(name, device),
        precision=precision,
        threads=threads,
    )
    return RunnerModule(runner)


def _task_text(network: nn.Module) -> str:
    if network.task == CLASSIFICATION:
        side = network.input_size
        return f"{network.task} of {network.in_channels} x {side} x {side}"
    return f"{network.task} x{network.scale} of {network.in_channels} channel(s)"


def set_names(folders: Sequence[str]) -> list[str]:
    """Name test sets after their folders (Set5/HR is Set5); a repeated name gets a number."""
    names: list[str] = []
    for folder in folders:
        path = Path(folder)
        name = path.name
        if name.startswith(GENERIC_FOLDERS):
            name = path.parent.name
        name = name or str(folder)
        # Names that already have a number count, too.
        repeated = sum(other.split("#")[0] == name for other in names)
        names.append(f"{name}#{repeated + 1}" if repeated else name)
    return names


def model_names(paths: Sequence[str | Path]) -> list[str]:
    """Name models after their files, with as much of the path as distinguishes them."""
    files = [Path(path) for path in paths]
    names = [path.stem for path in files]
    longer_names: tuple[Callable[[Path], str], ...] = (
        lambda path: path.name,
        _with_run,
        lambda path: f"{_with_run(path)}{path.suffix}",
        str,
    )
    # Each round lengthens only the names that still occur twice.
    for longer in longer_names:
        counts = Counter(names)
        # Told apart by the suffix, or by the run, or by both, or by the whole path.
        names = [
            longer(path) if counts[name] > 1 else name
            for name, path in zip(names, files, strict=True)
        ]
    return names


def _with_run(path: Path) -> str:
    """Return run and file: `experiments/NAME/models/pruned.safetensors` is `NAME/pruned`."""
    folder = path.absolute().parent
    if folder.name == "models":
        folder = folder.parent
    return f"{folder.name}/{path.stem}"


def evaluated_input_row(task: Task, sets: Sequence[NamedTestSet]) -> Row:
    """Score the input itself: bicubic upscaling, or the noisy image."""
    scores = evaluate_inputs(task, sets)
    return new_row(task.input_name, scores.sets, images=scores.images)


def evaluated_row(model: ComparedModel, task: Task, sets: Sequence[NamedTestSet]) -> Row:
    """Score a model on every test set, and count its costs at several sizes."""
    network = model.network
    scores = evaluate_sets(task, network, sets, model.device)
    if network.task == CLASSIFICATION:
        side = network.input_size
        return _model_row(model, scores.sets, {f"{side}x{side}": list(example_shape(network))})
    scale = described(network).scale
    out_height, out_width = HD_OUTPUT
    shapes = {
        "128x128": image_shape(network, EXAMPLE_SIDE, EXAMPLE_SIDE),
        "256x256": image_shape(network, 256, 256),
        # The input whose output is at least HD: divisions rounded up.
        "1280x720 output": image_shape(network, -(-out_height // scale), -(-out_width // scale)),
    }
    return _model_row(model, scores.sets, shapes, images=scores.images)


def _model_row(
    model: ComparedModel, scores: dict[str, Scores], shapes: dict[str, list[int]], **values: Json
) -> Row:
    """Return a row with costs for several inputs; the row itself states those of the first."""
    costs: dict[str, JsonObject] = {}
    for name, shape in shapes.items():
        cost = model.cost(shape)
        costs[name] = {"input": shape}
        for key in ("macs", "params", "activations", "convs", "uncounted"):
            # None where a graph does not tell: a row without costs still has its scores.
            costs[name][key] = None if cost is None else getattr(cost, key)
    first = next(iter(costs.values()))
    return new_row(
        model.name,
        scores,
        macs=first["macs"],
        params=first["params"],
        convs=first["convs"],
        file=str(model.path),
        runtime=model.runtime,
        precision=model.precision,
        costs=costs,
        **values,
    )
