"""Request for a compression: target, degradation and files, with their checks."""

import math
from dataclasses import dataclass
from pathlib import Path

from dhp_sr.training.checkpoint import checksum
from dhp_sr.utils.cost_kinds import COST_KINDS
from dhp_sr.utils.errors import UserError, unknown_name
from dhp_sr.utils.overwriting import check_outputs
from dhp_sr.utils.strict_json import JsonObject
from dhp_sr.zoo.checkpoints import Checkpoint

FACTS = "request.json"
"""File among the images of a run: what it was begun with."""

MAX_SEED = 2**63 - 1
"""Largest seed that every generator takes."""

MAX_NAME_BYTES = 150
"""Of a run's name before its target: beside its folder lies another, with a suffix."""

RESULT_SUFFIXES = (".yml", ".yaml", ".safetensors", ".pth")
"""Suffixes of earlier results: they may lie among the images, and may be replaced there."""

QUALITY = "quality"
"""Target that is no cost: dB that may be lost."""


@dataclass(frozen=True)
class Target:
    """Target of a compression: a cost kind and the fraction to keep, or a loss of quality in dB."""

    kind: str
    value: float

    @classmethod
    def from_text(cls, text: str) -> "Target":
        """Parse `macs=0.5` or `quality=0.1`.

        Raises:
            UserError: Another form, an unknown kind, or a value out of range.
        """
        kind, equals, value_text = text.partition("=")
        known = [*COST_KINDS, QUALITY]
        if not equals:
            raise UserError(f"--target: expected KIND=VALUE such as macs=0.5, got {text!r}")
        if kind not in known:
            raise UserError(f"--target: {unknown_name('kind', kind, known)}")
        # No number at all gets the message of a number out of range.
        try:
            value = float(value_text)
        except ValueError:
            value = -1.0
        if kind == QUALITY and not 0 < value < 100:
            raise UserError(f"--target quality: expected dB that may be lost, got {value_text!r}")
        if kind != QUALITY and not 0 < value < 1:
            raise UserError(
                f"--target {kind}: expected a fraction to keep, between 0 and 1, got {value_text!r}"
            )
        return cls(kind, value)

    @property
    def label(self) -> str:
        """Short form for names of runs, such as `macs0.5`."""
        return f"{self.kind}{self.value:g}"


@dataclass(frozen=True)
class Degradation:
    """Way that network inputs come from the user's images."""

    kind: str = "none"
    """`none`: the images are inputs; `bicubic`, `noise`: they are ground truths, and inputs are
    made of them."""
    sigma: float | None = None
    """Noise level on the 0-255 scale."""

    @classmethod
    def from_text(cls, text: str | None, scale: int) -> "Degradation":
        """Parse `bicubic`, `noise=25` or `none`.

        Raises:
            UserError: Another text, or one that does not suit the network's scale.
        """
        if text is None or text == "none":
            return cls()
        if text == "bicubic":
            if scale == 1:
                raise UserError(
                    "--degradation bicubic: the network does not enlarge; use noise=SIGMA or none"
                )
            return cls("bicubic")
        kind, equals, value = text.partition("=")
        if kind != "noise" or not equals:
            raise UserError(f"--degradation: expected bicubic, noise=SIGMA or none, got {text!r}")
        if scale != 1:
            raise UserError(
                f"--degradation {text}: the network enlarges {scale} times; use bicubic"
            )
        # No number at all gets the message of a number out of range.
        try:
            sigma = float(value)
        except ValueError:
            sigma = -1.0
        if not 0 < sigma <= 255:
            raise UserError(f"--degradation noise: expected a level up to 255, got {value!r}")
        return cls("noise", sigma)

    @property
    def dataset_keys(self) -> dict[str, str | float | None]:
        """Keys of a dataset that makes inputs in this way."""
        if self.kind == "noise":
            return {"type": "NoiseDataset", "sigma": self.sigma}
        return {"type": "SRDataset"}


def folder_name(name: str) -> str:
    """Return a name as option files take it for a run, see `config.checks.check_names`.

    Args:
        name: Of a file, which may hold what a folder's name should not.
    """
    characters = [char if char.isprintable() and char not in "/\\:" else "_" for char in name]
    encoded = "".join(characters).encode(errors="replace")[:MAX_NAME_BYTES]
    # A character of several bytes may have been cut in two.
    return encoded.decode(errors="ignore").strip() or "network"


