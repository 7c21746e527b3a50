"""Time and memory of a training step, as `train.py` takes it.

Compared are the network with latents and the plain one, or a pruned network and the dense one.
"""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.memory import cuda_peak_bytes, saved_storages, state_storages
from benchmarks.timing import measure, quartiles, ratios
from dhp_sr.config import Options, load_options
from dhp_sr.search.gradual_taylor import INTERVAL
from dhp_sr.training.distributed import DistributedContext
from dhp_sr.training.trainer import Trainer

PLAIN = "plain"
MAX_STEP_S = 15.0
"""On a CPU, a step that takes longer is measured with a smaller batch."""


def measure_steps(
    option_file: Path,
    context: DistributedContext,
    rounds: int,
    *,
    parametrizations: Sequence[str],
    changes: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Measure time and memory of a step relative to the plain network, a row per parametrization.

    The steps are those in the middle of the search: forward, loss, backward, Adam, and the step of
    the search.

    Args:
        option_file: network, patch, batch, loss and search.
        context: the device.
        rounds: timed rounds.
        parametrizations: of `dhp_sr.hyper.parametrization.PARAMETRIZATIONS`.
        changes: `section.key=value` each.
    """
    batch_size = _batch_size(option_file, context, changes)
    changes = [*changes, f"datasets.train.batch_size_per_gpu={batch_size}"]
    steps = {}
    for kind in (PLAIN, *parametrizations):
        trainer = _trainer(option_file, kind, context, changes)
        steps[kind] = _Steps(trainer, _batch(trainer.options, context))
    times = measure({kind: step.take for kind, step in steps.items()}, rounds, context.device)
    plain_memory = steps[PLAIN].memory()
    rows = []
    for kind in parametrizations:
        options = steps[kind].trainer.options
        rows.append(
            {
                "network": options.network_g.type.removeprefix("Hyper"),
                "option_file": option_file.name,
                "parametrization": kind,
                "input": list(steps[kind].batch["lq"].shape),
                "paper_batch": load_options(option_file).datasets["train"].batch_size_per_gpu,
                "rounds": rounds,
                "plain_ms": quartiles(times[PLAIN].wall_ms),
                "hyper_ms": quartiles(times[kind].wall_ms),
                "wall_ratio": ratios(times[kind].wall_ms, times[PLAIN].wall_ms),
                "cpu_ratio": ratios(times[kind].cpu_ms, times[PLAIN].cpu_ms),
                "search_ms": steps[kind].search_ms(),
                "plain": plain_memory,
                "hyper": steps[kind].memory(),
            }
        )
    return rows


def step_time_ratio(
    trainer: Trainer, reference: Trainer, batch: Mapping[str, Any], rounds: int = 7
) -> tuple[float, float]:
    """Time of a training step relative to a reference, and the reference's in seconds.

    Processor time on a CPU, wall time on a graphics card.

    Args:
        trainer: network in training; the steps are real, so it is trained by them.
        reference: network to compare with, on the same device; trained as well.
        batch: batch for both.
        rounds: timed rounds; the median of the ratios counts.
    """
    steps = {}
    for name, measured in (("trainer", trainer), ("reference", reference)):
        # An iteration of the phase that it is in; a step depends on the phase alone.
        iteration = measured.schedule.total_iter - 1
        if measured.phase.name == "search":
            iteration = measured.schedule.dense_iter
        steps[name] = partial(measured.step, batch, iteration)
    device = trainer.context.device
    times = measure(steps, rounds, device)
    measured_ms, reference_ms = (
        times[name].cpu_ms if device.type == "cpu" else times[name].wall_ms
        for name in ("trainer", "reference")
    )
    ratio = ratios(measured_ms, reference_ms)["median"]
    return ratio, quartiles(reference_ms)["median"] / 1000


def _trainer(
    option_file: Path, kind: str, context: DistributedContext, changes: Sequence[str]
) -> Trainer:
    """Training at its start: of the plain network, or of the search in a parametrization."""
    phase_changes = [f"compress.parametrization={kind}", "compress.dense_iter=0"]
    if kind == PLAIN:
        phase_changes = ["compress=null"]
    options = load_options(option_file, [*changes, *phase_changes])
    torch.manual_seed(options.manual_seed)
    trainer = Trainer(options, context)
    trainer.advance(0)
    return trainer


def _batch(options: Options, context: DistributedContext) -> dict[str, Tensor]:
    data = options.datasets["train"]
    generator = torch.Generator().manual_seed(0)
    batch = {}
    for key, size in (("lq", data.gt_size // options.scale), ("gt", data.gt_size)):
        shape = (data.batch_size_per_gpu, data.channels, size, size)
        batch[key] = torch.rand(shape, generator=generator).to(context.device)
    return batch


def _batch_size(option_file: Path, context: DistributedContext, changes: Sequence[str]) -> int:
    """Batch size of the option file; on a CPU halved until a plain step is below MAX_STEP_S."""
    batch_size = load_options(option_file, changes).datasets["train"].batch_size_per_gpu
    if context.device.type != "cpu":
        return batch_size
    single = [*changes, "datasets.train.batch_size_per_gpu=1"]
    trainer = _trainer(option_file, PLAIN, context, single)
    steps = _Steps(trainer, _batch(trainer.options, context))
    steps.take()  # the first step also allocates
    start = time.process_time()
    steps.take()
    image_s = (time.process_time() - start) / torch.get_num_threads()
    while batch_size > 1 and batch_size * image_s > MAX_STEP_S:
        batch_size //= 2
    return batch_size


class _Steps:
    """Consecutive steps of a training, from the middle of its search on."""

    def __init__(self, trainer: Trainer, batch: dict[str, Tensor]) -> None:
        self.trainer = trainer
        self.batch = batch
        # At a proximal step, so that every series of steps begins alike.
        self._iteration = trainer.schedule.search_iter // 2 // INTERVAL * INTERVAL

    def take(self) -> None:
        """Take the next step."""
        self.trainer.step(self.batch, self._iteration)
        self._iteration += 1

    def search_ms(self) -> float:
        """Processor time of the search per step, mean over an interval between proximal steps."""
        start = time.process_time()
        for _ in range(INTERVAL):
            self.trainer.phase.search.step(self._iteration)
            self._iteration += 1
        return (time.process_time() - start) * 1000 / INTERVAL

    def memory(self) -> dict[str, int | None]:
        """Trainable parameters and bytes, see `benchmarks.memory`."""
        parameters = self.trainer.network.parameters()
        saved = saved_storages(self.trainer, self.batch, self._iteration)
        return {
            "params": sum(tensor.numel() for tensor in parameters if tensor.requires_grad),
            "saved_bytes": sum(saved.values()),
            "state_bytes": sum(state_storages(self.trainer).values()),
            "cuda_peak_bytes": cuda_peak_bytes(self.trainer, self.batch, self._iteration),
        }
