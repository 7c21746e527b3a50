"""`comparison_figure.py`: crops of one image side by side, and the mistakes of its user."""

import io

import numpy as np
import pytest
from matplotlib.image import imread

from dhp_sr.utils.errors import UserError

from .test_results import load


@pytest.fixture(scope="module")
def script():
    return load("comparison_figure")


def area_share(path, color):
    """Fraction of a PNG file's pixels that have the color (red, green, blue)."""
    pixels = imread(io.BytesIO(path.read_bytes()), format="png")[:, :, :3]
    return ((pixels * 255).round().astype(int) == color).all(axis=2).mean()


def test_the_last_image_is_also_shown_whole(script, tmp_path):
    dense_color, truth_color = (200, 10, 10), (10, 10, 200)
    columns = {
        "dense\n30 dB": np.full((40, 60, 3), dense_color, np.uint8),
        "ground truth": np.full((40, 60, 3), truth_color, np.uint8),
    }
    path = tmp_path / "new_folder" / "figure.png"
    script.comparison_figure(path, columns, (10, 20, 20, 20))
    assert area_share(path, truth_color) > area_share(path, dense_color) > 0.2


@pytest.mark.parametrize("shape", [(40, 60), (40, 60, 1)])
def test_gray_images(script, tmp_path, shape):
    path = tmp_path / "figure.png"
    script.comparison_figure(path, {"gt": np.full(shape, 77, np.uint8)}, (0, 0, 40, 60))
    assert area_share(path, (77, 77, 77)) > 0.5


@pytest.mark.parametrize(
    ("shapes", "crop", "facts"),
    [
        ({}, (0, 0, 1, 1), ["none"]),
        ({"a": (4, 4, 3), "b": (4, 5, 3)}, (0, 0, 1, 1), ["'a': (4, 4)", "'b': (4, 5)"]),
        ({"a": (4, 4, 2)}, (0, 0, 1, 1), ["'a'", "uint8", "(4, 4, 2)"]),
        ({"a": (4, 4, 3)}, (2, 2, 3, 3), ["4x4", "(2, 2, 3, 3)"]),
        ({"a": (4, 4, 3)}, (0, 0, 0, 3), ["4x4", "(0, 0, 0, 3)"]),
    ],
)
def test_comparisons_that_cannot_be_drawn(script, tmp_path, shapes, crop, facts):
    columns = {title: np.zeros(shape, np.uint8) for title, shape in shapes.items()}
    with pytest.raises(UserError) as error:
        script.comparison_figure(tmp_path / "figure.png", columns, crop)
    assert all(fact in str(error.value) for fact in facts)


def test_a_file_that_cannot_be_written(script, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(script, "draw", full)
    crop = ["--crop", "0", "0", "8", "8"]
    assert script.main([str(tmp_path), "x.png", "--image", "a", *crop]) == 2
    assert "No space left" in capsys.readouterr().err
