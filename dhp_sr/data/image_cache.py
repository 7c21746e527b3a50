"""Images by number: decoded once and kept, or decoded at every visit."""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from tqdm import tqdm

T = TypeVar("T")


class Store(Generic[T]):
    """A sequence of things to load.

    Args:
        loaders: One an image; called without arguments.
        keep: Load everything now and keep it, so that a damaged image is found before training.
        title: What the progress bar says. The bar is shown on terminals only.
    """

    def __init__(self, loaders: Sequence[Callable[[], T]], *, keep: bool, title: str) -> None:
        """Load everything if it is to be kept."""
        self._loaders = list(loaders)
        self._kept = [loader() for loader in progress_bar(self._loaders, title)] if keep else None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._loaders)

    def __getitem__(self, index: int) -> T:
        """Return what the loader of this number gives."""
        return self._loaders[index]() if self._kept is None else self._kept[index]


def progress_bar(items: Sequence[T], title: str) -> "tqdm[T]":
    """Return the items wrapped in a progress bar, which is silent where stderr is no terminal."""
    return tqdm(items, desc=title, unit="image", disable=None, leave=False)
