"""Batches of a run, for benchmarks that call its training steps themselves."""

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dhp_sr.config import Options
from dhp_sr.data.sampler import train_batches
from dhp_sr.tasks import task_of
from dhp_sr.training.trainer import Trainer


def batches(
    options: Options, start: int, end: int | None = None, train_set: Any = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (iteration, batch), with the same batches as in `train.py`.

    Args:
        options: options of the run, with absolute paths.
        start: first iteration.
        end: iteration to stop before; default: none.
        train_set: images to draw from; default: those of the options.
    """
    data = options.datasets["train"]
    loader = train_batches(
        train_set or task_of(options).train_set(options),
        batch_size=data.batch_size_per_gpu,
        workers=0,  # measured in this process
        seed=options.manual_seed,
        start_iteration=start,
    )
    iterations = itertools.count(start) if end is None else range(start, end)
    for iteration in iterations:
        yield iteration, next(loader)


def teach(trainer: Trainer, train_set: Any) -> None:
    """Run the teacher on whole training images, where the options say so.

    Args:
        trainer: A run whose search begins at once, so that its teacher is loaded.
        train_set: Images; their batches hold the teacher's outputs as `taught` from here on.
    """
    trainer.resources.loss.teach_whole_images(train_set, Path(tempfile.gettempdir()))
