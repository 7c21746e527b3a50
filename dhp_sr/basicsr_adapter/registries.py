"""Registration of our classes and functions with BasicSR.

Registered are the networks `HyperEDSR`, ... and `Hyper` (each builds a converted network), the
datasets `SRDataset`, `NoiseDataset` and `ClassificationDataset`, our losses and metrics with the
suffix `dhp`, because BasicSR has taken the plain names, and the models `DHPModel` and
`DHPClassificationModel`.
"""

from collections.abc import Callable, Mapping, Sized
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from dhp_sr.archs import ARCHS
from dhp_sr.basicsr_adapter.model import DHPClassificationModel, DHPModel
from dhp_sr.basicsr_adapter.options import DATASET_KEYS, decode, without
from dhp_sr.basicsr_adapter.shim import prepare_basicsr
from dhp_sr.config.datasets import ClassificationTrain, ClassificationVal, TrainDataset, ValDataset
from dhp_sr.data.build import build_train_set, build_val_set
from dhp_sr.data.classification import build_train, build_val
from dhp_sr.data.sampler import SampleIndex
from dhp_sr.hyper import HyperNet, convert
from dhp_sr.losses import LOSSES, build_loss
from dhp_sr.metrics import psnr_db, ssim
from dhp_sr.utils.errors import UserError
from dhp_sr.zoo.names import build_named
from dhp_sr.zoo.networks import EXAMPLE_SIDE


class IndexedSet(Dataset):
    """Training set whose samples are given by the index of an image alone, too.

    BasicSR's samplers know no positions in the run; patch and orientation are drawn by torch then.

    Args:
        dataset: Gives a sample for an (image index, position in the run).
    """

    def __init__(self, dataset: Dataset) -> None:
        assert isinstance(dataset, Sized)  # torch's Dataset does not promise a length
        self.dataset: Any = dataset

    def __getattr__(self, name: str) -> object:
        """Return what else the training set has, such as whole batches."""
        # While it is unpickled there is no training set yet.
        if name == "dataset":
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.dataset)

    def __getitem__(self, sample: int | SampleIndex) -> object:
        """Return a sample."""
        if not isinstance(sample, tuple):
            sample = (int(sample), int(torch.randint(2**31, ())))
        return self.dataset[sample]


def register() -> None:
    """Fill BasicSR's registries; harmless when called again.

    Raises:
        ModuleNotFoundError: basicsr is not installed.
    """
    prepare_basicsr()
    from basicsr.utils.registry import (
        ARCH_REGISTRY,
        DATASET_REGISTRY,
        LOSS_REGISTRY,
        METRIC_REGISTRY,
        MODEL_REGISTRY,
    )

    # BasicSR raises an AssertionError where a name is registered twice.
    if "DHPModel" in MODEL_REGISTRY:
        return
    for model in (DHPModel, DHPClassificationModel):
        MODEL_REGISTRY.register(model)
    # Converted networks, whose names BasicSR does not have; plain ones such as EDSR it has taken.
    for name in ARCHS:
        ARCH_REGISTRY.register(hyper_constructor(name))
    ARCH_REGISTRY.register(Hyper)
    for dataset in (SRDataset, NoiseDataset, ClassificationDataset):
        DATASET_REGISTRY.register(dataset)
    for name in LOSSES:
        LOSS_REGISTRY.register(loss_constructor(name), suffix="dhp")
    for metric in (calculate_psnr, calculate_ssim):
        METRIC_REGISTRY.register(metric, suffix="dhp")


def Hyper(network: Mapping[str, Any], in_channels: int = 3) -> HyperNet:
    """Build and convert any network.

    Args:
        network: `{type: NAME, ...}`; our table is looked up first, then BasicSR's registry.
        in_channels: Channels of the input, where the network does not state them.

    Raises:
        UserError: The network cannot be built.
    """
    arguments = dict(network)
    name = arguments.pop("type")
    plain = build_named(name, arguments)
    side = getattr(plain, "input_size", EXAMPLE_SIDE)
    channels = getattr(plain, "in_channels", in_channels)
    return convert(plain, torch.zeros(1, channels, side, side))


