"""Pieces of test images as every model of a run sees them, kept for the report's comparison.

`images/index.json` says which pieces there are, of what images, with the score of each version of the whole image;
`images/<number>/<name>.png` are the pieces: input, bicubic (super-resolution alone), dense, pruned, truth.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dhp_sr.data.images import encode_png
from dhp_sr.metrics import psnr_db
from dhp_sr.tasks.test_sets import Picture, TestSet, enlarge, restore
from dhp_sr.utils.files import atomic_write, write_json
from dhp_sr.utils.modules import evaluating
from dhp_sr.utils.strict_json import finite

COUNT = 3
"""Images kept, spread over the test sets."""
SIDE = 256
"""Largest side of a piece, in pixels of the truth; bounds the size of the folder and of the report."""

Crop = tuple[int, int, int, int]
"""Top, left, height and width."""


def write_samples(
    folder: Path,
    networks: Mapping[str, nn.Module],
    sets: Sequence[Any],
    device: torch.device | str = "cpu",
) -> None:
    """Write pieces of the first images of the test sets; an older folder of that name is replaced.

    Args:
        folder: `images/` of the run.
        networks: name -> network, in the order to show them.
        sets: the test sets; those that hold no images to restore are passed over, without any nothing is written.
        device: where the networks are.
    """
    if folder.exists():
        shutil.rmtree(folder)
    chosen = _chosen([test_set for test_set in sets if isinstance(test_set, TestSet)])
    entries = []
    for number, (test_set, index) in enumerate(chosen):
        item = test_set.items[index]
        pictures = {
            **_inputs(item, test_set),
            **_restored(networks, item, test_set, device),
            "truth": item["gt_uint8"],
        }
        entries.append(_write(folder, number, pictures, item, test_set))
    if entries:
        write_json(folder / "index.json", {"pictures": entries})


def _chosen(sets: Sequence[TestSet]) -> list[tuple[TestSet, int]]:
    """Return the first image of each set, then the second of each, ..., up to COUNT."""
    longest = max((len(test_set.items) for test_set in sets), default=0)
    turns = [(test_set, index) for index in range(min(longest, COUNT)) for test_set in sets]
    return [(test_set, index) for test_set, index in turns if index < len(test_set.items)][:COUNT]


def _inputs(item: Mapping[str, Any], test_set: TestSet) -> dict[str, Picture]:
    if test_set.scale == 1:
        return {"input": item["lq_uint8"]}
    return {"input": item["lq_uint8"], "bicubic": enlarge(dict(item), test_set.scale)}


def _restored(
    networks: Mapping[str, nn.Module],
    item: dict[str, Any],
    test_set: TestSet,
    device: torch.device | str,
) -> dict[str, Picture]:
    pictures = {}
    for name, network in networks.items():
        with evaluating(network):
            pictures[name] = restore(network, item, test_set.scale, device)
    return pictures


def _write(
    folder: Path,
    number: int,
    pictures: Mapping[str, Picture],
    item: Mapping[str, Any],
    test_set: TestSet,
) -> dict[str, Any]:
    truth, versions = pictures["truth"], []
    crop = busiest(truth, test_set.scale)
    for name, picture in pictures.items():
        scale = test_set.scale if name == "input" else 1
        path = f"{number}/{name}.png"
        with atomic_write(folder / path) as stream:
            stream.write(encode_png(_cut(picture, crop, scale), compress_level=9))
        whole = picture.shape == truth.shape and name != "truth"
        versions.append(
            {
                "name": name,
                "file": path,
                "psnr_db": _psnr(picture, truth, test_set) if whole else None,
            }
        )
    facts = {
        "set": test_set.name,
        "key": str(item["key"]),
        "scale": test_set.scale,
        "crop": list(crop),
    }
    return finite({**facts, "size": list(truth.shape[:2]), "versions": versions})


def _cut(picture: Picture, crop: Crop, scale: int) -> Picture:
    top, left, height, width = (value // scale for value in crop)
    return picture[top : top + height, left : left + width]


def _psnr(picture: Picture, truth: Picture, test_set: TestSet) -> float:
    """Score the whole image as the tables do: Y for super-resolution in colour, else all channels."""
    luma = test_set.scale > 1 and truth.shape[-1] == 3
    return float(psnr_db(picture, truth, crop_border=test_set.shave, luma=luma))


def busiest(truth: Picture, scale: int) -> Crop:
    """Return the square of at most SIDE pixels in which the truth has most detail; no model's result has a say.

    Args:
        truth: uint8 HWC.
        scale: top, left, height and width are multiples of it.
    """
    height, width = (min(SIDE, side) // scale * scale for side in truth.shape[:2])
    grey = truth.astype(np.float64).mean(axis=2)
    detail = np.zeros_like(grey)
    detail[1:, 1:] = np.abs(np.diff(grey, axis=0))[:, 1:] + np.abs(np.diff(grey, axis=1))[1:]
    sums = np.pad(detail, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    step = scale * max(1, 8 // scale)
    tops = np.arange(0, truth.shape[0] - height + 1, step)
    lefts = np.arange(0, truth.shape[1] - width + 1, step)
    corners = [
        sums[np.ix_(tops + down, lefts + right)] for down in (0, height) for right in (0, width)
    ]
    total = corners[3] - corners[1] - corners[2] + corners[0]
    place = np.unravel_index(int(np.argmax(total)), total.shape)
    return int(tops[place[0]]), int(lefts[place[1]]), height, width
