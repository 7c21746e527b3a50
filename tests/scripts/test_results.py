"""The command lines of `results.py` and `screenshot.py`: mistakes."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def load(name):
    path = list(sys.path)
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path[:] = path
    return module


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, "metrics.json: expected the file of a finished run"),
        ({"metrics.json": "{"}, "metrics.json: expected JSON"),
        ({"metrics.json": "[]"}, "metrics.json: .*list"),
        (
            {"metrics.json": "{}", "environment.json": "{}"},
            "metrics.json: .*name",
        ),
    ],
)
def test_runs_that_cannot_be_kept(tmp_path, capsys, files, expected):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert load("results").main(["add", str(tmp_path), "--hardware", "x", "--minutes", "1"]) == 2
    assert re.search(expected, capsys.readouterr().err)


def kept(folder, text):
    (folder / "results").mkdir()
    (folder / "results" / "x.json").write_text(text)
    return "before\n<!-- results/x.json -->\nold\n<!-- end -->\nafter\n"


@pytest.mark.parametrize(
    ("text", "header"),
    [
        ('{"metrics": {"rows": []}}', "| model | iterations |"),
        ('{"kind": "step", "rows": []}', "| network | weights |"),
        ('{"kind": "latency", "rows": []}', "| network | widths |"),
        ('{"kind": "headline", "rows": []}', "| network |"),
    ],
)
def test_each_kind_of_file_has_its_table(tmp_path, text, header):
    made = load("results").with_tables(kept(tmp_path, text), tmp_path)
    assert header in made and "old" not in made
    assert made.startswith("before\n<!-- results/x.json -->\n|") and made.endswith(
        "|\n<!-- end -->\nafter\n"
    )


@pytest.mark.parametrize("text", ['{"kind": "weather", "rows": []}', '{"kind": "step"}', "{}"])
def test_a_file_without_figures(tmp_path, text):
    readme = kept(tmp_path, text)
    with pytest.raises(ValueError, match=r"x\.json: .*kind"):
        load("results").with_tables(readme, tmp_path)


def test_a_plot_without_figures(tmp_path, monkeypatch, capsys):
    script = load("results")
    monkeypatch.setattr(script, "ROOT", tmp_path)
    assert script.main(["plot"]) == 2
    assert "run benchmarks/" in capsys.readouterr().err


def test_a_screenshot_without_a_page_or_a_browser(tmp_path, monkeypatch, capsys):
    script = load("screenshot")
    page = tmp_path / "page.html"
    assert script.main([str(page), "x.png"]) == 2
    assert "expected a report page, found none" in capsys.readouterr().err
    page.write_text("<!doctype html>")
    monkeypatch.setattr(script.shutil, "which", lambda name: None)
    assert script.main([str(page), "x.png"]) == 2
    assert "expected chromium and chromedriver, found none" in capsys.readouterr().err


def test_several_runs_become_one_table(tmp_path, monkeypatch):
    results = load("results")
    monkeypatch.setattr(results, "ROOT", tmp_path)
    (tmp_path / "results").mkdir()
    about = {
        "task": "classification",
        "scale": 1,
        "target": {"macs": 0.5},
        "macs_input": [1, 3, 32, 32],
    }
    for method, error in (("dhp", 8.0), ("uniform", 9.0)):
        rows = [
            {"model": name, "sets": {"C": {"top1_error_percent": error}}}
            for name in ("dense", "pruned")
        ]
        (tmp_path / method).mkdir()
        (tmp_path / method / "metrics.json").write_text(
            json.dumps({"name": f"r_{method}", **about, "rows": rows})
        )
        (tmp_path / method / "environment.json").write_text("{}")
    runs = [str(tmp_path / "dhp"), str(tmp_path / "uniform")]
    facts = ["--hardware", "x", "--minutes", "1"]
    assert results.main(["add", *runs, *facts]) == 2
    assert results.main(["add", *runs, "--name", "both", *facts]) == 0
    found = json.loads((tmp_path / "results" / "both.json").read_text())["metrics"]["rows"]
    assert [(row["model"], row["sets"]["C"]["top1_error_percent"]) for row in found] == [
        ("dense", 8.0),
        ("dhp", 8.0),
        ("uniform", 9.0),
    ]
