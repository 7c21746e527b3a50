"""The page shows what the files hold, whatever they hold or lack."""

import base64
import configparser
import hashlib
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dhp_sr.report import main
from dhp_sr.reports.page import heat_map, image_comparison, page_html, write_page
from dhp_sr.reports.page.layers import layers_of, models_of
from dhp_sr.reports.run import read_run, read_run_or_saved
from dhp_sr.utils.errors import UserError

from .conftest import LATENTS, NAME, add_images

ROOT = Path(__file__).resolve().parents[3]
FILES = (
    "metrics.json",
    "widths.json",
    "curves.csv",
    "validation.csv",
    "options.yml",
    "environment.json",
    "plan.json",
    "latents.csv",
    "images/index.json",
    "images/0/dense.png",
    "images/1",
)


class Reader(HTMLParser):
    """Collects tags with their attributes, the visible texts, and the texts of the scripts."""

    def __init__(self):
        super().__init__()
        self.tags, self.scripts, self.texts, self.inside = [], [], [], None

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts.append(data)
        elif self.inside != "style":
            self.texts.append(data)

    def text(self):
        return " ".join(" ".join(self.texts).split())


def parsed(html):
    reader = Reader()
    reader.feed(html)
    return reader


def page_of(*folders):
    return parsed(page_html([read_run(folder) for folder in folders]))


def data_of(reader):
    return json.loads(reader.scripts[0], parse_constant=pytest.fail)


def rewrite(path, **changes):
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **changes}))


def test_the_table_has_the_numbers_of_the_json(whole, metrics):
    reader = page_of(whole)
    values = []
    for tag, attrs in reader.tags:
        if tag == "td" and "data-value" in attrs:
            values.append(float(attrs["data-value"]))
    expected = []
    for row in metrics["rows"]:
        expected.append(row["iterations"])
        for name in ("Set5", "Set14"):
            scores = row["sets"].get(name, {})
            expected += [scores.get("psnr_y_db"), scores.get("ssim_y")]
        expected += [row["macs"], row["params"], row["latency_ms"]]
    assert values == [value for value in expected if value is not None]


def test_the_scatter_chart_has_the_numbers_of_the_json(whole, metrics):
    chart = data_of(page_of(whole))["scatter"]
    points = {it["label"]: it for it in chart["points"] if it["kind"] != "published"}
    assert set(points) == {"dense", "pruned"}
    assert [it["label"] for it in chart["inputs"]] == ["bicubic"]
    for row in metrics["rows"][1:]:
        for key in ("macs", "params", "latency_ms", "iterations", "sets"):
            assert points[row["model"]][key] == row[key]
    score_keys = [score["key"] for score in chart["scores"]]
    assert score_keys == ["psnr_y_db", "ssim_y", "psnr_rgb_db", "ssim_rgb"]


def test_published_points_are_of_the_same_task_and_scale(whole):
    reader = page_of(whole)
    points = data_of(reader)["scatter"]["points"]
    (edsr,) = [point for point in points if point["label"] == "EDSR 8 x 128, DHP-40"]
    assert (edsr["macs"], edsr["params"], edsr["latency_ms"]) == (37_770_000_000, 1_530_000, None)
    assert edsr["sets"]["Set5"] == {"psnr_y_db": 32.01}
    assert "ECCV 2020" in edsr["detail"] and edsr["detail"] in reader.text()
    rewrite(whole / "metrics.json", scale=2)
    points = data_of(page_of(whole))["scatter"]["points"]
    assert {point["kind"] for point in points} == {"dense", "pruned"}


def test_published_scores_are_on_sets_of_the_same_noise(whole, metrics):
    """Of two test sets of different noise, the published points are on that of theirs alone."""
    sets = {name: metrics["rows"][1]["sets"]["Set5"] for name in ("Mine", "BSD68")}
    rows = [{**row, "sets": sets} for row in metrics["rows"]]
    rewrite(whole / "metrics.json", task="denoise", scale=1, rows=rows)
    for levels, count in (((70, 25), 0), ((25, 70), 16)):
        sections = (
            f"val_1: {{name: Mine, sigma: {levels[0]}}}, val_2: {{name: BSD68, sigma: {levels[1]}}}"
        )
        (whole / "options.yml").write_text(f"scale: 1\ndatasets: {{{sections}}}\n")
        points = data_of(page_of(whole))["scatter"]["points"]
        published = [point["sets"] for point in points if point["kind"] == "published"]
        assert len(published) == count and all(list(of) == ["BSD68"] for of in published)


