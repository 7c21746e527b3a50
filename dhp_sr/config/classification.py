"""`datasets` of classification runs: images with labels, in memory."""

from typing import Annotated, Literal

from pydantic import Field

from dhp_sr.config.section import CHANNELS, Color, Level, NotNegative, Positive, Section

CLASSIFICATION = "ClassificationDataset"
Statistics = Annotated[list[float], Field(min_length=1, max_length=3)]
Deviations = Annotated[list[Level], Field(min_length=1, max_length=3)]
_USUAL = {"rgb": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]), "grey": ([0.449], [0.226])}


class ClassificationDataset(Section):
    """What training and validation sets have in common."""

    type: Literal["ClassificationDataset"]
    name: str = ""
    dataroot: str
    """Class folders, CIFAR's own binary files, sheets with their INDEX.tsv, or an `.lmdb` folder with labels."""
    split: str = "train"
    """Which part of `dataroot`: `train` or `test`; of class folders, the name of a sub-folder that holds them."""
    labels: Literal["fine", "coarse"] = "fine"
    """CIFAR-100 has both; other sets have one kind."""
    color: Color = "rgb"
    size: Positive | None = None
    """Resize the shorter side to so many pixels and cut the middle out; without it all images have one size."""
    mean: Statistics | None = None
    """Subtracted from images in [0, 1], one value a channel; default: those usual for ImageNet and CIFAR-10."""
    std: Deviations | None = None
    """Then divided by."""
    max_per_class: Positive | None = None
    """Only the first so many images of every class."""

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return CHANNELS[self.color]

    @property
    def statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation, one value a channel."""
        mean, std = _USUAL[self.color]
        return self.mean or mean, self.std or std


class ClassificationTrain(ClassificationDataset):
    """`datasets.train`."""

    padding: NotNegative = 4
    """Black frame in pixels, out of which an image of the old size is cut at random."""
    use_hflip: bool = True
    batch_size_per_gpu: Positive
    num_worker_per_gpu: NotNegative = 0


class ClassificationVal(ClassificationDataset):
    """`datasets.val`, `datasets.val_1`, ...: one test set each."""

    split: str = "test"
    """As above."""
    batch_size: Positive = 250
    """Images scored at a time; changes no score."""
