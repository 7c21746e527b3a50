"""Image restoration: super-resolution and denoising, with a pixel loss, PSNR and SSIM."""

import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from dhp_sr.archs import described
from dhp_sr.config.compress import Distill
from dhp_sr.config.datasets import IMAGES, TrainDataset, ValDataset
from dhp_sr.config.schema import Options, Train
from dhp_sr.config.section import color_of
from dhp_sr.data.build import build_train_set
from dhp_sr.data.overlap import ImageSet, TestImageSet, images_in_both
from dhp_sr.losses import build_loss
from dhp_sr.tasks.base import (
    FolderSettings,
    ImageScores,
    Scores,
    Task,
    check_channels,
    decode_section,
)
from dhp_sr.tasks.test_sets import (
    SCORES,
    TestSet,
    build_test_sets,
    evaluate,
    evaluate_images,
    evaluate_input_images,
    padded_shapes,
)
from dhp_sr.utils.errors import UserError, abbreviate
from dhp_sr.zoo.third_party import describe_by_images


class Restoration(Task[TestSet]):
    """Images in, images out.

    Attributes:
        network_tasks: Tasks of networks that can be trained for this one.
    """

    scores = SCORES
    batch_keys = ("lq", "gt")
    loss_name = "l_pix"
    network_tasks: tuple[str, ...]

    @abstractmethod
    def check_sigma(self, sigma: float | None) -> None:
        """Check the noise level of the command line.

        Raises:
            UserError: It is missing, or has no effect.
        """

    def train_set(self, options: Options) -> Dataset:
        """Open the patches of `datasets.train`."""
        section = options.datasets["train"]
        assert isinstance(section, TrainDataset)
        return build_train_set(section, options.scale, options.manual_seed)

    def test_sets(self, options: Options) -> list[TestSet]:
        """Open the test sets."""
        return build_test_sets(options)

    def open_folders(
        self, network: nn.Module, folders: Mapping[str, str], settings: FolderSettings
    ) -> list[TestSet]:
        """Open folders of ground-truth images.

        Inputs are made by bicubic downscaling or by adding noise.
        """
        # First, since the other settings are checked by the section's types.
        self.check_sigma(settings["sigma"])
        plain = described(network)
        sets = []
        for name, folder in folders.items():
            fields = {
                "type": self.dataset_type,
                "color": color_of(plain.in_channels),
                "cache": "none",  # every image is read once
                **settings,
                "name": name,
                "dataroot_gt": folder,
            }
            section = decode_section(ValDataset, fields)
            sets.append(TestSet.from_options(name, section, plain.scale))
        return sets

    def check_data(self, network: nn.Module, train_set: Dataset, sets: Sequence[TestSet]) -> None:
        """Warn of test images that are trained on."""
        if not isinstance(train_set, ImageSet):
            return
        for test_set in sets:
            if not isinstance(test_set.items, TestImageSet):
                continue  # a list of images
            shared = images_in_both(train_set, test_set.items)
            if shared:
                warnings.warn(
                    f"{test_set.name}: {len(shared)} of {len(test_set.items)} images are among "
                    f"those of datasets.train, whole or in part ({abbreviate(shared)}); their "
                    "scores say nothing about others. Name other images",
                    stacklevel=2,
                )

    def input_shapes(self, network: nn.Module, test_set: TestSet) -> list[tuple[int, int, int]]:
        """List the different shapes of the inputs, padded as the network needs it."""
        return padded_shapes(network, test_set)

    def check_fit(self, network: nn.Module, name: str, options: Options) -> None:
        """Check scale, channels, task and patch size."""
        plain = described(network)
        if plain.scale != options.scale:
            raise UserError(
                f"network_g: {name} enlarges {plain.scale} times (upscale), the option file "
                f"says scale: {options.scale}"
            )
        check_channels(network, name, options)
        if plain.task not in self.network_tasks:
            raise UserError(
                f"network_g: {name} is made for {plain.task}, "
                f"the datasets are of type {self.dataset_type}"
            )
        section = options.datasets["train"]
        assert isinstance(section, TrainDataset)
        multiple = plain.size_multiple
        patch_size = section.gt_size // options.scale
        if patch_size % multiple:
            # Test images are padded; patches are not, since padding would be trained on.
            suitable = max(patch_size // multiple, 1) * multiple * options.scale
            raise UserError(
                f"datasets.train.gt_size: {name} takes patches whose height and width are "
                f"multiples of {multiple}, got {patch_size}; set gt_size: {suitable}"
            )

    def describe_third_party(
        self, network: nn.Module, name: str, arguments: Mapping[str, object], options: Options
    ) -> nn.Module:
        """Infer scale and size rules by shape inference."""
        return describe_by_images(network, name, arguments, options, self.name)

    def build_loss(self, train: Train) -> nn.Module:
        """Build the loss of `train.pixel_opt`."""
        return build_loss(train.pixel_opt.type, train.pixel_opt.loss_weight)

    def distillation_loss(self, output: Tensor, teacher: Tensor, distill: Distill) -> Tensor:
        """Compute the mean absolute difference."""
        # L1 whatever pixel_opt says: the weight of distillation should not depend on it.
        return nn.functional.l1_loss(output, teacher)

    def evaluate(
        self,
        network: nn.Module,
        test_set: TestSet,
        device: torch.device | str = "cpu",
        save_to: Path | None = None,
    ) -> Scores:
        """Return mean PSNR and SSIM."""
        return evaluate(network, test_set, device, save_to)

    def evaluate_images(
        self, network: nn.Module, test_set: TestSet, device: torch.device | str = "cpu"
    ) -> list[ImageScores]:
        """Return PSNR and SSIM of every image."""
        return evaluate_images(network, test_set, device)

    def evaluate_input_images(self, test_set: TestSet) -> list[ImageScores]:
        """Score bicubic upscaling, or the noisy images themselves."""
        return evaluate_input_images(test_set)


class SuperResolution(Restoration):
    """Small images in, large ones out; compared on the Y channel."""

    name = "sr"
    dataset_type = "SRDataset"
    input_name = "bicubic"
    network_tasks = ("sr",)

    def check_sigma(self, sigma: float | None) -> None:
        """Refuse a noise level."""
        if sigma is not None:
            raise UserError("super-resolution, --sigma has no effect; leave it out")


class Denoising(Restoration):
    """Noisy images in, clean ones out; compared on all channels.

    A network for super-resolution that does not enlarge can be trained for denoising, too.
    """

    name = "denoise"
    dataset_type = "NoiseDataset"
    input_name = "noisy"
    network_tasks = ("denoise", "sr")

    def check_sigma(self, sigma: float | None) -> None:
        """Require a noise level."""
        if sigma is None:
            raise UserError(
                "a denoiser; expected --sigma, the noise level on the 0-255 scale, got none"
            )


class ImageRestoration(Denoising):
    """Images in, images of the same size out, whatever was done to them: blur, rain, haze.

    The task of an ImageDataset that does not enlarge, in results and reports. Networks and model
    files call all restoration at scale 1 denoising.
    """

    name = "restoration"
    dataset_type = IMAGES
    input_name = "input"

    def describe_third_party(
        self, network: nn.Module, name: str, arguments: Mapping[str, object], options: Options
    ) -> nn.Module:
        """Infer size rules by shape inference."""
        return describe_by_images(network, name, arguments, options, Denoising.name)
