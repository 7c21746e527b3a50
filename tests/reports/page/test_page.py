"""reports/page: what stands in the page is what stands in the files, whatever they hold or lack."""

import base64
import configparser
import hashlib
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dhp_sr.report import main
from dhp_sr.reports.page import page, write_page
from dhp_sr.reports.page.image_comparison import MOST_BYTES, scenes
from dhp_sr.reports.run import read_run
from dhp_sr.utils.errors import UserError

from .conftest import NAME, add_pictures

PARTS = (
    "metrics.json",
    "widths.json",
    "curves.csv",
    "validation.csv",
    "options.yml",
    "environment.json",
    "plan.json",
)
PARTS += ("latents.csv", "images/index.json", "images/0/dense.png", "images/1")


class Reader(HTMLParser):
    """Collects tags with their attributes, the text of the page, and the scripts' texts."""

    def __init__(self):
        super().__init__()
        self.tags, self.scripts, self.words, self.inside = [], [], [], None

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts.append(data)
        elif self.inside != "style":
            self.words.append(data)


def parsed(text):
    reader = Reader()
    reader.feed(text)
    return reader


def page_of(*folders):
    return parsed(page([read_run(folder) for folder in folders]))


def data_of(reader):
    return json.loads(reader.scripts[0])


def test_numbers_of_the_table_are_those_of_the_json(whole):
    metrics = json.loads((whole / "metrics.json").read_text())
    values = [
        float(attrs["data-value"])
        for tag, attrs in page_of(whole).tags
        if tag == "td" and "data-value" in attrs
    ]
    wanted = []
    for row in metrics["rows"]:
        scores = [
            row["sets"].get(name, {}).get(key)
            for name in ("Set5", "Set14")
            for key in ("psnr_y_db", "ssim_y")
        ]
        wanted += [row["iterations"], *scores, row["macs"], row["params"], row["latency_ms"]]
    assert values == [value for value in wanted if value is not None]


def test_points_of_the_chart_are_those_of_the_json(whole):
    metrics = json.loads((whole / "metrics.json").read_text())
    chart = data_of(page_of(whole))["chart"]
    own = {point["label"]: point for point in chart["points"] if point["kind"] != "published"}
    assert set(own) == {"dense", "pruned"} and [one["label"] for one in chart["inputs"]] == [
        "bicubic"
    ]
    for row in metrics["rows"][1:]:
        point = own[row["model"]]
        assert all(
            point[key] == row[key] for key in ("macs", "params", "latency_ms", "iterations", "sets")
        )
    assert [score["key"] for score in chart["scores"]] == [
        "psnr_y_db",
        "ssim_y",
        "psnr_rgb_db",
        "ssim_rgb",
    ]


def test_published_points_are_facts_of_the_same_task(whole, metrics):
    points = [
        point
        for point in data_of(page_of(whole))["chart"]["points"]
        if point["kind"] == "published"
    ]
    (edsr,) = (point for point in points if point["label"] == "EDSR 8 x 128, DHP-40")
    assert (edsr["macs"], edsr["params"], edsr["latency_ms"]) == (37_770_000_000, 1_530_000, None)
    assert edsr["sets"]["Set5"] == {"psnr_y_db": 32.01} and "ECCV 2020" in edsr["detail"]
    assert "ECCV 2020" in " ".join(page_of(whole).words)
    (whole / "metrics.json").write_text(json.dumps({**metrics, "scale": 2}))
    assert {point["kind"] for point in data_of(page_of(whole))["chart"]["points"]} == {
        "dense",
        "pruned",
    }


@pytest.mark.parametrize(("sigma", "count"), [(70, 16), (25, 0)])
def test_published_denoisers_are_of_the_same_noise(whole, metrics, sigma, count):
    rows = [{**row, "sets": {"BSD68": row["sets"]["Set5"]}} for row in metrics["rows"]]
    (whole / "metrics.json").write_text(
        json.dumps({**metrics, "task": "denoise", "scale": 1, "rows": rows})
    )
    (whole / "options.yml").write_text(
        f"scale: 1\ndatasets: {{val: {{name: BSD68, sigma: {sigma}}}}}\n"
    )
    chart = data_of(page_of(whole))["chart"]
    assert sum(point["kind"] == "published" for point in chart["points"]) == count
    assert [score["key"] for score in chart["scores"]] == ["psnr_rgb_db", "ssim_rgb"]


