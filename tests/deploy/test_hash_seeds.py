"""Files whose network states sizes, in processes in which Python orders sets otherwise.

einops multiplies the factors of an axis in the order of a set of their names, so the graph of a
forward has other nodes from process to process.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import dhp_sr

_PROGRAM = """
import json
import sys

import einops
import torch
from torch import nn

from dhp_sr.deploy import ModelInfo, load_model, register, save_model
from dhp_sr.graph.capture import trace
from dhp_sr.hyper import convert


class Patches(nn.Module):
    # Layers on patches of features, by einops, between layers whose widths the forward states.

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 12, 3, padding=1)
        self.mixed = nn.Conv2d(48, 24, 1)
        self.last = nn.Conv2d(6, 2, 3, padding=1)

    def forward(self, x):
        batch, _, height, width = x.shape
        y = self.first(x).flatten(2).view(batch, 8, height, width)
        y = torch.relu(self.second(torch.relu(y)))
        sizes = {"p": 2, "q": 2, "h": height // 2, "w": width // 2}
        y = einops.rearrange(y, "n c (h p) (w q) -> n (h w p) (c q)", **sizes)
        y = einops.rearrange(y, "n (h w p) (c q) -> n (c p q) h w", **sizes)
        first, second = torch.split(torch.relu(self.mixed(y)), [8, 16], 1)
        y = torch.cat((second, first), 1)
        y = einops.rearrange(y, "n (c p q) h w -> n c (h p) (w q)", c=6, **sizes)
        return self.last(y.flatten(2).view(batch, 6, height, width))


register("tests:patches", Patches)
action, path, result = sys.argv[1:]
torch.manual_seed(0)
x = torch.rand(1, 2, 8, 8)
if action == "save":
    hyper = convert(Patches().eval(), x, exclude=("first",)).eval()
    hyper.set_masks(
        {group.name: torch.arange(group.width) % 3 > 0 for group in hyper.plan.prunable}
    )
    small = hyper.cut()
    info = ModelInfo("tests:patches", {}, task="denoise", in_channels=2)
    save_model(small, path, info=info)
small = load_model(path)
torch.save(small(x), result)
nodes = [node.name for node in trace(Patches().eval(), x).graph_module.graph.nodes]
print(json.dumps({"nodes": nodes, "sizes": small.sizes}))
"""


def run(seed, *arguments):
    """Run the program in a fresh process with a hash seed; return what it says."""
    environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=Path(dhp_sr.__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_file_that_states_sizes_is_loaded_under_other_hash_seeds(tmp_path):
    pytest.importorskip("einops")
    file = tmp_path / "patches.safetensors"
    saved = run(0, "save", file, tmp_path / "0.pt")
    expected = torch.load(tmp_path / "0.pt", weights_only=True)
    assert saved["sizes"], "the network states no sizes"
    graphs = {tuple(saved["nodes"])}
    for seed in (1, 2):
        loaded = run(seed, "load", file, tmp_path / f"{seed}.pt")
        graphs.add(tuple(loaded["nodes"]))
        assert list(loaded["sizes"].values()) == list(saved["sizes"].values())
        assert torch.equal(torch.load(tmp_path / f"{seed}.pt", weights_only=True), expected)
    assert len(graphs) > 1, "the seeds give the same graph: take others"
