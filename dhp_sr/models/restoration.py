"""Super-resolution and denoising: pairs of images, a loss pixel by pixel, PSNR and SSIM."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from dhp_sr.config.compress import Distill
from dhp_sr.config.datasets import ValDataset
from dhp_sr.config.schema import Options, Train
from dhp_sr.data.build import build_train_set
from dhp_sr.losses import build_loss
from dhp_sr.models.foreign import describe_by_images
from dhp_sr.models.task import Scores, Task, decode_folder
from dhp_sr.models.validation import SCORES, TestSet, build_test_sets, evaluate, evaluate_input
from dhp_sr.utils.errors import UserError


class Restoration(Task):
    """Images in, images out.

    Args:
        name: `sr` or `denoise`.
    """

    scores = SCORES
    batch_keys = ("lq", "gt")

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def best(self) -> tuple[str, bool]:
        """Super-resolution is compared on the Y channel, denoising on all channels."""
        return ("psnr_y_db" if self.name == "sr" else "psnr_rgb_db"), True

    def train_set(self, options: Options) -> Dataset:
        """Open the patches of `datasets.train`."""
        return build_train_set(options.datasets["train"], options.scale, options.manual_seed)

    def test_sets(self, options: Options) -> list[TestSet]:
        """Open the test sets."""
        return build_test_sets(options)

    def folder_sets(self, network: nn.Module, folders: Mapping[str, str], choices: Mapping[str, Any]) -> list[TestSet]:
        """Open folders of ground-truth images; inputs are made by exact bicubic or by adding noise."""
        sigma = choices["sigma"]
        if self.name == "denoise" and sigma is None:
            raise UserError("a denoiser; expected --sigma, the noise level on the 0-255 scale, found none")
        if self.name != "denoise" and sigma is not None:
            raise UserError("super-resolution, --sigma has no effect; leave it out")
        kind = "NoiseDataset" if self.name == "denoise" else "SRDataset"
        fields = {"type": kind, "color": "grey" if network.in_channels == 1 else "rgb", "cache": "none", **choices}
        return [
            TestSet.from_options(
                name, decode_folder(ValDataset, {**fields, "name": name, "dataroot_gt": folder}), network.scale
            )
            for name, folder in folders.items()
        ]

    def check_fit(self, network: nn.Module, name: str, options: Options) -> None:
        """Refuse another scale, number of channels, task or size of patches than the network's."""
        if network.scale != options.scale:
            raise UserError(
                f"network_g: {name} enlarges {network.scale} times (upscale), the option file says "
                f"scale: {options.scale}"
            )
        for key, data in options.datasets.items():
            channels = 3 if data.color == "rgb" else 1
            if channels != network.in_channels:
                raise UserError(
                    f"network_g: {name} takes {network.in_channels} channel(s), datasets.{key} gives {channels} "
                    f"(color: {data.color}); set num_in_ch or color"
                )
            restores = network.task in ("sr", "denoise")
            if network.task != self.name and (options.scale > 1 or not restores):
                raise UserError(f"network_g: {name} is made for {network.task}, datasets.{key} is a {data.type}")
        _check_side(network, name, options)

    def describe_foreign(
        self, network: nn.Module, name: str, arguments: Mapping[str, Any], options: Options
    ) -> nn.Module:
        """Find out scale and size rules by passing shapes."""
        return describe_by_images(network, name, arguments, options)

    def build_loss(self, train: Train) -> nn.Module:
        """Return the loss of `train.pixel_opt`."""
        return build_loss(train.pixel_opt.type, train.pixel_opt.loss_weight)

    def distance(self, output: Tensor, teacher: Tensor, distill: Distill) -> Tensor:
        """Return the mean absolute difference."""
        return nn.functional.l1_loss(output, teacher)

    def evaluate(
        self, network: nn.Module, test_set: Any, device: torch.device | str = "cpu", save_to: Path | None = None
    ) -> Scores:
        """Return PSNR and SSIM."""
        return evaluate(network, test_set, device, save_to)

    def evaluate_input(self, sets: Sequence[Any]) -> tuple[str, dict[str, Scores]]:
        """Score the bicubic enlargement, or the noisy picture itself."""
        name = "bicubic" if self.name == "sr" else "noisy"
        return name, {test_set.name: evaluate_input(test_set) for test_set in sets}

    def summary(self, scores: Mapping[str, float]) -> str:
        """Return PSNR and SSIM of the Y channel."""
        return f"PSNR(Y) {scores['psnr_y_db']:.3f} dB, SSIM(Y) {scores['ssim_y']:.4f}"


def _check_side(network: nn.Module, name: str, options: Options) -> None:
    side, multiple = options.datasets["train"].gt_size // options.scale, network.size_multiple
    if side % multiple:
        raise UserError(
            f"datasets.train.gt_size: {name} takes patches whose sides are multiples of {multiple}, found {side}; "
            f"set gt_size: {max(side // multiple, 1) * multiple * options.scale}"
        )
