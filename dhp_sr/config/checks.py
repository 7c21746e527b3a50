"""Checks beyond types: settings that contradict each other, and settings without effect.

Each check yields issues rather than raising, so that a user gets all mistakes at once.
"""

from collections.abc import Callable, Iterator

from dhp_sr.config.compress_checks import (
    check_method,
    check_phases,
    check_targets_of_images,
    check_whole_images,
    unused_in_search,
    unused_in_targets,
)
from dhp_sr.config.datasets import (
    CLASSIFICATION,
    DRAWN,
    IMAGES,
    ClassificationDataset,
    Dataset,
    Roots,
    TrainDataset,
    drawn_count,
)
from dhp_sr.config.schema import MODEL_TYPES, Options, PixelLoss
from dhp_sr.config.section import Issue, Scheduler, changed

Check = Callable[[Options], Iterator[Issue]]
"""Yields an issue for each setting that is wrong; a new check is a function and a row below."""

UNUSED_BY_OPTIMIZER = {
    "SGD": ("betas",),
    "Muon": ("nesterov",),
    "Adam": ("momentum", "nesterov"),
    "AdamW": ("momentum", "nesterov"),
}
"""`train.optim_g.type` -> settings that it does not read."""

UNUSED_BY_SCHEDULER = {
    "cosine": ("milestones", "gamma"),
    "multistep": ("eta_min",),
    "constant": ("eta_min", "milestones", "gamma"),
}
"""`train.scheduler.type` -> settings that it does not read."""


MAX_NAME_BYTES = 200
"""Of a folder's name; file systems take 255, and an earlier run gets a date behind its name."""


def check_names(options: Options) -> Iterator[Issue]:
    """Names of the run and of test sets become names of folders."""
    # A run writes to experiments/NAME, its images to a folder for each test set.
    names: dict[tuple[str, ...], str] = {("name",): options.name}
    keys_of_names: dict[str, str] = {}
    for key, dataset in options.datasets.items():
        if dataset.name:
            names["datasets", key, "name"] = dataset.name
        if key == "train":
            continue
        if not dataset.name:
            names["datasets", key] = key
        # Scores are told apart by it, and some file systems ignore case.
        first = keys_of_names.setdefault((dataset.name or key).lower(), key)
        if first != key:
            text = f"expected a name of its own, got that of datasets.{first}"
            yield ("datasets", key, "name"), f"{text}: {dataset.name or key!r}"
    for keys, name in names.items():
        # The colon separates drives on Windows, where the folder may be copied to.
        has_separator = bool(set("/\\:") & set(name))
        is_clean = name == name.strip() and name.isprintable() and name not in ("", ".", "..")
        if has_separator or not is_clean:
            yield keys, f"expected the name of a folder, without / \\ or :, got {name!r}"
        num_bytes = len(name.encode(errors="replace"))
        if num_bytes > MAX_NAME_BYTES:
            yield keys, f"expected a name of at most {MAX_NAME_BYTES} bytes, got {num_bytes}"


def check_datasets(options: Options) -> Iterator[Issue]:
    """Types of all datasets, and the settings of each of them."""
    # The type of the datasets decides on the task of the run, so they cannot be mixed.
    types = {dataset.type for dataset in options.datasets.values()}
    if len(types) > 1:
        got = " and ".join(sorted(types))
        yield ("datasets",), f"expected the same type in all of them, got {got}"
    for key, dataset in options.datasets.items():
        if isinstance(dataset, ClassificationDataset):
            issues = _check_classification(dataset, options.scale)
        else:
            issues = _check_images(dataset, options.scale)
        for name, text in issues:
            yield ("datasets", key, name), text


def _check_classification(dataset: ClassificationDataset, scale: int) -> Iterator[tuple[str, str]]:
    if scale != 1:
        yield "type", f"ClassificationDataset expects scale: 1, got {scale}"
    for name in ("mean", "std"):
        values = getattr(dataset, name)
        if values is not None and len(values) != dataset.channels:
            expected = f"{dataset.channels} value(s), as many as channels of color: {dataset.color}"
            yield name, f"expected {expected}, got {values}"


