"""The batches of a run, for benchmarks that drive its training themselves."""

from collections.abc import Iterator
from typing import Any

from dhp_sr.config import Options
from dhp_sr.data.build import build_train_set
from dhp_sr.data.sampler import train_batches


def batches(options: Options, start: int, end: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (iteration, batch) from `start` up to `end`, the same batches as in `train.py`."""
    data = options.datasets["train"]
    found = train_batches(
        build_train_set(data, options.scale, options.manual_seed),
        batch_size=data.batch_size_per_gpu,
        workers=0,
        seed=options.manual_seed,
        start_iteration=start,
    )
    for iteration in range(start, end):
        yield iteration, next(found)
