"""What a task decides: images, loss and scores. All else in a run is the same for every task."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.utils.data import Dataset

from dhp_sr.archs import ARCHS, build
from dhp_sr.config.compress import Distill
from dhp_sr.config.schema import Options, Train
from dhp_sr.config.section import Section
from dhp_sr.reports.scores import NUM_TABLE_SCORES, Score, scores_of
from dhp_sr.utils.errors import UserError
from dhp_sr.zoo.names import build_named
from dhp_sr.zoo.networks import plain_type

Scores = dict[str, float]
Set = TypeVar("Set")


class Task(ABC):
    """One task; it keeps no state, so a run and everything that reads its files may each have one.

    Attributes:
        name: As networks and model files say it: `sr`, `denoise` or `classification`.
        dataset_type: Type of the data in option files that makes a run one of this task.
        scores: What `evaluate` measures, in the order of the columns of validation.csv.
        batch_keys: What a training batch holds: the network's input and what it is compared with.
        loss_name: What TensorBoard calls the loss, by BasicSR's convention.
        input_name: What tables call the input itself, which a network has to beat; empty where it cannot be scored.
    """

    name: str
    dataset_type: str
    scores: tuple[str, ...]
    batch_keys: tuple[str, str]
    loss_name: str
    input_name: str = ""

    @property
    def best(self) -> Score:
        """The score that decides which model is the best."""
        return scores_of(self.name)[0]

    @abstractmethod
    def train_set(self, options: Options) -> Dataset:
        """Open `datasets.train`; errors as in `data.build`."""

    @abstractmethod
    def test_sets(self, options: Options) -> list[Any]:
        """Open `datasets.val`, `datasets.val_1`, ...; each has a `name`."""

    @abstractmethod
    def folder_sets(
        self, network: nn.Module, folders: Mapping[str, str], choices: Mapping[str, Any]
    ) -> list[Any]:
        """Open folders as test sets for the network of a model file.

        Args:
            network: The network.
            folders: Name of the set -> its folder.
            choices: What test.py takes on the command line: sigma, max_images and crop_border, None where not given.

        Raises:
            UserError: a folder cannot be opened, or a choice has no meaning for this task or lacks.
        """

    def build_network(self, options: Options) -> nn.Module:
        """Construct the plain network of `network_g` with fresh weights and check that it fits the images.

        Raises:
            UserError: Type, arguments, scale or channels do not fit.
        """
        name, arguments = plain_type(options.network_g)
        if name in ARCHS or options.network_g.type != "Hyper":
            network = build(name, **arguments)
        else:
            # Of a third-party network only its author knows what it takes and gives: it is probed.
            network = self.describe_foreign(build_named(name, arguments), name, arguments, options)
        self.check_fit(network, name, options)
        return network

    @abstractmethod
    def check_fit(self, network: nn.Module, name: str, options: Options) -> None:
        """Check that a network suits the images of an option file.

        Raises:
            UserError: it does not.
        """

    @abstractmethod
    def describe_foreign(
        self, network: nn.Module, name: str, arguments: Mapping[str, Any], options: Options
    ) -> nn.Module:
        """Note on a network of another package what the option file's images say about it; see `foreign`.

        Raises:
            UserError: it does not suit the images.
        """

    def check_data(self, network: nn.Module, train_set: Any, sets: Sequence[Any]) -> None:  # noqa: B027
        """Check that a network suits the opened data; options alone cannot tell everything.

        Raises:
            UserError: it does not.
        """

    @abstractmethod
    def build_loss(self, train: Train) -> nn.Module:
        """Return the loss: (network's output, second part of a batch) -> scalar."""

    @abstractmethod
    def distance(self, output: Tensor, teacher: Tensor, distill: Distill) -> Tensor:
        """Return how far an output is from the teacher's, a scalar."""

    @abstractmethod
    def evaluate(
        self,
        network: nn.Module,
        test_set: Any,
        device: torch.device | str = "cpu",
        save_to: Path | None = None,
    ) -> Scores:
        """Score a network on a test set; `save_to` is a folder for what it makes, where it makes images."""

    def evaluate_input(self, test_set: Any) -> Scores:
        """Score the input itself; for tasks with an `input_name`."""
        raise NotImplementedError(f"{self.name}: the input has no scores")

    def summary(self, scores: Mapping[str, float]) -> str:
        """Return the scores that tables show, for a line of the log."""
        shown = scores_of(self.name)[:NUM_TABLE_SCORES]
        return ", ".join(
            f"{score.name} {score.text(scores[score.key])} {score.unit}".rstrip() for score in shown
        )

    def improves(
        self, scores: Mapping[str, Mapping[str, float]], before: float | None
    ) -> tuple[float, bool]:
        """Return the mean of the deciding score over the test sets, and whether it is better than `before`."""
        mean = sum(one[self.best.key] for one in scores.values()) / len(scores)
        return mean, before is None or (
            mean > before if self.best.higher_is_better else mean < before
        )


def check_channels(network: nn.Module, name: str, options: Options) -> None:
    """Check that a network takes as many channels as the images of an option file have.

    Raises:
        UserError: it takes others.
    """
    for key, data in options.datasets.items():
        if data.channels != network.in_channels:
            raise UserError(
                f"network_g: {name} takes {network.in_channels} channel(s), datasets.{key} gives {data.channels} "
                f"(color: {data.color}); set num_in_ch or color"
            )


def open_sets(options: Options, open_one: Callable[[str, Any], Set]) -> list[Set]:
    """Open `datasets.val`, `datasets.val_1`, ... by (name, section) -> test set.

    Raises:
        UserError: two sets have one name, or a set cannot be opened.
    """
    sets: dict[str, Set] = {}
    for key, data in sorted(options.datasets.items()):
        if key == "train":
            continue
        name = data.name or key
        if name in sets:
            raise UserError(
                f"datasets.{key}: the name {name!r} is taken by another test set; give each its own `name`"
            )
        sets[name] = open_one(name, data)
    return list(sets.values())


def decode_folder(kind: type[Section], fields: Mapping[str, Any]) -> Any:
    """Decode the section of a test set that was given on the command line; arguments that were not given are None.

    Raises:
        UserError: a value has no meaning; it is named as its argument.
    """
    try:
        return kind.model_validate(dict(fields))
    except ValidationError as error:
        raise UserError(
            "; ".join(f"--{part['loc'][0]}: {part['msg']}" for part in error.errors())
        ) from None
