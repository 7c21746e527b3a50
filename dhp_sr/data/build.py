"""Datasets from the sections of an option file; everything that can be checked is checked here, before training."""

import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

from torch.utils.data import Dataset

from dhp_sr.config.datasets import Dataset as DatasetOptions
from dhp_sr.config.datasets import TrainDataset, ValDataset
from dhp_sr.data.image_cache import Store
from dhp_sr.data.noise import Clean, TrainNoise, ValNoise
from dhp_sr.data.paired import Pair, Pairs, TrainPairs, ValPairs, listed, match_pairs
from dhp_sr.data.patches import Augmentation
from dhp_sr.data.sources import StoredImage, find_all
from dhp_sr.utils.errors import UserError

Item = TypeVar("Item")


def build_train_set(options: TrainDataset, scale: int, seed: int) -> Dataset:
    """Return the training set of `datasets.train`.

    Args:
        options: The section.
        scale: HR side by LR side; 1 for denoising.
        seed: With a sample's position, fixes its patch.

    Returns:
        A dataset addressed by (number of the image, position in the run); see `train_batches`.

    Raises:
        UserError: Folders or images are missing, damaged, too small or do not match, or settings contradict each other.
    """
    return _explained(options, "datasets.train", lambda: _train_set(options, scale, seed))


def build_val_set(options: ValDataset, scale: int, smallest: int = 1) -> Dataset:
    """Return one validation set, addressed by number; errors as for `build_train_set`.

    Args:
        options: The section.
        scale: HR side by LR side; 1 for denoising.
        smallest: Side in pixels that every image must have to be scored.
    """
    return _explained(options, "datasets.val", lambda: _val_set(options, scale, smallest))


def _train_set(options: TrainDataset, scale: int, seed: int) -> Dataset:
    augmentation = Augmentation(options.use_hflip, options.use_rot)
    keep, title = options.cache == "memory", _title(options)
    if options.type == "NoiseDataset":
        sigma = _sigma_range(_check_noise(options, scale))
        images = [image for root in find_all(options.dataroot_gt) for image in root]
        images = _large_enough(images, images, options, 1)
        store = Store(
            [Clean(image, options.color).load for image in images], keep=keep, title=title
        )
        keys = [image.key for image in images]
        return TrainNoise(
            store, keys, gt_size=options.gt_size, sigma=sigma, augmentation=augmentation, seed=seed
        )
    _check_pairs(options, scale)
    if options.gt_size % scale:
        nearby = options.gt_size - options.gt_size % scale or scale
        raise UserError(
            f"expected gt_size (={options.gt_size}) to be a multiple of scale (={scale}): use {nearby}"
        )
    found = _find_pairs(options, scale)
    found = _large_enough(found, [pair.gt for pair in found], options, scale)
    pairs = Pairs(found, keep=keep, title=title)
    return TrainPairs(
        pairs, scale=scale, gt_size=options.gt_size, augmentation=augmentation, seed=seed
    )


def _val_set(options: ValDataset, scale: int, smallest: int) -> Dataset:
    keep, title = options.cache == "memory", _title(options)
    if options.type == "NoiseDataset":
        sigma = _sigma_range(_check_noise(options, scale))[0]
        if options.noise_seed < 0:
            raise UserError(f"expected noise_seed of at least 0, found {options.noise_seed}")
        images = [image for root in find_all(options.dataroot_gt) for image in root][
            : options.max_images
        ]
        _check_patches(images, smallest, 1)
        store = Store(
            [Clean(image, options.color).load for image in images], keep=keep, title=title
        )
        return ValNoise(
            store, [image.key for image in images], sigma=sigma, noise_seed=options.noise_seed
        )
    _check_pairs(options, scale)
    pairs = _find_pairs(options, scale)[: options.max_images]
    _check_patches([pair.gt for pair in pairs], max(scale, smallest), scale)
    return ValPairs(Pairs(pairs, keep=keep, title=title))


