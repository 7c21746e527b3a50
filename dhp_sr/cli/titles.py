"""What tables call models and test sets: names of files and folders, no two the same."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

PLAIN_FOLDERS = ("HR", "GT", "hr", "gt", "original", "images")
"""Beginnings of folder names that do not tell which set it is."""


def set_titles(folders: Sequence[str]) -> list[str]:
    """Name sets after their folders (Set5/HR is Set5); a name that occurs twice gets a number."""
    titles: list[str] = []
    for folder in folders:
        path = Path(folder)
        title = (path.parent.name if path.name.startswith(PLAIN_FOLDERS) else path.name) or str(
            folder
        )
        number = sum(other.split("#")[0] == title for other in titles)
        titles.append(f"{title}#{number + 1}" if number else title)
    return titles


def model_titles(paths: Sequence[str | Path]) -> list[str]:
    """Name models by their files, with as much of the path as tells them apart."""
    several = [Path(path) for path in paths]
    titles = [path.stem for path in several]
    for longer in (lambda path: path.name, _with_run, _with_suffix, str):
        twice = {title for title, count in Counter(titles).items() if count > 1}
        titles = [
            longer(path) if title in twice else title
            for title, path in zip(titles, several, strict=True)
        ]
    return titles


def _with_run(path: Path) -> str:
    """Name the run: `experiments/NAME/models/pruned.safetensors` is `NAME/pruned`."""
    folder = path.absolute().parent
    return f"{(folder.parent if folder.name == 'models' else folder).name}/{path.stem}"


def _with_suffix(path: Path) -> str:
    return f"{_with_run(path)}{path.suffix}"
