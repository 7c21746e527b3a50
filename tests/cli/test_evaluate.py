"""Everything about finished models: scores of images, costs at several sizes, time, memory, and
ONNX beside PyTorch.
"""

import numpy as np
import pytest
import torch
from exported import SMALL
from PIL import Image

from dhp_sr.archs import build
from dhp_sr.cli.evaluate import evaluate_files
from dhp_sr.cli.measuring import Measuring, measure, peak_memory
from dhp_sr.cli.models import open_models
from dhp_sr.deploy import load_model, save_model
from dhp_sr.deploy.runtimes import open_runner
from dhp_sr.metrics import complexity
from dhp_sr.reports.tables import cost_table
from dhp_sr.tasks.test_sets import SCORES
from dhp_sr.utils.errors import UserError
from dhp_sr.zoo.networks import image_shape


@pytest.fixture
def image_folder(tmp_path):
    folder = tmp_path / "Set2" / "HR"
    folder.mkdir(parents=True)
    for index, side in enumerate((50, 60)):
        pixels = np.random.default_rng(index).integers(0, 256, (side, 61, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return str(folder)


@pytest.fixture
def make(tmp_path):
    """A model file with weights that change the image."""

    def make(name, **changes):
        network = build(name, **{**SMALL[name], **changes})
        save_model(network, tmp_path / f"{name}.safetensors")
        return tmp_path / f"{name}.safetensors"

    return make


# By default a network of each task; the others take the same way.
ROWS = [
    pytest.param(name, marks=() if name in ("EDSR", "DnCNN") else pytest.mark.slow)
    for name in SMALL
]


@pytest.mark.parametrize("name", ROWS)
def test_onnxruntime_scores_as_pytorch_does(exports, image_folder, name, tmp_path):
    network, path = exports[name]
    save_model(network, tmp_path / "same.safetensors")
    sigma = 25.0 if network.scale == 1 else None
    found = evaluate_files([tmp_path / "same.safetensors", path], [image_folder], sigma=sigma)
    eager, onnx = found["rows"][1:]
    assert (eager["runtime"], onnx["runtime"]) == ("torch", "onnxruntime")
    for key in SCORES:
        assert onnx["sets"]["Set2"][key] == pytest.approx(eager["sets"]["Set2"][key], abs=0.001)
    assert eager["sets"]["Set2"]["psnr_y_db"] != found["rows"][0]["sets"]["Set2"]["psnr_y_db"]
    for size, cost in eager["costs"].items():
        assert {**onnx["costs"][size], "params": None} == {**cost, "params": None}


def test_means_are_those_of_the_images(make, image_folder):
    found = evaluate_files(make("EDSR"), [image_folder])
    for row in found["rows"]:
        each = row["images"]["Set2"]
        assert [one["image"] for one in each] == ["0", "1"] and row["sets"]["Set2"]["images"] == 2
        for key in SCORES:
            assert row["sets"]["Set2"][key] == pytest.approx(
                np.mean([one[key] for one in each]), abs=1e-9
            )


def test_costs_are_stated_for_three_inputs(make, image_folder):
    path = make("EDSR")
    costs = evaluate_files(path, [image_folder])["rows"][1]["costs"]
    shapes = [
        [1, 3, 128, 128],
        [1, 3, 256, 256],
        [1, 3, 240, 427],
    ]  # 427 x 3 is the first multiple that holds 1280
    assert [cost["input"] for cost in costs.values()] == shapes
    assert list(costs) == ["128x128", "256x256", "1280x720 output"]
    for cost in costs.values():
        expected = complexity(load_model(path), cost["input"])
        assert {name: cost[name] for name in vars(expected)} == {**vars(expected), "uncounted": []}


def test_sides_are_multiples_that_the_network_takes():
    network = build("DnCNN", num_feat=4)
    network.size_multiple = 32
    assert image_shape(network, 720, 1280) == [1, 1, 736, 1280]


def test_time_and_memory(make, image_folder):
    measuring = Measuring(size=(42, 22), repeats=3, threads=1)
    _, row = evaluate_files(
        make("UNet"), [image_folder], sigma=25.0, device="cpu", measuring=measuring
    )["rows"]
    time = row["latency"]["cpu"]
    assert (
        0 < time["low_ms"] <= time["median_ms"] <= time["high_ms"]
        and row["latency_ms"] == time["median_ms"]
    )
    assert time["input"] == row["memory"]["input"] == [1, 1, 42, 22] and time["threads"] == 1
    assert (
        row["memory"]["process_mib"] > row["memory"]["pass_mib"] >= 0
        and row["memory"]["cuda_peak_mib"] is None
    )


def test_the_precision_that_is_named_is_scored_and_timed(make, image_folder):
    path = make("EDSR")
    rows = {}
    for precision in (None, "fp32", "bf16"):
        measuring = Measuring(repeats=2 if precision == "bf16" else 0, precision=precision)
        found = evaluate_files(path, [image_folder], device="cpu", measuring=measuring)
        rows[precision] = found["rows"][1]
    scores = {precision: row["sets"]["Set2"]["psnr_y_db"] for precision, row in rows.items()}
    assert scores[None] == scores["fp32"] != scores["bf16"]
    assert scores["bf16"] == pytest.approx(scores["fp32"], abs=1.0)
    row = rows["bf16"]
    assert row["costs"] == rows[None]["costs"] and row["latency"]["cpu"]["median_ms"] > 0
    assert "torch, bf16" in cost_table([row]) and "bf16" not in cost_table([rows[None]])
    with pytest.raises(UserError, match="fp16"):
        evaluate_files(path, [image_folder], device="cpu", measuring=Measuring(precision="fp16"))


def test_runtimes_compute_where_they_are_told_to(make, image_folder, monkeypatch):
    """A runner's images lie on the CPU, and its time is that of the device it computes on."""
    path = make("EDSR")
    opened = []

    def open_on(path, name, *, device, precision, threads):
        opened.append((name, device.type, precision))
        runner = open_runner(path, "torch", threads=threads)
        runner.runtime = name
        runner.device_type = device.type
        return runner

    monkeypatch.setattr("dhp_sr.cli.models.open_runner", open_on)
    monkeypatch.setattr("dhp_sr.cli.measuring.peak_memory", lambda *arguments: {})
    for runtime, device in (("tensorrt", "cuda"), ("openvino", "cpu")):
        (model,) = open_models([path], torch.device("cuda"), 1, runtime)
        assert opened.pop() == (runtime, device, None)
        assert (model.device.type, model.device_type) == ("cpu", device)
        row = {"model": model.name}
        measure([row], [model], [1, 3, 8, 8], Measuring(repeats=1, threads=1, runtime=runtime))
        assert list(row["latency"]) == [device] == [row["latency"][device]["device"]]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_both_devices_are_timed_and_the_card_counted(make, image_folder):
    _, row = evaluate_files(
        make("EDSR"), [image_folder], device="cuda", measuring=Measuring(repeats=2)
    )["rows"]
    assert (
        set(row["latency"]) == {"cpu", "cuda"}
        and row["latency_ms"] == row["latency"]["cuda"]["median_ms"]
    )
    assert row["memory"]["cuda_peak_mib"] > 0


@pytest.mark.slow
def test_the_pass_of_a_larger_input_takes_more_memory(make):
    path = make("DnCNN", num_feat=32)
    small, large = (peak_memory(path, [1, 1, side, side])["pass_mib"] for side in (64, 1024))
    maps = 32 * 1024 * 1024 * 4 / 2**20
    assert large - small > maps
