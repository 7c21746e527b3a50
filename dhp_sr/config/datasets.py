"""The section `datasets`: one training set, and any number of validation sets of the same type."""

from typing import Annotated, Literal

from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from dhp_sr.config.section import CHANNELS, Color, Level, NotNegative, Positive, Section
from dhp_sr.utils.errors import nearest

CLASSIFICATION = "ClassificationDataset"
IMAGES = "ImageDataset"
TASKS = {
    "SRDataset": "sr",
    "NoiseDataset": "denoise",
    IMAGES: "restoration",
    CLASSIFICATION: "classification",
}
"""`type` of a dataset -> task of the run; an ImageDataset that enlarges is super-resolution."""
TYPES = tuple(TASKS)

Statistics = Annotated[list[float], Field(min_length=1, max_length=3)]
Deviations = Annotated[list[Level], Field(min_length=1, max_length=3)]
Roots = str | Annotated[list[str], Field(min_length=1)]

DEFAULT_STATISTICS = {
    "rgb": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "gray": ([0.449], [0.226]),
}
"""`color` -> mean and standard deviation of ImageNet, which are usual for CIFAR-10 as well."""


DRAWN = "drawn:"
"""Prefix of a root that is no path; a number of images follows."""


def drawn_count(root: str) -> int | None:
    """Return the number of images of `drawn:24`; None: it names none."""
    count = root.removeprefix(DRAWN)
    return int(count) if count.isascii() and count.isdigit() and int(count) else None


class Dataset(Section):
    """Keys of training and validation sets of super-resolution and denoising."""

    type: Literal["SRDataset", "NoiseDataset", "ImageDataset"]
    """SRDataset makes inputs by bicubic downscaling or reads them, NoiseDataset adds noise. With
    ImageDataset, images for training are inputs themselves, as they are and reduced, and a teacher
    gives the target; or `dataroot_lq` has inputs of any kind and `dataroot_gt` their truths."""
    name: str = ""
    """Display name in tables and logs."""
    dataroot_gt: Roots
    """Folder, `.lmdb` folder, `bundled:train` / `bundled:val` (photographs that come with
    scikit-image), or `drawn:24` (so many drawn images: text, charts); or a list of these."""
    dataroot_lq: Roots | None = None
    """Existing low-resolution images. Default: made from `dataroot_gt` by exact bicubic."""
    filename_tmpl: str = "{}"
    """Name of an LR image from its HR's: `{}x4` for BasicSR's validation folders."""
    color: Color = "rgb"
    """`rgb` repeats gray images three times; `gray` makes luma of RGB, as MATLAB does."""
    cache: Literal["auto", "memory", "disk", "none"] = "auto"
    """`memory` keeps decoded uint8 images. `disk` decodes them once into a memory-mapped file that
    later runs use again. `none` decodes at every visit. `auto` is memory for a set that takes at
    most half of what is available, else disk for training and none for validation."""
    cache_dir: str | None = None
    """Folder of `disk`'s files. Default: `image_cache` in `path.experiments_root`."""

    @property
    def channels(self) -> int:
        """Number of image channels."""
        return CHANNELS[self.color]


class TrainDataset(Dataset):
    """`datasets.train` of super-resolution and denoising."""

    gt_size: Positive
    """Height and width of the training patch, in pixels of the ground truth."""
    use_hflip: bool = True
    """Whether images are flipped horizontally, in half of the cases."""
    use_rot: bool = True
    """Whether patches are flipped vertically and transposed, each in half of the cases."""
    sigma: Level | Annotated[list[Level], Field(min_length=2, max_length=2)] | None = None
    """Noise level on the 0-255 scale, or `[lowest, highest]`, sampled per patch; NoiseDataset."""
    reductions: Annotated[list[Positive], Field(min_length=1)] | None = None
    """Whole factors that images are reduced by to be inputs, each equally often; 1 takes them as
    they are, and so is an image too small for a factor. A teacher gives the target, truths are not
    used. Default: an SRDataset has truths, an ImageDataset takes 1 and the scale, at least 2. Needs
    `compress.distill.task_loss: false`; not with `dataroot_lq`."""
    small_images: Literal["error", "skip"] = "error"
    """Treatment of images smaller than a patch: stop, or skip them with a warning."""
    batch_size_per_gpu: Positive
    """Images in a batch of one process."""
    num_worker_per_gpu: NotNegative = 0
    """Processes that load images, for each process of the run; 0: none."""

    @property
    def has_truths(self) -> bool:
        """Whether samples have ground truths; otherwise a teacher gives the targets."""
        if self.type == IMAGES:
            return self.dataroot_lq is not None
        return self.reductions is None


class ValDataset(Dataset):
    """`datasets.val`, `datasets.val_1`, ... of super-resolution and denoising."""

    sigma: Level | None = None
    """Noise level on the 0-255 scale; NoiseDataset."""
    noise_seed: int = 0
    """Fixes, with an image's name, the noise added to it, so that scores repeat."""
    crop_border: NotNegative | None = None
    """Border in pixels left out of the scores. Default: the scale; 0 for denoising."""
    max_images: Positive | None = None
    """Number of images to score, from the first on. Default: all."""


