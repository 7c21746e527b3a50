"""Classification: labelled images, cross-entropy, top-1 and top-5 error."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from dhp_sr.config.compress import Distill
from dhp_sr.config.schema import ClassLoss, Options, Train
from dhp_sr.data.build import build_train_set, build_val_set
from dhp_sr.deploy import Origin
from dhp_sr.deploy.origins import mark
from dhp_sr.losses import build_class_loss, softened_distance
from dhp_sr.metrics import evaluating
from dhp_sr.models.named import full_name
from dhp_sr.models.origins import register_known
from dhp_sr.models.task import Scores, Task, open_sets
from dhp_sr.structure.trace import to_meta
from dhp_sr.utils.errors import UserError

SCORES = ("top1_error_percent", "top5_error_percent", "cross_entropy")
BATCH = 250
"""Images that are scored together."""
TEMPERATURE = 4.0
"""Usual softening of distillation."""


@dataclass(frozen=True)
class ClassTestSet:
    """A test set.

    Attributes:
        name: What tables call it; unique in a run.
        items: Its images, as dicts with "image" and "label".
    """

    name: str
    items: Any


class Classification(Task):
    """Images in, scores of classes out."""

    name = "classification"
    scores = SCORES
    batch_keys = ("image", "label")

    @property
    def best(self) -> tuple[str, bool]:
        """The lowest top-1 error wins."""
        return "top1_error_percent", False

    def train_set(self, options: Options) -> Dataset:
        """Open the images of `datasets.train`."""
        return build_train_set(options.datasets["train"], 1, options.manual_seed)

    def test_sets(self, options: Options) -> list[ClassTestSet]:
        """Open the test sets."""
        return open_sets(options, lambda name, data: ClassTestSet(name, build_val_set(data, 1)))

    def check_fit(self, network: nn.Module, name: str, options: Options) -> None:
        """Refuse networks of another task or number of channels."""
        if network.task != self.name:
            raise UserError(
                f"network_g: {name} is made for {network.task}, a ClassificationDataset needs a network that names "
                "classes, such as ResNet"
            )
        for key, data in options.datasets.items():
            channels = 3 if data.color == "rgb" else 1
            if channels != network.in_channels:
                raise UserError(
                    f"network_g: {name} takes {network.in_channels} channel(s), datasets.{key} gives {channels} "
                    f"(color: {data.color}); set num_in_ch or color"
                )

    def check_data(self, network: nn.Module, train_set: Any, sets: Sequence[ClassTestSet]) -> None:
        """Refuse another number of classes than the network's, and sets with other classes."""
        check_classes(network, "datasets.train", train_set)
        for test_set in sets:
            check_classes(network, test_set.name, test_set.items)
            if list(test_set.items.classes) != list(train_set.classes):
                raise UserError(
                    f"{test_set.name}: expected the classes of datasets.train ({_listed(train_set.classes)}) in their "
                    f"order, found {_listed(test_set.items.classes)}"
                )

    def describe_foreign(
        self, network: nn.Module, name: str, arguments: Mapping[str, Any], options: Options
    ) -> nn.Module:
        """Note the channels and the side of the images; a network that they do not pass is refused."""
        register_known()
        data = options.datasets["train"]
        channels, side = 3 if data.color == "rgb" else 1, self.image_side(options)
        origin = Origin(full_name(name), arguments, self.name, 1, channels, 1, side)
        try:
            count_classes(network, channels, side)
        except Exception as error:  # the author's code: whatever it raises, the image did not pass
            raise UserError(
                f"network_g: {name} does not suit the images ({channels} x {side} x {side}): {str(error)[:300]}"
            ) from error
        return mark(network, origin)

    def build_loss(self, train: Train) -> nn.Module:
        """Return the loss of `train.cls_opt`."""
        chosen = train.cls_opt or ClassLoss()
        return build_class_loss(chosen.type, chosen.loss_weight, chosen.label_smoothing)

    def distance(self, output: Tensor, teacher: Tensor, distill: Distill) -> Tensor:
        """Return the divergence of the softened scores."""
        return softened_distance(output, teacher, distill.temperature or TEMPERATURE)

    @torch.no_grad()
    def evaluate(
        self, network: nn.Module, test_set: Any, device: torch.device | str = "cpu", save_to: Path | None = None
    ) -> Scores:
        """Return both errors in percent, the cross-entropy, and the number of images."""
        counts, total = [0.0, 0.0, 0.0], len(test_set.items)
        with evaluating(network):
            for first in range(0, total, BATCH):
                items = [test_set.items[index] for index in range(first, min(first + BATCH, total))]
                scores_NK = network(torch.stack([item["image"] for item in items]).to(device)).float().cpu()
                label_N = torch.as_tensor([int(item["label"]) for item in items])
                for place, value in enumerate(_counts(scores_NK, label_N)):
                    counts[place] += value
        wrong1, wrong5, entropy = counts
        values = (100 * wrong1 / total, 100 * wrong5 / total, entropy / total)
        return {**dict(zip(SCORES, values, strict=True)), "images": total}

    def summary(self, scores: Mapping[str, float]) -> str:
        """Return both errors."""
        return f"top-1 error {scores['top1_error_percent']:.2f} %, top-5 error {scores['top5_error_percent']:.2f} %"


def _counts(scores_NK: Tensor, label_N: Tensor) -> tuple[float, float, float]:
    """Return the number of images whose class is not the first, not among the first five, and the sum of entropies."""
    ranked = scores_NK.topk(min(5, scores_NK.shape[1]), dim=1).indices == label_N[:, None]
    entropy = nn.functional.cross_entropy(scores_NK.double(), label_N, reduction="sum")
    return float((~ranked[:, 0]).sum()), float((~ranked.any(1)).sum()), float(entropy)


def count_classes(network: nn.Module, channels: int, side: int) -> int:
    """Return the length of a network's output; shapes alone are computed."""
    with torch.no_grad():
        found = to_meta(copy.deepcopy(network).eval())(torch.empty(1, channels, side, side, device="meta"))
    if not isinstance(found, Tensor) or found.dim() != 2:
        raise UserError(f"expected an output of (images, classes), found {tuple(getattr(found, 'shape', ()))}")
    return found.shape[1]


def check_classes(network: nn.Module, where: str, items: Any) -> None:
    """Check that a network has an output for each class of a set.

    Raises:
        UserError: it has more or fewer.
    """
    side = items[(0, 0)]["image"].shape[-1] if where == "datasets.train" else items[0]["image"].shape[-1]
    mine, theirs = count_classes(network, network.in_channels, side), len(items.classes)
    if mine != theirs:
        raise UserError(
            f"{where}: expected {mine} classes, which the network names, found {theirs} "
            f"({_listed(items.classes)}); set network_g.num_classes: {theirs}"
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
