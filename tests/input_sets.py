"""Training sets without truths, of images that are drawn rather than read."""

from dataclasses import dataclass

import numpy as np

from dhp_sr.data.augment import Augmentation
from dhp_sr.data.inputs import InputTrainSet, ReducedImage


@dataclass(frozen=True)
class DrawnImage:
    """In place of `CleanImage`."""

    image: np.ndarray

    recipe = "image y"

    def load(self):
        return (self.image,)

    def input_shape(self):
        return self.image.shape


def reduced(image, reductions, side):
    return ReducedImage(DrawnImage(image), reductions, side)


def input_train_set(images, *, side, scale, reductions, augment=False, seed=1):
    arrays = [reduced(image, reductions, side).load() for image in images]
    return InputTrainSet(
        arrays,
        [str(index) for index in range(len(images))],
        side=side,
        scale=scale,
        augmentation=Augmentation(augment, augment),
        seed=seed,
    )