@pytest.mark.parametrize(("sigma", "count"), [(70, 16), (25, 0)])
def test_published_denoisers_are_of_the_same_noise(whole, metrics, sigma, count):
    rows = [{**row, "sets": {"BSD68": row["sets"]["Set5"]}} for row in metrics["rows"]]
    rewrite(whole / "metrics.json", task="denoise", scale=1, rows=rows)
    options = f"scale: 1\ndatasets: {{val: {{name: BSD68, sigma: {sigma}}}}}\n"
    (whole / "options.yml").write_text(options)
    chart = data_of(page_of(whole))["scatter"]
    assert sum(point["kind"] == "published" for point in chart["points"]) == count
    assert [score["key"] for score in chart["scores"]] == ["psnr_rgb_db", "ssim_rgb"]


def test_baselines_beside_a_run_are_shown(whole, metrics):
    network = "{type: HyperEDSR, num_feat: 64}"
    others = {
        "uniform": (network, "compress: {method: uniform}"),
        "dense": (network, "compress: null"),
        # No baselines: a search, another network, an archived run, a damaged folder.
        "other_search": (network, "compress: {method: dhp}"),
        "other_network": ("{type: HyperEDSR, num_feat: 8}", "compress: {method: uniform}"),
        "edsr_x4_archived_1": (network, "compress: {method: uniform}"),
        "damaged": ("[", ""),
    }
    for name, (network, compress) in others.items():
        other = whole.parent / name
        other.mkdir()
        (other / "metrics.json").write_text(json.dumps({**metrics, "name": name}))
        (other / "options.yml").write_text(f"scale: 4\nnetwork_g: {network}\n{compress}\n")
    points = data_of(page_of(whole))["scatter"]["points"]
    baselines = {point["label"] for point in points if point["kind"] == "baseline"}
    assert baselines == {"uniform: pruned", "dense: dense", "dense: pruned"}


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        ([1], ""),
        ([{"macs": 5}], ""),
        ([{"macs": 5, "model": "pruned", "sets": 3}], ""),
        ({}, ""),
        (None, "datasets: {val: {sigma: [1, 2]}}"),
        (None, "datasets: {val: {sigma: \xe4}}"),
    ],
)
def test_damaged_runs_beside_a_run_are_left_out(whole, metrics, rows, options):
    other = whole.parent / "other"
    other.mkdir()
    content = {**metrics, "rows": metrics["rows"] if rows is None else rows}
    (other / "metrics.json").write_text(json.dumps(content))
    network = "scale: 4\nnetwork_g: {type: HyperEDSR, num_feat: 64}\ncompress: {method: uniform}\n"
    (other / "options.yml").write_bytes((network + options).encode("latin-1"))
    points = data_of(page_of(whole))["scatter"]["points"]
    assert {point["kind"] for point in points} == {"dense", "pruned", "published"}


def test_widths_and_groups(whole):
    text = page_of(whole).text()
    for fact in ("3 → 64", "3 → 48", "75%", "74.3%", "75.7%", "of the MACs", "of the parameters"):
        assert fact in text
    assert "input of the network; coupled to conv_last" in text
    assert "conv_first, b.1, b.2, b.3" in text and "1 more" in text


def test_savings_are_shown_for_the_costs_of_the_plan(whole):
    plan = json.loads((whole / "plan.json").read_text())
    plan["groups"][1]["cost_shares"] = {"macs": 0.5, "activations": 0.123}
    (whole / "plan.json").write_text(json.dumps(plan))
    text = page_of(whole).text()
    assert "of the activations" in text and "12.3%" in text and "of the parameters" not in text


def test_curves_have_the_values_of_the_files(whole):
    curves = data_of(page_of(whole))["curves"]
    lines = {}
    for chart in curves["charts"]:
        lines[chart["title"]] = {line["label"]: line["points"] for line in chart["lines"]}
    assert lines["training loss"] == {"loss": [[10, 0.5], [20, 0.3], [30, 0.2], [40, 0.01]]}
    assert lines["kept, masks applied"]["MACs"] == [[20, 1.0], [30, 0.7], [40, 0.4]]
    psnr = {"Set5": [[20, 30.1], [40, 30.0]], "Set14": [[40, 27.0]]}
    assert lines["validation PSNR-Y, dB"] == psnr
    assert curves["phases"][1] == {"name": "search", "start": 20, "end": 30}


