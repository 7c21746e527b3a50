"""The section `datasets`: one training set, any number of validation sets."""

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from dhp_sr.config.classification import CLASSIFICATION, ClassificationTrain, ClassificationVal
from dhp_sr.config.section import CHANNELS, Color, Level, NotNegative, Positive, Section
from dhp_sr.utils.names import nearest


class Dataset(Section):
    """What training and validation sets have in common."""

    type: Literal["SRDataset", "NoiseDataset"]  # as in TASKS
    name: str = ""
    dataroot_gt: str | Annotated[list[str], Field(min_length=1)]
    """Folder, `.lmdb` folder, or `bundled:train` / `bundled:val` (photographs that come with scikit-image)."""
    dataroot_lq: str | Annotated[list[str], Field(min_length=1)] | None = None
    """Ready low-resolution images; without it they are made from `dataroot_gt` by exact bicubic."""
    filename_tmpl: str = "{}"
    """Name of an LR image from its HR's: `{}x4` for BasicSR's validation folders."""
    color: Color = "rgb"
    cache: Literal["memory", "none"] = "memory"
    """`memory` keeps decoded uint8 images, `none` decodes at every visit."""

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return CHANNELS[self.color]


class TrainDataset(Dataset):
    """`datasets.train`."""

    gt_size: Positive
    """Side of the square training patch, in pixels of the ground truth."""
    use_hflip: bool = True
    use_rot: bool = True
    sigma: Level | Annotated[list[Level], Field(min_length=2, max_length=2)] | None = None
    """Noise level on the 0-255 scale: one value, or `[lowest, highest]` drawn per patch. NoiseDataset only."""
    small_images: Literal["error", "skip"] = "error"
    """What to do with images that hold no patch: stop, or leave them out and list them in a warning."""
    batch_size_per_gpu: Positive
    num_worker_per_gpu: NotNegative = 0


class ValDataset(Dataset):
    """`datasets.val`, `datasets.val_1`, ...: one test set each."""

    sigma: Level | None = None
    """Noise level on the 0-255 scale. NoiseDataset only."""
    noise_seed: int = 0
    """With an image's name, fixes the noise added to it, so that scores repeat."""
    crop_border: NotNegative | None = None
    """Pixels shaved before scoring; default: the scale for super-resolution, 0 for denoising."""
    max_images: Positive | None = None
    """Only the first so many images."""


TASKS = {"SRDataset": "sr", "NoiseDataset": "denoise", CLASSIFICATION: "classification"}
"""Type of dataset -> the task that it makes of a run."""
TYPES = tuple(TASKS)
KINDS: dict[str, tuple[type[Section], type[Section]]] = {
    "images": (TrainDataset, ValDataset),
    CLASSIFICATION: (ClassificationTrain, ClassificationVal),
}
"""Form of a data set's section -> its classes for training and for validation."""


def dataset_kind(key: str, form: str = "images") -> type[Section] | None:
    """Return what `datasets.<key>` holds, or None for a key that is neither `train` nor `val...`."""
    if key == "train":
        return KINDS[form][0]
    return KINDS[form][1] if key == "val" or key.startswith("val_") else None


def decode_datasets(raw: Any) -> Any:
    """Decode `train` and `val*` each with its own keys, and gather the mistakes of all of them."""
    if not isinstance(raw, dict):
        return raw
    decoded, mistakes = {}, []
    for key, value in raw.items():
        given = value.get("type") if isinstance(value, dict) else None
        if isinstance(given, str) and given not in TYPES:
            text = f"expected one of {', '.join(map(repr, TYPES))}, found {given!r}{nearest(given, TYPES)}"
            mistakes.append(_mistake(key, value, text, "type"))
            continue
        form = CLASSIFICATION if given == CLASSIFICATION else "images"
        kind = dataset_kind(str(key), form)
        if kind is None:
            mistakes.append(
                _mistake(key, value, "expected the key train, val or val_..., found " + repr(key))
            )
            continue
        try:
            decoded[key] = kind.model_validate(value)
        except ValidationError as error:
            mistakes += [_inside((key, form), detail) for detail in error.errors(include_url=False)]
    if "train" not in raw:
        mistakes.append(_mistake("train", raw, "expected a training set, found no such key"))
    if mistakes:
        raise ValidationError.from_exception_data("datasets", mistakes)
    return decoded


def _mistake(key: Any, value: Any, text: str, *inside: str) -> InitErrorDetails:
    kind = PydanticCustomError("dataset_key", "{text}", {"text": text})
    return InitErrorDetails(type=kind, loc=(key, *inside), input=value)


def _inside(place: tuple[Any, str], detail: Any) -> InitErrorDetails:
    kind = (
        detail["type"]
        if "error" not in detail.get("ctx", {})
        else PydanticCustomError("dataset_key", detail["msg"])
    )
    return InitErrorDetails(
        type=kind, loc=(*place, *detail["loc"]), input=detail["input"], ctx=detail.get("ctx", {})
    )