def _check_images(dataset: Dataset, scale: int) -> Iterator[tuple[str, str]]:
    # The models of super-resolution upscale, those of denoising keep the size.
    if dataset.type == "NoiseDataset":
        if getattr(dataset, "sigma", None) is None:
            yield "sigma", "NoiseDataset expects a noise level (0-255 scale), got none"
        if scale != 1:
            yield "type", f"NoiseDataset expects scale: 1, got {scale}"
    elif dataset.type == IMAGES:
        if dataset.dataroot_lq is None and not isinstance(dataset, TrainDataset):
            yield "dataroot_lq", "ImageDataset expects the inputs to score on, got none"
    elif scale < 2:
        yield "type", f"SRDataset expects scale: 2, 3 or 4, got {scale}"
    yield from _check_folders(dataset)
    # Validation images are cropped to a multiple of the scale, patches are not.
    if isinstance(dataset, TrainDataset):
        if dataset.gt_size % scale:
            yield "gt_size", f"expected a multiple of the scale ({scale}), got {dataset.gt_size}"
        if dataset.reductions and (dataset.type == "NoiseDataset" or dataset.dataroot_lq):
            yield (
                "reductions",
                "expected images that are inputs themselves: no noise or dataroot_lq",
            )
        if isinstance(dataset.sigma, list) and dataset.sigma[0] > dataset.sigma[1]:
            yield "sigma", f"expected [lowest, highest], got {dataset.sigma}"


def _check_folders(dataset: Dataset) -> Iterator[tuple[str, str]]:
    # Whether other folders exist shows when they are opened; this needs no data.
    for name in ("dataroot_gt", "dataroot_lq"):
        for root in _as_list(getattr(dataset, name)):
            if root.startswith("bundled:") and root not in ("bundled:train", "bundled:val"):
                yield name, f"expected bundled:train or bundled:val, got {root!r}"
            if root.startswith(DRAWN) and drawn_count(root) is None:
                yield name, f"expected a number of images as in drawn:24, got {root!r}"
    expected = len(_as_list(dataset.dataroot_gt))
    got = len(_as_list(dataset.dataroot_lq))
    if dataset.dataroot_lq is not None and got != expected:
        yield "dataroot_lq", f"expected as many folders as dataroot_gt ({expected}), got {got}"
    if "{}" not in dataset.filename_tmpl:
        yield "filename_tmpl", f"expected {{}} where the name goes, got {dataset.filename_tmpl!r}"


def _as_list(roots: Roots | None) -> list[str]:
    if roots is None:
        return []
    if isinstance(roots, str):
        return [roots]
    return roots


def check_network(options: Options) -> Iterator[Issue]:
    """Arguments of the network that have a counterpart in the data.

    Whether the constructor takes them shows when the network is built; these two would build a
    network that does not fit.
    """
    arguments = options.network_g.arguments
    upscale = arguments.get("upscale")
    if upscale is not None and upscale != options.scale:
        text = f"expected the scale of the run ({options.scale}), got {upscale!r}"
        yield ("network_g", "upscale"), text
    channels = arguments.get("num_in_ch")
    for key, dataset in options.datasets.items():
        if channels is not None and channels != dataset.channels:
            text = f"{dataset.color} images have {dataset.channels} channel(s), the network "
            yield ("datasets", key, "color"), f"{text}expects {channels!r}"


def check_schedulers(options: Options) -> Iterator[Issue]:
    """Milestones of the learning rates."""
    for keys, scheduler in _all_schedulers(options):
        milestones = scheduler.milestones
        # A milestone that is repeated would lower the rate twice.
        if milestones != sorted(set(milestones)):
            yield (*keys, "milestones"), f"expected rising iterations, got {milestones}"
        if scheduler.type == "multistep" and not milestones:
            text = "multistep expects iterations at which the rate falls, got none"
            yield (*keys, "milestones"), text


