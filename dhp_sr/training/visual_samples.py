"""Visual samples: crops of test images as every model of a run restores them, for the report.

`images/index.json` lists the crops: their images, and the score of each version of the whole image.
`images/<number>/<name>.png` are the crops themselves: input, bicubic (super-resolution alone),
dense, pruned, ground truth.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dhp_sr.data.images import encode_png
from dhp_sr.data.samples import ValSample
from dhp_sr.metrics import psnr_db
from dhp_sr.tasks.base import NamedTestSet
from dhp_sr.tasks.test_sets import Image, TestSet, restore, upscale_input
from dhp_sr.utils.files import atomic_write, write_json
from dhp_sr.utils.modules import evaluating
from dhp_sr.utils.strict_json import JsonObject, finite

NUM_IMAGES = 3
"""Images sampled, spread over the test sets."""
CROP_SIZE = 256
"""Largest side of a crop in pixels of the ground truth; it bounds the size of the report."""
GROUND_TRUTH = "gt"
"""Name of the ground truth's version, in the files and in index.json."""
INPUT = "input"

Crop = tuple[int, int, int, int]
"""Top, left, height and width, in pixels of the ground truth."""


def write_samples(
    folder: Path,
    networks: Mapping[str, nn.Module],
    sets: Sequence[NamedTestSet],
    device: torch.device | str = "cpu",
) -> None:
    """Write crops of the first images of the test sets; an older folder is replaced.

    Args:
        folder: `images/` of the run.
        networks: Name -> network, in the order in which to show them.
        sets: Test sets. Those without images to restore are skipped; if no set has any, nothing
            is written.
        device: Device of the networks.
    """
    # Leftovers of another set of images would show up in the report.
    if folder.exists():
        shutil.rmtree(folder)
    entries = []
    for number, (test_set, index) in enumerate(_choose_images(sets)):
        item = test_set.items[index]
        versions = {INPUT: item["lq_uint8"]}
        if test_set.scale > 1:
            versions["bicubic"] = upscale_input(item, test_set.scale)
        for name, network in networks.items():
            with evaluating(network):
                versions[name] = restore(network, item, test_set.scale, device)
        versions[GROUND_TRUTH] = item["gt_uint8"]
        entries.append(_write_crops(folder, number, versions, item, test_set))
    if entries:
        write_json(folder / "index.json", {"pictures": entries})


def _choose_images(sets: Sequence[NamedTestSet]) -> list[tuple[TestSet, int]]:
    """Choose the first image of each set, then the second of each, and so on."""
    restorable = [test_set for test_set in sets if isinstance(test_set, TestSet)]
    chosen = []
    for index in range(NUM_IMAGES):
        for test_set in restorable:
            if index < len(test_set.items):
                chosen.append((test_set, index))
    return chosen[:NUM_IMAGES]


def _write_crops(
    folder: Path,
    number: int,
    versions: Mapping[str, Image],
    item: ValSample,
    test_set: TestSet,
) -> JsonObject:
    """Write a crop of every version of an image; return its entry in index.json."""
    target = versions[GROUND_TRUTH]
    crop = most_detailed_crop(target, test_set.scale)
    entries = []
    for name, image in versions.items():
        path = f"{number}/{name}.png"
        # The input shows the same region with fewer pixels.
        reduction = test_set.scale if name == INPUT else 1
        top, left, height, width = (side // reduction for side in crop)
        with atomic_write(folder / path) as file:
            cropped = image[top : top + height, left : left + width]
            file.write(encode_png(cropped, compress_level=9))
        score = None
        if image.shape == target.shape and name != GROUND_TRUTH:
            # Of the whole image as in the tables: Y for color super-resolution, else all channels.
            luma = test_set.scale > 1 and target.shape[-1] == 3
            score = float(psnr_db(image, target, crop_border=test_set.crop_border, luma=luma))
        entries.append({"name": name, "file": path, "psnr_db": score})
    return finite(
        {
            "set": test_set.name,
            "key": str(item["key"]),
            "scale": test_set.scale,
            "crop": list(crop),
            "size": list(target.shape[:2]),
            "versions": entries,
        }
    )


def most_detailed_crop(target: Image, scale: int) -> Crop:
    """Return the crop of the ground truth with the largest sum of absolute gradients.

    It depends on the ground truth alone, so no model can look better by the choice of the crop.

    Args:
        target: uint8, (H, W, C).
        scale: Top, left, height and width are multiples of it, so that the input has the same
            crop.
    """
    height = min(CROP_SIZE, target.shape[0]) // scale * scale
    width = min(CROP_SIZE, target.shape[1]) // scale * scale
    gray = target.astype(np.float64).mean(axis=2)
    # Detail of a pixel: absolute differences to its neighbors above and to the left.
    detail = np.zeros_like(gray)
    detail[1:, 1:] = np.abs(np.diff(gray, axis=0))[:, 1:] + np.abs(np.diff(gray, axis=1))[1:]

    # Sums over all windows at once, by a summed-area table (Crow, SIGGRAPH 1984).
    table = np.pad(detail, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    # Every eighth position is enough: neighboring windows hardly differ.
    step = scale * max(1, 8 // scale)
    tops = np.arange(0, target.shape[0] - height + 1, step)
    lefts = np.arange(0, target.shape[1] - width + 1, step)
    upper_left = table[np.ix_(tops, lefts)]
    upper_right = table[np.ix_(tops, lefts + width)]
    lower_left = table[np.ix_(tops + height, lefts)]
    lower_right = table[np.ix_(tops + height, lefts + width)]
    total = lower_right - upper_right - lower_left + upper_left
    row, column = np.unravel_index(int(np.argmax(total)), total.shape)
    return int(tops[row]), int(lefts[column]), height, width
