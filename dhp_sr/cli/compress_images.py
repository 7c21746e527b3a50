"""Images of a compression: training and held-out ones, with ground truths or teacher outputs.

A folder of links beside the run keeps the two apart, so that an option file can name them.
"""

import os
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dhp_sr.cli.compress_request import Degradation
from dhp_sr.config.datasets import DRAWN
from dhp_sr.config.section import color_of
from dhp_sr.data.augment import to_chw, to_tensor
from dhp_sr.data.build import default_reductions
from dhp_sr.data.drawn import SIDE
from dhp_sr.data.images import crop_to_multiple, decode, encode_png, header_size, to_color
from dhp_sr.deploy.model_info import ModelInfo
from dhp_sr.metrics import to_uint8
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.files import atomic_write
from dhp_sr.utils.strict_json import JsonObject

HELD_OUT_SHARE = 0.1
MAX_HELD_OUT = 10
"""Images that score the result are a tenth of all, at least one and at most so many."""

HELD_OUT_SIDE = 256
"""Inputs to score on without truths are cropped to this side: a teacher runs on each of them."""

PATCH_SIDE = 48
"""Height and width of training patches in input pixels, where the images are large enough."""

SMALLEST_PATCH = 16

BATCH_SIZE = 8
"""On a processor small batches, and so more steps, pay in runs of minutes."""

DRAWN_SHARE = 1 / 7
MAX_DRAWN = 100
"""One drawn image for so many of the user's, up to so many. Finetuned on photographs alone, a
network can fail on text in full colors. In a short run, 24 among 157 mended most of that, and
photographs scored as before."""

FEW_IMAGES = 30
"""Below so many images, the report warns of a result that fits these images alone."""


@dataclass(frozen=True)
class PreparedImages:
    """Sections `datasets` of an option file, and what to say about the images."""

    datasets: dict[str, JsonObject]
    num_train: int
    num_held_out: int
    num_drawn: int
    has_truths: bool
    input_pixels: int | None
    """Pixels of all network inputs that training patches are cut from; None: they are new at every
    visit, as noise is."""

    @property
    def trust(self) -> str:
        """Say how far scores on these images can be trusted."""
        drawn = f" and {self.num_drawn} drawn (text, charts)" if self.num_drawn else ""
        text = f"trained on {self.num_train} images{drawn}, scored on {self.num_held_out} others"
        if self.num_train < FEW_IMAGES:
            text += (
                "; so few images show only roughly how the result does on others: compare the "
                "two networks on images of your own, or give more"
            )
        return text


