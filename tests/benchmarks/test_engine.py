"""Each command of benchmarks/engine.py in its smallest size, and the counting behind it."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.engine import main
from benchmarks.keep import merge
from benchmarks.memory import held, kept_for_backward
from benchmarks.rounds import WARM_UP, quartiles, ratios, take_turns
from benchmarks.step import _training
from benchmarks.widths import SHAPED, Lines
from dhp_sr.allocation.budget import Budget
from dhp_sr.archs import EDSR, DnCNN
from dhp_sr.cost.latency_benchmark import Stopwatch
from dhp_sr.deploy import save_model
from dhp_sr.hyper import convert
from dhp_sr.reports import latency_table, plot_speedups, step_table
from dhp_sr.search.width_prior import lines
from dhp_sr.training.distributed import Place
from dhp_sr.utils.errors import UserError
from dhp_sr.zoo.networks import example_input

ROOT = Path(__file__).resolve().parents[2]
TINY = ["network_g.num_feat=16", "network_g.num_block=1", "datasets.train.gt_size=32"]
CPU = Place(torch.device("cpu"))


def measured(path):
    return json.loads(path.read_text())["rows"]


def test_step(tmp_path, capsys):
    out = tmp_path / "engine.json"
    sizes = [*TINY, "datasets.train.batch_size_per_gpu=2"]
    given = [
        "step",
        "--networks",
        "EDSR",
        "--rounds",
        "2",
        "--num_gpu",
        "0",
        "--out",
        str(out),
        "--set",
        *sizes,
    ]
    assert main(given) == 0
    rows = measured(out)
    assert [row["parametrization"] for row in rows] == ["factored", "full"]
    for row in rows:
        assert row["input"] == [2, 3, 8, 8] and row["paper_batch"] == 16
        assert row["wall_ratio"]["low"] <= row["wall_ratio"]["median"] <= row["wall_ratio"]["high"]
        assert (
            row["measured"]["torch"] == torch.__version__
            and "step --networks EDSR" in row["measured"]["command"]
        )
    factored, full = (row["hyper"]["state_bytes"] / row["plain"]["state_bytes"] for row in rows)
    assert 1 < factored < 1.1 and full > 5
    assert "EDSR full: step x" in capsys.readouterr().out
    assert "| EDSR    | factored | 2 of 16 |" in step_table(rows)


def test_a_second_measurement_takes_the_place_of_the_first(tmp_path):
    out, key = tmp_path / "rows.json", ("network", "threads")
    merge(
        out,
        "step",
        [{"network": "A", "threads": 1, "ms": 1}, {"network": "B", "threads": 1, "ms": 2}],
        key,
    )
    merge(
        out,
        "step",
        [{"network": "A", "threads": 1, "ms": 3}, {"network": "A", "threads": 2, "ms": 4}],
        key,
    )
    assert [(row["network"], row["threads"], row["ms"]) for row in measured(out)] == [
        ("A", 1, 3),
        ("B", 1, 2),
        ("A", 2, 4),
    ]
    with pytest.raises(UserError, match="expected rows of kind 'latency', found something else"):
        merge(out, "latency", [], key)
    out.write_text("{")
    with pytest.raises(UserError, match="expected JSON"):
        merge(out, "step", [], key)


@pytest.fixture
def onnx():
    for name in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name)


def test_latency(tmp_path, onnx):
    out = tmp_path / "latency.json"
    given = ["latency", "--networks", "DnCNN", "--rounds", "1", "--side", "8", "--out", str(out)]
    assert main([*given, "--set", "network_g.num_feat=32", "network_g.num_layers=4"]) == 0
    rows = measured(out)
    assert {row["runtime"] for row in rows} == {"torch", "onnxruntime"}
    widths = [row["widths"] for row in rows if row["runtime"] == "torch"]
    assert widths[0] == "dense" and "uniform" in widths and len(set(widths)) == len(widths)
    for row in rows:
        if (
            row["widths"] != "lines of dhp, half the time"
        ):  # too small a network for its time to be met for sure
            assert (
                row["macs_ratio"] == 1
                if row["widths"] == "dense"
                else 0.49 <= row["macs_ratio"] <= 0.51
            )
    table = latency_table(rows).splitlines()
    assert len(table) == 2 + len(widths) and table[0].count("1 thread") == 2
    plot_speedups(tmp_path / "latency.png", rows)
    assert (tmp_path / "latency.png").read_bytes()[:4] == b"\x89PNG"


def test_choices_of_widths_with_an_upsampler(tmp_path, capsys):
    out = tmp_path / "latency.json"
    given = [
        "latency",
        "--networks",
        "EDSR",
        "--runtimes",
        "torch",
        "--rounds",
        "1",
        "--side",
        "8",
        "--out",
        str(out),
    ]
    assert main([*given, "--set", "network_g.num_feat=64", "network_g.num_block=8"]) == 0
    kept = {row["widths"]: row["kept"] for row in measured(out)}
    assert kept["up-sampler kept"]["upsample.0"] == kept["up-sampler kept"]["upsample.2"] == 64
    assert kept["narrow up-sampler, steps of 8"]["upsample.0"] < kept["uniform"]["upsample.0"]
    assert all(width % 16 == 0 for width in kept["uniform, steps of 16"].values())
    told = capsys.readouterr().err
    assert all(f"EDSR, {name}: not measured: " in told for name in SHAPED if name not in kept)


def test_the_widths_at_which_a_search_slows_down():
    dense = EDSR(num_feat=128, num_block=8)
    hyper = convert(dense, example_input(dense))
    for power in (0.0, 0.75):
        Lines(16, power).narrow(hyper)
        asked = lines(hyper, Budget("macs", 0.5, 0.01, 16), power)
        assert {name: float(mask.float().mean()) for name, mask in hyper.masks.items()} == asked


def test_widths_at_half_the_time(monkeypatch):
    """The stopwatch is what counts: one that lies about the cut network gets other widths."""
    dense = DnCNN(num_feat=64, num_layers=6, batch_norm=False)
    hyper = convert(dense, example_input(dense))
    monkeypatch.setattr(
        Stopwatch,
        "ratio",
        lambda self, small, whole: 0.25 + 0.5 * parameters(small) / parameters(whole),
    )
    Lines(8, kind="latency").narrow(hyper)
    assert 0.45 <= parameters(hyper.cut()) / parameters(dense) <= 0.55


def parameters(network):
    return sum(one.numel() for one in network.parameters())


def test_latency_of_a_saved_model(tmp_path):
    dense = DnCNN(num_feat=16, num_layers=4)
    hyper = convert(dense, example_input(dense))
    hyper.prune_to(macs=0.5, tolerance=0.1)
    save_model(hyper.cut(), tmp_path / "mine.safetensors")
    out, model = tmp_path / "latency.json", tmp_path / "mine.safetensors"
    assert (
        main(
            [
                "latency",
                "--model",
                str(model),
                "--runtimes",
                "torch",
                "--rounds",
                "1",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    rows = measured(out)
    assert [(row["network"], row["widths"]) for row in rows] == [
        ("DnCNN (num_feat 16, num_layers 4)", "dense"),
        ("DnCNN (num_feat 16, num_layers 4)", "mine"),
    ]
    assert rows[1]["macs_ratio"] == pytest.approx(hyper.cost().macs / hyper.dense_cost().macs)


def test_more_threads_than_cores_are_left_out_and_said(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})
    given = [
        "latency",
        "--networks",
        "DnCNN",
        "--runtimes",
        "torch",
        "--rounds",
        "1",
        "--side",
        "8",
        "--threads",
        "1",
        "2",
    ]
    assert main([*given, "--out", str(tmp_path / "x.json"), "--set", "network_g.num_feat=16"]) == 1
    assert "not measured: [2] threads, the process may use 1 core(s)" in capsys.readouterr().err


def test_mistakes_are_told(tmp_path, capsys):
    assert main(["latency", "--model", str(tmp_path / "none.safetensors")]) == 2
    assert "none.safetensors" in capsys.readouterr().err


def test_turns_rotate():
    seen = []
    calls = {name: lambda name=name: seen.append(name) for name in "abc"}
    turns = take_turns(calls, 2, torch.device("cpu"))
    assert "".join(seen) == "abcbcacababc"[: 3 * (WARM_UP + 2)]
    assert all(len(one.wall_ms) == len(one.cpu_ms) == 2 for one in turns.values())


def test_ratios_are_taken_within_each_round():
    assert ratios([2, 20, 200], [1, 10, 50]) == {"median": 2, "low": 2, "high": 3}
    assert quartiles([5]) == {"median": 5, "low": 5, "high": 5}


def test_the_memory_of_a_plain_network_is_what_arithmetic_says():
    path = ROOT / "options" / "edsr_x4_dhp.yml"
    training = _training(path, "plain", CPU, TINY)
    batch = {"lq": torch.rand(1, 3, 8, 8), "gt": torch.rand(1, 3, 32, 32)}
    training.step(batch, 0)
    parameters = list(training.network.parameters())
    weights, tensors = sum(4 * parameter.numel() for parameter in parameters), len(parameters)
    buffers = sum(4 * buffer.numel() for buffer in training.network.buffers())
    assert (
        sum(held(training).values()) == 4 * weights + 4 * tensors + buffers
    )  # gradients, two moments, Adam's counts


def test_generated_weights_count_once_beside_the_activations():
    path = ROOT / "options" / "edsr_x4_dhp.yml"
    batch = {"lq": torch.rand(1, 3, 8, 8), "gt": torch.rand(1, 3, 32, 32)}
    kept = {}
    for kind in ("plain", "factored"):
        training = _training(path, kind, CPU, TINY)
        training.step(batch, 0)
        kept[kind] = sum(kept_for_backward(training, batch, 1).values())
    weights = sum(4 * p.numel() for p in training.network.network.parameters() if p.dim() > 1)
    assert weights < kept["factored"] - kept["plain"] < 1.2 * weights
