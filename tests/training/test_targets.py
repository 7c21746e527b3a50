"""Several targets: several models from one search; and targets of latency."""

import csv
import json
import re

import pytest
import torch
from runs import Killed, assert_same_run, kill_before, run, run_with_kills
from tiny_runs import tiny_options

from dhp_sr.allocation.budget import BudgetError
from dhp_sr.cli.evaluate import evaluate_run
from dhp_sr.deploy import load_model, read_manifest
from dhp_sr.training.distributed import DistributedContext
from dhp_sr.training.trainer import Trainer
from dhp_sr.utils.errors import UserError

TARGETS = [{"macs": 0.3}, {"macs": 0.6}]
NAMES = ("pruned_macs0.6", "pruned_macs0.3")
NETWORK = {"type": "EDSR", "num_feat": 12, "num_block": 2, "upscale": 2}


def two_targets(**compress):
    """Changes for 4 dense steps, 4 of search, then 4 for each of two networks."""
    return {
        "network": NETWORK,
        "compress": {"target": TARGETS, "tolerance": 0.1, **compress},
    }


@pytest.fixture(scope="module")
def finished(image_folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("finished")
    options = tiny_options(image_folder, root, **two_targets())
    return root, root / "experiments" / "tiny", run(options, root)


def test_each_target_gets_its_model(finished):
    root, folder, metrics = finished
    assert [row["model"] for row in metrics["rows"]] == ["bicubic", "dense", *NAMES]
    assert metrics["target"] == [{"macs": 0.6}, {"macs": 0.3}]
    dense, *pruned = metrics["rows"][1:]
    for row, target, achieved in zip(pruned, (0.6, 0.3), metrics["achieved"], strict=True):
        ratio = row["macs"] / dense["macs"]
        assert abs(ratio - target) <= 0.1 and row["iterations"] == 12
        assert achieved["macs_ratio"] == pytest.approx(ratio, abs=1e-6)
        path = folder / "models" / f"{row['model']}.safetensors"
        assert sum(p.numel() for p in load_model(path).parameters()) == row["params"]
        manifest = read_manifest(path)
        assert manifest["achieved"] == achieved and manifest["scores"] == row["sets"]
        label = row["model"].removeprefix("pruned_")
        groups = json.loads((folder / f"widths_{label}.json").read_text())["groups"]
        assert sum(group["after"] for group in groups) < sum(group["before"] for group in groups)
        assert (folder / f"widths_{label}.txt").exists()
    files = {"dense", *NAMES, "best_macs0.6", "best_macs0.3"}
    assert {path.stem for path in (folder / "models").iterdir()} == files == set(metrics["files"])
    assert metrics["best"].keys() == {"best_macs0.6", "best_macs0.3"}
    again = evaluate_run(folder / "options.yml", root=root)
    assert [row["sets"] for row in again["rows"][1:]] == [row["sets"] for row in pruned]


def test_the_curves_show_one_target_after_the_other(finished):
    _, folder, _ = finished
    curves = list(csv.DictReader((folder / "curves.csv").read_text().splitlines()))
    assert [int(row["iteration"]) for row in curves] == list(range(2, 17, 2))
    assert float(curves[4]["macs_ratio"]) > 0.5 > 0.4 > float(curves[7]["macs_ratio"])
    assert curves[4]["lr"] == curves[6]["lr"] != curves[5]["lr"]


def test_other_targets_are_other_options(finished, image_folder):
    root, _, _ = finished
    options = tiny_options(image_folder, root, **two_targets(target={"macs": 0.3}))
    with pytest.raises(UserError, match=r"compress\.target"):
        run(options, root, auto_resume=True)


def test_the_smallest_target_is_what_a_single_run_searches(make_options):
    """The search knows the smallest target alone, so its mask is that of a run with just that."""
    context = DistributedContext(torch.device("cpu"))
    several = Trainer(make_options(**two_targets()), context)
    single = Trainer(make_options(**two_targets(target={"macs": 0.3})), context)
    single.network.load_state_dict(several.network.state_dict())
    for trainer in (several, single):
        torch.manual_seed(0)
        for iteration in range(8):
            trainer.advance(iteration)
            batch = {"lq": torch.rand(2, 3, 8, 8), "gt": torch.rand(2, 3, 16, 16)}
            trainer.step(batch, iteration)
        trainer.advance(8)
    larger, smaller = several.phase.pruned_models
    (alone,) = single.phase.pruned_models
    for name, mask in smaller.masks.items():
        assert torch.equal(mask, alone.masks[name]), name
    assert larger.achieved["macs_ratio"] > smaller.achieved["macs_ratio"]


@pytest.mark.parametrize(
    "compress",
    [
        {"distill": {"weight": 0.5}},
        pytest.param({"method": "hsn", "prune_residual": True}, marks=pytest.mark.slow),
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"method": "magnitude"}, marks=pytest.mark.slow),
        pytest.param({"method": "random"}, marks=pytest.mark.slow),
    ],
)
def test_killed_in_the_finetuning_of_every_target(make_options, tmp_path, monkeypatch, compress):
    options = make_options(name="whole", **two_targets(**compress))
    whole = run(options, tmp_path)
    # Resumed from: pruning, inside the first target's finetuning, its end, inside the second one's.
    again = options.model_copy(update={"name": "killed"})
    killed = run_with_kills(again, tmp_path, monkeypatch, (9, 11, 13, 15))
    experiments = tmp_path / "experiments"
    assert_same_run(experiments / "whole", experiments / "killed", 16)
    assert [row["sets"] for row in whole["rows"]] == [row["sets"] for row in killed["rows"]]


def test_a_finished_model_is_on_disk_while_the_next_one_trains(make_options, tmp_path, monkeypatch):
    kill_before(monkeypatch, 14)
    with pytest.raises(Killed):
        run(make_options(**two_targets()), tmp_path)
    models = tmp_path / "experiments" / "tiny" / "models"
    assert load_model(models / "pruned_macs0.6.safetensors")
    assert not (models / "pruned_macs0.3.safetensors").exists()


def test_every_target_is_tried_before_the_training(make_options, tmp_path):
    changes = two_targets(target=[{"macs": 0.5}, {"macs": 0.01}], tolerance=0.001)
    with pytest.raises(BudgetError, match=r"0\.01 of macs"):
        run(make_options(**changes), tmp_path)
    assert not (tmp_path / "experiments").exists()


def test_a_run_for_a_latency(make_options, tmp_path):
    """Times of a tiny network scatter, so nearly any is accepted; all files are written."""
    compress = {
        "target": {"latency": 0.7},
        "tolerance": 0.95,
        "latency_size": [16, 16],
        "method": "magnitude",
    }
    folder = tmp_path / "experiments" / "tiny"
    options = make_options(compress=compress, network={**NETWORK, "num_feat": 16})
    metrics = run(options, tmp_path)
    assert metrics["target"] == {"latency": 0.7}
    assert abs(metrics["achieved"]["measured_latency_ratio"] - 0.7) <= 0.95 * 0.7
    assert metrics["achieved"]["latency_ratio"] > 0
    log = (folder / "train.log").read_text()
    assert re.search(r" search .* latency \(predicted\) \d+\.\d%", log)
    assert re.search(r"cut to .*% of the measured latency", log)
    table = (folder / "latency_table.json").read_text()
    assert json.loads(table)["conditions"]["threads"] == 1
    run(options, tmp_path, auto_resume=True)
    assert (folder / "latency_table.json").read_text() == table
