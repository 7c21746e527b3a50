"""Several targets: several models from one search; and targets of latency."""

import csv
import json
import re

import pytest
import torch
from runs import Killed, final_state, kill_before, run
from safetensors.torch import load_file

from dhp_sr.allocation.budget import BudgetError
from dhp_sr.cli.evaluate import evaluate_run
from dhp_sr.deploy import load_model, read_manifest
from dhp_sr.training.compression import Compression
from dhp_sr.training.distributed import DistributedContext
from dhp_sr.training.schedule import Schedule
from dhp_sr.utils.errors import UserError

TARGETS = [{"macs": 0.3}, {"macs": 0.6}]
NAMES = ("pruned_macs0.6", "pruned_macs0.3")
CPU = DistributedContext(torch.device("cpu"))


def several(make_options, **changes):
    """4 dense, 4 search, then 4 for each of two networks."""
    compress = {"target": TARGETS, "tolerance": 0.1, **changes.pop("compress", {})}
    return make_options(
        compress=compress,
        network={"type": "EDSR", "num_feat": 12, "num_block": 2, "upscale": 2},
        **changes,
    )


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "experiments" / "tiny"


def test_each_target_gets_its_model(make_options, tmp_path, folder):
    metrics = run(several(make_options), tmp_path)
    assert [row["model"] for row in metrics["rows"]] == ["bicubic", "dense", *NAMES]
    assert metrics["target"] == [{"macs": 0.6}, {"macs": 0.3}]
    dense, *pruned = metrics["rows"][1:]
    for row, wanted, achieved in zip(pruned, (0.6, 0.3), metrics["achieved"], strict=True):
        assert abs(row["macs"] / dense["macs"] - wanted) <= 0.1 and row["iterations"] == 12
        assert achieved["macs_ratio"] == pytest.approx(row["macs"] / dense["macs"], abs=1e-6)
        network = load_model(folder / "models" / f"{row['model']}.safetensors")
        assert sum(p.numel() for p in network.parameters()) == row["params"]
        manifest = read_manifest(folder / "models" / f"{row['model']}.safetensors")
        assert manifest["achieved"] == achieved and manifest["scores"] == row["sets"]
        label = row["model"].removeprefix("pruned_")
        widths = json.loads((folder / f"widths_{label}.json").read_text())
        assert sum(group["after"] for group in widths["groups"]) < sum(
            group["before"] for group in widths["groups"]
        )
        assert "Channel groups" in (folder / f"widths_{label}.txt").read_text()
    files = {"dense", *NAMES, "best_macs0.6", "best_macs0.3"}
    assert {path.stem for path in (folder / "models").iterdir()} == files == set(metrics["files"])
    assert metrics["best"].keys() == {"best_macs0.6", "best_macs0.3"}
    curves = list(csv.DictReader((folder / "curves.csv").read_text().splitlines()))
    assert [int(row["iteration"]) for row in curves] == list(range(2, 17, 2))
    assert float(curves[4]["macs_ratio"]) > 0.5 > 0.4 > float(curves[7]["macs_ratio"])
    assert curves[4]["lr"] == curves[6]["lr"] != curves[5]["lr"]
    assert "finetune 4 for each of 2 targets" in (folder / "train.log").read_text()
    again = evaluate_run(folder / "options.yml", root=tmp_path)
    assert [row["sets"] for row in again["rows"][1:]] == [row["sets"] for row in pruned]


def test_the_smallest_target_is_what_a_single_run_searches(make_options, tmp_path):
    """The search knows the smallest target alone: its mask is that of a run with this one target."""
    both = Compression(several(make_options), CPU, tmp_path / "dense.safetensors")
    alone = Compression(
        several(make_options, compress={"target": {"macs": 0.3}}),
        CPU,
        tmp_path / "dense.safetensors",
    )
    alone.network.load_state_dict(both.network.state_dict())
    for one in (both, alone):
        torch.manual_seed(0)
        for iteration in range(8):
            one.advance(iteration)
            one.step({"lq": torch.rand(2, 3, 8, 8), "gt": torch.rand(2, 3, 16, 16)}, iteration)
        one.advance(8)
    (larger, smaller), (single,) = both.legs, alone.legs
    assert all(torch.equal(mask, single.masks[name]) for name, mask in smaller.masks.items())
    assert larger.report["macs_ratio"] > smaller.report["macs_ratio"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"distill": {"weight": 0.5}},
        {"method": "magnitude"},
        {"method": "hsn", "prune_residual": True},
        {"method": "random"},
    ],
)
def test_killed_in_every_leg(make_options, tmp_path, monkeypatch, changes):
    options = several(make_options, name="whole", compress=changes)
    whole = run(options, tmp_path)
    again = options.model_copy(update={"name": "killed"})
    # Resumed from: the search, the first cut, inside the first leg, its end, inside the second one.
    for iteration in (7, 9, 11, 12, 13, 14, 16):
        with monkeypatch.context() as patch:
            kill_before(patch, iteration)
            with pytest.raises(Killed):
                run(again, tmp_path, auto_resume=True)
    resumed = run(again, tmp_path, auto_resume=True)
    left, right = (tmp_path / "experiments" / name for name in ("whole", "killed"))
    for name in ("curves.csv", "validation.csv", "widths_macs0.6.json", "widths_macs0.3.txt"):
        assert (left / name).read_text() == (right / name).read_text(), name
    for path in (left / "models").iterdir():
        mine, other = load_file(path), load_file(right / "models" / path.name)
        assert mine.keys() == other.keys() and all(
            torch.equal(mine[key], other[key]) for key in mine
        ), path.name
    (mine, plain), (other, other_plain) = (final_state(one, 16) for one in (left, right))
    assert plain == other_plain
    assert all(torch.equal(mine[key], other[key]) for key in mine)
    assert [row["sets"] for row in whole["rows"]] == [row["sets"] for row in resumed["rows"]]


