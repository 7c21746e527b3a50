"""Models of BasicSR's registry: `model_type: DHPModel` and `DHPClassificationModel`.

BasicSR's own train.py calls the methods of a model with a dictionary of options and counts
iterations from 1. These classes translate both for a `Trainer`, which does the work.
"""

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader

from dhp_sr.basicsr_adapter.options import decode, our_options, run_folder_of
from dhp_sr.config.schema import Options
from dhp_sr.data.classification import ValImages
from dhp_sr.data.samples import Batch
from dhp_sr.tasks import task_of
from dhp_sr.tasks.base import NamedTestSet
from dhp_sr.tasks.classification import ClassTestSet
from dhp_sr.tasks.test_sets import TestSet
from dhp_sr.training.distributed import DistributedContext
from dhp_sr.training.run_folder import RunFolder
from dhp_sr.training.trainer import Trainer
from dhp_sr.utils.devices import select_device
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.modules import StateTree

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class DHPModel:
    """Adapter from the methods of BasicSR's models to a `Trainer`.

    `current_iter` is the step that is taken or was taken last, counted from 1.

    Args:
        opt: The fields of an option file, and beside them `run_folder` (a path, needed to save
            and to resume; default: the folder that BasicSR's own train.py made) and `context` (a
            DistributedContext; default: one process on the device of `num_gpu`). Keys that BasicSR
            adds are left out.

    Raises:
        UserError: The options do not fit together, or the network cannot be built.
    """

    is_train = True

    def __init__(self, opt: Mapping[str, Any]) -> None:
        # BasicSR adds keys of its own (`dist`, `rank`, ...), which strict options would refuse.
        options = decode(Options, our_options(opt, Options.model_fields))
        context = opt.get("context") or DistributedContext(select_device(options.num_gpu))
        folder = None
        run_folder = opt.get("run_folder") or run_folder_of(opt)
        if run_folder:
            folder = RunFolder(Path(run_folder), task_of(options).scores)
        self.trainer = Trainer(options, context, folder)
        self.device = context.device
        self._batch: Batch = {}
        self._log: dict[str, float] = {}

    def feed_data(self, data: Batch) -> None:
        """Take the batch of the next step."""
        self._batch = data

    def update_learning_rate(self, current_iter: int, warmup_iter: int = -1) -> None:
        """Do nothing: every step sets its own rate, a closed formula of the iteration."""

    def optimize_parameters(self, current_iter: int) -> None:
        """Take step `current_iter` with the last batch; a phase that begins there is entered."""
        # BasicSR's loop knows no phases, so they are entered here, before the step.
        self.trainer.advance(current_iter - 1)
        self._log = self.trainer.step(self._batch, current_iter - 1)

    def get_current_log(self) -> OrderedDict[str, float]:
        """Return the figures of the last step, the loss with BasicSR's prefix `l_`."""
        log: OrderedDict[str, float] = OrderedDict()
        for key, value in self._log.items():
            log["l_loss" if key == "loss" else key] = value
        return log

    def get_current_learning_rate(self) -> list[float]:
        """Return the learning rate of the last step."""
        return [group["lr"] for group in self.trainer.phase.optimizer.param_groups]

    def validation(
        self,
        dataloader: DataLoader | NamedTestSet,
        current_iter: int,
        tb_logger: "SummaryWriter | None",
        save_img: bool = False,
    ) -> dict[str, float]:
        """Score on a test set, or on a loader of BasicSR with batches of a single image.

        Args:
            dataloader: A test set of the task, or a DataLoader over one of our datasets.
            current_iter: Iteration for TensorBoard.
            tb_logger: TensorBoard's SummaryWriter; None writes nothing.
            save_img: Whether to save the images that the network makes.
        """
        if isinstance(dataloader, DataLoader):
            test_set = self.to_test_set(dataloader)
        else:
            test_set = dataloader
        save_to = None
        if save_img and self.trainer.folder is not None:
            save_to = self.trainer.folder.visualization / test_set.name
        scores = self.trainer.validate(test_set, save_to)
        if tb_logger is not None:
            for key, value in scores.items():
                if key != "images":
                    tb_logger.add_scalar(f"metrics/{test_set.name}/{key}", value, current_iter)
        return scores

    def save(self, epoch: int, current_iter: int) -> None:
        """Write the training state after `current_iter` iterations."""
        # The epoch is not needed: batches follow from the iteration alone.
        self.trainer.save(current_iter)

    def resume_training(self, resume_state: str | Path) -> StateTree:
        """Continue from a state file; return it, with its `iteration`.

        Raises:
            CheckpointError: The file is no training state, or damaged.
            UserError: It belongs to other options.
        """
        return self.trainer.resume(Path(resume_state))

    def to_test_set(self, loader: DataLoader) -> NamedTestSet:
        """Make a test set of the images that a loader goes through."""
        dataset: Any = loader.dataset
        section = getattr(dataset, "opt", {})
        scale = self.trainer.options.scale
        crop_border = section.get("crop_border")
        if crop_border is None:
            # BasicSR's convention for super-resolution; denoised images are scored whole.
            crop_border = scale if scale > 1 else 0
        return TestSet(section.get("name", "val"), dataset, scale, crop_border)


class DHPClassificationModel(DHPModel):
    """`DHPModel` for classifiers.

    Batches hold `image`, normalized float32 (N, C, H, W), and `label`, int64 (N,).
    """

    def to_test_set(self, loader: DataLoader) -> ClassTestSet:
        """Make a test set of the labeled images that a loader goes through."""
        dataset = loader.dataset
        if not isinstance(dataset, ValImages):
            raise UserError(
                f"expected a loader over a ClassificationDataset, got {type(dataset).__name__}"
            )
        return ClassTestSet(getattr(dataset, "name", "val"), dataset)
