"""One training step against another, as `train.py` takes them: hyper and plain network, or cut and dense one."""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.memory import cuda_peak_bytes, held, kept_for_backward
from benchmarks.rounds import quartiles, ratios, take_turns
from dhp_sr.config import Options, load_options
from dhp_sr.search.gradual_taylor import INTERVAL
from dhp_sr.training.distributed import DistributedContext
from dhp_sr.training.trainer import Trainer

PLAIN = "plain"
LIMIT_S = 15.0
"""A step that takes longer on a CPU is measured with a smaller batch."""


def measure_steps(
    option_file: Path,
    place: DistributedContext,
    rounds: int,
    *,
    parametrizations: Sequence[str],
    changes: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Return one row for each parametrization: time and memory of a step against the plain network's.

    The steps are those of the middle of the search: forward, loss, backward, Adam, and the search's own step.

    Args:
        option_file: network, patch, batch, loss and search.
        place: the device.
        rounds: timed rounds.
        parametrizations: of `dhp_sr.hyper.parametrization.PARAMETRIZATIONS`.
        changes: `section.key=value` each.
    """
    count = _batch_size(option_file, place, changes)
    changes = [*changes, f"datasets.train.batch_size_per_gpu={count}"]
    trainings = {
        kind: _training(option_file, kind, place, changes) for kind in (PLAIN, *parametrizations)
    }
    batch = _batch(trainings[PLAIN].options, place)
    steps = {kind: _Steps(training, batch) for kind, training in trainings.items()}
    turns = take_turns({kind: one.take for kind, one in steps.items()}, rounds, place.device)
    facts = {kind: one.memory() for kind, one in steps.items()}
    rows = []
    for kind in parametrizations:
        own, plain = turns[kind], turns[PLAIN]
        rows.append(
            {
                "network": trainings[kind].options.network_g.type.removeprefix("Hyper"),
                "option_file": option_file.name,
                "parametrization": kind,
                "input": list(batch["lq"].shape),
                "paper_batch": load_options(option_file).datasets["train"].batch_size_per_gpu,
                "rounds": rounds,
                "plain_ms": quartiles(plain.wall_ms),
                "hyper_ms": quartiles(own.wall_ms),
                "wall_ratio": ratios(own.wall_ms, plain.wall_ms),
                "cpu_ratio": ratios(own.cpu_ms, plain.cpu_ms),
                "search_ms": steps[kind].search_ms(),
                "plain": facts[PLAIN],
                "hyper": facts[kind],
            }
        )
    return rows


def compare_steps(
    training: Trainer, other: Trainer, batch: Mapping[str, Any], rounds: int = 7
) -> float:
    """Return the time of a step of `training`, in steps of `other`: processor time on a CPU. Both are trained on.

    Args:
        training: a network in training, and
        other: what it is measured against, on the same device.
        batch: for both.
        rounds: turns that they take; the median of the ratios counts.
    """
    rivals = {"one": training, "other": other}
    steps = {name: partial(rival.step, batch, _present(rival)) for name, rival in rivals.items()}
    turns = take_turns(steps, rounds, training.context.device)
    on_cpu = training.context.device.type == "cpu"
    own, others = (turns[name].cpu_ms if on_cpu else turns[name].wall_ms for name in rivals)
    return ratios(own, others)["median"]


def _present(training: Trainer) -> int:
    """Return an iteration of the phase that a training is in."""
    return (
        training.schedule.dense_iter
        if training.phase.name == "search"
        else training.schedule.total_iter - 1
    )


def _training(
    option_file: Path, kind: str, place: DistributedContext, changes: Sequence[str]
) -> Trainer:
    own = (
        ["compress=null"]
        if kind == PLAIN
        else [f"compress.parametrization={kind}", "compress.dense_iter=0"]
    )
    options = load_options(option_file, [*changes, *own])
    torch.manual_seed(options.manual_seed)
    training = Trainer(options, place)
    training.advance(0)
    return training


def _batch(options: Options, place: DistributedContext) -> dict[str, Tensor]:
    data = options.datasets["train"]
    channels = 3 if data.color == "rgb" else 1
    sides = {"lq": data.gt_size // options.scale, "gt": data.gt_size}
    make = torch.Generator().manual_seed(0)
    size = data.batch_size_per_gpu
    return {
        key: torch.rand(size, channels, side, side, generator=make).to(place.device)
        for key, side in sides.items()
    }


def _batch_size(option_file: Path, place: DistributedContext, changes: Sequence[str]) -> int:
    """Return the batch of the option file; on a CPU halved until a plain step stays below LIMIT_S."""
    count = load_options(option_file, changes).datasets["train"].batch_size_per_gpu
    if place.device.type != "cpu":
        return count
    single = [*changes, "datasets.train.batch_size_per_gpu=1"]
    training = _training(option_file, PLAIN, place, single)
    steps = _Steps(training, _batch(training.options, place))
    steps.take()
    start = time.process_time()
    steps.take()
    per_image = (time.process_time() - start) / torch.get_num_threads()
    while count > 1 and count * per_image > LIMIT_S:
        count //= 2
    return count


class _Steps:
    """The steps of one training, from the middle of its search on."""

    def __init__(self, training: Trainer, batch: dict[str, Tensor]) -> None:
        self._training, self._batch = training, batch
        self._iteration = training.schedule.search_iter // 2 // INTERVAL * INTERVAL

    def take(self) -> None:
        self._training.step(self._batch, self._iteration)
        self._iteration += 1

    def search_ms(self) -> float:
        """Processor time of the search's share of a step, its rare proximal steps spread over all."""
        start = time.process_time()
        for _ in range(INTERVAL):
            self._training.phase.search.step(self._iteration)
            self._iteration += 1
        return (time.process_time() - start) * 1000 / INTERVAL

    def memory(self) -> dict[str, int | None]:
        training, batch = self._training, self._batch
        return {
            "params": sum(
                parameter.numel()
                for parameter in training.network.parameters()
                if parameter.requires_grad
            ),
            "saved_bytes": sum(kept_for_backward(training, batch, self._iteration).values()),
            "state_bytes": sum(held(training).values()),
            "cuda_peak_bytes": cuda_peak_bytes(training, batch, self._iteration),
        }
