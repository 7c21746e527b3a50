"""Every key of an option file, with its type, range and default.

The classes are decoded once, checked together and never changed afterwards. An unknown key is an error.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

Fraction = Annotated[float, Field(gt=0, le=1)]
Level = Annotated[float, Field(gt=0)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class Section(BaseModel):
    """A group of keys: unknown ones are refused, types are not converted, values cannot be reassigned."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Network(Section):
    """`network_g`: the network's type, and the arguments of its constructor beside it."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)
    type: str

    @property
    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return dict(self.__pydantic_extra__ or {})


class Dataset(Section):
    """What training and validation sets have in common."""

    type: Literal["SRDataset", "NoiseDataset"]
    name: str = ""
    dataroot_gt: str | Annotated[list[str], Field(min_length=1)]
    """Folder, `.lmdb` folder, or `bundled:train` / `bundled:val` (photographs that come with scikit-image)."""
    dataroot_lq: str | Annotated[list[str], Field(min_length=1)] | None = None
    """Ready low-resolution images; without it they are made from `dataroot_gt` by exact bicubic."""
    filename_tmpl: str = "{}"
    """Name of an LR image from its HR's: `{}x4` for BasicSR's validation folders."""
    color: Literal["rgb", "grey"] = "rgb"
    cache: Literal["memory", "none"] = "memory"
    """`memory` keeps decoded uint8 images, `none` decodes at every visit."""


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


class Path(Section):
    """`path`: where networks come from and where a run writes."""

    pretrain_network_g: str | None = None
    """Start from these dense weights (safetensors, or a `.pth` holding tensors only)."""
    experiments_root: str = "experiments"
    """Relative to the project's root, whatever the working directory."""


class Target(Section):
    """`compress.target`: what to keep of the dense network. Exactly one key."""

    macs: Fraction | None = None
    params: Fraction | None = None
    latency: Fraction | None = None
    """Of the time measured on the device of the run, see `latency_size`, `latency_threads` and `latency_table`."""

    @model_validator(mode="after")
    def exactly_one(self) -> "Target":
        """Refuse no budget and two budgets."""
        given = [key for key, value in self if value is not None]
        if len(given) != 1:
            raise ValueError(f"expected exactly one of macs, params, latency, found {' and '.join(given) or 'none'}")
        return self

    @property
    def kind(self) -> str:
        """`macs`, `params` or `latency`."""
        return next(key for key, value in self if value is not None)

    @property
    def keep_ratio(self) -> float:
        """The kept fraction asked for."""
        return getattr(self, self.kind)

    @property
    def label(self) -> str:
        """Short form for names of files: `macs0.5`."""
        return f"{self.kind}{self.keep_ratio:g}"


def _one_or_several(value: Any) -> str:
    return "several" if isinstance(value, list) else "one"


Targets = Annotated[
    Annotated[Target, Tag("one")] | Annotated[list[Target], Tag("several"), Field(min_length=1)],
    Discriminator(_one_or_several),
]
"""One budget, or a list of them."""


class Distill(Section):
    """`compress.distill`: match the dense network's output while finetuning."""

    weight: Annotated[float, Field(gt=0)] = 1.0
    teacher: str | None = None
    """A model file; default: the dense network of this very run, as it was when the search began."""


class Scheduler(Section):
    """`train.scheduler`: the learning rate as a closed formula of the iteration."""

    type: Literal["cosine", "multistep", "constant"] = "cosine"
    eta_min: Annotated[float, Field(ge=0)] = 0.0
    milestones: list[Positive] = []
    """Iterations at which the rate is multiplied by `gamma`."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.5


class Compress(Section):
    """`compress`: the method, the budget, the length of the phases. Without it a run trains the dense network."""

    method: str = "dhp"
    preset: Literal["modern", "faithful"] = "modern"
    parametrisation: Literal["factored", "full"] = "factored"
    target: Targets
    """A list gives several models from one search: each is cut after it and finetuned on its own, for as many
    iterations as a single one would be."""
    tolerance: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Largest distance between the kept fraction and the target, for latency as a fraction of the target; default:
    0.01, for latency 0.05."""
    round_to: Positive = 8
    """Widths are multiples of this (or the dense width)."""
    min_width: Positive = 8
    """No prunable group is cut below this many channels."""
    exclude: list[str] = []
    """Module names or patterns (`up.*`) that keep their widths."""
    dense_iter: NotNegative = 0
    """Iterations of ordinary training before the search."""
    search_iter: NotNegative
    """Iterations of the search; what remains of `train.total_iter` finetunes the cut network."""
    latent_lr: Annotated[float, Field(gt=0)] | None = None
    """Step size of the latents; the default is the preset's."""
    penalty: Annotated[float, Field(ge=0)] | None = None
    """Fixed lambda of the faithful preset; the modern one finds its own."""
    scheduler: Scheduler | None = None
    """Own schedule of dense training and search. With it, `train.scheduler` counts from the cut."""
    distill: Distill | None = None
    latency_size: Annotated[list[Positive], Field(min_length=2, max_length=2)] | None = None
    """Height and width of the input that times are measured for; default: 128 and 128."""
    latency_threads: Positive = 1
    """CPU threads that times are measured with."""
    latency_table: str | None = None
    """File of layer times, read and added to; default: `latency_table.json` in the folder of the run."""

    @field_validator("target")
    @classmethod
    def comparable(cls, target: Target | list[Target]) -> Target | list[Target]:
        """Refuse a list of several kinds, and the same budget twice."""
        several = target if isinstance(target, list) else [target]
        kinds = sorted({one.kind for one in several})
        if len(kinds) > 1:
            raise ValueError(f"expected targets of one kind, found {' and '.join(kinds)}")
        labels = [one.label for one in several]
        if len(set(labels)) < len(labels):
            raise ValueError(f"expected different targets, found {', '.join(labels)}")
        return target

    @property
    def targets(self) -> tuple[Target, ...]:
        """All targets, the largest first."""
        several = self.target if isinstance(self.target, list) else [self.target]
        return tuple(sorted(several, key=lambda one: -one.keep_ratio))