def _find_pairs(options: DatasetOptions, scale: int) -> list[Pair]:
    gt_roots = find_all(options.dataroot_gt)
    if options.dataroot_lq is None:
        return [Pair(image, None, scale, options.color) for root in gt_roots for image in root]
    lq_roots = find_all(options.dataroot_lq)
    if len(gt_roots) != len(lq_roots):
        found = f"found {len(gt_roots)} of dataroot_gt and {len(lq_roots)} of dataroot_lq"
        raise UserError(f"expected one LR root for each HR root in the same order, {found}")
    matched = [
        match_pairs(gt, lq, scale=scale, color=options.color, template=options.filename_tmpl)
        for gt, lq in zip(gt_roots, lq_roots, strict=True)
    ]
    return [pair for pairs in matched for pair in pairs]


def _large_enough(
    items: Sequence[Item], images: Sequence[StoredImage], options: TrainDataset, scale: int
) -> list[Item]:
    """Return the items whose image holds a patch; `small_images` says whether others are an error or left out."""
    small = [_too_small(image, options.gt_size, scale) for image in images]
    if any(small) and options.small_images == "error":
        advice = "lower gt_size, set small_images: skip, or remove these images"
        found = listed([text for text in small if text])
        raise UserError(
            f"expected images of at least {options.gt_size}x{options.gt_size} pixels, found {found}: {advice}"
        )
    if all(small):
        raise UserError(
            f"all {len(small)} images are smaller than gt_size (={options.gt_size}): lower gt_size"
        )
    if any(small):
        names = listed([text for text in small if text])
        warnings.warn(
            f"left out as smaller than gt_size (={options.gt_size}): {names}", stacklevel=2
        )
    return [item for item, text in zip(items, small, strict=True) if not text]


def _check_patches(images: Sequence[StoredImage], gt_size: int, scale: int) -> None:
    """Check that every image holds a patch once its sides are cut to multiples of the scale."""
    small = [text for image in images if (text := _too_small(image, gt_size, scale))]
    if small:
        expected = f"expected images of at least {gt_size}x{gt_size} pixels"
        raise UserError(f"{expected}, found {listed(small)}: remove them or lower crop_border")


def _too_small(image: StoredImage, gt_size: int, scale: int) -> str:
    """Return name and size of an image that holds no patch, else an empty text."""
    height, width, _ = image.size()
    fits = min(height - height % scale, width - width % scale) >= gt_size
    return "" if fits else f"{image.where} ({height}x{width})"


def _check_pairs(options: TrainDataset | ValDataset, scale: int) -> None:
    if options.sigma is not None:
        raise UserError(
            f"sigma (={options.sigma}) has no effect with type SRDataset: remove it, or use NoiseDataset"
        )
    if scale == 1 and options.dataroot_lq is None:
        raise UserError(
            "SRDataset at scale 1 needs ready pairs: set dataroot_lq, or `scale` to 2, 3 or 4"
        )
    if options.dataroot_lq is None and options.filename_tmpl != "{}":
        raise UserError(
            f"filename_tmpl (={options.filename_tmpl!r}) has no effect without dataroot_lq: remove it"
        )
    if options.filename_tmpl.count("{}") != 1:
        raise UserError(
            f"expected filename_tmpl with one {{}} for the HR name, found {options.filename_tmpl!r}"
        )


def _check_noise(options: TrainDataset | ValDataset, scale: int) -> float | list[float]:
    if scale != 1:
        raise UserError(
            f"expected scale 1 with type NoiseDataset, found scale {scale}: correct it or use SRDataset"
        )
    if options.dataroot_lq is not None:
        raise UserError(
            "dataroot_lq has no effect with type NoiseDataset, which makes its own noise: remove it"
        )
    if options.sigma is None:
        raise UserError(
            "NoiseDataset needs sigma, the noise level on the 0-255 scale, for example `sigma: 25`"
        )
    return options.sigma


def _sigma_range(sigma: float | list[float]) -> tuple[float, float]:
    levels = list(sigma) if isinstance(sigma, list) else [sigma, sigma]
    if len(levels) != 2 or not 0 <= levels[0] <= levels[1] <= 255:
        raise UserError(
            f"expected sigma as one level or [lowest, highest] within 0-255, found {sigma}"
        )
    return levels[0], levels[1]


def _title(options: DatasetOptions) -> str:
    return f"Reading {options.name or options.dataroot_gt}"


def _explained(options: DatasetOptions, section: str, build: Callable[[], Dataset]) -> Dataset:
    """Say in an error which data set it is about."""
    try:
        return build()
    except UserError as error:
        raise UserError(
            f"{section}{f' ({options.name})' if options.name else ''}: {error}"
        ) from error
