"""The batches of a run, for benchmarks that drive its training themselves."""

import itertools
from collections.abc import Iterator
from typing import Any

from dhp_sr.config import Options
from dhp_sr.data.sampler import train_batches
from dhp_sr.tasks import task_of


def batches(
    options: Options, start: int, end: int | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (iteration, batch) from `start` up to `end`, or for ever; batches of any task, as `train.py` has them."""
    data = options.datasets["train"]
    found = train_batches(
        task_of(options).train_set(options),
        batch_size=data.batch_size_per_gpu,
        workers=0,
        seed=options.manual_seed,
        start_iteration=start,
    )
    for iteration in itertools.count(start) if end is None else range(start, end):
        yield iteration, next(found)
