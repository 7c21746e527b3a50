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
    # The test sets of scoring make the inputs, so that int8 is calibrated on what it will see.
    choices: FolderSettings = {"sigma": sigma, "max_images": MAX_IMAGES, "crop_border": None}
    (test_set,) = task_named(info.task).open_folders(network, {"calibration": str(folder)}, choices)
    least_side = max(info.sizes.multiple, find_lower_limit(network, info))
    images = []
    for index in range(len(test_set.items)):
        item = test_set.items[index]
        if min(item["lq"].shape[1:]) < least_side:
            continue  # nothing would be left of it, or it does not pass
        gt = torch.from_numpy(item["gt_uint8"]).float().div(255)
        # Gray images have no axis of channels.
        gt = gt.permute(2, 0, 1) if gt.dim() == 3 else gt.unsqueeze(0)
        images.append(_center_crop(item["lq"].unsqueeze(0), gt.unsqueeze(0), info, least_side))
    if not images:
        raise UserError(
            f"--calibration {folder}: expected images whose inputs have at least "
            f"{least_side} pixels a side, as the network takes; none of the {len(test_set.items)} "
            "read is as large"
        )
    return images


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
