"""Scores of the tasks: runs, tables, pages and the choice of the best model agree on them."""

from dataclasses import fields

import pytest

from dhp_sr.reports.run import Run, ValidationPoint
from dhp_sr.reports.scores import PSNR_RGB, PSNR_Y, SSIM_Y, TOP1, scores_of
from dhp_sr.tasks import TASKS


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_a_task_measures_what_tables_show(task):
    assert {score.key for score in scores_of(task.name)} <= set(task.scores)
    assert set(task.scores) <= {field.name for field in fields(ValidationPoint)}


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_an_unfinished_run_is_of_the_task_of_its_data(task, tmp_path):
    options = {"scale": 1, "datasets": {"train": {"type": task.dataset_type}}}
    assert Run(tmp_path, options=options).task == task.name


def test_main_scores():
    assert (scores_of("sr")[0], scores_of("denoise")[0].key, scores_of("classification")[0]) == (
        PSNR_Y,
        PSNR_RGB.key,
        TOP1,
    )
    assert scores_of("sr", ["ssim_y", "images"]) == (SSIM_Y,)
    assert PSNR_Y.higher_is_better and not TOP1.higher_is_better


def test_the_best_is_the_lowest_error_and_the_highest_psnr():
    sr, _, classification = TASKS.values()
    assert sr.mean_score({"A": {"psnr_y_db": 30.0}, "B": {"psnr_y_db": 20.0}}) == 25.0
    assert sr.is_better(25.0, 24.0) and not sr.is_better(24.0, 24.0)
    nan = float("nan")
    assert sr.is_better(24.0, nan) and not sr.is_better(nan, 24.0) and not sr.is_better(nan, nan)
    assert classification.mean_score({"A": {"top1_error_percent": 9.0}}) == 9.0
    assert classification.is_better(8.0, 9.0) and not classification.is_better(9.0, 8.0)


def test_names_and_units():
    assert (PSNR_Y.label, PSNR_Y.heading, PSNR_Y.text(31.256)) == (
        "PSNR-Y, dB",
        "PSNR-Y dB",
        "31.26",
    )
    assert (SSIM_Y.label, SSIM_Y.heading, SSIM_Y.text(None)) == ("SSIM-Y", "SSIM-Y", "-")


def test_a_line_of_the_log():
    sr, denoise, _ = TASKS.values()
    scores = {"psnr_y_db": 30.123, "ssim_y": 0.9, "psnr_rgb_db": 28.5, "ssim_rgb": 0.85}
    assert sr.summary(scores) == "PSNR-Y 30.12 dB, SSIM-Y 0.9000"
    assert denoise.summary(scores) == "PSNR 28.50 dB, SSIM 0.8500"
