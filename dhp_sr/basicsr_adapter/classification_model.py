"""The model that BasicSR's registry builds for networks that name classes: `model_type: DHPClassificationModel`."""

from typing import Any

from dhp_sr.basicsr_adapter.model import DHPModel
from dhp_sr.data.classification import ValImages
from dhp_sr.tasks.classification import ClassTestSet
from dhp_sr.utils.errors import UserError


class DHPClassificationModel(DHPModel):
    """Trains, searches, cuts and finetunes a classifier: DHPModel, whose task follows from the data.

    Batches hold `image`, normalized float32 (N, C, H, W), and `label`, int64 (N,). `best` is the lowest top-1 error.
    """

    def _as_test_set(self, loader: Any) -> ClassTestSet:
        items = loader.dataset
        if not isinstance(items, ValImages):
            raise UserError(
                f"expected a loader over a ClassificationDataset, found {type(items).__name__}"
            )
        return ClassTestSet(getattr(items, "name", "val"), items)
