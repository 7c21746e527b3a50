"""Classification: labeled images, cross-entropy, top-1 and top-5 error."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from dhp_sr.archs import described
from dhp_sr.config.compress import Distill
from dhp_sr.config.datasets import CLASSIFICATION, ClassificationTrain, ClassificationVal
from dhp_sr.config.schema import ClassLoss, Options, Train
from dhp_sr.config.section import color_of
from dhp_sr.data.classification import (
    TrainImages,
    ValImages,
    build_train,
    build_val,
    check_same_classes,
)
from dhp_sr.data.overlap import images_in_both_arrays
from dhp_sr.deploy import ModelInfo, SizeRequirements
from dhp_sr.deploy.model_info import attach_info
from dhp_sr.graph.shape_inference import infer_output
from dhp_sr.losses import build_class_loss, kd_loss
from dhp_sr.metrics.scores import num_correct
from dhp_sr.reports.scores import CROSS_ENTROPY, TOP1, TOP5
from dhp_sr.tasks.base import (
    FolderSettings,
    Scores,
    Task,
    check_channels,
    decode_section,
    open_test_sets,
)
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.modules import copy_network, evaluating
from dhp_sr.zoo.names import full_name, register_known

DEFAULT_INPUT_SIZE = 32
"""Height and width of the images where neither network nor data state them: CIFAR's."""
DEFAULT_TEMPERATURE = 4.0
"""Usual temperature of distillation (Hinton et al., 2015)."""


@dataclass(frozen=True)
class ClassTestSet:
    """Labeled images to classify."""

    name: str
    """Its name in tables; unique in a run."""
    items: ValImages
    """Images and labels."""


class Classification(Task[ClassTestSet]):
    """Images in, a score for each class out."""

    name = "classification"
    dataset_type = CLASSIFICATION
    scores = (TOP1.key, TOP5.key, CROSS_ENTROPY.key)
    batch_keys = ("image", "label")
    loss_name = "l_cls"

    def train_set(self, options: Options) -> TrainImages:
        """Open the labeled images of `datasets.train`."""
        section = options.datasets["train"]
        assert isinstance(section, ClassificationTrain)
        return build_train(section, options.manual_seed)

    def test_sets(self, options: Options) -> list[ClassTestSet]:
        """Open the test sets."""
        return open_test_sets(options, lambda name, data: ClassTestSet(name, build_val(data)))

    def open_folders(
        self, network: nn.Module, folders: Mapping[str, str], settings: FolderSettings
    ) -> list[ClassTestSet]:
        """Open labeled images: class folders, or another form that ClassificationDataset reads."""
        unused = [f"--{key}" for key, value in settings.items() if value is not None]
        if unused:
            raise UserError(f"a classifier, {', '.join(unused)} has no effect; leave it out")
        sets = []
        for name, folder in folders.items():
            fields = {
                "type": CLASSIFICATION,
                "name": name,
                "dataroot": folder,
                "color": color_of(described(network).in_channels),
            }
            items = build_val(decode_section(ClassificationVal, fields), "--data")
            _check_images(network, "--data", items)
            sets.append(ClassTestSet(name, items))
        return sets

    def check_fit(self, network: nn.Module, name: str, options: Options) -> None:
        """Check task and channels."""
        if network.task != self.name:
            raise UserError(
                f"network_g: {name} is made for {network.task}, a ClassificationDataset needs a "
                "classifier, such as ResNet"
            )
        check_channels(network, name, options)

    def check_data(
        self, network: nn.Module, train_set: Dataset, sets: Sequence[ClassTestSet]
    ) -> None:
        """Check image size and number of classes, and that all sets have the same classes."""
        assert isinstance(train_set, TrainImages)
        _check_images(network, "datasets.train", train_set)
        for test_set in sets:
            _check_images(network, test_set.name, test_set.items)
        # After the sizes: with another number of classes a list of names says less.
        for test_set in sets:
            check_same_classes(train_set.classes, test_set.items.classes, test_set.name)
            # Class folders without a folder for each split are those of any split.
            trained, tested = train_set.labeled.images_NHWC, test_set.items.labeled.images_NHWC
            num_shared = images_in_both_arrays(trained, tested)
            if num_shared:
                warnings.warn(
                    f"{test_set.name}: {num_shared} of {len(tested)} images are among those of "
                    "datasets.train; their scores say nothing about others. Name other images, or "
                    "put each split into a folder of its name",
                    stacklevel=2,
                )

    def describe_third_party(
        self, network: nn.Module, name: str, arguments: Mapping[str, object], options: Options
    ) -> nn.Module:
        """Attach channels and size of the images, if they pass through the network."""
        register_known()
        data = options.datasets["train"]
        assert isinstance(data, ClassificationTrain)
        size = data.size or DEFAULT_INPUT_SIZE
        try:
            num_classes = count_classes(network, data.channels, size)
        except Exception as error:  # third-party code: whatever it raises, the image did not pass
            raise UserError(
                f"network_g: {name} does not suit the images "
                f"({data.channels} x {size} x {size}): {str(error)[:300]}"
            ) from error
        info = ModelInfo(
            architecture=full_name(name),
            arguments=arguments,
            task=self.name,
            in_channels=data.channels,
            out_channels=num_classes,
            sizes=SizeRequirements(minimum=size),
            input_size=size,
        )
        return attach_info(network, info)

    def build_loss(self, train: Train) -> nn.Module:
        """Build the loss of `train.cls_opt`."""
        settings = train.cls_opt or ClassLoss()
        return build_class_loss(settings.type, settings.loss_weight, settings.label_smoothing)

    def distillation_loss(self, output: Tensor, teacher: Tensor, distill: Distill) -> Tensor:
        """Compute the divergence of the softened class distributions.

        Reference: Hinton et al., Distilling the Knowledge in a Neural Network, 2015.
        """
        return kd_loss(output, teacher, distill.temperature or DEFAULT_TEMPERATURE)

    @torch.no_grad()
    def evaluate(
        self,
        network: nn.Module,
        test_set: ClassTestSet,
        device: torch.device | str = "cpu",
        save_to: Path | None = None,
    ) -> Scores:
        """Return both errors in percent, the cross-entropy, and the number of images."""

        def outputs() -> Iterable[tuple[Tensor, Tensor]]:
            for batch in test_set.items.batches():
                # Scored on the CPU in float32, so that equal scores stay equal.
                scores_NK = network(batch["image"].to(device)).float().cpu()
                yield scores_NK, batch["label"]

        with evaluating(network):
            return score_classes(outputs())


