"""A run whose search removes a residual block."""

import json

import pytest
import torch
from runs import run
from tiny_runs import tiny_options

from dhp_sr.cli.plan import plan_run
from dhp_sr.config import dump_options
from dhp_sr.deploy import load_model, read_manifest
from dhp_sr.operators.constant_map import ConstantMap
from dhp_sr.reports.plan import plan_text
from dhp_sr.search.obs.search import OBSSearch


def test_a_target_that_only_removal_reaches_is_planned_and_met(image_folder, tmp_path):
    compress = {
        "method": "obs",
        "target": {"macs": 0.5},
        "tolerance": 0.05,
        "min_width": 12,
        "round_to": 4,
        "remove_blocks": True,
    }
    options = tiny_options(
        image_folder,
        tmp_path,
        network={"type": "EDSR", "num_feat": 16, "num_block": 3, "upscale": 2},
        compress=compress,
    )
    file = tmp_path / "options.yml"
    file.write_text(dump_options(options))
    plan = plan_run(file, root=tmp_path)
    assert plan["lower_bound"]["macs"]["kept"] < 0.5
    assert plan["targets"][0]["met"], plan["targets"]
    assert "branches that can be removed" in plan_text(plan)
    metrics = run(options, tmp_path)
    assert abs(metrics["achieved"]["macs_ratio"] - 0.5) <= 0.05
    without = dump_options(options).replace("remove_blocks: true", "remove_blocks: false")
    file.write_text(without)
    assert not plan_run(file, root=tmp_path)["targets"][0]["met"]


@pytest.mark.parametrize("correction", [None, {}])
def test_a_removed_block_is_gone_from_all_files(image_folder, tmp_path, monkeypatch, correction):
    widths = {"conv_first": 12, "body.0.conv1": 0, "body.1.conv1": 12, "upsample.0": 12}
    found = []

    def search_widths(self, budget, evaluation):
        groups = self.hyper.plan.prunable
        found.extend(group.name for group in groups)
        assert budget.remove_blocks
        return [widths.get(group.name, group.width) for group in groups]

    monkeypatch.setattr(OBSSearch, "_search_widths", search_widths)
    options = tiny_options(
        image_folder,
        tmp_path,
        network={"type": "EDSR", "num_feat": 12, "num_block": 2, "upscale": 2},
        compress={
            "method": "obs",
            "target": {"macs": 0.8},
            "tolerance": 0.05,
            "min_width": 4,
            "remove_blocks": True,
            "correction": correction,
        },
    )
    metrics = run(options, tmp_path, pages=True)
    assert "body.0.conv1" in found
    folder = tmp_path / "experiments" / "tiny"
    small = load_model(folder / "models" / "pruned.safetensors")
    assert isinstance(small.body[0].conv1, ConstantMap)
    assert isinstance(small.body[1].conv1, torch.nn.Conv2d)
    removed = read_manifest(folder / "models" / "pruned.safetensors")["removed"]
    assert list(removed) == ["body.0.conv1", "body.0.conv2"]
    dense, pruned = metrics["rows"][1:3]
    assert pruned["macs"] < dense["macs"]
    assert pruned["params"] == sum(parameter.numel() for parameter in small.parameters())
    cut = json.loads((folder / "widths.json").read_text())
    after = {group["name"]: group["after"] for group in cut["groups"]}
    assert after["body.0.conv1"] == 0
    layers = {layer["name"]: layer["after"] for layer in cut["layers"]}
    assert layers["body.0.conv1"] == layers["body.0.conv2"] == [0, 0]
    text = (folder / "widths.txt").read_text()
    assert text.count("removed") == 3
    # Trained on after the cut: the constant is a parameter of the finetuned network.
    assert bool(small.body[0].conv2.bias.any())
