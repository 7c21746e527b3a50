"""Super-resolution pairs: from HR alone by exact bicubic, or from ready LR and HR images."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Dataset

from dhp_sr.config.section import CHANNELS
from dhp_sr.data.augment import Augmentation, draw_corner, orient, to_chw, to_hwc, to_tensor
from dhp_sr.data.bicubic import downscale
from dhp_sr.data.disk_cache import SourceState
from dhp_sr.data.image_cache import ImageCache
from dhp_sr.data.images import crop_to_multiple, to_color
from dhp_sr.data.inputs import TeacherOutputs
from dhp_sr.data.overlap import Originals
from dhp_sr.data.samples import TrainSample, ValSample
from dhp_sr.data.sources import StoredImage
from dhp_sr.utils.errors import UserError, abbreviate


@dataclass(frozen=True)
class Pair:
    """One HR image and the origin of its LR image."""

    gt: StoredImage
    lq: StoredImage | None
    """None: made from `gt` by bicubic."""
    scale: int
    color: str

    @property
    def originals(self) -> tuple[StoredImage, ...]:
        """The images that are stored."""
        return (self.gt,) if self.lq is None else (self.gt, self.lq)

    @property
    def recipe(self) -> str:
        """Scale and color of the decoded images."""
        return f"pair x{self.scale} {self.color}"

    def load_gt(self) -> np.ndarray:
        """Return the HR image, cropped to a multiple of the scale, uint8 (C, H, W)."""
        return to_chw(to_color(crop_to_multiple(self.gt.read(), self.scale), self.color))

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        """Return LR, uint8 (C, H / scale, W / scale), and HR; HR is decoded once for both."""
        gt = self.load_gt()
        if self.lq is None:
            return to_chw(downscale(gt.transpose(1, 2, 0), self.scale)), gt
        return to_chw(to_color(self.lq.read(), self.color)), gt

    def input_shape(self) -> tuple[int, int, int]:
        """Return the shape (C, h, w) of the LR image without decoding it."""
        height, width, _ = self.gt.size()
        return (CHANNELS[self.color], height // self.scale, width // self.scale)

    def decoded_bytes(self) -> int:
        """Return the memory of both decoded images."""
        height, width, _ = self.gt.size()
        lq_pixels = (height // self.scale) * (width // self.scale)
        return lq_pixels * (1 + self.scale**2) * CHANNELS[self.color]

    def sources(self) -> list[SourceState]:
        """Return the files of the images as they are now."""
        return [image.state() for image in self.originals]

    def for_visits(self) -> "Pair | MadePair":
        """Return the pair, with the LR image held if it is made here."""
        # bicubic takes longer than decoding
        return MadePair(self, self.load()[0]) if self.lq is None else self


@dataclass(frozen=True)
class MadePair:
    """A pair whose LR image was made before and is held; HR is decoded at every visit."""

    pair: Pair
    lq_CHW: np.ndarray

    @property
    def recipe(self) -> str:
        """Recipe of the pair."""
        return self.pair.recipe

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        """Return LR and HR."""
        return self.lq_CHW, self.pair.load_gt()

    def decoded_bytes(self) -> int:
        """Return the memory of both images."""
        return self.pair.decoded_bytes()

    def sources(self) -> list[SourceState]:
        """Return the file of the HR image."""
        return self.pair.sources()

    def for_visits(self) -> "MadePair":
        """Return the pair itself."""
        return self


class PairTrainSet(Dataset):
    """Patches of LR and HR that show the same area, in the same orientation.

    Args:
        images: LR and HR, uint8 (C, H, W).
        keys: Names of the HR images.
        scale: HR side by LR side.
        gt_size: Side of the HR patch in pixels, a multiple of the scale.
        augmentation: The orientations that may occur.
        seed: With a sample's position in the run, fixes its patch.
        originals: Where the images are stored, see `images_in_both`.
    """

    def __init__(
        self,
        images: ImageCache,
        keys: Sequence[str],
        *,
        scale: int,
        gt_size: int,
        augmentation: Augmentation,
        seed: int,
        originals: Originals = (),
    ) -> None:
        self.images = images
        self.originals = originals
        self.keys = list(keys)
        self.scale = scale
        self.gt_size = gt_size
        self.augmentation = augmentation
        self.seed = seed
        self.teacher_outputs: TeacherOutputs | None = None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def whole_inputs(self) -> Iterator[np.ndarray]:
        """Yield the LR images."""
        for index in range(len(self)):
            yield self.images[index][0]

    def __getitem__(self, sample: tuple[int, int]) -> TrainSample:
        """Return the sample of an (image index, position in the run)."""
        index, position = sample
        # a generator for each sample: workers and interruptions change nothing
        rng = np.random.default_rng((self.seed, position))
        lq, gt = self.images[index]
        scale = self.scale
        side = self.gt_size // scale
        # drawn in LR pixels, so that the HR patch begins at a multiple of the scale
        top, left = draw_corner(rng, lq.shape[1], lq.shape[2], side)
        orientation = self.augmentation.draw(rng)
        rows = slice(top * scale, (top + side) * scale)
        columns = slice(left * scale, (left + side) * scale)
        lq = lq[:, top : top + side, left : left + side]
        patches: TrainSample = {
            "lq": to_tensor(orient(lq, *orientation)),
            "gt": to_tensor(orient(gt[:, rows, columns], *orientation)),
            "key": self.keys[index],
        }
        if self.teacher_outputs is not None:
            patches["taught"] = self.teacher_outputs.patch(index, rows, columns, orientation)
        return patches


class PairValSet(Dataset):
    """Whole images for validation.

    Args:
        images: LR and HR, uint8 (C, H, W).
        pairs: Where they are from.
    """

    def __init__(self, images: ImageCache, pairs: Sequence[Pair]) -> None:
        self.images = images
        self.originals = [pair.originals for pair in pairs]
        self.keys = [pair.gt.key for pair in pairs]
        # by the headers: scores of a gray file are those of its only channel
        self._is_gray = [pair.gt.size()[2] == 1 for pair in pairs]
        self.input_shapes = [pair.input_shape() for pair in pairs]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> ValSample:
        """Return tensors (C, H, W), the same as uint8 (H, W, C), and whether HR's file is gray."""
        # IndexError ends a loop over the set; negative indices would be no images
        if not 0 <= index < len(self):
            raise IndexError(index)
        lq, gt = self.images[index]
        return {
            "lq": to_tensor(lq),
            "gt": to_tensor(gt),
            "key": self.keys[index],
            "lq_uint8": to_hwc(lq),
            "gt_uint8": to_hwc(gt),
            "gray_file": self._is_gray[index],
        }


