"""Every key of an option file, with its type, range and default.

Option files are decoded once into these classes, checked (`checks.py`) and never changed. An
unknown key is an error. The text below a key is its documentation, here and in the reference.
"""

import warnings
from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from dhp_sr.config.compress import Compress
from dhp_sr.config.datasets import (
    ClassificationTrain,
    ClassificationVal,
    TrainDataset,
    ValDataset,
    decode_datasets,
)
from dhp_sr.config.renamed import use_current_names
from dhp_sr.config.section import Momentum, NotNegative, Positive, Scheduler, Section, Seed
from dhp_sr.utils.strict_json import JsonObject

MODEL_TYPES = {
    "DHPModel": ("SRDataset", "NoiseDataset", "ImageDataset"),
    "DHPClassificationModel": ("ClassificationDataset",),
}
"""`model_type` -> types of datasets that it trains on."""


class Network(Section):
    """`network_g`: type of the network, and beside it the arguments of its constructor."""

    # Which arguments there are, the network's class knows; they are checked when it is built.
    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)
    type: str
    """`EDSR` or `HyperEDSR`; `Hyper` takes any network, named in the key `network`."""

    @property
    def arguments(self) -> JsonObject:
        """Arguments of the constructor."""
        return dict(self.__pydantic_extra__ or {})


class Path(Section):
    """`path`: initial weights, and the folder of runs."""

    pretrain_network_g: str | None = None
    """Weights to start from: safetensors, a `.pth` that holds tensors only, or `zoo:NAME`."""
    experiments_root: str = "experiments"
    """Folder of all runs, relative to the project's root whatever the working directory."""


class OptimizerSettings(Section):
    """`train.optim_g`: the optimizer of the weights."""

    type: Literal["Adam", "AdamW", "Muon", "SGD"] = "Adam"
    """Muon orthogonalizes the momentum of every weight matrix; good for short trainings."""
    lr: Annotated[float, Field(gt=0)]
    """Learning rate."""
    betas: Annotated[list[Momentum], Field(min_length=2, max_length=2)] = [0.9, 0.999]
    """Decay rates of Adam and AdamW; with Muon those for parameters that are not matrices."""
    momentum: Momentum | None = None
    """Momentum of SGD (default 0.9) and Muon (default 0.95)."""
    nesterov: bool = False
    """Nesterov momentum of SGD."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Weight decay of all weights, those of normalization included, as in the papers of these
    networks; latents have none."""


class PixelLoss(Section):
    """`train.pixel_opt`: the loss of super-resolution and denoising."""

    type: Literal["L1Loss", "MSELoss", "CharbonnierLoss"] = "L1Loss"
    """Distance from the ground truth."""
    loss_weight: Annotated[float, Field(gt=0)] = 1.0
    """Factor of the loss."""


class ClassLoss(Section):
    """`train.cls_opt`: the loss of classification."""

    type: Literal["CrossEntropyLoss"] = "CrossEntropyLoss"
    """The only one."""
    loss_weight: Annotated[float, Field(gt=0)] = 1.0
    """Factor of the loss."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Fraction of the target that is spread evenly over all classes."""


class Train(Section):
    """`train`: length, optimizer and loss of a run."""

    total_iter: Positive
    """Iterations of all phases together."""
    warmup_iter: NotNegative = 0
    """Iterations in which the learning rate rises linearly."""
    optim_g: OptimizerSettings
    """Optimizer of the weights."""
    scheduler: Scheduler = Scheduler()
    """Learning rate over the iterations."""
    pixel_opt: PixelLoss = PixelLoss()
    """Loss of super-resolution and denoising."""
    cls_opt: ClassLoss | None = None
    """Loss of classification. Default: plain cross-entropy."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Exponential moving average of weights and buffers while finetuning; 0: none."""
    grad_clip: Annotated[float, Field(gt=0)] | None = None
    """Largest norm of the gradient. Default: no limit."""
    amp: Literal["auto", "none", "bf16"] = "auto"
    """Precision of forward and backward passes: `bf16`, `none` (float32), or `auto`: bf16 where the
    processor (avx512_bf16, amx_bf16) or graphics card (compute capability 8.0) is fast at it."""
    channels_last: bool = False
    """Memory format NHWC, often faster."""


class Val(Section):
    """`val`: evaluation during training."""

    val_freq: Positive = 5000
    """Iterations between two evaluations."""
    save_img: bool = False
    """Whether every evaluation writes the restored images."""


class Logger(Section):
    """`logger`: what a run writes, and how often."""

    print_freq: Positive = 100
    """Iterations between two lines of the log."""
    save_checkpoint_freq: Positive = 1000
    """Iterations between two training states."""
    use_tb_logger: bool = True
    """Whether TensorBoard files are written."""


class Options(Section):
    """One option file."""

    name: str
    """Name of the run, and of its folder."""
    model_type: Literal["DHPModel", "DHPClassificationModel"] = "DHPModel"
    """Restoration, or classification."""
    scale: Literal[1, 2, 3, 4] = 1
    """Upscaling factor; 1 for denoising and classification."""
    num_gpu: Literal["auto"] | NotNegative = "auto"
    """Number of graphics cards; 0: CPU; `auto`: one if there is one."""
    manual_seed: Seed = 0
    """Seed of initial weights, batches and search."""
    data_root: str | None = None
    """Folder that takes the place of a leading `datasets/` in the paths below. Default: the
    environment variable DHP_SR_DATA, else the folder `datasets`."""
    network_g: Network
    """The network, and the arguments of its constructor."""
    # Decoded by hand, for the class of a dataset depends on its key and its type.
    datasets: Annotated[
        dict[str, TrainDataset | ValDataset | ClassificationTrain | ClassificationVal],
        BeforeValidator(decode_datasets),
    ]
    """`train`, and any number of `val`, `val_1`, `val_2`, ..."""
    path: Path = Path()
    """Initial weights, and the folder of runs."""
    compress: Compress | None = None
    """Search and pruning. Without it a run trains the dense network."""
    train: Train
    """Length, optimizer and loss."""
    val: Val = Val()
    """Evaluation during training."""
    logger: Logger = Logger()
    """Records of a run, and how often they are written."""

    @property
    def train_data(self) -> TrainDataset | ClassificationTrain:
        """The section `datasets.train`, whatever the task."""
        section = self.datasets["train"]
        assert isinstance(section, TrainDataset | ClassificationTrain)
        return section

    @model_validator(mode="before")
    @classmethod
    def accept_former_names(cls, raw: object) -> object:
        """Translate former names of keys and values, with a warning; the loader did so before."""
        if not isinstance(raw, dict):
            return raw
        current, notices = use_current_names(raw)
        for keys, text in notices:
            warnings.warn(f"{'.'.join(keys)} {text}", stacklevel=2)
        return current
