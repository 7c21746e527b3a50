"""Super-resolution pairs: from HR alone by exact bicubic, or from ready LR and HR images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from dhp_sr.data.bicubic import downscale
from dhp_sr.data.image_cache import Store, progress_bar
from dhp_sr.data.images import crop_to_multiple, to_color
from dhp_sr.data.patches import Augmentation, draw_corner, interleaved, orient, planes, to_tensor
from dhp_sr.data.sources import StoredImage
from dhp_sr.utils.errors import UserError


@dataclass(frozen=True)
class Pair:
    """One HR image and where its LR comes from."""

    gt: StoredImage
    lq: StoredImage | None
    """None: made from `gt` by bicubic."""
    scale: int
    color: str

    def load_gt(self) -> np.ndarray:
        """Return the HR image, cropped to a multiple of the scale, uint8 (C, H, W)."""
        return planes(to_color(crop_to_multiple(self.gt.read(), self.scale), self.color))

    def load_lq(self) -> np.ndarray:
        """Return the LR image, uint8 (C, H / scale, W / scale)."""
        if self.lq is not None:
            return planes(to_color(self.lq.read(), self.color))
        return planes(downscale(self.load_gt().transpose(1, 2, 0), self.scale))

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        """Return LR and HR."""
        gt = self.load_gt()
        made = self.lq is None
        return (
            planes(downscale(gt.transpose(1, 2, 0), self.scale)) if made else self.load_lq()
        ), gt


class Pairs:
    """LR and HR images by number.

    With `keep`, both are held in memory. Without it, images are decoded at every visit, except LR images that are
    made here: they are made once, now, and held.
    """

    def __init__(self, pairs: Sequence[Pair], *, keep: bool, title: str) -> None:
        """Load what is held."""
        self.pairs = list(pairs)
        self._both = Store([pair.load for pair in pairs], keep=keep, title=title) if keep else None
        made = not keep and any(pair.lq is None for pair in pairs)
        self._made = (
            [pair.load_lq() for pair in progress_bar(self.pairs, f"{title}: making LR")]
            if made
            else None
        )

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return LR and HR, uint8 (C, H, W)."""
        if self._both is not None:
            return self._both[index]
        pair = self.pairs[index]
        return (pair.load_lq() if self._made is None else self._made[index]), pair.load_gt()


class TrainPairs(Dataset):
    """Patches of LR and HR at the same place, in the same orientation.

    Args:
        pairs: The images.
        scale: HR side by LR side.
        gt_size: Side of the HR patch, a multiple of the scale.
        augmentation: The orientations that may occur.
        seed: With a sample's position in the run, fixes its patch.
    """

    def __init__(
        self, pairs: Pairs, *, scale: int, gt_size: int, augmentation: Augmentation, seed: int
    ) -> None:
        """Keep the arguments."""
        self.pairs, self.scale, self.gt_size = pairs, scale, gt_size
        self.augmentation, self.seed = augmentation, seed

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.pairs)

    def __getitem__(self, address: tuple[int, int]) -> dict[str, Any]:
        """Return the sample at `address`: (number of the image, position in the run)."""
        index, position = address
        rng = np.random.default_rng((self.seed, position))
        lq, gt = self.pairs[index]
        side, scale = self.gt_size // self.scale, self.scale
        top, left = draw_corner(rng, lq.shape[1], lq.shape[2], side)
        orientation = self.augmentation.draw(rng)
        lq = lq[:, top : top + side, left : left + side]
        gt = gt[:, top * scale : (top + side) * scale, left * scale : (left + side) * scale]
        key = self.pairs.pairs[index].gt.key
        return {
            "lq": to_tensor(orient(lq, *orientation)),
            "gt": to_tensor(orient(gt, *orientation)),
            "key": key,
        }


class ValPairs(Dataset):
    """Whole images for validation."""

    def __init__(self, pairs: Pairs) -> None:
        """Keep the images."""
        self.pairs = pairs
        self._grey = [pair.gt.size()[2] == 1 for pair in pairs.pairs]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return tensors (C, H, W) in [0, 1], the same as uint8 (H, W, C), and whether the HR file is grey."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        lq, gt = self.pairs[index]
        pictures = {
            "lq_uint8": interleaved(lq),
            "gt_uint8": interleaved(gt),
            "grey": self._grey[index],
        }
        return {
            "lq": to_tensor(lq),
            "gt": to_tensor(gt),
            "key": self.pairs.pairs[index].gt.key,
            **pictures,
        }


def match_pairs(
    gt: Sequence[StoredImage],
    lq: Sequence[StoredImage],
    *,
    scale: int,
    color: str,
    template: str = "{}",
) -> list[Pair]:
    """Find the LR image of every HR image by its name.

    Args:
        gt: HR images of one root.
        lq: LR images of the matching root.
        scale: HR side by LR side.
        color: `rgb` or `grey`.
        template: Name of an LR image, without extension, from its HR's.

    Raises:
        UserError: Names or sizes do not match.
    """
    by_key = {image.key: image for image in lq}
    wanted = {template.replace("{}", image.key): image for image in gt}
    _check_names(gt, lq, wanted, by_key, template)
    pairs = [Pair(image, by_key[name], scale, color) for name, image in wanted.items()]
    _check_sizes(pairs)
    return pairs


def listed(names: Sequence[str], limit: int = 5) -> str:
    """Return the first few names and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _check_names(
    gt: Sequence[StoredImage],
    lq: Sequence[StoredImage],
    wanted: Mapping[str, StoredImage],
    by_key: Mapping[str, StoredImage],
    template: str,
) -> None:
    for images, names, kind in ((gt, wanted, "HR"), (lq, by_key, "LR")):
        if len(names) < len(images):
            raise UserError(
                f"{images[0].where}: {kind} names without extension occur twice here: rename the files"
            )
    missing = [f"{name} (of {image.where})" for name, image in wanted.items() if name not in by_key]
    extra = [image.where for name, image in by_key.items() if name not in wanted]
    faults = [f"no LR image {listed(missing)}"] if missing else []
    faults += [f"no HR image for {listed(extra)}"] if extra else []
    if faults:
        counts = (
            f"expected one LR image for each HR image, found {len(gt)} HR and {len(lq)} LR images"
        )
        advice = f"LR names are made from HR names by filename_tmpl (={template!r}): correct it or the folders"
        raise UserError(f"{counts}: {'; '.join(faults)}. {advice}")


def _check_sizes(pairs: Sequence[Pair]) -> None:
    faults = []
    for pair in pairs:
        if pair.lq is None:
            continue
        (gt_h, gt_w, _), (lq_h, lq_w, _) = pair.gt.size(), pair.lq.size()
        if (gt_h // pair.scale, gt_w // pair.scale) != (lq_h, lq_w):
            faults.append(f"{pair.lq.where} is {lq_h}x{lq_w}, {pair.gt.where} is {gt_h}x{gt_w}")
    if faults:
        advice = "correct `scale` or make the LR images again with `scripts/prepare_data.py lr`"
        raise UserError(
            f"expected HR sides to be scale (={pairs[0].scale}) times LR sides: {listed(faults)}. {advice}"
        )