def read_samples(paths: Sequence[Path], info: ModelInfo, count: int, side: int) -> list[Tensor]:
    """Read the centers of a few images, spread over the list, as tensors (C, h, w) in [0, 1]."""
    # Spread out: neighbors in a folder are often frames of the same scene.
    step = max(1, len(paths) // count)
    samples = []
    for path in list(paths)[::step][:count]:
        samples.append(to_tensor(to_chw(_read_crop(path, info, side))))
    return samples


def _read_crop(path: Path, info: ModelInfo, side: int) -> np.ndarray:
    """Read the center of an image, (h, w, C) in uint8, sides multiples of the network's."""
    image = to_color(decode(path, str(path)), color_of(info.in_channels))
    # Gray images have no axis of channels.
    image = image.reshape(*image.shape[:2], -1)
    height, width = image.shape[:2]
    top = max(0, height - side) // 2
    left = max(0, width - side) // 2
    return crop_to_multiple(image[top : top + side, left : left + side], info.size_multiple)


def prepare_images(
    folder: Path,
    paths: Sequence[Path],
    network: nn.Module,
    info: ModelInfo,
    degradation: Degradation,
    truths: Mapping[Path, Path] | None,
    drawn: int | None = None,
    before_writing: Callable[[], None] = lambda: None,
) -> PreparedImages:
    """Divide images into training and held-out ones, and write what the run needs of them.

    Args:
        folder: Where links and the teacher's outputs go; those of an earlier run are replaced.
        paths: The user's images.
        network: The teacher, on the CPU.
        info: Its description.
        degradation: Way that inputs come from the images.
        truths: Image -> its ground truth; None: there are none.
        drawn: Number of drawn images to train on, too; None: `default_drawn`. With truths there
            are none.
        before_writing: Called before the images of an earlier run are replaced.

    Raises:
        UserError: Images are too small, or no images.
    """
    if truths is not None and degradation.kind != "none":
        raise UserError("--truth: no effect with --degradation, which makes inputs from the images")
    is_input = degradation.kind == "none"
    # Ground truths are larger than the patches of inputs that are cut out of them.
    patch = _patch_side(paths, info, 1 if is_input else info.scale)
    train, held_out = _divide(paths)
    if truths is not None:
        drawn = 0  # what their inputs would be, only the user knows
    elif drawn is None:
        drawn = default_drawn(len(train))
    before_writing()
    _remove_earlier(folder)
    common: JsonObject = {"color": color_of(info.in_channels), "type": "ImageDataset"}
    roots: JsonObject
    val_roots: JsonObject
    if truths is not None:
        roots = _link_pairs(train, truths, folder / "train")
        val_roots = _link_pairs(held_out, truths, folder / "held_out")
    else:
        drawings = [f"{DRAWN}{drawn}"] if drawn else []
        roots = {"dataroot_gt": [_link(train, folder / "train"), *drawings]}
    if not is_input:
        common |= degradation.dataset_keys
        val_roots = {"dataroot_gt": _link(held_out, folder / "held_out")}
    elif truths is None:
        # Training computes the teacher's outputs itself; scores need them as files.
        val_roots = _write_teacher_outputs(held_out, network, info, folder / "held_out")
    training = {**common, **_training_keys(patch * info.scale), **roots}
    datasets = {"train": training, "val": {**common, "name": "held-out images", **val_roots}}
    has_truths = not is_input or truths is not None
    sizes = [header_size(path, str(path))[:2] for path in train] + drawn * [(SIDE, SIDE)]
    input_pixels = _input_pixels(sizes, info.scale, degradation, has_truths)
    return PreparedImages(datasets, len(train), len(held_out), drawn, has_truths, input_pixels)


def _remove_earlier(folder: Path) -> None:
    """Remove the images of an earlier run: they may be others, and links would pile up."""
    for name in ("train", "held_out"):
        if (folder / name).exists():
            shutil.rmtree(folder / name)


def _training_keys(gt_size: int) -> JsonObject:
    """Return the keys of a training set that its images do not decide."""
    return {
        "name": "training images",
        "gt_size": gt_size,
        # The smallest image of a user's folder must not decide about the patch of all others.
        "small_images": "skip",
        "batch_size_per_gpu": BATCH_SIZE,
    }


def default_drawn(num_train: int) -> int:
    """Return how many drawn images go with so many of the user's."""
    return min(MAX_DRAWN, max(1, round(DRAWN_SHARE * num_train)))


def _input_pixels(
    sizes: Sequence[tuple[int, int]], scale: int, degradation: Degradation, has_truths: bool
) -> int | None:
    """Count the pixels of all inputs, from heights and widths of the images."""
    if degradation.kind == "noise":
        return None
    pixels = sum(height * width for height, width in sizes)
    if degradation.kind == "bicubic":
        return pixels // scale**2
    if has_truths:
        return pixels
    # Without truths, images are also seen reduced, see `InputTrainSet`.
    return sum(pixels // factor**2 for factor in default_reductions(scale))


def _divide(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Divide images into those to train on and those to score on."""
    count = min(MAX_HELD_OUT, max(1, round(HELD_OUT_SHARE * len(paths))))
    # Evenly over the list: neighbors in a folder are often alike.
    step = len(paths) / count
    held_out = [paths[int(step * (index + 0.5))] for index in range(count)]
    train = [path for path in paths if path not in set(held_out)]
    return train, held_out


def _patch_side(paths: Sequence[Path], info: ModelInfo, scale: int) -> int:
    """Choose the side of training patches in input pixels, by a few of the images."""
    # Decoding all of thousands of images would take longer than the search.
    step = max(1, len(paths) // 20)
    sides = []
    for path in paths[::step]:
        sides.append(min(decode(path, str(path)).shape[:2]) // scale)
    multiple = info.size_multiple
    largest = max(sides)
    # A quartile rather than the median: three images in four should be large enough.
    typical = sorted(sides)[len(sides) // 4]
    smallest = max(SMALLEST_PATCH, info.sizes.minimum, multiple)
    smallest = -(-smallest // multiple) * multiple
    if largest < smallest:
        raise UserError(
            f"--images: the network takes images of at least {smallest} x {smallest} pixels "
            f"(multiples of {multiple}); of those looked at, the largest has a side of {largest}"
        )
    side = max(PATCH_SIDE, smallest)
    if typical < side:
        side = max(smallest, typical)
    side -= side % multiple
    num_small = sum(value < side for value in sides)
    if num_small:
        share = num_small / len(sides)
        warnings.warn(f"about {share:.0%} of the images are too small and left out", stacklevel=2)
    return side


def _link(paths: Sequence[Path], folder: Path) -> str:
    """Link images into a folder, under names that cannot clash; copy where links fail."""
    folder.mkdir(parents=True)
    for index, path in enumerate(paths):
        _link_or_copy(path, folder / f"{index:05d}_{path.name}")
    return str(folder)


def _link_or_copy(path: Path, link: Path) -> None:
    # Windows refuses links to ordinary users, and some file systems know none.
    try:
        os.symlink(path.resolve(), link)
    except OSError:
        shutil.copyfile(path, link)


def _link_pairs(paths: Sequence[Path], truths: Mapping[Path, Path], folder: Path) -> dict[str, str]:
    inputs, targets = folder / "inputs", folder / "truths"
    inputs.mkdir(parents=True)
    targets.mkdir(parents=True)
    for index, path in enumerate(paths):
        truth = truths[path]
        # The same stem on both sides, whatever the suffixes.
        _link_or_copy(path, inputs / f"{index:05d}_{path.stem}{path.suffix}")
        _link_or_copy(truth, targets / f"{index:05d}_{path.stem}{truth.suffix}")
    return {"dataroot_lq": str(inputs), "dataroot_gt": str(targets)}


@torch.no_grad()
def _write_teacher_outputs(
    paths: Sequence[Path], network: nn.Module, info: ModelInfo, folder: Path
) -> dict[str, str]:
    """Write held-out inputs, cropped, and what the original network makes of them."""
    inputs, outputs = folder / "inputs", folder / "original"
    inputs.mkdir(parents=True)
    outputs.mkdir(parents=True)
    for index, path in enumerate(paths):
        crop = _read_crop(path, info, HELD_OUT_SIDE)
        # Left out of the scores alone; that all are too small is an error below.
        if min(crop.shape[:2]) < max(SMALLEST_PATCH, info.sizes.minimum):
            continue
        output = network(to_tensor(to_chw(crop))[None])[0]
        name = f"{index:05d}_{path.stem}.png"
        for target, image in ((inputs, crop), (outputs, to_uint8(output))):
            with atomic_write(target / name) as file:
                file.write(encode_png(image))
    if not any(inputs.iterdir()):
        raise UserError("--images: all images chosen to score on are too small for the network")
    return {"dataroot_lq": str(inputs), "dataroot_gt": str(outputs)}