def score_classes(outputs: Iterable[tuple[Tensor, Tensor]]) -> Scores:
    """Score a classifier.

    Args:
        outputs: Scores (N, K) before softmax and true classes (N,), batch by batch.

    Returns:
        Top-1 and top-5 error in percent, mean cross-entropy in nats, and the number of images.
    """
    # Counts rather than means of batches: the last batch may be smaller.
    wrong_top1 = 0
    wrong_top5 = 0
    entropy = 0.0
    total = 0
    for scores_NK, label_N in outputs:
        wrong_top1 += len(label_N) - num_correct(scores_NK, label_N)
        wrong_top5 += len(label_N) - num_correct(scores_NK, label_N, 5)
        # Sums over thousands of images, so in float64.
        entropy += float(nn.functional.cross_entropy(scores_NK.double(), label_N, reduction="sum"))
        total += len(label_N)
    return {
        TOP1.key: 100 * wrong_top1 / total,
        TOP5.key: 100 * wrong_top5 / total,
        CROSS_ENTROPY.key: entropy / total,
        "images": total,
    }


def count_classes(network: nn.Module, channels: int, size: int) -> int:
    """Infer the number of classes of a network; only shapes are computed.

    Args:
        network: Left as it was.
        channels: Channels of its input.
        size: Height and width of its input, in pixels.

    Raises:
        UserError: Its output is not (images, classes).
    """
    # On a copy: shape inference moves the network to the meta device, where it has no weights.
    output = infer_output(copy_network(network).eval(), (1, channels, size, size))
    if not isinstance(output, Tensor) or output.dim() != 2:
        raise UserError(
            f"expected an output of (images, classes), got {tuple(getattr(output, 'shape', ()))}"
        )
    return output.shape[1]


def _check_images(network: nn.Module, source: str, items: TrainImages | ValImages) -> None:
    """Check size and number of classes of opened data."""
    size = cast(int, network.input_size)  # torch takes every attribute for a tensor or a module
    height, width = items.labeled.images_NHWC.shape[1:3]
    if (height, width) != (size, size):
        raise UserError(
            f"{source}: expected images of {size} x {size}, for which the network is meant, "
            f"got {height} x {width}; set network_g.input_size, or `size` of the data"
        )
    # Inferred from the output: an argument of the constructor may be called anything.
    num_classes = count_classes(network, described(network).in_channels, size)
    classes = items.classes
    if num_classes != len(classes):
        listed = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
        raise UserError(
            f"{source}: expected {num_classes} classes, as many as the network has outputs, got "
            f"{len(classes)} ({listed}); set network_g.num_classes: {len(classes)}, "
            "or give other data"
        )