@pytest.mark.parametrize(
    ("dataset", "key", "title"),
    [
        ("NoiseDataset", "psnr_rgb_db", "PSNR, dB"),
        ("ImageDataset", "psnr_rgb_db", "PSNR, dB"),
        ("ClassificationDataset", "top1_error_percent", "top-1 error, %"),
    ],
)
def test_curves_of_an_unfinished_run_are_those_of_its_task(whole, dataset, key, title):
    (whole / "metrics.json").unlink()
    (whole / "options.yml").write_text(f"scale: 1\ndatasets: {{train: {{type: {dataset}}}}}\n")
    rows = f"iteration,phase,set,{key}\n20,dense,A,12.5\n40,finetune,A,9.5\n"
    (whole / "validation.csv").write_text(rows)
    charts = data_of(page_of(whole))["curves"]["charts"]
    lines = {chart["title"]: chart["lines"] for chart in charts}
    assert lines[f"validation {title}"][0]["points"] == [[20, 12.5], [40, 9.5]]


def test_long_curves_are_thinned_and_keep_their_end(whole):
    rows = "".join(f"{number},dense,{1 / number},1e-4,,\n" for number in range(1, 5001))
    (whole / "curves.csv").write_text("iteration,phase,loss,lr,macs_ratio,params_ratio\n" + rows)
    points = data_of(page_of(whole))["curves"]["charts"][0]["lines"][0]["points"]
    assert len(points) <= 400 and points[-1] == [5000, 1 / 5000]


def test_numbers_that_json_cannot_hold(whole):
    text = (whole / "metrics.json").read_text().replace("36140800000", "1e999")
    (whole / "metrics.json").write_text(text)
    (whole / "curves.csv").write_text("iteration,phase,loss\n1,dense,nan\n2,dense,0.5\n")
    data = data_of(page_of(whole))
    assert data["scatter"]["points"][1]["macs"] is None
    assert data["curves"]["charts"][0]["lines"][0]["points"] == [[2, 0.5]]


def test_a_run_without_test_sets(whole, metrics):
    rewrite(whole / "metrics.json", rows=[{**row, "sets": {}} for row in metrics["rows"][1:]])
    reader = page_of(whole)
    assert data_of(reader)["scatter"] is None and "36.141" in reader.texts


def test_names_are_text_and_nothing_is_fetched(whole):
    reader = page_of(whole)
    assert NAME in reader.text() and "train.py <b>" in reader.text()
    assert "</script" not in reader.scripts[0] and len(reader.scripts) == 2
    addresses = []
    for _, attrs in reader.tags:
        assert "onerror" not in attrs
        addresses += [attrs[name] for name in ("src", "href") if attrs.get(name)]
    assert len(addresses) > 10
    assert all(address.startswith(("data:", "#")) for address in addresses)
    (policy,) = [attrs["content"] for _, attrs in reader.tags if attrs.get("http-equiv")]
    digest = base64.b64encode(hashlib.sha256(reader.scripts[1].encode()).digest()).decode()
    directives = set(policy.split("; "))
    assert {"default-src 'none'", f"script-src 'sha256-{digest}'"} <= directives


@pytest.mark.parametrize("missing", FILES)
def test_a_page_without_one_file(whole, missing):
    path = whole / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    ids = {attrs.get("id") for _, attrs in page_of(whole).tags}
    sections = {"metrics.json": "results", "widths.json": "widths", "images/index.json": "images"}
    for name, section in sections.items():
        assert (section in ids) == (name != missing)
    assert "main" in ids


def test_an_interrupted_run_says_how_far_it_came(whole):
    (whole / "metrics.json").unlink()
    text = page_of(whole).text()
    assert "Not finished" in text and "iteration 40 of 40, phase finetune" in text
    for name in ("widths.json", "validation.csv", "latents.csv", "curves.csv"):
        (whole / name).unlink()
    text = page_of(whole).text()
    assert "no iteration is recorded" in text and "input of the network" in text


def test_several_targets(whole, widths, metrics):
    (whole / "widths.json").rename(whole / "widths_macs0.6.json")
    (whole / "widths_macs0.4.json").write_text(json.dumps(widths))
    names = {"pruned_macs0.4", "pruned_macs0.6"}
    pruned = [{**metrics["rows"][2], "model": name} for name in sorted(names)]
    rewrite(whole / "metrics.json", rows=[*metrics["rows"][:2], *pruned], achieved=[{}, {}])
    reader = page_of(whole)
    assert names <= set(reader.texts)
    assert sum(attrs.get("class", "").startswith("fill") for _, attrs in reader.tags) == 4


