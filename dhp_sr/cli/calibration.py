"""Images that int8 models are calibrated and measured with."""

from pathlib import Path

import torch
from torch import nn

from dhp_sr.deploy.int8_simulation import CalibrationImage
from dhp_sr.deploy.model_info import ModelInfo, info_of
from dhp_sr.deploy.runner import find_lower_limit
from dhp_sr.tasks import task_named
from dhp_sr.tasks.base import FolderSettings
from dhp_sr.utils.errors import UserError

MAX_IMAGES = 32
MAX_SIDE = 192
"""Sides of the inputs at most; larger images are cropped to their center."""

NUM_DRAWN = 8
"""Drawn images that int8 models are measured with as well."""


def calibration_images(
    network: nn.Module, folder: str | Path, sigma: float | None = None
) -> list[CalibrationImage]:
    """Make calibration images of a folder of ground truth, as test.py makes its inputs.

    Args:
        network: Restores images.
        folder: The images.
        sigma: Noise level (0-255 scale), which a denoiser needs.

    Raises:
        UserError: The network is a classifier, the folder has no images or only some that are too
            small for the network, or sigma does not fit.
    """
    info = info_of(network)
    if not info.restores_images:
        raise UserError("--int8: expected a network that restores images, got a classifier")
    images, num_read = _make_images(network, str(folder), sigma, MAX_IMAGES)
    if not images:
        raise UserError(
            f"--calibration {folder}: expected images whose inputs have at least "
            f"{_least_side(network)} pixels a side, as the network takes; none of the {num_read} "
            "read is as large"
        )
    return images


def drawn_images(network: nn.Module, sigma: float | None = None) -> list[CalibrationImage]:
    """Make images of drawn ones, unlike the photographs that most networks are calibrated with.

    Args:
        network: Restores images.
        sigma: Noise level (0-255 scale), which a denoiser needs.

    Returns:
        Inputs and truths; empty where they are too small for the network.
    """
    return _make_images(network, f"drawn:{NUM_DRAWN}", sigma, NUM_DRAWN)[0]


def _make_images(
    network: nn.Module, folder: str, sigma: float | None, at_most: int
) -> tuple[list[CalibrationImage], int]:
    """Return the images that are large enough, and how many were read."""
    info = info_of(network)
    # The test sets of scoring make the inputs, so that int8 is calibrated on what it will see.
    choices: FolderSettings = {"sigma": sigma, "max_images": at_most, "crop_border": None}
    (test_set,) = task_named(info.task).open_folders(network, {"calibration": folder}, choices)
    least_side = _least_side(network)
    images = []
    for index in range(len(test_set.items)):
        item = test_set.items[index]
        if min(item["lq"].shape[1:]) < least_side:
            continue  # nothing would be left of it, or it does not pass
        gt = torch.from_numpy(item["gt_uint8"]).float().div(255)
        # Gray images have no axis of channels.
        gt = gt.permute(2, 0, 1) if gt.dim() == 3 else gt.unsqueeze(0)
        images.append(_center_crop(item["lq"].unsqueeze(0), gt.unsqueeze(0), info, least_side))
    return images, len(test_set.items)


def _least_side(network: nn.Module) -> int:
    info = info_of(network)
    return max(info.sizes.multiple, find_lower_limit(network, info))


def _center_crop(
    lq: torch.Tensor, gt: torch.Tensor, info: ModelInfo, least_side: int
) -> CalibrationImage:
    top_left = []
    sides = []
    # Down to the network's multiple: padding would calibrate on pixels that no image has.
    for side in lq.shape[2:]:
        cropped = min(side, max(MAX_SIDE, least_side)) // info.sizes.multiple * info.sizes.multiple
        sides.append(cropped)
        top_left.append((side - cropped) // 2)
    top, left = top_left
    height, width = sides
    scale = info.scale
    return CalibrationImage(
        lq[..., top : top + height, left : left + width].contiguous(),
        gt[
            ...,
            top * scale : (top + height) * scale,
            left * scale : (left + width) * scale,
        ].contiguous(),
    )