@dataclass(frozen=True)
class CompressRequest:
    """Request of a user: the arguments of compress.py, decoded."""

    images: Path
    target: Target
    minutes: float = 30.0
    iterations: int | None = None
    """Finetuning iterations instead of minutes."""
    truths: Path | None = None
    degradation: str | None = None
    name: str = "network"
    """Beginning of the run's name."""
    output: Path | None = None
    onnx: bool = False
    drop_in: bool = False
    remove_blocks: bool = False
    """Whether residual branches may be removed as a whole, `compress.remove_blocks`."""
    auto_resume: bool = False
    save_options: Path | None = None
    seed: int = 0
    drawn: int | None = None
    """Number of drawn images to train on, too; None: some, see `default_drawn`."""
    runtime: str | None = None
    """Program that a target of latency is measured in, `compress.latency_runtime`; None: torch."""

    def __post_init__(self) -> None:
        """Check what needs neither the checkpoint nor the images.

        Raises:
            UserError: A value is out of range, or the result cannot have its name.
        """
        # Written so that nan is refused, too.
        if not 0 < self.minutes < math.inf:
            raise UserError(f"--minutes: expected a time above 0, got {self.minutes:g}")
        if self.iterations is not None and self.iterations < 1:
            raise UserError(f"--iterations: expected at least 1, got {self.iterations}")
        if self.drawn is not None and self.drawn < 0:
            raise UserError(f"--drawn: expected a number of images, 0 for none, got {self.drawn}")
        if not 0 <= self.seed <= MAX_SEED:
            raise UserError(f"--seed: expected a number from 0 to {MAX_SEED}, got {self.seed}")
        if self.output is None:
            return
        if self.output.is_dir():
            raise UserError(f"--output {self.output}: expected the name of a file, got a folder")
        # Under another suffix the file would be taken for what it is not.
        suffixes = (".safetensors", ".pth") if self.drop_in else (".safetensors",)
        if self.output.suffix not in suffixes:
            raise UserError(
                f"--output: expected a name that ends with {' or '.join(suffixes)}, "
                f"got {self.output.name}"
            )

    def check_keeps(self, model: Path, code: Path | None = None) -> None:
        """Check that no file that is written replaces one that is read.

        Args:
            model: The checkpoint.
            code: File of the network's class, where it is the user's.

        Raises:
            UserError: One does.
        """
        written = {"--output": self.output, "--save_options": self.save_options}
        check_outputs(written, [model, code, self.images, self.truths], RESULT_SUFFIXES)

    @property
    def measures_time(self) -> bool:
        """Whether the target is measured on a device."""
        return self.target.kind != QUALITY and COST_KINDS[self.target.kind].is_measured

    @property
    def run_name(self) -> str:
        """Name of the run, and of its folder."""
        flags = {"drop_in": self.drop_in, "remove_blocks": self.remove_blocks}
        name = folder_name(self.name)
        return "_".join([name, self.target.label, *(flag for flag in flags if flags[flag])])

    def images_folder(self, root: Path) -> Path:
        """Return the folder beside that of the run, with links to its images and its weights."""
        return root / "experiments" / f"{self.run_name}_images"

    def facts(self, checkpoint: Checkpoint) -> JsonObject:
        """Return what a run that is resumed must share with the one that was begun.

        Args:
            checkpoint: The original, as its file has it.
        """
        state = checkpoint.network.state_dict()
        tensors = {key: tensor.contiguous() for key, tensor in state.items()}
        return {
            "--model": checksum({"format": checkpoint.name, "tree": ""}, tensors),
            "--images": str(self.images.resolve()),
            "--truth": None if self.truths is None else str(self.truths.resolve()),
            "--degradation": self.degradation or "none",
            "--drawn": self.drawn,
            "--runtime": self.runtime,
            "--seed": self.seed,
        }


def check_request(request: CompressRequest, folder: Path) -> None:
    """Refuse arguments that contradict each other, and images in the folder that is replaced."""
    for option, path in (("--images", request.images), ("--truth", request.truths)):
        if path is not None and path.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{option} {path}: the run replaces this folder; name another one")
    if request.runtime is not None and not request.measures_time:
        kind = request.target.kind
        raise UserError(f"--runtime: no effect with a target of {kind}, only of latency; omit it")
    if request.drawn and request.truths is not None:
        raise UserError("--drawn: no effect with --truth: drawn images have none; omit it")
    if request.remove_blocks and request.drop_in:
        raise UserError(
            "--remove_blocks: the class cannot hold what is left of a removed branch, as --drop_in "
            "asks; omit one of them. --drop_in leaves out whole blocks by itself"
        )