def test_a_color_of_widths_is_that_of_a_model(widths):
    """Of three models, the second has another layer of a name, and lacks one."""
    first, last = widths["layers"]
    other = {**widths, "layers": [{**first, "before": [32, 3], "after": [16, 3]}]}
    layers = layers_of({"a": widths, "b": other, "c": widths})
    assert [[(of.model, of.number) for of in layer.pruned] for layer in layers] == [
        [("a", 0), ("c", 2)],
        [("a", 0), ("c", 2)],
        [("b", 1)],
    ]
    assert [layer.name for layer in layers] == [first["name"], last["name"], first["name"]]
    assert layers[2].percent == 100 * 32 / 64 and layers[2].pruned[0].weights == "50%"
    assert models_of(layers) == {0: "a", 1: "b", 2: "c"}
    assert models_of(layers_of({"a": widths, "c": widths})) == {0: "a", 1: "c"}
    both = {**widths, "layers": [{**first, "before": [32, 3]}, last]}
    assert models_of(layers_of({"a": widths, "b": both})) == {0: "a", 1: "b"}


def test_latents_that_are_left_out_are_counted(whole, monkeypatch):
    monkeypatch.setattr(heat_map, "MAX_GROUPS", 1)
    assert "left out" not in page_of(whole).text()
    rows = LATENTS + "".join(f"{step},b,{step} 1\n" for step in (21, 25, 30))
    (whole / "latents.csv").write_text(rows)
    assert "1 more group was left out" in page_of(whole).text()


def test_latents_are_drawn_a_row_per_channel(whole):
    (source,) = [
        attrs["src"] for _, attrs in page_of(whole).tags if "of 4 channels" in attrs.get("alt", "")
    ]
    file = io.BytesIO(base64.b64decode(source.split(",")[1]))
    pixels = np.array(Image.open(file))
    assert pixels.shape == (4, 3, 4)
    opacity = pixels[:, :, 3]
    # The channel that is kept longest comes first.
    assert (opacity > 0).sum(axis=1).tolist() == [3, 2, 1, 1]
    assert opacity[0].tolist() == [255, 234, 212] and opacity[3, 0] == round(40 + 215 * 0.25)


def test_a_comparison_of_runs(whole, metrics):
    other = shutil.copytree(whole, whole.parent / "other")
    rows = json.loads(json.dumps(metrics["rows"]))
    rows[2]["latency_ms"] = 99.5
    rewrite(other / "metrics.json", name="other", rows=rows)
    shutil.rmtree(other / "images")
    add_images(other, seed=7)
    reader = page_of(whole, other)
    assert "Comparison of 2 runs" in reader.texts
    # Two rows of headings; bicubic is in both runs, and shown once.
    table = [tag for tag, attrs in reader.tags if tag == "tr" or attrs.get("id") == "widths"]
    assert table[: table.index("section")] == ["tr"] * 7
    labels = [attrs["data-label"] for _, attrs in reader.tags if "data-label" in attrs]
    models = [f"{name}: {model}" for name in (NAME, "other") for model in ("dense", "pruned")]
    assert labels[:7] == ["input", "bicubic", *models, "ground truth"]
    charts = {chart["title"]: chart for chart in data_of(reader)["curves"]["charts"]}
    assert [line["label"] for line in charts["training loss"]["lines"]] == [NAME, "other"]
    assert "validation PSNR-Y, dB, Set14" in charts


def test_runs_of_one_name_are_told_apart(whole, widths):
    """An archived run and a copy keep the name in their options."""
    archived = shutil.copytree(whole, whole.parent / "edsr_x4_archived_1")
    shutil.rmtree(archived / "images")
    add_images(archived, seed=7)
    group, layers = widths["groups"][1], widths["layers"]
    after = [{**layers[0], "after": [24, 3]}, layers[1]]
    content = {"groups": [{**group, "after": 24}], "layers": after}
    (archived / "widths.json").write_text(json.dumps(content))
    copied = shutil.copytree(whole, whole.parent / "copies" / "edsr_x4")
    reader = page_of(whole, archived, copied, copied)
    text = reader.text()
    assert "3 → 48" in text and "3 → 24" in text
    labels = {attrs["data-label"] for _, attrs in reader.tags if "data-label" in attrs}
    assert "edsr_x4_archived_1: pruned" in labels
    names = [f"{whole}", "edsr_x4_archived_1", f"{copied} (3)", f"{copied} (4)"]
    charts = {chart["title"]: chart for chart in data_of(reader)["curves"]["charts"]}
    assert [line["label"] for line in charts["training loss"]["lines"]] == names
    assert reader.texts.count(names[2]) > 1


