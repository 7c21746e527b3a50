"""Every key of an option file, with its type, range and default.

The classes are decoded once, checked together and never changed afterwards. An unknown key is an error.
"""

import warnings
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from dhp_sr.config.classification import ClassificationTrain, ClassificationVal
from dhp_sr.config.compress import Compress, Scheduler
from dhp_sr.config.datasets import TrainDataset, ValDataset, decode_datasets
from dhp_sr.config.renamed import use_current_names
from dhp_sr.config.section import Momentum, NotNegative, Positive, Section, Seed


class Network(Section):
    """`network_g`: the network's type, and the arguments of its constructor beside it."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)
    type: str

    @property
    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return dict(self.__pydantic_extra__ or {})


class Path(Section):
    """`path`: where networks come from and where a run writes."""

    pretrain_network_g: str | None = None
    """Start from these dense weights (safetensors, or a `.pth` holding tensors only)."""
    experiments_root: str = "experiments"
    """Relative to the project's root, whatever the working directory."""


class OptimizerSettings(Section):
    """`train.optim_g`."""

    type: Literal["Adam", "AdamW", "Muon", "SGD"] = "Adam"
    lr: Annotated[float, Field(gt=0)]
    betas: Annotated[list[Momentum], Field(min_length=2, max_length=2)] = [0.9, 0.999]
    """Of Adam and AdamW; with Muon, of what is no matrix."""
    momentum: Momentum | None = None
    """Default: 0.9 for SGD, 0.95 for Muon."""
    nesterov: bool = False
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """On all weights, those of normalizations included, as in the papers of these networks; never on latents."""


class PixelLoss(Section):
    """`train.pixel_opt`."""

    type: Literal["L1Loss", "MSELoss", "CharbonnierLoss"] = "L1Loss"
    loss_weight: Annotated[float, Field(gt=0)] = 1.0


class ClassLoss(Section):
    """`train.cls_opt`, the loss of a ClassificationDataset."""

    type: Literal["CrossEntropyLoss"] = "CrossEntropyLoss"
    loss_weight: Annotated[float, Field(gt=0)] = 1.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0


class Train(Section):
    """`train`."""

    total_iter: Positive
    """All phases together."""
    warmup_iter: NotNegative = 0
    optim_g: OptimizerSettings
    scheduler: Scheduler = Scheduler()
    pixel_opt: PixelLoss = PixelLoss()
    """The loss of super-resolution and denoising."""
    cls_opt: ClassLoss | None = None
    """The loss of classification; default: plain cross-entropy."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Exponential moving average of weights and buffers while finetuning; 0 switches it off."""
    grad_clip: Annotated[float, Field(gt=0)] | None = None
    """Largest norm of the gradient."""
    amp: Literal["auto", "none", "bf16"] = "auto"
    """Precision of forward and backward passes: `bf16`, `none` (float32), or `auto`: bf16 where the
    processor (avx512_bf16, amx_bf16) or graphics card (compute capability 8.0) is fast at it."""
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


class Options(Section):
    """One option file."""

    name: str
    model_type: str = "DHPModel"
    scale: Literal[1, 2, 3, 4] = 1
    num_gpu: Literal["auto"] | NotNegative = "auto"
    manual_seed: Seed = 0
    network_g: Network
    datasets: Annotated[
        dict[str, TrainDataset | ValDataset | ClassificationTrain | ClassificationVal],
        BeforeValidator(decode_datasets),
    ]
    """`train`, and any number of `val`, `val_1`, `val_2`, ..."""
    path: Path = Path()
    compress: Compress | None = None
    train: Train
    val: Val = Val()
    logger: Logger = Logger()

    @model_validator(mode="before")
    @classmethod
    def accept_former_names(cls, raw: Any) -> Any:
        """Translate former names of keys and values, with a warning; the loader did so before."""
        if not isinstance(raw, dict):
            return raw
        current, notices = use_current_names(raw)
        for keys, text in notices:
            warnings.warn(f"{'.'.join(keys)} {text}", stacklevel=2)
        return current
