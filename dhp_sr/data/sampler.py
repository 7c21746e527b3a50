"""Batches whose content depends on the seed and the iteration alone, not on workers, history or interruptions."""

from collections.abc import Iterator, Sized
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from dhp_sr.data.batching import BatchedDataset
from dhp_sr.utils.errors import UserError

Address = tuple[int, int]
_ORDER = 1
"""Keeps the stream of permutations apart from the streams of the samples, which are (seed, position)."""


class BatchAddresses:
    """An endless sequence of batches of addresses (number of the image, position in the run).

    Positions count the samples of all ranks from the start of the run. Each pass over the images has an order of its
    own; a rank's batch is a slice of the common batch.

    Args:
        images: Number of images.
        batch_size: Samples a rank gets in an iteration.
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
        """Keep the arguments."""
        self.images, self.batch_size, self.seed = images, batch_size, seed
        self.start_iteration, self.world_size, self.rank = start_iteration, world_size, rank
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def __iter__(self) -> Iterator[list[Address]]:
        """Yield batches without end."""
        iteration = self.start_iteration
        while True:
            yield self.batch(iteration)
            iteration += 1

    def batch(self, iteration: int) -> list[Address]:
        """Return this rank's batch of an iteration, counted from 0."""
        first = (iteration * self.world_size + self.rank) * self.batch_size
        return [
            (self._picture(position), position)
            for position in range(first, first + self.batch_size)
        ]

    def _picture(self, position: int) -> int:
        epoch, place = divmod(position, self.images)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng((self.seed, epoch, _ORDER)).permutation(self.images)
        return int(self._order[place])


def train_batches(
    dataset: Dataset,
    *,
    batch_size: int,
    workers: int,
    seed: int,
    start_iteration: int,
    world_size: int = 1,
    rank: int = 0,
) -> Iterator[dict[str, Any]]:
    """Yield batches without end, from `start_iteration` on; see `BatchAddresses` for the arguments.

    Args:
        dataset: Gives a sample for an address.
        batch_size: Samples a rank gets in an iteration.
        workers: Processes that prepare batches; 0 prepares them in this process. The batches are the same.
        seed: Fixes the order of the images.
        start_iteration: The first iteration to give, counted from 0.
        world_size: Number of ranks.
        rank: This rank.

    Returns:
        Dictionaries of `lq` and `gt`, float32 (N, C, H, W), and `key`, a list of names; of a `BatchedDataset`, what its
        `batch` returns.

    Raises:
        UserError: An image turned out to be damaged while it was read.
    """
    assert isinstance(dataset, Sized)
    addresses = BatchAddresses(
        len(dataset),
        batch_size=batch_size,
        seed=seed,
        start_iteration=start_iteration,
        world_size=world_size,
        rank=rank,
    )
    if workers:
        yield from _from_workers(dataset, addresses, workers)
    for batch in addresses:
        yield _gathered(dataset, batch)


def _gathered(dataset: Dataset, addresses: list[Address]) -> dict[str, Any]:
    if isinstance(dataset, BatchedDataset):
        return dataset.batch(addresses)
    return collate([dataset[address] for address in addresses])


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Stack the tensors of samples and list their names."""
    keys = [sample["key"] for sample in samples]
    return {
        **{name: torch.stack([sample[name] for sample in samples]) for name in ("lq", "gt")},
        "key": keys,
    }


class _Batches(Dataset):
    """Whole batches by their addresses; a user's error is returned, since torch would wrap it in a traceback."""

    def __init__(self, samples: Dataset) -> None:
        self.samples = samples

    def __getitem__(self, addresses: list[Address]) -> dict[str, Any] | UserError:
        try:
            return _gathered(self.samples, addresses)
        except UserError as error:
            return error


def _from_workers(
    dataset: Dataset, addresses: BatchAddresses, workers: int
) -> Iterator[dict[str, Any]]:
    loader = DataLoader(
        _Batches(dataset),
        sampler=addresses,
        batch_size=None,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # its own, so that the number of workers leaves torch's global stream alone
    )
    for batch in loader:
        if isinstance(batch, UserError):
            raise batch
        yield batch
