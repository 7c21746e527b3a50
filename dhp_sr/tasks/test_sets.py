"""Scores of a network on test sets. Always float32, whatever the training ran in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from dhp_sr.metrics import psnr_db, ssim, to_uint8
from dhp_sr.metrics.psnr_ssim import WINDOW
from dhp_sr.reports.scores import PSNR_RGB, PSNR_Y, SSIM_RGB, SSIM_Y
from dhp_sr.tasks.base import open_sets
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.files import atomic_write
from dhp_sr.utils.modules import evaluating
from dhp_sr.utils.pixels import padding_to_multiple

Picture = NDArray[np.uint8]
SCORES = tuple(score.key for score in (PSNR_Y, SSIM_Y, PSNR_RGB, SSIM_RGB))


@dataclass(frozen=True)
class TestSet:
    """A test set.

    Attributes:
        name: What tables call it; unique in a run.
        items: Its images, as dicts with "lq", "key", "lq_uint8" and "gt_uint8".
        scale: Enlargement from "lq" to "gt".
        shave: Pixels cut from each edge before scoring.
    """

    __test__ = False

    name: str
    items: Sequence[dict[str, Any]]
    scale: int
    shave: int

    @classmethod
    def from_options(cls, name: str, options: ValDataset, scale: int) -> "TestSet":
        """Open the set; the border shaved is the scale for super-resolution and 0 for denoising unless given."""
        usual = scale if options.type == "SRDataset" else 0
        shave = usual if options.crop_border is None else options.crop_border
        return cls(name, build_val_set(options, scale, smallest=2 * shave + WINDOW), scale, shave)


def build_test_sets(options: Options) -> list[TestSet]:
    """Open `datasets.val`, `datasets.val_1`, ...

    Raises:
        UserError: two sets have one name, or a set cannot be opened.
    """
    return open_sets(options, lambda name, data: TestSet.from_options(name, data, options.scale))


def evaluate(
    network: nn.Module,
    test_set: TestSet,
    device: torch.device | str = "cpu",
    save_to: Path | None = None,
) -> dict[str, float]:
    """Score a network.

    Args:
        network: Maps (1, C, h, w) in [0, 1] to (1, C, h scale, w scale). Its mode is put back afterwards.
        test_set: The images.
        device: Where the network is.
        save_to: A folder for the results as PNG.

    Returns:
        psnr_y_db, ssim_y, psnr_rgb_db, ssim_rgb (means over the images) and images (their number).
    """
    with evaluating(network), torch.no_grad():
        return mean_scores(
            scores_of(
                lambda item: restore(network, item, test_set.scale, device), test_set, save_to
            )
        )


def evaluate_input(test_set: TestSet) -> dict[str, float]:
    """Score what a network has to beat: the bicubic enlargement, or the noisy image itself."""
    return mean_scores(scores_of(lambda item: enlarge(item, test_set.scale), test_set))


@torch.no_grad()
def restore(
    network: nn.Module, item: dict[str, Any], scale: int, device: torch.device | str = "cpu"
) -> Picture:
    """Return what a network makes of one image of a test set, uint8 HWC."""
    lq = (
        item["lq"]
        .unsqueeze(0)
        .to(device, next((one.dtype for one in network.parameters()), torch.float32))
    )
    return to_uint8(_padded(network, lq, scale)[0].float().cpu())


def enlarge(item: dict[str, Any], scale: int) -> Picture:
    """Return the bicubic enlargement of one image of a test set, or the noisy image itself at scale 1."""
    return item["lq_uint8"] if scale == 1 else upscale(item["lq_uint8"], scale)


def scores_of(
    restored: Callable[[dict[str, Any]], Picture], test_set: TestSet, save_to: Path | None = None
) -> list[dict[str, Any]]:
    """Score every image of a test set.

    Args:
        restored: Gives the result for one of its items.
        test_set: The images.
        save_to: A folder for the results as PNG.

    Returns:
        For each image `image`, its name, psnr_y_db, ssim_y, psnr_rgb_db and ssim_rgb.
    """
    each = []
    for index in range(len(test_set.items)):
        item = test_set.items[index]
        result = restored(item)
        scores = _compare(result, item["gt_uint8"], test_set.shave, item.get("gray_file", False))
        each.append({"image": item["key"], **dict(zip(SCORES, scores, strict=True))})
        if save_to is not None:
            _save_png(result, save_to / f"{item['key']}.png")
    if not each:
        raise UserError(f"test set {test_set.name}: expected images, found none")
    return each


def mean_scores(each: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the means over the images, and `images`, their number."""
    return {
        **{name: float(np.mean([one[name] for one in each])) for name in SCORES},
        "images": len(each),
    }


def _compare(result: Picture, truth: Picture, shave: int, grey_file: bool) -> list[float]:
    """Return the scores of one image; one stored grey is its own luma, also in an RGB set, as in published tables."""
    colours = [psnr_db(result, truth, crop_border=shave), ssim(result, truth, crop_border=shave)]
    if truth.ndim == 2 or truth.shape[-1] == 1:
        return colours * 2
    if grey_file:
        luma = [to_color(picture, "grey") for picture in (result, truth)]
        return [psnr_db(*luma, crop_border=shave), ssim(*luma, crop_border=shave), *colours]
    return [
        psnr_db(result, truth, crop_border=shave, luma=True),
        ssim(result, truth, crop_border=shave, luma=True),
        *colours,
    ]


def _padded(network: nn.Module, lq: Tensor, scale: int) -> Tensor:
    """Run the network on sides padded to the multiple that it needs, and crop the result."""
    height, width = lq.shape[-2:]
    padding = padding_to_multiple(height, width, _size_multiple(network))
    if padding.bottom or padding.right:
        lq = functional.pad(lq, (0, padding.right, 0, padding.bottom), mode=padding.mode)
    return network(lq)[..., : height * scale, : width * scale]


def _size_multiple(network: nn.Module) -> int:
    inner = getattr(network, "network", network)  # a HyperNet keeps the plain network in there
    return getattr(network, "size_multiple", getattr(inner, "size_multiple", 1))


def _save_png(picture: Picture, path: Path) -> None:
    with atomic_write(path) as stream:
        stream.write(encode_png(picture))
