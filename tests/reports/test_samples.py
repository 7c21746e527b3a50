"""reports/plots.py and comparison.py: pictures are drawn for every state of a run, and repeat byte for byte."""

import io

import numpy as np
from matplotlib.image import imread

from dhp_sr.reports.phases import phase_spans
from dhp_sr.reports.plots import _smooth, plot_curves, plot_widths
from dhp_sr.reports.run import TrainingPoint, read_run


def picture_of(path):
    return (imread(io.BytesIO(path.read_bytes()), format="png")[:, :, :3] * 255).round().astype(int)


def share_of(picture, colour):
    """Fraction of the pixels that have the colour '#rrggbb'."""
    wanted = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
    return (picture == wanted).all(axis=2).mean()


def test_widths_show_as_areas(tmp_path, widths):
    plot_widths(tmp_path / "widths.png", widths, "a title")
    picture = picture_of(tmp_path / "widths.png")
    blue, grey = share_of(picture, "#2b6cb0"), share_of(picture, "#d3dbe4")
    assert (
        0.5 < 3 * grey / blue < 1.5
    )  # 51 channels kept, 16 cut; the legend and smoothed edges blur it


def test_taller_with_more_layers(tmp_path, widths):
    plot_widths(tmp_path / "a.png", widths)
    plot_widths(tmp_path / "b.png", {**widths, "layers": widths["layers"] * 30})
    assert picture_of(tmp_path / "b.png").shape[0] > 3 * picture_of(tmp_path / "a.png").shape[0]


def test_pictures_repeat(tmp_path, folder, widths):
    run = read_run(folder)
    for name in "ab":
        plot_curves(tmp_path / f"{name}.png", run.curves, run.validation, "title")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_curves_have_a_panel_for_what_there_is(tmp_path, folder):
    run = read_run(folder)
    only_loss = [TrainingPoint(point.iteration, point.phase, point.loss) for point in run.curves]
    heights = []
    for curves, validation in [
        ((), ()),
        (only_loss, ()),
        (run.curves, ()),
        (run.curves, run.validation),
    ]:
        plot_curves(tmp_path / "curves.png", curves, validation)
        heights.append(picture_of(tmp_path / "curves.png").shape[0])
    assert heights[0] == heights[1] < heights[2] < heights[3]


def test_the_curve_of_the_score_that_counts(tmp_path, folder):
    run, sizes = read_run(folder), {}
    for task in (
        "sr",
        "denoise",
        "classification",
    ):  # the file holds PSNR over Y and over RGB, and no errors
        plot_curves(tmp_path / f"{task}.png", run.curves, run.validation, task=task)
        sizes[task] = picture_of(tmp_path / f"{task}.png").shape[0]
    assert sizes["sr"] == sizes["denoise"] > sizes["classification"]
    assert (tmp_path / "sr.png").read_bytes() != (tmp_path / "denoise.png").read_bytes()


def test_one_point_can_be_drawn(tmp_path):
    plot_curves(tmp_path / "curves.png", [TrainingPoint(1, "dense", 0.5, 1e-4, 1.0, 1.0)])
    assert (tmp_path / "curves.png").stat().st_size > 0


def test_phases_span_the_iterations(folder):
    run = read_run(folder)
    assert phase_spans(run.curves) == [("dense", 0, 20), ("search", 20, 30), ("finetune", 30, 40)]


def test_smoothing_keeps_a_constant_and_a_line_and_the_length():
    assert np.allclose(_smooth(np.full(500, 3.0)), 3.0)
    line = np.arange(500.0)
    assert np.allclose(_smooth(line)[10:-10], line[10:-10])
