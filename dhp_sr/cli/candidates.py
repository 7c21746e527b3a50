"""Finished models that are compared: opened, named, and found to be for the same job."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from dhp_sr.cli.titles import model_titles
from dhp_sr.deploy import load_model
from dhp_sr.deploy.onnx_runner import Classifier, open_onnx_any
from dhp_sr.deploy.runner import Runner
from dhp_sr.deploy.third_party import CLASSIFICATION
from dhp_sr.metrics import Complexity, complexity
from dhp_sr.metrics.onnx_complexity import onnx_complexity
from dhp_sr.utils.errors import UserError


class OnnxNetwork(nn.Module):
    """An ONNX file, run by onnxruntime on the CPU, with what our networks tell of themselves."""

    def __init__(self, runner: Runner) -> None:
        super().__init__()
        self.runner = runner
        self.task, self.scale = runner.task or "denoise", runner.scale
        self.in_channels, self.size_multiple = runner.in_channels, runner.size_multiple

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the result for (N, C, H, W), on the CPU, float32."""
        return self.runner(x)


class OnnxClasses(nn.Module):
    """An ONNX file that names classes, with what our classifiers tell of themselves."""

    task, scale, size_multiple = CLASSIFICATION, 1, 1

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.compute, self.num_classes = classifier.compute, classifier.classes
        self.in_channels, self.input_size = classifier.in_channels, classifier.input_size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (N, num_classes) for (N, C, H, W), on the CPU, float32; for meta tensors the shape alone."""
        if x.is_meta:
            return x.new_empty(len(x), self.num_classes)
        return torch.from_numpy(self.compute(x.numpy()))


@dataclass(frozen=True)
class Candidate:
    """One of several models that are scored side by side."""

    name: str
    """What tables call it; no two have the same."""
    path: Path
    network: nn.Module
    """Takes and gives float32 images; tells `task`, `scale`, `in_channels` and `size_multiple`."""
    device: torch.device

    @property
    def runtime(self) -> str:
        """What computes it."""
        return "onnxruntime" if isinstance(self.network, OnnxNetwork | OnnxClasses) else "torch"

    def cost(self, shape: Sequence[int]) -> Complexity | None:
        """Return what it costs for an input (N, C, H, W); None where a graph does not tell."""
        if self.runtime == "onnxruntime":
            return onnx_complexity(self.path, shape)
        return complexity(self.network, shape)


def open_candidates(
    paths: Sequence[str | Path], device: torch.device, threads: int
) -> list[Candidate]:
    """Open models that do the same job.

    Args:
        paths: `.onnx` files, which onnxruntime runs on the CPU, and model files of ours.
        device: Where torch computes.
        threads: Of the CPU, for onnxruntime.

    Raises:
        UserError: a file is no model, or does another job than the first one.
    """
    cpu = torch.device("cpu")
    opened = []
    for path, name in zip(map(Path, paths), model_titles(paths), strict=True):
        network = open_network(path, device, threads)
        opened.append(
            Candidate(
                name,
                path,
                network,
                cpu if isinstance(network, OnnxNetwork | OnnxClasses) else device,
            )
        )
    for candidate in opened:
        _check_job(candidate, opened[0])
    return opened


def open_network(path: Path, device: torch.device, threads: int) -> nn.Module:
    """Return the network of a file, ready for float32 images: half-precision weights of ours are made float32."""
    if path.suffix.lower() == ".onnx":
        if not path.is_file():
            raise UserError(f"{path}: expected a model, found no file")
        found = open_onnx_any(path, threads=threads)
        return OnnxClasses(found) if isinstance(found, Classifier) else OnnxNetwork(found)
    return load_model(path, device).float()


def _check_job(candidate: Candidate, first: Candidate) -> None:
    found, expected = _job(candidate.network), _job(first.network)
    if found != expected:
        raise UserError(
            f"{candidate.path}: expected {expected} like {first.path}, found {found}; score them apart"
        )


def _job(network: nn.Module) -> str:
    if network.task == CLASSIFICATION:
        return (
            f"classification of {network.in_channels} x {network.input_size} x {network.input_size}"
        )
    return f"{network.task} x{network.scale} of {network.in_channels} channel(s)"
