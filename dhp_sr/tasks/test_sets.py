"""Test sets of image restoration and the scores on them.

Scores are computed in float32, whatever the training ran in, from images rounded to uint8, as in
published tables.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from dhp_sr.config.datasets import ValDataset
from dhp_sr.config.schema import Options
from dhp_sr.data.bicubic import upscale
from dhp_sr.data.build import build_val_set
from dhp_sr.data.images import encode_png, to_color
from dhp_sr.data.samples import ValSample, ValSamples
from dhp_sr.metrics import psnr_db, ssim, to_uint8
from dhp_sr.metrics.scores import WINDOW
from dhp_sr.reports.scores import PSNR_RGB, PSNR_Y, SSIM_RGB, SSIM_Y
from dhp_sr.tasks.base import ImageScores, Scores, open_test_sets
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.files import atomic_write
from dhp_sr.utils.modules import evaluating
from dhp_sr.utils.pixels import padding_to_multiple

Image = NDArray[np.uint8]
"""Image in uint8, (H, W, C)."""
SCORES = tuple(score.key for score in (PSNR_Y, SSIM_Y, PSNR_RGB, SSIM_RGB))


@dataclass(frozen=True)
class TestSet:
    """Pairs of images: what a network restores, and what it should make of it."""

    __test__ = False  # pytest: not a class of tests

    name: str
    """Its name in tables; unique in a run."""
    items: ValSamples
    """Images as dicts: "lq" (C, h, w) in [0, 1], "key", "lq_uint8" and "gt_uint8" (HWC)."""
    scale: int
    """Enlargement from "lq" to "gt_uint8"."""
    crop_border: int
    """Pixels cropped from each edge before scoring."""

    @classmethod
    def from_options(cls, name: str, options: ValDataset, scale: int) -> "TestSet":
        """Open a test set.

        Args:
            name: Its name.
            options: Its section of the option file.
            scale: Enlargement.

        Raises:
            UserError: Images are missing, damaged, or too small to be scored.
        """
        crop_border = options.crop_border
        if crop_border is None:
            # The convention of published tables: the scale for super-resolution, else 0.
            crop_border = scale if options.type != "NoiseDataset" and scale > 1 else 0
        smallest = 2 * crop_border + WINDOW  # SSIM needs one full window
        items = build_val_set(options, scale, smallest=smallest)
        return cls(name, items, scale, crop_border)


def build_test_sets(options: Options) -> list[TestSet]:
    """Open `datasets.val`, `datasets.val_1`, ...

    Raises:
        UserError: Two sets have the same name, or a set cannot be opened.
    """
    return open_test_sets(
        options, lambda name, data: TestSet.from_options(name, data, options.scale)
    )


def evaluate_images(
    network: nn.Module,
    test_set: TestSet,
    device: torch.device | str = "cpu",
    save_to: Path | None = None,
) -> list[ImageScores]:
    """Score a network on every image of a test set.

    Args:
        network: Maps (1, C, h, w) in [0, 1] to (1, C, h scale, w scale); its mode is restored.
        test_set: The images.
        device: Device of the network.
        save_to: Folder for the results as PNG; None saves none.

    Returns:
        For each image `image`, its name, psnr_y_db, ssim_y, psnr_rgb_db and ssim_rgb.
    """
    with evaluating(network):
        return score_images(
            lambda item: restore(network, item, test_set.scale, device), test_set, save_to
        )


def evaluate(
    network: nn.Module,
    test_set: TestSet,
    device: torch.device | str = "cpu",
    save_to: Path | None = None,
) -> Scores:
    """Return the mean scores of a network on a test set; arguments as for `evaluate_images`."""
    return mean_scores(evaluate_images(network, test_set, device, save_to))


def evaluate_input_images(test_set: TestSet) -> list[ImageScores]:
    """Score what a network has to beat: bicubic upscaling, or the noisy images themselves."""
    return score_images(lambda item: upscale_input(item, test_set.scale), test_set)


def score_images(
    make_result: Callable[[ValSample], Image], test_set: TestSet, save_to: Path | None = None
) -> list[ImageScores]:
    """Score a result for every image of a test set.

    Args:
        make_result: Makes the result for an item of the set.
        test_set: The images.
        save_to: Folder for the results as PNG; None saves none.

    Returns:
        See `evaluate_images`.

    Raises:
        UserError: The set holds no images.
    """
    rows = []
    taken: set[str] = set()
    # By index: iterating over a dataset of torch goes on until an IndexError, which ours may not
    # raise.
    for index in range(len(test_set.items)):
        item = test_set.items[index]
        result = make_result(item)
        is_gray_file = item.get("gray_file", False)
        scores = _compare(result, item["gt_uint8"], test_set.crop_border, is_gray_file)
        rows.append({"image": item["key"], **dict(zip(SCORES, scores, strict=True))})
        if save_to is not None:
            name = item["key"]
            # Images of several folders may have the same name; some file systems ignore case.
            number = 1
            while name.lower() in taken:
                number += 1
                name = f"{item['key']}_{number}"
            taken.add(name.lower())
            with atomic_write(save_to / f"{name}.png") as file:
                file.write(encode_png(result))
    if not rows:
        raise UserError(f"test set {test_set.name}: expected images, got none")
    return rows


def mean_scores(images: Sequence[ImageScores]) -> Scores:
    """Return the means over the images, and `images`, their number."""
    means: Scores = {}
    # Means of decibels, as in published tables, not decibels of a mean error.
    for name in SCORES:
        means[name] = float(np.mean([image[name] for image in images]))
    means["images"] = len(images)
    return means


@torch.no_grad()
def restore(
    network: nn.Module, item: ValSample, scale: int, device: torch.device | str = "cpu"
) -> Image:
    """Run a network on an image of a test set.

    Args:
        network: In evaluation mode.
        item: The image.
        scale: Enlargement.
        device: Device of the network.
    """
    # A network in half precision takes its own type; a network without parameters takes float32.
    dtype = torch.float32
    for parameter in network.parameters():
        dtype = parameter.dtype
        break
    lq = item["lq"].unsqueeze(0).to(device, dtype)
    result = run_padded(network, lq, scale)[0].float().cpu()
    # A warning, no error: a search may try networks that overflow, and goes on with others.
    if not result.isfinite().all():
        warnings.warn(
            "a network's result holds values that are not finite (nan or infinite): its scores "
            "mean nothing",
            stacklevel=2,
        )
    # Rounded to 8 bits as in a PNG: papers score files, not floats.
    return to_uint8(result)


def upscale_input(item: ValSample, scale: int) -> Image:
    """Upscale an image's input by bicubic interpolation; at scale 1 it is returned as is."""
    return item["lq_uint8"] if scale == 1 else upscale(item["lq_uint8"], scale)


