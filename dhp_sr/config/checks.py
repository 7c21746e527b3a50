"""What the types of an option file cannot say: settings that must agree, and settings without effect."""

from collections.abc import Iterator

from dhp_sr.config.classification import ClassificationDataset
from dhp_sr.config.compress import Scheduler
from dhp_sr.config.datasets import TrainDataset, ValDataset
from dhp_sr.config.method_checks import idle_in_search, is_trained_before, method_problems
from dhp_sr.config.schema import Options
from dhp_sr.config.section import Finding, changed
from dhp_sr.config.task_checks import task_problems
from dhp_sr.utils.cost_kinds import COST_KINDS


def problems(options: Options) -> list[Finding]:
    """Return what contradicts itself in `options`."""
    return [
        *_name(options),
        *_datasets(options),
        *_network(options),
        *_phases(options),
        *_schedulers(options),
        *method_problems(options),
        *task_problems(options),
    ]


def idle_settings(options: Options) -> list[Finding]:
    """Return the settings that were given, differ from their default, and change nothing."""
    return [
        *_idle_in_datasets(options),
        *_idle_in_schedulers(options),
        *_idle_in_optimizer(options),
        *idle_in_search(options),
        *_idle_in_targets(options),
    ]


def _name(options: Options) -> Iterator[Finding]:
    if not _names_a_folder(options.name):
        yield ("name",), f"expected the name of a folder, without / \\ or :, found {options.name!r}"


def _names_a_folder(name: str) -> bool:
    bad = set("/\\:") & set(name) or name != name.strip() or not name.isprintable()
    return name not in ("", ".", "..") and not bad


def _datasets(options: Options) -> Iterator[Finding]:
    kinds = {one.type for one in options.datasets.values()}
    if len(kinds) > 1:
        yield (
            ("datasets",),
            f"expected one type in all of them, found {' and '.join(sorted(kinds))}",
        )
    for key, dataset in options.datasets.items():
        for name, text in _of_dataset(dataset, options.scale):
            yield ("datasets", key, name), text
        if dataset.name and not _names_a_folder(dataset.name):
            found = (
                f"expected a name that can be a folder's, without / \\ or :, found {dataset.name!r}"
            )
            yield ("datasets", key, "name"), found


def _of_dataset(
    dataset: TrainDataset | ValDataset | ClassificationDataset, scale: int
) -> Iterator[tuple[str, str]]:
    if isinstance(dataset, ClassificationDataset):
        yield from _of_classification(dataset, scale)
    else:
        yield from _of_images(dataset, scale)


def _of_classification(dataset: ClassificationDataset, scale: int) -> Iterator[tuple[str, str]]:
    if scale != 1:
        yield "type", f"ClassificationDataset expects scale: 1, found {scale}"
    for name, values in (("mean", dataset.mean), ("std", dataset.std)):
        if values is not None and len(values) != dataset.channels:
            yield (
                name,
                f"expected {dataset.channels} value(s), one a channel of color: {dataset.color}, found {values}",
            )


def _of_images(dataset: TrainDataset | ValDataset, scale: int) -> Iterator[tuple[str, str]]:
    denoise = dataset.type == "NoiseDataset"
    if denoise and dataset.sigma is None:
        yield "sigma", "NoiseDataset expects a noise level (0-255 scale), found none"
    if denoise and scale != 1:
        yield "type", f"NoiseDataset expects scale: 1, found {scale}"
    if not denoise and scale < 2:
        yield "type", f"SRDataset expects scale: 2, 3 or 4, found {scale}"
    for name in ("dataroot_gt", "dataroot_lq"):
        yield from ((name, text) for text in _roots(getattr(dataset, name)))
    if dataset.dataroot_lq is not None and _count(dataset.dataroot_lq) != _count(
        dataset.dataroot_gt
    ):
        yield (
            "dataroot_lq",
            f"expected as many folders as dataroot_gt ({_count(dataset.dataroot_gt)}), "
            f"found {_count(dataset.dataroot_lq)}",
        )
    if "{}" not in dataset.filename_tmpl:
        yield "filename_tmpl", f"expected {{}} where the name goes, found {dataset.filename_tmpl!r}"
    if isinstance(dataset, TrainDataset):
        yield from _of_training(dataset, scale)


def _of_training(dataset: TrainDataset, scale: int) -> Iterator[tuple[str, str]]:
    if dataset.gt_size % scale:
        yield "gt_size", f"expected a multiple of the scale ({scale}), found {dataset.gt_size}"
    if isinstance(dataset.sigma, list) and dataset.sigma[0] > dataset.sigma[1]:
        yield "sigma", f"expected [lowest, highest], found {dataset.sigma}"