def test_a_finished_leg_is_on_disk_while_the_next_one_trains(
    make_options, tmp_path, monkeypatch, folder
):
    kill_before(monkeypatch, 14)
    with pytest.raises(Killed):
        run(several(make_options), tmp_path)
    assert load_model(folder / "models" / "pruned_macs0.6.safetensors")
    assert not (folder / "models" / "pruned_macs0.3.safetensors").exists()


def test_every_target_is_tried_before_the_training(make_options, tmp_path, folder):
    with pytest.raises(BudgetError, match=r"a kept fraction of 0\.01 of macs cannot be met"):
        run(
            several(
                make_options,
                compress={"target": [{"macs": 0.5}, {"macs": 0.01}], "tolerance": 0.001},
            ),
            tmp_path,
        )
    assert not folder.exists()


def test_other_targets_are_other_options(make_options, tmp_path):
    run(several(make_options), tmp_path)
    with pytest.raises(UserError, match=r"compress\.target"):
        run(several(make_options, compress={"target": {"macs": 0.3}}), tmp_path, auto_resume=True)


def test_rates_of_every_leg_are_those_of_a_single_run(make_options):
    for extra in ({}, {"scheduler": {"type": "cosine"}}):
        train = {"warmup_iter": 2}
        one = Schedule.from_options(make_options(compress={"method": "dhp", **extra}, train=train))
        three = [{"macs": ratio} for ratio in (0.6, 0.4, 0.2)]
        many = Schedule.from_options(make_options(compress={"target": three, **extra}, train=train))
        assert (one.end, one.stages, many.end, many.stages) == (12, (12,), 20, (12, 16, 20))
        single = [one.learning_rate(iteration) for iteration in range(12)]
        assert [many.learning_rate(iteration) for iteration in range(20)] == [
            *single,
            *single[8:],
            *single[8:],
        ]
        assert [many.leg(iteration) for iteration in range(7, 21)] == [
            0,
            0,
            0,
            0,
            0,
            1,
            1,
            1,
            1,
            2,
            2,
            2,
            2,
            2,
        ]
        assert many.phase(20) == "finetune"


def test_a_run_for_a_latency(make_options, tmp_path, folder):
    """Real times of a tiny network jump about, so nearly any is taken; what is checked is that all is written."""
    compress = {
        "target": {"latency": 0.7},
        "tolerance": 0.95,
        "latency_size": [16, 16],
        "method": "magnitude",
    }
    network = {"type": "EDSR", "num_feat": 16, "num_block": 2, "upscale": 2}
    options = make_options(compress=compress, network=network)
    metrics = run(options, tmp_path)
    assert metrics["target"] == {"latency": 0.7}
    assert abs(metrics["achieved"]["measured_latency_ratio"] - 0.7) <= 0.95 * 0.7
    assert metrics["achieved"]["latency_ratio"] > 0
    log = (folder / "train.log").read_text()
    assert re.search(
        r" search  loss .* macs \d+\.\d%  params \d+\.\d%  latency \(predicted\) \d+\.\d%  ", log
    )
    assert re.search(
        r"cut to [\d.]+% of the MACs, [\d.]+% of the parameters, [\d.]+% of the measured latency",
        log,
    )
    table = (folder / "latency_table.json").read_text()
    assert json.loads(table)["conditions"]["threads"] == 1
    run(options, tmp_path, auto_resume=True)
    assert (folder / "latency_table.json").read_text() == table
