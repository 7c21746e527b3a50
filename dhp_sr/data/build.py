"""Data sets from the sections of an option file; what can be checked is checked before training."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from torch.utils.data import Dataset

from dhp_sr.config.datasets import Dataset as DatasetOptions
from dhp_sr.config.datasets import TrainDataset, ValDataset
from dhp_sr.data.augment import Augmentation
from dhp_sr.data.disk_cache import CacheItem
from dhp_sr.data.image_cache import ImageCache, open_images
from dhp_sr.data.inputs import InputTrainSet, ReducedImage
from dhp_sr.data.noise import CleanImage, NoiseTrainSet, NoiseValSet
from dhp_sr.data.paired import Pair, PairTrainSet, PairValSet, match_pairs
from dhp_sr.data.sources import StoredImage, find_all
from dhp_sr.utils.errors import UserError, abbreviate

Item = TypeVar("Item")


def build_train_set(options: TrainDataset, scale: int, seed: int) -> Dataset:
    """Build the training set of `datasets.train`.

    Args:
        options: The section.
        scale: HR side by LR side; 1 for denoising.
        seed: With a sample's position, fixes its patch.

    Returns:
        A data set addressed by (image index, position in the run); see `train_batches`.

    Raises:
        UserError: Folders or images are missing, damaged, too small or do not match, or settings
            contradict each other.
    """
    with section_in_errors("datasets.train", options.name):
        if options.type == "NoiseDataset":
            return build_noise_train_set(options, scale, seed)
        if not options.has_truths:
            return build_input_train_set(options, scale, seed)
        return build_pair_train_set(options, scale, seed)


def build_val_set(options: ValDataset, scale: int, smallest: int = 1) -> NoiseValSet | PairValSet:
    """Build a validation set, addressed by image index.

    Args:
        options: The section.
        scale: HR side by LR side; 1 for denoising.
        smallest: Side in pixels that every image must have to be scored.

    Raises:
        UserError: As for `build_train_set`.
    """
    with section_in_errors("datasets.val", options.name):
        if options.type == "NoiseDataset":
            return build_noise_val_set(options, scale, smallest)
        return build_pair_val_set(options, scale, smallest)


def build_noise_train_set(options: TrainDataset, scale: int, seed: int) -> Dataset:
    """Build a denoising set for training; arguments as for `build_train_set`."""
    sigma = _sigma_range(_check_noise(options, scale))
    images = _find_gt(options)
    # no crop to a scale: patches of clean images may have any side
    images = _large_enough(images, images, options, 1)
    return NoiseTrainSet(
        _clean_images(images, options),
        _keys(images),
        gt_size=options.gt_size,
        sigma=sigma,
        augmentation=Augmentation(options.use_hflip, options.use_rot),
        seed=seed,
        originals=[(image,) for image in images],
    )


def build_input_train_set(options: TrainDataset, scale: int, seed: int) -> Dataset:
    """Build a set of inputs without truths; arguments as for `build_train_set`."""
    side = options.gt_size // scale
    images = _find_gt(options)
    images = _large_enough(images, images, options.model_copy(update={"gt_size": side}), 1)
    reductions = tuple(options.reductions or default_reductions(scale))
    reduced = [ReducedImage(CleanImage(image, options.color), reductions, side) for image in images]
    return InputTrainSet(
        _open(reduced, options),
        _keys(images),
        side=side,
        scale=scale,
        augmentation=Augmentation(options.use_hflip, options.use_rot),
        seed=seed,
        originals=[(image,) for image in images],
    )


def default_reductions(scale: int) -> list[int]:
    """Return the factors that inputs without truths are reduced by unless options name others."""
    return [1, max(2, scale)]


def build_pair_train_set(options: TrainDataset, scale: int, seed: int) -> Dataset:
    """Build a super-resolution set for training; arguments as for `build_train_set`."""
    _check_pairs(options, scale)
    if options.gt_size % scale:
        # LR patches are cut first; their side times the scale has to be gt_size
        nearby = options.gt_size - options.gt_size % scale or scale
        raise UserError(
            f"expected gt_size (={options.gt_size}) to be a multiple of scale (={scale}): "
            f"use {nearby}"
        )
    pairs = _find_pairs(options, scale)
    pairs = _large_enough(pairs, [pair.gt for pair in pairs], options, scale)
    return PairTrainSet(
        _open(pairs, options),
        _keys([pair.gt for pair in pairs]),
        scale=scale,
        gt_size=options.gt_size,
        augmentation=Augmentation(options.use_hflip, options.use_rot),
        seed=seed,
        originals=[pair.originals for pair in pairs],
    )


def build_noise_val_set(options: ValDataset, scale: int, smallest: int) -> NoiseValSet:
    """Build a denoising set for validation; arguments as for `build_val_set`."""
    sigma, _ = _sigma_range(_check_noise(options, scale))
    if options.noise_seed < 0:
        raise UserError(f"expected noise_seed of at least 0, got {options.noise_seed}")
    images = _find_gt(options)[: options.max_images]
    # SSIM, for example, has a window that must fit
    _check_sizes(images, smallest, 1)
    return NoiseValSet(
        _clean_images(images, options),
        _keys(images),
        sigma=sigma,
        noise_seed=options.noise_seed,
        input_shapes=[CleanImage(image, options.color).input_shape() for image in images],
        originals=[(image,) for image in images],
    )


def build_pair_val_set(options: ValDataset, scale: int, smallest: int) -> PairValSet:
    """Build a super-resolution set for validation; arguments as for `build_val_set`."""
    _check_pairs(options, scale)
    pairs = _find_pairs(options, scale)[: options.max_images]
    _check_sizes([pair.gt for pair in pairs], max(scale, smallest), scale)
    return PairValSet(_open(pairs, options), pairs)


def _find_gt(options: DatasetOptions) -> list[StoredImage]:
    images: list[StoredImage] = []
    for root in find_all(options.dataroot_gt):
        images += root
    return images


def _keys(images: Sequence[StoredImage]) -> list[str]:
    return [image.key for image in images]


def _clean_images(images: Sequence[StoredImage], options: DatasetOptions) -> ImageCache:
    return _open([CleanImage(image, options.color) for image in images], options)


def _open(items: Sequence[CacheItem], options: DatasetOptions) -> ImageCache:
    folder = None if options.cache_dir is None else Path(options.cache_dir)
    return open_images(
        items,
        options.cache,
        folder=folder,
        title=f"Reading {options.name or options.dataroot_gt}",
        is_training=isinstance(options, TrainDataset),
    )


def _find_pairs(options: DatasetOptions, scale: int) -> list[Pair]:
    if options.dataroot_lq is None:
        return [Pair(image, None, scale, options.color) for image in _find_gt(options)]
    gt_roots = find_all(options.dataroot_gt)
    lq_roots = find_all(options.dataroot_lq)
    if len(gt_roots) != len(lq_roots):
        raise UserError(
            "expected an LR root for each HR root in the same order, "
            f"got {len(gt_roots)} of dataroot_gt and {len(lq_roots)} of dataroot_lq"
        )
    pairs: list[Pair] = []
    for gt, lq in zip(gt_roots, lq_roots, strict=True):
        template = options.filename_tmpl
        pairs += match_pairs(gt, lq, scale=scale, color=options.color, template=template)
    return pairs


def _large_enough(
    items: Sequence[Item], images: Sequence[StoredImage], options: TrainDataset, scale: int
) -> list[Item]:
    """Select the items whose image holds a patch; `small_images` says whether others are errors."""
    kept: list[Item] = []
    small: list[str] = []
    for item, image in zip(items, images, strict=True):
        if image.holds_patch(options.gt_size, scale):
            kept.append(item)
        else:
            small.append(image.name_and_size())
    if small and options.small_images == "error":
        raise UserError(
            f"expected images of at least {options.gt_size}x{options.gt_size} pixels, "
            f"got {abbreviate(small)}: "
            "lower gt_size, set small_images: skip, or remove these images"
        )
    if len(small) == len(items):
        raise UserError(
            f"all {len(small)} images are smaller than gt_size (={options.gt_size}): lower gt_size"
        )
    if small:
        # nothing is left out in silence
        warnings.warn(
            f"left out as smaller than gt_size (={options.gt_size}): {abbreviate(small)}",
            stacklevel=2,
        )
    return kept


def _check_sizes(images: Sequence[StoredImage], side: int, scale: int) -> None:
    """Check that every image has `side` pixels left once it is cropped to the scale."""
    small = []
    for image in images:
        if not image.holds_patch(side, scale):
            small.append(image.name_and_size())
    if small:
        raise UserError(
            f"expected images of at least {side}x{side} pixels, got {abbreviate(small)}: "
            "remove them or lower crop_border"
        )


def _check_pairs(options: TrainDataset | ValDataset, scale: int) -> None:
    if options.sigma is not None:
        raise UserError(
            f"sigma (={options.sigma}) has no effect with type SRDataset: remove it, "
            "or use NoiseDataset"
        )
    if scale == 1 and options.dataroot_lq is None:
        raise UserError(
            "SRDataset at scale 1 needs ready pairs: set dataroot_lq, or `scale` to 2, 3 or 4"
        )
    if options.dataroot_lq is None and options.filename_tmpl != "{}":
        raise UserError(
            f"filename_tmpl (={options.filename_tmpl!r}) has no effect without dataroot_lq: "
            "remove it"
        )
    if options.filename_tmpl.count("{}") != 1:
        raise UserError(
            "expected filename_tmpl with a single {} for the HR name, "
            f"got {options.filename_tmpl!r}"
        )


def _check_noise(options: TrainDataset | ValDataset, scale: int) -> float | list[float]:
    if scale != 1:
        raise UserError(
            f"expected scale 1 with type NoiseDataset, got scale {scale}: "
            "correct it or use SRDataset"
        )
    if options.dataroot_lq is not None:
        raise UserError(
            "dataroot_lq has no effect with type NoiseDataset, which makes noise itself: remove it"
        )
    if options.sigma is None:
        raise UserError(
            "NoiseDataset needs sigma, the noise level on the 0-255 scale, for example `sigma: 25`"
        )
    return options.sigma


def _sigma_range(sigma: float | list[float]) -> tuple[float, float]:
    """Return the lowest and the highest level."""
    if not isinstance(sigma, list):
        sigma = [sigma, sigma]
    if len(sigma) != 2 or not 0 <= sigma[0] <= sigma[1] <= 255:
        raise UserError(f"expected sigma as a level or [lowest, highest] within 0-255, got {sigma}")
    return sigma[0], sigma[1]


@contextmanager
def section_in_errors(section: str, name: str) -> Iterator[None]:
    """Put the section of the option file, and the name of the data set, before a message."""
    try:
        yield
    except UserError as error:
        title = f"{section} ({name})" if name else section
        raise UserError(f"{title}: {error}") from error
