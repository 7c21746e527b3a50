"""What BasicSR's registries learn from us; the one module beside `_compat` that touches BasicSR.

Registered are the networks `HyperEDSR`, ... and `Hyper` (each gives a converted network), the datasets `SRDataset`,
`NoiseDataset` and `ClassificationDataset`, our losses and metrics with the suffix `dhp`, where BasicSR has taken the
plain names, and the models `DHPModel` and `DHPClassificationModel`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from dhp_sr.archs import ARCHS
from dhp_sr.basicsr_adapter.classification_model import DHPClassificationModel
from dhp_sr.basicsr_adapter.model import DHPModel
from dhp_sr.basicsr_adapter.shim import prepare_basicsr
from dhp_sr.config.datasets import ClassificationTrain, ClassificationVal, TrainDataset, ValDataset
from dhp_sr.data.build import build_train_set, build_val_set
from dhp_sr.data.classification import build_train, build_val
from dhp_sr.hyper import HyperNet, convert
from dhp_sr.losses import LOSSES, build_loss
from dhp_sr.metrics import psnr_db, ssim
from dhp_sr.utils.errors import UserError, nearest
from dhp_sr.zoo.names import build_named
from dhp_sr.zoo.networks import EXAMPLE_SIDE

OWN_KEYS = (
    "scale",
    "phase",
    "manual_seed",
    "prefetch_mode",
    "num_prefetch_queue",
    "pin_memory",
    "io_backend",
)
"""What BasicSR adds to the options of a dataset, and ours does not need."""


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

    if "DHPModel" in MODEL_REGISTRY:
        return
    for model in (DHPModel, DHPClassificationModel):
        MODEL_REGISTRY.register(model)
    for entry in (*map(_hyper, ARCHS), Hyper):
        ARCH_REGISTRY.register(entry)
    for entry in (SRDataset, NoiseDataset, ClassificationDataset):
        DATASET_REGISTRY.register(entry)
    for entry in map(_loss, LOSSES):
        LOSS_REGISTRY.register(entry, suffix="dhp")
    for entry in (calculate_psnr, calculate_ssim):
        METRIC_REGISTRY.register(entry, suffix="dhp")


def build_model(opt: Mapping[str, Any]) -> Any:
    """Build `model_type` through BasicSR's registry.

    Raises:
        UserError: the type is not registered, or not one that this program drives.
    """
    register()
    from basicsr.models import build_model as build_by_registry
    from basicsr.utils.registry import MODEL_REGISTRY

    wanted = opt["model_type"]
    driven = [name for name in MODEL_REGISTRY.keys() if _is_driven(MODEL_REGISTRY.get(name))]  # noqa: SIM118 - no mapping
    if wanted not in driven:
        raise UserError(
            f"model_type: expected {' or '.join(driven)}, found {wanted!r}{nearest(wanted, driven)}"
        )
    return build_by_registry(dict(opt))


def _is_driven(model: Any) -> bool:
    return isinstance(model, type) and issubclass(model, DHPModel)


def Hyper(network: Mapping[str, Any], in_channels: int = 3) -> HyperNet:
    """Convert any network: `network: {type: NAME, ...}`, our table first, then BasicSR's; see `build_named`."""
    arguments = dict(network)
    name = arguments.pop("type")
    plain = build_named(name, arguments)
    side = getattr(plain, "input_size", EXAMPLE_SIDE)
    return convert(plain, torch.zeros(1, getattr(plain, "in_channels", in_channels), side, side))


def SRDataset(opt: Mapping[str, Any]) -> Any:
    """Open a super-resolution set from a `datasets` section as BasicSR passes it (`phase`, `scale` beside its keys)."""
    return _dataset(opt)


def NoiseDataset(opt: Mapping[str, Any]) -> Any:
    """Open a denoising set, see `SRDataset`."""
    return _dataset(opt)


def ClassificationDataset(opt: Mapping[str, Any]) -> Any:
    """Open a set of labeled images, see `SRDataset`."""
    fields = {key: value for key, value in opt.items() if key not in OWN_KEYS}
    if opt.get("phase") == "train":
        return build_train(ClassificationTrain.model_validate(fields), opt.get("manual_seed", 0))
    return build_val(ClassificationVal.model_validate(fields))


def calculate_psnr(
    img: np.ndarray, img2: np.ndarray, crop_border: int, test_y_channel: bool = False
) -> float:
    """Return our PSNR in BasicSR's calling form: uint8 BGR images, HWC."""
    return psnr_db(img[..., ::-1], img2[..., ::-1], crop_border=crop_border, luma=test_y_channel)


def calculate_ssim(
    img: np.ndarray, img2: np.ndarray, crop_border: int, test_y_channel: bool = False
) -> float:
    """Return our SSIM in BasicSR's calling form, see `calculate_psnr`."""
    return ssim(img[..., ::-1], img2[..., ::-1], crop_border=crop_border, luma=test_y_channel)


def _hyper(name: str) -> Callable[..., HyperNet]:
    def build_hyper(**arguments: Any) -> HyperNet:
        return Hyper({"type": name, **arguments})

    build_hyper.__name__ = f"Hyper{name}"
    return build_hyper


def _loss(name: str) -> Callable[..., nn.Module]:
    def build_own(loss_weight: float = 1.0) -> nn.Module:
        return build_loss(name, loss_weight)

    build_own.__name__ = name
    return build_own


def _dataset(opt: Mapping[str, Any]) -> Any:
    fields = {key: value for key, value in opt.items() if key not in OWN_KEYS}
    scale = opt.get("scale", 1)
    if opt.get("phase") == "train":
        return build_train_set(
            TrainDataset.model_validate(fields), scale, opt.get("manual_seed", 0)
        )
    return build_val_set(ValDataset.model_validate(fields), scale)