class ClassificationDataset(Section):
    """Keys of training and validation sets of classification: labeled images, in memory."""

    type: Literal["ClassificationDataset"]
    """Classification."""
    name: str = ""
    """Display name in tables and logs."""
    dataroot: str
    """Class folders, CIFAR's own binary files, sheets with their INDEX.tsv, or an `.lmdb` folder
    with labels."""
    split: str = "train"
    """Subset of `dataroot`: `train` or `test`; for class folders, name of the subfolder."""
    labels: Literal["fine", "coarse"] = "fine"
    """CIFAR-100 has both kinds of labels."""
    color: Color = "rgb"
    """`rgb` repeats gray images three times; `gray` makes luma of RGB, as MATLAB does."""
    size: Positive | None = None
    """Resize the shorter side to this many pixels and crop the center. Default: all images have
    the same size already."""
    mean: Statistics | None = None
    """Subtracted from images in [0, 1], a value per channel. Default: that of ImageNet."""
    std: Deviations | None = None
    """Divisor after the mean is subtracted, a value per channel. Default: that of ImageNet."""
    max_per_class: Positive | None = None
    """Number of images of each class, from the first on. Default: all."""

    @property
    def channels(self) -> int:
        """Number of image channels."""
        return CHANNELS[self.color]

    @property
    def statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation, a value per channel."""
        mean, std = DEFAULT_STATISTICS[self.color]
        return self.mean or mean, self.std or std


class ClassificationTrain(ClassificationDataset):
    """`datasets.train` of classification."""

    padding: NotNegative = 4
    """Black border in pixels, from which a crop of the original size is taken at random."""
    use_hflip: bool = True
    """Whether images are flipped horizontally, in half of the cases."""
    batch_size_per_gpu: Positive
    """Images in a batch of one process."""
    num_worker_per_gpu: NotNegative = 0
    """Processes that load images, for each process of the run; 0: none."""


class ClassificationVal(ClassificationDataset):
    """`datasets.val`, `datasets.val_1`, ... of classification."""

    split: str = "test"
    """Subset of `dataroot`, as in `datasets.train`."""
    batch_size: Positive = 250
    """Images per forward pass; changes no score."""


KINDS: dict[str, tuple[type[Section], type[Section]]] = {
    "images": (TrainDataset, ValDataset),
    CLASSIFICATION: (ClassificationTrain, ClassificationVal),
}
"""Form of a section -> its classes for training and for validation."""


def dataset_kind(key: str, form: str = "images") -> type[Section] | None:
    """Class of the section `datasets.<key>`; None if the key is neither `train` nor `val...`."""
    train, val = KINDS[form]
    if key == "train":
        return train
    if key == "val" or key.startswith("val_"):
        return val
    return None


def decode_datasets(raw: object) -> object:
    """Decode every dataset with the class for its key and type.

    Pydantic would try all four classes for each dataset and report the mistakes of all four.

    Raises:
        ValidationError: With the mistakes of all datasets.
    """
    if not isinstance(raw, dict):
        return raw
    decoded = {}
    # Of all datasets: the first mistake must not hide those of the next one.
    mistakes: list[InitErrorDetails] = []
    for key, value in raw.items():
        given = value.get("type") if isinstance(value, dict) else None
        if isinstance(given, str) and given not in TYPES:
            known = ", ".join(repr(name) for name in TYPES)
            text = f"expected {known}, got {given!r}{nearest(given, TYPES)}"
            mistakes.append(_mistake((key, "type"), value, text))
            continue
        # Without a type the mistakes are reported for images, the usual form.
        form = CLASSIFICATION if given == CLASSIFICATION else "images"
        kind = dataset_kind(str(key), form)
        if kind is None:
            text = f"expected the key train, val or val_..., got {key!r}"
            mistakes.append(_mistake((key,), value, text))
            continue
        try:
            decoded[key] = kind.model_validate(value)
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                mistakes.append(_moved((key, form), detail))
    if "train" not in raw:
        mistakes.append(_mistake(("train",), raw, "expected a training set, got no such key"))
    if mistakes:
        raise ValidationError.from_exception_data("datasets", mistakes)
    return decoded


def _mistake(keys: tuple[int | str, ...], value: object, text: str) -> InitErrorDetails:
    kind = PydanticCustomError("dataset_key", "{text}", {"text": text})
    return InitErrorDetails(type=kind, loc=keys, input=value)


def _moved(above: tuple[int | str, str], detail: ErrorDetails) -> InitErrorDetails:
    """Mistake inside a dataset, with the dataset's key before its location."""
    context = detail.get("ctx", {})
    kind: str | PydanticCustomError = detail["type"]
    # Errors of our own validators are no types of pydantic and need to be wrapped again.
    if "error" in context:
        kind = PydanticCustomError("dataset_key", "{text}", {"text": detail["msg"]})
    return InitErrorDetails(
        type=kind, loc=(*above, *detail["loc"]), input=detail["input"], ctx=context
    )