def test_controls_beside_a_run_are_shown(whole, metrics):
    for name, options in {
        "uniform": "compress: {method: uniform}",
        "other_search": "compress: {method: dhp}",
        "dense": "compress: null",
        "other_net": "compress: {method: uniform}",
        "edsr_x4_archived_1": "compress: {method: uniform}",
    }.items():
        other = whole.parent / name
        other.mkdir()
        (other / "metrics.json").write_text(json.dumps({**metrics, "name": name}))
        network = (
            "{type: HyperEDSR, num_feat: 64}"
            if name != "other_net"
            else "{type: HyperEDSR, num_feat: 8}"
        )
        (other / "options.yml").write_text(f"scale: 4\nnetwork_g: {network}\n{options}\n")
    broken = whole.parent / "broken"
    broken.mkdir()
    (broken / "metrics.json").write_text("{")
    (broken / "options.yml").write_text("a: [")
    points = data_of(page_of(whole))["chart"]["points"]
    controls = {point["label"] for point in points if point["kind"] == "control"}
    assert controls == {"uniform: pruned", "dense: dense", "dense: pruned"}


def test_widths_plan_and_reasons_stand_there(whole):
    words = " ".join(" ".join(page_of(whole).words).split())
    assert "conv_first" in words and "3 → 64" in words and "3 → 48" in words and "75%" in words
    assert "input of the network" in words and "with it conv_last" in words
    assert "74.3%" in words and "conv_first, b.1, b.2, b.3" in words and "1 more" in words


def test_curves_hold_the_values_of_the_files(whole):
    curves = data_of(page_of(whole))["curves"]
    charts = {
        chart["title"]: {line["label"]: line["points"] for line in chart["lines"]}
        for chart in curves["charts"]
    }
    assert charts["training loss"] == {"loss": [[10, 0.5], [20, 0.3], [30, 0.2], [40, 0.01]]}
    assert charts["kept, masks applied"]["MACs"] == [[20, 1.0], [30, 0.7], [40, 0.4]]
    assert charts["validation PSNR-Y, dB"] == {
        "Set5": [[20, 30.1], [40, 30.0]],
        "Set14": [[40, 27.0]],
    }
    assert curves["phases"][1] == {"name": "search", "start": 20, "end": 30}


@pytest.mark.parametrize(
    ("kind", "key", "title"),
    [
        ("NoiseDataset", "psnr_rgb_db", "PSNR, dB"),
        ("ClassificationDataset", "top1_error_percent", "top-1 error, %"),
    ],
)
def test_curves_of_an_unfinished_run_are_those_of_its_task(whole, kind, key, title):
    (whole / "metrics.json").unlink()
    (whole / "options.yml").write_text(f"scale: 1\ndatasets: {{train: {{type: {kind}}}}}\n")
    (whole / "validation.csv").write_text(
        f"iteration,phase,set,{key}\n20,dense,A,12.5\n40,finetune,A,9.5\n"
    )
    charts = {
        chart["title"]: chart["lines"] for chart in data_of(page_of(whole))["curves"]["charts"]
    }
    assert charts[f"validation {title}"][0]["points"] == [[20, 12.5], [40, 9.5]]


def test_long_curves_are_thinned_and_keep_their_end(whole):
    rows = "".join(f"{number},dense,{1 / number},1e-4,,\n" for number in range(1, 5001))
    (whole / "curves.csv").write_text("iteration,phase,loss,lr,macs_ratio,params_ratio\n" + rows)
    points = data_of(page_of(whole))["curves"]["charts"][0]["lines"][0]["points"]
    assert len(points) <= 400 and points[-1] == [5000, 1 / 5000]


def test_numbers_that_json_does_not_know(whole, metrics):
    metrics["rows"][2]["sets"]["Set5"]["psnr_y_db"] = float("nan")
    metrics["rows"][2]["macs"] = float("inf")
    (whole / "metrics.json").write_text(json.dumps(metrics))
    text = page_of(whole).scripts[0]
    points = json.loads(text, parse_constant=pytest.fail)["chart"]["points"]
    assert (points[1]["macs"], points[1]["sets"]["Set5"]["psnr_y_db"]) == (None, None)


def test_a_run_without_test_sets(whole, metrics):
    rows = [{**row, "sets": {}} for row in metrics["rows"][1:]]
    (whole / "metrics.json").write_text(json.dumps({**metrics, "rows": rows}))
    reader = page_of(whole)
    assert data_of(reader)["chart"] is None and "36.141" in reader.words