def _all_schedulers(options: Options) -> Iterator[tuple[tuple[str, str], Scheduler]]:
    yield ("train", "scheduler"), options.train.scheduler
    if options.compress and options.compress.scheduler:
        yield ("compress", "scheduler"), options.compress.scheduler


def check_task(options: Options) -> Iterator[Issue]:
    """Settings of another task than that of the datasets."""
    dataset_type = next((dataset.type for dataset in options.datasets.values()), "")
    if dataset_type not in MODEL_TYPES[options.model_type]:
        expected = " or ".join(MODEL_TYPES[options.model_type])
        fitting = [name for name, types in MODEL_TYPES.items() if dataset_type in types]
        text = f"{options.model_type} expects datasets of type {expected}, got {dataset_type}"
        yield ("model_type",), f"{text}: set {' or '.join(fitting)}"
    train = options.train
    # The loss of the other task would silently be ignored.
    if dataset_type == CLASSIFICATION:
        if train.pixel_opt != PixelLoss():
            text = "compares images; a ClassificationDataset is trained by train.cls_opt"
            yield ("train", "pixel_opt"), text
        if options.val.save_img:
            yield ("val", "save_img"), "expected false: a classifier writes no images"
    else:
        if train.cls_opt is not None:
            text = "expects a ClassificationDataset; images are compared by train.pixel_opt"
            yield ("train", "cls_opt"), text
        compress = options.compress
        if compress and compress.distill and compress.distill.temperature is not None:
            text = "expects a ClassificationDataset; images have no temperature"
            yield ("compress", "distill", "temperature"), text
    if train.optim_g.nesterov and train.optim_g.momentum == 0:
        yield ("train", "optim_g", "nesterov"), "expects a momentum above 0, got 0"


def unused_in_datasets(options: Options) -> Iterator[Issue]:
    """Settings of the other task's datasets."""
    for key, dataset in options.datasets.items():
        if isinstance(dataset, ClassificationDataset):
            continue  # has none of these keys
        names: tuple[str, ...] = ("dataroot_lq",)
        reason = "NoiseDataset makes its inputs itself"
        if dataset.type != "NoiseDataset":
            names = ("sigma", "noise_seed")
            reason = f"{dataset.type} adds no noise"
        for name in names:
            if name in type(dataset).model_fields and changed(dataset, name):
                yield ("datasets", key, name), f"has no effect, {reason}"
        if dataset.dataroot_lq is None and changed(dataset, "filename_tmpl"):
            yield ("datasets", key, "filename_tmpl"), "has no effect without dataroot_lq"


def unused_in_schedulers(options: Options) -> Iterator[Issue]:
    """Settings of other schedules."""
    for keys, scheduler in _all_schedulers(options):
        for name in UNUSED_BY_SCHEDULER[scheduler.type]:
            if changed(scheduler, name):
                yield (*keys, name), f"has no effect with type: {scheduler.type}"


def unused_in_optimizer(options: Options) -> Iterator[Issue]:
    """Settings of other optimizers."""
    optimizer = options.train.optim_g
    for name in UNUSED_BY_OPTIMIZER[optimizer.type]:
        if changed(optimizer, name):
            yield ("train", "optim_g", name), f"has no effect with type: {optimizer.type}"


CHECKS: tuple[Check, ...] = (
    check_names,
    check_datasets,
    check_network,
    check_phases,
    check_targets_of_images,
    check_whole_images,
    check_schedulers,
    check_method,
    check_task,
)
"""Settings that contradict each other or cannot work."""

UNUSED_CHECKS: tuple[Check, ...] = (
    unused_in_datasets,
    unused_in_schedulers,
    unused_in_optimizer,
    unused_in_search,
    unused_in_targets,
)
"""Settings that were given, differ from their default, and have no effect."""


def find_mistakes(options: Options) -> list[Issue]:
    """Run all checks for settings that cannot work."""
    return [issue for check in CHECKS for issue in check(options)]


def find_unused(options: Options) -> list[Issue]:
    """Run all checks for settings without effect."""
    return [issue for check in UNUSED_CHECKS for issue in check(options)]
