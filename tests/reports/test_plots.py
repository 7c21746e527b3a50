"""Plots are drawn for every state of a run, and repeat byte for byte."""

import io

import numpy as np
import pytest
from matplotlib import rcParams
from matplotlib.font_manager import FontEntry
from matplotlib.image import imread

from dhp_sr.reports import fonts
from dhp_sr.reports.fonts import text_as_written
from dhp_sr.reports.plots import (
    draw_score,
    new_figure,
    plot_curves,
    plot_widths,
    running_mean,
    write_reports,
)
from dhp_sr.reports.run import TrainingPoint, ValidationPoint, read_run
from dhp_sr.reports.scores import PSNR_Y


def pixels_of(path):
    image = imread(io.BytesIO(path.read_bytes()), format="png")
    return (image[:, :, :3] * 255).round().astype(int)


def area_share(pixels, color):
    """Fraction of the pixels that have the color '#rrggbb'."""
    rgb = [int(color[start : start + 2], 16) for start in (1, 3, 5)]
    return (pixels == rgb).all(axis=2).mean()


def test_widths_show_as_areas(tmp_path, widths):
    plot_widths(tmp_path / "widths.png", widths, "a title")
    pixels = pixels_of(tmp_path / "widths.png")
    kept, pruned = area_share(pixels, "#2b6cb0"), area_share(pixels, "#d3dbe4")
    # 51 channels are kept and 16 pruned; the legend and smoothed edges blur the ratio.
    assert 0.5 < 3 * pruned / kept < 1.5


def test_names_are_no_formulas(tmp_path, widths):
    plot_widths(tmp_path / "widths.png", widths, r"from $5 to $\frac$")
    plot_widths(tmp_path / "again.png", widths, r"from $5 to $\frac$")
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "widths.png").read_bytes()


def test_letters_that_no_font_has_are_one_warning(tmp_path, widths):
    # Of a script that is not written any more: Linear A.
    with pytest.warns(UserWarning, match="2 of the letters") as caught:
        plot_widths(tmp_path / "widths.png", widths, "\U00010600 \U00010601 \U00010600")
    assert len(caught) == 1


def test_letters_come_from_the_installed_fonts(monkeypatch, caplog):
    with text_as_written():
        families = rcParams["font.family"]
    assert families[0] == fonts.DEFAULT_FONT
    font = FontEntry(name="Noto Sans KR")
    monkeypatch.setattr(fonts.fontManager, "ttflist", [*fonts.fontManager.ttflist, font])
    with text_as_written():
        assert {*rcParams["font.family"]} == {*families, "Noto Sans KR"}
    # matplotlib logs a line for each font that it looks for in vain
    with text_as_written():
        new_figure(2, 2).text(0, 0, "a")
    assert not caplog.records


def test_every_test_set_is_in_the_legend():
    """Matplotlib leaves out labels that begin with an underscore."""
    axes = new_figure(4, 3).add_subplot()
    names = ["_mine", "Set5"]
    points = [ValidationPoint(1, "dense", name, psnr_y_db=30.0) for name in names]
    draw_score(axes, points, PSNR_Y)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == names


def test_taller_with_more_layers(tmp_path, widths):
    plot_widths(tmp_path / "few.png", widths)
    plot_widths(tmp_path / "many.png", {**widths, "layers": widths["layers"] * 15})
    heights = [pixels_of(tmp_path / f"{name}.png").shape[0] for name in ("few", "many")]
    assert heights[1] > 3 * heights[0]


def test_panels_for_the_values_there_are(tmp_path, folder):
    run = read_run(folder)
    only_loss = [TrainingPoint(point.iteration, point.phase, point.loss) for point in run.curves]
    cases = {
        "nothing": ((), (), "sr"),
        "a_single_loss": (only_loss[:1], (), "sr"),
        "loss": (only_loss, (), "sr"),
        "costs": (run.curves, (), "sr"),
        "sr": (run.curves, run.validation, "sr"),
        "again": (run.curves, run.validation, "sr"),
        "denoise": (run.curves, run.validation, "denoise"),
        # validation.csv has no errors, the main score of this task.
        "classification": (run.curves, run.validation, "classification"),
    }
    files, heights = {}, {}
    for name, (curves, validation, task) in cases.items():
        path = tmp_path / f"{name}.png"
        plot_curves(path, curves, validation, task=task)
        files[name], heights[name] = path.read_bytes(), pixels_of(path).shape[0]
    assert heights["nothing"] == heights["a_single_loss"] == heights["loss"] < heights["costs"]
    assert heights["costs"] == heights["classification"] < heights["sr"] == heights["denoise"]
    assert files["sr"] == files["again"] != files["denoise"]


def test_the_running_mean_keeps_constants_lines_and_lengths():
    assert np.allclose(running_mean(np.full(500, 3.0)), 3.0)
    line = np.arange(500.0)
    assert np.allclose(running_mean(line)[10:-10], line[10:-10])
    assert len(running_mean(line)) == 500


def test_all_reports_are_written(folder):
    written = write_reports(folder)
    names = [path.relative_to(folder).as_posix() for path in written]
    assert names == ["widths.txt", "plots/widths.png", "plots/curves.png"]
    assert all(path.stat().st_size > 0 for path in written)


def test_reports_of_a_run_before_its_cut(folder):
    (folder / "widths.json").unlink()
    assert [path.name for path in write_reports(folder)] == ["curves.png"]
