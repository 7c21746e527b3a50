"""Registration of our classes and functions with BasicSR.

Registered are the networks `HyperEDSR`, ... and `Hyper` (each builds a converted network), the
datasets `SRDataset`, `NoiseDataset` and `ClassificationDataset`, our losses and metrics with the
suffix `dhp`, because BasicSR has taken the plain names, and the models `DHPModel` and
`DHPClassificationModel`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from dhp_sr.archs import ARCHS
from dhp_sr.basicsr_adapter.model import DHPClassificationModel, DHPModel
from dhp_sr.basicsr_adapter.shim import prepare_basicsr
from dhp_sr.config.datasets import ClassificationTrain, ClassificationVal, TrainDataset, ValDataset
from dhp_sr.data.build import build_train_set, build_val_set
from dhp_sr.data.classification import build_train, build_val
from dhp_sr.hyper import HyperNet, convert
from dhp_sr.losses import LOSSES, build_loss
from dhp_sr.metrics import psnr_db, ssim
from dhp_sr.zoo.names import build_named
from dhp_sr.zoo.networks import EXAMPLE_SIDE

BASICSR_KEYS = (
    "scale",
    "phase",
    "manual_seed",
    "prefetch_mode",
    "num_prefetch_queue",
    "pin_memory",
    "io_backend",
)
"""Keys that BasicSR adds to a dataset's options and our sections do not have."""


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
    section = _our_keys(opt)
    scale = opt.get("scale", 1)
    if opt.get("phase") == "train":
        options = TrainDataset.model_validate(section)
        return build_train_set(options, scale, opt.get("manual_seed", 0))
    return build_val_set(ValDataset.model_validate(section), scale)


def NoiseDataset(opt: Mapping[str, Any]) -> Dataset:
    """Open a denoising set, see `SRDataset`."""
    return SRDataset(opt)


def ClassificationDataset(opt: Mapping[str, Any]) -> Dataset:
    """Open a set of labeled images, see `SRDataset`."""
    section = _our_keys(opt)
    if opt.get("phase") == "train":
        options = ClassificationTrain.model_validate(section)
        return build_train(options, opt.get("manual_seed", 0))
    return build_val(ClassificationVal.model_validate(section))


def calculate_psnr(
    img: np.ndarray, img2: np.ndarray, crop_border: int, test_y_channel: bool = False
) -> float:
    """Return our PSNR for BasicSR's arguments: uint8 BGR images, (H, W, C)."""
    # Our metrics take RGB. The order of channels matters for the Y channel alone.
    return psnr_db(img[..., ::-1], img2[..., ::-1], crop_border=crop_border, luma=test_y_channel)


def calculate_ssim(
    img: np.ndarray, img2: np.ndarray, crop_border: int, test_y_channel: bool = False
) -> float:
    """Return our SSIM for BasicSR's arguments, see `calculate_psnr`."""
    return ssim(img[..., ::-1], img2[..., ::-1], crop_border=crop_border, luma=test_y_channel)


def _our_keys(opt: Mapping[str, Any]) -> dict[str, object]:
    # Removed rather than allowed in our sections, where an unknown key must stay an error.
    return {key: value for key, value in opt.items() if key not in BASICSR_KEYS}


def hyper_constructor(name: str) -> Callable[..., HyperNet]:
    """Make the constructor of the converted form of a network of ours."""

    def construct(**arguments: object) -> HyperNet:
        return Hyper({"type": name, **arguments})

    construct.__name__ = f"Hyper{name}"  # the registry takes it as the key
    return construct


def loss_constructor(name: str) -> Callable[..., nn.Module]:
    """Make the constructor of a loss of ours."""

    def construct(loss_weight: float = 1.0) -> nn.Module:
        return build_loss(name, loss_weight)

    construct.__name__ = name
    return construct
