"""Tasks: data, loss and scores of restoration and classification.

`base.Task` is the interface; a new task is a class of it and an entry of `TASKS`. `evaluation`
scores models of any task.
"""

from dhp_sr.config.datasets import IMAGES
from dhp_sr.config.schema import Options
from dhp_sr.tasks.base import Task
from dhp_sr.tasks.classification import Classification
from dhp_sr.tasks.restoration import Denoising, ImageRestoration, SuperResolution
from dhp_sr.utils.errors import UserError

TASKS: dict[str, Task] = {
    task.dataset_type: task for task in (SuperResolution(), Denoising(), Classification())
}
"""Type of dataset in an option file -> the task that it makes of a run; others: `task_of`."""


def task_of(options: Options) -> Task:
    """Return the task of an option file; its datasets are all of one type."""
    # The loader has checked that there are datasets, and that their types agree.
    first = next(iter(options.datasets.values()))
    if first.type == IMAGES:
        return TASKS["SRDataset"] if options.scale > 1 else ImageRestoration()
    return TASKS[first.type]


def task_named(name: str) -> Task:
    """Return the task that a network or a model file names.

    Raises:
        UserError: There is none of that name.
    """
    known = {task.name: task for task in TASKS.values()}
    if name not in known:
        raise UserError(f"expected a network for {', '.join(known)}, got a network for {name!r}")
    return known[name]