def SRDataset(opt: Mapping[str, Any]) -> Dataset:
    """Open a super-resolution set.

    Args:
        opt: A section of `datasets` as BasicSR passes it, with `phase` and `scale` among its keys.

    Raises:
        UserError: Images are missing, damaged or too small.
    """
    section = without(opt, DATASET_KEYS)
    scale = opt.get("scale", 1)
    if opt.get("phase") == "train":
        options = decode(TrainDataset, section)
        return IndexedSet(build_train_set(options, scale, opt.get("manual_seed", 0)))
    return _with_options(build_val_set(decode(ValDataset, section), scale), section)


def NoiseDataset(opt: Mapping[str, Any]) -> Dataset:
    """Open a denoising set, see `SRDataset`."""
    return SRDataset(opt)


def ClassificationDataset(opt: Mapping[str, Any]) -> Dataset:
    """Open a set of labeled images, see `SRDataset`."""
    section = without(opt, DATASET_KEYS)
    if opt.get("phase") == "train":
        options = decode(ClassificationTrain, section)
        return IndexedSet(build_train(options, opt.get("manual_seed", 0)))
    return _with_options(build_val(decode(ClassificationVal, section)), section)


def _with_options(dataset: Dataset, section: Mapping[str, Any]) -> Dataset:
    # Where BasicSR's datasets have them: `DHPModel.to_test_set` looks for name and border there.
    setattr(dataset, "opt", section)  # noqa: B010 - unknown to type checkers
    return dataset


def calculate_psnr(
    img: np.ndarray,
    img2: np.ndarray,
    crop_border: int,
    input_order: str = "HWC",
    test_y_channel: bool = False,
    better: str = "higher",
) -> float:
    """Return our PSNR for BasicSR's arguments.

    Args:
        img: uint8 image, BGR.
        img2: Image to compare with.
        crop_border: Pixels to leave out on every side.
        input_order: `HWC` or `CHW`.
        test_y_channel: Compare the Y channel.
        better: Read by BasicSR, which passes the whole section on.

    Raises:
        UserError: `input_order` is another.
    """
    first, second = (_to_rgb(image, input_order) for image in (img, img2))
    return psnr_db(first, second, crop_border=crop_border, luma=test_y_channel)


def calculate_ssim(
    img: np.ndarray,
    img2: np.ndarray,
    crop_border: int,
    input_order: str = "HWC",
    test_y_channel: bool = False,
    better: str = "higher",
) -> float:
    """Return our SSIM for BasicSR's arguments, see `calculate_psnr`."""
    first, second = (_to_rgb(image, input_order) for image in (img, img2))
    return ssim(first, second, crop_border=crop_border, luma=test_y_channel)


def _to_rgb(image: np.ndarray, input_order: str) -> np.ndarray:
    """Convert a BGR image to the order that our metrics take."""
    if input_order not in ("HWC", "CHW"):
        raise UserError(f"input_order: expected 'HWC' or 'CHW', got {input_order!r}")
    if image.ndim == 2:
        return image
    if input_order == "CHW":
        image = image.transpose(1, 2, 0)
    return image[..., ::-1]


def hyper_constructor(name: str) -> Callable[..., HyperNet]:
    """Make the constructor of the converted form of a network of ours."""

    def construct(**arguments: object) -> HyperNet:
        return Hyper({"type": name, **arguments})

    construct.__name__ = f"Hyper{name}"  # the registry takes it as the key
    return construct


def loss_constructor(name: str) -> Callable[..., nn.Module]:
    """Make the constructor of a loss of ours."""

    def construct(loss_weight: float = 1.0, reduction: str = "mean") -> nn.Module:
        if reduction != "mean":
            raise UserError(f"reduction: {name}_dhp expects 'mean', got {reduction!r}")
        return build_loss(name, loss_weight)

    construct.__name__ = name
    return construct
