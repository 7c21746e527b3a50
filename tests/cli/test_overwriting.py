"""No command replaces what it reads by what it writes."""

import shutil
from pathlib import Path

import pytest

from dhp_sr import plan, report, test
from dhp_sr.cli.compress_request import CompressRequest, Target
from dhp_sr.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def copied(path, folder):
    return Path(shutil.copy(ROOT / path, folder))


def refused(main, path, *arguments):
    before = path.read_bytes()
    assert main([str(argument) for argument in arguments]) == 2
    assert path.read_bytes() == before


def test_the_plan_replaces_neither_options_nor_code(tmp_path):
    options = copied("options/quickstart.yml", tmp_path)
    refused(plan.main, options, "-opt", options, "--json", options)
    code = tmp_path / "net.py"
    code.write_text("raise AssertionError('refused before the code runs')")
    refused(plan.main, code, "--arch", f"{code}:Net", "--json", code)


def test_scores_replace_neither_models_nor_images(tmp_path):
    image = tmp_path / "data" / "a.png"
    image.parent.mkdir()
    graph, weights = tmp_path / "net.xml", tmp_path / "net.bin"
    for path in (image, graph, weights):
        path.write_bytes(b"content")
    for path in (image, graph, weights):
        refused(test.main, path, "--model", graph, "--data", image.parent, "--json", path)


def test_scores_replace_no_file_of_the_run(tmp_path, monkeypatch):
    run = tmp_path / "runs" / "quickstart"
    (run / "models").mkdir(parents=True)
    options = copied("options/quickstart.yml", tmp_path)
    chosen = ("-opt", options, "--set", f"path.experiments_root={tmp_path / 'runs'}")
    for path in (run / "metrics.json", run / "models" / "pruned.safetensors", options):
        path.touch()
        refused(test.main, path, *chosen, "--json", path)


def test_a_report_replaces_no_results(tmp_path):
    saved = copied("results/edsr_x4_cpu.json", tmp_path)
    refused(report.main, saved, saved, "--output", saved)
    run = tmp_path / "run"
    run.mkdir()
    metrics = copied("results/edsr_x4_cpu.json", run).rename(run / "metrics.json")
    refused(report.main, metrics, run, "--output", metrics)


def test_the_options_of_a_compression_replace_nothing_that_it_reads(tmp_path):
    model, code, image = tmp_path / "net.pth", tmp_path / "net.py", tmp_path / "images" / "a.png"
    image.parent.mkdir()
    for path in (model, code, image):
        path.touch()
        request = CompressRequest(
            images=image.parent, target=Target.from_text("macs=0.5"), save_options=path
        )
        with pytest.raises(UserError, match=f"--save_options .*{path.name}"):
            request.check_keeps(model, code)
