"""Settings that belong to another task than that of the data."""

from collections.abc import Iterator

from dhp_sr.config.schema import Options, PixelLoss
from dhp_sr.config.section import Finding

_MODELS = {
    "DHPModel": "SRDataset or NoiseDataset",
    "DHPClassificationModel": "ClassificationDataset",
}
"""Our model types -> the data that they train on."""


def task_problems(options: Options) -> Iterator[Finding]:
    """Yield the settings that mean nothing for the task that the data make of a run."""
    kind = next((one.type for one in options.datasets.values()), "")
    wanted = _MODELS.get(options.model_type)
    if wanted is not None and kind not in wanted:
        fitting = next(name for name, kinds in _MODELS.items() if kind in kinds)
        yield (
            ("model_type",),
            f"{options.model_type} expects datasets of type {wanted}, found {kind}: set {fitting}",
        )
    yield from (
        _of_classification(options) if kind == "ClassificationDataset" else _of_restoration(options)
    )
    if options.train.optim_g.nesterov and options.train.optim_g.momentum == 0:
        yield ("train", "optim_g", "nesterov"), "expects a momentum above 0, found 0"


def _of_classification(options: Options) -> Iterator[Finding]:
    if options.train.pixel_opt != PixelLoss():
        yield (
            ("train", "pixel_opt"),
            "compares images; a ClassificationDataset is trained by train.cls_opt",
        )
    if options.val.save_img:
        yield (
            ("val", "save_img"),
            "expected false for a ClassificationDataset, whose networks make no images",
        )


def _of_restoration(options: Options) -> Iterator[Finding]:
    if options.train.cls_opt is not None:
        yield (
            ("train", "cls_opt"),
            "expects a ClassificationDataset; images are compared by train.pixel_opt",
        )
    distill = options.compress.distill if options.compress else None
    if distill and distill.temperature is not None:
        yield (
            ("compress", "distill", "temperature"),
            "expects a ClassificationDataset; images have no temperature",
        )
