"""Super-resolution and denoising: pairs of images, a loss pixel by pixel, PSNR and SSIM."""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from dhp_sr.config.compress import Distill
from dhp_sr.config.datasets import ValDataset
from dhp_sr.config.schema import Options, Train
from dhp_sr.config.section import color_of
from dhp_sr.data.build import build_train_set
from dhp_sr.losses import build_loss
from dhp_sr.tasks.base import Scores, Task, check_channels, decode_folder
from dhp_sr.tasks.test_sets import SCORES, TestSet, build_test_sets, evaluate, evaluate_input
from dhp_sr.utils.errors import UserError
from dhp_sr.zoo.third_party import describe_by_images


class Restoration(Task):
    """Images in, images out.

    Attributes:
        fits: Tasks of networks that can be trained for this one.
    """

    scores = SCORES
    batch_keys = ("lq", "gt")
    loss_name = "l_pix"
    fits: tuple[str, ...]

    @abstractmethod
    def check_sigma(self, sigma: float | None) -> None:
        """Check the noise level of the command line.

        Raises:
            UserError: it lacks, or has no meaning.
        """

    def train_set(self, options: Options) -> Dataset:
        """Open the patches of `datasets.train`."""
        return build_train_set(options.datasets["train"], options.scale, options.manual_seed)

    def test_sets(self, options: Options) -> list[TestSet]:
        """Open the test sets."""
        return build_test_sets(options)

    def folder_sets(
        self, network: nn.Module, folders: Mapping[str, str], choices: Mapping[str, Any]
    ) -> list[TestSet]:
        """Open folders of ground-truth images; inputs are made by exact bicubic or by adding noise."""
        self.check_sigma(choices["sigma"])
        fields = {
            "type": self.dataset_type,
            "color": color_of(network.in_channels),
            "cache": "none",
            **choices,
        }
        return [
            TestSet.from_options(
                name,
                decode_folder(ValDataset, {**fields, "name": name, "dataroot_gt": folder}),
                network.scale,
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
        check_channels(network, name, options)
        if network.task not in self.fits:
            kind = self.dataset_type
            raise UserError(
                f"network_g: {name} is made for {network.task}, the datasets are of type {kind}"
            )
        _check_side(network, name, options)

    def describe_foreign(
        self, network: nn.Module, name: str, arguments: Mapping[str, Any], options: Options
    ) -> nn.Module:
        """Find out scale and size rules by passing shapes."""
        return describe_by_images(network, name, arguments, options, self.name)

    def build_loss(self, train: Train) -> nn.Module:
        """Return the loss of `train.pixel_opt`."""
        return build_loss(train.pixel_opt.type, train.pixel_opt.loss_weight)

    def distance(self, output: Tensor, teacher: Tensor, distill: Distill) -> Tensor:
        """Return the mean absolute difference."""
        return nn.functional.l1_loss(output, teacher)

    def evaluate(
        self,
        network: nn.Module,
        test_set: Any,
        device: torch.device | str = "cpu",
        save_to: Path | None = None,
    ) -> Scores:
        """Return PSNR and SSIM."""
        return evaluate(network, test_set, device, save_to)

    def evaluate_input(self, test_set: Any) -> Scores:
        """Score the bicubic enlargement, or the noisy image itself."""
        return evaluate_input(test_set)


class SuperResolution(Restoration):
    """Small images in, large ones out; compared on the Y channel."""

    name, dataset_type, input_name = "sr", "SRDataset", "bicubic"
    fits = ("sr",)

    def check_sigma(self, sigma: float | None) -> None:
        """Refuse a noise level."""
        if sigma is not None:
            raise UserError("super-resolution, --sigma has no effect; leave it out")


class Denoising(Restoration):
    """Noisy images in, clean ones out; compared on all channels.

    A network for super-resolution that does not enlarge is one for denoising, too.
    """

    name, dataset_type, input_name = "denoise", "NoiseDataset", "noisy"
    fits = ("denoise", "sr")

    def check_sigma(self, sigma: float | None) -> None:
        """Refuse none."""
        if sigma is None:
            raise UserError(
                "a denoiser; expected --sigma, the noise level on the 0-255 scale, found none"
            )


def _check_side(network: nn.Module, name: str, options: Options) -> None:
    side, multiple = options.datasets["train"].gt_size // options.scale, network.size_multiple
    if side % multiple:
        raise UserError(
            f"datasets.train.gt_size: {name} takes patches whose sides are multiples of {multiple}, found {side}; "
            f"set gt_size: {max(side // multiple, 1) * multiple * options.scale}"
        )
