"""Write the outputs of a compression: model file, report, comparison."""

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from dhp_sr.cli.compress_drop_in import write_drop_in
from dhp_sr.cli.compress_quality import HeldOutScore
from dhp_sr.cli.compress_request import CompressRequest
from dhp_sr.cli.export import export_model
from dhp_sr.config import load_options, run_path
from dhp_sr.config.schema import Options
from dhp_sr.deploy import load_model
from dhp_sr.metrics import complexity
from dhp_sr.training.checkpoint import list_states
from dhp_sr.training.distributed import DistributedContext
from dhp_sr.training.run_folder import RunFolder
from dhp_sr.training.trainer import Trainer
from dhp_sr.utils.files import atomic_path
from dhp_sr.utils.strict_json import JsonObject
from dhp_sr.zoo.checkpoints import Checkpoint
from dhp_sr.zoo.networks import example_shape
from dhp_sr.zoo.user_class import is_user_class


@dataclass
class CompressReport:
    """Result of a compression."""

    network: nn.Module
    """The small network, in evaluation mode."""
    output: Path
    """Its file."""
    report: Path | None
    """The run's report.html; None after an interrupted run."""
    kept: dict[str, float] = field(default_factory=dict)
    """`macs_ratio`, `params_ratio`, ...: kept fractions of the original's cost."""
    scores: JsonObject = field(default_factory=dict)
    """metrics.json of the run."""
    lines: list[str] = field(default_factory=list)
    """Sentences that were said on the way."""


def write_outputs(
    options: Options,
    request: CompressRequest,
    checkpoint: Checkpoint,
    root: Path,
    metrics: JsonObject,
    note: Callable[[str], None],
) -> CompressReport:
    """Write the result, its report and its ONNX form beside each other; compare it briefly."""
    folder = RunFolder(run_path(options, root))
    network, output = _write_network(folder, request, checkpoint)
    page = output.with_name(f"{output.stem}_report.html")
    with atomic_path(page) as temporary:
        shutil.copyfile(folder.path / "report.html", temporary)
    assert options.compress is not None and options.compress.distill is not None
    if options.compress.distill.teacher is None:
        kept = dict(metrics["achieved"])
        lines = _comparison_lines(options, metrics)
    else:
        # The run began with fewer blocks than the original has.
        shape = example_shape(checkpoint.network)
        small, original = complexity(network, shape), complexity(checkpoint.network, shape)
        kept = {
            "macs_ratio": small.macs / original.macs,
            "params_ratio": small.params / original.params,
        }
        lines = _comparison_lines(options, metrics, checkpoint.network, kept)
    for line in lines:
        note(line)
    note(f"written: {output}, {page}")
    if request.onnx:
        exported = export_model(folder.model("pruned"), "onnx", output.with_suffix(".onnx"))
        note(f"written: {exported.path}")
        # A model file cannot hold the user's code; a program of torch.export needs none.
        if is_user_class(checkpoint.name):
            program = export_model(folder.model("pruned"), "pt2", output.with_suffix(".pt2"))
            note(f"written: {program.path}")
    return CompressReport(network, output, page, kept, metrics)


def _write_network(
    folder: RunFolder, request: CompressRequest, checkpoint: Checkpoint
) -> tuple[nn.Module, Path]:
    """Write the cut network of a run where the user asked for it; return it and its file."""
    output = request.output or folder.path / f"{request.run_name}.safetensors"
    # Read back from the file: what the user gets is what was written.
    network = load_model(folder.model("pruned"))
    if request.drop_in:
        write_drop_in(network, checkpoint, output)
    else:
        with atomic_path(output) as temporary:
            shutil.copyfile(folder.model("pruned"), temporary)
    return network, output


def _comparison_lines(
    options: Options,
    metrics: JsonObject,
    original: nn.Module | None = None,
    kept: Mapping[str, float] | None = None,
) -> list[str]:
    """Return lines about what is kept and how the result scores.

    Args:
        options: Options of the run.
        metrics: Metrics of the run.
        original: Where the dense network of the run is another.
        kept: Fractions of the original's cost that the result keeps, in that case.
    """
    rows = {row["model"]: row for row in metrics["rows"]}
    dense = rows["dense"]
    pruned = rows["pruned"]
    assert options.compress is not None and options.compress.distill is not None
    parts = []
    for key in ("macs", "params"):
        if kept is not None:
            parts.append(f"{kept[f'{key}_ratio']:.1%} of the {key}")
        elif dense.get(key):
            parts.append(f"{pruned[key] / dense[key]:.1%} of the {key}")
    lines = [f"kept: {', '.join(parts)}"]
    if original is None and dense.get("latency_ms") and pruned.get("latency_ms"):
        ratio = pruned["latency_ms"] / dense["latency_ms"]
        lines.append(f"time on this machine's CPU: {ratio:.1%} of the original's")
    key = "psnr_y_db" if options.scale > 1 else "psnr_rgb_db"
    for name, scores in pruned["sets"].items():
        if scores[key] is None:
            lines.append(f"{name}: no difference in 8 bits")
            continue
        # Without ground truths, the original itself has no score to compare with.
        if options.compress.distill.task_loss:
            before = dense["sets"][name][key]
            if original is not None:
                before = HeldOutScore(options).measure(original)
            # Truths that were made by the original itself: its PSNR is infinite, None in JSON.
            if before is None or math.isinf(before):
                lines.append(
                    f"{name}: {scores[key]:.2f} dB to the ground truths, which are the original's "
                    "output"
                )
                continue
            lines.append(
                f"{name}: {before:.2f} dB -> {scores[key]:.2f} dB to the ground truths "
                f"({scores[key] - before:+.2f} dB)"
            )
        else:
            lines.append(f"{name}: {scores[key]:.2f} dB PSNR to the original's output")
    return lines


def write_best_so_far(
    options: Options,
    request: CompressRequest,
    checkpoint: Checkpoint,
    root: Path,
    note: Callable[[str], None],
) -> None:
    """Write the network of an interrupted run, if it has been cut."""
    folder = RunFolder(run_path(options, root))
    # Those of the folder: a resumed run keeps the lengths that it was begun with.
    stored = load_options(folder.path / "options.yml")
    trainer = Trainer(stored, DistributedContext(torch.device("cpu")), folder)
    trainer.resume(list_states(folder.states)[-1][1])
    if trainer.phase.name != "finetune":
        note("stopped before the cut: there is no smaller network yet")
        return
    trainer.write_final(0)
    _, output = _write_network(folder, request, checkpoint)
    note(f"the network as it is now is written: {output}")