class Optimiser(Section):
    """`train.optim_g`."""

    type: Literal["Adam", "AdamW", "SGD"] = "Adam"
    lr: Annotated[float, Field(gt=0)]
    betas: Annotated[list[Momentum], Field(min_length=2, max_length=2)] = [0.9, 0.999]
    momentum: Momentum = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 0.0


class PixelLoss(Section):
    """`train.pixel_opt`."""

    type: Literal["L1Loss", "MSELoss", "CharbonnierLoss"] = "L1Loss"
    loss_weight: Annotated[float, Field(gt=0)] = 1.0


class Train(Section):
    """`train`."""

    total_iter: Positive
    """All phases together."""
    warmup_iter: NotNegative = 0
    optim_g: Optimiser
    scheduler: Scheduler = Scheduler()
    pixel_opt: PixelLoss = PixelLoss()
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Exponential moving average of weights and buffers while finetuning; 0 switches it off."""
    grad_clip: Annotated[float, Field(gt=0)] | None = None
    """Largest norm of the gradient."""
    amp: Literal["none", "bf16"] = "none"
    channels_last: bool = False


class Val(Section):
    """`val`."""

    val_freq: Positive = 5000
    save_img: bool = False


class Logger(Section):
    """`logger`."""

    print_freq: Positive = 100
    save_checkpoint_freq: Positive = 1000
    use_tb_logger: bool = True


def dataset_kind(key: str) -> type[TrainDataset] | type[ValDataset] | None:
    """Return what `datasets.<key>` holds, or None for a key that is neither `train` nor `val...`."""
    if key == "train":
        return TrainDataset
    return ValDataset if key == "val" or key.startswith("val_") else None


def _decode_datasets(raw: Any) -> Any:
    """Decode `train` and `val*` each with its own keys, and gather the mistakes of all of them."""
    if not isinstance(raw, dict):
        return raw
    decoded, mistakes = {}, []
    for key, value in raw.items():
        kind = dataset_kind(str(key))
        if kind is None:
            mistakes.append(_mistake(key, value, "expected the key train, val or val_..., found " + repr(key)))
            continue
        try:
            decoded[key] = kind.model_validate(value)
        except ValidationError as error:
            mistakes += [_inside(key, detail) for detail in error.errors(include_url=False)]
    if "train" not in raw:
        mistakes.append(_mistake("train", raw, "expected a training set, found no such key"))
    if mistakes:
        raise ValidationError.from_exception_data("datasets", mistakes)
    return decoded


def _mistake(key: Any, value: Any, text: str) -> InitErrorDetails:
    return InitErrorDetails(type=PydanticCustomError("dataset_key", "{text}", {"text": text}), loc=(key,), input=value)


def _inside(key: Any, detail: Any) -> InitErrorDetails:
    kind = detail["type"] if "error" not in detail.get("ctx", {}) else PydanticCustomError("dataset_key", detail["msg"])
    return InitErrorDetails(type=kind, loc=(key, *detail["loc"]), input=detail["input"], ctx=detail.get("ctx", {}))


class Options(Section):
    """One option file."""

    name: str
    model_type: str = "DHPModel"
    scale: Literal[1, 2, 3, 4] = 1
    num_gpu: Literal["auto"] | NotNegative = "auto"
    manual_seed: Seed = 0
    network_g: Network
    datasets: Annotated[dict[str, TrainDataset | ValDataset], BeforeValidator(_decode_datasets)]
    """`train`, and any number of `val`, `val_1`, `val_2`, ..."""
    path: Path = Path()
    compress: Compress | None = None
    train: Train
    val: Val = Val()
    logger: Logger = Logger()
