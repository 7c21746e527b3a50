"""The bicubic against published LR images, published scores and a slow second implementation."""

import math
from pathlib import Path

import numpy as np
import pytest

from dhp_sr.data.bicubic import downscale, upscale
from dhp_sr.data.images import crop_to_multiple, decode


def read(path: Path) -> np.ndarray:
    return decode(path.read_bytes(), str(path))


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", ["Set5", "Set14"])
def test_equals_published_lr_images_bit_for_bit(shared_data, name, scale):
    paths = sorted((shared_data / name / "HR").glob("*.png"))
    assert len(paths) == int(name.removeprefix("Set"))
    for path in paths:
        published = read(
            shared_data / name / "LR_bicubic" / f"X{scale}" / f"{path.stem}x{scale}.png"
        )
        made = downscale(crop_to_multiple(read(path), scale), scale)
        np.testing.assert_array_equal(made, published, err_msg=path.name)


@pytest.mark.parametrize(("name", "expected_db"), [("Set5", 28.429), ("Set14", 25.994)])
def test_bicubic_baseline_has_the_reference_psnr(shared_data, name, expected_db):
    scores = []
    for path in sorted((shared_data / name / "HR").glob("*.png")):
        gt = crop_to_multiple(read(path), 4)
        scores.append(psnr_y_db(upscale(downscale(gt, 4), 4), gt, crop_border=4))
    assert np.mean(scores) == pytest.approx(expected_db, abs=1e-3)


def psnr_y_db(a: np.ndarray, b: np.ndarray, crop_border: int) -> float:
    a, b = (luma(image)[crop_border:-crop_border, crop_border:-crop_border] for image in (a, b))
    return 10 * math.log10(255**2 / np.mean((a - b) ** 2))


def luma(image: np.ndarray) -> np.ndarray:
    """BT.601; a gray image is luma itself."""
    if image.shape[2] == 1:
        return image[:, :, 0].astype(float)
    return 16 + image @ np.array([65.481, 128.553, 24.966]) / 255


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("resize", [downscale, upscale])
def test_equals_direct_summation(make_image, resize, scale):
    """Images narrower than the kernel too, where the mirrored border is used several times."""
    image = make_image(scale, 5 * scale, 3)
    ratio = 1 / scale if resize is downscale else scale
    np.testing.assert_array_equal(resize(image, scale), slow_resize(image, ratio))


def slow_resize(image: np.ndarray, ratio: float) -> np.ndarray:
    return slow_rows(slow_rows(image, ratio).swapaxes(0, 1), ratio).swapaxes(0, 1)


def slow_rows(image: np.ndarray, ratio: float) -> np.ndarray:
    length, stretch = image.shape[0], min(ratio, 1.0)
    rows = []
    for row in range(round(length * ratio)):
        center = (row + 0.5) / ratio - 0.5
        reach = math.ceil(2 / stretch) + 1
        near = range(math.floor(center) - reach, math.floor(center) + reach + 1)
        weights = np.array([cubic((center - source) * stretch) for source in near])
        picked = np.stack([image[mirror(source, length)] for source in near])
        value = np.tensordot(weights / weights.sum(), picked, axes=1)
        rows.append(np.clip(np.floor(value + 0.5), 0, 255).astype(np.uint8))
    return np.stack(rows)


def cubic(x: float) -> float:
    x = abs(x)
    if x <= 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def mirror(index: int, length: int) -> int:
    index %= 2 * length
    return index if index < length else 2 * length - 1 - index


def test_constant_stays_constant_and_shapes_hold():
    for shape in ((12, 8, 3), (12, 8, 1), (12, 8)):
        image = np.full(shape, 77, np.uint8)
        small = downscale(image, 4)
        assert small.shape == (3, 2, *shape[2:])
        assert (small == 77).all()
        assert (upscale(small, 4) == 77).all()


def test_gray_equals_each_channel(make_image):
    image = make_image(16, 12)
    for channel in range(3):
        np.testing.assert_array_equal(
            downscale(image[:, :, channel], 2), downscale(image, 2)[:, :, channel]
        )


def test_refuses_wrong_sizes_and_types(make_image):
    with pytest.raises(ValueError, match=r"scale \(=4\).*10x8"):
        downscale(make_image(10, 8), 4)
    with pytest.raises(ValueError, match=r"uint8.*float64"):
        upscale(make_image(8, 8) / 255, 2)
