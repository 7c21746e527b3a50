"""Classification: labeled images, cross-entropy, top-1 and top-5 error."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dhp_sr.config.compress import Distill
from dhp_sr.config.datasets import CLASSIFICATION, ClassificationVal
from dhp_sr.config.schema import ClassLoss, Options, Train
from dhp_sr.config.section import color_of
from dhp_sr.data.classification import (
    TrainImages,
    ValImages,
    build_train,
    build_val,
    check_same_classes,
)
from dhp_sr.deploy import ModelInfo, SizeRequirements
from dhp_sr.deploy.model_info import attach_info
from dhp_sr.graph.shape_inference import infer_output
from dhp_sr.losses import build_class_loss, kd_loss
from dhp_sr.metrics.accuracy import num_correct
from dhp_sr.reports.scores import CROSS_ENTROPY, TOP1, TOP5
from dhp_sr.tasks.base import Scores, Task, check_channels, decode_folder, open_sets
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.modules import evaluating
from dhp_sr.zoo.names import full_name, register_known

SCORES = tuple(score.key for score in (TOP1, TOP5, CROSS_ENTROPY))
SIDE = 32
"""Side of the images of a network that does not say it, where `size` does not either: CIFAR's."""
TEMPERATURE = 4.0
"""Usual softening of distillation."""


@dataclass(frozen=True)
class ClassTestSet:
    """A test set.

    Attributes:
        name: What tables call it; unique in a run.
        items: Its images and labels.
    """

    name: str
    items: ValImages


class Classification(Task):
    """Images in, scores of classes out."""

    name, dataset_type = "classification", CLASSIFICATION
    scores = SCORES
    batch_keys = ("image", "label")
    loss_name = "l_cls"

    def train_set(self, options: Options) -> TrainImages:
        """Open the images of `datasets.train`."""
        return build_train(options.datasets["train"], options.manual_seed)

    def test_sets(self, options: Options) -> list[ClassTestSet]:
        """Open the test sets."""
        return open_sets(options, lambda name, data: ClassTestSet(name, build_val(data)))

    def folder_sets(
        self, network: nn.Module, folders: Mapping[str, str], choices: Mapping[str, Any]
    ) -> list[ClassTestSet]:
        """Open labeled images: class folders, or what else a ClassificationDataset reads."""
        idle = [f"--{key}" for key, value in choices.items() if value is not None]
        if idle:
            raise UserError(f"a classifier, {', '.join(idle)} has no effect; leave it out")
        sets = []
        for name, folder in folders.items():
            color = color_of(network.in_channels)
            fields = {"type": CLASSIFICATION, "name": name, "dataroot": folder, "color": color}
            items = build_val(decode_folder(ClassificationVal, fields), "--data")
            _check_images(network, "--data", items)
            sets.append(ClassTestSet(name, items))
        return sets

    def check_fit(self, network: nn.Module, name: str, options: Options) -> None:
        """Refuse networks of another task or number of channels."""
        if network.task != self.name:
            raise UserError(
                f"network_g: {name} is made for {network.task}, a ClassificationDataset needs a network that names "
                "classes, such as ResNet"
            )
        check_channels(network, name, options)

    def check_data(
        self, network: nn.Module, train_set: TrainImages, sets: Sequence[ClassTestSet]
    ) -> None:
        """Refuse another number of classes or size than the network's, and sets with other classes."""
        for where, items in [
            ("datasets.train", train_set),
            *((one.name, one.items) for one in sets),
        ]:
            _check_images(network, where, items)
        for test_set in sets:
            check_same_classes(train_set.classes, test_set.items.classes, test_set.name)

    def describe_foreign(
        self, network: nn.Module, name: str, arguments: Mapping[str, Any], options: Options
    ) -> nn.Module:
        """Note channels and side of the images; a network that they do not pass is refused."""
        register_known()
        data = options.datasets["train"]
        channels, side = data.channels, data.size or SIDE
        try:
            classes = count_classes(network, channels, side)
        except Exception as error:  # the author's code: whatever it raises, the image did not pass
            raise UserError(
                f"network_g: {name} does not suit the images ({channels} x {side} x {side}): {str(error)[:300]}"
            ) from error
        info = ModelInfo(
            architecture=full_name(name),
            arguments=arguments,
            task=self.name,
            in_channels=channels,
            out_channels=classes,
            sizes=SizeRequirements(minimum=side),
            input_size=side,
        )
        return attach_info(network, info)

    def build_loss(self, train: Train) -> nn.Module:
        """Return the loss of `train.cls_opt`."""
        chosen = train.cls_opt or ClassLoss()
        return build_class_loss(chosen.type, chosen.loss_weight, chosen.label_smoothing)

    def distance(self, output: Tensor, teacher: Tensor, distill: Distill) -> Tensor:
        """Return the divergence of the softened scores."""
        return kd_loss(output, teacher, distill.temperature or TEMPERATURE)

    @torch.no_grad()
    def evaluate(
        self,
        network: nn.Module,
        test_set: Any,
        device: torch.device | str = "cpu",
        save_to: Path | None = None,
    ) -> Scores:
        """Return both errors in percent, the cross-entropy, and the number of images."""
        with evaluating(network):
            batches = test_set.items.batches()
            return score_classes(
                (network(one["image"].to(device)).float().cpu(), one["label"]) for one in batches
            )


def score_classes(found: Iterable[tuple[Tensor, Tensor]]) -> Scores:
    """Return the scores of (scores (N, K), true classes (N,)), batch by batch; see `SCORES`, and `images`."""
    wrong1, wrong5, entropy, total = 0, 0, 0.0, 0
    for scores_NK, label_N in found:
        wrong1 += len(label_N) - num_correct(scores_NK, label_N)
        wrong5 += len(label_N) - num_correct(scores_NK, label_N, 5)
        entropy += float(nn.functional.cross_entropy(scores_NK.double(), label_N, reduction="sum"))
        total += len(label_N)
    return {
        **dict(
            zip(SCORES, (100 * wrong1 / total, 100 * wrong5 / total, entropy / total), strict=True)
        ),
        "images": total,
    }


def count_classes(network: nn.Module, channels: int, side: int) -> int:
    """Return the length of a network's output; shapes alone are computed."""
    found = infer_output(copy.deepcopy(network).eval(), (1, channels, side, side))
    if not isinstance(found, Tensor) or found.dim() != 2:
        raise UserError(
            f"expected an output of (images, classes), found {tuple(getattr(found, 'shape', ()))}"
        )
    return found.shape[1]


def _check_images(network: nn.Module, where: str, items: TrainImages | ValImages) -> None:
    """Check size and number of classes of opened data."""
    side, found = network.input_size, items.labeled.images_NHWC.shape[1:3]
    if found != (side, side):
        raise UserError(
            f"{where}: expected images of {side} x {side}, for which the network is meant, found "
            f"{found[0]} x {found[1]}; set network_g.input_size, or `size` of the data"
        )
    mine, classes = count_classes(network, network.in_channels, side), items.classes
    if mine != len(classes):
        raise UserError(
            f"{where}: expected {mine} classes, as many as the network names, found {len(classes)} "
            f"({', '.join(classes[:5])}{', ...' if len(classes) > 5 else ''}); set network_g.num_classes: "
            f"{len(classes)}, or give other data"
        )
