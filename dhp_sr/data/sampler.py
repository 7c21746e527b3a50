"""Batches that depend on the seed and the iteration alone, not on workers or interruptions."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence, Sized
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dhp_sr.data.samples import Batch, TrainSample
from dhp_sr.utils.errors import LostProcessError, UserError

SampleIndex = tuple[int, int]
"""Index of an image, and the position of the sample in the run."""
MAX_WAIT = 1800
"""Seconds to wait for a batch of a worker: far more than any batch takes, but not for ever."""
_ORDER = 1
"""Third number of the seeds of permutations; those of samples are (seed, position) alone."""


Address = TypeVar("Address")
"""What addresses a sample of a data set."""


class BatchedDataset(Dataset, Generic[Address]):
    """A data set whose samples are made together, which is much faster for small images."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @abstractmethod
    def batch(self, samples: Sequence[Address]) -> Batch:
        """Return several samples, stacked."""

    def __getitem__(self, sample: Address) -> Batch:
        """Return a single sample."""
        batch = self.batch([sample])
        return {name: values[0] for name, values in batch.items()}


class BatchSampler:
    """An endless sequence of batches of sample indices.

    Positions count the samples of all ranks from the start of the run. Each pass over the images
    has an order that no other pass has; a rank's batch is a slice of the common batch.

    Args:
        images: Number of images.
        batch_size: Samples that a rank gets in an iteration.
        seed: Fixes the orders.
        start_iteration: The first iteration to give, counted from 0.
        world_size: Number of ranks.
        rank: This rank.
    """

    def __init__(
        self,
        images: int,
        *,
        batch_size: int,
        seed: int,
        start_iteration: int = 0,
        world_size: int = 1,
        rank: int = 0,
    ) -> None:
        self.images = images
        self.batch_size = batch_size
        self.seed = seed
        self.start_iteration = start_iteration
        self.world_size = world_size
        self.rank = rank
        self._epoch = -1
        self._order = np.empty(0, np.int64)

    def __iter__(self) -> Iterator[list[SampleIndex]]:
        """Yield batches without end."""
        iteration = self.start_iteration
        while True:
            yield self.batch(iteration)
            iteration += 1

    def batch(self, iteration: int) -> list[SampleIndex]:
        """Return this rank's batch of an iteration, counted from 0."""
        # ranks take turns: together they see the batch of a run with a single rank
        first = (iteration * self.world_size + self.rank) * self.batch_size
        positions = range(first, first + self.batch_size)
        return [(self._image_index(position), position) for position in positions]

    def _image_index(self, position: int) -> int:
        epoch, index = divmod(position, self.images)
        if epoch != self._epoch:
            # computed from the epoch's number, so that a resumed run needs no history
            self._epoch = epoch
            rng = np.random.default_rng((self.seed, epoch, _ORDER))
            self._order = rng.permutation(self.images)
        return int(self._order[index])


def make_first_batch(dataset: Dataset, *, batch_size: int, seed: int) -> Batch:
    """Return the first samples of a training, to be looked at before it begins.

    Args:
        dataset: Gives a sample for a sample index.
        batch_size: Number of samples.
        seed: Seed of the training.

    Raises:
        UserError: An image turned out to be damaged while it was read.
    """
    assert isinstance(dataset, Sized)
    return _make_batch(
        dataset, BatchSampler(len(dataset), batch_size=batch_size, seed=seed).batch(0)
    )


def train_batches(
    dataset: Dataset,
    *,
    batch_size: int,
    workers: int,
    seed: int,
    start_iteration: int,
    world_size: int = 1,
    rank: int = 0,
) -> Iterator[Batch]:
    """Yield batches without end, from `start_iteration` on.

    Args:
        dataset: Gives a sample for a sample index.
        batch_size: Samples that a rank gets in an iteration.
        workers: Processes that prepare batches; 0 prepares them in this process. The batches are
            the same.
        seed: Fixes the order of the images.
        start_iteration: The first iteration to give, counted from 0.
        world_size: Number of ranks.
        rank: This rank.

    Returns:
        Dictionaries of `lq` and `gt`, float32 (N, C, H, W), and `key`, a list of names; of a
        `BatchedDataset`, what its `batch` returns.

    Raises:
        UserError: An image turned out to be damaged while it was read.
    """
    assert isinstance(dataset, Sized)  # torch's Dataset does not promise a length
    sampler = BatchSampler(
        len(dataset),
        batch_size=batch_size,
        seed=seed,
        start_iteration=start_iteration,
        world_size=world_size,
        rank=rank,
    )
    if workers:
        yield from _batches_of_workers(dataset, sampler, workers)
    for samples in sampler:
        yield _make_batch(dataset, samples)


def _make_batch(dataset: Dataset, samples: list[SampleIndex]) -> Batch:
    if isinstance(dataset, BatchedDataset):
        return dataset.batch(samples)
    return collate([dataset[sample] for sample in samples])


def collate(samples: list[TrainSample]) -> Batch:
    """Stack the tensors of samples and list their names."""
    batch: dict[str, Tensor | list[str]] = {"key": [sample["key"] for sample in samples]}
    for name in ("lq", "gt", "taught"):
        # Samples hold a teacher's output only where it was computed before.
        if name not in samples[0]:
            continue
        batch[name] = torch.stack([sample[name] for sample in samples])
    return batch


class _BatchDataset(Dataset):
    """Whole batches by their sample indices.

    A user's error is returned, not raised: torch would wrap it in a traceback of the worker.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getitem__(self, samples: list[SampleIndex]) -> Batch | UserError:
        try:
            batch = _make_batch(self.dataset, samples)
            for value in batch.values():
                # Moved to shared memory here rather than in the thread that sends the batch: an
                # error there would be lost, and the training would wait for the batch for ever.
                if isinstance(value, Tensor):
                    value.share_memory_()
        except UserError as error:
            return error
        except (RuntimeError, OSError) as error:
            # A full /dev/shm, or too many open files.
            return LostProcessError(
                f"a worker that prepares images cannot pass them on ({error}); lower "
                "num_worker_per_gpu (0 needs no shared memory) or batch_size_per_gpu, or start "
                "the container with a larger --shm-size"
            )
        return batch


def _batches_of_workers(dataset: Dataset, sampler: BatchSampler, workers: int) -> Iterator[Batch]:
    loader = DataLoader(
        _BatchDataset(dataset),
        sampler=sampler,
        batch_size=None,  # batches are made by the data set
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        # a generator for the loader alone: torch's global generator must not depend on workers
        generator=torch.Generator(),
        timeout=MAX_WAIT,
    )
    batches = iter(loader)
    while True:
        try:
            batch = next(batches)
        except (RuntimeError, OSError, EOFError) as error:
            # A worker that was killed shows in one of these ways, by the step that it was at.
            raise LostProcessError(
                "a worker that prepares images has ended. Most often it was killed because the "
                "memory ran out: lower num_worker_per_gpu (0 needs none), or set "
                f"datasets.train.cache: none. (torch says: {error})"
            ) from error
        if isinstance(batch, UserError):
            raise batch
        yield batch
