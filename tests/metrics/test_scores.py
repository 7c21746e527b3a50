"""Scores against closed forms, scikit-image and BasicSR; ties, and what is no answer."""

import math

import numpy as np
import pytest
import torch
from basicsr_modules import from_basicsr
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from dhp_sr.metrics import num_correct, psnr_db, ssim, to_uint8
from dhp_sr.utils.errors import UserError

SHAPES = [((24, 31, 3), 0), ((24, 31, 3), 4), ((24, 31, 1), 4), ((24, 31), 4), ((11, 11, 3), 0)]


def image_pair(shape):
    """A smooth image and a noisy version of it, uint8."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    smooth = (128 + 90 * np.sin(rows / 5) * np.cos(columns / 7)).reshape(
        shape[0], shape[1], *(1 for _ in shape[2:])
    )
    clean = np.clip(smooth + random.normal(0, 20, shape), 0, 255)
    return clean.astype(np.uint8), np.clip(clean + random.normal(0, 12, shape), 0, 255).astype(
        np.uint8
    )


@pytest.mark.parametrize("shape, crop_border", SHAPES)
@pytest.mark.parametrize("luma", [False, True])
def test_scores_equal_those_of_scikit_image(shape, crop_border, luma):
    a, b = image_pair(shape)
    x, y = (
        p[crop_border : shape[0] - crop_border, crop_border : shape[1] - crop_border].astype(float)
        for p in (a, b)
    )
    if luma and shape[2:] == (3,):
        x, y = (rgb2ycbcr(p / 255)[..., 0] for p in (x, y))
    expected = structural_similarity(
        x,
        y,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        channel_axis=2 if x.ndim == 3 else None,
    )
    assert ssim(a, b, crop_border=crop_border, luma=luma) == pytest.approx(expected, abs=1e-9)
    assert psnr_db(a, b, crop_border=crop_border, luma=luma) == pytest.approx(
        peak_signal_noise_ratio(x, y, data_range=255)
    )


@pytest.mark.parametrize("luma", [False, True])
@pytest.mark.parametrize("crop_border", [0, 4])
def test_scores_equal_those_of_basicsr(luma, crop_border):
    theirs = from_basicsr("metrics.psnr_ssim")
    a, b = image_pair((40, 33, 3))
    options = {"crop_border": crop_border, "test_y_channel": luma}
    bgr = a[..., ::-1], b[..., ::-1]
    assert psnr_db(a, b, crop_border=crop_border, luma=luma) == pytest.approx(
        theirs.calculate_psnr(*bgr, **options), abs=1e-5
    )
    assert ssim(a, b, crop_border=crop_border, luma=luma) == pytest.approx(
        theirs.calculate_ssim(*bgr, **options), abs=1e-6
    )


def test_closed_forms():
    black, gray = np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 10, np.uint8)
    assert psnr_db(black, gray) == pytest.approx(20 * math.log10(255 / 10))
    assert psnr_db(black, gray, luma=True) == pytest.approx(20 * math.log10(255 / (10 * 219 / 255)))
    assert ssim(black, gray) == pytest.approx(6.5025 / (100 + 6.5025))


def test_equal_images():
    a, _ = image_pair((20, 20, 3))
    assert psnr_db(a, a.copy()) == math.inf
    assert ssim(a, a.copy()) == pytest.approx(1.0, abs=1e-12)


def test_gray_is_its_own_luma_and_needs_no_axis():
    a, b = image_pair((20, 20, 1))
    for score in (psnr_db, ssim):
        assert score(a, b) == score(a, b, luma=True) == score(a[..., 0], b[..., 0])


def test_pixels_of_the_border_do_not_count():
    a, b = image_pair((30, 30, 3))
    c = b.copy()
    c[:4], c[-4:], c[:, :4], c[:, -4:] = 0, 0, 0, 0
    assert psnr_db(a, b, crop_border=4) == psnr_db(a, c, crop_border=4)
    assert ssim(a, b, crop_border=4) == ssim(a, c, crop_border=4)


def test_images_stay_as_they_were():
    a, b = image_pair((20, 20, 3))
    before = a.copy()
    ssim(a, b, luma=True)
    assert np.array_equal(a, before)


@pytest.mark.parametrize("score", [psnr_db, ssim])
def test_mistakes_are_explained(score):
    a = np.zeros((20, 20, 3), np.uint8)
    with pytest.raises(UserError, match=r"\(20, 20, 3\) and \(20, 21, 3\)"):
        score(a, np.zeros((20, 21, 3), np.uint8))
    with pytest.raises(UserError, match=r"\(20, 20, 3\) and crop_border=10"):
        score(a, a, crop_border=10)
    with pytest.raises(UserError, match="crop_border=-1"):
        score(a, a, crop_border=-1)
    with pytest.raises(UserError, match=r"\(3, 20, 20\)"):
        score(a.transpose(2, 0, 1), a.transpose(2, 0, 1))
    with pytest.raises(ValueError, match="float64"):
        score(a / 255, a / 255)


def test_ssim_window_must_fit():
    with pytest.raises(UserError, match="11 pixels"):
        ssim(np.zeros((10, 30), np.uint8), np.zeros((10, 30), np.uint8))


def test_to_uint8_clips_rounds_and_turns():
    image = (
        torch.tensor([-1.0, 0.0, 0.5, 254.4 / 255, 254.6 / 255, 2.0]).view(1, 2, 3).repeat(3, 1, 1)
    )
    turned = to_uint8(image)
    assert turned.shape == (2, 3, 3) and turned.dtype == np.uint8 and turned.flags.c_contiguous
    assert turned[..., 0].tolist() == [[0, 0, 128], [254, 255, 255]]


def test_to_uint8_undoes_division():
    levels = torch.arange(256, dtype=torch.float32).view(1, 16, 16)
    assert to_uint8(levels / 255)[..., 0].ravel().tolist() == list(range(256))


def test_to_uint8_refuses_batches():
    with pytest.raises(ValueError, match=r"shape \(C, H, W\), got shape \(1, 3, 4, 4\)"):
        to_uint8(torch.zeros(1, 3, 4, 4))


def test_a_permutation_has_its_class_at_every_rank_once():
    scores = torch.arange(10.0).expand(10, 10)  # class 9 first, class 0 last
    labels = torch.arange(10)
    assert [num_correct(scores, labels, k) for k in (1, 5, 10)] == [1, 5, 10]


def test_agrees_with_topk_where_no_scores_are_equal():
    scores, labels = torch.rand(200, 20), torch.randint(20, (200,))
    for k in (1, 3, 5):
        assert num_correct(scores, labels, k) == int(
            (scores.topk(k).indices == labels[:, None]).any(1).sum()
        )


def test_equal_scores_are_not_all_hits():
    """A network that says the same of every class is right for the first one only."""
    assert num_correct(torch.zeros(10, 10), torch.arange(10)) == 1
    assert num_correct(torch.zeros(10, 10), torch.arange(10), 5) == 5


def test_no_number_is_no_hit():
    scores = torch.tensor([[1.0, 0.0], [1.0, float("nan")], [float("inf"), 0.0]])
    assert num_correct(scores, torch.tensor([0, 0, 0])) == 1
    assert num_correct(scores, torch.tensor([0, 0, 0]), 5) == 1


@pytest.mark.parametrize("labels", [[2, 0], [0, -1]])
def test_labels_out_of_range_are_refused(labels):
    with pytest.raises(ValueError, match="expected labels from 0 to 1, got"):
        num_correct(torch.zeros(2, 2), torch.tensor(labels))


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"\(2, 2\) and \(3,\), k=1"):
        num_correct(torch.zeros(2, 2), torch.zeros(3, dtype=torch.long))