def test_names_are_text_not_markup(whole):
    reader = page_of(whole)
    assert not [
        attrs for tag, attrs in reader.tags if "onerror" in attrs or attrs.get("src") == "x"
    ]
    assert NAME in "".join(reader.words)
    assert "</script" not in reader.scripts[0] and len(reader.scripts) == 2
    assert ("b", {}) in reader.tags and "train.py <b>" in "".join(reader.words)


def test_only_its_own_script_may_run_and_nothing_is_fetched(whole):
    reader = page_of(whole)
    (policy,) = (attrs["content"] for tag, attrs in reader.tags if attrs.get("http-equiv"))
    digest = base64.b64encode(hashlib.sha256(reader.scripts[1].encode()).digest()).decode()
    assert (
        policy
        == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    )
    addresses = [
        attrs.get(name) for _, attrs in reader.tags for name in ("src", "href") if attrs.get(name)
    ]
    assert len(addresses) > 10 and all(address.startswith(("data:", "#")) for address in addresses)


@pytest.mark.parametrize("gone", PARTS)
def test_a_page_without_one_part(whole, gone):
    path = whole / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    reader = page_of(whole)
    assert ("main", {"id": "main"}) in reader.tags
    parts = {"metrics.json": "results", "widths.json": "widths", "images/index.json": "pictures"}
    found = {attrs.get("id") for _, attrs in reader.tags} & set(parts.values())
    assert found == {part for name, part in parts.items() if name != gone}


def test_an_interrupted_run_says_how_far_it_came(whole):
    (whole / "metrics.json").unlink()
    words = "".join(page_of(whole).words)
    assert "recorded up to iteration 40 of 40, phase finetune" in words
    for name in ("widths.json", "validation.csv", "latents.csv", "curves.csv"):
        (whole / name).unlink()
    words = "".join(page_of(whole).words)
    assert "no iteration is recorded yet" in words and "input of the network" in words


def test_several_targets(whole, widths, metrics):
    (whole / "widths.json").rename(whole / "widths_macs0.6.json")
    (whole / "widths_macs0.4.json").write_text(json.dumps(widths))
    rows = [
        *metrics["rows"][:2],
        *({**metrics["rows"][2], "model": f"pruned_macs{one}"} for one in (0.6, 0.4)),
    ]
    (whole / "metrics.json").write_text(json.dumps({**metrics, "rows": rows, "achieved": [{}, {}]}))
    reader = page_of(whole)
    assert {"pruned_macs0.4", "pruned_macs0.6"} <= set(reader.words)
    assert sum(attrs.get("class", "").startswith("fill") for _, attrs in reader.tags) == 4


def test_latents_are_drawn_one_row_a_channel(whole):
    import io

    import numpy as np
    from PIL import Image

    (source,) = (
        attrs["src"]
        for tag, attrs in page_of(whole).tags
        if "of 4 channels" in attrs.get("alt", "")
    )
    pixels = np.array(Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))))
    assert pixels.shape == (4, 3, 4)
    opacity = pixels[:, :, 3]
    assert (opacity > 0).sum(axis=1).tolist() == [3, 2, 1, 1]  # who lasts longest comes first
    assert opacity[0].tolist() == [255, 234, 212] and opacity[3, 0] == round(40 + 215 * 0.25)


def test_a_comparison_of_runs(whole, metrics):
    other = shutil.copytree(whole, whole.parent / "other")
    rows = json.loads(json.dumps(metrics["rows"]))
    rows[2]["latency_ms"] = 99.5
    (other / "metrics.json").write_text(json.dumps({**metrics, "name": "other", "rows": rows}))
    shutil.rmtree(other / "images")
    add_pictures(other, prefix=7)
    reader = page_of(whole, other)
    assert "Comparison of 2 runs" in reader.words
    assert sum(tag == "tr" for tag, _ in reader.tags) >= 2 + 5  # bicubic is in both, and shown once
    labels = [attrs["data-label"] for _, attrs in reader.tags if "data-label" in attrs]
    models = [f"{name}: {model}" for name in (NAME, "other") for model in ("dense", "pruned")]
    assert labels[:7] == ["input", "bicubic", *models, "truth"]
    charts = {chart["title"]: chart for chart in data_of(reader)["curves"]["charts"]}
    assert [line["label"] for line in charts["training loss"]["lines"]] == [NAME, "other"]
    assert "validation PSNR-Y, dB, Set14" in charts