def _roots(roots: str | list[str] | None) -> Iterator[str]:
    for root in [roots] if isinstance(roots, str) else roots or []:
        if root.startswith("bundled:") and root not in ("bundled:train", "bundled:val"):
            yield f"expected bundled:train or bundled:val, found {root!r}"


def _count(roots: str | list[str]) -> int:
    return 1 if isinstance(roots, str) else len(roots)


def _network(options: Options) -> Iterator[Finding]:
    arguments = options.network_g.arguments
    upscale = arguments.get("upscale")
    if upscale is not None and upscale != options.scale:
        yield (
            ("network_g", "upscale"),
            f"expected the scale of the run ({options.scale}), found {upscale!r}",
        )
    channels = arguments.get("num_in_ch")
    for key, dataset in options.datasets.items():
        if channels is not None and channels != dataset.channels:
            yield (
                ("datasets", key, "color"),
                f"{dataset.color} images have {dataset.channels} channel(s), the network expects {channels!r}",
            )


def _phases(options: Options) -> Iterator[Finding]:
    compress, total = options.compress, options.train.total_iter
    if options.train.warmup_iter > total:
        yield (
            ("train", "warmup_iter"),
            f"expected at most total_iter ({total}), found {options.train.warmup_iter}",
        )
    if compress is None:
        return
    before = compress.dense_iter + compress.search_iter
    if total <= before:
        yield (
            ("train", "total_iter"),
            f"expected more than dense_iter + search_iter ({compress.dense_iter} + {compress.search_iter} = {before}), "
            f"found {total}; the rest finetunes the cut network",
        )
    distill = compress.distill
    if distill and distill.teacher is None and not is_trained_before(options, compress):
        yield (
            ("compress", "distill"),
            "expected a trained teacher: dense_iter above 0, path.pretrain_network_g or distill.teacher; found none",
        )


def _schedulers(options: Options) -> Iterator[Finding]:
    for keys, scheduler in _all_schedulers(options):
        if scheduler.milestones != sorted(set(scheduler.milestones)):
            yield (*keys, "milestones"), f"expected rising iterations, found {scheduler.milestones}"
        if scheduler.type == "multistep" and not scheduler.milestones:
            yield (
                (*keys, "milestones"),
                "multistep expects iterations at which the rate falls, found none",
            )


def _all_schedulers(options: Options) -> Iterator[tuple[tuple[str, str], Scheduler]]:
    yield ("train", "scheduler"), options.train.scheduler
    if options.compress and options.compress.scheduler:
        yield ("compress", "scheduler"), options.compress.scheduler


def _idle_in_datasets(options: Options) -> Iterator[Finding]:
    for key, dataset in options.datasets.items():
        if isinstance(dataset, ClassificationDataset):
            continue
        names: tuple[str, ...]
        if dataset.type == "SRDataset":
            names, reason = ("sigma", "noise_seed"), "SRDataset adds no noise"
        else:
            names, reason = ("dataroot_lq",), "NoiseDataset makes its inputs itself"
        for name in names:
            if name in type(dataset).model_fields and changed(dataset, name):
                yield ("datasets", key, name), f"has no effect, {reason}"
        if dataset.dataroot_lq is None and changed(dataset, "filename_tmpl"):
            yield ("datasets", key, "filename_tmpl"), "has no effect without dataroot_lq"


def _idle_in_schedulers(options: Options) -> Iterator[Finding]:
    used = {"cosine": {"eta_min"}, "multistep": {"milestones", "gamma"}, "constant": set()}
    for keys, scheduler in _all_schedulers(options):
        for name in ("eta_min", "milestones", "gamma"):
            if name not in used[scheduler.type] and changed(scheduler, name):
                yield (*keys, name), f"has no effect with type: {scheduler.type}"


IDLE = {
    "SGD": ("betas",),
    "Muon": ("nesterov",),
    "Adam": ("momentum", "nesterov"),
    "AdamW": ("momentum", "nesterov"),
}
"""What each optimizer has no use for."""


def _idle_in_optimizer(options: Options) -> Iterator[Finding]:
    optimizer = options.train.optim_g
    for name in IDLE[optimizer.type]:
        if changed(optimizer, name):
            yield ("train", "optim_g", name), f"has no effect with type: {optimizer.type}"


def _idle_in_targets(options: Options) -> Iterator[Finding]:
    compress = options.compress
    if compress is None or COST_KINDS[compress.targets[0].kind].is_measured:
        return
    for name in ("latency_size", "latency_threads", "latency_table"):
        if changed(compress, name):
            yield ("compress", name), f"has no effect with a target of {compress.targets[0].kind}"
