"""The tasks. A new one is a class of `Task` and a row here."""

from dhp_sr.config.schema import Options
from dhp_sr.models.classification import Classification
from dhp_sr.models.restoration import Restoration
from dhp_sr.models.task import Task

TASKS: dict[str, Task] = {
    "SRDataset": Restoration("sr"),
    "NoiseDataset": Restoration("denoise"),
    "ClassificationDataset": Classification(),
}
"""Type of dataset in an option file -> the task that it makes of a run."""


def task_of(options: Options) -> Task:
    """Return the task of an option file; its datasets are all of one type."""
    return TASKS[next(iter(options.datasets.values())).type]