def test_pages_stay_small(whole):
    add_pictures(whole, count=12, side=512)
    shown, left_out = scenes([read_run(whole)])
    size = sum(len(view.data_uri) for scene in shown for view in scene.views)
    assert shown and left_out and len(shown) + left_out == 12 and size < MOST_BYTES * 4 / 3 + 1000
    text = page([read_run(whole)])
    assert (
        f"{left_out} more pictures were left out" in text
        and len(text) < MOST_BYTES * 4 / 3 + 200_000
    )


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("latents.csv", "iteration,group,latents\n1,a,much\n", r"latents\.csv, line 2: .*'much'"),
        (
            "latents.csv",
            "iteration,group,latents\n1,a,1 1\n2,a,1\n",
            r"latents\.csv: expected as many latents",
        ),
        (
            "latents.csv",
            "iteration,latents\n1,1\n",
            r"latents\.csv, line 2: expected iteration, group, latents",
        ),
        ("images/index.json", "[]", r"index\.json: expected the pictures of a run"),
        (
            "images/index.json",
            '{"pictures": [{"versions": [{"file": "../metrics.json"}]}]}',
            "expected files inside",
        ),
        ("images/0/dense.png", "GIF89a", r"dense\.png: expected a PNG file, found another one"),
        (
            "images/0/dense.png",
            "x" * (5 * 2**20),
            r"dense\.png: expected at most 4,194,304 bytes, found 5,242,880",
        ),
        ("options.yml", "a: [", r"options\.yml.*: expected YAML"),
        ("metrics.json", '{"rows": 3}', "edsr_x4: expected the files of a run as it wrote them"),
        (
            "widths.json",
            '{"layers": [{}], "groups": []}',
            "edsr_x4: expected the files of a run as it wrote them",
        ),
    ],
)
def test_damaged_files_end_with_a_message(whole, tmp_path, name, text, message):
    (whole / name).write_text(text)
    with pytest.raises(UserError, match=message):
        write_page(tmp_path / "page.html", [whole])
    assert not (tmp_path / "page.html").exists()


def test_the_command_line(whole, tmp_path, capsys):
    assert main([str(whole)]) == 0
    assert capsys.readouterr().out.strip() == str(whole / "report.html")
    first = (whole / "report.html").read_bytes()
    assert main([str(whole)]) == 0 and (whole / "report.html").read_bytes() == first
    assert main([str(whole), str(whole)]) == 2 and "--output" in capsys.readouterr().err
    assert main([str(tmp_path / "none")]) == 2 and "found nothing there" in capsys.readouterr().err


def test_kept_figures_are_runs_too(tmp_path, metrics, capsys):
    path = tmp_path / "kept.json"
    path.write_text(
        json.dumps({"hardware": "two cores", "metrics": metrics, "environment": {"torch": "2.13"}})
    )
    assert main([str(path), "--output", str(tmp_path / "page.html")]) == 0
    reader = parsed((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "two cores" in reader.words and "31.85" in reader.words
    path.write_text('{"kind": "step", "rows": []}')
    assert main([str(path), "--output", str(tmp_path / "page.html")]) == 2
    assert "found neither" in capsys.readouterr().err


def test_every_kept_run_has_a_page():
    root = Path(__file__).resolve().parents[3]
    files = [
        path
        for path in sorted((root / "results").glob("*.json"))
        if "metrics" in json.loads(path.read_text())
    ]
    assert files
    from dhp_sr.reports.saved_results import read_run_or_kept

    assert all("Results" in page([read_run_or_kept(path)]) for path in files)


def test_the_page_needs_no_torch():
    code = "import sys, dhp_sr.reports.page; sys.exit('torch' in sys.modules)"
    root = Path(__file__).resolve().parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_scripts_set_text_and_never_markup():
    assets = Path(__file__).resolve().parents[3] / "dhp_sr" / "reports" / "page" / "assets"
    scripts = sorted(assets.glob("*.js"))
    assert len(scripts) == 6
    for path in scripts:
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|fetch\(", path.read_text()
        )


def test_an_installed_package_has_the_files_of_the_page():
    root = Path(__file__).resolve().parents[3]
    config = configparser.ConfigParser()
    config.read(root / "setup.cfg")
    patterns = [pattern.strip() for pattern in config["options.package_data"]["*"].split(",")]
    package = root / "dhp_sr" / "reports" / "page"
    packed = {path for pattern in patterns for path in package.glob(pattern)}
    assert {
        path for path in package.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")
    } <= packed