def test_a_slower_network_is_not_called_faster(whole, metrics):
    assert re.search(r"2\.31. faster", page_of(whole).text())
    metrics["rows"][2]["latency_ms"] = 1024.68
    rewrite(whole / "metrics.json", rows=metrics["rows"])
    text = page_of(whole).text()
    assert re.search(r"2\.00. slower", text) and "faster" not in text


def test_pages_stay_small(whole, monkeypatch):
    limit = 50_000
    monkeypatch.setattr(image_comparison, "MAX_BYTES", limit)
    add_images(whole, count=12)
    run = read_run(whole)
    images, num_left_out = image_comparison.compared_images([run])
    size = sum(len(version.data_uri) for image in images for version in image.versions)
    assert images and num_left_out and len(images) + num_left_out == 12
    # Base64 takes a third more; the prefix of each address comes on top.
    assert size < limit * 4 / 3 + 1000
    assert f"{num_left_out} more images" in page_html([run])


@pytest.mark.parametrize(
    ("name", "text", "facts"),
    [
        ("images/index.json", "[]", ["index.json", "list"]),
        ("images/index.json", '{"pictures": 3}', ["index.json"]),
        (
            "images/index.json",
            '{"pictures": [{"versions": [{"file": "../metrics.json"}]}]}',
            ["index.json", "../metrics.json"],
        ),
        ("images/0/dense.png", "GIF89a", ["dense.png", "PNG"]),
        ("images/0/dense.png", "x" * (5 * 2**20), ["dense.png", "4,194,304", "5,242,880"]),
        ("metrics.json", '{"rows": 3}', ["edsr_x4"]),
        ("widths.json", '{"layers": [{}], "groups": []}', ["edsr_x4", "name"]),
    ],
)
def test_damaged_files_end_with_a_message(whole, tmp_path, name, text, facts):
    (whole / name).write_text(text)
    with pytest.raises(UserError) as error:
        write_page(tmp_path / "page.html", [whole])
    assert all(fact in str(error.value) for fact in facts)
    assert not (tmp_path / "page.html").exists()


def test_the_command_line(whole, tmp_path, capsys):
    assert main([str(whole)]) == 0
    assert capsys.readouterr().out.strip() == str(whole / "report.html")
    first = (whole / "report.html").read_bytes()
    assert main([str(whole)]) == 0 and (whole / "report.html").read_bytes() == first
    assert main([str(whole), str(whole)]) == 2 and "--output" in capsys.readouterr().err
    assert main([str(tmp_path / "none")]) == 2 and "none" in capsys.readouterr().err


def test_saved_results_are_runs_too(tmp_path, metrics, capsys):
    path, output = tmp_path / "saved.json", ["--output", str(tmp_path / "page.html")]
    saved = {"hardware": "two cores", "metrics": metrics, "environment": {"torch": "2.13"}}
    path.write_text(json.dumps(saved))
    assert main([str(path), *output]) == 0
    reader = parsed((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "two cores" in reader.texts and "31.85" in reader.texts
    path.write_text('{"kind": "step", "rows": []}')
    assert main([str(path), *output]) == 2 and "saved.json" in capsys.readouterr().err


def test_all_saved_results_have_a_page():
    files = sorted((ROOT / "results").glob("*.json"))
    runs = [path for path in files if "metrics" in json.loads(path.read_text())]
    assert runs
    for path in runs:
        assert "Results" in page_html([read_run_or_saved(path)])


def test_scripts_set_text_and_never_markup():
    scripts = sorted((ROOT / "dhp_sr" / "reports" / "page" / "assets").glob("*.js"))
    assert len(scripts) == 6
    markup = re.compile(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|fetch\(")
    for path in scripts:
        assert not markup.search(path.read_text())


def test_the_installed_package_has_the_files_of_the_page():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    patterns = [pattern.strip() for pattern in config["options.package_data"]["*"].split(",")]
    package = ROOT / "dhp_sr" / "reports" / "page"
    packed = {path for pattern in patterns for path in package.glob(pattern)}
    assets = {path for path in (package / "assets").iterdir() if path.is_file()}
    assert assets and assets <= packed