def match_pairs(
    gt: Sequence[StoredImage],
    lq: Sequence[StoredImage],
    *,
    scale: int,
    color: str,
    template: str = "{}",
) -> list[Pair]:
    """Pair every HR image with its LR image by name.

    Args:
        gt: HR images of a root.
        lq: LR images of the matching root.
        scale: HR side by LR side.
        color: `rgb` or gray.
        template: Name of an LR image, without extension, from its HR's.

    Raises:
        UserError: Names or sizes do not match.
    """
    lq_by_key = {image.key: image for image in lq}
    gt_by_lq_key = {template.replace("{}", image.key): image for image in gt}
    _check_names(gt, lq, gt_by_lq_key, lq_by_key, template)
    pairs = [Pair(image, lq_by_key[key], scale, color) for key, image in gt_by_lq_key.items()]
    _check_sizes(pairs)
    return pairs


def _check_names(
    gt: Sequence[StoredImage],
    lq: Sequence[StoredImage],
    gt_by_lq_key: Mapping[str, StoredImage],
    lq_by_key: Mapping[str, StoredImage],
    template: str,
) -> None:
    # fewer keys than images: a.png and a.jpg have the same key
    for images, by_key, kind in ((gt, gt_by_lq_key, "HR"), (lq, lq_by_key, "LR")):
        if len(by_key) < len(images):
            raise UserError(
                f"{images[0].where}: {kind} names without extension occur twice here: "
                "rename the files"
            )
    without_lq = []
    for key, image in gt_by_lq_key.items():
        if key not in lq_by_key:
            without_lq.append(f"{key} (of {image.where})")
    # LR images too many are a mistake as well: `filename_tmpl` may be wrong
    without_gt = []
    for key, image in lq_by_key.items():
        if key not in gt_by_lq_key:
            without_gt.append(image.where)
    faults = []
    if without_lq:
        faults.append(f"no LR image {abbreviate(without_lq)}")
    if without_gt:
        faults.append(f"no HR image for {abbreviate(without_gt)}")
    if faults:
        raise UserError(
            f"expected an LR image for each HR image, got {len(gt)} HR and {len(lq)} LR images: "
            f"{'; '.join(faults)}. LR names are made from HR names by filename_tmpl "
            f"(={template!r}): correct it or the folders"
        )


def _check_sizes(pairs: Sequence[Pair]) -> None:
    faults = []
    for pair in pairs:
        if pair.lq is None:
            continue
        gt_height, gt_width, _ = pair.gt.size()
        lq_height, lq_width, _ = pair.lq.size()
        # rounded down: HR images are cropped to a multiple of the scale
        if (gt_height // pair.scale, gt_width // pair.scale) != (lq_height, lq_width):
            faults.append(
                f"{pair.lq.where} is {lq_height}x{lq_width}, "
                f"{pair.gt.where} is {gt_height}x{gt_width}"
            )
    if faults:
        raise UserError(
            f"expected HR sides to be scale (={pairs[0].scale}) times LR sides: "
            f"{abbreviate(faults)}. correct `scale` or make the LR images again with "
            "`scripts/prepare_data.py lr`"
        )