def padded_shapes(network: nn.Module, test_set: TestSet) -> list[tuple[int, int, int]]:
    """List the different shapes (C, H, W) that a network gets for the images of a test set."""
    multiple = _size_multiple(network)
    sizes = getattr(test_set.items, "input_shapes", None)
    if sizes is None:  # a list of images
        items = [test_set.items[index] for index in range(len(test_set.items))]
        sizes = [tuple(item["lq"].shape) for item in items]
    shapes = set()
    for channels, height, width in sizes:
        padding = padding_to_multiple(height, width, multiple)
        shapes.add((channels, height + padding.bottom, width + padding.right))
    return sorted(shapes)


def run_padded(network: nn.Module, lq: Tensor, scale: int) -> Tensor:
    """Run a network on an image padded to the multiple that it needs, and crop the result.

    Args:
        network: In evaluation mode.
        lq: (N, C, h, w).
        scale: Enlargement.
    """
    height, width = lq.shape[-2:]
    padding = padding_to_multiple(height, width, _size_multiple(network))
    # Below and to the right only, so that the crop is the upper left corner.
    if padding.bottom or padding.right:
        lq = functional.pad(lq, (0, padding.right, 0, padding.bottom), mode=padding.mode)
    return network(lq)[..., : height * scale, : width * scale]


def _size_multiple(network: nn.Module) -> int:
    # A HyperNet keeps the plain network, with its attributes, in `network`.
    plain = getattr(network, "network", network)
    return getattr(network, "size_multiple", getattr(plain, "size_multiple", 1))


def _compare(result: Image, target: Image, crop_border: int, is_gray_file: bool) -> list[float]:
    """Return PSNR and SSIM on Y, then on all channels.

    A file stored in gray is its own luma, also in a set of color images: published means on Set14
    and B100 treat such files so.
    """
    all_channels = [
        psnr_db(result, target, crop_border=crop_border),
        ssim(result, target, crop_border=crop_border),
    ]
    if target.ndim == 2 or target.shape[-1] == 1:
        return all_channels * 2
    if is_gray_file:
        result, target = to_color(result, "gray"), to_color(target, "gray")
        return [
            psnr_db(result, target, crop_border=crop_border),
            ssim(result, target, crop_border=crop_border),
            *all_channels,
        ]
    return [
        psnr_db(result, target, crop_border=crop_border, luma=True),
        ssim(result, target, crop_border=crop_border, luma=True),
        *all_channels,
    ]
