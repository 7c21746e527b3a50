"""A clock for tests of latency, on which layers take times that follow from their multiply-adds."""

import pytest
import torch
from torch import nn

from dhp_sr.archs import build


@pytest.fixture
def clock(monkeypatch):
    """Let a layer take as many microseconds as it has multiply-adds, and a ReLU one per element."""
    state = {"now": 0.0, "passes": 0}

    def spend(module, inputs, output):
        if isinstance(module, nn.Conv2d | nn.Linear):
            state["now"] += output.numel() * module.weight[0].numel() * 1e-6
            state["passes"] += 1
        elif isinstance(module, nn.ReLU):
            state["now"] += output.numel() * 1e-6

    handle = nn.modules.module.register_module_forward_hook(spend)
    for name in ("time.perf_counter", "time.thread_time"):
        monkeypatch.setattr(name, lambda: state["now"])
    yield state
    handle.remove()


def dncnn(num_feat: int = 32) -> nn.Module:
    """Return a network whose layers are convolutions and ReLUs alone."""
    torch.manual_seed(0)
    return build("DnCNN", num_feat=num_feat, num_layers=4, batch_norm=False)
