"""Data sets that make whole batches at once, which is much faster for small images than one sample at a time."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from torch.utils.data import Dataset


class BatchedDataset(Dataset):
    """A data set whose samples are made together."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @abstractmethod
    def batch(self, addresses: Sequence[Any]) -> dict[str, Any]:
        """Return the samples of these addresses, stacked."""

    def __getitem__(self, address: Any) -> dict[str, Any]:
        """Return one sample."""
        return {name: values[0] for name, values in self.batch([address]).items()}
