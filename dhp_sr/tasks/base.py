"""Interface of a task: data, loss and scores. All else in a run is the same for every task."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NotRequired, Protocol, TypedDict, TypeVar

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.utils.data import Dataset

from dhp_sr.archs import ARCHS, build, described
from dhp_sr.config.compress import Distill
from dhp_sr.config.schema import Options, Train
from dhp_sr.config.section import Section
from dhp_sr.deploy.model_info import attached_info
from dhp_sr.reports.scores import NUM_TABLE_SCORES, Score, scores_of
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.strict_json import JsonObject
from dhp_sr.zoo.names import build_named
from dhp_sr.zoo.networks import plain_type

Scores = dict[str, float]
"""Score -> mean over a test set, and `images`, the number of images."""
ImageScores = JsonObject
"""Scores of one image, and `image`, its name."""


class FolderSettings(TypedDict):
    """Settings of a command line for the folders that it scores; None: not given."""

    sigma: float | None
    max_images: int | None
    crop_border: int | None
    size: NotRequired[tuple[int, int] | None]
    """Height and width of the input; only where it is to be refused."""


class NamedTestSet(Protocol):
    """What the test sets of all tasks have in common."""

    @property
    def name(self) -> str:
        """Name in tables; unique in a run."""


TestSetType = TypeVar("TestSetType", bound=NamedTestSet)
SectionType = TypeVar("SectionType", bound=Section)


class Task(ABC, Generic[TestSetType]):
    """One task. It keeps no state, so any number of objects may stand for the same task.

    Attributes:
        name: In results and reports: `sr`, `denoise`, `restoration` or `classification`. Networks
            and model files state it, too, apart from `restoration`.
        dataset_type: Type of dataset in option files that makes a run one of this task.
        scores: Names of what `evaluate` measures, in the order of the columns of validation.csv.
        batch_keys: Keys of a training batch: the network's input and its target.
        loss_name: Name of the loss in TensorBoard, by BasicSR's convention.
        input_name: Name of the input in tables, which a network has to beat; empty: not scored.
    """

    name: str
    dataset_type: str
    scores: tuple[str, ...]
    batch_keys: tuple[str, str]
    loss_name: str
    input_name: str = ""

    # ---- data

    @abstractmethod
    def train_set(self, options: Options) -> Dataset:
        """Open `datasets.train`.

        Raises:
            UserError: Images are missing, damaged or too small.
        """

    @abstractmethod
    def test_sets(self, options: Options) -> list[TestSetType]:
        """Open `datasets.val`, `datasets.val_1`, ...; each has a `name`.

        Raises:
            UserError: A set cannot be opened, or two have the same name.
        """

    @abstractmethod
    def open_folders(
        self, network: nn.Module, folders: Mapping[str, str], settings: FolderSettings
    ) -> list[TestSetType]:
        """Open folders as test sets for the network of a model file.

        Args:
            network: The network.
            folders: Name of the set -> its folder.
            settings: What test.py takes on the command line.

        Raises:
            UserError: A folder cannot be opened, or a setting is missing or has no effect.
        """

    # Not abstract: a task may have nothing to check.
    def check_data(
        self, network: nn.Module, train_set: Dataset, sets: Sequence[TestSetType]
    ) -> None:
        """Check the opened data, of which the options do not tell everything.

        Test images that are trained on give a warning, not an error: a first trial may want them.

        Raises:
            UserError: The network does not suit the data.
        """

    def input_shapes(self, network: nn.Module, test_set: TestSetType) -> list[tuple[int, int, int]]:
        """List the different shapes (C, H, W) that a network gets when it is scored on a test set.

        Nothing is decoded. Empty for a task whose images all have the size of the training's.
        """
        return []

    # ---- network and loss

    def build_network(self, options: Options) -> nn.Module:
        """Construct the plain network of `network_g`, with fresh weights.

        Raises:
            UserError: Type, arguments, scale or channels do not fit together or to the images.
        """
        # `HyperEDSR` and `EDSR` name the same network; the conversion comes later.
        name, arguments = plain_type(options.network_g)
        if name in ARCHS or options.network_g.type != "Hyper":
            network = build(name, **arguments)
        else:
            network = build_named(name, arguments)
            # A third-party network does not state what it takes and gives; a model file does.
            if attached_info(network) is None:
                network = self.describe_third_party(network, name, arguments, options)
        self.check_fit(network, name, options)
        return network

    @abstractmethod
    def describe_third_party(
        self, network: nn.Module, name: str, arguments: Mapping[str, object], options: Options
    ) -> nn.Module:
        """Attach to a third-party network what the option file's images say about it.

        Args:
            network: With fresh weights.
            name: As in `network_g.network.type`.
            arguments: Those it was constructed from.
            options: Options of the run.

        Returns:
            The same network.

        Raises:
            UserError: It does not suit the images.
        """

    @abstractmethod
    def check_fit(self, network: nn.Module, name: str, options: Options) -> None:
        """Check that a network suits the images of an option file.

        Args:
            network: The network.
            name: Its name, for the message.
            options: Options of the run.

        Raises:
            UserError: It does not.
        """

    @abstractmethod
    def build_loss(self, train: Train) -> nn.Module:
        """Build the loss, a module (network's output, target) -> scalar."""

    @abstractmethod
    def distillation_loss(self, output: Tensor, teacher: Tensor, distill: Distill) -> Tensor:
        """Compute the distance of an output from the teacher's, a scalar."""

    # ---- scores

    @abstractmethod
    def evaluate(
        self,
        network: nn.Module,
        test_set: TestSetType,
        device: torch.device | str = "cpu",
        save_to: Path | None = None,
    ) -> Scores:
        """Score a network on a test set.

        Args:
            network: On `device`.
            test_set: Test set of this task.
            device: Device of the network.
            save_to: Folder for the images that it makes, where it makes images.
        """

    def evaluate_images(
        self, network: nn.Module, test_set: TestSetType, device: torch.device | str = "cpu"
    ) -> list[ImageScores]:
        """Score every image; empty for a task that scores a test set as a whole."""
        return []

    def evaluate_input_images(self, test_set: TestSetType) -> list[ImageScores]:
        """Score every input itself; for tasks with an `input_name`."""
        raise NotImplementedError(f"{self.name}: the input has no scores")

    @property
    def main_score(self) -> Score:
        """The score that decides which model is the best."""
        return scores_of(self.name)[0]

    def mean_score(self, scores: Mapping[str, Mapping[str, float]]) -> float:
        """Return the mean of the main score over the test sets.

        Args:
            scores: Name of each test set -> its scores.
        """
        values = [of_set[self.main_score.key] for of_set in scores.values()]
        return sum(values) / len(values)

    def is_better(self, value: float, other: float) -> bool:
        """Whether a value of the main score is better than another; every number is than nan."""
        if math.isnan(other):
            return not math.isnan(value)
        return value > other if self.main_score.higher_is_better else value < other

    def summary(self, scores: Mapping[str, float]) -> str:
        """Format the scores that tables show, for a line of the log."""
        texts = []
        for score in scores_of(self.name)[:NUM_TABLE_SCORES]:
            texts.append(f"{score.name} {score.text(scores[score.key])} {score.unit}".rstrip())
        return ", ".join(texts)


def check_channels(network: nn.Module, name: str, options: Options) -> None:
    """Check that a network takes as many channels as the images of an option file have.

    Raises:
        UserError: It takes another number.
    """
    in_channels = described(network).in_channels
    # All sets, not the training set alone: a gray test set would fail after hours of training.
    for key, data in options.datasets.items():
        if data.channels != in_channels:
            raise UserError(
                f"network_g: {name} takes {in_channels} channel(s), datasets.{key} "
                f"gives {data.channels} (color: {data.color}); set num_in_ch or color"
            )


def open_test_sets(
    options: Options, open_set: Callable[[str, Any], TestSetType]
) -> list[TestSetType]:
    """Open `datasets.val`, `datasets.val_1`, ...

    Args:
        options: Options of the run.
        open_set: Opens a test set from its name and section.

    Raises:
        UserError: Two sets have the same name, or a set cannot be opened.
    """
    sets: dict[str, TestSetType] = {}
    # Sorted, so that tables do not depend on the order in the file.
    for key, data in sorted(options.datasets.items()):
        if key == "train":
            continue
        name = data.name or key
        if name in sets:
            raise UserError(
                f"datasets.{key}: the name {name!r} is taken by another test set; "
                "give each its own `name`"
            )
        sets[name] = open_set(name, data)
    return list(sets.values())


def decode_section(kind: type[SectionType], fields: Mapping[str, object]) -> SectionType:
    """Decode the section of a test set from the arguments of a command line.

    Args:
        kind: Type of the section.
        fields: Its keys; a value of None was not given.

    Raises:
        UserError: A value is invalid; it is named as its argument.
    """
    # pydantic's own message names a section that the user of a command line never wrote.
    try:
        return kind.model_validate(dict(fields))
    except ValidationError as error:
        messages = [f"--{item['loc'][0]}: {item['msg']}" for item in error.errors()]
        raise UserError("; ".join(messages)) from None
